"""Ours: the whole call of `dlfb_lab.train` in a notebook kernel, with the live view and the journal."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any
from unittest import mock

import jax
import numpy as np
from workloads import LEARNING_RATE, Workload

import dlfb_lab
from dlfb_lab.engine import saving
from dlfb_lab.views import bundle
from peers.network import network


def prepare(workload: Workload, *, view: bool = True, **options: Any) -> Callable[[int], dict[str, Any]]:
    """Returns what trains a workload, with further options of `dlfb_lab.train`; without a view only to time it."""
    x, y = workload.data()
    model = network(workload)

    def train(epochs: int) -> dict[str, Any]:
        hidden = nullcontext() if view else mock.patch.object(bundle, "open_view", lambda run, control: [])
        called = time.time()
        with hidden:
            run = dlfb_lab.train(
                model,
                (x, y),
                epochs=epochs,
                batch_size=workload.batch,
                optimizer="adam",
                lr=LEARNING_RATE,
                store=STORE,
                **options,
            )
        returned = time.time()
        blocks = run.record.blocks
        per_epoch = -(-len(x) // workload.batch)
        return {
            "steps": run.record.step,
            "last_loss": float(run.record.losses()[1][-per_epoch:].mean()),
            "device": jax.default_backend(),
            "view": type(run.dashboard).__name__ if run.dashboard is not None else None,
            "journal_bytes": sum(f.stat().st_size for f in run.path.iterdir()) if run.path is not None else None,
            "compilations": len(run.record.compilations),
            "dispatches": sum(b.dispatches for b in blocks),
            "plans": [f"{e.plan}: {e.reason}" for e in run.record.events if e.kind == "plan_chosen"],
            # Where the call's time went, from the times in its own journal.
            "until_started_s": run.record.events[0].time_s - called,
            "in_dispatches_s": sum(b.duration_s for b in blocks),
            "after_last_loss_s": returned - blocks[-1].time_s,
            "whole_s": returned - called,
            "lost_to_saving_s": lost_s(run.record),
        }

    train.settle = saving.wait  # type: ignore[attr-defined]
    return train


def lost_s(record: Any) -> float:
    """Returns how much longer the run took for being saved while it went on.

    While a state is being written steps take longer, if they do; how long they take otherwise is seen in the seconds
    before and after. The speed of the machine changes more from one run to the next than what is looked for.
    """
    times = np.array([block.time_s for block in record.blocks])
    steps = np.array([block.step for block in record.blocks])
    lost = 0.0
    for event in record.events:
        if event.kind != "checkpoint_saved" or event.time_s > times[-1]:
            continue
        begin = np.searchsorted(times, event.time_s - event.duration_s - event.stall_s, "right") - 1
        end = np.searchsorted(times, event.time_s)
        before = np.searchsorted(times, times[begin] - AROUND_S)
        after = np.searchsorted(times, times[end] + AROUND_S, "right") - 1
        taken_s = times[after] - times[end] + times[begin] - times[before]
        rate = (steps[after] - steps[end] + steps[begin] - steps[before]) / taken_s
        lost += times[end] - times[begin] - (steps[end] - steps[begin]) / rate
    return float(lost)


AROUND_S = 3.0
STORE = tempfile.mkdtemp(prefix="dlfb-bench-")


def clean() -> None:
    """Removes the runs that were kept."""
    shutil.rmtree(STORE, ignore_errors=True)
