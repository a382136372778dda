"""What a sequence of events says about a run: the reducer behind every Python view.

`labextension/core/runState.ts` is its counterpart in the browser.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from dlfb_lab.events import (
    ENDED,
    Baseline,
    CheckpointSaved,
    Compilation,
    Evaluation,
    Event,
    FloatBlock,
    Losses,
    Notice,
    PlanChosen,
    RateTest,
    RunStarted,
    Status,
    joined,
    to_json,
)

if TYPE_CHECKING:
    import pandas as pd


MOST_SAVED = 20_000
"""Losses in a shortened copy of a run; where there are more, each value is the mean of several steps."""
MOST_SAVED_IN_ALL = 60_000
"""The same with the parts of the loss and the members' losses counted in."""


def most_saved(beside: int) -> int:
    """Returns how many losses a shortened copy has, given how many series of parts and members it has beside them."""
    return max(100, min(MOST_SAVED, MOST_SAVED_IN_ALL // (1 + beside)))


def spread(members: FloatBlock) -> tuple[FloatBlock, FloatBlock]:
    """Returns the mean over members and their sample standard deviation, each of shape [n], float64.

    Members whose value is not finite are left out; where none is left the mean is NaN, where fewer than two are left
    the deviation is.

    Args:
        members: shape [members, n].
    """
    with np.errstate(all="ignore"):
        values = np.asarray(members, np.float64)
        finite = np.isfinite(values)
        count = finite.sum(0)
        mean = np.where(finite, values, 0).sum(0) / count
        squares = (np.where(finite, values - mean, 0) ** 2).sum(0)
        return mean, np.where(count > 1, np.sqrt(squares / (count - 1)), np.nan)


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
        self.plans: list[PlanChosen] = []
        self.rate_tests: list[RateTest] = []
        self.checkpoints: list[CheckpointSaved] = []
        self._idle_s = 0.0
        for event in events:
            self.put(event)

    def put(self, event: Event) -> None:
        """Takes one event; a `Record` is a sink."""
        if isinstance(event, Losses) and self.events and self._join(event):
            return
        if isinstance(event, Status) and event.state == "compiling" and self.events:
            # Of a run that goes on from a checkpoint: nobody trained it meanwhile.
            before_s = next((e.time_s for e in reversed(self.events) if _is_of_training(e)), event.time_s)
            self._idle_s += max(0.0, event.time_s - before_s)
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
            case PlanChosen():
                self.plans.append(event)
            case RateTest():
                self.rate_tests.append(event)
            case CheckpointSaved(step=step, kept=kept):
                before = [saved for saved in self.checkpoints if saved.step in kept and saved.step != step]
                self.checkpoints = [*before, event]

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
        """From the first event to the last one that training wrote, without the time between two kernels."""
        training = [e for e in self.events if _is_of_training(e)]
        end = self.status.time_s if self.ended and self.status else training[-1].time_s if training else 0.0
        return end - self.started.time_s - self._idle_s if self.started else 0.0

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

    @property
    def members(self) -> list[str]:
        """Names of what is trained at once; empty where it is one model."""
        return self.started.members if self.started else []

    def losses(self) -> tuple[np.ndarray, FloatBlock]:
        """Returns the steps, shape [n], int64, and their training losses, shape [n]."""
        whole = self.whole()
        return (np.zeros(0, np.int64), np.zeros(0, np.float32)) if whole is None else (whole.steps, whole.losses)

    def whole(self) -> Series | None:
        """Returns the losses of all steps with their parts and members; None before the first."""
        # Another thread may be training, and add a block between two looks at them.
        blocks = list(self.blocks)
        return Series.of(blocks) if blocks else None

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

    def best_member(self) -> tuple[int, int, float] | None:
        """Returns the member with the best monitored score, and that score's step and value.

        None where nothing is monitored, or one model is trained.
        """
        scores = [(self._sign * best[1], best[0], i) for i, best in enumerate(self.member_bests()) if best is not None]
        if not scores:
            return None
        value, step, index = min(scores)
        return index, step, self._sign * value

    def member_bests(self) -> list[tuple[int, float] | None]:
        """Returns the step and value of each member's best monitored score; None for one that has no finite score."""
        split, _, metric = self.started.monitor.partition("/") if self.started else ("", "", "")
        scored = [e for e in self.evaluated(split) if e.members]
        bests: list[tuple[int, float] | None] = []
        for i in range(len(self.members)):
            told = [(e.step, e.members[i].get(metric, math.nan)) for e in scored if i < len(e.members)]
            finite = [pair for pair in told if math.isfinite(pair[1])]
            bests.append(min(finite, key=lambda pair: (self._sign * pair[1], pair[0])) if finite else None)
        return bests

    @property
    def _sign(self) -> float:
        return -1.0 if self.started is not None and self.started.monitor_mode == "max" else 1.0

    def scores(self, split: str, metric: str) -> tuple[np.ndarray, FloatBlock, FloatBlock]:
        """Returns the steps at which a metric was scored, its values, and their standard deviation over the members.

        Returns:
            Three arrays of shape [n]. The deviation is NaN where one model was scored, and the value of several
            members is the mean of those that are finite.
        """
        scored = [e for e in self.evaluated(split) if metric in e.metrics]
        steps, values = np.array([e.step for e in scored], np.int64), np.array([e.metrics[metric] for e in scored])
        deviations = np.full(len(scored), np.nan)
        for place, event in enumerate(scored):
            if event.members:
                (values[place],), (deviations[place],) = spread(
                    np.array([[m.get(metric, math.nan)] for m in event.members])
                )
        return steps, values.astype(float), deviations

    def time_left_s(self) -> dict[str, float] | None:
        """Returns the seconds left to train and to evaluate, or None where they are not known."""
        if self.started is None or not self.started.steps_total or not math.isfinite(self.steps_per_s):
            return None
        evaluations = self.evaluated("valid")
        mean = sum(e.duration_s for e in evaluations) / len(evaluations) if evaluations else 0.0
        return {
            "train": max(0, self.started.steps_total - self.step) / self.steps_per_s,
            "evaluate": max(0, self.started.evaluations_total - len(evaluations)) * mean,
        }

    def history(self) -> pd.DataFrame:
        """Returns a table indexed by step: `epoch`, `train/loss`, and `valid/<metric>` where it was evaluated.

        Beside them is a column `train/<part>` for each part of the loss. `epoch` is NaN where the length of an epoch is
        not known. With several members the columns have a second level, `member`: `history["valid/loss"]` is a table
        with a column for each, and what the members have in common (`epoch`, the parts, which are means) is a plain
        column, `history["epoch"]`.
        """
        import pandas as pd

        names, valid = self.members, self.evaluated("valid")
        columns: dict[tuple[str, str], pd.Series] = {}
        whole = self.whole() or Series(np.zeros(0, np.int64), np.zeros(0, np.float32), {}, [])
        for member, losses in _named(names, whole) if names else [("", whole.losses)]:
            columns["train/loss", member] = pd.Series(losses, index=whole.steps, dtype=losses.dtype)
        for part, values in whole.parts.items():
            columns.setdefault((f"train/{part}", ""), pd.Series(values, index=whole.steps, dtype=values.dtype))
        for metric in dict.fromkeys(name for e in valid for name in e.metrics):
            for i, member in enumerate(names or [""]):
                told = [(e.step, e.members[i : i + 1] if names else [e.metrics]) for e in valid]
                scores = {step: m[metric] for step, found in told for m in found if metric in m}
                columns[f"valid/{metric}", member] = pd.Series(scores, dtype=float)
        table = pd.DataFrame(columns if names else {column: values for (column, _), values in columns.items()})
        table.index.name = "step"
        per_epoch = self.started.steps_per_epoch if self.started else 1
        epochs = table.index / per_epoch if per_epoch else np.full(len(table), np.nan)
        if names:
            table.insert(0, ("epoch", ""), epochs)
            table.columns.names = ["metric", "member"]
        else:
            table.insert(0, "epoch", epochs)
        return table


@dataclass(frozen=True)
class Series:
    """The training losses of a run end to end.

    Attributes:
        steps: shape [n], int64.
        losses: shape [n].
        parts: by name, each of shape [n]; NaN where a step has none.
        members: the loss of each member, of shape [n]; NaN where a step has none.
    """

    steps: np.ndarray
    losses: FloatBlock
    parts: dict[str, FloatBlock]
    members: list[FloatBlock]

    @classmethod
    def of(cls, blocks: list[Losses]) -> Series:
        """Puts blocks end to end, of which there is at least one."""
        # All at once: a long run has tens of thousands of blocks.
        counts = np.array([len(b.losses) for b in blocks])
        within = np.arange(counts.sum()) - np.repeat(counts.cumsum() - counts, counts)
        first = np.repeat(np.array([b.first_step for b in blocks], np.int64), counts)

        def joined(pieces: list[FloatBlock | None]) -> FloatBlock:
            found = zip(blocks, pieces, strict=True)
            return np.concatenate([np.full(len(b.losses), np.nan, np.float32) if p is None else p for b, p in found])

        names = dict.fromkeys(name for b in blocks for name in b.parts)
        members = range(max(len(b.members) for b in blocks))
        return cls(
            steps=first + np.repeat([b.stride for b in blocks], counts) * within,
            losses=np.concatenate([b.losses for b in blocks]),
            parts={name: joined([b.parts.get(name) for b in blocks]) for name in names},
            members=[joined([b.members[i] if i < len(b.members) else None for b in blocks]) for i in members],
        )


def _is_of_training(event: Event) -> bool:
    """Whether it is no look at the test rows, which comes after training, perhaps days later."""
    return not (isinstance(event, Evaluation) and event.look)


def _named(names: list[str], whole: Series) -> list[tuple[str, FloatBlock]]:
    unknown = [np.full(len(whole.steps), np.nan, whole.losses.dtype)] * (len(names) - len(whole.members))
    return list(zip(names, [*whole.members, *unknown], strict=False))


def divided_parts(whole: Series) -> tuple[dict[str, FloatBlock], dict[str, FloatBlock]]:
    """Returns the parts that look like losses, and the others: `accuracy`, `hits@20`."""
    first_loss = _first_finite(whole.losses)
    alike = {name: looks_like_loss(name, _first_finite(values), first_loss) for name, values in whole.parts.items()}
    return (
        {name: values for name, values in whole.parts.items() if alike[name]},
        {name: values for name, values in whole.parts.items() if not alike[name]},
    )


def looks_like_loss(name: str, first: float, first_loss: float) -> bool:
    """Whether a part of a loss can share the loss's axis, by its name, else by its first value beside the loss's.

    `looksLikeLoss` in labextension/core/parts.ts says the same.
    """
    if name.lower().endswith("loss"):
        return True
    if _SCORES.search(name.lower()):
        return False
    return abs(first) <= 10 * abs(first_loss) if math.isfinite(first) and math.isfinite(first_loss) else True


_SCORES = re.compile(r"acc|auc|f1|hits|mrr|precision|recall|r2|iou|dice|norm|perplexity|usage|rate|ratio|^lr$")


def _first_finite(values: FloatBlock) -> float:
    places = np.flatnonzero(np.isfinite(values))
    return float(values[places[0]]) if len(places) else math.nan


def saved_events(record: Record) -> list[dict[str, Any]]:
    """Returns a run's events as JSON, its losses in one block, shortened by averaging if there are many."""
    whole = record.whole()
    if whole is None or not len(whole.losses):
        return [to_json(e) for e in record.events]
    stride = -(-len(whole.losses) // most_saved(len(whole.parts) + len(whole.members)))
    block = replace(
        record.blocks[-1],
        first_step=int(whole.steps[0]),
        losses=_means(whole.losses, stride),
        parts={name: _means(values, stride) for name, values in whole.parts.items()},
        members=[_means(values, stride) for values in whole.members],
        stride=stride,
        duration_s=sum(b.duration_s for b in record.blocks),
        dispatches=sum(b.dispatches for b in record.blocks),
    )
    place = next(i for i, e in enumerate(record.events) if isinstance(e, Losses))
    others = [to_json(e) for e in record.events[place:] if not isinstance(e, Losses)]
    return [*(to_json(e) for e in record.events[:place]), to_json(block), *others]


def _means(values: FloatBlock, stride: int) -> FloatBlock:
    """Averages each so many values; the last ones may be fewer."""
    if stride == 1:
        return values
    starts = np.arange(0, len(values), stride)
    counts = np.diff(np.append(starts, len(values)))
    means: FloatBlock = (np.add.reduceat(values.astype(np.float64), starts) / counts).astype(values.dtype)
    return means
