"""The protocol of data: every kind is read into `Examples` by one adapter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from dlfb_lab.errors import DataError

Array = np.ndarray[Any, Any]
Inputs = Array | dict[str, Array]


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Rows to learn from, in host memory.

    Attributes:
        x: inputs, shape [rows, ...], or several such arrays by name.
        y: targets as the user gave them, shape [rows, ...], any dtype.
        features: names of the last axis of `x`; empty where it has none.
        groups: what each row belongs to, shape [rows]; None where rows are independent.
        categories: the classes in the order the user gave them, where the targets are a pandas categorical.
        labels: names of the columns of `y`; empty where it has none.
        notices: what the user should know about how the data were read.
    """

    x: Inputs
    y: Array
    features: list[str] = field(default_factory=list)
    groups: Array | None = None
    categories: tuple[object, ...] | None = None
    labels: list[str] = field(default_factory=list)
    notices: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.y)

    def take(self, rows: Array) -> Examples:
        """Returns the examples at the given row numbers, shape [n], int64."""
        x = {k: v[rows] for k, v in self.x.items()} if isinstance(self.x, dict) else self.x[rows]
        return replace(self, x=x, y=self.y[rows], groups=None if self.groups is None else self.groups[rows])


Reader = Callable[[Any, "str | None", Any], "Examples | None"]
"""Reads (data, target, groups), or returns None where the data are of another kind."""


def as_array(values: Any, what: str) -> Array:
    """Returns a NumPy array of what the user gave.

    Raises:
        DataError: it is ragged, sparse or not an array at all.
    """
    if type(values).__module__.startswith("scipy.sparse"):
        raise DataError(f"{what} is a sparse {type(values).__name__}, shape {values.shape}. Call .toarray() on it.")
    if isinstance(values, np.ma.MaskedArray):
        # A masked entry is a gap, and is then refused or dropped as any other gap.
        number = values.dtype.kind in "biuf"
        values = values.astype(np.result_type(values.dtype, np.float32) if number else object)
        values = values.filled(np.nan if number else None)
    try:
        array = np.asarray(values)
    except Exception as error:
        raise DataError(f"{what} cannot be made into an array: {error}") from error
    if array.dtype == object and array.ndim == 1 and any(isinstance(v, list | tuple | np.ndarray) for v in array[:50]):
        raise DataError(f"{what} has rows of different lengths. Pad them to one length first.")
    return array


def refuse_kind(array: Array, what: str) -> None:
    """Refuses complex numbers and dates, which would be turned into other numbers without a word.

    Raises:
        DataError: what to give instead.
    """
    if array.dtype.kind == "c":
        raise DataError(f"{what} holds complex numbers ({array.dtype}). Give real numbers, such as their .real part.")
    if array.dtype.kind in "mM":
        raise DataError(
            f"{what} holds dates or times ({array.dtype}), not numbers. Give numbers, such as days since the first: "
            "(t - t.min()) / np.timedelta64(1, 'D')."
        )


def inputs_array(values: Any, what: str) -> Array:
    """Returns inputs as numbers: bool becomes float32, integers int32, or float64 where they are too large.

    float64 stays: `scaling.device_inputs` rounds it after scaling, which needs its digits.

    Raises:
        DataError: they are not numbers.
    """
    array = as_array(values, what)
    refuse_kind(array, what)
    if array.dtype == object or array.dtype.kind not in "biuf":
        try:
            array = array.astype(np.float64)
        except (TypeError, ValueError):
            raise DataError(
                f"{what} holds {array.dtype} values, not numbers (for example {array.reshape(-1)[0]!r}). "
                "Turn them into numbers first."
            ) from None
    if array.ndim == 0:
        raise DataError(f"{what} is a single number ({array}); it needs one row per example.")
    if array.dtype == bool:
        return array.astype(np.float32)
    if array.dtype.kind in "iu" and array.dtype.itemsize >= 4:
        return array.astype(np.int32 if _fits_int32(array) else np.float64)
    return array


def _fits_int32(array: Array) -> bool:
    limits = np.iinfo(np.int32)
    return array.size == 0 or (array.min() >= limits.min and array.max() <= limits.max)


def check(examples: Examples) -> Examples:
    """Returns the examples when every row is whole.

    Raises:
        DataError: there are no rows, lengths differ, or inputs hold NaN or infinity.
    """
    arrays = examples.x if isinstance(examples.x, dict) else {"x": examples.x}
    lengths = {name: len(a) for name, a in arrays.items()} | {"y": len(examples.y)}
    if examples.groups is not None:
        lengths["groups"] = len(examples.groups)
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name} has {length:,} rows" for name, length in lengths.items())
        raise DataError(f"The data have different lengths: {listed}. Each row of x needs one target.")
    if examples.groups is not None:
        examples = replace(examples, groups=_whole_groups(examples.groups))
    if len(examples) == 0:
        raise DataError("The data have 0 rows; there is nothing to learn from.")
    check_finite(examples.x, examples.features)
    return examples


def _whole_groups(groups: Array) -> Array:
    flat = groups[:, 0] if groups.ndim == 2 and groups.shape[1] == 1 else groups
    if flat.ndim != 1:
        raise DataError(f"groups has shape {groups.shape}; give one entry a row, shape ({len(groups)},).")
    gone = sum(v is None or type(v).__name__ in ("NAType", "NaTType") or v != v for v in flat.tolist())
    if gone:
        raise DataError(
            f"{gone:,} of {len(flat):,} rows have no group (None or NaN). Drop those rows, or give each a group."
        )
    if flat.dtype == object and len(kinds := sorted({type(v).__name__ for v in flat.tolist()})) > 1:
        raise DataError(f"groups holds {' and '.join(kinds)} values. Give one kind, for example groups.astype(str).")
    return flat


def check_finite(x: Inputs, features: list[str]) -> None:
    """Refuses inputs that hold NaN or infinity.

    Raises:
        DataError: how many, and in which columns.
    """
    for name, array in (x if isinstance(x, dict) else {"x": x}).items():
        _check_finite(array, name, features)


def _check_finite(array: Array, name: str, features: list[str]) -> None:
    if array.dtype.kind != "f":
        return
    bad = ~np.isfinite(array)
    count = int(bad.sum())
    if not count:
        return
    where = ""
    if array.ndim == 2:
        columns = np.flatnonzero(bad.any(axis=0))
        shown = [f"`{features[c]}`" if features else str(c) for c in columns[:5]]
        more = f" and {len(columns) - 5} more" if len(columns) > 5 else ""
        where = f", in column{'s' if len(columns) > 1 else ''} {', '.join(shown)}{more}"
    rows = int(bad.reshape(len(bad), -1).any(axis=1).sum())
    kind = "NaN" if np.isnan(array).any() else "infinity"
    if kind == "NaN" and np.isinf(array).any():
        kind = "NaN or infinity"
    raise DataError(
        f"{name} holds {kind}: {count:,} value{'s' if count > 1 else ''} in {rows:,} of {len(array):,} rows{where}. "
        "Drop those rows, or fill the gaps with values taken from training rows only."
    )
