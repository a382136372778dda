"""Size of a journal of a million steps, and the time to read it."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import numpy as np

from dlfb_lab import journal
from dlfb_lab.events import Evaluation, Losses, RunStarted, Status
from dlfb_lab.record import Record

STEPS = 1_000_000
TARGET_BYTES, TARGET_S = 25_000_000, 1.0
STEP_S = {"steps of 20 µs": 2e-5, "steps of 1 ms": 1e-3, "steps of 50 ms": 0.05}
REPORT_S = 0.1
"""How often a long run reports its losses; the journal's clock is turned on by this much for each report."""


def measure(repeats: int) -> dict[str, Any]:
    """Writes a journal for each length of steps, and reads it `repeats` times."""
    results = {}
    for name, step_s in STEP_S.items():
        with tempfile.TemporaryDirectory(prefix="dlfb-bench-") as store:
            start = time.perf_counter()
            path = write(Path(store), step_s)
            wrote_s = time.perf_counter() - start
            seconds = []
            for _ in range(repeats):
                start = time.perf_counter()
                steps, _losses = Record(journal.read(path)).losses()
                seconds.append(time.perf_counter() - start)
                assert len(steps) == STEPS
            results[name] = {
                "lines": (path / journal.EVENTS).read_bytes().count(b"\n"),
                "bytes": sum(f.stat().st_size for f in path.iterdir()),
                "write_s": wrote_s,
                "read_s": seconds,
                "read_median_s": median(seconds),
            }
    return {"steps": STEPS, "blocks": results, "target_bytes": TARGET_BYTES, "target_s": TARGET_S}


def write(store: Path, step_s: float) -> Path:
    """Writes what a run of a million steps of this length leaves behind, evaluated 200 times; returns its folder."""
    now = [0.0]
    with mock.patch.object(journal, "monotonic", lambda: now[0]):
        return _write(store, step_s, now)


def started(run_id: str, steps: int) -> RunStarted:
    """Returns the plan of a run of that many steps."""
    return RunStarted(
        step=0,
        run_id=run_id,
        name=run_id,
        task="regression",
        task_sentence="one number",
        classes=[],
        model="MLP",
        model_kind="linen",
        parameter_count=1000,
        steps_total=steps,
        steps_per_epoch=1000,
        batch_size=32,
        evaluations_total=200,
        monitor="valid/loss",
        monitor_mode="min",
        rows={"train": 32_000},
        split_hash="",
        settings={},
        versions={"dlfb-lab": "0.1.0"},
        device="cpu",
    )


def _write(store: Path, step_s: float, now: list[float]) -> Path:
    block = round(REPORT_S / step_s)
    rng = np.random.default_rng(0)
    kept = journal.create(store, "million")
    kept.put(started(kept.path.name, STEPS))
    evaluate_every = STEPS // 200
    for first in range(0, STEPS, block):
        now[0] += REPORT_S
        losses = rng.random(min(block, STEPS - first), dtype=np.float32)
        kept.put(Losses(step=first + len(losses), first_step=first, losses=losses, duration_s=step_s * len(losses)))
        if first // evaluate_every != (first + block) // evaluate_every:
            metrics = {"loss": rng.random(), "r2": rng.random(), "mae": rng.random()}
            kept.put(Evaluation(step=first + len(losses), split="valid", metrics=metrics, rows=8000, duration_s=0.01))
    kept.put(Status(step=STEPS, state="finished"))
    kept.close()
    return kept.path


def lines(result: dict[str, Any]) -> list[str]:
    """Returns the result as text."""
    return [
        f"{name:15} {b['lines']:6,} lines  {b['bytes'] / 1e6:6.1f} MB (target {TARGET_BYTES / 1e6:.0f})  "
        f"read in {b['read_median_s']:.3f} s (target {TARGET_S:.0f})"
        for name, b in result["blocks"].items()
    ]
