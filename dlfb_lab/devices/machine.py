"""What the machine is doing: CPU, memory, disk. In a container the memory is the container's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

PROC_CGROUP = Path("/proc/self/cgroup")
CGROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Memory that is in use and cannot be given to somebody else, and how much there is."""

    used_bytes: int
    total_bytes: int
    of: Literal["machine", "container"] = "machine"


@dataclass(frozen=True, kw_only=True)
class Disk:
    """Room on the disk that holds a folder."""

    used_bytes: int
    total_bytes: int


class Cpu:
    """How busy all cores together were since the last look."""

    def __init__(self) -> None:
        self._busy, self._all = _cpu_seconds()

    def percent(self) -> float | None:
        """Returns 0 to 100, or None where too little time has passed to tell."""
        busy, every = _cpu_seconds()
        spent = every - self._all
        # The kernel counts in hundredths of a second.
        if spent < 0.1:
            return None
        share = (busy - self._busy) / spent
        self._busy, self._all = busy, every
        return round(min(100.0, max(0.0, 100.0 * share)), 1)


def _cpu_seconds() -> tuple[float, float]:
    times = psutil.cpu_times()._asdict()
    # Linux counts the time of guests within that of users.
    every = sum(times.values()) - times.get("guest", 0.0) - times.get("guest_nice", 0.0)
    return every - times["idle"] - times.get("iowait", 0.0), every


def memory(proc_cgroup: Path = PROC_CGROUP, cgroups: Path = CGROUPS) -> Memory:
    """Returns the memory of the container that this process is in, or of the machine where that sets no lower limit.

    Args:
        proc_cgroup: says in which control group this process is.
        cgroups: where control groups are mounted.
    """
    machine = psutil.virtual_memory()
    limits = [limit for folder in _groups(proc_cgroup, cgroups) if (limit := _limit(folder)) is not None]
    for total_bytes, used, cache in sorted(limits, key=lambda limit: limit[0]):
        if total_bytes < machine.total and (used_bytes := _used(used, cache)) is not None:
            return Memory(used_bytes=used_bytes, total_bytes=total_bytes, of="container")
    return Memory(used_bytes=machine.total - machine.available, total_bytes=machine.total)


def _groups(proc_cgroup: Path, cgroups: Path) -> list[Path]:
    """Returns the folders of this process's control groups and of all groups around them."""
    try:
        lines = proc_cgroup.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return []
    found: list[Path] = []
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "":
            root = cgroups
        elif "memory" in controllers.split(","):
            root = cgroups / "memory"
        else:
            continue
        # Within a container the path may be the host's, which is not mounted here: then the root is the container.
        inner = root / path.lstrip("/")
        found += [folder for folder in (inner, *inner.parents) if folder == root or root in folder.parents]
    return list(dict.fromkeys(found))


def _limit(folder: Path) -> tuple[int, Path, str] | None:
    """Returns a control group's limit, where its use is said, and what its kept files are called there.

    Of version 2 or 1; None where it has no limit.
    """
    for limit, used, cache in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            return int((folder / limit).read_text()), folder / used, cache
        except (OSError, ValueError):
            continue
    return None


def _used(file: Path, cache: str) -> int | None:
    try:
        used_bytes = int(file.read_text())
        lines = file.with_name("memory.stat").read_text().splitlines()
        # Files that are only kept in memory because there is room do not count as used.
        return max(0, used_bytes - sum(int(line.split()[1]) for line in lines if line.startswith(f"{cache} ")))
    except (OSError, ValueError, IndexError):
        return None


def disk(path: Path) -> Disk:
    """Returns the room on the disk that holds a folder.

    Raises:
        OSError: the folder is not there, or cannot be looked at.
    """
    usage = psutil.disk_usage(str(path))
    return Disk(used_bytes=usage.used, total_bytes=usage.total)
