"""Models of other frameworks, made ready for the data at hand."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from dlfb_lab.assemble.labelled import Prepared
from dlfb_lab.assemble.request import TrainRequest
from dlfb_lab.engine import guest_losses, losses
from dlfb_lab.engine.losses import Loss
from dlfb_lab.errors import OptionError
from dlfb_lab.models.guest import GuestFactory
from dlfb_lab.models.model import Guest

SAMPLED = 32
"""Rows that a model is called with to see the shape of its outputs."""


def output_shape(given: Any, x: Any, seed: int) -> tuple[int, ...]:
    """Returns the shape of a model's outputs for inputs.

    Args:
        given: a `Model` or a `GuestFactory`.
        x: inputs, shape [rows, ...].
        seed: of parameters that are found at the first call.

    Raises:
        ModelError: the model fails on them.
    """
    if hasattr(given, "make"):
        return tuple(given.outputs(x, seed).shape)

    def outputs(x: Any) -> Any:
        key = jax.random.key(0)
        params, extra, _ = given.start(key, jax.tree.map(lambda a: a[:1], x))
        return given.apply(params, extra, x, key, False)[0]

    return tuple(jax.eval_shape(outputs, x).shape)


def make(
    factory: GuestFactory, r: TrainRequest, prepared: Prepared, batch: int
) -> tuple[Guest, Loss, dict[str, Any], str]:
    """Returns a guest that is ready to be trained, its loss, what the journal says of its optimizer, and a notice.

    Raises:
        ModelError, OptionError: see `GuestFactory.make`.
    """
    task = prepared.task
    assert task is not None
    if factory.loss is not None and r.loss is not None:
        raise OptionError(f"--loss: the model was compiled with the loss `{factory.loss}`. Leave --loss out.")
    chosen = factory.optimizer(r.optimizer, r.lr)
    x, y = jax.tree.map(lambda a: np.asarray(a)[:SAMPLED], prepared.train.sample(batch))
    shape = factory.outputs(x, int(r.seed)).shape
    if factory.loss is not None:
        loss = guest_losses.brought(factory.loss, factory.link, task, shape)
    else:
        loss = guest_losses.choose(r.loss, task, shape)
    guest = factory.make(
        loss=None if factory.loss is not None else guest_losses.given(loss),
        optimizer=r.optimizer,
        lr=r.lr,
        seed=int(r.seed),
        sample=(x, y.reshape(losses.target_shape(task, loss.link, shape, y.shape))),
        clip=r.clip,
    )
    return guest, loss, {"optimizer": chosen.name, "lr": chosen.lr}, chosen.notice


def regression_only(r: TrainRequest, given: Any) -> bool:
    """Whether the loss, the user's or one that the model brings along, is one that only regression takes."""
    return guest_losses.regression_only(r.loss) or getattr(given, "link", None) == "identity"
