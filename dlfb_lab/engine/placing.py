"""Where arrays lie: on one device, or on several that share each batch."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dlfb_lab.models.model import PyTree


class Placing:
    """Puts state and data on devices.

    Args:
        devices: how many local devices share each batch.
    """

    def __init__(self, devices: int) -> None:
        self._devices = devices
        self._mesh = Mesh(np.array(jax.local_devices()[:devices]), ("batch",)) if devices > 1 else None
        self._on_host = self._mesh is None and jax.default_backend() == "cpu"

    def everywhere(self, tree: PyTree) -> PyTree:
        """Puts a pytree on the device; on each of several."""
        return (
            jax.device_put(tree)
            if self._mesh is None
            else jax.device_put(tree, NamedSharding(self._mesh, PartitionSpec()))
        )

    def ahead(self, batch: PyTree) -> PyTree:
        """Puts a batch where the next step will need it.

        On a single device that is the host it stays as it is: giving NumPy's arrays to a program takes less time than
        putting them there before.
        """
        return batch if self._on_host else self.everywhere(batch)

    def fetched(self, values: list[Any]) -> list[Any]:
        """Returns arrays as NumPy's: those of the host one by one, which is quicker there."""
        return [np.asarray(value) for value in values] if self._on_host else jax.device_get(values)

    def batch(self, rows: int) -> Any:
        """Returns how a batch's rows are divided; None on one device, or where they cannot be divided evenly."""
        if self._mesh is None or rows % self._devices:
            return None
        return NamedSharding(self._mesh, PartitionSpec("batch"))
