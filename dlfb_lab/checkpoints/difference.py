"""How two checkpoints differ: in structure, and by how much each array has changed. A leaf at a time is in memory."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from dlfb_lab.checkpoints.selection import Array, Selection

BLOCK = 1 << 20
"""Numbers of an array that are compared at once, in float64."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """One array, as it is in two checkpoints or in one of them.

    Attributes:
        group: what it belongs to: "parameters", "optimizer", or another part of the state.
        name: its name there.
        structure: "" for an array of the same shape and dtype in both; else what differs, in a few words.
        shape: its shape, in the first checkpoint that has it.
        relative: norm of the change over the norm before; 0 where all is equal, infinity where all was zero before,
            NaN where it cannot be said. Of the numbers that are finite in both, in float64.
        largest: the largest absolute change of one number; NaN likewise.
        not_finite: how many numbers are NaN or infinite in each.
        equal: whether all numbers are the same, NaN included.
        squares: the sums of the squares of the change and of what was before; 0 for whole numbers, such as counts.
    """

    group: str
    name: str
    structure: str = ""
    shape: tuple[int, ...]
    relative: float = math.nan
    largest: float = math.nan
    not_finite: tuple[int, int] = (0, 0)
    equal: bool = False
    squares: tuple[float, float] = (0.0, 0.0)


def difference(a: Selection, b: Selection) -> Iterator[Change]:
    """Yields what differs in structure, then every array that both have with the same shape.

    Raises:
        StoreError: an array cannot be read.
    """
    ours, theirs = a.shapes, b.shapes
    for name in [*ours, *(name for name in theirs if name not in ours)]:
        group, short = a.grouped(name)
        if name not in theirs or name not in ours:
            only = "only in the first" if name in ours else "only in the second"
            yield Change(group=group, name=short, structure=only, shape=(ours.get(name) or theirs[name])[0])
        elif ours[name][0] != theirs[name][0]:
            shapes = f"shape {ours[name][0]} → {theirs[name][0]}"
            yield Change(group=group, name=short, structure=shapes, shape=ours[name][0])
    common = [name for name in ours if name in theirs and ours[name][0] == theirs[name][0]]
    first, second = a.arrays(common), b.arrays(common)
    for name in common:
        # Not `zip`, which would hold the arrays before while it asks for the next.
        x, y = next(first)[1], next(second)[1]
        yield _changed(*a.grouped(name), x, y)
        del x, y


def _changed(group: str, name: str, x: Array, y: Array) -> Change:
    changed = before = largest = 0.0
    bad, equal, some = [0, 0], True, x.size == 0
    for old, new in _blocks(x, y):
        finite = np.isfinite(old), np.isfinite(new)
        for i in range(2):
            bad[i] += int(finite[i].size - np.count_nonzero(finite[i]))
        same = (old == new) | (np.isnan(old) & np.isnan(new))
        equal = equal and bool(same.all())
        both = finite[0] & finite[1]
        if not both.any():
            continue
        some = True
        old, new = old[both], new[both]
        step = np.abs(new - old)
        changed += float(step @ step)
        before += float(np.vdot(old, old).real)
        largest = max(largest, float(step.max()))
    return Change(
        group=group,
        name=name,
        structure="" if x.dtype == y.dtype else f"dtype {x.dtype.name} → {y.dtype.name}",
        shape=x.shape,
        relative=relative(changed, before) if some else math.nan,
        largest=largest if some else math.nan,
        not_finite=(bad[0], bad[1]),
        equal=equal,
        squares=(changed, before) if x.dtype.kind not in "biu" else (0.0, 0.0),
    )


def relative(changed: float, before: float) -> float:
    """Returns the relative change from sums of squares."""
    if not changed:
        return 0.0
    return math.sqrt(changed / before) if before else math.inf


def _blocks(x: Array, y: Array) -> Iterator[tuple[Array, Array]]:
    flat = x.reshape(-1), y.reshape(-1)
    wide: Any = np.complex128 if "c" in (x.dtype.kind, y.dtype.kind) else np.float64
    for start in range(0, x.size, BLOCK):
        old, new = (array[start : start + BLOCK].astype(wide) for array in flat)
        yield old, new


def ordered(changes: Iterable[Change]) -> list[Change]:
    """Returns changes group by group, parameters first: those of structure, then the largest first."""
    groups = {"parameters": 0, "optimizer": 1}
    return sorted(
        changes,
        key=lambda one: (
            groups.get(one.group, 2),
            one.group,
            not one.structure,
            0.0 if math.isnan(one.relative) else 1.0,
            -one.relative if not math.isnan(one.relative) else 0.0,
            one.name,
        ),
    )
