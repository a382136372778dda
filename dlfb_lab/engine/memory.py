"""What JAX's allocator holds of the devices, for the record."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import jax
import psutil

from dlfb_lab.data.lazy import is_lazy
from dlfb_lab.engine.clock import Clock
from dlfb_lab.errors import ModelError
from dlfb_lab.events import DeviceMemory


class MemoryWatch:
    """Tells the allocator's figures whenever they have changed; rarely in a long run, as losses' lines are."""

    def __init__(self, clock: Clock, devices: Sequence[Any] | None = None) -> None:
        self._clock = clock
        self._devices = jax.local_devices() if devices is None else devices
        self._told: dict[str, DeviceMemory] = {}
        self._looked_s = -math.inf

    def look(self, step: int) -> Iterator[DeviceMemory]:
        """Yields what is new at a step, at most once a second."""
        now = self._clock.elapsed_s
        if now - self._looked_s < max(1.0, now / 2000):
            return
        self._looked_s = now
        for device in self._devices:
            found = device_memory(device, step)
            if _differs(found, self._told.get(found.device)):
                self._told[found.device] = found
                yield found


def device_memory(device: Any, step: int) -> DeviceMemory:
    """Returns what the allocator says of one device now."""
    about = DeviceMemory(step=step, device=f"{device.platform}:{device.id}", device_kind=device.device_kind)
    try:
        stats = device.memory_stats()
    except Exception as error:  # what a backend raises here is its own
        return replace(about, reason=f"the {device.platform} backend gave no allocator statistics ({error})")
    if not stats:
        return replace(about, reason=f"the {device.platform} backend reports no allocator statistics")
    figures = {
        "in_use_bytes": "bytes_in_use",
        "peak_bytes": "peak_bytes_in_use",
        "limit_bytes": "bytes_limit",
        "pool_bytes": "pool_bytes",
    }
    known: Any = {name: float(stats[key]) for name, key in figures.items() if key in stats}
    return replace(about, **known, preallocated=device.platform == "gpu" and _preallocates())


def check_parameters(count: int, members: int) -> None:
    """Refuses parameters that take more memory than the device has left.

    Args:
        count: scalars of one member, taken to be float32.
        members: trained at once; 0 for one model.

    Raises:
        ModelError: what they need, and what is free.
    """
    needed, free = 4.0 * count * max(1, members), free_bytes(jax.local_devices()[0])
    if needed > free:
        whose = f"The parameters of {members:,} members" if members else "The parameters"
        advice = "Say fewer --seeds or values of --sweep" if members else "Take a smaller model"
        raise ModelError(f"{whose} take {needed / 1e9:.3g} GB, and {max(free, 0) / 1e9:.3g} GB are free. {advice}.")


def check_room(program: Any) -> None:
    """Refuses a compiled program that needs more memory than its device has left.

    Raises:
        ModelError: what it needs, and what is free.
    """
    try:
        analysis = program.memory_analysis()
        needed = float(analysis.temp_size_in_bytes + analysis.output_size_in_bytes - analysis.alias_size_in_bytes)
    except Exception:  # not every backend tells, and what it raises is its own
        return
    free = free_bytes(jax.local_devices()[0])
    if needed > free:
        raise ModelError(
            f"A training step needs {needed / 1e9:.3g} GB beside data and state, and {max(free, 0) / 1e9:.3g} GB are "
            "free. Take a smaller --batch-size, --remat or --precision bf16."
        )


SHARE_FOR_DATA = 0.6
"""Of a device's free memory; the rest is for state and intermediate values."""


def fits_on_device(tree: Any) -> bool:
    """Whether arrays of the host are to be kept on the device: not those in files, nor more than there is room for."""
    leaves = jax.tree.leaves(tree)
    if any(is_lazy(leaf) for leaf in leaves):
        return False
    return sum(int(leaf.nbytes) for leaf in leaves) <= SHARE_FOR_DATA * free_bytes(jax.local_devices()[0])


def free_bytes(device: Any) -> float:
    """Returns how much memory arrays on a device may still take; infinity where that is not known."""
    found = device_memory(device, 0)
    if math.isfinite(found.limit_bytes) and math.isfinite(found.in_use_bytes):
        return found.limit_bytes - found.in_use_bytes
    return float(psutil.virtual_memory().available) if device.platform == "cpu" else math.inf


def _preallocates() -> bool:
    """Whether XLA takes its share of a GPU at the start, as its environment variables say."""
    wanted = os.environ.get("XLA_PYTHON_CLIENT_PREALLOCATE", "true").lower() not in ("false", "0")
    return wanted and os.environ.get("XLA_PYTHON_CLIENT_ALLOCATOR", "default").lower() in ("default", "bfc")


def _differs(found: DeviceMemory, told: DeviceMemory | None) -> bool:
    if told is None or found.reason != told.reason:
        return True
    pairs = (
        (found.in_use_bytes, told.in_use_bytes),
        (found.peak_bytes, told.peak_bytes),
        (found.pool_bytes, told.pool_bytes),
    )
    return any(abs(new - old) > 0.01 * old for new, old in pairs)
