"""Writes two small journals for the tests of Python and TypeScript.

`run.jsonl` has every kind of event. `members.jsonl` is of three members at once, with parts of the loss, on a stream
whose length nobody knows.

Usage: python tests/golden/generate_run.py
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from pathlib import Path
from typing import Any

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
        events.RateTest(
            step=0,
            time_s=START_S + 2,
            rates=np.geomspace(1e-5, 1, 6),
            losses=np.array([1.1, 1.09, 0.9, 0.5, 2.0, math.nan], np.float32),
            chosen=1e-2,
            duration_s=0.5,
        ),
        events.PlanChosen(step=0, time_s=START_S + 2, plan="one by one", reason="it is ready first"),
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
        events.PlanChosen(
            step=40,
            time_s=START_S + 5,
            plan="fused",
            reason="it is faster, and its numbers are the same",
            step_s=2.5e-4,
            fused_step_s=4e-5,
        ),
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
        *(
            events.CheckpointSaved(
                step=step,
                time_s=START_S + 5,
                bytes=12_345_678,
                duration_s=0.25,
                stall_s=0.001,
                state=state,
                kept=kept,
            )
            for step, state, kept in ((20, "complete", [20]), (40, "complete", [20, 40]), (60, "not finite", [40, 60]))
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


def members_events() -> list[events.Event]:
    """Returns 60 steps of three members, evaluated every 20; the third breaks down at step 30."""
    rng = np.random.default_rng(1)
    started = next(event for event in golden_events() if isinstance(event, events.RunStarted))
    losses = np.exp(-np.arange(60) / 30) * np.array([[1.0], [0.8], [1.5]]) + 0.01 * rng.random((3, 60))
    losses[2, 30:] = math.nan
    losses = losses.astype(np.float32)
    told: list[events.Event] = [
        dataclasses.replace(
            started,
            run_id="members-01",
            name="three seeds",
            steps_total=0,
            steps_per_epoch=0,
            evaluations_total=0,
            monitor="valid/accuracy",
            monitor_mode="max",
            members=["seed 0", "seed 1", "seed 2"],
        ),
        events.Status(step=0, time_s=START_S, state="running"),
    ]
    accuracies = [[0.5, 0.6, 0.4], [0.7, 0.75, math.nan], [0.72, 0.7, math.nan]]
    for index, first in enumerate(range(0, 60, 20)):
        block = losses[:, first : first + 20]
        scores = [{"loss": 1 - accuracy, "accuracy": accuracy} for accuracy in accuracies[index]]
        told += [
            events.Losses(
                step=first + 20,
                time_s=START_S + 1 + index,
                first_step=first,
                losses=block.mean(0),
                duration_s=0.5,
                parts={"reconstruction_loss": 0.75 * block[0], "kl": 0.25 * block[0], "accuracy": 1 - 0.5 * block[0]},
                members=list(block),
            ),
            events.Evaluation(
                step=first + 20,
                time_s=START_S + 1 + index,
                split="valid",
                metrics={name: float(np.mean([member[name] for member in scores])) for name in scores[0]},
                rows=40,
                duration_s=0.25,
                members=scores,
            ),
        ]
    return [*told, events.Status(step=60, time_s=START_S + 4, state="stopped", reason="the stream ended")]


def main() -> None:
    """Writes the journals, the first with one event of a vocabulary yet to come: readers skip it."""
    lines = [events.to_json(event) for event in golden_events()]
    lines.insert(6, {"kind": "from_the_future", "step": 0, "time_s": START_S, "novelty": [1, 2]})
    write("run.jsonl", lines)
    write("members.jsonl", [events.to_json(event) for event in members_events()])


def write(name: str, lines: list[dict[str, Any]]) -> None:
    """Writes one journal."""
    text = "".join(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n" for line in lines)
    Path(__file__).with_name(name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
