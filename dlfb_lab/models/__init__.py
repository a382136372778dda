"""What can be trained."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dlfb_lab.errors import ModelError
from dlfb_lab.models import equinox, function, keras, keras_guest, linen, nnx, torch, trainstate
from dlfb_lab.models.guest import GuestFactory
from dlfb_lab.models.model import Model, Stepper

Trainable = Model | Stepper | GuestFactory

ADAPTERS: tuple[Callable[[Any], Trainable | None], ...] = (
    trainstate.adapt,
    linen.adapt,
    keras.adapt,
    keras_guest.adapt,
    torch.adapt,
    nnx.adapt,
    equinox.adapt,
    function.adapt,
)
"""Asked in this order. The last takes anything that can be called, as the models of most frameworks can."""


def adapt(model: Any) -> Trainable:
    """Adapts the user's model with the first adapter that knows its kind.

    Raises:
        ModelError: no adapter knows it.
    """
    for adapter in ADAPTERS:
        adapted = adapter(model)
        if adapted is not None:
            return adapted
    raise ModelError(
        f"{str(model)[:60]!r}, of type {type(model).__name__}, is not a model that can be trained. Give a module of "
        "Flax (linen or nnx), Equinox or PyTorch, a Keras model, a TrainState, or (apply, params) for a function "
        "apply(params, x)."
    )
