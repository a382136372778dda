"""Journals for the tests of the server, written line by line as a kernel would have left them."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dlfb_lab import journal
from dlfb_lab.checkpoints import checksums
from dlfb_lab.checkpoints.folder import ARRAYS, MANIFEST, folder_of
from dlfb_lab.checkpoints.manifest import Leaf, Manifest, dumped
from dlfb_lab.events import Evaluation, Event, Losses, RunStarted, Status, to_json

STARTED = RunStarted(
    step=0,
    time_s=1_700_000_000.0,
    run_id="r",
    name="mlp",
    task="regression",
    task_sentence="one number",
    classes=[],
    model="MLP",
    model_kind="linen",
    parameter_count=10,
    steps_total=100,
    steps_per_epoch=10,
    batch_size=4,
    evaluations_total=5,
    monitor="valid/loss",
    monitor_mode="min",
    rows={"train": 40},
    split_hash="",
    settings={},
    versions={"dlfb-lab": "0.1.0"},
    device="cpu",
)


def losses(first: int, values: Iterable[float], **given: Any) -> Losses:
    block = np.asarray(list(values), np.float32)
    step = first + len(block)
    times = {"time_s": STARTED.time_s + step, "duration_s": 0.01 * len(block), "dispatches": 2}
    return Losses(step=step, first_step=first, losses=block, **(times | given))


def evaluation(step: int, loss: float = 0.5, **given: Any) -> Evaluation:
    fields = {
        "split": "valid",
        "metrics": {"loss": loss},
        "rows": 10,
        "duration_s": 0.1,
        "time_s": STARTED.time_s + step,
    }
    return Evaluation(step=step, **(fields | given))


def status(step: int, state: Any, **given: Any) -> Status:
    return Status(step=step, state=state, **({"time_s": STARTED.time_s + step} | given))


def story(name: str = "mlp", steps: int = 20) -> list[Event]:
    """A run that finished."""
    return [
        replace(STARTED, name=name),
        status(0, "running"),
        losses(0, np.linspace(1, 0.5, steps)),
        evaluation(steps),
        status(steps, "finished"),
    ]


def line(event: Event) -> bytes:
    return json.dumps(to_json(event), allow_nan=False).encode() + b"\n"


def lines(events: Iterable[Event]) -> bytes:
    return b"".join(map(line, events))


def write(store: Path, name: str = "mlp", events: Iterable[Event] | None = None, text: bytes | None = None) -> Path:
    """Makes a run's folder and its journal."""
    kept = journal.create(store, name)
    kept.close()
    whole = lines(story(name) if events is None else events) if text is None else text
    (kept.path / journal.EVENTS).write_bytes(whole)
    return kept.path


def checkpoint(
    run: Path, step: int, loss: float = 0.5, size: int = 1000, finite: bool = True, saved_s: float | None = None
) -> Path:
    """Makes a checkpoint that is whole, apart from how its arrays are written."""
    path = folder_of(run, step)
    (path / ARRAYS / "d").mkdir(parents=True)
    (path / ARRAYS / "d" / "data").write_bytes(bytes(size))
    manifest = Manifest(
        step=step,
        saved_at_s=STARTED.time_s + step if saved_s is None else saved_s,
        metrics={"valid/accuracy": 1 - loss, "valid/loss": loss},
        leaves={"w": Leaf(shape=(size,), dtype="uint8", finite=finite)},
        files=checksums.stored(path, ["arrays/d/data"]),
    )
    (path / MANIFEST).write_bytes(dumped(manifest))
    return path


def add(run: Path, *events: Event) -> None:
    with open(run / journal.EVENTS, "ab") as file:
        file.write(lines(events))


def write_tail(run: Path, event: Event, follows: int | None = None) -> None:
    size = (run / journal.EVENTS).stat().st_size
    told = to_json(event)
    text = json.dumps(told, allow_nan=False, separators=(",", ":")).encode() + b"\n"
    values = {"follows": size if follows is None else follows, "check": zlib.crc32(text), "event": told}
    (run / journal.TAIL).write_bytes(json.dumps(values).encode() + b"\n")
