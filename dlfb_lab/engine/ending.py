"""How a model's program ends: whether its outputs can be any number, or have passed something that bounds them."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp

MOVES = frozenset(
    (
        "broadcast_in_dim",
        "convert_element_type",
        "copy",
        "reshape",
        "rev",
        "slice",
        "squeeze",
        "stop_gradient",
        "transpose",
    )
)
"""Operations that leave numbers as they are."""

CALLS = {"jit": "jaxpr", "pjit": "jaxpr", "custom_jvp_call": "call_jaxpr", "custom_vjp_call": "call_jaxpr"}
"""Operations that run a program of their own, and the name it goes by."""


class _Scope(NamedTuple):
    """A program within another.

    Attributes:
        jaxpr: the program.
        operands: what it is called with, in `outer`.
        outer: None for the outermost.
    """

    jaxpr: Any
    operands: Any
    outer: _Scope | None


def is_free(program: Any, trained: int) -> bool:
    """Returns whether every output is a sum or a product with a parameter, as after a plain dense layer.

    Such outputs can be any number. False says nothing: they may be bounded or not.

    Args:
        program: a `jax.extend.core.ClosedJaxpr`.
        trained: how many of its first inputs are parameters.
    """
    jaxpr = program.jaxpr
    parameters = [var for var in jaxpr.invars[:trained] if jnp.issubdtype(var.aval.dtype, jnp.floating)]
    scope = _Scope(jaxpr, (), None)
    return bool(jaxpr.outvars) and all(_var_is_free(var, scope, parameters) for var in jaxpr.outvars)


def _var_is_free(var: Any, scope: _Scope, parameters: list[Any]) -> bool:
    eqn, _, scope = _source(var, scope)
    if eqn is None or eqn.primitive.name not in ("add", "dot_general", "conv_general_dilated"):
        return False
    operands = [_source(operand, scope)[1] for operand in eqn.invars]
    return any(operand is parameter for operand in operands for parameter in parameters)


def _source(var: Any, scope: _Scope) -> tuple[Any, Any, _Scope]:
    """Returns the operation that computed a variable, or None for an input or a constant, the variable and its scope.

    Operations that leave numbers as they are are passed over.
    """
    eqn = next((e for e in scope.jaxpr.eqns if any(var is out for out in e.outvars)), None)
    if eqn is None:
        place = next((i for i, operand in enumerate(scope.jaxpr.invars) if operand is var), None)
        if place is None or scope.outer is None:
            return None, var, scope
        return _source(scope.operands[place], scope.outer)
    name = eqn.primitive.name
    if name in MOVES:
        return _source(eqn.invars[0], scope)
    if name in CALLS and CALLS[name] in eqn.params:
        inner = eqn.params[CALLS[name]]
        inner = getattr(inner, "jaxpr", inner)
        if len(inner.invars) == len(eqn.invars):
            at = next(i for i, out in enumerate(eqn.outvars) if out is var)
            return _source(inner.outvars[at], _Scope(inner, eqn.invars, scope))
    return eqn, var, scope
