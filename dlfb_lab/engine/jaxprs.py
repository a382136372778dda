"""Programs as operations on arrays, and how they are taken apart and changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend import core

INLINED = ("jit", "pjit")

Function = Callable[..., Sequence[Any]]
Replacement = Callable[[Any], Function | None]


def inlined(closed: Any, arguments: Sequence[Any]) -> Any:
    """Returns the program with calls of jitted functions replaced by what they do.

    Args:
        closed: a `jax.extend.core.ClosedJaxpr`.
        arguments: what it is called with.
    """
    while any(eqn.primitive.name in INLINED for eqn in closed.eqns):
        closed = jax.make_jaxpr(rewritten(closed))(*arguments)
    return closed


def rewritten(closed: Any, replacement: Replacement = lambda eqn: None) -> Function:
    """Returns the program as a function, with the calls of jitted functions in it inlined.

    Args:
        closed: a `jax.extend.core.ClosedJaxpr`.
        replacement: returns what to do in place of an operation, or None to leave it.
    """

    def run(*arguments: Any) -> list[Any]:
        known = inputs_of(closed, arguments)
        for eqn in closed.eqns:
            outputs: Sequence[Any]
            if eqn.primitive.name in INLINED:
                outputs = rewritten(eqn.params["jaxpr"], replacement)(*[read(known, v) for v in eqn.invars])
            elif (instead := replacement(eqn)) is not None:
                outputs = instead(*[read(known, v) for v in eqn.invars])
            else:
                names = list(dict.fromkeys(v for v in eqn.invars if isinstance(v, core.Var)))
                outputs = piece_of(closed.jaxpr, [eqn], names, eqn.outvars)(*[known[v] for v in names])
            known |= dict(zip(eqn.outvars, outputs, strict=True))
        return [read(known, v) for v in closed.jaxpr.outvars]

    return run


def piece_of(jaxpr: Any, eqns: Sequence[Any], inputs: Sequence[Any], outputs: Sequence[Any]) -> Function:
    """Returns some of a program's operations as a function of `inputs`, which returns `outputs`."""
    effects = frozenset().union(*(eqn.effects for eqn in eqns))
    part = jaxpr.replace(constvars=[], invars=list(inputs), outvars=list(outputs), eqns=list(eqns), effects=effects)
    function: Function = core.jaxpr_as_fun(core.ClosedJaxpr(part, ()))
    return function


def inputs_of(closed: Any, arguments: Sequence[Any]) -> dict[Any, Any]:
    """Returns the values of a program's constants and inputs, by variable."""
    jaxpr = closed.jaxpr
    return dict(zip([*jaxpr.constvars, *jaxpr.invars], [*closed.consts, *arguments], strict=True))


def read(known: dict[Any, Any], variable: Any) -> Any:
    """Returns the value of a variable, or of a literal in its place."""
    return variable.val if isinstance(variable, core.Literal) else known[variable]
