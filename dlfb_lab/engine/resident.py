"""Training on rows that stay on the device: one step a dispatch, or many."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from time import perf_counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dlfb_lab.data.source import Array
from dlfb_lab.engine import asking
from dlfb_lab.engine import experiment as experiments
from dlfb_lab.engine import plan as plans
from dlfb_lab.engine import step as steps
from dlfb_lab.engine.asking import Asker
from dlfb_lab.engine.evaluation import always
from dlfb_lab.engine.experiment import Experiment, Plan
from dlfb_lab.engine.feed import Rows
from dlfb_lab.engine.learner import Learner, keys_of, outcome
from dlfb_lab.engine.memory import check_room
from dlfb_lab.engine.placing import Placing
from dlfb_lab.engine.plan import Fusing, StepTime, Verdict
from dlfb_lab.engine.programs import Compiled, Lowered, compilation, compiled
from dlfb_lab.engine.snapshot import Snapshot, arrays_of, into
from dlfb_lab.engine.step import Batching, Carry
from dlfb_lab.engine.trainer import Examined, Scores, Trained
from dlfb_lab.events import Event, PlanChosen
from dlfb_lab.models.model import PyTree

MOST_DRAWN_INSIDE = 2**17
"""Rows whose order is drawn within the training program, so that an epoch need not be a dispatch of its own."""

LEAST_RACED = 16
"""Steps of a dispatch that a verdict may rest on; fewer say little about their time."""

MOST_SINGLE = 256
"""Steps one by one whose scalars are fetched at once."""

PROBE_SLOWER = 3.0
"""A fused step that takes so many times longer than one alone needs no further look."""


class ResidentTrainer:
    """Runs a learner's step on rows that are kept on the device."""

    def __init__(self, experiment: Experiment, plan: Plan, learner: Learner) -> None:
        assert isinstance(experiment.train, Rows)
        self.experiment, self.plan, self.learner = experiment, plan, learner
        self.rows: Rows = experiment.train
        self.names: tuple[str, ...] = ("loss",)
        self.epoch_over = self.exhausted = False
        self.replays = True
        self._news: list[Event] = []
        self._best: PyTree = None
        self._fused: Compiled | None = None
        self._fusing: Fusing | None = None
        self._verdict: Verdict | None = None
        self._asks = False
        self._begun: Callable[[], Array] | None = None
        self._times = StepTime()
        self._step = 0

    def prepare(self, goes_on: Callable[[], bool], snapshot: Snapshot | None = None) -> Iterator[Event]:
        """See `Trainer`."""
        e, p, learner = self.experiment, self.plan, self.learner
        batch = e.batch_size if self.rows.count is not None else 1
        count = self.rows.count or 1
        ragged = p.remainder if not p.mask_padding else 0
        self._ragged, self._full_batches = ragged, -(-(count - ragged) // batch)
        self._placing = placing = Placing(e.devices)
        state = yield from learner.initialise(self.rows.sample(batch))
        if not goes_on():
            self._carry = steps.start(state, 0)
            return
        yield from learner.prepare_evaluation(state)
        if not goes_on():
            self._carry = steps.start(state, 0)
            return
        members = len(e.members)
        order_length = -(-count // batch) * batch if p.mask_padding else count
        whole = batch >= count
        self._batching = Batching(
            rows=count,
            batch=batch,
            order_length=0 if whole else order_length,
            mask_padding=p.mask_padding,
            members=members,
            sharding=placing.batch(batch),
            draws=whole or count <= MOST_DRAWN_INSIDE,
        )
        self._carry = placing.everywhere(steps.start(state, self._batching.order_length, members))
        self._data = placing.everywhere(self.rows.tree)
        self._rest = self._data, placing.everywhere(keys_of(e)), placing.everywhere(learner.hyper)
        self.names = learner.names(self._carry.state, self.rows.sample(batch))
        if not self._batching.draws:
            program = steps.order_program(self._batching)
            self._draw, took = compiled(program, self._rest[1].order, np.int32(0))
            yield from compilation(program.name, took, f"first run with {count:,} rows")
            self._draw_order(0)
        if snapshot is not None:
            self._resume(snapshot)
        yield from self._compile(batch)

    @property
    def state(self) -> PyTree:
        """See `Trainer`."""
        return self._carry.state

    def snapshot(self) -> Snapshot:
        """See `Trainer`."""
        arrays = arrays_of(self._without_order(self._carry), "now") | arrays_of(self._rest[2], "hyper")
        if self._best is not None:
            arrays |= arrays_of(self._without_order(self._best), "best")
        return Snapshot(arrays, {"step": self._step})

    def restart(self, snapshot: Snapshot | None) -> None:
        """See `Replaying`."""
        best, self._begun, batching = self._best, None, self._batching
        if snapshot is not None:
            self._resume(snapshot)
        else:
            state = outcome(self.learner.initialise(self.rows.sample(batching.batch)))
            self._carry = self._placing.everywhere(steps.start(state, batching.order_length, batching.members))
            self._step = 0
            if not batching.draws:
                self._draw_order(0)
        self._best = best

    def held(self) -> Carry:
        """See `Replaying`."""
        copy: Carry = _copied(self._carry)
        return copy

    def put_back(self, held: Carry, step: int) -> None:
        """See `Replaying`."""
        self._carry, self._step = held, step

    def examined(self, held: Carry, batch: PyTree, step: int) -> Examined | None:
        """See `Replaying`."""
        return self.learner.examined(held.state, batch, self._rest[1].step, step)

    def _resume(self, snapshot: Snapshot) -> None:
        arrays, before, placing = snapshot.arrays, self._without_order(self._carry), self._placing
        self._step = int(snapshot.place["step"])
        if "best/step" in arrays:
            self._best = placing.everywhere(into(before, arrays, "best"))
        carry = placing.everywhere(into(before, arrays, "now"))
        self._carry = carry if self._batching.draws else carry._replace(order=self._carry.order)
        data, keys, hyper = self._rest
        if any(name.startswith("hyper/") for name in arrays):
            self._rest = data, keys, placing.everywhere(into(hyper, arrays, "hyper"))
        if not self._batching.draws:
            self._draw_order(self._step // self.plan.steps_per_epoch)

    def _without_order(self, carry: Carry) -> Carry:
        """Returns a carry without what is drawn again when it is needed."""
        return carry if self._batching.draws else carry._replace(order=carry.order[..., :0])

    def _draw_order(self, epoch: int) -> None:
        self._carry = self._carry._replace(order=self._draw(self._rest[1].order, np.int32(epoch)))

    def _compile(self, batch: int) -> Iterator[Event]:
        e, p = self.experiment, self.plan
        self._single_program = steps.single_program(self.learner.step, self._batching)
        self._fused_program = steps.fused_program(self.learner.step, self._batching, len(self.names))
        self._key = ("plan", self._fused_program.key, jax.default_backend(), e.devices)
        why = f"first run with batches of {batch:,} rows"
        debugging = experiments.debugging(e)
        before = plans.known(self._key) if e.asked_plan == "auto" and not debugging else None
        if e.asked_plan == "fused" and not debugging:
            before = Verdict(True, "asked for")
        elif e.asked_plan == "step" or debugging:
            before = Verdict(False, "no jit" if debugging else "asked for")
        self._single: Compiled | None = None
        if before is not None and before.fused:
            self._ask(before.asks)
            self._fused, took = compiled(self._fused_program, self._carry, *self._rest, *self._counted(1))
            check_room(self._fused)
            yield from compilation(self._fused_program.name, took, why)
        else:
            self._single, took = compiled(self._single_program, self._carry, *self._rest)
            check_room(self._single)
            yield from compilation(self._single_program.name, took, why)
        if before is not None:
            yield self._decided(before, remember=False)
        else:
            yield PlanChosen(step=0, plan="one by one", reason="ready first; a fused program is tried meanwhile")
        self._last: Compiled | None = None
        if self._ragged:
            last = steps.Batching(**{**vars(self._batching), "batch": self._ragged, "sharding": None})
            program = steps.single_program(self.learner.step, last)
            self._last, took = compiled(program, self._carry, *self._rest)
            if p.loss is not None and not p.loss.own:
                because = "the model keeps statistics across rows"
            else:
                because = "the loss is your own" if p.loss is not None else "the step is your own"
            yield from compilation(
                "train step, last batch", took, f"the last batch of an epoch has {self._ragged:,} rows, and {because}"
            )

    def _ask(self, asks: bool) -> None:
        """Takes fused steps that ask whether to go on, or that do not."""
        self._asks = asks
        self._fused_program = steps.fused_program(self.learner.step, self._batching, len(self.names), asks)

    def _counted(self, count: int, asker: Asker | None = None) -> tuple[Any, ...]:
        """Returns the last arguments of the fused program."""
        return (np.int32(count), asker.number if asker else np.int32(0)) if self._asks else (np.int32(count),)

    @property
    def least(self) -> int:
        """See `Trainer`."""
        if not self._asks:
            return 1
        if self._verdict is None:
            return asking.COMPARED_STEPS if self._fusing is not None and self._fusing.ready else 1
        return max(1, int(asking.DISPATCH_S / self._verdict.fused_step_s)) if self._verdict.fused else 1

    def most(self, step: int) -> int:
        """See `Trainer`."""
        most = steps.capacity(self._batching.members, len(self.names)) if self._fused is not None else MOST_SINGLE
        place = step % self.plan.steps_per_epoch
        if not self._batching.draws:
            most = min(most, self.plan.steps_per_epoch - place)
        if self._last is None:
            return most
        return min(most, self._full_batches - place if place < self._full_batches else 1)

    def ahead(self, count: int) -> None:
        """See `Trainer`."""
        if self._verdict is not None and not self._verdict.asks and not experiments.debugging(self.experiment):
            try:
                self._begun = self._begin(count)
            except Exception as error:
                self._begun = partial(_raised, error)

    def run(self, count: int, goes_on: Callable[[], bool]) -> Array:
        """See `Trainer`."""
        if self._begun is not None:
            fetch, self._begun = self._begun, None
        else:
            fetch = self._begin(count, goes_on)
        values = fetch()
        self._step += len(values)
        return values

    def _begin(self, count: int, goes_on: Callable[[], bool] = always) -> Callable[[], Array]:
        """Begins the next steps, and returns what waits for their scalars."""
        if not self._batching.draws and self._step and self._step % self.plan.steps_per_epoch == 0:
            self._draw_order(self._step // self.plan.steps_per_epoch)
        if self._last is not None and self._step % self.plan.steps_per_epoch >= self._full_batches:
            return self._one_by_one(self._last, count)
        if self._verdict is None:
            return partial(self._undecided, count, goes_on)
        return self._one_by_one(self._single, count) if self._fused is None else self._fused_steps(count, goes_on)

    def _fused_steps(self, count: int, goes_on: Callable[[], bool]) -> Callable[[], Array]:
        assert self._fused is not None
        if self._asks:
            with Asker() as asker:
                arguments = self._carry, *self._rest, *self._counted(count, asker)
                self._carry, block, done = asker.wait(self._fused, arguments, goes_on)
            return lambda: np.asarray(block)[: int(done)]
        self._carry, block = self._fused(self._carry, *self._rest, np.int32(count))
        # Fetching the scalars waits for the whole dispatch; they are its only transfer to the host.
        return lambda: np.asarray(block)[:count]

    def _one_by_one(
        self, program: Compiled | None, count: int, goes_on: Callable[[], bool] = always
    ) -> Callable[[], Array]:
        """Runs steps one at a time; where `goes_on` is given, looks after each whether to end."""
        assert program is not None
        values = []
        for _ in range(count):
            self._carry, value = program(self._carry, *self._rest)
            values.append(value)
            if goes_on is not always:
                jax.block_until_ready(value)
                if not goes_on():
                    break
        return lambda: np.stack(jax.device_get(values))

    def _undecided(self, count: int, goes_on: Callable[[], bool]) -> Array:
        """Steps one by one, while it is being found out whether fused ones are faster."""
        step_s = self._times.step_s
        ready = self._fusing is not None and self._fusing.ready
        enough = asking.COMPARED_STEPS if self._asks else LEAST_RACED
        if ready and step_s is not None and count >= min(enough, self._compared_steps(step_s, MOST_SINGLE)):
            return self._race(count, step_s, goes_on)
        start = perf_counter()
        values = self._one_by_one(self._single, count)()
        self._times.add(count, perf_counter() - start)
        step_s = self._times.step_s
        if self._fusing is None and step_s is not None:
            assert self._single is not None
            alone = self.experiment.devices == 1
            self._ask(step_s > plans.LONG_STEP_S and alone and asking.pays(self._single))
            if step_s > plans.LONG_STEP_S and not self._asks:
                reason = f"a step takes {step_s * 1e3:.3g} ms, so that launching it costs next to nothing"
                self._news.append(self._decided(Verdict(False, reason, step_s)))
            else:
                self._fusing = Fusing(Lowered(self._fused_program, (self._carry, *self._rest, *self._counted(1))))
        return values

    def _compared_steps(self, step_s: float, most: int) -> int:
        return min(most, asking.COMPARED_STEPS) if self._asks else plans.compared_steps(step_s, most)

    def _race(self, count: int, step_s: float, goes_on: Callable[[], bool]) -> Array:
        """Runs a few steps both ways from the same state, and decides. Those one by one are the run's."""
        assert self._fusing is not None
        fused, took = self._fusing.result()
        first = self._compared_steps(step_s, count)
        before = _copied(self._carry)

        def run_fused(count: int) -> tuple[Any, float]:
            with Asker() as asker:
                arguments = jax.block_until_ready(_copied(before)), *self._rest, *self._counted(count, asker)
                if self._asks:
                    return plans.timed(lambda: asker.wait(fused, arguments, goes_on)[:2])
                return plans.timed(lambda: fused(*arguments))

        def run_single(count: int) -> float:
            single, carry = self._single, jax.block_until_ready(_copied(before))
            assert single is not None

            def steps() -> Any:
                nonlocal carry
                for _ in range(count):
                    carry, _ = single(carry, *self._rest)
                return carry

            return plans.timed(steps)[1]

        run_fused(1)
        _, probe_s = run_fused(1)
        start = perf_counter()
        values = self._one_by_one(self._single, first, goes_on if self._asks else always)()
        jax.block_until_ready(self._carry)
        single_s = (perf_counter() - start) / len(values)
        if probe_s > PROBE_SLOWER * single_s + plans.COMPARED_S:
            reason = f"a fused step takes {probe_s * 1e3:.3g} ms, one alone {single_s * 1e3:.3g} ms"
            verdict = Verdict(False, reason, single_s, probe_s)
        else:
            (carry, block), fused_s = run_fused(first)
            if self._asks and not goes_on():
                # One way or the other may have ended early: it is tried again if the run goes on.
                return values
            ours, theirs = (self._carry, values), (carry, np.asarray(block)[:first])
            fused_s /= first
            if not self._asks and plans.near(single_s, fused_s):
                for _ in range(plans.LOOKS):
                    if not goes_on():
                        return values
                    fused_s = min(fused_s, run_fused(first)[1] / first)
                    single_s = min(single_s, run_single(first) / first)
            verdict = plans.compare(ours, theirs, single_s, fused_s)
        if verdict.fused:
            self._fused = fused
        cause = "many steps in a dispatch, compiled beside training"
        self._news.extend(compilation(self._fused_program.name, took, cause, self._step))
        self._news.append(self._decided(verdict))
        return values

    def _decided(self, verdict: Verdict, remember: bool = True) -> PlanChosen:
        self._verdict = verdict = replace(verdict, asks=self._asks and verdict.fused)
        if remember:
            plans.remember(self._key, verdict)
        return PlanChosen(
            step=self._step,
            plan="fused" if verdict.fused else "one by one",
            reason=verdict.reason,
            step_s=verdict.step_s,
            fused_step_s=verdict.fused_step_s,
        )

    def try_rate(self, rate: float) -> float:
        """Applies one update at a learning rate and returns its loss, for a test whose state is thrown away."""
        data, keys, hyper = self._rest
        rates = jnp.full_like(hyper["lr"], rate)
        if self._single is None:
            self._single, _ = compiled(self._single_program, self._carry, *self._rest)
        self._carry, values = self._single(self._carry, data, keys, {**hyper, "lr": rates})
        return float(np.asarray(values).reshape(-1, len(self.names))[0, 0])

    def take_rate(self, rate: float) -> None:
        """Takes a learning rate for the steps to come."""
        data, keys, hyper = self._rest
        self._rest = data, keys, {**hyper, "lr": jnp.full_like(hyper["lr"], rate)}

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
        self._data = self._best = self._fusing = self._begun = None
        self._rest = (None, None, None)
        self.learner.release()


def kept_of(before: Any, now: Any, members: Array | None) -> Any:
    """Returns a copy of a carry; of the members that are not true, the state kept before."""
    copy = _copied(now)
    if members is None or before is None or members.all():
        return copy

    def chosen(old: Any, new: Any) -> Any:
        return jnp.where(members.reshape(-1, *[1] * (new.ndim - 1)), new, old)

    return copy._replace(state=jax.tree.map(chosen, before.state, copy.state))


def _raised(error: Exception) -> Array:
    raise error


def _copied(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda a: a.copy(), tree)
