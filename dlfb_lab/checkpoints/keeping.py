"""Which checkpoints are kept: the best, the latest, and what was pinned."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from dlfb_lab.checkpoints.folder import Checkpoint


def ranked(checkpoints: Sequence[Checkpoint], monitor: str, mode: Literal["min", "max"]) -> list[Checkpoint]:
    """Returns the usable checkpoints that have a score, the best first; of equal ones the earliest.

    Args:
        checkpoints: of one run.
        monitor: the column of the history that is looked at, such as "valid/loss".
        mode: whether a small or a large value of it is better.
    """
    scored = [(found.manifest.metrics.get(monitor, math.nan), found) for found in usable(checkpoints) if found.manifest]
    sign = 1.0 if mode == "min" else -1.0
    finite = [(sign * value, found.step, found) for value, found in scored if math.isfinite(value)]
    return [found for _, _, found in sorted(finite, key=lambda one: one[:2])]


def usable(checkpoints: Sequence[Checkpoint]) -> list[Checkpoint]:
    """Returns those from which training can go on, the latest first."""
    return sorted((found for found in checkpoints if found.usable), key=lambda found: -found.step)


def reasons(
    checkpoints: Sequence[Checkpoint], monitor: str, mode: Literal["min", "max"], *, best: int = 1, latest: int = 1
) -> dict[int, str]:
    """Returns why checkpoints are kept, by step: "pinned", "the latest", "the best by valid/loss", or both of these.

    Args:
        checkpoints: of one run.
        monitor: the column of the history that is looked at.
        mode: whether a small or a large value of it is better.
        best: how many of the best are kept.
        latest: how many of the latest are kept.
    """
    found = {}
    for place, checkpoint in enumerate(ranked(checkpoints, monitor, mode)[:best]):
        found[checkpoint.step] = f"the best by {monitor}" if place == 0 else f"one of the {best} best by {monitor}"
    for place, checkpoint in enumerate(usable(checkpoints)[:latest]):
        why = "the latest" if place == 0 else f"one of the {latest} latest"
        best_of = found.get(checkpoint.step)
        found[checkpoint.step] = why if best_of is None else f"{why} and {best_of}"
    return found | {checkpoint.step: "pinned" for checkpoint in checkpoints if checkpoint.pinned}
