"""Curves of at most 120 points, however many values they are fed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from dlfb_lab.events import FloatBlock

POINTS = 120

_Array = npt.NDArray[Any]


class MeanCurve:
    """The mean of the values in each of up to 120 equal spans of steps. Memory does not grow."""

    def __init__(self) -> None:
        self._width = 1
        self._counts = np.zeros(POINTS, np.int64)
        self._finite = np.zeros(POINTS, np.int64)
        self._steps = np.zeros(POINTS)
        self._sums = np.zeros(POINTS)

    def add(self, first_step: int, stride: int, values: FloatBlock) -> None:
        """Takes values at `first_step`, `first_step + stride`, …; shape [n]."""
        if not len(values):
            return
        while (first_step + stride * (len(values) - 1)) // self._width >= POINTS:
            self._width *= 2
            self._counts, self._finite = _paired(self._counts), _paired(self._finite)
            self._steps, self._sums = _paired(self._steps), _paired(self._sums)
        steps = first_step + stride * np.arange(len(values), dtype=np.int64)
        spans = steps // self._width
        finite = np.isfinite(values)
        self._counts += np.bincount(spans, minlength=POINTS)
        self._finite += np.bincount(spans, finite, minlength=POINTS).astype(np.int64)
        self._steps += np.bincount(spans, steps, minlength=POINTS)
        with np.errstate(all="ignore"):
            self._sums += np.bincount(spans, np.where(finite, values, 0), minlength=POINTS)

    def points(self) -> tuple[list[int], list[float]]:
        """Returns steps and means; a span without a finite value is NaN."""
        used = self._counts > 0
        steps = np.rint(self._steps[used] / self._counts[used]).astype(np.int64)
        with np.errstate(all="ignore"):
            means = np.where(self._finite[used] > 0, self._sums[used] / self._finite[used], np.nan)
        return steps.tolist(), means.tolist()


def _paired(values: _Array) -> _Array:
    pairs = values.reshape(-1, 2).sum(1)
    return np.concatenate([pairs, np.zeros_like(pairs)])


@dataclass
class ThinnedCurve:
    """Every so many-th of the values, and the latest."""

    steps: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    every: int = 1
    seen: int = 0
    latest: tuple[int, float] | None = None

    def add(self, step: int, value: float) -> None:
        """Takes the next value."""
        self.latest = (step, value)
        if self.seen % self.every == 0:
            if len(self.steps) == POINTS - 1:
                self.steps, self.values, self.every = self.steps[::2], self.values[::2], self.every * 2
            if self.seen % self.every == 0:
                self.steps.append(step)
                self.values.append(value)
        self.seen += 1

    def points(self) -> tuple[list[int], list[float]]:
        """Returns steps and values."""
        if self.latest is None or (self.seen - 1) % self.every == 0:
            return self.steps, self.values
        return [*self.steps, self.latest[0]], [*self.values, self.latest[1]]
