"""Adapter for pandas DataFrames."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np

from dlfb_lab.data.host import Array, as_array, refuse_kind
from dlfb_lab.data.source import Examples
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


def with_names(table: pd.DataFrame) -> pd.DataFrame:
    """Returns the table with strings for column names.

    Raises:
        DataError: two columns have one name.
    """
    columns = [str(c) for c in table.columns]
    if len(set(columns)) < len(columns):
        twice = next(c for c in columns if columns.count(c) > 1)
        raise DataError(f"The table has {columns.count(twice)} columns named `{twice}`. Rename all but one.")
    return table.set_axis(columns, axis="columns")


def aligned(values: Any, what: str, like: Any) -> tuple[Any, str]:
    """Returns values in the order of the rows of `like`, where both have row labels, and a notice if that moved any.

    Args:
        values: what the user gave; anything without row labels is returned as it is.
        what: how to call them in a message.
        like: the inputs, or a dict of them, whose first with row labels counts.

    Raises:
        DataError: their row labels differ, so that which row belongs to which cannot be told.
    """
    of_x = like.values() if isinstance(like, Mapping) else [like]
    index: Any = next((x.index for x in of_x if _has_index(x)), None)
    # Other lengths are refused later, by their counts.
    if index is None or not _has_index(values) or len(values) != len(index) or values.index.equals(index):
        return values, ""
    if not (index.is_unique and values.index.is_unique and index.isin(values.index).all()):
        stray = next((f"only {what} has {i!r}" for i in values.index if i not in index), "some occur twice")
        raise DataError(
            f"The row labels (index) of x and of {what} differ: {stray}. Choose the same rows of both, "
            f"{what}.loc[x.index], or call .reset_index(drop=True) on both if they are in one order already."
        )
    return values.loc[index], f"The rows of {what} were put in the order of x, by their row labels (index)."


def _has_index(values: Any) -> bool:
    return is_table(values) or (is_series(values) and hasattr(values, "index"))


def read_table(data: Any, target: str | None, groups: Any) -> Examples | None:
    """Reads a DataFrame whose column `target` is to be predicted from all others.

    Raises:
        OptionError: the target or the groups are not a column.
        DataError: a feature column holds strings, or the target has gaps.
    """
    if not is_table(data):
        return None
    data = with_names(data)
    columns = list(data.columns)
    if target is None:
        raise OptionError(f"Which column is to be predicted? Say --target NAME, one of: {_listed(columns)}.")
    if target not in columns:
        raise OptionError(f"--target {target}: there is no such column.{nearest(target, columns) or _has(columns)}")
    return _examples(data, groups, target)


def read_table_inputs(data: Any, groups: Any) -> Examples | None:
    """Reads a DataFrame all of whose columns are inputs, but for that of the groups. Raises as `read_table`."""
    return _examples(with_names(data), groups, None) if is_table(data) else None


def _examples(data: pd.DataFrame, groups: Any, target: str | None) -> Examples:
    columns = list(data.columns)
    group_values, notice = None, ""
    dropped = [] if target is None else [target]
    if isinstance(groups, str):
        if groups not in columns:
            raise OptionError(f"--groups {groups}: there is no such column.{nearest(groups, columns)}")
        group_values = as_array(data[groups], "groups")
        dropped.append(groups)
    elif groups is not None:
        groups, notice = aligned(groups, "groups", data)
        group_values = as_array(groups, "groups")
    table = data.drop(columns=dropped)
    if not len(table.columns):
        raise DataError(f"The table has no column{_beside(dropped)} to learn from.")
    x = features(table)
    return Examples(
        x=x,
        y=x if target is None else target_array(data[target]),
        features=list(table.columns),
        groups=group_values,
        categories=None if target is None else categories(data[target]),
        notices=(notice,) if notice else (),
    )


def _beside(dropped: list[str]) -> str:
    return f" beside {' and '.join(dropped)}" if dropped else ""


def features(table: pd.DataFrame, what: str = "feature") -> Array:
    """Returns the columns as one matrix, shape [rows, columns], float64; gaps become NaN.

    Raises:
        DataError: a column does not hold numbers.
    """
    import pandas as pd

    for name in table.columns:
        column = table[name]
        # Dates with a time zone have a dtype of pandas' own.
        dtype = np.dtype("M8[ns]") if pd.api.types.is_datetime64_any_dtype(column) else column.dtype
        if isinstance(dtype, np.dtype):
            refuse_kind(np.empty(0, dtype), f"The {what} column `{name}`")
        if not (pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column)):
            example = column.dropna().iloc[0] if column.notna().any() else "nothing"
            raise DataError(
                f"The {what} column `{name}` holds {column.dtype} values (for example {str(example)!r}), not numbers. "
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
    array = np.asarray(column)
    refuse_kind(array, "The target")
    return array


def categories(column: Any) -> tuple[object, ...] | None:
    """Returns the categories that a categorical column uses, in their own order; None for any other column."""
    import pandas as pd

    if not isinstance(column, pd.Categorical):
        if not is_series(column) or not isinstance(column.dtype, pd.CategoricalDtype):
            return None
        column = column.array
    return tuple(column.remove_unused_categories().categories.tolist())


def _listed(columns: list[str]) -> str:
    return ", ".join(columns[:12]) + (f" and {len(columns) - 12} more" if len(columns) > 12 else "")


def _has(columns: list[str]) -> str:
    return f" The table has: {_listed(columns)}."
