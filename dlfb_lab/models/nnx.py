"""Adapter for Flax nnx modules."""

from __future__ import annotations

import sys
from collections.abc import Hashable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from dlfb_lab.errors import ModelError
from dlfb_lab.models.fingerprint import fingerprint
from dlfb_lab.models.linen import train_flags
from dlfb_lab.models.model import Model, PyTree, hashable, structure


class NnxModel:
    """A Flax nnx module. Training works on copies; `finish` brings the user's own module up to date."""

    kind = "nnx"
    in_place = True
    given = True
    optimizer = None

    def __init__(self, module: Any) -> None:
        nnx = _nnx()
        self.module = module
        self.name = type(module).__name__
        graphs: dict[bool, Any] = {}
        for train in (True, False):
            # In a copy: the mode is an attribute of every layer, and the user's own stay as they are.
            copy = nnx.merge(*nnx.split(module))
            nnx.pop(copy, nnx.Intermediate)
            copy.train() if train else copy.eval()
            graphs[train], rngs, params, others = _divided(copy)
        self._check(params)
        self._values = nnx.to_pure_dict(params), nnx.to_pure_dict(others)
        self._forms = jax.tree.structure(params), jax.tree.structure(others)
        streams = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), rngs)
        self._graphs = graphs
        self.apply = partial(nnx_apply, graphs, (streams, *self._forms), train_flags(module.__call__))

    def _check(self, params: PyTree) -> None:
        leaves = jax.tree.leaves(params)
        if not leaves:
            raise ModelError(f"The model {self.name} has no nnx.Param; there is nothing to train.")
        wrong = [leaf.dtype for leaf in leaves if not jnp.issubdtype(leaf.dtype, jnp.inexact)]
        if wrong:
            raise ModelError(
                f"The model {self.name} has an nnx.Param of {wrong[0]} values; only floats can be trained. "
                "Make it an nnx.Variable."
            )

    @property
    def key(self) -> Hashable:
        """The graph in each mode: modules made in the same way have equal ones."""
        nnx = _nnx()
        code = tuple(
            fingerprint(type(node) if isinstance(node, nnx.Pytree) else node)
            for _, node in nnx.iter_graph(self.module)
            if isinstance(node, nnx.Pytree) or (callable(node) and not isinstance(node, nnx.Variable))
        )
        graphs = hashable(self._graphs[True]), hashable(self._graphs[False])
        return (self.kind, graphs, code, structure(self._values))

    def start(self, rng: jax.Array, x: PyTree) -> tuple[PyTree, PyTree, None]:
        """See `Model.start`. Copies, because training reuses the memory of what it is given."""
        params, extra = jax.tree.map(lambda a: jnp.array(a, copy=True), self._values)
        return params, extra, None

    def finish(self, params: PyTree, extra: PyTree, opt_state: PyTree, step: int) -> Any:
        """Returns the user's own module, with the trained values in it: as nnx does it, it is changed in place.

        Its mode, and its random streams, are as they were.
        """
        copies = jax.tree.map(lambda a: jnp.array(a, copy=True), (params, extra))
        _nnx().update(self.module, *map(_filled, self._forms, copies))
        return self.module


def nnx_apply(
    graphs: dict[bool, Any],
    forms: tuple[Any, Any, Any],
    flags: dict[str, bool],
    params: PyTree,
    extra: PyTree,
    x: PyTree,
    rng: jax.Array,
    train: bool,
) -> tuple[Any, PyTree]:
    """Calls a module put together from its graph and values; returns outputs, and the values other than parameters.

    Args:
        graphs: the graph in training and in evaluation.
        forms: random streams as a state of abstract arrays, and the structures of the other two states.
        flags: see `train_flags`.
        params: values of every nnx.Param, as nested dicts.
        extra: values of every other variable but random streams, which begin anew in each step.
        x: inputs.
        rng: key of this step.
        train: whether this is a training step.
    """
    nnx = _nnx()
    streams, of_params, of_extra = forms
    model = nnx.merge(graphs[train], _seeded(streams, rng), _filled(of_params, params), _filled(of_extra, extra))
    outputs = model(x, **{name: value is train for name, value in flags.items()})
    if not train:
        return outputs, extra
    # What a module sows while it is called is left out: the next step begins with the variables of the first.
    after = dict(jax.tree.leaves_with_path(nnx.to_pure_dict(_divided(model)[3])))
    return outputs, jax.tree.map_with_path(lambda path, before: after.get(path, before), extra)


def _nnx() -> Any:
    return sys.modules["flax.nnx"]


def _divided(module: Any) -> tuple[Any, PyTree, PyTree, PyTree]:
    """Returns the graph, and three states: random streams, parameters, and what is left."""
    nnx = _nnx()
    graph, rngs, params, others = nnx.split(module, nnx.RngState, nnx.Param, ...)
    return graph, rngs, params, others


def _filled(form: Any, values: PyTree) -> Any:
    """Returns a state of the given structure with values from nested dicts, which flatten in the same order."""
    return jax.tree.unflatten(form, jax.tree.leaves(values))


def _seeded(streams: PyTree, rng: jax.Array) -> PyTree:
    """Returns random streams that begin with keys of the step's own."""
    leaves, form = jax.tree.flatten(streams)
    return jax.tree.unflatten(form, [_key_or_count(leaf, jax.random.fold_in(rng, i)) for i, leaf in enumerate(leaves)])


def _key_or_count(like: jax.ShapeDtypeStruct, key: jax.Array) -> jax.Array:
    if not jnp.issubdtype(like.dtype, jax.dtypes.prng_key):
        return jnp.zeros(like.shape, like.dtype)
    return jax.random.split(key, like.shape) if like.shape else key


def adapt(model: Any) -> Model | None:
    """Adapts an nnx module, or returns None. Flax is looked at only when it has been imported.

    Raises:
        ModelError: the class or an optimizer was given in place of a module, or there is nothing to train in it.
    """
    nnx: Any = sys.modules.get("flax.nnx")
    if nnx is None:
        return None
    if isinstance(model, type) and issubclass(model, nnx.Module):
        raise ModelError(
            f"`{model.__name__}` is a class, not a model. Make one: {model.__name__}(…, rngs=nnx.Rngs(0))."
        )
    first, *others = model if isinstance(model, tuple) and model else (model,)
    if isinstance(first, nnx.Optimizer) or (isinstance(first, nnx.Module) and others):
        raise ModelError(
            "An nnx module is given alone: an nnx.Optimizer cannot be gone on with. Give the module, and the optax "
            "optimizer as --optimizer."
        )
    if not isinstance(model, nnx.Module):
        return None
    if not callable(model):
        raise ModelError(f"The model {type(model).__name__} has no __call__(self, x).")
    return NnxModel(model)
