"""The training loop: a generator of events."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dlfb_lab.engine import experiment as experiments
from dlfb_lab.engine import step as steps
from dlfb_lab.engine.clock import Clock, Pace, Reporter
from dlfb_lab.engine.control import Control
from dlfb_lab.engine.environment import device, versions
from dlfb_lab.engine.evaluation import Abandoned, Evaluator, baseline_outputs, chunk_rows
from dlfb_lab.engine.experiment import Experiment, Plan
from dlfb_lab.engine.losses import Link, predictions_look_squashed
from dlfb_lab.engine.memory import MemoryWatch
from dlfb_lab.engine.programs import Compiled, CompileTime, Program, compiled
from dlfb_lab.errors import ModelError, one_line
from dlfb_lab.events import Baseline, Compilation, Evaluation, Event, Losses, Notice, RunStarted, Status
from dlfb_lab.models.model import PyTree

PATIENCE_S = 0.2
"""A run that was told to stop still takes its last evaluation if that is quicker than this."""


@dataclass(frozen=True)
class Trained:
    """What training leaves behind, on the device.

    Attributes:
        params: the trained parameters.
        extra: other collections.
        opt_state: the optimizer's state.
        step: updates applied.
    """

    params: PyTree
    extra: PyTree
    opt_state: PyTree
    step: int


def make_evaluator(experiment: Experiment, plan: Plan) -> Evaluator:
    """Returns what computes the outputs and scores of an experiment's model."""
    part = experiment.valid or experiment.train
    return Evaluator(
        experiment.model.key,
        experiment.model.apply,
        plan.loss,
        experiment.metrics,
        experiment.task,
        chunk=chunk_rows(part.x, len(part)),
        target_shape=plan.target_shape,
    )


def train(
    experiment: Experiment, plan: Plan, control: Control, evaluator: Evaluator | None = None, run_id: str = ""
) -> Generator[Event, None, Trained]:
    """Trains, and yields what happens.

    Args:
        experiment: what to do.
        plan: how, from `experiments.plan`.
        control: what is asked of the run from outside.
        evaluator: computes outputs and scores; made here when not given.
        run_id: how the run is called in its journal.

    Returns:
        The trained state, as the generator's value.

    Raises:
        ModelError: the model's outputs have passed an activation that the loss applies itself.
    """
    without_jit = jax.disable_jit() if experiments.debugging(experiment) else nullcontext()
    with without_jit:
        training = _Training(experiment, plan, control, evaluator or make_evaluator(experiment, plan))
        try:
            yield training.started(run_id)
            yield Status(step=0, state="compiling")
            yield from training.prepare()
            yield Status(step=0, state="running")
            reason = yield from training.run()
            state = "stopped" if control.stop_reason is not None else "finished"
            yield Status(step=training.step, state=state, reason=reason)  # type: ignore[arg-type]
        except GeneratorExit:
            raise
        except KeyboardInterrupt:
            yield Status(step=training.step, state="stopped", reason="interrupted twice; the parameters were not kept")
            raise
        except BaseException as error:
            yield Status(step=training.step, state="failed", reason=one_line(error))
            raise
        return training.trained()


class _Training:
    def __init__(self, experiment: Experiment, plan: Plan, control: Control, evaluator: Evaluator) -> None:
        self.experiment, self.plan, self.control, self.evaluator = experiment, plan, control, evaluator
        self.clock = Clock(experiment.timebox_s)
        self.step = 0
        self.diverged = False
        self.failed_metrics: set[str] = set()
        self.evaluated_at = -1
        self.last_evaluation_s = 0.0

    def started(self, run_id: str) -> RunStarted:
        e, p = self.experiment, self.plan
        return RunStarted(
            step=0,
            run_id=run_id,
            name=e.name,
            task=e.task.kind,
            task_sentence=e.task_sentence,
            classes=list(e.task.classes),
            model=e.model.name,
            model_kind=e.model.kind,
            parameter_count=p.parameter_count,
            steps_total=p.steps_total,
            steps_per_epoch=p.steps_per_epoch,
            batch_size=e.batch_size,
            evaluations_total=p.evaluations_total,
            monitor="valid/loss" if p.eval_steps else "",
            monitor_mode="min",
            rows=e.rows,
            split_hash=e.split_hash,
            settings={**e.settings, "loss": p.loss.name},
            versions=versions(),
            device=device(),
            source=e.source,
        )

    def prepare(self) -> Iterator[Event]:
        """Initialises, compiles every program the plan needs, and scores the obvious baseline."""
        for level, text in self.experiment.notices:
            yield Notice(step=0, level=level, text=text)
        # The baseline comes first, for it is there at once; but beside a loss of the user's own, only the outputs
        # of a model tell whether a prediction is a probability or a logit.
        if not self.plan.loss.own:
            yield from self._baseline()
        yield from self._initialise()
        if self.plan.loss.own:
            yield from self._baseline()
        self.control.look()
        if self.control.stop_reason is None:
            yield from self._compile()

    def _baseline(self) -> Iterator[Event]:
        e, link = self.experiment, self.evaluator.loss.link
        part, split = (e.valid, "valid") if e.valid is not None else (e.train, "train")
        constant = baseline_outputs(e.task, link, e.train.y, len(part), self.plan.output_shape)
        names = {"regression": "mean", "multilabel": "class frequency"}
        name = names.get(e.task.kind, "majority class")
        yield Baseline(step=0, name=name, split=split, metrics=self.evaluator.score_outputs(constant, part.y))
        yield from self._said_by_evaluator()

    def _initialise(self) -> Iterator[Event]:
        e, p = self.experiment, self.plan
        # A single row is enough to initialise, and the same program serves every batch size.
        first_row = jax.tree.map(lambda a: a[:1], e.train.x)
        model, optimizer = e.model, e.optimizer

        def initialise(rng: jax.Array, x: PyTree) -> Any:
            params, extra, opt_state = model.start(rng, x)
            return params, extra, optimizer.init(params) if opt_state is None else opt_state

        key = experiments.init_key(e.seed)
        if model.given:
            params, extra, opt_state = initialise(key, first_row)
        else:
            program = Program("initialise", (model.key, optimizer), initialise)
            run, took = compiled(program, key, first_row)
            yield from _compilation(program.name, took, "first run of this model")
            params, extra, opt_state = run(key, first_row)
        order_length = -(-len(e.train) // e.batch_size) * e.batch_size if p.mask_padding else len(e.train)
        self.carry = steps.start(params, extra, opt_state, order_length)
        yield from self._check_squashed()
        yield from self._said_by_evaluator()

    def _compile(self) -> Iterator[Event]:
        e, p = self.experiment, self.plan
        self.x, self.y = jax.device_put((e.train.x, e.train.y))
        self.keys = experiments.order_key(e.seed), experiments.step_key(e.seed)
        if e.valid is not None:
            self.evaluator.compile(self.carry.params, self.carry.extra, e.valid.x)
            yield from self._said_by_evaluator()
            self.control.look()
            if self.control.stop_reason is not None:
                return
        ragged = p.remainder if not p.mask_padding else 0
        self.full_batches = -(-(len(e.train) - ragged) // e.batch_size)
        self.step_full, took = self._training_program(e.batch_size)
        yield from _compilation("train step", took, f"first run with batches of {e.batch_size:,} rows")
        self.step_last: Compiled | None = None
        if ragged:
            self.step_last, took = self._training_program(ragged)
            why = "the loss is your own" if p.loss.own else "the model keeps statistics across rows"
            cause = f"the last batch of an epoch has {ragged:,} rows, and {why}"
            yield from _compilation("train step, last batch", took, cause)

    def _training_program(self, batch: int) -> tuple[Compiled, CompileTime | None]:
        e, p = self.experiment, self.plan
        program = steps.training_program(
            e.model.key,
            e.model.apply,
            p.loss,
            e.optimizer,
            rows=len(e.train),
            batch=batch,
            order_length=len(self.carry.order),
            mask_padding=p.mask_padding,
            shuffle=True,
            target_shape=p.target_shape,
        )
        return compiled(program, self.carry, self.x, self.y, *self.keys, np.int32(1))

    def _check_squashed(self) -> Iterator[Event]:
        """Looks whether outputs stay within 0..1 whatever the parameters, where the loss takes logits.

        Refuses that for our losses; for a user's own, the outputs are then read as probabilities.
        """
        loss = self.evaluator.loss
        if loss.link == "identity":
            return
        found = self._squashed(loss.link)
        if loss.own:
            read_as = "logits"
            if found is not None:
                self.evaluator.loss = replace(loss, link="probability")
                read_as = "probabilities, since they are within 0 to 1 whatever the parameters"
            text = f"The loss `{loss.name}` is your own. For scores and predict the outputs are read as {read_as}."
            yield Notice(step=0, level="info", text=text)
        elif found is not None:
            raise ModelError(
                f"The model's outputs have passed a {found} (all within 0 to 1 whatever the parameters), but the loss "
                f"`{loss.name}` takes logits and applies it itself. Remove the final {found} from the model."
            )

    def _squashed(self, link: Link) -> str | None:
        x = jax.tree.map(lambda a: a[:32], self.experiment.train.x)
        params, extra = self.carry.params, self.carry.extra
        rng = np.random.default_rng(0)
        for scale in (0.0, 3.0, 30.0):
            changed = jax.tree.map(lambda a, s=scale: _shaken(a, s, rng), params)
            found = predictions_look_squashed(self.evaluator.outputs(changed, extra, x), link)
            if found is None:
                return None
        return found

    def run(self) -> Generator[Event, None, str]:
        """Trains to the end of the budget, or until told to stop; returns the reason."""
        control = self.control
        pace = Pace(1 if experiments.debugging(self.experiment) else steps.CAPACITY)
        reporter, memory = Reporter(self.clock), MemoryWatch(self.clock)
        pending: list[tuple[np.ndarray, float]] = []
        while True:
            control.look()
            reason = self._reason_to_end()
            evaluate = self._evaluation_due(reason)
            if pending and (evaluate or reason is not None or control.paused or reporter.due()):
                yield from self._report(pending)
                yield from memory.look(self.step)
            if evaluate:
                yield from self._evaluation()
                yield from self._said_by_evaluator()
            if reason is not None:
                return reason
            if control.paused:
                yield Status(step=self.step, state="paused")
                control.wait_while_paused()
                if control.stop_reason is None:
                    yield Status(step=self.step, state="running", reason="resumed")
                continue
            count = min(pace.count, self._steps_until_next_stop())
            start = perf_counter()
            values = self._dispatch(count)
            duration_s = perf_counter() - start
            pace.update(count, duration_s)
            pending.append((values, duration_s))

    def _reason_to_end(self) -> str | None:
        if self.step >= self.plan.steps_total:
            return ""
        if self.control.stop_reason is not None:
            return self.control.stop_reason
        if self.clock.over(self.last_evaluation_s):
            return f"the timebox of {self.experiment.timebox_s:g} s is used up"
        return None

    def _evaluation_due(self, reason: str | None) -> bool:
        if not self.plan.eval_steps or self.evaluated_at == self.step:
            return False
        if reason is None:
            return self.step % self.plan.eval_steps == 0
        if self.step == 0:
            return False
        return self.control.stop_reason is None or self.last_evaluation_s < PATIENCE_S

    def _steps_until_next_stop(self) -> int:
        plan, step = self.plan, self.step
        until = plan.steps_total - step
        if plan.eval_steps:
            until = min(until, plan.eval_steps - step % plan.eval_steps)
        if self.step_last is not None:
            place = step % plan.steps_per_epoch
            until = min(until, self.full_batches - place if place < self.full_batches else 1)
        return until

    def _dispatch(self, count: int) -> np.ndarray:
        last = self.step_last is not None and self.step % self.plan.steps_per_epoch >= self.full_batches
        run = self.step_last if last and self.step_last is not None else self.step_full
        self.carry, losses = run(self.carry, self.x, self.y, *self.keys, np.int32(count))
        # Fetching the losses waits for the whole dispatch; they are its only transfer to the host.
        values = np.asarray(losses)[:count]
        self.step += count
        return values

    def _report(self, pending: list[tuple[np.ndarray, float]]) -> Iterator[Event]:
        losses = np.concatenate([values for values, _ in pending])
        first_step = self.step - len(losses)
        yield Losses(
            step=self.step,
            first_step=first_step,
            losses=losses,
            duration_s=sum(duration for _, duration in pending),
            dispatches=len(pending),
        )
        pending.clear()
        if not self.diverged and not np.isfinite(losses).all():
            self.diverged = True
            bad = int(np.flatnonzero(~np.isfinite(losses))[0])
            yield Notice(
                step=first_step + bad,
                level="warning",
                text=f"The training loss is {losses[bad]} from step {first_step + bad:,} on. "
                "Try a smaller --lr; --scale helps where inputs differ much in size.",
            )

    def _evaluation(self) -> Iterator[Evaluation]:
        e, carry = self.experiment, self.carry
        assert e.valid is not None
        start = perf_counter()

        def goes_on() -> bool:
            self.control.look()
            return self.control.stop_reason is None or perf_counter() - start < PATIENCE_S

        self.evaluated_at = self.step
        try:
            scores = self.evaluator.scores(carry.params, carry.extra, e.valid, keep=True, goes_on=goes_on)
        except Abandoned:
            return
        finally:
            self.last_evaluation_s = perf_counter() - start
        yield Evaluation(
            step=self.step, split="valid", metrics=scores, rows=len(e.valid), duration_s=self.last_evaluation_s
        )

    def _said_by_evaluator(self) -> Iterator[Event]:
        for name, took in self.evaluator.compile_times:
            yield from _compilation(name, took, "first evaluation", self.step)
        self.evaluator.compile_times.clear()
        for metric, problem in self.evaluator.problems.items():
            if metric not in self.failed_metrics:
                self.failed_metrics.add(metric)
                text = f"The metric `{metric}` failed, and is NaN where it did: {problem}"
                yield Notice(step=self.step, level="warning", text=text)
        self.evaluator.problems.clear()

    def trained(self) -> Trained:
        return Trained(self.carry.params, self.carry.extra, self.carry.opt_state, self.step)


def _compilation(program: str, took: CompileTime | None, cause: str, step: int = 0) -> Iterator[Event]:
    if took is not None:
        yield Compilation(
            step=step,
            program=program,
            trace_s=took.trace_s,
            lower_s=took.lower_s,
            compile_s=took.compile_s,
            planned=True,
            cause=cause,
        )


def _shaken(leaf: Any, scale: float, rng: np.random.Generator) -> Any:
    """Returns a parameter with noise of a scale added, where it is a float."""
    if not scale or not jnp.issubdtype(leaf.dtype, jnp.floating):
        return leaf
    return jnp.asarray(leaf + scale * rng.standard_normal(leaf.shape), leaf.dtype)
