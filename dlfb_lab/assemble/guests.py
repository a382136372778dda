"""Models of other frameworks, made ready for the data at hand."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from dlfb_lab.assemble.labelled import Prepared
from dlfb_lab.assemble.request import TrainRequest
from dlfb_lab.engine import losses
from dlfb_lab.engine.names import two_arguments
from dlfb_lab.models.guest import GuestFactory
from dlfb_lab.models.model import Guest, Model

SAMPLED = 32
"""Rows that a model is called with to see the shape of its outputs."""


def output_shape(given: Model | GuestFactory, x: Any, seed: int) -> tuple[int, ...]:
    """Returns the shape of a model's outputs for inputs.

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


def make(factory: GuestFactory, r: TrainRequest, prepared: Prepared, batch: int) -> tuple[Guest, dict[str, Any]]:
    """Returns a guest that is ready to be trained, and what the journal says of its optimizer.

    Raises:
        ModelError, OptionError: see `GuestFactory.make`.
    """
    task = prepared.task
    assert task is not None
    x, y = jax.tree.map(lambda a: np.asarray(a)[:SAMPLED], prepared.train.sample(batch))
    shape = factory.outputs(x, int(r.seed)).shape
    loss: Any = r.loss
    if callable(loss):
        target_first, _ = two_arguments(loss, "loss") if not hasattr(loss, "forward") else (False, "")
        own = loss
        loss = (lambda outputs, targets: own(targets, outputs)) if target_first else own
        link = losses.choose(None, task, shape).link
    else:
        asked = loss or (factory.loss if factory.loss in losses.NAMES else None)
        chosen = losses.choose(asked, task, shape)
        link = chosen.link
        loss = chosen.name if loss is not None or factory.loss is None else None
    targets = y.reshape(losses.target_shape(task, link, shape, y.shape))
    said = factory.optimizer(r.optimizer, r.lr)
    guest = factory.make(loss=loss, optimizer=r.optimizer, lr=r.lr, seed=int(r.seed), sample=(x, targets), clip=r.clip)
    return guest, {"optimizer": said.name, "lr": said.lr}
