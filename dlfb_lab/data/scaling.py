"""Standardising inputs with the statistics of the training rows only."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from dlfb_lab.data.host import Array
from dlfb_lab.data.lazy import blocks, is_lazy
from dlfb_lab.data.source import Inputs
from dlfb_lab.errors import DataError


@dataclass(frozen=True)
class Scaling:
    """Mean and standard deviation along the last axis of each input.

    Attributes:
        mean: by input name ("" for a single array), shape [features], float64.
        std: likewise; 1 where a feature is constant.
    """

    mean: dict[str, Array]
    std: dict[str, Array]

    @classmethod
    def fit(cls, x: Inputs) -> Scaling:
        """Takes the statistics of training rows, x: shape [rows, ..., features]."""
        mean, std = {}, {}
        for name, array in _named(x).items():
            mean[name], spread = _statistics(array)
            std[name] = np.where(spread > 1e-12 * (1 + np.abs(mean[name])), spread, 1.0)
        return cls(mean, std)

    def apply(self, x: Inputs) -> Inputs:
        """Returns `(x - mean) / std`, float32."""
        return _each(x, lambda array, name: _float32((array - self.mean[name]) / self.std[name], name))

    def to_json(self) -> dict[str, Any]:
        """Returns the statistics as JSON values."""
        return {name: {"mean": self.mean[name].tolist(), "std": self.std[name].tolist()} for name in self.mean}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Scaling:
        """Reads what `to_json` returned."""
        mean, std = (
            {name: np.asarray(one[what], np.float64) for name, one in values.items()} for what in ("mean", "std")
        )
        return cls(mean, std)


def device_inputs(x: Inputs, scaling: Scaling | None) -> Inputs:
    """Returns inputs as the device takes them: scaled, if they are to be, and then float32 in place of float64.

    Rows that lie in a file are converted as they are read.

    Raises:
        DataError: a number is too large for float32.
    """
    if scaling is not None:
        return scaling.apply(x)
    return _each(x, lambda array, name: _float32(array, name) if array.dtype.kind == "f" else array)


def flattened(x: Inputs) -> Iterator[tuple[str, Array]]:
    """Yields inputs whose numbers differ between rows, but not once they are float32.

    Yields:
        The input's name ("" for a single array), and where along a row that is, as flat positions.
    """
    for name, array in _named(x).items():
        if array.dtype.kind == "f" and array.dtype.itemsize > 4:
            first = array[:1].reshape(1, -1)
            rounded = first.astype(np.float32)
            equal, differ = np.ones(first.shape[1], bool), np.zeros(first.shape[1], bool)
            for block in blocks(array):
                rows = block.reshape(len(block), -1)
                equal &= (rows.astype(np.float32) == rounded).all(axis=0)
                differ |= (rows != first).any(axis=0)
                if not equal.any():
                    break
            lost = np.flatnonzero(equal & differ)
            if len(lost):
                yield name, lost


def _each(x: Inputs, convert: Callable[[Array, str], Array]) -> Inputs:
    ready: dict[str, Array] = {}
    for name, array in _named(x).items():
        if is_lazy(array):
            dtype = convert(array[:1], name).dtype
            ready[name] = cast(Any, array).mapped(lambda rows, name=name: convert(rows, name), dtype)
        else:
            ready[name] = convert(array, name)
    return ready if isinstance(x, dict) else ready[""]


def _statistics(array: Array) -> tuple[Array, Array]:
    axes = tuple(range(array.ndim - 1)) if array.ndim > 1 else (0,)
    if not is_lazy(array):
        return array.mean(axis=axes, dtype=np.float64), array.std(axis=axes, dtype=np.float64)
    count = math.prod(array.shape[axis] for axis in axes)
    mean = sum(block.sum(axis=axes, dtype=np.float64) for block in blocks(array)) / count
    squares = sum(((block - mean) ** 2).sum(axis=axes, dtype=np.float64) for block in blocks(array))
    return mean, np.sqrt(squares / count)


def _float32(array: Array, name: str) -> Array:
    if array.dtype.itemsize <= 4:
        return array
    with np.errstate(over="ignore"):
        rounded = array.astype(np.float32)
    large = ~np.isfinite(rounded)
    if large.any():
        raise DataError(
            f"{name or 'x'} holds {array[large][0]:.3g}, too large for the 32-bit numbers of a model. "
            "Divide it by a constant, or take its logarithm."
        )
    return rounded


def _named(x: Inputs) -> dict[str, Array]:
    return x if isinstance(x, dict) else {"": x}
