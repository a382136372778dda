from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import jax
import pytest

from dlfb_lab.engine import clock, memory

FIGURES = {"bytes_in_use": 100, "peak_bytes_in_use": 300, "bytes_limit": 1000, "pool_bytes": 900, "num_allocs": 7}


@dataclass
class Device:
    """A device as JAX shows it."""

    stats: Any = field(default_factory=FIGURES.copy)
    platform: str = "gpu"
    id: int = 1
    device_kind: str = "Imagined GPU"

    def memory_stats(self) -> Any:
        if isinstance(self.stats, Exception):
            raise self.stats
        return self.stats


def test_the_allocators_figures_are_handed_on() -> None:
    found = memory.device_memory(Device(), 5)
    assert (found.step, found.device, found.device_kind, found.reason) == (5, "gpu:1", "Imagined GPU", "")
    assert (found.in_use_bytes, found.peak_bytes, found.limit_bytes, found.pool_bytes) == (100, 300, 1000, 900)


def test_what_is_not_reported_is_nan_and_never_zero() -> None:
    found = memory.device_memory(Device({"bytes_in_use": 100}), 0)
    assert found.in_use_bytes == 100
    assert all(math.isnan(v) for v in (found.peak_bytes, found.limit_bytes, found.pool_bytes))


@pytest.mark.parametrize("stats", [None, {}, RuntimeError("unimplemented")])
def test_a_backend_without_figures_says_why(stats: Any) -> None:
    found = memory.device_memory(Device(stats, platform="imagined"), 0)
    assert "imagined backend" in found.reason
    assert math.isnan(found.in_use_bytes)


def test_this_machines_devices_give_figures_or_a_reason() -> None:
    for device in jax.local_devices():
        found = memory.device_memory(device, 0)
        assert found.reason != "" or found.in_use_bytes > 0


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("XLA_PYTHON_CLIENT_PREALLOCATE", "true", True),
        ("XLA_PYTHON_CLIENT_PREALLOCATE", "False", False),
        ("XLA_PYTHON_CLIENT_ALLOCATOR", "platform", False),
        ("XLA_PYTHON_CLIENT_ALLOCATOR", "bfc", True),
    ],
)
def test_a_pool_taken_at_the_start_is_named(
    name: str, value: str, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("XLA_PYTHON_CLIENT_PREALLOCATE", "XLA_PYTHON_CLIENT_ALLOCATOR"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv(name, value)
    assert memory.device_memory(Device(), 0).preallocated is expected
    assert memory.device_memory(Device(platform="tpu"), 0).preallocated is False


def test_only_what_has_changed_is_told_and_at_most_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(clock, "monotonic", lambda: now[0])
    device, other = Device(), Device(id=2, stats=None)
    watch = memory.MemoryWatch(clock.Clock(None), [device, other])
    assert [e.device for e in watch.look(0)] == ["gpu:1", "gpu:2"]
    device.stats["bytes_in_use"] = 500
    now[0] = 0.9
    assert list(watch.look(1)) == []
    now[0] = 1.0
    assert [(e.device, e.in_use_bytes) for e in watch.look(2)] == [("gpu:1", 500)]
    now[0] = 2.0
    assert list(watch.look(3)) == []
    now[0] = 1e5
    device.stats["bytes_in_use"] = 502
    assert list(watch.look(4)) == [], "less than a hundredth is no news"
    device.stats["bytes_in_use"] = 900
    now[0] = 1e5 + 20
    assert list(watch.look(5)) == [], "a long run looks rarely"
    now[0] = 1e5 + 60
    assert [e.in_use_bytes for e in watch.look(6)] == [900]
