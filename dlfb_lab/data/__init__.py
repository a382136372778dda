"""What can be trained on, and how it is divided and scaled."""

from __future__ import annotations

from typing import Any

import numpy as np

from dlfb_lab.data import arrays, tables
from dlfb_lab.data.source import Examples, Reader, check
from dlfb_lab.errors import DataError

READERS: tuple[Reader, ...] = (tables.read_table, arrays.read_dict, arrays.read_pair)


def read(data: Any, *, target: Any = None, groups: Any = None) -> Examples:
    """Reads the user's data with the first adapter that knows their kind.

    Args:
        data: `(x, y)`, a dict of arrays, or a DataFrame.
        target: the column or key to predict.
        groups: a column's name, or what each row belongs to, shape [rows].

    Raises:
        DataError: no adapter knows the data, or they cannot be trained on.
        OptionError: `target` or `groups` do not fit the data.
    """
    # A column may be named by a number.
    target = None if target is None else str(target)
    groups = str(groups) if np.isscalar(groups) else groups
    for reader in READERS:
        examples = reader(data, target, groups)
        if examples is not None:
            return check(examples)
    raise DataError(
        f"Data of type {type(data).__name__} cannot be read. "
        "Give (x, y), a dict of arrays, or a pandas DataFrame with --target NAME."
    )
