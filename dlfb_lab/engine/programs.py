"""Compiled programs: compiled before they are needed, timed, and kept for the next run."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import jax

from dlfb_lab.models.model import structure

MOST_KEPT = 64

Compiled = Callable[..., Any]
_kept: OrderedDict[Hashable, Any] = OrderedDict()


@dataclass(frozen=True)
class Program:
    """A function to be compiled.

    Attributes:
        name: for people, for example "train step".
        key: programs with equal keys and equal argument shapes are the same.
        function: a pure function of arrays; it must not hold arrays itself, since programs are kept.
        donate: positions of the arguments whose memory the results may take over.
    """

    name: str
    key: Hashable
    function: Callable[..., Any]
    donate: tuple[int, ...] = ()


@dataclass(frozen=True)
class CompileTime:
    """What one compilation took, seconds."""

    trace_s: float
    lower_s: float
    compile_s: float


def compiled(program: Program, *arguments: Any) -> tuple[Compiled, CompileTime | None]:
    """Returns the program compiled for arguments of these shapes, and what that took if it was not yet.

    Args:
        program: what to compile.
        arguments: example arguments; arrays, or `jax.ShapeDtypeStruct` in their place.
    """
    config: Any = jax.config
    if config.jax_disable_jit:
        return program.function, None
    key = _key("compiled", program, arguments)
    kept: Compiled | None = _found(key)
    if kept is not None:
        return kept, None
    start = perf_counter()
    traced = jax.jit(program.function, donate_argnums=program.donate).trace(*arguments)
    traced_at = perf_counter()
    lowered = traced.lower()
    lowered_at = perf_counter()
    result = _keep(key, lowered.compile())
    return result, CompileTime(traced_at - start, lowered_at - traced_at, perf_counter() - lowered_at)


def shapes(program: Program, *arguments: Any) -> Any:
    """Returns the shapes that the program would return, as `jax.ShapeDtypeStruct`; traced once."""
    key = _key("shapes", program, arguments)
    kept = _found(key)
    return _keep(key, jax.eval_shape(program.function, *arguments)) if kept is None else kept


def _key(what: str, program: Program, arguments: tuple[Any, ...]) -> Hashable:
    return (what, program.name, program.key, structure(arguments), _settings())


def _found(key: Hashable) -> Any:
    if key in _kept:
        _kept.move_to_end(key)
    return _kept.get(key)


def _keep(key: Hashable, value: Any) -> Any:
    _kept[key] = value
    while len(_kept) > MOST_KEPT:
        _kept.popitem(last=False)
    return value


def _settings() -> tuple[Hashable, ...]:
    """JAX's settings that change what a program computes."""
    config: Any = jax.config
    return (
        config.jax_enable_x64,
        config.jax_default_matmul_precision,
        config.jax_threefry_partitionable,
        str(config.jax_default_device),
    )
