"""Training on batches that come from the host, one at a time, read ahead while the device works."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from functools import partial
from time import perf_counter
from typing import Any, NamedTuple

import jax
import numpy as np

from dlfb_lab.data.lazy import is_lazy
from dlfb_lab.data.prefetch import GATHER_S, Late, Prefetch
from dlfb_lab.data.source import Array
from dlfb_lab.engine import experiment as experiments
from dlfb_lab.engine.experiment import Experiment, Plan
from dlfb_lab.engine.feed import START, Batch, EpochEnd, Place, Rows, Streamed
from dlfb_lab.engine.learner import Learner, keys_of, outcome
from dlfb_lab.engine.memory import check_room
from dlfb_lab.engine.placing import Placing
from dlfb_lab.engine.programs import Compiled, compilation, compiled
from dlfb_lab.engine.resident import kept_of
from dlfb_lab.engine.snapshot import Snapshot, arrays_of, into
from dlfb_lab.engine.step import names_of, streamed_program
from dlfb_lab.engine.trainer import Examined, Scores, Trained, check_names
from dlfb_lab.errors import DataError, DlfbLabError, one_line
from dlfb_lab.events import Event, Notice, PlanChosen
from dlfb_lab.models.model import PyTree

MOST_SHAPES = 16
"""Of batches; each costs a compilation."""

AHEAD = 2
"""Batches that are read before they are needed; more where the reading thread takes the steps itself."""

LATE_S = 0.05
"""How long a dispatch waits for a batch before it lets others look whether to stop."""

LENT_BYTES = 1 << 26
"""Of batches that the reading thread gathers before it takes their steps."""

LENT_S = GATHER_S + 0.01
"""How long the reading thread may take steps by itself before others look whether to stop."""

MOST_STEPS = 256
"""Whose scalars are fetched at once."""


class State(NamedTuple):
    """What one step hands to the next."""

    state: PyTree


class StreamedTrainer:
    """Runs a learner's step on batches of the host."""

    def __init__(self, experiment: Experiment, plan: Plan, learner: Learner) -> None:
        self.experiment, self.plan, self.learner = experiment, plan, learner
        self.names: tuple[str, ...] = ("loss",)
        self.epoch_over = self.exhausted = False
        self.replays = isinstance(experiment.train, Rows)
        self.least = 1
        self._news: list[Event] = []
        self._best: Any = None
        self._programs: dict[Shape, Compiled] = {}
        self._step, self._place = 0, START
        self._batches: Prefetch | None = None
        self._failure: DlfbLabError | None = None
        self._placing = Placing(experiment.devices)
        self._traces = learner.traces and not experiments.debugging(experiment)

    def prepare(self, goes_on: Callable[[], bool], snapshot: Snapshot | None = None) -> Iterator[Event]:
        """See `Trainer`."""
        e, learner = self.experiment, self.learner
        sample = e.train.sample(e.batch_size)
        state = yield from learner.initialise(sample)
        self._carry = State(self._placing.everywhere(state))
        self._keys = keys_of(e)
        if not goes_on():
            return
        yield from learner.prepare_evaluation(state)
        yield PlanChosen(step=0, plan="streamed" if self._traces else "as it is", reason=self._reason())
        if e.asked_plan == "fused":
            text = f"--plan fused: steps are not fused here, since {self._reason()}."
            yield Notice(step=0, level="info", text=text)
        if e.members and e.train.rows is not None:
            text = "The members learn from the same batches in the same order, since rows are read as they are needed."
            yield Notice(step=0, level="info", text=text)
        size = sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(sample))
        self._most_lent = max(1, LENT_BYTES // max(1, size))
        self._order_key = experiments.order_key(e.members[0].seed if e.members else e.seed)
        if snapshot is not None:
            self._resume(snapshot)
        self._read()

    def _read(self) -> None:
        e = self.experiment
        feed = e.train.feed(e.batch_size, self._order_key, e.seed, e.epochs, self.plan.mask_padding, self._place)
        self._batches = Prefetch(feed, self._ready, AHEAD, e.train.reader)

    @property
    def state(self) -> PyTree:
        """See `Trainer`."""
        return self._carry.state

    def restart(self, snapshot: Snapshot | None) -> None:
        """See `Replaying`."""
        e, best, self._failure = self.experiment, self._best, None
        self.epoch_over = self.exhausted = False
        if self._batches is not None:
            self._batches.close()
        if snapshot is not None:
            self._resume(snapshot)
        else:
            state = outcome(self.learner.initialise(e.train.sample(e.batch_size)))
            self._carry, self._step, self._place = State(self._placing.everywhere(state)), 0, START
        self._best = best
        self._read()

    def held(self) -> State:
        """See `Replaying`."""
        return kept_of(None, self._carry, None)  # type: ignore[no-any-return]

    def put_back(self, held: State, step: int) -> None:
        """See `Replaying`."""
        self._carry, self._step = held, step
        self._place = Place(*divmod(step, self.plan.steps_per_epoch))

    def examined(self, held: State, batch: PyTree, step: int) -> Examined | None:
        """See `Replaying`."""
        return self.learner.examined(held.state, batch, self._keys.step, step)

    def snapshot(self) -> Snapshot:
        """See `Trainer`."""
        arrays = arrays_of(self._carry, "now")
        if self._best is not None:
            arrays |= arrays_of(self._best, "best")
        return Snapshot(arrays, {"step": self._step, **self._place._asdict()})

    def _resume(self, snapshot: Snapshot) -> None:
        arrays, place, before = snapshot.arrays, snapshot.place, self._carry
        self._step, self._place = int(place["step"]), Place(place["epoch"], place["batch"], place.get("state"))
        if any(name.startswith("best/") for name in arrays):
            self._best = self._placing.everywhere(into(before, arrays, "best"))
        self._carry = self._placing.everywhere(into(before, arrays, "now"))

    def _reason(self) -> str:
        train = self.experiment.train
        if not self.learner.traces:
            return "the step cannot be compiled as a whole"
        if not isinstance(train, Rows):
            return "the data are a stream"
        if any(is_lazy(leaf) for leaf in jax.tree.leaves(train.tree)):
            return "the training rows lie in files, and are read as they are needed"
        return "the training rows do not fit on the device"

    def _ready(self, item: Batch | EpochEnd) -> Batch | EpochEnd:
        if isinstance(item, EpochEnd):
            return item
        batch = self.experiment.train.ready(item)
        return batch._replace(tree=self._placing.ahead(batch.tree)) if self._traces else batch

    def most(self, step: int) -> int:
        """See `Trainer`."""
        return MOST_STEPS

    def ahead(self, count: int) -> None:
        """See `Trainer`."""

    def run(self, count: int, goes_on: Callable[[], bool]) -> Array:
        """See `Trainer`."""
        assert self._batches is not None
        if self._failure is not None:
            raise self._failure
        self.epoch_over = False
        values: list[Any] = []
        lent = self._traces and self._batches.lendable
        if lent:
            self._batches.lend(partial(self._used, values), min(count, self._most_lent), LENT_S)
        while len(values) < count:
            try:
                item = self._batches.get(0 if lent else LATE_S)
                if isinstance(item, EpochEnd):
                    self._check_epoch(item)
                    self.epoch_over = True
                    self._place = Place(self._place.epoch + 1, 0)
                    break
                values.append(self._one(item, self._program(item)))
            except Late:
                break
            except StopIteration:
                self.exhausted = True
                break
            except DlfbLabError as error:
                if not values:
                    raise
                # The steps before it are told first.
                self._failure = error
                break
        members = len(self.experiment.members)
        if not values:
            return np.zeros((0, *([members] if members else []), len(self.names)), np.float32)
        return np.stack(self._placing.fetched(values))

    def _check_epoch(self, end: EpochEnd) -> None:
        if end.batches == 0:
            raise DataError("The data gave no batch in an epoch. Give an iterable that can be read more than once.")

    def _used(self, values: list[Any], item: Batch | EpochEnd) -> bool:
        """Takes a step in the thread that reads, if it is one that needs nothing new."""
        if isinstance(item, EpochEnd):
            return False
        run = self._programs.get(_shape(item))
        if run is None:
            return False
        values.append(self._one(item, run))
        return True

    def _one(self, batch: Batch, run: Compiled) -> Any:
        arguments = self._arguments(batch)
        state, value = run(*arguments)
        self._carry = State(state)
        self._step += 1
        self._place = self._place.after(batch)
        return value

    def _arguments(self, batch: Batch) -> tuple[Any, ...]:
        at, begins = np.int32(self._step), np.bool_(batch.begins)
        return self._carry.state, batch.tree, batch.counts, self._keys.step, at, begins, self.learner.hyper

    def _program(self, batch: Batch) -> Compiled:
        shape = _shape(batch)
        found = self._programs.get(shape)
        if found is not None:
            return found
        first = not self._programs
        if self._traces and len(self._programs) >= MOST_SHAPES:
            raise DataError(
                f"Batches of more than {MOST_SHAPES} shapes have come; the last has {_shapes(batch.tree)}. "
                "Each costs a compilation. Pad them to one shape, or to a few."
            )
        arguments = self._arguments(batch)
        if first and self._traces:
            self.names = self.learner.names(self._carry.state, batch.tree)
        sharding = self._placing.batch(batch.rows if batch.counts is None else len(batch.counts))
        program = streamed_program(self.learner.step, sharding, len(self.experiment.members))
        run: Compiled = self._as_it_is
        if self._traces:
            start = perf_counter()
            try:
                run, took = compiled(program, *arguments)
            except Exception as error:
                if first or isinstance(error, DataError):
                    raise
                raise DataError(
                    f"A batch of shape {_shapes(batch.tree)} came, which the model does not take: {one_line(error)}"
                ) from error
            check_room(run)
            known = self.plan.remainder and batch.rows == self.plan.remainder
            what = self._what_is_new(batch)
            cause = f"first batch of {what}" if first else f"a batch of {what}"
            self._news.extend(compilation(program.name, took, cause, self._step, planned=bool(first or known)))
            if took is not None and not first and not known:
                cost = perf_counter() - start
                text = f"A batch of another {what.replace(' ', ' came: ', 1)}; compiling for it took {cost:.2g} s."
                self._news.append(Notice(step=self._step, level="info", text=text))
        self._programs[shape] = run
        return run

    def _what_is_new(self, batch: Batch) -> str:
        """Returns the shapes of a batch; its dtypes, where such shapes have come before."""
        shapes = [np.shape(leaf) for leaf in jax.tree.leaves((batch.tree, batch.counts))]
        if any([shape for shape, _ in leaves] == shapes for _, leaves in self._programs):
            return "dtype " + ", ".join(str(leaf.dtype) for leaf in jax.tree.leaves(batch.tree))
        return f"shape {_shapes(batch.tree)}"

    def _as_it_is(
        self, state: PyTree, batch: PyTree, counts: Any, key: jax.Array, at: Any, begins: Any, hyper: Any
    ) -> Any:
        rng = jax.random.fold_in(jax.random.wrap_key_data(key), at)
        state, values = self.learner.step.function(state, batch, counts, rng, begins, hyper)
        if not self._step:
            self.names = names_of(values)
        check_names(self.names, values)
        return state, np.array([float(values[name]) for name in self.names])

    def news(self, step: int) -> Iterator[Event]:
        """See `Trainer`."""
        yield from self._news
        self._news.clear()
        yield from self.learner.news(step)

    def scores(self, goes_on: Callable[[], bool]) -> Scores:
        """See `Trainer`."""
        assert self.experiment.valid is not None
        return self.learner.scores(self._carry.state, self.experiment.valid, True, goes_on)

    def keep(self, members: Array | None = None) -> None:
        """See `Trainer`."""
        self._best = kept_of(self._best, self._carry, members)

    def restore(self) -> None:
        """See `Trainer`."""
        self._carry, self._best = self._best, None

    def trained(self, step: int, best: int) -> Trained:
        """See `Trainer`."""
        return self.learner.trained(self._carry.state, step, best)

    def close(self) -> None:
        """See `Trainer`."""
        if self._batches is not None:
            self._batches.close()
        elif isinstance(self.experiment.train, Streamed):
            self.experiment.train.stream.close()
        self._best = None
        self._programs.clear()
        self.learner.release()


Shape = tuple[Hashable, tuple[tuple[tuple[int, ...], Any], ...]]


def _shape(batch: Batch) -> Shape:
    """What a program is compiled for; computed for every step, so as little as will do."""
    leaves, treedef = jax.tree.flatten((batch.tree, batch.counts))
    return treedef, tuple([(leaf.shape, leaf.dtype) for leaf in leaves])


def _shapes(tree: PyTree) -> str:
    return ", ".join(str(tuple(np.shape(leaf))) for leaf in jax.tree.leaves(tree))
