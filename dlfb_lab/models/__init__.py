"""What can be trained."""

from __future__ import annotations

import sys
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
    nnx: Any = sys.modules.get("flax.nnx")
    if nnx is not None and isinstance(model, nnx.Module):
        raise ModelError(
            f"`{type(model).__name__}` is a Flax NNX module; linen modules, TrainStates and functions can be trained. "
            "Make a function of it: model.eval(); graphdef, params, rest = nnx.split(model, nnx.Param, ...); then give "
            "(lambda params, x: nnx.merge(graphdef, params, rest)(x), params). It trains without dropout."
        )
    for adapter in ADAPTERS:
        adapted = adapter(model)
        if adapted is not None:
            return adapted
    raise ModelError(
        f"{str(model)[:60]!r}, of type {type(model).__name__}, is not a model that can be trained. "
        "Give a Flax linen module, a TrainState, or (apply, params) for a function apply(params, x)."
    )
