"""Products of small matrices, for several members at once.

On a CPU, XLA computes the product of a batch of small matrices by a call for each, and copies operands into the order
that the call wants: for eight members of a small network that is most of a step. Written as a sum, the same product
fuses with what stands around it, and is computed on vectors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from dlfb_lab.engine.jaxprs import Function, rewritten

MOST_MULTIPLIED = 2**13
"""Multiplications of a product, above which a call for each member costs little beside them."""


def with_small_products_as_sums(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function of arrays whose small products are written as sums, on a CPU; elsewhere the function."""
    if jax.default_backend() != "cpu":
        return function

    def run(*arguments: Any) -> Any:
        traced: Any = jax.make_jaxpr(function, return_shape=True)
        closed, shapes = traced(*arguments)
        if closed.effects:  # a jax.debug.print would be said twice
            return function(*arguments)
        outputs = rewritten(closed, _as_sum)(*jax.tree.leaves(arguments))
        return jax.tree.unflatten(jax.tree.structure(shapes), outputs)

    return run


def _as_sum(eqn: Any) -> Function | None:
    if eqn.primitive.name != "dot_general":
        return None
    (left, right), batch = eqn.params["dimension_numbers"]
    a, b = (v.aval for v in eqn.invars)
    out = eqn.outvars[0].aval
    if any(batch) or len(left) != 1 or not a.dtype == b.dtype == out.dtype or not jnp.issubdtype(a.dtype, jnp.floating):
        return None
    if a.shape[left[0]] * out.size > MOST_MULTIPLIED:
        return None

    def product(a: jax.Array, b: jax.Array) -> list[jax.Array]:
        a, b = jnp.moveaxis(a, left[0], 0), jnp.moveaxis(b, right[0], 0)
        return [
            (a.reshape(*a.shape, *[1] * (b.ndim - 1)) * b.reshape(len(b), *[1] * (a.ndim - 1), *b.shape[1:])).sum(0)
        ]

    return product
