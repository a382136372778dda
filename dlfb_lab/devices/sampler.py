"""Ten minutes of what the machine is doing, sampled only while somebody looks."""

from __future__ import annotations

import logging
import socket
import threading
from collections import deque
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic, time
from typing import Any

import psutil

from dlfb_lab.devices.background import Background
from dlfb_lab.devices.machine import Cpu, Disk, Memory, disk, memory
from dlfb_lab.devices.nvml import Gpu, Gpus, Nvml

FAST_S, SLOW_S = 1.0, 5.0
"""Between samples: while somebody asked in the last `RECENT_S`, and otherwise."""
RECENT_S = 5.0
IDLE_S = 600.0
"""Without anybody asking; then sampling ends until somebody asks again."""
HISTORY_S = 600.0
PATIENCE_S = 0.8
"""With a driver or a disk; a sample does without the figures that come later."""

GPU_FIGURES = ("utilisation_percent", "memory_used_bytes", "temperature_c", "power_w")

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One moment. None is a figure that could not be had; GPUs stand under their keys."""

    number: int
    time_s: float
    cpu_percent: float | None
    memory_used_bytes: int | None
    disk_used_bytes: int | None
    gpus: dict[str, dict[str, float | None]]


class Sampler:
    """Samples in a thread of its own, one for all who ask. Asking never waits for a device."""

    def __init__(self, disk_path: Path) -> None:
        """Prepares to sample; nothing is started before somebody asks.

        Args:
            disk_path: a folder on the disk whose room is of interest.
        """
        self._host = {"name": socket.gethostname(), "cpu_count": psutil.cpu_count() or 1, "disk_path": str(disk_path)}
        self._disk_path = disk_path
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._has_failed = False
        self._asked_s = 0.0
        self._samples: deque[Sample] = deque()
        # A number that another server gave out before this one started is older than all of this one's.
        self._number = self._whole_since = int(time() * 1000)
        self._memory: Memory | None = None
        self._disk: Disk | None = None
        self._missing: dict[str, str] = {}
        self._gpus: dict[str, Gpu] = {}
        self._no_gpus = "the GPUs have not been looked at yet"

    def since(self, after: int | None) -> dict[str, Any]:
        """Returns the samples after the given number as JSON values, or all where it is not one that is kept."""
        with self._lock:
            was_slow = monotonic() - self._asked_s > RECENT_S
            self._asked_s = monotonic()
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._run, name="dlfb-devices", daemon=True)
                self._thread.start()
            elif was_slow:
                self._wake.set()
            first = self._samples[0].number if self._samples else self._number + 1
            known = after is not None and max(self._whole_since, first - 1) <= after <= self._number
            wanted = [s for s in self._samples if not known or after is None or s.number > after]
            return {
                "host": self._host,
                "interval_s": SLOW_S if was_slow and self._samples else FAST_S,
                "next": self._number,
                "reset": not known,
                "samples": [self._told(sample) for sample in wanted],
                "memory_total_bytes": self._memory.total_bytes if self._memory else None,
                "memory_of": self._memory.of if self._memory else "machine",
                "disk_total_bytes": self._disk.total_bytes if self._disk else None,
                "missing": self._missing,
                "gpus": [_described(gpu) for gpu in self._gpus.values()],
                "no_gpus": self._no_gpus,
            }

    def close(self) -> None:
        """Ends the thread, waiting for it a moment at most."""
        with self._lock:
            self._closed = True
            thread = self._thread
        self._wake.set()
        if thread is not None:
            thread.join(2.0)

    def _told(self, sample: Sample) -> dict[str, Any]:
        nothing: dict[str, float | None] = dict.fromkeys(GPU_FIGURES)
        return {
            "time_s": sample.time_s,
            "cpu_percent": sample.cpu_percent,
            "memory_used_bytes": sample.memory_used_bytes,
            "disk_used_bytes": sample.disk_used_bytes,
            "gpus": [sample.gpus.get(key, nothing) for key in self._gpus],
        }

    def _run(self) -> None:
        cpu, nvml = Cpu(), Nvml()
        gpus = Background(nvml.sample, "dlfb-gpus")
        disks = Background(self._look_at_disk, "dlfb-disk")
        taken_s = monotonic() - FAST_S + 0.2  # so that the CPU has been busy for a while when it is first looked at
        while self._is_wanted(taken_s):
            taken_s = monotonic()
            try:
                self._take(cpu, disks, gpus)
            except Exception:
                if not self._has_failed:
                    log.exception("dlfb_lab: a sample of the devices failed")
                self._has_failed = True
        for background in (gpus, disks):
            background.stop(PATIENCE_S)
        if not gpus.hangs:
            nvml.close()

    def _is_wanted(self, taken_s: float) -> bool:
        """Waits until the next sample is due; False when nobody has asked for long."""
        while True:
            with self._lock:
                asked_ago_s = monotonic() - self._asked_s
                if self._closed or asked_ago_s > IDLE_S:
                    self._thread = None
                    return False
            interval_s = FAST_S if asked_ago_s < RECENT_S else SLOW_S
            left_s = taken_s + interval_s - monotonic()
            if left_s <= 0:
                return True
            self._wake.wait(left_s)
            self._wake.clear()

    def _look_at_disk(self) -> Disk | str:
        try:
            return disk(self._disk_path)
        except OSError as error:
            return f"the disk of {self._disk_path} cannot be looked at ({error.strerror or error})"

    def _take(self, cpu: Cpu, disks: Background[Disk | str], gpus: Background[Gpus]) -> None:
        missing: dict[str, str] = {}
        cpu_percent, found = None, None
        try:
            cpu_percent = cpu.percent()
            if cpu_percent is None:
                missing["cpu_percent"] = "not measured yet: that takes two looks"
        except Exception as error:
            missing["cpu_percent"] = f"the operating system does not tell ({error})"
        try:
            found = memory()
        except Exception as error:
            missing["memory_used_bytes"] = f"the operating system does not tell ({error})"
        room, due_s = disks.ask(PATIENCE_S)
        if due_s:
            missing["disk_used_bytes"] = f"the disk has not answered for {due_s:.0f} s"
        elif isinstance(room, str):
            missing["disk_used_bytes"] = room
        reading, gpus_due_s = gpus.ask(PATIENCE_S)
        current = [] if reading is None or gpus_due_s else reading.gpus
        with self._lock:
            self._number += 1
            now_s = time()
            if self._samples and now_s <= self._samples[-1].time_s:
                # The clock was set back: what came before would lie in the future.
                self._samples.clear()
                self._whole_since = self._number
            self._memory, self._missing = found or self._memory, missing
            self._disk = room if isinstance(room, Disk) else self._disk
            self._samples.append(
                Sample(
                    number=self._number,
                    time_s=round(now_s, 3),
                    cpu_percent=cpu_percent,
                    memory_used_bytes=found.used_bytes if found else None,
                    disk_used_bytes=room.used_bytes if isinstance(room, Disk) and not due_s else None,
                    gpus={gpu.key: {f: getattr(gpu, f) for f in GPU_FIGURES} for gpu in current},
                )
            )
            while self._samples[0].time_s < now_s - HISTORY_S:
                self._samples.popleft()
            if gpus_due_s:
                self._note(
                    [], f"the NVIDIA driver has not answered for {gpus_due_s:.0f} s; its last figures are that old"
                )
            else:
                self._note(current, reading.reason if reading else "")

    def _note(self, current: list[Gpu], reason: str) -> None:
        """Keeps what is known of each GPU that has a place in the samples."""
        kept = {key for sample in self._samples for key in sample.gpus}
        gone = dict.fromkeys(GPU_FIGURES, reason or "the GPU is not there any more")
        found = {
            key: replace(gpu, missing={**gpu.missing, **gone}) for key, gpu in self._gpus.items() if key in kept
        } | {gpu.key: gpu for gpu in current}
        found = dict(sorted(found.items(), key=lambda item: (item[1].index, item[0])))
        if list(found) != list(self._gpus):
            # Places in the samples have changed, so nobody can go on from where they are.
            self._whole_since = self._number
        self._gpus = found
        self._no_gpus = "" if found else reason


def _described(gpu: Gpu) -> dict[str, Any]:
    return {
        "index": gpu.index,
        "name": gpu.name,
        "memory_total_bytes": gpu.memory_total_bytes,
        "power_limit_w": gpu.power_limit_w,
        "missing": gpu.missing,
    }
