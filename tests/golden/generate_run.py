"""Writes `run.jsonl`: every kind of event in one small journal, for the tests of Python and TypeScript.

Usage: python tests/golden/generate_run.py
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from dlfb_lab import events  # noqa: E402

START_S = 1_700_000_000.0


def golden_events() -> list[events.Event]:
    """Returns 60 of 100 steps, evaluated every 20; one loss is NaN and one is infinite."""
    rng = np.random.default_rng(0)
    losses = np.exp(-np.arange(60) / 30) + 0.01 * rng.random(60)
    losses[50], losses[51] = math.nan, math.inf
    told: list[events.Event] = [
        events.RunStarted(
            step=0,
            time_s=START_S,
            run_id="golden-01",
            name="golden <run>",
            task="multiclass",
            task_sentence="three classes, one per row",
            classes=["setosa", "versicolor", "virginica"],
            model="MLP",
            model_kind="linen",
            parameter_count=1234,
            steps_total=100,
            steps_per_epoch=10,
            batch_size=16,
            evaluations_total=5,
            monitor="valid/loss",
            monitor_mode="min",
            rows={"train": 160, "valid": 40, "test": 40},
            split_hash="0123abcd",
            settings={"optimizer": "adam", "learning_rate": 1e-3, "patience": None},
            versions={"python": "3.11.7", "jax": "0.10.2"},
            device="cpu",
            source="%dlfb_train model (x, y)",
        ),
        events.Status(step=0, time_s=START_S, state="compiling"),
        events.Baseline(
            step=0,
            time_s=START_S + 1,
            name="majority class",
            split="valid",
            metrics={"loss": 1.1, "accuracy": 0.5},
        ),
        events.Compilation(
            step=0,
            time_s=START_S + 2,
            program="train step",
            trace_s=0.2,
            lower_s=0.1,
            compile_s=1.5,
            planned=True,
            cause="first call",
        ),
        events.Status(step=0, time_s=START_S + 2, state="running"),
        events.Notice(step=0, time_s=START_S + 2, level="info", text="40 rows were kept for the test."),
    ]
    valid_losses = [0.6, 0.4, math.nan]
    for index, first in enumerate(range(0, 60, 20)):
        block = losses[first : first + 20]
        time_s = START_S + 3 + index
        end = first + 20
        told += [
            events.Losses(
                step=end,
                time_s=time_s,
                first_step=first,
                losses=block if index == 1 else block.astype(np.float32),
                duration_s=0.5,
                dispatches=2,
            ),
            events.Evaluation(
                step=end,
                time_s=time_s,
                split="valid",
                metrics={"loss": valid_losses[index], "accuracy": 0.7 + 0.1 * index},
                rows=40,
                duration_s=0.25,
            ),
        ]
    told += [
        events.Compilation(
            step=40,
            time_s=START_S + 5,
            program="train step",
            trace_s=0.2,
            lower_s=0.1,
            compile_s=1.4,
            planned=False,
            cause="new shape",
        ),
        events.DeviceMemory(
            step=40,
            time_s=START_S + 5,
            device="gpu:0",
            device_kind="Imagined GPU",
            in_use_bytes=1.5e9,
            peak_bytes=2e9,
            limit_bytes=6e10,
            preallocated=True,
        ),
        events.DeviceMemory(
            step=40, time_s=START_S + 5, device="cpu:0", device_kind="cpu", reason="the cpu backend reports none"
        ),
        events.Notice(step=50, time_s=START_S + 6, level="warning", text="The loss is NaN at step 50."),
        events.Evaluation(
            step=60,
            time_s=START_S + 6,
            split="test",
            metrics={"loss": 0.5, "accuracy": 0.75},
            rows=40,
            duration_s=9.0,
            look=1,
        ),
        events.Status(step=60, time_s=START_S + 7, state="failed", reason="the loss is NaN"),
    ]
    return told


def main() -> None:
    """Writes the journal, with one event of a vocabulary yet to come: readers skip it."""
    lines = [events.to_json(event) for event in golden_events()]
    lines.insert(6, {"kind": "from_the_future", "step": 0, "time_s": START_S, "novelty": [1, 2]})
    text = "".join(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n" for line in lines)
    Path(__file__).with_name("run.jsonl").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
