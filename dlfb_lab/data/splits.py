"""Dividing rows into training, validation and test parts."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np

from dlfb_lab.data.source import Array
from dlfb_lab.errors import DataError, OptionError


def divide(
    rows: int,
    *,
    fractions: Mapping[str, float],
    seed: int,
    classes: Array | None = None,
    groups: Array | None = None,
) -> dict[str, Array]:
    """Holds out the given fractions of the rows at random.

    Args:
        rows: how many there are.
        fractions: part name to the fraction held out, each within (0, 1).
        seed: the same seed gives the same parts.
        classes: class of each row, shape [rows]; every part then has the same mix.
        groups: what each row belongs to, shape [rows]; a group is never divided, and classes are not balanced.

    Returns:
        Row numbers by part name, "train" being the rest.

    Raises:
        OptionError: the fractions leave nothing to train on, or a part without rows.
    """
    for name, fraction in fractions.items():
        if not 0 < fraction < 1:
            raise OptionError(f"--{name} {fraction:g}: give a fraction between 0 and 1, such as 0.2, or a set (x, y).")
    if sum(fractions.values()) >= 1:
        raise OptionError(
            f"The held-out parts take {100 * sum(fractions.values()):.0f} % of the rows; none is left to train."
        )
    rng = np.random.default_rng(seed)
    if groups is not None:
        part_of_row = _whole_groups(groups, fractions, rng)
    else:
        part_of_row = np.zeros(rows, np.int64)
        strata = [np.arange(rows)] if classes is None else [np.flatnonzero(classes == c) for c in np.unique(classes)]
        order = np.concatenate([rng.permutation(stratum) for stratum in strata])
        # Ranking by relative place within the class gives every part the same mix of classes.
        place = np.concatenate([_relative_places(len(stratum), rng) for stratum in strata])
        order = order[np.argsort(place, kind="stable")]
        start = 0
        for number, fraction in enumerate(fractions.values(), start=1):
            count = round(fraction * rows)
            part_of_row[order[start : start + count]] = number
            start += count
    parts = {name: np.flatnonzero(part_of_row == number) for number, name in enumerate(("train", *fractions))}
    for name, members in parts.items():
        if not len(members):
            unit = f"{len(np.unique(groups))} groups" if groups is not None else f"{rows} rows"
            raise OptionError(f"The {name} part would have no rows: {unit} are too few for these fractions.")
    return parts


def _relative_places(count: int, rng: np.random.Generator) -> Array:
    return (np.arange(count) + rng.random()) / count


def _whole_groups(groups: Array, fractions: Mapping[str, float], rng: np.random.Generator) -> Array:
    names, group_of_row, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    part_of_group = np.zeros(len(names), np.int64)
    queue = list(rng.permutation(len(names)))
    for number, fraction in enumerate(fractions.values(), start=1):
        wanted, taken = fraction * len(groups), 0
        chosen = []
        for group in queue:
            if taken + sizes[group] <= wanted:
                chosen.append(group)
                taken += int(sizes[group])
        left = [group for group in queue if group not in set(chosen)]
        if left:
            # The smallest that did not fit joins when that brings the part nearer to the size wanted.
            smallest = min(left, key=lambda group: int(sizes[group]))
            if taken == 0 or taken + sizes[smallest] - wanted < wanted - taken:
                chosen.append(smallest)
        part_of_group[chosen] = number
        queue = [group for group in queue if group not in set(chosen)]
    return np.asarray(part_of_group[group_of_row])


def check_groups(parts: Mapping[str, Array | None]) -> None:
    """Refuses parts that share a group.

    Raises:
        DataError: a group is in two parts; it is named.
    """
    seen: dict[object, str] = {}
    for name, groups in parts.items():
        for group in [] if groups is None else np.unique(groups).tolist():
            if seen.setdefault(group, name) != name:
                raise DataError(f"The group {group!r} is in the {seen[group]} part and in the {name} part.")


def fingerprint(parts: Mapping[str, Array], targets: Mapping[str, Array]) -> str:
    """Returns a hash of the row numbers and the targets of every part, 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for name in sorted(parts):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(parts[name], "<i8").tobytes())
        digest.update(np.ascontiguousarray(targets[name]).tobytes())
    return digest.hexdigest()[:16]
