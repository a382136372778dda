"""Long dispatches that ask the host after each step whether to go on.

On a CPU, XLA takes a program's temporary memory anew for each dispatch. Above 32 MB, the C library gets it from the
system and hands it back every time, and a page fault for every 4 KiB may take longer than the step's arithmetic. Many
steps in one dispatch share that memory; so that they can be stopped, they ask.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from types import TracebackType
from typing import Any

import jax
import numpy as np
from jax.experimental import io_callback

from dlfb_lab.engine.allocator import LARGEST
from dlfb_lab.engine.programs import Compiled

DISPATCH_S = 2.0
"""How long a dispatch lasts that asks; its losses come all at its end."""

LOOK_S = 0.02
"""How often the host looks whether to stop it."""

COMPARED_STEPS = 8
"""Steps that are run both ways; fewer do not show what a shared memory saves."""

_numbers = itertools.count(1)
_go_on: set[int] = set()


class Asker:
    """Answers a dispatch's questions, within a `with`: yes, until told to stop.

    Attributes:
        number: by which the dispatch asks.
    """

    def __init__(self) -> None:
        self.number = np.int32(next(_numbers))

    def stop(self) -> None:
        """Lets the dispatch end after the step that it is at."""
        _go_on.discard(int(self.number))

    def wait(self, run: Compiled, arguments: tuple[Any, ...], goes_on: Callable[[], bool]) -> Any:
        """Returns what a program returns, and stops it when `goes_on` says no.

        The program runs in a thread of its own: JAX waits for programs that ask, and this one shall see interrupts.
        """
        result = _thread().submit(lambda: jax.block_until_ready(run(*arguments)))
        while not result.done():
            if not goes_on():
                self.stop()
            wait([result], LOOK_S)
        return result.result()

    def __enter__(self) -> Asker:
        _go_on.add(int(self.number))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()


@cache
def _thread() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(thread_name_prefix="dlfb dispatch")


def asked(number: jax.Array) -> jax.Array:
    """Within a program: whether to go on, shape [], bool."""
    answer: jax.Array = io_callback(_ask_host, jax.ShapeDtypeStruct((), np.bool_), number)
    return answer


def _ask_host(number: Any) -> np.bool_:
    return np.bool_(int(number) in _go_on)


def pays(single: Compiled) -> bool:
    """Returns whether to try steps that share a dispatch, although each takes long.

    Not with convolutions, which XLA computes many times slower within a loop on a CPU.

    Args:
        single: the compiled program of one step.
    """
    if jax.default_backend() != "cpu":
        return False
    program: Any = single
    return program.memory_analysis().temp_size_in_bytes > LARGEST and "convolution(" not in program.as_text()
