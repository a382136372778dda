"""Rematerialisation: activations are computed anew for the gradient, instead of being kept.

`jax.checkpoint` around a whole model saves nothing, since all activations are there at once again when its gradient is
computed. So a model's program is cut in pieces, and only what crosses from one piece to the next is kept (Chen et al.
2016, "Training deep nets with sublinear memory cost").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

from dlfb_lab.engine.jaxprs import Function, inlined, inputs_of, piece_of, read
from dlfb_lab.models.model import Apply, Model, PyTree
from dlfb_lab.models.wrapped import WrappedModel

PIECES = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48)


def with_remat(model: Model) -> Model:
    """Returns the model with its forward pass computed a second time in training, a piece at a time."""
    return WrappedModel(model, "remat", Rematerialised(model.apply))


@dataclass(frozen=True)
class Rematerialised:
    """A model's function whose gradient keeps few activations.

    Attributes:
        apply: the model's own.
    """

    apply: Apply

    def __call__(self, params: PyTree, extra: PyTree, x: PyTree, rng: jax.Array, train: bool) -> tuple[Any, PyTree]:
        """See `Apply`."""
        if not train:
            return self.apply(params, extra, x, rng, train)
        arguments = params, extra, x, rng
        traced: Any = jax.make_jaxpr(partial(self.apply, train=train), return_shape=True)
        closed, shapes = traced(*arguments)
        leaves = jax.tree.leaves(arguments)
        closed = inlined(closed, leaves)
        if closed.effects:  # a jax.debug.print would be said twice, or not at all
            return self.apply(params, extra, x, rng, train)
        outputs = _run_in_pieces(closed, leaves, len(jax.tree.leaves(params)))
        result: tuple[Any, PyTree] = jax.tree.unflatten(jax.tree.structure(shapes), outputs)
        return result


def _run_in_pieces(closed: Any, arguments: Sequence[Any], params: int) -> list[Any]:
    eqns = closed.eqns
    known = inputs_of(closed, arguments)
    activations = set(closed.jaxpr.invars[params:]) | {v for eqn in eqns for v in eqn.outvars}
    last_use = _last_uses(closed.jaxpr)
    ends = [*_cuts(eqns, last_use), len(eqns)]
    for begin, end in zip([0, *ends], ends, strict=False):
        made = dict.fromkeys(v for eqn in eqns[begin:end] for v in eqn.outvars)
        needed = dict.fromkeys(v for eqn in eqns[begin:end] for v in eqn.invars if isinstance(v, core.Var))
        names = [v for v in needed if v not in made]
        outputs = [v for v in made if last_use.get(v, -1) >= end]
        run = _recomputing(piece_of(closed.jaxpr, eqns[begin:end], names, outputs), [v in activations for v in names])
        known |= dict(zip(outputs, run(*[known[v] for v in names]), strict=True))
    return [read(known, v) for v in closed.jaxpr.outvars]


def _recomputing(piece: Function, activations: Sequence[bool]) -> Function:
    """Returns the piece with a gradient that computes the piece anew.

    Args:
        piece: a function of arrays.
        activations: which of its inputs depend on the batch; the others are parameters.
    """

    def forward(*inputs: Any) -> Any:
        return piece(*inputs), inputs

    def backward(inputs: Sequence[Any], gradients: Sequence[Any]) -> Any:
        # On a CPU, XLA ignores the barriers of jax.checkpoint when it orders a program, and computes everything anew
        # at the start, where it takes as much memory as if kept. A sum with zero times the gradient cannot be early.
        floats = [g.reshape(-1)[0] for g in gradients if jnp.issubdtype(g.dtype, jnp.inexact) and g.size]
        zero = 0 * sum(number.real.astype(jnp.float32) for number in floats)
        late = [_added(v, zero) if activation else v for v, activation in zip(inputs, activations, strict=True)]
        trained = [i for i, v in enumerate(late) if jnp.issubdtype(v.dtype, jnp.inexact)]

        def of_trained(*values: Any) -> Sequence[Any]:
            changed = dict(zip(trained, values, strict=True))
            return piece(*[changed.get(i, v) for i, v in enumerate(late)])

        pulled = jax.vjp(of_trained, *[late[i] for i in trained])[1](gradients)
        found = dict(zip(trained, pulled, strict=True))
        return tuple(found.get(i) for i in range(len(late)))

    run = jax.custom_vjp(piece)
    run.defvjp(forward, backward)
    return run


def _added(value: Any, zero: Any) -> Any:
    return value + zero.astype(value.dtype) if jnp.issubdtype(value.dtype, jnp.number) else value


def _last_uses(jaxpr: Any) -> dict[Any, int]:
    """Returns the number of the last equation that reads each variable; for what is returned, one beyond all."""
    uses = {v: i for i, eqn in enumerate(jaxpr.eqns) for v in eqn.invars if isinstance(v, core.Var)}
    return uses | {v: len(jaxpr.eqns) for v in jaxpr.outvars if isinstance(v, core.Var)}


def _cuts(eqns: Sequence[Any], last_use: dict[Any, int]) -> list[int]:
    """Returns where to cut so that what crosses the cuts, and the largest piece, take the least memory together."""
    made = [sum(_size(v) for v in eqn.outvars) for eqn in eqns]
    crossing = _crossing(eqns, last_use)
    best: list[int] = []
    least = sum(made)
    for pieces in PIECES:
        cuts, largest = _cut(made, crossing, sum(made) / pieces)
        kept = largest + sum(crossing[cut] for cut in cuts)
        if kept < least:
            best, least = cuts, kept
    return best


def _crossing(eqns: Sequence[Any], last_use: dict[Any, int]) -> list[int]:
    """Returns the bytes made before each equation that are still needed from it on."""
    change = [0] * (len(eqns) + 2)
    for i, eqn in enumerate(eqns):
        for v in eqn.outvars:
            if last_use.get(v, i) > i:
                change[i + 1] += _size(v)
                change[last_use[v] + 1] -= _size(v)
    crossing = [0]
    for step in change[1:]:
        crossing.append(crossing[-1] + step)
    return crossing


def _cut(made: Sequence[int], crossing: Sequence[int], most: float) -> tuple[list[int], int]:
    """Cuts pieces of at most so many bytes, each where least crosses in its second half; and the largest piece."""
    cuts, begin, largest = [], 0, 0
    while begin < len(made):
        end, size, sizes = begin, 0, []
        while end < len(made) and (size + made[end] <= most or end == begin):
            size += made[end]
            end += 1
            sizes.append(size)
        if end < len(made):
            later = [i for i in range(begin, end) if sizes[i - begin] >= size / 2]
            end = 1 + min(reversed(later), key=lambda i: crossing[i + 1])
            cuts.append(end)
        largest = max(largest, sizes[end - begin - 1])
        begin = end
    return cuts, largest


def _size(variable: Any) -> int:
    """Returns the bytes of a variable; of a random key, 8 an element."""
    aval = variable.aval
    return int(getattr(aval, "size", 0)) * int(getattr(getattr(aval, "dtype", None), "itemsize", 8))
