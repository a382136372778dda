"""Which of a checkpoint's arrays are the state that is asked for: that of its step, or the best so far; whose.

The names of a checkpoint's arrays say what they belong to:

now/state/…    the state at the checkpoint's step; with several members each array has them as its first axis
best/state/…   the best state until then, of each member; where training stops early
hyper/…        the optimizer's numbers
now/…          what else training goes on from
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from dlfb_lab.checkpoints.arrays import GROUP_BYTES, read
from dlfb_lab.checkpoints.finding import Found
from dlfb_lab.errors import OptionError, StoreError, nearest
from dlfb_lab.record import Record

Array = np.ndarray[Any, Any]
Which = Literal["now", "best"]

PARAMETERS = ("params/", "state/params/", "trainable/", "model/")
"""What the names of parameters begin with: those of a model, a step's own state, a compiled Keras model, a guest."""


class Source(NamedTuple):
    """Where the state of a model is in a checkpoint.

    Attributes:
        which: whether it is the one of the checkpoint's step or the best until then.
        step: updates applied to it.
    """

    which: Which
    step: int


@dataclass(frozen=True, kw_only=True)
class Selection:
    """A state in a checkpoint.

    Attributes:
        found: the checkpoint.
        sources: where the state of each member is; of one model one.
        member: the member that was chosen; None where one model was trained.
        said: what was chosen, in a few words for people.
        notes: what the user should know of it, in sentences.
    """

    found: Found
    sources: tuple[Source, ...]
    member: int | None
    said: str
    notes: tuple[str, ...]

    @property
    def source(self) -> Source:
        """Where the state that was chosen is."""
        return self.sources[self.member or 0]

    @property
    def _begins(self) -> list[str]:
        """What the names of the state's arrays begin with; that of a guest has no room of its own.

        Of all members there are two, now and best, where some handed back their last state and others their best.
        """
        manifest = self.found.checkpoint.manifest
        assert manifest is not None
        used = {source.which for source in (self.sources if self.member is None else (self.source,))}
        begins = [(f"{which}/state/", f"{which}/") for which in get_args(Which) if which in used]
        return [long if any(name.startswith(long) for name in manifest.leaves) else short for long, short in begins]

    @property
    def shapes(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Shape and dtype of each array of the state by its name in the state, without the axis of members."""
        manifest = self.found.checkpoint.manifest
        assert manifest is not None
        begin, first = self._begins[0], 0 if self.member is None else 1
        return {
            name.removeprefix(begin): (leaf.shape[first:], leaf.dtype)
            for name, leaf in manifest.leaves.items()
            if name.startswith(begin)
        }

    @property
    def not_finite(self) -> list[str]:
        """Names in the state of the arrays that have a NaN or an infinity, of any member."""
        manifest = self.found.checkpoint.manifest
        assert manifest is not None
        found = [n.removeprefix(begin) for begin in self._begins for n in manifest.not_finite if n.startswith(begin)]
        return list(dict.fromkeys(found))

    @property
    def of_model(self) -> bool:
        """Whether the state is that of a model: params, extra and opt_state; else it is a step's own."""
        return any(name.startswith("params/") for name in self.shapes)

    @property
    def parameters(self) -> str:
        """What the names of parameters begin with; "" where they cannot be told from the rest of the state."""
        return next((begin for begin in PARAMETERS if any(n.startswith(begin) for n in self.shapes)), "")

    def grouped(self, name: str) -> tuple[str, str]:
        """Returns what an array belongs to, for people, and its name there."""
        begin = self.parameters
        if begin and name.startswith(begin):
            return "parameters", name.removeprefix(begin)
        outer = "" if self.of_model else "state/"
        first, _, rest = name.removeprefix(outer).partition("/")
        if first in ("opt_state", "optimizer", "opt"):
            return "optimizer", rest
        return ("state", name.removeprefix("extra/")) if first == "extra" else ("state", name.removeprefix(outer))

    def arrays(self, names: Iterable[str], at_once_bytes: float = GROUP_BYTES) -> Iterator[tuple[str, Array]]:
        """Yields arrays of the state by their names, one after another; of one member without the axis of members.

        Args:
            names: which.
            at_once_bytes: see `arrays.read`.

        Raises:
            StoreError: one is not as the manifest says.
        """
        names, begins = list(dict.fromkeys(names)), self._begins
        found = read(self.found.checkpoint, [begin + name for name in names for begin in begins], at_once_bytes)
        best = np.array([source.which == "best" for source in self.sources])
        for name in names:
            array = next(found)[1]
            if len(begins) > 1:
                array = np.where(best.reshape(-1, *[1] * (array.ndim - 1)), next(found)[1], array)
            yield name, array if self.member is None else array[self.member]
            del array

    def all_members(self) -> Iterator[tuple[str, Array]]:
        """Yields the arrays of the state with the axis of members, each from where its state is."""
        yield from replace(self, member=None).arrays(self.shapes, math.inf)


def select(found: Found, record: Record, which: Which | None = None, member: int | str | None = None) -> Selection:
    """Chooses a state.

    Args:
        found: the checkpoint.
        record: what the run's journal says.
        which: the state of the checkpoint's step, or the best until then; None for what training handed back where the
            run has come to its end there and no step was named, else that of the step.
        member: number or name of a member; None for the best, "all" for all with their axis.

    Raises:
        OptionError: there is no such member.
        StoreError: there is no best state.
    """
    manifest = found.checkpoint.manifest
    assert manifest is not None
    if which not in (None, *get_args(Which)):
        raise OptionError(f"{found.who}: which={which!r}: there are {', '.join(get_args(Which))}.")
    step, names = found.checkpoint.step, record.members
    scores = _Scores(record, manifest.place, step)
    has_best = any(name.startswith("best/") for name in manifest.leaves)
    if which == "best" and not has_best:
        raise StoreError(
            f"{found.who}: the checkpoint of step {step:,} of {found.path.name} keeps no best state beside its own, "
            "since the run was trained without --early-stop. Leave it out."
        )
    # A run that diverged hands back the state before that, which it has saved.
    ended = _kept(record) and (step >= record.step or bool(manifest.place.get("diverged")))
    restored = has_best and (which == "best" or (which is None and not found.named and ended and scores.goes_back))
    count = max(1, len(names))
    sources = tuple(
        Source("best", scores.best_step[i])
        if restored and (which == "best" or scores.best_step[i] != step)
        else Source("now", step)
        for i in range(count)
    )
    index = None if not names or member == "all" else _index(names, member, found.who, scores.best_member(restored))
    chosen = sources if index is None else sources[index : index + 1]
    steps = sorted({source.step for source in chosen})
    said = f"step {steps[0]:,}" if len(steps) == 1 else f"steps {steps[0]:,} to {steps[-1]:,}"
    if any(source.which == "best" for source in chosen) and record.started is not None:
        said += f", where {record.started.monitor} was best"
    if index is not None:
        said += (
            f", {names[index]} of {len(names)} members"
            if member is not None
            else (f", {names[index]}, the best of {len(names)} members")
        )
    return Selection(found=found, sources=sources, member=index, said=said, notes=tuple(_notes(found, record, ended)))


def _kept(record: Record) -> bool:
    """Whether training came to an end with a state that it handed back."""
    status = record.status
    return status is not None and status.state in ("finished", "stopped") and "not kept" not in status.reason


def _notes(found: Found, record: Record, ended: bool) -> Iterator[str]:
    step, later = found.checkpoint.step, found.later
    if later is not None:
        yield f"The checkpoint of step {later.step:,} is {later.state}: {later.why} This is that of step {step:,}."
    elif not ended and not found.named:
        end = f"its journal goes to step {record.step:,}" if record.step > step else "it has not come to its end"
        yield f"{found.path.name}: this is its latest checkpoint, of step {step:,}; {end}."


def _index(names: list[str], asked: int | str | None, who: str, best: int) -> int:
    if asked is None:
        return best
    if isinstance(asked, int) and not isinstance(asked, bool) and 0 <= asked < len(names):
        return asked
    if isinstance(asked, str) and asked in names:
        return names.index(asked)
    known = f"{', '.join(names)}; or a number from 0 to {len(names) - 1}"
    raise OptionError(f"{who}: there is no member {asked!r}.{nearest(str(asked), names)} There are {known}.")


class _Scores:
    """The monitored scores of each member when training ended, as `engine.monitor.Monitor` followed them.

    An evaluation that only the end called for comes after the checkpoint of the same step.
    """

    def __init__(self, record: Record, place: dict[str, Any], step: int) -> None:
        monitor = place.get("monitor", {})
        self._sign = -1.0 if record.started is not None and record.started.monitor_mode == "max" else 1.0
        count = max(1, len(record.members))
        self.best = _numbers(monitor.get("best", ()), count)
        self.last = _numbers(monitor.get("last", ()), count)
        steps = [int(one) for one in monitor.get("best_step", ())]
        self.best_step = steps if len(steps) == count else [0] * count
        if place.get("evaluated_at") != step:
            self._look(record, step)
        finite = any(math.isfinite(value) for value in self.best)
        self.goes_back = finite and any(one != step for one in self.best_step)

    def _look(self, record: Record, step: int) -> None:
        metric = record.started.monitor.partition("/")[2] if record.started is not None else ""
        event = next((e for e in record.evaluated("valid") if e.step == step), None)
        if event is None:
            return
        for i, scores in enumerate(event.members or [event.metrics]):
            value = self.last[i] = scores.get(metric, math.nan)
            if math.isfinite(value) and not self._sign * value >= self._sign * self.best[i]:
                self.best[i], self.best_step[i] = value, step

    def best_member(self, restored: bool) -> int:
        values = [self._sign * value for value in (self.best if restored else self.last)]
        finite = [(value, i) for i, value in enumerate(values) if math.isfinite(value)]
        return min(finite)[1] if finite else 0


def _numbers(values: Any, count: int) -> list[float]:
    found = [math.nan if value is None else float(value) for value in values]
    return found if len(found) == count else [math.nan] * count
