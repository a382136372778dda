"""Compiled programs: compiled before they are needed, timed, and kept for the next run."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import jax

from dlfb_lab.events import Compilation, Event
from dlfb_lab.models.model import structure

MOST_KEPT = 64

Compiled = Callable[..., Any]
_kept: OrderedDict[Hashable, Any] = OrderedDict()
_lock = threading.Lock()


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


class Lowered:
    """A program on its way to being compiled.

    Tracing and lowering read Python and JAX's settings, some of which belong to the thread, so they have been done
    already; `finish` may be called in another thread.
    """

    def __init__(self, program: Program, arguments: tuple[Any, ...]) -> None:
        start = perf_counter()
        traced = jax.jit(program.function, donate_argnums=program.donate).trace(*arguments)
        traced_at = perf_counter()
        self._lowered = traced.lower()
        self._trace_s, self._lower_s = traced_at - start, perf_counter() - traced_at
        self._key = _key("compiled", program, arguments)

    def finish(self) -> tuple[Compiled, CompileTime]:
        """Compiles, and keeps the result."""
        start = perf_counter()
        result = _keep(self._key, self._lowered.compile())
        return result, CompileTime(self._trace_s, self._lower_s, perf_counter() - start)


def kept(program: Program, *arguments: Any) -> Compiled | None:
    """Returns the program if it has been compiled for arguments of these shapes."""
    found: Compiled | None = _found(_key("compiled", program, arguments))
    return found


def compiled(program: Program, *arguments: Any) -> tuple[Compiled, CompileTime | None]:
    """Returns the program compiled for arguments of these shapes, and what that took if it was not yet.

    Args:
        program: what to compile.
        arguments: example arguments; arrays, or `jax.ShapeDtypeStruct` in their place.
    """
    config: Any = jax.config
    if config.jax_disable_jit:
        return program.function, None
    found = kept(program, *arguments)
    return (found, None) if found is not None else Lowered(program, arguments).finish()


def compilation(
    program: str, took: CompileTime | None, cause: str, step: int = 0, planned: bool = True
) -> Iterator[Event]:
    """Yields the event of a compilation, if there was one."""
    if took is not None:
        yield Compilation(
            step=step,
            program=program,
            trace_s=took.trace_s,
            lower_s=took.lower_s,
            compile_s=took.compile_s,
            planned=planned,
            cause=cause,
        )


def shapes(program: Program, *arguments: Any) -> Any:
    """Returns the shapes that the program would return, as `jax.ShapeDtypeStruct`; traced once."""
    key = _key("shapes", program, arguments)
    kept = _found(key)
    return _keep(key, jax.eval_shape(program.function, *arguments)) if kept is None else kept


def jaxpr(program: Program, *arguments: Any) -> Any:
    """Returns the program as operations on arrays, a `jax.extend.core.ClosedJaxpr`; traced once."""
    key = _key("jaxpr", program, arguments)
    kept = _found(key)
    return _keep(key, jax.make_jaxpr(program.function)(*arguments)) if kept is None else kept


def _key(what: str, program: Program, arguments: tuple[Any, ...]) -> Hashable:
    return (what, program.name, program.key, structure(arguments), _shared(arguments), _settings())


def _shared(arguments: Any) -> tuple[Hashable, ...]:
    """How arguments lie on several devices; a compiled program takes them in that way only."""
    shardings = (getattr(leaf, "sharding", None) for leaf in jax.tree.leaves(arguments))
    return tuple(s if s is not None and len(s.device_set) > 1 else None for s in shardings)


def _found(key: Hashable) -> Any:
    with _lock:
        if key in _kept:
            _kept.move_to_end(key)
        return _kept.get(key)


def _keep(key: Hashable, value: Any) -> Any:
    with _lock:
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
        config.jax_default_prng_impl,
        str(config.jax_default_device),
    )
