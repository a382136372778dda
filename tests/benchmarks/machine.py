"""Where and with what a benchmark ran."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = (
    *("dlfb-lab", "jax", "jaxlib", "flax", "optax", "numpy", "keras", "torch"),
    *("ipykernel", "ipython", "ipywidgets", "anywidget", "jupyter-server"),
)


def describe() -> dict[str, Any]:
    """Returns machine, versions, commit, and date as JSON values."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "machine": {
            "device": _device(),
            "cpu": _cpu(),
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
            "os": platform.platform(),
        },
        "versions": {"python": platform.python_version(), **{p: v for p in PACKAGES if (v := _version(p))}},
    }


def _device() -> str:
    """Asks JAX in a process of its own, which gives a GPU's memory back at once."""
    code = "import jax; d = jax.devices()[0]; print(d.platform if d.platform == 'cpu' else d.device_kind)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def load() -> float:
    """Returns how many processes wanted a core over the last minute: what the figures should be read with."""
    return round(os.getloadavg()[0], 2)


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> dict[str, Any]:
    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
        )
        return done.stdout.strip()

    # A new result does not make the code another one.
    changed = git("status", "--porcelain", "--", ":/", ":!/tests/benchmarks/results")
    return {"hash": git("rev-parse", "HEAD") or None, "dirty": bool(changed)}
