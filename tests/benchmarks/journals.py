"""Size of a journal of a million steps, and the time to read it."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from dlfb_lab import journal
from dlfb_lab.events import Evaluation, Losses, RunStarted, Status
from dlfb_lab.record import Record

STEPS = 1_000_000
TARGET_BYTES, TARGET_S = 25_000_000, 1.0
BLOCKS = {"fast steps": 8192, "steps of 1 ms": 1000, "steps of 50 ms": 20}
"""Losses in one event. One is written every second of a long run, so slow steps mean small blocks."""


def measure(repeats: int) -> dict[str, Any]:
    """Writes a journal for each size of blocks, and reads it `repeats` times."""
    results = {}
    for name, block in BLOCKS.items():
        with tempfile.TemporaryDirectory(prefix="dlfb-bench-") as store:
            start = time.perf_counter()
            path = _write(Path(store), block)
            wrote_s = time.perf_counter() - start
            seconds = []
            for _ in range(repeats):
                start = time.perf_counter()
                steps, _losses = Record(journal.read(path)).losses()
                seconds.append(time.perf_counter() - start)
                assert len(steps) == STEPS
            results[name] = {
                "losses_a_block": block,
                "bytes": sum(f.stat().st_size for f in path.iterdir()),
                "write_s": wrote_s,
                "read_s": seconds,
                "read_median_s": median(seconds),
            }
    return {"steps": STEPS, "blocks": results, "target_bytes": TARGET_BYTES, "target_s": TARGET_S}


def _write(store: Path, block: int) -> Path:
    rng = np.random.default_rng(0)
    kept = journal.create(store, "million")
    kept.put(
        RunStarted(
            step=0,
            run_id=kept.path.name,
            name="million",
            task="regression",
            task_sentence="",
            classes=[],
            model="MLP",
            model_kind="linen",
            parameter_count=1000,
            steps_total=STEPS,
            steps_per_epoch=1000,
            batch_size=32,
            evaluations_total=200,
            monitor="valid/loss",
            monitor_mode="min",
            rows={"train": 32_000},
            split_hash="",
            settings={},
            versions={},
            device="",
        )
    )
    evaluate_every = STEPS // 200
    for first in range(0, STEPS, block):
        losses = rng.random(min(block, STEPS - first), dtype=np.float32)
        kept.put(Losses(step=first + len(losses), first_step=first, losses=losses, duration_s=0.0123456789))
        if first // evaluate_every != (first + block) // evaluate_every:
            metrics = {"loss": rng.random(), "r2": rng.random(), "mae": rng.random()}
            kept.put(Evaluation(step=first + len(losses), split="valid", metrics=metrics, rows=8000, duration_s=0.01))
    kept.put(Status(step=STEPS, state="finished"))
    kept.close()
    return kept.path


def lines(result: dict[str, Any]) -> list[str]:
    """Returns the result as text."""
    return [
        f"{name:15} {b['losses_a_block']:5} a block  {b['bytes'] / 1e6:6.1f} MB (target {TARGET_BYTES / 1e6:.0f})  "
        f"read in {b['read_median_s']:.3f} s (target {TARGET_S:.0f})"
        for name, b in result["blocks"].items()
    ]
