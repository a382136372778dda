"""What is to be done: an experiment as asked for, and the plan that comes of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from dlfb_lab.engine import losses
from dlfb_lab.engine.evaluation import Part
from dlfb_lab.engine.losses import Loss
from dlfb_lab.engine.metrics import Metric
from dlfb_lab.engine.programs import Program, shapes
from dlfb_lab.engine.task import Task
from dlfb_lab.errors import DlfbLabError, ModelError, OptionError, one_line
from dlfb_lab.models.model import Model, PyTree


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Everything that decides what a run computes. The test rows are no part of it.

    Attributes:
        name: of the run.
        model: what is trained.
        optimizer: what turns gradients into updates.
        task: what is predicted.
        loss: the loss's name, the user's function, or None for the task's usual one.
        metrics: computed at every evaluation.
        train: rows to learn from.
        valid: rows to evaluate on while training, if any.
        epochs: passes over the training rows; None where `steps` is given.
        steps: updates; None where `epochs` is given.
        batch_size: rows per update.
        eval_every: epochs (or steps, where `steps` is given) between evaluations; None to choose.
        seed: of the initial parameters, the order of the rows and dropout.
        timebox_s: when to stop in any case, seconds.
        debug: whether steps run without jit.
        rows: rows per part, the test part included.
        split_hash: identifies the split.
        task_sentence: the task said aloud.
        settings: every option, for the record.
        source: the cell that started the run.
        notices: what the user should know beforehand: level and text.
    """

    name: str
    model: Model
    optimizer: optax.GradientTransformation
    task: Task
    loss: str | Callable[..., Any] | None
    metrics: tuple[Metric, ...]
    train: Part
    valid: Part | None
    epochs: int | None
    steps: int | None
    batch_size: int
    eval_every: int | None
    seed: int
    timebox_s: float | None
    debug: bool
    rows: dict[str, int]
    split_hash: str
    task_sentence: str
    settings: dict[str, Any]
    source: str = ""
    notices: tuple[tuple[Literal["info", "warning"], str], ...] = field(default=())


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How an experiment will run; found out without computing anything.

    Attributes:
        loss: what is minimised.
        output_shape: of the model's outputs for one row.
        target_shape: of the targets of one row beside those outputs.
        parameter_count: scalar parameters.
        steps_total: updates.
        steps_per_epoch: updates per pass over the training rows.
        remainder: rows of an epoch's last batch where it is ragged, else 0.
        mask_padding: whether a ragged last batch is filled up and masked.
        eval_steps: steps between evaluations; 0 for no evaluations.
    """

    loss: Loss
    output_shape: tuple[int, ...]
    target_shape: tuple[int, ...]
    parameter_count: int
    steps_total: int
    steps_per_epoch: int
    remainder: int
    mask_padding: bool
    eval_steps: int

    @property
    def evaluations_total(self) -> int:
        """Evaluations planned: before the first step, every `eval_steps`, and after the last."""
        return 0 if not self.eval_steps else 1 + math.ceil(self.steps_total / self.eval_steps)


MOST_EVALUATIONS = 200
"""Unless asked for more, so that they do not take longer than training."""


def plan(experiment: Experiment) -> Plan:
    """Finds out shapes and counts by tracing the model abstractly; when debugging, by calling it.

    Raises:
        ModelError: the model fails on the data, or its outputs do not fit the targets.
        OptionError: the loss does not fit the task, or the batch is larger than the data.
    """
    rows, batch = len(experiment.train), experiment.batch_size
    if batch > rows:
        raise OptionError(
            f"--batch-size {batch:,}: there are only {rows:,} training rows. Say --batch-size full to take all at once."
        )
    x, y = jax.tree.map(lambda a: a[:batch], (experiment.train.x, experiment.train.y))
    params, extra, output = _trace(experiment, x)
    if not hasattr(output, "shape") or not output.shape or output.shape[0] != batch:
        raise ModelError(
            f"The model returned {_described(output)} for {batch} rows; it must return one array with one row each."
        )
    _check_optimizer(experiment, params)
    loss = losses.choose(experiment.loss, experiment.task, output.shape)
    target_shape = losses.target_shape(experiment.task, loss.link, output.shape, y.shape)
    _check_loss(experiment, loss, output, y.reshape(target_shape))
    remainder = rows % batch
    steps_per_epoch = -(-rows // batch)
    steps_total = experiment.steps or (experiment.epochs or 0) * steps_per_epoch
    return Plan(
        loss=loss,
        output_shape=tuple(output.shape[1:]),
        target_shape=tuple(target_shape[1:]),
        parameter_count=sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params)),
        steps_total=steps_total,
        steps_per_epoch=steps_per_epoch,
        remainder=remainder,
        mask_padding=bool(remainder) and loss.per_row and not jax.tree.leaves(extra),
        eval_steps=_eval_steps(experiment, steps_total, steps_per_epoch),
    )


def debugging(experiment: Experiment) -> bool:
    """Whether steps run without jit: `--debug`, or JAX_DISABLE_JIT."""
    config: Any = jax.config
    return experiment.debug or bool(config.jax_disable_jit)


def _eval_steps(experiment: Experiment, steps_total: int, steps_per_epoch: int) -> int:
    if experiment.valid is None:
        return 0
    unit = 1 if experiment.steps else steps_per_epoch
    if experiment.eval_every is not None:
        return experiment.eval_every * unit
    epochs = steps_total / steps_per_epoch
    return max(1, math.ceil(epochs / MOST_EVALUATIONS)) * steps_per_epoch


def _shapes(experiment: Experiment, program: Program, *arguments: PyTree) -> Any:
    """Returns something shaped as what the program returns.

    When debugging, the function is called: abstract values have nothing that `print` or pdb could show.
    """
    if debugging(experiment):
        with jax.disable_jit():
            return program.function(*jax.device_put(arguments))
    return shapes(program, *arguments)


def _trace(experiment: Experiment, x: PyTree) -> tuple[PyTree, PyTree, Any]:
    model = experiment.model

    def start_and_apply(x: PyTree) -> Any:
        key = jax.random.key(0)
        params, extra, _ = model.start(key, jax.tree.map(lambda a: a[:1], x))
        output, changed = model.apply(params, extra, x, key, True)
        try:
            evaluated, _ = model.apply(params, extra, x, key, False)
        except DlfbLabError:
            raise
        except Exception as error:
            raise ModelError(
                f"The model failed in evaluation, where it gets no random keys: {one_line(error)}. "
                "Let it draw random numbers only where its argument `train` is true."
            ) from error
        return params, extra, changed, output, evaluated

    try:
        params, extra, changed, output, evaluated = _shapes(
            experiment, Program("start and apply", model.key, start_and_apply), x
        )
    except DlfbLabError:
        raise
    except Exception as error:
        of_x = ", ".join(str(tuple(leaf.shape)) for leaf in jax.tree.leaves(x))
        raise ModelError(f"The model failed on inputs of shape {of_x}: {one_line(error)}") from error
    for name, before in extra.items():
        if _leaves(changed[name]) != _leaves(before):
            raise ModelError(
                f"The model's collection `{name}` does not keep its structure and shapes from one training step to the "
                "next. Values that a model sows are not part of the loss here: sow them into `intermediates`, or not."
            )
    if jax.tree.map(jnp.shape, evaluated) != jax.tree.map(jnp.shape, output):
        raise ModelError(
            f"The model returned {_described(output)} in training and {_described(evaluated)} in evaluation; "
            "it must return the same."
        )
    return params, extra, output


def _leaves(tree: PyTree) -> Any:
    """Returns the structure of a tree, and the shape and dtype of each leaf."""
    leaves, structure = jax.tree.flatten(tree)
    return structure, [(jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves]


def _check_optimizer(experiment: Experiment, params: PyTree) -> None:
    optimizer = optax.with_extra_args_support(experiment.optimizer)

    def update(params: PyTree) -> Any:
        return optimizer.update(params, optimizer.init(params), params, value=jnp.zeros(()))[0]

    try:
        shapes(Program("update", (experiment.model.key, experiment.optimizer), update), params)
    except Exception as error:
        raise OptionError(
            f"The optimizer failed: {one_line(error)}. It is given the gradients, the parameters and the loss's value; "
            "one that calls the loss itself, as lbfgs does, cannot be used here. Take another, such as adam."
        ) from error


def _check_loss(experiment: Experiment, loss: Loss, output: Any, targets: Any) -> None:
    try:
        value = _shapes(experiment, Program("loss", loss, loss.function), output, targets)
    except Exception as error:
        raise ModelError(
            f"The loss `{loss.name}` failed on outputs of shape {tuple(output.shape)} and targets of shape "
            f"{tuple(targets.shape)}: {one_line(error)}"
        ) from error
    if loss.own and value.shape not in ((), output.shape[:1], output.shape):
        raise ModelError(
            f"The loss `{loss.name}` returned shape {value.shape} for {output.shape[0]} rows. "
            "It must return one number, one a row, or one for each output."
        )


def _described(output: Any) -> str:
    if hasattr(output, "shape"):
        return f"an array of shape {tuple(output.shape)}"
    return f"a {type(output).__name__}"


def init_key(seed: int) -> jax.Array:
    """Returns the key of the initial parameters."""
    return jax.random.fold_in(jax.random.key(seed), 0)


def order_key(seed: int) -> jax.Array:
    """Returns the key of the order of the rows."""
    return jax.random.fold_in(jax.random.key(seed), 1)


def step_key(seed: int) -> jax.Array:
    """Returns the key that dropout keys are folded from, one a step."""
    return jax.random.fold_in(jax.random.key(seed), 2)
