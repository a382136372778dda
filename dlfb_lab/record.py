"""What a sequence of events says about a run: the reducer behind every Python view.

`labextension/core/runState.ts` is its counterpart in the browser.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from dlfb_lab.events import (
    ENDED,
    Baseline,
    Compilation,
    Evaluation,
    Event,
    FloatBlock,
    Losses,
    Notice,
    RunStarted,
    Status,
    joined,
    to_json,
)

if TYPE_CHECKING:
    import pandas as pd


MOST_SAVED = 20_000
"""Losses in a shortened copy of a run; where there are more, each value is the mean of several steps."""


class Record:
    """The events of one run, put in order by kind. Losses in a row are joined, up to a second of them."""

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self.events: list[Event] = []
        self.started: RunStarted | None = None
        self.status: Status | None = None
        self.blocks: list[Losses] = []
        self.evaluations: list[Evaluation] = []
        self.baselines: list[Baseline] = []
        self.compilations: list[Compilation] = []
        self.notices: list[Notice] = []
        for event in events:
            self.put(event)

    def put(self, event: Event) -> None:
        """Takes one event; a `Record` is a sink."""
        if isinstance(event, Losses) and self.events and self._join(event):
            return
        self.events.append(event)
        match event:
            case RunStarted():
                self.started = event
            case Status():
                self.status = event
            case Losses():
                self.blocks.append(event)
            case Evaluation():
                self.evaluations.append(event)
            case Baseline():
                self.baselines.append(event)
            case Compilation():
                self.compilations.append(event)
            case Notice():
                self.notices.append(event)

    def _join(self, event: Losses) -> bool:
        # A run of days reports several times a second, and is kept in memory whole.
        last = self.events[-1]
        if not isinstance(last, Losses) or last.duration_s + event.duration_s > 1.0:
            return False
        both = joined(last, event)
        if both is None:
            return False
        self.events[-1] = self.blocks[-1] = both
        return True

    def close(self) -> None:
        """Nothing to let go."""

    @property
    def ended(self) -> bool:
        """Whether the journal says that the run is over."""
        return self.status is not None and self.status.state in ENDED

    @property
    def step(self) -> int:
        """Updates applied so far."""
        return self.blocks[-1].step if self.blocks else 0

    @property
    def elapsed_s(self) -> float:
        """From the first event to the last one that training wrote."""
        training = [e for e in self.events if not (isinstance(e, Evaluation) and e.look)]
        end = self.status.time_s if self.ended and self.status else training[-1].time_s if training else 0.0
        return end - self.started.time_s if self.started else 0.0

    @property
    def steps_per_s(self) -> float:
        """Updates a second while training, over the latest second or so of training time; NaN before the first."""
        steps, seconds = 0, 0.0
        for block in reversed(self.blocks):
            steps += len(block.losses)
            seconds += block.duration_s
            if seconds > 1.0:
                break
        return steps / seconds if seconds > 0 else math.nan

    def losses(self) -> tuple[np.ndarray, FloatBlock]:
        """Returns the steps, shape [n], int64, and their training losses, shape [n]."""
        # Another thread may be training, and add a block between two looks at them.
        blocks = list(self.blocks)
        if not blocks:
            return np.zeros(0, np.int64), np.zeros(0, np.float32)
        # All at once: a long run has tens of thousands of blocks.
        counts = np.array([len(b.losses) for b in blocks])
        within = np.arange(counts.sum()) - np.repeat(counts.cumsum() - counts, counts)
        first = np.repeat(np.array([b.first_step for b in blocks], np.int64), counts)
        steps = first + np.repeat([b.stride for b in blocks], counts) * within
        return steps, np.concatenate([b.losses for b in blocks])

    def evaluated(self, split: str) -> list[Evaluation]:
        """Returns the evaluations on one part of the data, oldest first."""
        return [e for e in self.evaluations if e.split == split]

    def best(self) -> tuple[int, float] | None:
        """Returns the step and value of the best monitored score, or None where nothing is monitored."""
        if self.started is None or "/" not in self.started.monitor:
            return None
        split, _, metric = self.started.monitor.partition("/")
        scores = [(e.metrics[metric], e.step) for e in self.evaluated(split) if metric in e.metrics]
        scores = [pair for pair in scores if math.isfinite(pair[0])]
        if not scores:
            return None
        sign = 1.0 if self.started.monitor_mode == "min" else -1.0
        value, step = min(scores, key=lambda pair: (sign * pair[0], pair[1]))
        return step, value

    def time_left_s(self) -> dict[str, float] | None:
        """Returns the seconds left to train and to evaluate, or None before the first dispatch."""
        if self.started is None or not math.isfinite(self.steps_per_s):
            return None
        evaluations = self.evaluated("valid")
        mean = sum(e.duration_s for e in evaluations) / len(evaluations) if evaluations else 0.0
        return {
            "train": max(0, self.started.steps_total - self.step) / self.steps_per_s,
            "evaluate": max(0, self.started.evaluations_total - len(evaluations)) * mean,
        }

    def history(self) -> pd.DataFrame:
        """Returns a table indexed by step: `epoch`, `train/loss`, and `valid/<metric>` where it was evaluated."""
        import pandas as pd

        steps, losses = self.losses()
        columns: dict[str, pd.Series] = {"train/loss": pd.Series(losses, index=steps, dtype=losses.dtype)}
        valid = self.evaluated("valid")
        for name in dict.fromkeys(name for e in valid for name in e.metrics):
            scores = {e.step: e.metrics[name] for e in valid if name in e.metrics}
            columns[f"valid/{name}"] = pd.Series(scores, dtype=float)
        table = pd.DataFrame(columns)
        table.index.name = "step"
        per_epoch = self.started.steps_per_epoch if self.started else 1
        table.insert(0, "epoch", table.index / per_epoch)
        return table


def saved_events(record: Record) -> list[dict[str, Any]]:
    """Returns a run's events as JSON, its losses in one block, shortened by averaging if there are many."""
    steps, losses = record.losses()
    if not len(losses):
        return [to_json(e) for e in record.events]
    stride = -(-len(losses) // MOST_SAVED)
    starts = np.arange(0, len(losses), stride)
    counts = np.diff(np.append(starts, len(losses)))
    means = (np.add.reduceat(losses.astype(np.float64), starts) / counts).astype(losses.dtype)
    block = replace(
        record.blocks[-1],
        first_step=int(steps[0]),
        losses=means if stride > 1 else losses,
        stride=stride,
        duration_s=sum(b.duration_s for b in record.blocks),
        dispatches=sum(b.dispatches for b in record.blocks),
    )
    place = next(i for i, e in enumerate(record.events) if isinstance(e, Losses))
    others = [to_json(e) for e in record.events[place:] if not isinstance(e, Losses)]
    return [*(to_json(e) for e in record.events[:place]), to_json(block), *others]
