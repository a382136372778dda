"""Adapter for a pure function `apply(params, x)` with its params."""

from __future__ import annotations

from collections.abc import Hashable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dlfb_lab.errors import ModelError
from dlfb_lab.models.fingerprint import fingerprint
from dlfb_lab.models.model import Model, PyTree, hashable, structure


class FunctionState(NamedTuple):
    """What is left of training a pure function.

    Attributes:
        params: the trained parameters.
        opt_state: the optimizer's state.
        step: updates applied.
    """

    params: PyTree
    opt_state: PyTree
    step: int


class FunctionModel:
    """A pure function of parameters and inputs."""

    kind = "function"
    given = True
    optimizer = None

    def __init__(self, function: Any, params: PyTree) -> None:
        self.function = function
        self.params = params
        self.name = getattr(function, "__name__", type(function).__name__)
        self.apply = partial(function_apply, function)

    @property
    def key(self) -> Hashable:
        """The function."""
        return (self.kind, hashable(self.function), fingerprint(self.function), structure(self.params))

    def start(self, rng: jax.Array, x: PyTree) -> tuple[PyTree, PyTree, None]:
        """See `Model.start`. Copies, because training reuses the memory of what it is given."""
        return jax.tree.map(lambda a: jnp.array(a, copy=True), self.params), {}, None

    def finish(self, params: PyTree, extra: PyTree, opt_state: PyTree, step: int) -> FunctionState:
        """See `Model.finish`."""
        return FunctionState(params, opt_state, step)


def function_apply(
    function: Any, params: PyTree, extra: PyTree, x: PyTree, rng: jax.Array, train: bool
) -> tuple[Any, PyTree]:
    """Calls the function; it knows neither keys nor whether this is training."""
    return function(params, x), extra


def adapt(model: Any) -> Model | None:
    """Adapts `(apply, params)`, or returns None.

    Raises:
        ModelError: the parameters are missing or cannot be trained.
    """
    if callable(model) and not isinstance(model, type):
        name = getattr(model, "__name__", type(model).__name__)
        raise ModelError(
            f"`{name}` is a function without parameters. Give the function and its parameters: ({name}, params)."
        )
    if not (isinstance(model, tuple) and len(model) == 2 and callable(model[0])):
        return None
    function, params = model
    leaves = jax.tree.leaves(params)
    if not leaves:
        raise ModelError("The params of the function are empty; there is nothing to train.")
    for leaf in leaves:
        if not hasattr(leaf, "dtype") and not isinstance(leaf, float):
            raise ModelError(f"The params hold a {type(leaf).__name__} ({leaf!r}); arrays of floats can be trained.")
        if not jnp.issubdtype(jnp.asarray(leaf).dtype, jnp.inexact):
            raise ModelError(f"The params hold {jnp.asarray(leaf).dtype} values; only floats can be trained.")
    return FunctionModel(function, params)
