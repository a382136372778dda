"""The training loop: a generator of events."""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator
from contextlib import nullcontext
from dataclasses import replace
from time import perf_counter

import jax
import numpy as np

from dlfb_lab.engine import experiment as experiments
from dlfb_lab.engine import rates
from dlfb_lab.engine.allocator import keep_freed_memory
from dlfb_lab.engine.clock import Clock, Pace, Reporter
from dlfb_lab.engine.control import Control
from dlfb_lab.engine.divergence import Replay, Spikes, Watch
from dlfb_lab.engine.environment import device, versions
from dlfb_lab.engine.evaluation import Abandoned
from dlfb_lab.engine.experiment import Experiment, Plan
from dlfb_lab.engine.feed import Rows
from dlfb_lab.engine.guests import GuestTrainer
from dlfb_lab.engine.learner import LEARNERS
from dlfb_lab.engine.memory import MemoryWatch
from dlfb_lab.engine.monitor import Monitor
from dlfb_lab.engine.resident import ResidentTrainer
from dlfb_lab.engine.snapshot import Checkpointer, Never, Snapshot
from dlfb_lab.engine.streamed import StreamedTrainer
from dlfb_lab.engine.trainer import Replaying, Trained, Trainer
from dlfb_lab.errors import FAILURES, DlfbLabError, one_line
from dlfb_lab.events import (
    Baseline,
    CheckpointSaved,
    Evaluation,
    Event,
    FloatBlock,
    Losses,
    Notice,
    RateTest,
    RunStarted,
    Status,
)

PATIENCE_S = 0.2
"""A run that was told to stop still takes its last evaluation if that is quicker than this."""


FIND_SHARE = 0.25
"""Of a time box: the most that looking for a learning rate takes."""


def make_trainer(experiment: Experiment, plan: Plan) -> Trainer:
    """Returns what runs an experiment's steps."""
    kind = experiments.family(experiment.model)
    if kind == "guest":
        return GuestTrainer(experiment, plan)
    learner = LEARNERS[kind](experiment, plan)
    on_device = isinstance(experiment.train, Rows) and experiment.resident and learner.traces
    return ResidentTrainer(experiment, plan, learner) if on_device else StreamedTrainer(experiment, plan, learner)


def train(
    experiment: Experiment,
    plan: Plan,
    control: Control,
    trainer: Trainer | None = None,
    run_id: str = "",
    checkpointer: Checkpointer | None = None,
    snapshot: Snapshot | None = None,
    parent: str = "",
) -> Generator[Event, None, Trained]:
    """Trains, and yields what happens.

    Args:
        experiment: what to do.
        plan: how, from `planning.plan`.
        control: what is asked of the run from outside.
        trainer: runs the steps; made here when not given.
        run_id: how the run is called in its journal.
        checkpointer: keeps snapshots of the run; None for none.
        snapshot: where training goes on from; None for its start. What follows is what would have followed then.
        parent: the run that the snapshot is of, where this is another one; "" where it is the same, whose beginning has
            been told.

    Returns:
        The trained state, as the generator's value.

    Raises:
        ModelError: the model's outputs have passed an activation that the loss applies itself.
        DataError: a stream of batches ended, failed, or brought too many shapes.
        StoreError: the snapshot is of another model or optimizer.
    """
    without_jit = jax.disable_jit() if experiments.debugging(experiment) else nullcontext()
    with without_jit:
        trainer = trainer or make_trainer(experiment, plan)
        training = _Training(experiment, plan, control, trainer, checkpointer or Never())
        try:
            begun = int(snapshot.place["step"]) if snapshot is not None else 0
            begins = snapshot is None or parent != ""
            if begins:
                yield training.started(run_id, parent, begun)
            yield Status(step=begun, state="compiling")
            for level, text in experiment.notices:
                yield Notice(step=begun, level=level, text=text)
            for event in training.prepare(snapshot):
                # What was said at the beginning of a run is not said again where it goes on.
                if begins or not isinstance(event, Baseline | Notice):
                    yield replace(event, step=begun)
            yield Status(step=begun, state="running", reason="" if begins else "resumed")
            reason = yield from training.run()
            yield from training.checkpointer.news()
            yield from training.restore_best()
            ended_early = control.stop_reason is not None or training.failure is not None
            state = "stopped" if ended_early else "finished"
            yield Status(step=training.step, state=state, reason=reason)  # type: ignore[arg-type]
            return training.trained()
        except GeneratorExit:
            raise
        except KeyboardInterrupt:
            yield Status(step=training.step, state="stopped", reason="interrupted twice; the parameters were not kept")
            raise
        except BaseException as error:
            yield Status(step=training.step, state="failed", reason=one_line(error))
            raise
        finally:
            training.trainer.close()


class _Training:
    def __init__(
        self, experiment: Experiment, plan: Plan, control: Control, trainer: Trainer, checkpointer: Checkpointer
    ) -> None:
        self.experiment, self.plan, self.control, self.trainer = experiment, plan, control, trainer
        self.checkpointer = checkpointer
        self.clock = Clock(experiment.timebox_s)
        self.monitor = Monitor(plan, experiment.early_stop)
        self.step = self.epochs = 0
        self.watch = Watch([member.name for member in experiment.members])
        self.spikes = Spikes()
        self.diverged = False
        self.failure: str | None = None
        self.evaluated_at = self.saved_at = self.better_at = -1
        self.metrics: dict[str, float] = {}
        self.last_evaluation_s = self.last_dispatch_s = self.trained_s = 0.0
        self.restored = False
        # Until there is a checkpoint of its own: what a replay would have to begin with.
        self.begun_with: Snapshot | None = None
        self.begun_at = 0
        self.state_step: int | None = None

    def started(self, run_id: str, parent: str, parent_step: int) -> RunStarted:
        e, p = self.experiment, self.plan
        return RunStarted(
            step=0,
            run_id=run_id,
            name=e.name,
            task=e.task.name if e.task is not None else "own",
            task_sentence=e.task_sentence,
            classes=list(e.task.classes) if e.task is not None else [],
            model=e.model.name,
            model_kind=e.model.kind,
            parameter_count=p.parameter_count,
            steps_total=p.steps_total,
            steps_per_epoch=p.steps_per_epoch,
            batch_size=e.batch_size,
            evaluations_total=p.evaluations_total,
            monitor=p.monitor,
            monitor_mode=p.monitor_mode,
            rows=e.rows,
            split_hash=e.split_hash,
            settings={**e.settings, **({"loss": p.loss.name} if p.loss is not None else {})},
            versions={**versions(), **getattr(e.model, "versions", {})},
            device=device(),
            source=e.source,
            members=[member.name for member in e.members],
            parent=parent,
            parent_step=parent_step,
        )

    def prepare(self, snapshot: Snapshot | None) -> Iterator[Event]:
        """Initialises, and compiles every program the plan needs."""
        if jax.default_backend() == "cpu":
            keep_freed_memory()
        yield from self.trainer.prepare(self._goes_on, snapshot)
        self.watch.begin(self.trainer.state, 0 if snapshot is None else int(snapshot.place["step"]))
        self.begun_with = snapshot
        if snapshot is not None:
            place = snapshot.place
            self.begun_at = int(place["step"])
            self.step = self.saved_at = int(place["step"])
            self.epochs, self.evaluated_at = int(place["epochs"]), int(place["evaluated_at"])
            self.diverged, self.metrics = bool(place["diverged"]), dict(snapshot.metrics)
            self.monitor.resume(place["monitor"])

    def _save(self, step: int | None = None) -> None:
        self.saved_at = step = self.step if step is None else step
        start = perf_counter()
        found = self.trainer.snapshot()
        if found is not None:
            place = {
                **found.place,
                "step": step,
                "epochs": self.epochs,
                "evaluated_at": self.evaluated_at,
                "diverged": self.diverged,
                "usable": not self.watch.over,
                "monitor": self.monitor.place(),
            }
            metrics = self.metrics if self.evaluated_at == step else {}
            self.checkpointer.save(Snapshot(found.arrays, place, metrics, perf_counter() - start))

    def _saved(self) -> Iterator[Event]:
        for event in self.checkpointer.news():
            if isinstance(event, CheckpointSaved):
                self.begun_with = None
            yield event

    def _goes_on(self) -> bool:
        self.control.look()
        return self.control.stop_reason is None

    def _undisturbed(self) -> bool:
        return self._goes_on() and not self.control.paused and not self.clock.over(self.last_evaluation_s)

    def run(self) -> Generator[Event, None, str]:
        """Trains to the end of the budget, or until told to stop; returns the reason."""
        control = self.control
        if self.experiment.find_rate and self.step == 0 and self._goes_on():
            yield from self._find_rate()
        pace = Pace(1 if experiments.debugging(self.experiment) else None)
        reporter, memory = Reporter(self.clock), MemoryWatch(self.clock)
        pending: list[tuple[np.ndarray, float]] = []
        while True:
            control.look()
            reason = self._reason_to_end()
            evaluate = self._evaluation_due(reason)
            save = self._save_due(reason)
            interrupted = evaluate or save or reason is not None or control.paused
            if interrupted:
                self.watch.arrays(self.step, self.trainer)
            if self.watch.over and self.experiment.on_nan != "warn":
                return (yield from self._stop_diverged(pending))
            begun = None
            if pending and (interrupted or reporter.due()):
                if not interrupted:
                    # The device need not wait for whoever is told.
                    begun = self._next_count(pace), perf_counter()
                    self.trainer.ahead(begun[0])
                yield from self._report(pending)
                yield from memory.look(self.step)
                yield from self._saved()
            if begun is None and reason is not None and save and not self._scheduled():
                # An evaluation that only the ending calls for is none that an undisturbed run has.
                self._save()
            if evaluate:
                try:
                    yield from self._evaluation()
                except DlfbLabError as error:
                    yield self._survived(error)
                yield from self.trainer.news(self.step)
                reason = self._reason_to_end()
            if begun is None and self.saved_at != self.step and (save or self._save_due(reason)):
                self._save()
            if reason is not None:
                return reason
            # Steps that have begun are counted first, whatever was asked while losses were told.
            if control.paused and begun is None:
                yield Status(step=self.step, state="paused")
                control.wait_while_paused()
                if control.stop_reason is None:
                    yield Status(step=self.step, state="running", reason="resumed")
                continue
            count, start = begun or (self._next_count(pace), perf_counter())
            try:
                values = self.trainer.run(count, self._undisturbed)
            except (*FAILURES, KeyboardInterrupt) as error:
                if pending:
                    yield from self._report(pending)
                yield self._survived(error)
                continue
            self.last_dispatch_s = perf_counter() - start
            self.trained_s += self.last_dispatch_s
            self.watch.losses(self.step, values)
            self.step += len(values)
            if self.watch.due():
                self.watch.arrays(self.step, self.trainer)
            self.epochs += self.trainer.epoch_over
            if len(values):
                pace.update(len(values), self.last_dispatch_s)
                pending.append((values, self.last_dispatch_s))
            for event in self.trainer.news(self.step):
                if pending:
                    yield from self._report(pending)
                yield event

    def _survived(self, error: BaseException) -> Notice:
        """Ends training with what was learned, where a batch or the user's code fails later than at the first step.

        Raises:
            BaseException: the error, where nothing was learned yet, or it is nobody's sentence.
        """
        if not isinstance(error, DlfbLabError) or self.step == 0:
            raise error
        self.failure = str(error)
        return Notice(step=self.step, level="warning", text=f"{error} What was learned before is kept.")

    def _find_rate(self) -> Iterator[Event]:
        """Tries learning rates from the run's own start, and takes the best."""
        trainer, box_s = self.trainer, self.experiment.timebox_s
        until_s = None if box_s is None else self.clock.elapsed_s + FIND_SHARE * box_s
        assert isinstance(trainer, ResidentTrainer) and self.experiment.optimizer is not None
        start = perf_counter()
        trainer.keep()

        def loss_at(rate: float) -> float:
            if not self._goes_on():
                raise Abandoned
            return trainer.try_rate(rate)

        try:
            usual = self.experiment.optimizer.hyper["lr"]
            found = rates.find_rate(loss_at, usual, lambda: until_s is None or self.clock.elapsed_s < until_s)
        except Abandoned:
            return
        finally:
            trainer.restore()
        trainer.take_rate(found.chosen)
        yield RateTest(
            step=0,
            rates=np.asarray(found.rates, np.float64),
            losses=np.asarray(found.losses, np.float64),
            chosen=found.chosen,
            duration_s=perf_counter() - start,
        )
        yield Notice(step=0, level="info", text=f"The learning rate is {found.chosen:.2g}: {found.reason}")

    def _reason_to_end(self) -> str | None:
        total = self.plan.steps_total
        if total and self.step >= total:
            return ""
        if self.trainer.exhausted:
            return f"the data ended before step {total:,}" if total else ""
        if self.failure is not None:
            return self.failure
        if self.control.stop_reason is not None:
            return self.control.stop_reason
        # A dispatch more, and the evaluation after it, must fit into the box.
        if self.clock.over(self.last_evaluation_s + self.last_dispatch_s):
            return f"the timebox of {self.experiment.timebox_s:g} s is used up"
        return self.monitor.reason if self.monitor.over else None

    def _evaluation_due(self, reason: str | None) -> bool:
        plan = self.plan
        if not (plan.eval_steps or plan.eval_epochs) or self.evaluated_at == self.step:
            return False
        if reason is None:
            return self._scheduled()
        if self.step == 0:
            return False
        return self.control.stop_reason is None or self.last_evaluation_s < PATIENCE_S

    def _scheduled(self) -> bool:
        """Whether the plan has an evaluation here."""
        plan = self.plan
        if not (plan.eval_steps or plan.eval_epochs):
            return False
        if plan.eval_steps:
            return self.step % plan.eval_steps == 0 or self.step == plan.steps_total
        return self.step == 0 or (self.trainer.epoch_over and self.epochs % plan.eval_epochs == 0)

    def _save_due(self, reason: str | None) -> bool:
        better = self.better_at == self.step
        return self.step != self.saved_at and self.checkpointer.due(self.step, reason is not None, better)

    def _next_count(self, pace: Pace) -> int:
        trainer = self.trainer
        return min(max(pace.count, trainer.least), trainer.most(self.step), self._steps_until_next_stop())

    def _steps_until_next_stop(self) -> int:
        plan, step = self.plan, self.step
        until = min(plan.steps_total - step if plan.steps_total else sys.maxsize, self.checkpointer.steps_until(step))
        return min(until, plan.eval_steps - step % plan.eval_steps) if plan.eval_steps else until

    def _report(self, pending: list[tuple[np.ndarray, float]]) -> Iterator[Event]:
        block = np.concatenate([values for values, _ in pending])
        first_step = self.step - len(block)
        members, parts = self._members_and_parts(block)
        losses = np.mean(members, axis=0).astype(block.dtype) if members else block[:, 0]
        yield Losses(
            step=self.step,
            first_step=first_step,
            losses=losses,
            duration_s=sum(duration for _, duration in pending),
            dispatches=len(pending),
            parts=parts,
            members=members,
        )
        pending.clear()
        yield from self.spikes.look(first_step, losses)
        yield from self._bad_news()

    def _bad_news(self) -> Iterator[Event]:
        """Says what is not finite any more; what to do about it, once."""
        for bad in self.watch.news():
            advice = ""
            if not self.diverged:
                advice = " Try a smaller --lr; --scale helps where inputs differ much in size."
                if self.experiment.task is None:
                    advice = " Take smaller updates, or look for a division by zero or a logarithm of zero in the step."
            self.diverged = True
            yield Notice(step=bad.step, level="warning", text=f"{bad.text}{advice}")

    def _stop_diverged(self, pending: list[tuple[np.ndarray, float]]) -> Generator[Event, None, str]:
        """Ends a run whose numbers are not finite any more, with the state before that where it can be had."""
        if pending:
            yield from self._report(pending)
        yield from self._bad_news()
        self.failure = self.watch.why[0].lower() + self.watch.why[1:-1]
        if isinstance(self.trainer, Replaying):
            replay = Replay(self.trainer, self.experiment, self.plan)
            step_s = self.trained_s / max(1, self.step)
            try:
                snapshot = self.checkpointer.last() or self.begun_with
                # What began from another run's state does not begin again from its own start.
                if snapshot is not None or not self.begun_at:
                    yield from replay.run(
                        snapshot,
                        self.watch.finite_at,
                        self.step,
                        step_s,
                        lambda: self._goes_on() and not self.clock.over(0.0),
                    )
            except Exception as error:  # a diagnosis must not cost what was learned
                text = f"The first bad step was not found by repeating them: {one_line(error)}"
                yield Notice(step=self.step, level="info", text=text)
            self.state_step = replay.found
        step = self.step if self.state_step is None else self.state_step
        # Going back, the checkpoint before all this is wanted.
        if self.experiment.on_nan != "rollback" and self.checkpointer.due(step, True):
            self._save(step)
        return self.failure

    def _members_and_parts(self, block: np.ndarray) -> tuple[list[FloatBlock], dict[str, FloatBlock]]:
        names = self.trainer.names
        if block.ndim == 2:
            return [], {name: block[:, i] for i, name in enumerate(names) if i}
        members = [block[:, i, 0] for i in range(block.shape[1])]
        return members, {name: block[:, :, i].mean(axis=1) for i, name in enumerate(names) if i}

    def _evaluation(self) -> Iterator[Event]:
        e = self.experiment
        assert e.valid is not None
        start = perf_counter()

        def goes_on() -> bool:
            self.control.look()
            return self.control.stop_reason is None or perf_counter() - start < PATIENCE_S

        self.evaluated_at = self.step
        try:
            scores = self.trainer.scores(goes_on)
        except Abandoned:
            return
        finally:
            self.last_evaluation_s = perf_counter() - start
        yield Evaluation(
            step=self.step,
            split="valid",
            metrics=scores.metrics,
            rows=len(e.valid),
            duration_s=self.last_evaluation_s,
            members=scores.members,
        )
        self.metrics = {f"valid/{name}": value for name, value in scores.metrics.items()}
        better = self.monitor.look(self.step, scores)
        if better.any():
            self.better_at = self.step
        if e.early_stop is not None and better.any():
            self.trainer.keep(better if scores.members else None)

    def restore_best(self) -> Iterator[Event]:
        """Goes back to the best evaluation, where the user asked for early stopping."""
        monitor, step = self.monitor, self.step
        stop = self.experiment.early_stop
        if stop is None or not np.isfinite(monitor.best).any() or (monitor.best_step == step).all():
            return
        self.trainer.restore()
        self.restored = True
        best = monitor.best_member(True) or 0
        self.state_step = int(monitor.best_step[best])
        whose = f" of {self.experiment.members[best].name}" if self.experiment.members else ""
        yield Notice(
            step=step,
            level="info",
            text=f"The parameters{whose} are those of step {self.state_step:,}, where "
            f"{self.plan.monitor} was best: {monitor.best[best]:.4g}.",
        )

    def trained(self) -> Trained:
        """Returns what training came to; of several members, the best with all beside it."""
        best = self.monitor.best_member(self.restored)
        step = self.state_step if self.state_step is not None else self.step
        found = self.trainer.trained(step, best or 0)
        return replace(found, diverged=self.watch.over and self.experiment.on_nan != "warn")
