"""Adapter for a Flax `TrainState` as the user made it."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Hashable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from dlfb_lab.models.linen import linen_apply, train_flags
from dlfb_lab.models.model import Model, PyTree, hashable, structure

COLLECTIONS = ("batch_stats",)
"""Fields of a TrainState subclass that are linen collections."""


class TrainStateModel:
    """A TrainState: its parameters, optimizer and optimizer state are gone on with, and left as they were."""

    kind = "train state"

    def __init__(self, state: Any) -> None:
        self.state = state
        module = getattr(state.apply_fn, "__self__", None)
        self.name = type(module).__name__ if module is not None else getattr(state.apply_fn, "__name__", "TrainState")
        flags = train_flags(module.__call__ if callable(module) else state.apply_fn)
        self.optimizer = state.tx
        self.apply = partial(linen_apply if module is not None else plain_apply, state.apply_fn, flags)

    @property
    def key(self) -> Hashable:
        """The apply function; of a module's bound `apply`, the module, since equal modules compute the same.

        Python itself takes methods of two equal objects for different ones.
        """
        apply_fn = self.state.apply_fn
        is_method = inspect.ismethod(apply_fn)
        function = (hashable(apply_fn.__self__), apply_fn.__func__) if is_method else hashable(apply_fn)
        return (self.kind, function, structure(self._given()))

    def start(self, rng: jax.Array, x: PyTree) -> tuple[PyTree, PyTree, PyTree]:
        """See `Model.start`. Copies, because training reuses the memory of what it is given."""
        params, extra, opt_state = jax.tree.map(lambda a: jnp.array(a, copy=True), self._given())
        return params, extra, opt_state

    def _given(self) -> tuple[PyTree, PyTree, PyTree]:
        extra = {name: getattr(self.state, name) for name in COLLECTIONS if getattr(self.state, name, None) is not None}
        return self.state.params, extra, self.state.opt_state

    def finish(self, params: PyTree, extra: PyTree, opt_state: PyTree, step: int) -> Any:
        """Returns the user's own state with the trained values in it."""
        return self.state.replace(step=self.state.step + step, params=params, opt_state=opt_state, **extra)


def plain_apply(
    apply_fn: Any,
    flags: dict[str, bool],
    params: PyTree,
    extra: PyTree,
    x: PyTree,
    rng: jax.Array,
    train: bool,
) -> tuple[Any, PyTree]:
    """Calls an `apply_fn` that is the user's own function of variables and inputs."""
    arguments = {name: value is train for name, value in flags.items()}
    return apply_fn({"params": params, **extra}, x, **arguments), extra


def adapt(model: Any) -> Model | None:
    """Adapts a TrainState or an object of a subclass, or returns None."""
    module = sys.modules.get("flax.training.train_state")
    if module is None or not isinstance(model, module.TrainState):
        return None
    return TrainStateModel(model)
