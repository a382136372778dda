"""Adapter for Flax linen modules."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Hashable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dlfb_lab.errors import ModelError
from dlfb_lab.models.fingerprint import fingerprint
from dlfb_lab.models.model import Model, PyTree, hashable

TRAIN_FLAGS = {
    "train": True,
    "training": True,
    "is_training": True,
    "deterministic": False,
    "use_running_average": False,
}
"""Argument names that say whether this is training, and the value that means it is."""


class LinenState(NamedTuple):
    """What is left of training a linen module.

    Attributes:
        params: the trained parameters.
        extra: other collections, such as "batch_stats"; empty where there are none.
        opt_state: the optimizer's state.
        step: updates applied.
    """

    params: PyTree
    extra: PyTree
    opt_state: PyTree
    step: int

    @property
    def variables(self) -> dict[str, PyTree]:
        """What `module.apply` takes."""
        return {"params": self.params, **self.extra}


class LinenModel:
    """A Flax linen module, initialised by us."""

    kind = "linen"
    given = False
    optimizer = None

    def __init__(self, module: Any) -> None:
        self.module = module
        self.name = str(module.name or type(module).__name__)
        self._flags = train_flags(module.__call__)
        self.apply = partial(linen_apply, module.apply, self._flags)

    @property
    def key(self) -> Hashable:
        """The module: linen modules of one class with equal fields are equal."""
        return (self.kind, hashable(self.module), fingerprint(self.module))

    def start(self, rng: jax.Array, x: PyTree) -> tuple[PyTree, PyTree, None]:
        """See `Model.start`."""
        flags = {name: not when_training for name, when_training in self._flags.items()}
        variables = dict(self.module.init(_streams(rng, rng), x, **flags))
        params = variables.pop("params", {})
        if not jax.tree.leaves(params):
            raise ModelError(f"The model {self.name} has no parameters; there is nothing to train.")
        return params, jax.tree.map(_array, variables), None

    def finish(self, params: PyTree, extra: PyTree, opt_state: PyTree, step: int) -> LinenState:
        """See `Model.finish`."""
        return LinenState(params, extra, opt_state, step)


def _array(value: Any) -> jax.Array:
    """Returns a number that a module keeps as an array of a type of its own, which it is after a step in any case."""
    return value if isinstance(value, jax.Array) else jnp.array(value)


def train_flags(function: Any) -> dict[str, bool]:
    """Returns those of `TRAIN_FLAGS` that a function takes as arguments."""
    try:
        names = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return {}
    return {name: value for name, value in TRAIN_FLAGS.items() if name in names}


def linen_apply(
    apply_fn: Any,
    flags: dict[str, bool],
    params: PyTree,
    extra: PyTree,
    x: PyTree,
    rng: jax.Array,
    train: bool,
) -> tuple[Any, PyTree]:
    """Calls a linen `apply` with its flags, keys and mutable collections; returns outputs and collections."""
    arguments: dict[str, Any] = {name: value is train for name, value in flags.items()}
    variables = {"params": params, **extra}
    if not train:
        return apply_fn(variables, x, **arguments), extra
    arguments["rngs"] = _streams(rng, jax.random.fold_in(rng, 1))
    if not extra:
        return apply_fn(variables, x, **arguments), extra
    outputs, changed = apply_fn(variables, x, mutable=list(extra), **arguments)
    return outputs, {**extra, **{name: _in_form_of(extra[name], new) for name, new in changed.items()}}


def _streams(dropout: jax.Array, others: jax.Array) -> dict[str, jax.Array]:
    """Returns the keys of a call. Flax draws a stream of any other name, such as "noise", from that of "params"."""
    return {"dropout": dropout, "params": others}


def _in_form_of(before: PyTree, after: PyTree) -> PyTree:
    """Returns a collection in the containers it came in: Flax gives dicts, whether or not it was frozen."""
    leaves, form = jax.tree.flatten(before)
    new = jax.tree.leaves(after)
    return jax.tree.unflatten(form, new) if len(new) == len(leaves) else after


def adapt(model: Any) -> Model | None:
    """Adapts a linen module, or returns None. Flax is looked at only when it has been imported.

    Raises:
        ModelError: the class was given in place of a module.
    """
    linen = sys.modules.get("flax.linen")
    if linen is None:
        return None
    if isinstance(model, type) and issubclass(model, linen.Module):
        raise ModelError(f"`{model.__name__}` is a class, not a model. Make one: {model.__name__}(…).")
    if isinstance(model, partial) or not isinstance(model, linen.Module):
        return None
    return LinenModel(model)
