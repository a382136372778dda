"""A learning rate to start with, found by trying: the range test of Smith (2017), "Cyclical learning rates".

One step is taken at each of many rates, each larger than the one before; the loss falls as soon as the rate is large
enough to learn, and rises when it is too large.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

SMOOTHED = 0.8
"""Weight of what came before in the smoothed loss."""

BROKEN = 4.0
"""A smoothed loss that has risen to so many times its best, counted from the best, ends the test."""

LEAST_FALL = 0.02
"""Share of the first loss by which the smoothed one must fall, to say that something was learned."""

MARGIN = 0.1
"""The rate at the best loss is nearly too large already: this share of it is taken."""


@dataclass(frozen=True)
class RateFound:
    """What a range test found.

    Attributes:
        rates: that were tried, ascending.
        losses: the training loss at each.
        chosen: the rate to train with.
        reason: why, for people.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    chosen: float
    reason: str


def find_rate(
    run_step: Callable[[float], float], usual: float = 1e-3, low: float = 1e-6, high: float = 10.0, count: int = 120
) -> RateFound:
    """Tries rates from low to high.

    Args:
        run_step: applies one update at a rate and returns the loss before it.
        usual: what is taken where the test says nothing.
        low: the first rate.
        high: the last rate, if training does not break down before.
        count: steps from low to high, evenly spaced in the logarithm.
    """
    rates: list[float] = []
    losses: list[float] = []
    smoothed: list[float] = []
    for rate in np.geomspace(low, high, count):
        loss = run_step(float(rate))
        rates.append(float(rate))
        losses.append(loss)
        if not math.isfinite(loss):
            break
        before = smoothed[-1] if smoothed else loss
        smoothed.append(SMOOTHED * before + (1 - SMOOTHED) * loss)
        best = min(smoothed)
        if smoothed[-1] - best > (BROKEN - 1) * max(abs(best), 1e-12):
            break
    chosen, reason = _chosen(rates, smoothed, usual)
    return RateFound(tuple(rates), tuple(losses), chosen, reason)


def _chosen(rates: list[float], smoothed: list[float], usual: float) -> tuple[float, str]:
    if not smoothed:
        return usual, f"the loss was not finite from the first step on, so that nothing was found; {usual:g} is usual."
    best = int(np.argmin(smoothed))
    if smoothed[0] - smoothed[best] < LEAST_FALL * max(abs(smoothed[0]), 1e-12):
        return usual, f"the loss did not fall at any rate from {rates[0]:g} to {rates[-1]:g}; {usual:g} is usual."
    return MARGIN * rates[best], f"a tenth of the rate at which the loss was lowest, {rates[best]:.2g}."
