"""What can be trained."""

from __future__ import annotations

from typing import Any

from dlfb_lab.errors import ModelError
from dlfb_lab.models import function, linen, trainstate
from dlfb_lab.models.model import Model

ADAPTERS = (trainstate.adapt, linen.adapt, function.adapt)


def adapt(model: Any) -> Model:
    """Adapts the user's model with the first adapter that knows its kind.

    Raises:
        ModelError: no adapter knows it.
    """
    for adapter in ADAPTERS:
        adapted = adapter(model)
        if adapted is not None:
            return adapted
    raise ModelError(
        f"{str(model)[:60]!r}, of type {type(model).__name__}, is not a model that can be trained. "
        "Give a Flax linen module, a TrainState, or (apply, params) for a function apply(params, x)."
    )
