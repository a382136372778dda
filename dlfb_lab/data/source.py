"""The protocol of data: every kind is read into `Examples` by one adapter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np

from dlfb_lab.data.host import Array as Array
from dlfb_lab.data.host import as_array, refuse_kind
from dlfb_lab.data.lazy import ArrayRows, blocks, lazy
from dlfb_lab.data.lazy import examples_are_lazy as examples_are_lazy
from dlfb_lab.data.lazy import is_lazy as is_lazy
from dlfb_lab.errors import DataError, OptionError, nearest

Inputs = Array | dict[str, Array]


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Rows to learn from, in host memory or in a file.

    Attributes:
        x: inputs, shape [rows, ...], or several such arrays by name. Arrays that lie in a file are `lazy.ArrayRows`.
        y: targets as the user gave them, shape [rows, ...], any dtype; the object `x` itself where the inputs are to
            be reconstructed.
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
        return len(next(iter(self.x.values())) if self.y is self.x and isinstance(self.x, dict) else self.y)

    def take(self, rows: Array) -> Examples:
        """Returns the examples at the given row numbers, shape [n], int64. What lies in a file is not read."""
        x = {k: _take(v, rows) for k, v in self.x.items()} if isinstance(self.x, dict) else _take(self.x, rows)
        y = cast(Array, x) if self.y is self.x else self.y[rows]
        return replace(self, x=x, y=y, groups=None if self.groups is None else self.groups[rows])


def _take(array: Any, rows: Array) -> Array:
    # What is said of arrays holds of lazy rows, as far as it is used.
    return cast(Array, array.take(rows) if isinstance(array, ArrayRows) else array[rows])


def select_features(examples: Examples, features: list[str]) -> Examples:
    """Returns the examples with the named features alone, in this order. The inputs are one array."""
    order = [examples.features.index(name) for name in features]
    x: Any = examples.x
    picked = x.mapped(lambda a: a[..., order], width=len(order)) if is_lazy(x) else x[..., order]
    return replace(examples, x=picked, y=picked if examples.y is x else examples.y, features=features)


Reader = Callable[[Any, "str | None", Any], "Examples | None"]
"""Reads (data, target, groups), or returns None where the data are of another kind."""

InputsReader = Callable[[Any, Any], "Examples | None"]
"""Likewise (data, groups), where all the data are inputs."""


TARGET_KEYS = ("y", "target", "targets", "label", "labels")


def target_key(keys: list[str], target: str | None) -> str:
    """Returns which of the keys of a dict is the target: the one that was said, or one of `TARGET_KEYS`.

    Raises:
        OptionError: that cannot be told.
    """
    if target is None:
        found = [k for k in keys if k.lower() in TARGET_KEYS]
        if len(found) != 1:
            raise OptionError(f"Which of the arrays {', '.join(keys)} is the target? Say --target NAME.")
        return found[0]
    if target not in keys:
        raise OptionError(f"--target {target}: the dict has the keys {', '.join(keys)}.{nearest(target, keys)}")
    return target


def inputs_array(values: Any, what: str) -> Array:
    """Returns inputs as numbers: bool becomes float32, integers int32, or float64 where they are too large.

    float64 stays: `scaling.device_inputs` rounds it after scaling, which needs its digits. An array that lies in a
    file stays there, and is converted as its rows are read.

    Raises:
        DataError: they are not numbers.
    """
    unread = lazy(values)
    array: Any = as_array(values, what) if unread is None else unread
    refuse_kind(array, what)
    if array.dtype.kind not in "biuf":
        try:
            array = np.asarray(array).astype(np.float64)
        except (TypeError, ValueError):
            seen = f" (for example {np.asarray(array).reshape(-1)[0]!r})" if array.size else ""
            raise DataError(
                f"{what} holds {array.dtype} values, not numbers{seen}. Turn them into numbers first."
            ) from None
    if array.ndim == 0:
        raise DataError(f"{what} is a single number ({array}); it needs one row per example.")
    dtype = _number_dtype(array)
    if array.dtype == dtype:
        return cast(Array, array)
    if is_lazy(array):
        return cast(Array, array.mapped(lambda rows: rows.astype(dtype), dtype))
    return cast(Array, array.astype(dtype))


def _number_dtype(array: Any) -> np.dtype[Any]:
    if array.dtype == bool:
        return np.dtype(np.float32)
    if array.dtype.kind in "iu" and array.dtype.itemsize >= 4:
        return np.dtype(np.int32 if all(_fits_int32(block) for block in blocks(array)) else np.float64)
    return cast("np.dtype[Any]", array.dtype.newbyteorder("="))


def _fits_int32(array: Array) -> bool:
    limits = np.iinfo(np.int32)
    return array.size == 0 or bool(array.min() >= limits.min and array.max() <= limits.max)


def check(examples: Examples) -> Examples:
    """Returns the examples when every row is whole.

    Raises:
        DataError: there are no rows, lengths differ, or inputs hold NaN or infinity.
    """
    arrays = examples.x if isinstance(examples.x, dict) else {"x": examples.x}
    lengths = {name: len(a) for name, a in arrays.items()}
    if examples.y is not examples.x:
        lengths["y"] = len(examples.y)
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
    count = rows = 0
    kinds: set[str] = set()
    of_columns = np.zeros(array.shape[1] if array.ndim == 2 else 0, bool)
    for block in blocks(array):
        bad = ~np.isfinite(block)
        if not bad.any():
            continue
        count += int(bad.sum())
        rows += int(bad.reshape(len(bad), -1).any(axis=1).sum())
        kinds |= {kind for kind, test in (("NaN", np.isnan), ("infinity", np.isinf)) if test(block).any()}
        if array.ndim == 2:
            of_columns |= bad.any(axis=0)
    if not count:
        return
    where = ""
    if array.ndim == 2:
        columns = np.flatnonzero(of_columns)
        shown = [f"`{features[c]}`" if features else str(c) for c in columns[:5]]
        more = f" and {len(columns) - 5} more" if len(columns) > 5 else ""
        where = f", in column{'s' if len(columns) > 1 else ''} {', '.join(shown)}{more}"
    raise DataError(
        f"{name} holds {' or '.join(sorted(kinds))}: {count:,} value{'s' if count > 1 else ''} in {rows:,} of "
        f"{len(array):,} rows{where}. Drop those rows, or fill the gaps with values taken from training rows only."
    )
