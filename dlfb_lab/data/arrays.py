"""Adapters for `(x, y)` and for a dict of arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import psutil

from dlfb_lab.data import tables
from dlfb_lab.data.host import as_array, refuse_kind
from dlfb_lab.data.lazy import lazy
from dlfb_lab.data.source import Examples, inputs_array, target_key
from dlfb_lab.errors import DataError, OptionError


def read_pair(data: Any, target: str | None, groups: Any) -> Examples | None:
    """Reads `(x, y)`: NumPy or JAX arrays, lists, a DataFrame with a Series, or a dict of inputs with y.

    Raises:
        OptionError: a target or groups are named, but the data have no names.
    """
    if not isinstance(data, tuple | list) or len(data) != 2:
        return None
    if target is not None:
        raise OptionError(f"--target {target}: the data are a pair (x, y), whose second part is the target already.")
    x, y = data
    y, moved_y = tables.aligned(y, "y", x)
    groups, moved_groups = tables.aligned(groups, "groups", x)
    names: list[str] = []
    if tables.is_table(x):
        x = tables.with_names(x)
        group_column = groups if isinstance(groups, str) and groups in x.columns else None
        if group_column is not None:
            groups, x = x[group_column], x.drop(columns=[group_column])
        inputs: Any = tables.features(x)
        names = list(x.columns)
    elif isinstance(x, Mapping):
        x = {str(k): v for k, v in x.items()}
        if isinstance(groups, str) and groups in x:
            groups = x.pop(groups)
        if not x:
            raise DataError("x is a dict without any array to learn from.")
        inputs = {k: inputs_array(v, f"x[{k!r}]") for k, v in x.items()}
    else:
        inputs = inputs_array(x, "x")
    notices = tuple(notice for notice in (moved_y, moved_groups) if notice)
    return Examples(x=inputs, features=names, groups=_groups(groups), notices=notices, **_targets(y))


def read_dict(data: Any, target: str | None, groups: Any) -> Examples | None:
    """Reads a dict of arrays, one of which is the target (`--target`, or a key such as "y" or "label").

    Raises:
        OptionError: which one is the target cannot be told.
    """
    if not isinstance(data, Mapping):
        return None
    data = {str(k): v for k, v in data.items()}
    keys = list(data)
    target = target_key(keys, target)
    group_key = groups if isinstance(groups, str) and groups in keys else None
    given = {k: v for k, v in data.items() if k not in (target, group_key)}
    inputs = {k: inputs_array(v, f"data[{k!r}]") for k, v in given.items()}
    if not inputs:
        raise DataError(f"The dict holds the target `{target}` and no inputs.")
    x = next(iter(inputs.values())) if len(inputs) == 1 else inputs
    groups = data[group_key] if group_key is not None else groups
    y, moved_y = tables.aligned(data[target], f"data[{target!r}]", given)
    groups, moved_groups = tables.aligned(groups, "groups", given)
    notices = tuple(notice for notice in (moved_y, moved_groups) if notice)
    return Examples(x=x, groups=_groups(groups), notices=notices, **_targets(y))


def read_array_inputs(data: Any, groups: Any) -> Examples | None:
    """Reads one array, or a dict of arrays, all of which is inputs; also `(x, x)`.

    Raises:
        DataError: it is a pair with other targets, or a dict of nothing.
    """
    if isinstance(data, tuple):
        if len(data) == 1 or (len(data) == 2 and data[0] is data[1]):
            return read_array_inputs(data[0], groups)
        raise DataError(
            f"The data are a tuple of {len(data)}, and a reconstruction has no targets beside its inputs. Give x "
            "alone, one array or a dict of arrays."
        )
    if isinstance(data, Mapping):
        named = {str(k): v for k, v in data.items()}
        if isinstance(groups, str) and groups in named:
            groups = named.pop(groups)
        if not named:
            raise DataError("The data are a dict without any array to learn from.")
        arrays = {k: inputs_array(v, f"data[{k!r}]") for k, v in named.items()}
        x: Any = next(iter(arrays.values())) if len(arrays) == 1 else arrays
    elif isinstance(data, list) or (hasattr(data, "shape") and hasattr(data, "dtype")):
        x = inputs_array(data, "x")
    else:
        return None
    return Examples(x=x, y=x, groups=_groups(groups))


def _targets(y: Any) -> dict[str, Any]:
    """Returns what `Examples` keeps about targets."""
    if tables.is_table(y) and len(y.columns) == 1:
        y = y.iloc[:, 0]
    if tables.is_series(y):
        return {"y": tables.target_array(y), "categories": tables.categories(y)}
    if tables.is_table(y):
        y = tables.with_names(y)
        return {"y": tables.features(y, "target"), "labels": list(y.columns)}
    _check_room(y)
    array = as_array(y, "y")
    refuse_kind(array, "y")
    if array.ndim == 0:
        raise DataError(f"y is a single value ({array}); it needs one target per example.")
    return {"y": array}


def _check_room(y: Any) -> None:
    """Targets are all looked at before training, so that they have to fit into memory."""
    unread = lazy(y)
    free = psutil.virtual_memory().available
    if unread is not None and unread.nbytes > free // 2:
        raise DataError(
            f"y lies in a file and takes {unread.nbytes / 1e9:.3g} GB; {free / 1e9:.3g} GB of memory are free. "
            "Give an iterable of batches (x, y) instead, which are read one at a time."
        )


def _groups(groups: Any) -> Any:
    if isinstance(groups, str):
        raise OptionError(f"--groups {groups}: the data have no column of that name. Give an array, one entry a row.")
    return None if groups is None else as_array(groups, "groups")
