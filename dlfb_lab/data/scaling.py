"""Standardising inputs with the statistics of the training rows only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from dlfb_lab.data.source import Array, Inputs


@dataclass(frozen=True)
class Scaling:
    """Mean and standard deviation along the last axis of each floating input.

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
            if array.dtype.kind == "f":
                axes = tuple(range(array.ndim - 1)) if array.ndim > 1 else (0,)
                mean[name] = array.mean(axis=axes, dtype=np.float64)
                spread = array.std(axis=axes, dtype=np.float64)
                std[name] = np.where(spread > 1e-12 * (1 + np.abs(mean[name])), spread, 1.0)
        return cls(mean, std)

    def apply(self, x: Inputs) -> Inputs:
        """Returns `(x - mean) / std`, float32, for the inputs that were fitted."""
        scaled = {
            name: ((array - self.mean[name]) / self.std[name]).astype(np.float32) if name in self.mean else array
            for name, array in _named(x).items()
        }
        return scaled if isinstance(x, dict) else scaled[""]

    def to_json(self) -> dict[str, Any]:
        """Returns the statistics as JSON values."""
        return {name: {"mean": self.mean[name].tolist(), "std": self.std[name].tolist()} for name in self.mean}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Scaling:
        """Returns what `to_json` wrote."""
        return cls(
            {name: np.asarray(v["mean"]) for name, v in values.items()},
            {name: np.asarray(v["std"]) for name, v in values.items()},
        )


def _named(x: Inputs) -> dict[str, Array]:
    return x if isinstance(x, dict) else {"": x}
