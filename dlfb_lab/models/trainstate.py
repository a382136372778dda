"""Adapter for a Flax `TrainState` as the user made it."""

from __future__ import annotations

import dataclasses
import inspect
import sys
from collections.abc import Hashable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from dlfb_lab.errors import ModelError
from dlfb_lab.models.fingerprint import fingerprint
from dlfb_lab.models.linen import linen_apply, train_flags
from dlfb_lab.models.model import Model, PyTree, hashable, structure

NEEDED = ("batch_stats",)
"""Collections that a module cannot train without changing."""


class TrainStateModel:
    """A TrainState: its parameters, optimizer and optimizer state are gone on with, and left as they were."""

    kind = "train state"
    given = True

    def __init__(self, state: Any) -> None:
        self.state = state
        self.optimizer = state.tx
        call, module = unwrapped(state.apply_fn)
        self.name = type(module).__name__ if module is not None else getattr(call, "__name__", "TrainState")
        bound = call.keywords if isinstance(call, partial) else {}
        names, takes_any = _arguments(call)
        if module is None:
            flags = train_flags(call)
        else:
            _check_params(state.params, self.name)
            method = bound.get("method") or "__call__"
            flags = train_flags(getattr(module, method) if isinstance(method, str) else method)
        flags = {name: value for name, value in flags.items() if name not in bound}
        passes_on = module is not None and takes_any
        self._collections = _collections(state)
        if not passes_on and "mutable" not in names:
            self._collections = [name for name in self._collections if name in NEEDED]
        needed = [*flags, *(["mutable"] if self._collections else [])]
        missing = [] if passes_on else [name for name in needed if name not in names]
        if missing:
            raise ModelError(
                f"The TrainState's apply_fn `{self.name}` takes no argument `{missing[0]}`, without which "
                f"{'batch statistics cannot be updated' if missing[0] == 'mutable' else 'it would not train'}. "
                "Give the module's own: apply_fn=model.apply."
            )
        if not passes_on:
            call = partial(_called_plainly, call, "rngs" in names)
        self.apply = partial(linen_apply, call, flags)

    @property
    def key(self) -> Hashable:
        """The apply function; of a module's bound `apply`, the module, since equal modules compute the same.

        Python itself takes methods of two equal objects for different ones.
        """
        apply_fn = self.state.apply_fn
        is_method = inspect.ismethod(apply_fn)
        function = (hashable(apply_fn.__self__), apply_fn.__func__) if is_method else hashable(apply_fn)
        return (self.kind, function, fingerprint(apply_fn), structure(self._given()))

    def start(self, rng: jax.Array, x: PyTree) -> tuple[PyTree, PyTree, PyTree]:
        """See `Model.start`. Copies, because training reuses the memory of what it is given."""
        params, extra, opt_state = jax.tree.map(lambda a: jnp.array(a, copy=True), self._given())
        return params, extra, opt_state

    def _given(self) -> tuple[PyTree, PyTree, PyTree]:
        extra = {name: getattr(self.state, name) for name in self._collections}
        return self.state.params, extra, self.state.opt_state

    def finish(self, params: PyTree, extra: PyTree, opt_state: PyTree, step: int) -> Any:
        """Returns the user's own state with the trained values in it."""
        return self.state.replace(step=self.state.step + step, params=params, opt_state=opt_state, **extra)


def _collections(state: Any) -> list[str]:
    """Returns those fields of a TrainState subclass that are linen collections: mappings of arrays.

    One that is built as the parameters are is not: it is their moving average, or their mask.
    """
    own = {field.name for field in dataclasses.fields(state)} - {"step", "apply_fn", "params", "tx", "opt_state"}
    fields = {name: getattr(state, name) for name in sorted(own)}
    form: Any = jax.tree.structure(state.params)
    return [
        name
        for name, value in fields.items()
        if isinstance(value, Mapping)
        and jax.tree.leaves(value)
        and all(hasattr(leaf, "dtype") for leaf in jax.tree.leaves(value))
        and (name in NEEDED or jax.tree.structure(value) != form)
    ]


def unwrapped(apply_fn: Any) -> tuple[Any, Any]:
    """Returns what to call for an apply function, and the linen module whose `apply` it is or wraps, or None.

    `jax.jit` is taken off: it would trace the flags, and what calls it is compiled anyway. A partial keeps its
    arguments, except for `mutable`, which differs between training and evaluation.
    """
    if isinstance(apply_fn, partial):
        call, module = unwrapped(apply_fn.func)
        bound = {name: value for name, value in apply_fn.keywords.items() if name != "mutable" or module is None}
        return partial(call, *apply_fn.args, **bound), module
    if inspect.ismethod(apply_fn):
        linen: Any = sys.modules.get("flax.linen")
        return apply_fn, apply_fn.__self__ if linen and isinstance(apply_fn.__self__, linen.Module) else None
    inner = getattr(apply_fn, "__wrapped__", None)
    if inner is None:
        return apply_fn, None
    call, module = unwrapped(inner)
    return (call if isinstance(apply_fn, jax.stages.Wrapped) else apply_fn), module


def _arguments(function: Any) -> tuple[set[str], bool]:
    """Returns the names of a function's own arguments, and whether it takes any other by name."""
    try:
        arguments = inspect.signature(function, follow_wrapped=False).parameters
    except (TypeError, ValueError):
        return set(), False
    return set(arguments), any(a.kind is a.VAR_KEYWORD for a in arguments.values())


def _check_params(params: PyTree, name: str) -> None:
    if isinstance(params, Mapping) and "params" in params:
        raise ModelError(
            f"The params of the TrainState of {name} are all its variables ({', '.join(params)}). "
            'Give params=variables["params"].'
        )


def _called_plainly(
    function: Any, takes_rngs: bool, variables: dict[str, PyTree], x: PyTree, rngs: Any = None, **arguments: Any
) -> Any:
    """Calls an `apply_fn` that is the user's own function of variables and inputs."""
    if takes_rngs and rngs is not None:
        arguments["rngs"] = rngs
    try:
        return function(variables, x, **arguments)
    except (KeyError, TypeError) as error:
        params = variables["params"]
        if isinstance(params, Mapping) and not (isinstance(error, KeyError) and error.args[0] in params):
            raise
        name = getattr(function, "__name__", "apply")
        raise ModelError(
            f"The TrainState's apply_fn `{name}` failed with {type(error).__name__}: {str(error)[:80]}. As in Flax, it "
            f'is called with {{"params": params}} and x. Give a function of params and x as ({name}, params).'
        ) from error


def adapt(model: Any) -> Model | None:
    """Adapts a TrainState or an object of a subclass, or returns None."""
    module = sys.modules.get("flax.training.train_state")
    if module is None or not isinstance(model, module.TrainState):
        return None
    return TrainStateModel(model)
