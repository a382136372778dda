"""What a compiled trainer trains: a model with our loss and optimizer, or a step of the user's own."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from dlfb_lab.data.lazy import is_lazy
from dlfb_lab.data.source import Array, Inputs
from dlfb_lab.engine import experiment as experiments
from dlfb_lab.engine.evaluation import Evaluator, always, baseline_event, batched_scores, chunk_rows
from dlfb_lab.engine.experiment import Experiment, Plan
from dlfb_lab.engine.feed import Part, Rows
from dlfb_lab.engine.losses import Link, predictions_look_squashed, refuse_squashed
from dlfb_lab.engine.programs import Program, compilation, compiled
from dlfb_lab.engine.step import Hyper, Keys, ModelState, Step, model_step, names_of, own_step
from dlfb_lab.engine.trainer import Examined, Scores, Trained
from dlfb_lab.errors import DataError, DlfbLabError
from dlfb_lab.events import Event, Notice
from dlfb_lab.models.copies import changes_in_place, copied
from dlfb_lab.models.model import Model, PyTree, Stepper
from dlfb_lab.models.paths import named_leaves
from dlfb_lab.models.transfer import transfer, with_statistics

MOST_ALONE = 1024
"""Rows of a batch whose gradients are looked at one by one."""


class Learner(Protocol):
    """What is trained, apart from where its batches come from.

    Attributes:
        step: one update.
        traces: whether the update can be compiled.
        hyper: numbers that are arguments of the update; with members, shape [members].
    """

    step: Step
    traces: bool
    hyper: Hyper

    def names(self, state: PyTree, batch: PyTree) -> tuple[str, ...]:
        """Returns the names of a step's scalars, "loss" first."""

    def initialise(self, batch: PyTree) -> Generator[Event, None, PyTree]:
        """Returns the state before the first step; scores the obvious baseline, if there is one."""

    def prepare_evaluation(self, state: PyTree) -> Iterator[Event]:
        """Compiles what evaluations need."""

    def scores(self, state: PyTree, part: Part | Rows, keep: bool, goes_on: Callable[[], bool]) -> Scores:
        """Evaluates. Raises Abandoned where `goes_on` says no."""

    def news(self, step: int) -> Iterator[Event]:
        """Yields what evaluations compiled, and which metrics failed."""

    def examined(self, state: PyTree, batch: PyTree, key: jax.Array, step: int) -> Examined | None:
        """Returns what happens at a step, without taking it; None where only the step itself could tell.

        Args:
            state: before the step.
            batch: its rows, on the host.
            key: that each step's key is folded from, as plain numbers.
            step: updates applied before it.
        """

    def trained(self, state: PyTree, step: int, best: int) -> Trained:
        """Returns what training came to."""

    def release(self) -> None:
        """Lets go of what was kept on the device for evaluations."""


def _row_shapes(x: Inputs) -> str:
    return ", ".join(str(tuple(leaf.shape[1:])) for leaf in jax.tree.leaves(x))


def outcome(initialising: Generator[Event, None, PyTree]) -> PyTree:
    """Returns the state that a learner begins with, once more; what happens meanwhile has been told."""
    while True:
        try:
            next(initialising)
        except StopIteration as end:
            return end.value


def keys_of(experiment: Experiment) -> Keys:
    """Returns the keys of a run; with members, a key each."""
    seeds = [member.seed for member in experiment.members] or [experiment.seed]
    order, step = (
        jnp.stack([jax.random.key_data(key(seed)) for seed in seeds])
        for key in (experiments.order_key, experiments.step_key)
    )
    return Keys(order, step) if experiment.members else Keys(order[0], step[0])


class ModelLearner:
    """A model of two pure functions, with our loss, optimizer and metrics."""

    traces = True

    def __init__(self, experiment: Experiment, plan: Plan) -> None:
        assert plan.loss is not None and experiment.task is not None and experiment.optimizer is not None
        self.experiment, self.plan = experiment, plan
        self.model: Model = experiment.model  # type: ignore[assignment]
        self.task, self.optimizer = experiment.task, experiment.optimizer
        self.members = len(experiment.members)
        self.evaluator = self._evaluator(self.members)
        self.step = model_step(self.model.key, self.model.apply, plan.loss, self.optimizer, plan.target_shape)
        self.hyper = self._hyper()

    def names(self, state: PyTree, batch: PyTree) -> tuple[str, ...]:
        """See `Learner`."""
        return ("loss",)

    def _evaluator(self, members: int) -> Evaluator:
        part = self.experiment.valid or self.experiment.train
        x = part.x if isinstance(part, Part) else part.sample(self.experiment.batch_size)[0]
        assert self.plan.scored_loss is not None
        return Evaluator(
            self.model.key,
            self.model.apply,
            self.plan.scored_loss,
            self.experiment.metrics,
            self.task,
            chunk=chunk_rows(x, len(jax.tree.leaves(x)[0])),
            target_shape=self.plan.target_shape,
            members=members,
        )

    def _hyper(self) -> Hyper:
        numbers = self.optimizer.hyper
        members = self.experiment.members
        if not members:
            return {name: jnp.asarray(value, float) for name, value in numbers.items()}
        each = [{**numbers, **member.hyper} for member in members]
        return {name: jnp.asarray([one[name] for one in each], float) for name in numbers}

    def _baseline(self) -> Iterator[Event]:
        train, valid = self.experiment.train, self.experiment.valid
        yield from baseline_event(
            train if isinstance(train, Part) and not is_lazy(train.tree[1]) else None,
            valid if isinstance(valid, Part) else None,
            self.evaluator,
            self.plan.output_shape,
        )

    def initialise(self, batch: PyTree) -> Generator[Event, None, PyTree]:
        """See `Learner`."""
        e, model, optimizer = self.experiment, self.model, self.optimizer
        for text in getattr(model, "notices_on", _no_notices)(batch[0]):
            yield Notice(step=0, level="info", text=text)
        # The baseline comes first, for it is there at once; but beside a loss of the user's own, only the outputs
        # of a model tell whether a prediction is a probability or a logit.
        if not self.evaluator.loss.own:
            yield from self._baseline()
        # A single row is enough to initialise, and the same program serves every batch size.
        first_row = jax.tree.map(lambda a: a[:1], batch[0])
        given = (e.init_from, e.init_statistics) if e.init_from is not None else None

        def initialise(rng: jax.Array, x: PyTree, hyper: Hyper, given: PyTree) -> ModelState:
            params, extra, opt_state = model.start(rng, x)
            if given is not None:
                params = transfer(given[0], params)[0]
                extra = with_statistics(given[1], extra)[0]
            if opt_state is None:
                opt_state = optimizer.make(dict(hyper)).init(params)
            return ModelState(params, extra, opt_state)

        one = initialise
        seeds = [member.seed for member in e.members] or [e.seed]
        keys = [experiments.init_key(seed) for seed in seeds]
        if self.members:
            initialise = jax.vmap(one, in_axes=(0, None, 0, None))
        key = jnp.stack(keys) if self.members else keys[0]
        if given is not None:
            shapes = jax.eval_shape(one, keys[0], first_row, dict(optimizer.hyper), given)
            told = transfer(given[0], shapes.params)[1].text, with_statistics(given[1], shapes.extra)[1]
            yield Notice(step=0, level="info", text=" ".join(filter(None, told)))
        if model.given:
            if self.members:
                text = "The parameters are given: members differ in the order of the rows and in dropout alone."
                yield Notice(step=0, level="info", text=text)
            # Not compiled: the program would hold the user's arrays.
            state = initialise(key, first_row, self.hyper, given)
        else:
            program = Program("initialise", (model.key, optimizer.key, self.members), initialise)
            run, took = compiled(program, key, first_row, self.hyper, given)
            yield from compilation(program.name, took, "first run of this model")
            state = run(key, first_row, self.hyper, given)
        yield from self._check_squashed(state, batch)
        if self.evaluator.loss.own:
            yield from self._baseline()
        yield from self.news(0)
        return state

    def _check_squashed(self, state: ModelState, batch: PyTree) -> Iterator[Event]:
        """Looks whether outputs stay within 0..1 whatever the parameters, where the loss takes logits.

        Refuses that for our losses; for a user's own, the outputs are then read as probabilities.
        """
        loss = self.evaluator.loss
        if loss.link == "identity":
            return
        found = self._squashed(state, batch[0], loss.link)
        if loss.own:
            read_as = "logits"
            if found is not None:
                self.evaluator.loss = replace(loss, link="probability")
                read_as = "probabilities, since they are within 0 to 1 whatever the parameters"
            text = f"The loss `{loss.name}` is your own. For scores and predict the outputs are read as {read_as}."
            yield Notice(step=0, level="info", text=text)
        elif found is not None:
            refuse_squashed(found, loss.name)

    def _squashed(self, state: ModelState, x: PyTree, link: Link) -> str | None:
        x = jax.tree.map(lambda a: a[:32], x)
        if not experiments.debugging(self.experiment) and self.evaluator.outputs_are_free(state.params, state.extra, x):
            return None
        rng = np.random.default_rng(0)
        for scale in (0.0, 3.0, 30.0):
            changed = jax.tree.map(lambda a, s=scale: _shaken(a, s, rng), state.params)
            outputs = self.evaluator.outputs(changed, state.extra, x)
            found = predictions_look_squashed(outputs[0] if self.members else outputs, link)
            if found is None:
                return None
        return found

    def prepare_evaluation(self, state: ModelState) -> Iterator[Event]:
        """See `Learner`."""
        valid = self.experiment.valid
        if isinstance(valid, Part):
            try:
                self.evaluator.compile(state.params, state.extra, valid.x)
            except Exception as error:
                here, there = (_row_shapes(x) for x in (valid.x, self.experiment.train.sample(1)[0]))
                if here == there or isinstance(error, DlfbLabError):
                    raise
                raise DataError(
                    f"--valid: its rows have shape {here}, those of training {there}, and the model does not take both."
                ) from error
            yield from self.news(0)

    def scores(
        self, state: ModelState, part: Part | Rows, keep: bool = True, goes_on: Callable[[], bool] = always
    ) -> Scores:
        """See `Learner`."""
        assert isinstance(part, Part)
        return Scores.of(self.evaluator.scores(state.params, state.extra, part, keep, goes_on), self.members)

    def news(self, step: int) -> Iterator[Event]:
        """See `Learner`."""
        yield from self.evaluator.news(step)

    def examined(self, state: ModelState, batch: PyTree, key: jax.Array, step: int) -> Examined | None:
        """See `Learner`."""
        loss, (x, y) = self.plan.loss, batch
        assert loss is not None
        targets = jnp.asarray(y).reshape(len(y), *self.plan.target_shape)
        rng = jax.random.fold_in(jax.random.wrap_key_data(key), step)

        def values(params: PyTree) -> jax.Array:
            return loss.function(self.model.apply(params, state.extra, x, rng, True)[0], targets)

        def finite_alone(row: PyTree) -> jax.Array:
            one, target = jax.tree.map(lambda a: a[None], row)

            def value(params: PyTree) -> jax.Array:
                return loss.function(self.model.apply(params, state.extra, one, rng, True)[0], target).mean()

            gradients = jax.tree.leaves(jax.grad(value)(state.params))
            return jnp.all(jnp.stack([jnp.isfinite(leaf).all() for leaf in gradients]))

        each, pullback = jax.vjp(values, state.params)
        (gradients,) = pullback(jnp.ones_like(each) / max(1, each.size))
        bad = [name for name, leaf in named_leaves(gradients) if not np.isfinite(np.asarray(leaf)).all()]
        losses = np.asarray(each, np.float64).reshape(len(each), -1).mean(1) if each.ndim else None
        alone = None
        if bad and losses is not None and np.isfinite(losses).all() and len(losses) <= MOST_ALONE:
            alone = np.asarray(jax.jit(lambda rows: jax.lax.map(finite_alone, rows))((x, targets)))
        return Examined(losses, bad, alone)

    def trained(self, state: ModelState, step: int, best: int) -> Trained:
        """See `Learner`."""
        evaluator = self.evaluator
        if self.members:
            evaluator = self._evaluator(0)
            evaluator.loss = self.evaluator.loss
        each = tuple(self._one_trained(one, step, evaluator) for one in _apart(state, self.members))
        found = replace(each[best], members=each) if each else self._one_trained(state, step, evaluator)
        # Brings an object that the user holds, as those of nnx and Keras, up to date.
        found.finish()
        if not changes_in_place(self.model):
            return found

        def apart(member: Trained) -> Any:
            """Returns a member in an object of its own: the user's holds the best."""
            try:
                return copied(member.finish())[0]
            finally:
                found.finish()

        others = tuple(replace(m, finish=partial(apart, m)) if m is not each[best] else m for m in each)
        return replace(found, members=others)

    def _one_trained(self, state: ModelState, step: int, evaluator: Evaluator) -> Trained:
        params, extra, opt_state = state

        def outputs(x: Inputs) -> Array:
            return evaluator.outputs(params, extra, x)

        def scores(part: Part | Rows) -> dict[str, float]:
            assert isinstance(part, Part)
            found = evaluator.scores(params, extra, part)[0]
            evaluator.compile_times.clear()
            return found

        return Trained(
            step=step,
            params=params,
            extra=extra,
            opt_state=opt_state,
            link=evaluator.loss.link,
            finish=lambda: self.model.finish(params, extra, opt_state, step),
            outputs=outputs,
            scores=scores,
        )

    def release(self) -> None:
        """See `Learner`."""
        self.evaluator.release()


class StepLearner:
    """A step that the user, or a compiled Keras model, brings along."""

    def __init__(self, experiment: Experiment, plan: Plan) -> None:
        self.experiment, self.plan = experiment, plan
        self.stepper: Stepper = experiment.model  # type: ignore[assignment]
        self.step = own_step(self.stepper)
        self.traces = self.stepper.traces
        self.hyper: Hyper = {}
        self._news: list[Event] = []
        self._key = jax.random.fold_in(jax.random.key(experiment.seed), 3)

    def names(self, state: PyTree, batch: PyTree) -> tuple[str, ...]:
        """See `Learner`: found by tracing a step abstractly."""
        found: list[tuple[str, ...]] = []

        def noted(*arguments: Any) -> Any:
            state, values = self.stepper.step(*arguments)
            found.append(names_of(values))
            return state

        jax.eval_shape(noted, state, batch, jax.random.key(0), jnp.asarray(True))
        return found[0]

    def initialise(self, batch: PyTree) -> Generator[Event, None, PyTree]:
        """See `Learner`."""
        for text in getattr(self.stepper, "notices", ()):
            yield Notice(step=0, level="info", text=text)
        return self.stepper.start(experiments.init_key(self.experiment.seed), batch)

    def prepare_evaluation(self, state: PyTree) -> Iterator[Event]:
        """See `Learner`: what it needs is compiled by the first evaluation."""
        yield from ()

    def scores(
        self, state: PyTree, part: Part | Rows, keep: bool = True, goes_on: Callable[[], bool] = always
    ) -> Scores:
        """See `Learner`: the mean over batches, weighted by their rows."""
        return Scores.of([self._scores(state, part, goes_on)], 0)

    def _scores(self, state: PyTree, part: Part | Rows, goes_on: Callable[[], bool] = always) -> dict[str, float]:
        def evaluate(batch: PyTree, number: int) -> dict[str, Any]:
            return self._evaluate(state, batch, jax.random.fold_in(self._key, number))

        return batched_scores(evaluate, part, self.experiment.eval_batch_size or self.experiment.batch_size, goes_on)

    def _evaluate(self, state: PyTree, batch: PyTree, key: jax.Array) -> dict[str, Any]:
        if not self.stepper.evaluation_traces:
            return dict(self.stepper.evaluate(state, batch, key))
        program = Program("evaluation step", self.stepper.key, self.stepper.evaluate)
        run, took = compiled(program, state, batch, key)
        self._news.extend(compilation(program.name, took, "first evaluation with batches of this shape"))
        return dict(run(state, batch, key))

    def news(self, step: int) -> Iterator[Event]:
        """See `Learner`."""
        for event in self._news:
            yield replace(event, step=step)
        self._news.clear()

    def examined(self, state: PyTree, batch: PyTree, key: jax.Array, step: int) -> Examined | None:
        """See `Learner`: the step alone knows."""
        return None

    def trained(self, state: PyTree, step: int, best: int) -> Trained:
        """See `Learner`."""
        finished = self.stepper.finish(state, step)
        return Trained(
            step=step,
            params=getattr(finished, "params", None),
            finish=lambda: finished,
            outputs=lambda x: np.asarray(self.stepper.outputs(state, x)),
            scores=lambda part: self._scores(state, part),
        )

    def release(self) -> None:
        """See `Learner`."""


LEARNERS: dict[str, Callable[[Experiment, Plan], Learner]] = {"model": ModelLearner, "stepper": StepLearner}


def _no_notices(x: PyTree) -> tuple[str, ...]:
    return ()


def _apart(state: PyTree, members: int) -> Iterator[PyTree]:
    """Yields the state of each member. Taking all members of an array at once takes a tenth of the time."""
    leaves, structure = jax.tree.flatten(state)
    each = [tuple(leaf) for leaf in leaves] if members else []
    for i in range(members):
        yield jax.tree.unflatten(structure, [leaf[i] for leaf in each])


def _shaken(leaf: Any, scale: float, rng: np.random.Generator) -> Any:
    """Returns a parameter with noise of a scale added, where it is a float."""
    if not scale or not jnp.issubdtype(leaf.dtype, jnp.floating):
        return leaf
    return jnp.asarray(leaf + scale * rng.standard_normal(leaf.shape), leaf.dtype)
