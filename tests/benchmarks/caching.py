"""The first loss in a new kernel, with programs kept by an earlier one and without: imports included."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from processes import Failed, Kernel
from turns import in_turn

MOST = 0.5
KERNELS = 5

# One epoch is over within moments, so that the time of its losses is that of the first.
CELL = """
%load_ext dlfb_lab
import flax.linen as nn
import numpy as np

class MLP(nn.Module):
    @nn.compact
    def __call__(self, x):
        for width in (256, 256):
            x = nn.relu(nn.Dense(width)(x))
        return nn.Dense(10)(x)

rng = np.random.default_rng(0)
x = rng.standard_normal((2000, 100), dtype=np.float32)
y = rng.integers(0, 10, 2000)
run = %dlfb_train MLP() (x, y) --valid 0.2 --epochs 1 --batch-size 128 --store {store}
"""


def measure(repeats: int) -> dict[str, Any]:
    """Starts `repeats` kernels of each kind in turn, five at most, after one that fills the cache."""
    with tempfile.TemporaryDirectory(prefix="dlfb-bench-") as home:
        store, cache = Path(home) / "runs", Path(home) / "cache"
        filling_s = _first_loss_s(store, str(cache))
        files = [f for f in cache.rglob("*") if f.is_file()]
        if not files:
            raise Failed("the first kernel kept no program")
        size = sum(f.stat().st_size for f in files)
        calls = {"kept": lambda: _first_loss_s(store, str(cache)), "none": lambda: _first_loss_s(store, "off")}
        seconds = in_turn(calls, min(repeats, KERNELS))
    medians = {name: median(values) for name, values in seconds.items()}
    return {
        "first_loss_s": seconds,
        "filling_s": filling_s,
        "kept_bytes": size,
        "median_s": medians,
        "kept_over_none": medians["kept"] / medians["none"],
        "at_most": MOST,
    }


def _first_loss_s(store: Path, cache: str) -> float:
    """Returns the seconds from sending the cell to a new, idle kernel until its run had its first losses."""
    kernel = Kernel(DLFB_CACHE=cache)
    try:
        sent = time.time()
        kernel.run(CELL.format(store=store))
        return float(kernel.run("", "run.record.blocks[0].time_s").value) - sent
    finally:
        kernel.close()


def lines(result: dict[str, Any]) -> list[str]:
    """Returns the result as text."""
    seconds = result["median_s"]
    return [
        f"first loss in a new kernel: {seconds['kept']:.2f} s with {result['kept_bytes'] / 1e6:.1f} MB of programs, "
        f"{seconds['none']:.2f} s without: {result['kept_over_none']:.2f} (target at most {MOST})"
    ]
