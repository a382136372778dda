"""Numbers that are not finite: seen within a dispatch, and traced to the step, array and rows they began with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dlfb_lab.data.source import Array
from dlfb_lab.engine.experiment import Experiment, Plan, order_key
from dlfb_lab.engine.feed import Place, Rows
from dlfb_lab.engine.programs import Program, compiled
from dlfb_lab.engine.snapshot import Snapshot
from dlfb_lab.engine.trainer import Replaying, Trainer
from dlfb_lab.events import Event, Notice
from dlfb_lab.models.model import PyTree
from dlfb_lab.models.paths import named_leaves, shown

LOOK_S = 0.04
"""Between two looks at the arrays, which is about as long as a dispatch lasts; losses are always looked at."""

LOOK_SHARE = 50
"""A look that takes long is taken again after so many times as long."""

ON_HOST_BYTES, THERE_BYTES = 1 << 20, 1 << 26
"""Of arrays that are looked at on the host, which needs no program; of arrays that are there already."""

LONG_S = 3.0
"""A replay that takes longer is announced."""

FAR = 100.0
"""A row whose loss is so many times that of most of its batch is named."""

WINDOW, SPIKE_AFTER, SPIKE_WEIGHT, SPIKE_FACTOR, MOST_SPIKES = 100, 3, 0.2, 5.0, 5
"""Steps of a window; windows after which what is usual is known, and how much a new one counts in that; how many times
as far above the usual loss as the usual highest a spike is; and how many are told."""


@dataclass(frozen=True)
class Bad:
    """What was found.

    Attributes:
        step: the loss of this step, or the arrays after it, are not finite.
        text: what it is, in a sentence.
    """

    step: int
    text: str


class Watch:
    """Looks for NaN and infinities in losses and in arrays.

    Arrays that are not finite before the first step are meant to be so, and are left out.

    Attributes:
        finite_at: the latest step at which the arrays were found to be finite.
        over: whether no member is finite any more.
        why: what was found of the last one, in a sentence.
        gone: names of the arrays that were not finite when they were last looked at.
    """

    def __init__(self, members: Sequence[str]) -> None:
        self.finite_at, self.why = 0, ""
        self.gone: list[str] = []
        self._members = members
        self._good = np.ones(max(1, len(members)), bool)
        # Arrays that are not finite before the first step, such as a mask of minus infinity.
        self._meant: set[str] | None = None
        self._looked_s, self._look_s, self._looked_at = monotonic(), LOOK_S, -1
        self._found: list[Bad] = []

    @property
    def over(self) -> bool:
        """See the class."""
        return not self._good.any()

    def begin(self, state: PyTree, step: int) -> None:
        """Notes which arrays are finite before the first step."""
        self.finite_at = step
        names, finite = _finite(state, len(self._members))
        self._meant = {name for name, each in zip(names, finite, strict=True) if not each.all()}

    def losses(self, first_step: int, values: Array) -> None:
        """Takes the scalars of new steps, shape [steps, names] or [steps, members, names]."""
        if np.isfinite(values[..., 0]).all():
            return
        finite = np.isfinite(values[..., 0]).reshape(len(values), -1)
        for member in np.flatnonzero(self._good & ~finite.all(axis=0)):
            at = int(np.flatnonzero(~finite[:, member])[0])
            value = float(values[..., 0].reshape(len(values), -1)[at, member])
            self._lost(int(member), first_step + at, "training loss", f"is {value} from step {first_step + at:,} on")

    def due(self) -> bool:
        """Returns whether it is time to look at the arrays."""
        return monotonic() - self._looked_s >= self._look_s

    def arrays(self, step: int, trainer: Trainer) -> None:
        """Looks at the arrays after a step."""
        if self._meant is None or step == self._looked_at:
            return
        start = monotonic()
        names, finite = _finite(trainer.state, len(self._members))
        self._looked_s, self._looked_at = monotonic(), step
        self._look_s = max(LOOK_S, LOOK_SHARE * (self._looked_s - start))
        bad = ~finite & np.array([[name not in self._meant] for name in names], bool).reshape(len(names), 1)
        self.gone = [name for name, is_bad in zip(names, np.asarray(bad.any(axis=1)), strict=True) if is_bad]
        for member in np.flatnonzero(self._good & np.asarray(bad.any(axis=0))):
            gone = [name for name, is_bad in zip(names, bad[:, member], strict=True) if is_bad]
            what = f"array {gone[0]}" if len(gone) == 1 else f"arrays {shown(gone)}"
            self._lost(int(member), step, what, f"became NaN or infinite before step {step:,}")
        if self._good.all():
            self.finite_at = step

    def news(self) -> list[Bad]:
        """Returns what was found since it was last asked."""
        found, self._found = self._found, []
        return found

    def _lost(self, member: int, step: int, what: str, became: str) -> None:
        self._good[member] = False
        whose = f" of {self._members[member]}" if self._members else ""
        self.why = f"The {what}{whose} {became}."
        self._found.append(Bad(step, self.why))


def _finite(state: PyTree, members: int) -> tuple[list[str], Array]:
    """Returns the names of a state's arrays of floats, and whether each is finite: [arrays, members or 1], bool."""
    leaves = [
        (name, leaf)
        for name, leaf in named_leaves(state)
        if hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.inexact)
    ]
    arrays = [leaf for _, leaf in leaves]
    there = jax.default_backend() == "cpu" or all(isinstance(leaf, np.ndarray) for leaf in arrays)
    if sum(leaf.nbytes for leaf in arrays) <= (THERE_BYTES if there else ON_HOST_BYTES):
        found = [_on_host(np.asarray(leaf), members) for leaf in arrays]
    else:
        program = Program("look for NaN", members, lambda arrays: [_flags(jnp, leaf, members) for leaf in arrays])
        found = jax.device_get(compiled(program, arrays)[0](arrays))
    return [name for name, _ in leaves], np.array(found, bool).reshape(len(leaves), members or 1)


def _on_host(array: Array, members: int) -> Array:
    # A sum of finite numbers is finite or has overflowed, and takes a quarter of the time.
    rows = array.reshape(members or 1, -1)
    with np.errstate(all="ignore"):
        finite: Array = np.isfinite(rows.sum(axis=1, dtype=np.float32 if array.dtype.itemsize < 4 else None))
    if not finite.all():
        finite = _flags(np, array, members)
    return finite


def _flags(xp: Any, leaf: Any, members: int) -> Any:
    return xp.isfinite(leaf).reshape(members or 1, -1).all(axis=1)


class Replay:
    """Trains once more, from a snapshot to the first bad step, and says what went wrong there.

    Attributes:
        found: the first bad step, before which the trainer stands then; None where it was not found, and the trainer
            stands where it stood.
    """

    def __init__(self, trainer: Replaying, experiment: Experiment, plan: Plan) -> None:
        self.found: int | None = None
        self._trainer, self._experiment, self._plan = trainer, experiment, plan

    def run(
        self, snapshot: Snapshot | None, finite_at: int, until: int, step_s: float, goes_on: Callable[[], bool]
    ) -> Iterator[Event]:
        """Leaves the trainer with the state before the first bad step, if that is found.

        Args:
            snapshot: where to begin; None for the start.
            finite_at: the latest step at which the state was finite.
            until: the last step that was taken.
            step_s: about how long a step takes.
            goes_on: asked between dispatches.
        """
        trainer = self._trainer
        begun = int(snapshot.place["step"]) if snapshot is not None else 0
        source = f"the checkpoint of step {begun:,}" if begun else "the start"
        if self._experiment.members or finite_at < begun or not trainer.replays:
            return
        expected_s = (finite_at - begun) * step_s
        if expected_s > LONG_S:
            text = (
                f"Looking for the first bad step: training is repeated from {source}, which takes about "
                f"{expected_s:.0f} s. Interrupt to do without."
            )
            yield Notice(step=until, level="info", text=text)
        bad = trainer.held()
        try:
            trainer.restart(snapshot)
            step, watch = begun, Watch(())
            watch.begin(trainer.state, begun)
            while step < finite_at and goes_on():
                values = trainer.run(min(finite_at - step, trainer.most(step)), goes_on)
                if not np.isfinite(values[..., 0]).all():
                    return  # it is not what was trained
                step += len(values)
            while step < until and goes_on():
                before = trainer.held()
                values = trainer.run(1, goes_on)
                if not len(values):
                    continue
                watch.losses(step, values)
                watch.arrays(step + 1, trainer)
                if watch.over:
                    text = self._explained(step, before, float(values.reshape(-1)[0]), watch.gone)
                    trainer.put_back(before, step)
                    self.found = step
                    text = f"Repeated from {source}: {text} The parameters are those before it."
                    yield Notice(step=step, level="warning", text=text)
                    return
                step += 1
        finally:
            if self.found is None:
                trainer.put_back(bad, until)

    def _explained(self, step: int, before: Any, loss: float, gone: list[str]) -> str:
        trainer, e, per_epoch = self._trainer, self._experiment, self._plan.steps_per_epoch
        epoch, batch = divmod(step, per_epoch) if per_epoch else (0, step)
        text = f"the first bad step is {step:,}, batch {batch + 1:,} of epoch {epoch + 1:,}."
        if not isinstance(e.train, Rows):
            return text
        rows = e.train.chosen(e.batch_size, order_key(e.seed), Place(epoch, batch))
        found = trainer.examined(before, e.train.taken(rows), step)
        numbers = rows if rows is None or e.row_numbers is None else e.row_numbers[rows]
        losses = found.losses if found is not None else None
        if losses is not None and rows is not None and numbers is not None and not np.isfinite(losses).all():
            bad = ~np.isfinite(losses)
            of = "every row" if bad.all() and len(bad) > 1 else _numbered(numbers[bad])
            return f"{text} The loss of {of} is not finite{_inputs(e.train, rows[bad])}."
        whole = f" Its batch is {_numbered(numbers)}." if numbers is not None else ""
        if losses is not None and rows is not None and numbers is not None:
            worst = int(losses.argmax())
            if losses[worst] > FAR * np.median(losses):
                of = _inputs(e.train, rows[[worst]])
                whole += f" By far the largest loss is that of row {numbers[worst]:,}, {losses[worst]:.3g}{of}."
        if found is not None and found.gradients:
            what = f"but the gradient of {shown(found.gradients)} is not finite"
        else:
            what = f"and the step made {shown(gone)} NaN or infinite" if gone else "and all arrays are finite after it"
        alone = found.alone if found is not None else None
        if alone is not None and numbers is not None and alone.any() and not alone.all():
            what += f", because of {_numbered(numbers[~alone])}"
        return f"{text} The loss is {loss:.4g}, {what}.{whole}"


class Spikes:
    """Looks for losses far above those before them, and above the highest of a hundred steps as well."""

    def __init__(self) -> None:
        # The usual loss, the usual highest of a window, and the losses of the window that is not full yet.
        self._mean = self._highest = 0.0
        self._windows = self._quiet_until = self._told = 0
        self._window = np.zeros(0)

    def look(self, first_step: int, losses: Array) -> Iterator[Event]:
        """Takes the losses of new steps, shape [steps]."""
        if self._windows >= SPIKE_AFTER and self._told < MOST_SPIKES and np.isfinite(losses).any():
            at = int(np.nanargmax(np.where(np.isfinite(losses), losses, -np.inf)))
            value, step = float(losses[at]), first_step + at
            far = self._mean + max(abs(self._mean), SPIKE_FACTOR * (self._highest - self._mean))
            if value > far and step >= self._quiet_until:
                self._told += 1
                self._quiet_until = step + WINDOW
                more = " Further ones are not told." if self._told == MOST_SPIKES else ""
                text = f"The training loss jumped to {value:.4g} at step {step:,}; it was about {self._mean:.4g}.{more}"
                yield Notice(step=step, level="warning", text=text)
        self._window = np.concatenate([self._window, losses[np.isfinite(losses)]])
        full = len(self._window) // WINDOW * WINDOW
        windows, self._window = self._window[:full].reshape(-1, WINDOW), self._window[full:]
        for mean, highest in zip(windows.mean(axis=1), windows.max(axis=1), strict=True):
            weight = max(SPIKE_WEIGHT, 1 / (self._windows + 1))
            self._mean += weight * (float(mean) - self._mean)
            self._highest += weight * (float(highest) - self._highest)
            self._windows += 1


def _numbered(rows: Array) -> str:
    names = [f"{int(row):,}" for row in np.sort(rows)]
    return f"row{'' if len(names) == 1 else 's'} {shown(names, 8)}"


def _inputs(train: Rows, rows: Array) -> str:
    """Says what is special about the inputs of rows, if it is plain to see."""
    largest = 0.0
    for leaf in jax.tree.leaves(train.taken(rows)):
        values = np.asarray(leaf)
        if values.dtype.kind != "f":
            continue
        if not np.isfinite(values).all():
            return ", whose values are NaN or infinite themselves"
        largest = max(largest, float(np.abs(values).max(initial=0)))
    return f" (the largest value in {'it' if len(rows) == 1 else 'them'} is {largest:.3g})" if largest > 1e4 else ""
