"""Standardising inputs with the statistics of the training rows only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from dlfb_lab.data.source import Array, Inputs
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
            axes = tuple(range(array.ndim - 1)) if array.ndim > 1 else (0,)
            mean[name] = array.mean(axis=axes, dtype=np.float64)
            spread = array.std(axis=axes, dtype=np.float64)
            std[name] = np.where(spread > 1e-12 * (1 + np.abs(mean[name])), spread, 1.0)
        return cls(mean, std)

    def apply(self, x: Inputs) -> Inputs:
        """Returns `(x - mean) / std`, float32."""
        scaled = {name: _float32((array - self.mean[name]) / self.std[name], name) for name, array in _named(x).items()}
        return scaled if isinstance(x, dict) else scaled[""]

    def to_json(self) -> dict[str, Any]:
        """Returns the statistics as JSON values."""
        return {name: {"mean": self.mean[name].tolist(), "std": self.std[name].tolist()} for name in self.mean}


def device_inputs(x: Inputs, scaling: Scaling | None) -> Inputs:
    """Returns inputs as the device takes them: scaled, if they are to be, and then float32 in place of float64.

    Raises:
        DataError: a number is too large for float32.
    """
    if scaling is not None:
        return scaling.apply(x)
    ready = {name: _float32(a, name) if a.dtype.kind == "f" else a for name, a in _named(x).items()}
    return ready if isinstance(x, dict) else ready[""]


def flattened(x: Inputs) -> Iterator[tuple[str, Array]]:
    """Yields inputs whose numbers differ between rows, but not once they are float32.

    Yields:
        The input's name ("" for a single array), and where along a row that is, as flat positions.
    """
    for name, array in _named(x).items():
        if array.dtype.kind == "f" and array.dtype.itemsize > 4:
            rows = array.reshape(len(array), -1)
            rounded = rows.astype(np.float32)
            lost = np.flatnonzero((rounded == rounded[0]).all(axis=0) & (rows != rows[0]).any(axis=0))
            if len(lost):
                yield name, lost


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
