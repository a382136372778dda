"""Adapter for pandas DataFrames."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np

from dlfb_lab.data.source import Array, Examples, as_array, refuse_kind
from dlfb_lab.errors import DataError, OptionError, nearest

if TYPE_CHECKING:
    import pandas as pd


def is_table(data: Any) -> TypeGuard[pd.DataFrame]:
    """Whether the data are a pandas DataFrame; pandas is touched only when the user has imported it."""
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(data, pandas.DataFrame)


def is_series(data: Any) -> TypeGuard[pd.Series]:
    """Whether the data are a pandas Series or Categorical."""
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(data, pandas.Series | pandas.Categorical)


def read_table(data: Any, target: str | None, groups: Any) -> Examples | None:
    """Reads a DataFrame whose column `target` is to be predicted from all others.

    Raises:
        OptionError: the target or the groups are not a column.
        DataError: a feature column holds strings, or the target has gaps.
    """
    if not is_table(data):
        return None
    columns = [str(c) for c in data.columns]
    if len(set(columns)) < len(columns):
        twice = next(c for c in columns if columns.count(c) > 1)
        raise DataError(f"The table has {columns.count(twice)} columns named `{twice}`. Rename all but one.")
    data = data.set_axis(columns, axis="columns")
    if target is None:
        raise OptionError(f"Which column is to be predicted? Say --target NAME, one of: {_listed(columns)}.")
    if target not in columns:
        raise OptionError(f"--target {target}: there is no such column.{nearest(target, columns) or _has(columns)}")
    group_values = None
    dropped = [target]
    if isinstance(groups, str):
        if groups not in columns:
            raise OptionError(f"--groups {groups}: there is no such column.{nearest(groups, columns)}")
        group_values = as_array(data[groups], "groups")
        dropped.append(groups)
    elif groups is not None:
        group_values = as_array(groups, "groups")
    table = data.drop(columns=dropped)
    if not len(table.columns):
        raise DataError(f"The table has no column beside {' and '.join(dropped)} to predict from.")
    return Examples(x=features(table), y=target_array(data[target]), features=list(table.columns), groups=group_values)


def features(table: pd.DataFrame) -> Array:
    """Returns the columns as one matrix, shape [rows, columns], float64; gaps become NaN.

    Raises:
        DataError: a column does not hold numbers.
    """
    import pandas as pd

    for name in table.columns:
        column = table[name]
        if isinstance(column.dtype, np.dtype):
            refuse_kind(np.empty(0, column.dtype), f"the feature column `{name}`")
        if not (pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column)):
            example = column.dropna().iloc[0] if column.notna().any() else "nothing"
            raise DataError(
                f"The feature column `{name}` holds {column.dtype} values (for example {str(example)!r}), not numbers. "
                f"Turn it into numbers with pandas.get_dummies(df, columns=[{str(name)!r}]), "
                f"or leave it out with df.drop(columns=[{str(name)!r}])."
            )
    return table.to_numpy(dtype=np.float64, na_value=np.nan)


def target_array(column: pd.Series | pd.Categorical) -> Array:
    """Returns a target column as an array, shape [rows].

    Raises:
        DataError: rows have no target.
    """
    import pandas as pd

    missing = int(pd.isna(column).sum())
    if missing:
        raise DataError(f"{missing:,} of {len(column):,} rows have no target. Drop them: df.dropna(subset=[target]).")
    return np.asarray(column)


def _listed(columns: list[str]) -> str:
    return ", ".join(columns[:12]) + (f" and {len(columns) - 12} more" if len(columns) > 12 else "")


def _has(columns: list[str]) -> str:
    return f" The table has: {_listed(columns)}."
