"""The loss of a guest: one of ours by name, or a function of the user's own over the other framework's tensors."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from dlfb_lab.engine import losses
from dlfb_lab.engine.losses import Link, Loss
from dlfb_lab.engine.names import name_of, two_arguments
from dlfb_lab.engine.task import Task
from dlfb_lab.errors import OptionError
from dlfb_lab.models.guest import OwnLoss
from dlfb_lab.models.model import hashable

REGRESSION = {"MSELoss", "L1Loss", "HuberLoss", "SmoothL1Loss", "MeanSquaredError", "MeanAbsoluteError", "Huber"}
"""Losses of PyTorch and Keras, by their classes, that only regression takes."""


def regression_only(loss: Any) -> bool:
    """Whether a loss, by name or as another framework's object, is one that only regression takes."""
    return losses.regression_only(loss) or type(loss).__name__ in REGRESSION


def choose(loss: str | Callable[..., Any] | None, task: Task, output_shape: tuple[int, ...]) -> Loss:
    """Finds the loss for a guest and its task.

    Args:
        loss: a name, a function or an object of the other framework's, or None for the task's usual loss.
        task: what is predicted.
        output_shape: shape of the model's outputs for a batch.

    Returns:
        The loss. One of the user's own takes (outputs, targets) as the other framework's tensors.

    Raises:
        OptionError: no loss goes by that name, it does not fit the task, or its arguments cannot be told apart.
    """
    if not callable(loss):
        return losses.choose(loss, task, output_shape)
    if isinstance(loss, type):
        raise OptionError(f"--loss: `{loss.__name__}` is a class, not a loss. Make one: {loss.__name__}().")
    link = losses.choose(None, task, output_shape).link
    return Loss(name_of(loss), _ordered(loss), link, per_row=False, key=hashable(loss))


def brought(name: str, link: Link | None, task: Task, output_shape: tuple[int, ...]) -> Loss:
    """Returns what stands for the loss that a guest brings along; only the guest can compute it, by its `scores`.

    Args:
        name: the loss's name.
        link: what turns outputs into predictions beside it; None for what is usual.
        task: what is predicted.
        output_shape: shape of the model's outputs for a batch.
    """
    usual = losses.choose(None, task, output_shape)
    return Loss(name, _by_the_guest, link or usual.link, per_row=False, key=("brought", name))


def given(loss: Loss) -> str | OwnLoss:
    """Returns a loss as `GuestFactory.make` takes it: its name, or the user's own function."""
    return loss.function if loss.own else loss.name


def _ordered(loss: Callable[..., Any]) -> OwnLoss:
    # A PyTorch loss is called through Module.__call__, whose arguments have no names; those of `forward` have.
    target_first, _ = two_arguments(getattr(loss, "forward", loss), "loss")
    return partial(_swapped, loss) if target_first else loss


def _swapped(loss: Callable[..., Any], outputs: Any, targets: Any) -> Any:
    return loss(targets, outputs)


def _by_the_guest(outputs: Any, targets: Any) -> Any:
    raise TypeError("The loss belongs to the guest: call its `scores`.")
