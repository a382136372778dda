"""Arrays in a structure of the user's own, for a step of their own."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dlfb_lab.data import tables
from dlfb_lab.data.batch import is_values, leaf_name, leaves_of, narrow, on_host
from dlfb_lab.data.lazy import ArrayRows, lazy
from dlfb_lab.errors import DataError


class Tree(NamedTuple):
    """Arrays in the user's structure.

    Attributes:
        tree: a pytree of arrays; those that lie in a file are `lazy.ArrayRows`.
        rows: the leading dimension that all of them share; None where they do not, and the whole is one batch.
    """

    tree: Any
    rows: int | None


def tree_of(data: Any) -> Tree:
    """Returns the user's arrays as they are, but for 64-bit numbers, which become those that JAX takes.

    Args:
        data: a pytree of arrays, such as a tuple, a dict or a graph; or a DataFrame, which is a dict of its columns.

    Raises:
        DataError: there is nothing in it, or something that is no array of numbers.
    """
    if tables.is_table(data):
        data = {name: column.to_numpy() for name, column in tables.with_names(data).items()}
    given = leaves_of(data)
    if not given:
        raise DataError(f"The data are an empty {type(data).__name__}; there is nothing to learn from.")
    ready = [_array(data, number, leaf) for number, leaf in enumerate(given)]
    lengths = {array.shape[:1] for array in ready}
    rows = ready[0].shape[0] if len(lengths) == 1 and () not in lengths else None
    if rows == 0:
        raise DataError("The data have 0 rows; there is nothing to learn from.")
    if rows is None:
        ready = [array[:] if isinstance(array, ArrayRows) else array for array in ready]
    return Tree(jax.tree.unflatten(jax.tree.structure(data, is_leaf=is_values), ready), rows)


def _array(data: Any, number: int, leaf: Any) -> Any:
    what = f"data{leaf_name(data, number)}"
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return leaf
    unread = lazy(leaf)
    array = on_host(leaf if unread is None else unread[:1], what)
    if array.dtype.kind in "USO":
        raise DataError(f"{what} holds strings (such as {array.flat[0]!r}), not numbers. Number them first.")
    if unread is None:
        return array
    return unread.mapped(lambda rows: narrow(rows.astype(rows.dtype.newbyteorder("=")), what), array.dtype)
