"""Adapter for Equinox modules."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Hashable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from dlfb_lab.errors import ModelError, one_line
from dlfb_lab.models.fingerprint import fingerprint
from dlfb_lab.models.linen import train_flags
from dlfb_lab.models.model import Model, PyTree, hashable, structure

FLAGS = {"inference": False, "enable_dropout": True}
"""More argument names that say whether this is training, and the value that means it is."""


class EquinoxModel:
    """An Equinox module, which is called with one example at a time, or with its state beside it.

    A module that does not take one example is given the whole batch.
    """

    kind = "equinox"
    given = True
    optimizer = None

    def __init__(self, module: Any, state: Any = None) -> None:
        eqx = _equinox()
        self.name = type(module).__name__
        self._params, rest = eqx.partition(module, eqx.is_inexact_array)
        self._static = eqx.partition(rest, eqx.is_array)[1]
        if not jax.tree.leaves(self._params):
            raise ModelError(f"The model {self.name} holds no arrays of floats; there is nothing to train.")
        extra = {"constants": eqx.filter(rest, eqx.is_array), "state": state}
        self._extra = {name: values for name, values in extra.items() if jax.tree.leaves(values)}
        self._shaped = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype) if eqx.is_array(a) else a, module)
        self._call = _Call(module, state is not None)
        self.apply = partial(equinox_apply, self._call)

    @property
    def key(self) -> Hashable:
        """The module with abstract arrays in the place of its arrays."""
        form = hashable(jax.tree.structure(self._shaped))
        return (self.kind, form, fingerprint(self._shaped), structure((self._params, self._extra)))

    def notices_on(self, x: PyTree) -> tuple[str, ...]:
        """Returns what the user should know about how the module is called.

        Args:
            x: inputs of a few rows, shape [rows, ...].
        """
        params, extra = jax.eval_shape(lambda: (self._params, self._extra))
        # Two numbers of rows: with one alone, the rows of a batch could be taken for the features of an example.
        several = [jax.tree.map(lambda a, n=n: jax.ShapeDtypeStruct((n, *a.shape[1:]), a.dtype), x) for n in (7, 11)]
        tries = {
            mapped: all(self._call.failure(mapped, params, extra, rows) is None for rows in several)
            for mapped in (True, False)
        }
        if all(tries.values()):
            return (f"{self.name} takes one example as well as a batch. It is called with one at a time (jax.vmap).",)
        return () if tries[True] else (f"{self.name} does not take one example, and is called with whole batches.",)

    def start(self, rng: jax.Array, x: PyTree) -> tuple[PyTree, PyTree, None]:
        """See `Model.start`. Copies, because training reuses the memory of what it is given."""
        params, extra = jax.tree.map(lambda a: jnp.array(a, copy=True), (self._params, self._extra))
        return params, extra, None

    def finish(self, params: PyTree, extra: PyTree, opt_state: PyTree, step: int) -> Any:
        """Returns a trained module, in the mode of the user's own; beside it the state, where there is one."""
        module = _combined(params, extra, self._static)
        return (module, extra["state"]) if "state" in extra else module


class _Call:
    """How a module is called. Holds no arrays.

    Attributes:
        static: what of the module is no array, in training and in evaluation.
        stateful: whether the module takes a state and returns it.
    """

    def __init__(self, module: Any, stateful: bool) -> None:
        eqx = _equinox()
        self.static = {
            train: eqx.filter(eqx.nn.inference_mode(module, value=not train), eqx.is_array, inverse=True)
            for train in (True, False)
        }
        self.stateful = stateful
        try:
            self._arguments = dict(inspect.signature(module.__call__).parameters)
        except (TypeError, ValueError):
            self._arguments = {}
        self._flags = train_flags(module.__call__) | {n: v for n, v in FLAGS.items() if n in self._arguments}
        norms = jax.tree.leaves(module, is_leaf=lambda node: isinstance(node, eqx.nn.BatchNorm))
        names = [node.axis_name for node in norms if isinstance(node, eqx.nn.BatchNorm)]
        self._axis = names[0] if names and isinstance(names[0], Hashable) else "batch"
        self._mapped: dict[Hashable, bool] = {}

    def __call__(
        self, mapped: bool, train: bool, params: PyTree, extra: PyTree, x: PyTree, rng: jax.Array
    ) -> tuple[Any, PyTree]:
        """Returns the outputs for a batch, and the extra collections afterwards."""
        module = _combined(params, extra, self.static[train])
        one = partial(self._one, module, train)
        if mapped:
            rng = jax.random.split(rng, len(jax.tree.leaves(x)[0]))
            one = jax.vmap(one, in_axes=(0, None, 0), out_axes=(0, None), axis_name=self._axis)
        outputs, state = one(x, extra.get("state"), rng)
        return outputs, ({**extra, "state": state} if train and self.stateful else extra)

    def _one(self, module: Any, train: bool, x: PyTree, state: Any, key: jax.Array) -> tuple[Any, Any]:
        arguments: dict[str, Any] = {name: value is train for name, value in self._flags.items()}
        if "key" in self._arguments and (train or self._arguments["key"].default is inspect.Parameter.empty):
            arguments["key"] = key
        if not self.stateful:
            return module(x, **arguments), None
        outputs, state = module(x, state, **arguments)
        return outputs, state

    def failure(self, mapped: bool, params: PyTree, extra: PyTree, x: PyTree) -> Exception | None:
        """Returns what the module raises on a batch of these shapes, one row at a time or whole; None for nothing."""
        rows = jax.tree.leaves(x)[0].shape[0]
        try:
            outputs, _ = jax.eval_shape(partial(self, mapped, True), params, extra, x, jax.random.key(0))
        except Exception as error:
            return error
        wrong = [leaf.shape for leaf in jax.tree.leaves(outputs) if leaf.shape[:1] != (rows,)]
        return ValueError(f"the outputs have shape {wrong[0]} for {rows} rows") if wrong else None

    def maps(self, params: PyTree, extra: PyTree, x: PyTree) -> bool:
        """Returns whether the module is called with one row at a time: where it can be; else it takes whole batches.

        Raises:
            ModelError: it takes neither.
        """
        form = structure(x)
        if form not in self._mapped:
            failure = self.failure(True, params, extra, x)
            if failure is not None and self.failure(False, params, extra, x) is not None:
                shape = jax.tree.leaves(x)[0].shape
                raise ModelError(
                    f"The model failed on one example of shape {shape[1:]}, and on a batch of shape {shape}: "
                    f"{one_line(failure)}"
                ) from failure
            self._mapped[form] = failure is None
        return self._mapped[form]


def equinox_apply(
    call: _Call, params: PyTree, extra: PyTree, x: PyTree, rng: jax.Array, train: bool
) -> tuple[Any, PyTree]:
    """Calls an Equinox module on a batch; see `Apply`."""
    return call(call.maps(params, extra, x), train, params, extra, x, rng)


def _combined(params: PyTree, extra: PyTree, static: PyTree) -> Any:
    constants = [extra["constants"]] if "constants" in extra else []
    return _equinox().combine(params, *constants, static)


def _equinox() -> Any:
    return sys.modules["equinox"]


def adapt(model: Any) -> Model | None:
    """Adapts an Equinox module, or `(module, state)`; or returns None. Looked at only when Equinox was imported.

    Raises:
        ModelError: the class was given in place of a module, its state is missing, or there is nothing to train in it.
    """
    eqx: Any = sys.modules.get("equinox")
    if eqx is None:
        return None
    if isinstance(model, type) and issubclass(model, eqx.Module):
        raise ModelError(f"`{model.__name__}` is a class, not a model. Make one: {model.__name__}(…).")
    if isinstance(model, tuple) and len(model) == 2 and isinstance(model[1], eqx.nn.State):
        module, state = model
    else:
        module, state = model, None
    if not isinstance(module, eqx.Module):
        return None
    name = type(module).__name__
    if not callable(module):
        raise ModelError(f"The model {name} has no __call__(self, x).")
    indices = jax.tree.leaves(module, is_leaf=lambda node: isinstance(node, eqx.nn.StateIndex))
    if state is None and any(isinstance(node, eqx.nn.StateIndex) for node in indices):
        raise ModelError(
            f"The model {name} has layers that keep a state. Give (model, state), as "
            f"eqx.nn.make_with_state({name})(…) makes them."
        )
    return EquinoxModel(module, state)
