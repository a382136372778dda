"""Which way steps are run: one by one, or fused into one dispatch. Decided by measuring.

A step on its own is ready first and is what counts: its numbers are the run's. Fusing saves the cost of a launch,
and costs more than it saves where XLA runs an operation slower inside a loop, as it does convolutions on CPUs. So the
fused program is compiled beside training, run once from a copy of the same state, and taken only if every bit of the
state agrees and it is faster.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from time import perf_counter
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from dlfb_lab.engine.programs import Compiled, CompileTime, Lowered
from dlfb_lab.models.model import PyTree

Asked = Literal["auto", "fused", "step"]
ASKED: tuple[Asked, ...] = ("auto", "fused", "step")

LONG_STEP_S = 5e-3
"""Launching a step that takes longer costs next to nothing, so there is nothing to gain by fusing."""

COMPARED_S = 0.015
"""How long the steps take that are run both ways."""

LOOKS = 2
"""More at the time of each way, where they are near: on a busy machine one look says little."""

MOST_COMPARED = 256
LEAST_COMPARED = 2
MOST_KEPT = 256


@dataclass(frozen=True)
class Verdict:
    """Which way is taken, and why.

    Attributes:
        fused: whether many steps go into one dispatch.
        reason: why, for people.
        step_s: measured time of a step one by one, seconds.
        fused_step_s: of a fused step; NaN where it was not measured.
        asks: whether fused steps ask the host whether to go on, as long ones do.
    """

    fused: bool
    reason: str
    step_s: float = float("nan")
    fused_step_s: float = float("nan")
    asks: bool = False


_verdicts: OrderedDict[Hashable, Verdict] = OrderedDict()


def known(key: Hashable) -> Verdict | None:
    """Returns what was found out about a program before, in this process."""
    return _verdicts.get(key)


def remember(key: Hashable, verdict: Verdict) -> None:
    """Keeps a verdict for the next run of the same program."""
    _verdicts[key] = verdict
    while len(_verdicts) > MOST_KEPT:
        _verdicts.popitem(last=False)


@cache
def _compiling() -> ThreadPoolExecutor:
    # Not daemon threads: the interpreter waits for XLA at its end, which would crash it otherwise.
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="dlfb compile")


class StepTime:
    """The time of a step one by one, from the first dispatches."""

    LEAST_S = 0.01
    LEAST_STEPS = 3

    def __init__(self) -> None:
        self._dispatches: list[tuple[int, float]] = []

    def add(self, steps: int, seconds: float) -> None:
        """Takes one dispatch."""
        self._dispatches.append((steps, seconds))

    @property
    def step_s(self) -> float | None:
        """Seconds a step; None before it is known. The first dispatch is left out, for it warms up."""
        counted = self._dispatches[1:]
        steps, seconds = sum(n for n, _ in counted), sum(s for _, s in counted)
        if steps < self.LEAST_STEPS or (seconds < self.LEAST_S and steps < MOST_COMPARED):
            return None
        return min(s / n for n, s in counted)


class Fusing:
    """A fused program being compiled beside training."""

    def __init__(self, lowered: Lowered) -> None:
        self._future: Future[tuple[Compiled, CompileTime]] = _compiling().submit(lowered.finish)

    @property
    def ready(self) -> bool:
        """Whether it is compiled, or has failed."""
        return self._future.done()

    def result(self) -> tuple[Compiled, CompileTime]:
        """Returns the program and what compiling it took. Raises what compiling raised."""
        return self._future.result()


def compared_steps(step_s: float, most: int) -> int:
    """Returns how many steps to run both ways."""
    return min(most, MOST_COMPARED, max(LEAST_COMPARED, int(COMPARED_S / max(step_s, 1e-9))))


def near(step_s: float, fused_step_s: float) -> bool:
    """Whether two times are so alike that one measurement does not tell which is shorter."""
    return 0.5 < fused_step_s / step_s < 2


def timed(run: Callable[[], Any]) -> tuple[Any, float]:
    """Returns a function's result, when it is ready on the device, and the seconds it took."""
    start = perf_counter()
    result = jax.block_until_ready(run())
    return result, perf_counter() - start


def compare(one_by_one: PyTree, fused: PyTree, step_s: float, fused_step_s: float) -> Verdict:
    """Judges two ways by their results from the same state, and by their times.

    Args:
        one_by_one: the whole state and the scalars of every step, from steps one by one.
        fused: the same from one fused dispatch.
        step_s: time of a step one by one.
        fused_step_s: time of a fused step.
    """
    times = f"{_ms(fused_step_s)} a step against {_ms(step_s)} one by one"
    if not same_bits(one_by_one, fused):
        return Verdict(False, "fused steps gave other bits than steps one by one", step_s, fused_step_s)
    if fused_step_s >= step_s:
        return Verdict(False, f"fused steps are no faster: {times}", step_s, fused_step_s)
    return Verdict(True, f"the same bits, {times}", step_s, fused_step_s)


def same_bits(a: PyTree, b: PyTree) -> bool:
    """Whether two pytrees of arrays are the same bit by bit, NaN included."""
    leaves_a, leaves_b = jax.tree.leaves(a), jax.tree.leaves(b)
    return len(leaves_a) == len(leaves_b) and all(map(_same, leaves_a, leaves_b))


def _same(a: Any, b: Any) -> bool:
    if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
        a, b = jax.random.key_data(a), jax.random.key_data(b)
    a, b = np.asarray(a), np.asarray(b)
    return bool(a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes())


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms"
