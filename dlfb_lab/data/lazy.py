"""Rows that are read when they are asked for: memory maps, HDF5 data sets, sparse matrices."""

from __future__ import annotations

import math
import mmap
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from dlfb_lab.data.host import Array

BLOCK_BYTES = 2**25
"""What is read at once where every row is looked at."""

Gather = Callable[[Any], Array]
"""Reads rows: takes a slice, or row numbers, shape [n], int64."""


class ArrayRows:
    """Rows of an array that is not in memory. Indexing reads the rows asked for, and no others.

    Attributes:
        shape: [rows, ...].
        dtype: of what indexing returns.
    """

    def __init__(self, gather: Gather, shape: tuple[int, ...], dtype: Any, rows: Array | None = None) -> None:
        """Takes what reads rows, the shape of all of them, and the row numbers that are wanted (None: all)."""
        self._gather, self._whole, self._rows = gather, shape, rows
        self.shape: tuple[int, ...] = shape if rows is None else (len(rows), *shape[1:])
        self.dtype: np.dtype[Any] = np.dtype(dtype)

    def __len__(self) -> int:
        return int(self.shape[0])

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes that all rows would take in memory."""
        return self.size * self.dtype.itemsize

    def __getitem__(self, index: Any) -> Array:
        """Reads one row, a slice of rows, or the rows of the given numbers (or mask), shape [n]."""
        if isinstance(index, int | np.integer):
            return self[np.array([index])][0]  # type: ignore[no-any-return]
        if not isinstance(index, slice):
            index = self._numbers(index)
        return self._gather(index if self._rows is None else self._rows[index])

    def take(self, index: Any) -> ArrayRows:
        """Returns the rows of the given numbers (or mask), unread."""
        numbers = self._numbers(index)
        return ArrayRows(self._gather, self._whole, self.dtype, numbers if self._rows is None else self._rows[numbers])

    def mapped(self, function: Callable[[Array], Array], dtype: Any = None, width: int | None = None) -> ArrayRows:
        """Returns rows that go through `function` as they are read.

        Args:
            function: takes and returns rows, shape [n, ...].
            dtype: what it returns, if another than it is given.
            width: likewise the length of the last axis.
        """
        gather = self._gather
        shape = self._whole if width is None else (*self._whole[:-1], width)
        return ArrayRows(lambda index: function(gather(index)), shape, dtype or self.dtype, self._rows)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return np.asarray(self[:], dtype)

    def __repr__(self) -> str:
        return f"<rows of shape {self.shape}, {self.dtype}, not in memory>"

    def _numbers(self, index: Any) -> Array:
        numbers = np.asarray(index)
        if numbers.dtype == bool:
            if numbers.shape != (len(self),):
                raise IndexError(f"a mask of shape {numbers.shape} does not fit {len(self)} rows")
            return np.flatnonzero(numbers)
        numbers = numbers.astype(np.int64)
        if numbers.size and not -len(self) <= numbers.min() <= numbers.max() < len(self):
            raise IndexError(f"rows {numbers.min()} to {numbers.max()} of {len(self)}")
        return np.where(numbers < 0, numbers + len(self), numbers)


def is_lazy(array: Any) -> bool:
    """Whether the array's rows are read only when they are asked for."""
    return isinstance(array, ArrayRows)


def examples_are_lazy(x: Any) -> bool:
    """Whether inputs, one array or several by name, hold rows that are not in memory."""
    return any(is_lazy(array) for array in (x.values() if isinstance(x, dict) else [x]))


def lazy(values: Any) -> ArrayRows | None:
    """Returns the rows of an array that lies in a file, unread; None for any other value."""
    if isinstance(values, ArrayRows):
        return values
    h5py: Any = sys.modules.get("h5py")
    if h5py is not None and isinstance(values, h5py.Dataset) and values.ndim:
        return ArrayRows(_ordered(lambda rows: np.asarray(values[rows])), values.shape, values.dtype)
    if isinstance(values, np.ndarray) and values.ndim and not isinstance(values, np.ma.MaskedArray) and _mapped(values):
        array = values.view(np.ndarray)
        # A copy even of a slice: what is read must not be read again.
        return ArrayRows(lambda rows: np.array(array[rows]), array.shape, array.dtype)
    return None


def sparse(matrix: Any) -> ArrayRows:
    """Returns the rows of a sparse matrix (CSR, also one in a file), made dense as they are read."""
    return ArrayRows(_ordered(lambda rows: np.asarray(matrix[rows].toarray())), matrix.shape, matrix.dtype)


def blocks(array: Any) -> Iterator[Array]:
    """Yields the rows of a lazy array some at a time, in order; an array in memory as it is."""
    if not is_lazy(array):
        yield array
        return
    step = max(1, BLOCK_BYTES // max(1, array.nbytes // max(1, len(array))))
    for start in range(0, len(array), step):
        yield array[start : start + step]


def _ordered(gather: Gather) -> Gather:
    """HDF5 wants row numbers rising and each but once."""

    def ordered(rows: Any) -> Array:
        if isinstance(rows, slice):
            return gather(rows)
        unique, inverse = np.unique(rows, return_inverse=True)
        return gather(unique)[inverse]

    return ordered


def _mapped(array: Any) -> bool:
    while array is not None:
        if isinstance(array, np.memmap | mmap.mmap):
            return True
        array = array.obj if isinstance(array, memoryview) else getattr(array, "base", None)
    return False
