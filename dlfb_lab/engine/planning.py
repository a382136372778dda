"""The plan of an experiment: shapes and counts, found by tracing the model abstractly, and what cannot go together."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from dlfb_lab.engine import losses
from dlfb_lab.engine.experiment import Experiment, Plan, debugging, family, mode_of
from dlfb_lab.engine.losses import Loss
from dlfb_lab.engine.memory import check_parameters
from dlfb_lab.engine.optimizers import Optimizer
from dlfb_lab.engine.programs import Program, shapes
from dlfb_lab.errors import DlfbLabError, ModelError, OptionError, nearest, one_line
from dlfb_lab.models.model import PyTree
from dlfb_lab.models.transfer import transfer

MOST_EVALUATIONS = 200
"""Unless asked for more, so that they do not take longer than training."""

STREAM_EVALUATIONS = 20
"""In a run whose epochs are not known."""


def plan(experiment: Experiment) -> Plan:
    """Finds out shapes and counts by tracing the model abstractly; when debugging, by calling it.

    Raises:
        ModelError: the model fails on the data, or its outputs do not fit the targets.
        OptionError: the loss does not fit the task, or the batch is larger than the data.
    """
    data, batch = experiment.train, experiment.batch_size
    if data.rows is not None and batch > data.rows:
        raise OptionError(
            f"--batch-size {batch:,}: there are only {data.rows:,} training rows. "
            "Say --batch-size full to take all at once."
        )
    facts = PLANNERS[family(experiment.model)](experiment, data.sample(batch))
    masks = facts.pop("per_row", False)
    remainder = 0 if data.rows is None else data.rows % batch
    steps_per_epoch = data.batches(batch) or 0
    steps_total = experiment.steps or (experiment.epochs or 0) * steps_per_epoch
    eval_steps = _eval_steps(experiment, steps_total, steps_per_epoch)
    by_epoch = experiment.valid is not None and not eval_steps
    metrics = facts.pop("evaluated", ("loss",))
    stop = experiment.early_stop
    monitored = stop.metric if stop is not None else "loss" if "loss" in metrics or not metrics else metrics[0]
    if stop is not None and metrics and stop.metric not in metrics:
        raise OptionError(
            f"--early-stop {stop.metric}: it is not evaluated.{nearest(stop.metric, metrics)} "
            f"There are {', '.join(metrics)}."
        )
    mode = stop.mode if stop is not None else mode_of(monitored)
    return Plan(
        **facts,
        steps_total=steps_total,
        steps_per_epoch=steps_per_epoch,
        remainder=remainder,
        mask_padding=bool(remainder) and masks,
        eval_steps=eval_steps,
        eval_epochs=(experiment.eval_every or 1) if by_epoch else 0,
        monitor=f"valid/{monitored}" if experiment.valid is not None else "",
        monitor_mode=mode,
    )


def _plan_model(experiment: Experiment, batch: PyTree) -> dict[str, Any]:
    model: Any = experiment.model
    task, optimizer = experiment.task, experiment.optimizer
    assert task is not None and optimizer is not None
    x, y = batch
    rows = len(y)
    params, extra, output = _trace(experiment, x)
    if not hasattr(output, "shape") or not output.shape or output.shape[0] != rows:
        raise ModelError(
            f"The model returned {_described(output)} for {rows} rows; it must return one array with one row each."
        )
    if experiment.init_from is not None:
        transfer(experiment.init_from, params)
    check_parameters(_count(params), len(experiment.members))
    _check_optimizer(model.key, optimizer, params)
    assert not isinstance(experiment.loss, Loss)
    plain = losses.choose(experiment.loss, task, output.shape)
    loss = experiment.weigh(plain)
    target_shape = losses.target_shape(task, loss.link, output.shape, y.shape)
    _check_loss(experiment, loss, output, y.reshape(target_shape))
    return {
        "loss": loss,
        "scored_loss": plain,
        "output_shape": tuple(output.shape[1:]),
        "target_shape": tuple(target_shape[1:]),
        "parameter_count": _count(params),
        "per_row": loss.per_row and not jax.tree.leaves(extra),
        "evaluated": ("loss", *(metric.name for metric in experiment.metrics)),
    }


def _plan_stepper(experiment: Experiment, batch: PyTree) -> dict[str, Any]:
    stepper: Any = experiment.model
    key = jax.random.key(0)
    state = stepper.start(key, batch)
    evaluated: tuple[str, ...] = ()
    valid = experiment.valid
    if stepper.evaluates and stepper.evaluation_traces and valid is not None:
        scored = valid.sample(experiment.eval_batch_size or experiment.batch_size)
        scores = shapes(Program("evaluation step", stepper.key, stepper.evaluate), state, scored, key)
        evaluated = tuple(scores)
    return {"parameter_count": stepper.parameter_count(state), "evaluated": evaluated}


def _plan_guest(experiment: Experiment, batch: PyTree) -> dict[str, Any]:
    guest: Any = experiment.model
    count, task = guest.parameter_count, experiment.task
    if task is None:
        return {"parameter_count": count, "evaluated": ()}
    x, y = batch
    output = guest.outputs(x)
    loss = experiment.loss
    assert isinstance(loss, Loss)
    target_shape = losses.target_shape(task, loss.link, output.shape, y.shape)
    return {
        "loss": loss,
        "scored_loss": loss,
        "output_shape": tuple(output.shape[1:]),
        "target_shape": tuple(target_shape[1:]),
        "parameter_count": count,
        "evaluated": ("loss", *(metric.name for metric in experiment.metrics)),
    }


PLANNERS: dict[str, Callable[[Experiment, PyTree], dict[str, Any]]] = {
    "model": _plan_model,
    "stepper": _plan_stepper,
    "guest": _plan_guest,
}


def _eval_steps(experiment: Experiment, steps_total: int, steps_per_epoch: int) -> int:
    if experiment.valid is None:
        return 0
    unit = 1 if experiment.steps else steps_per_epoch
    if experiment.eval_every is not None:
        return experiment.eval_every * unit
    if not steps_per_epoch:
        return math.ceil(steps_total / STREAM_EVALUATIONS)
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
    model: Any = experiment.model

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
                f"The model failed in evaluation, where it gets no random keys and changes nothing: {one_line(error)}. "
                "Let it draw random numbers, and update statistics, only where its argument `train` is true."
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


def _check_optimizer(model_key: Hashable, optimizer: Optimizer, params: PyTree) -> None:
    def update(params: PyTree) -> Any:
        transformation = optax.with_extra_args_support(optimizer.make(dict(optimizer.hyper)))
        return transformation.update(params, transformation.init(params), params, value=jnp.zeros(()))[0]

    try:
        shapes(Program("update", (model_key, optimizer.key), update), params)
    except OptionError:
        raise
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


def _count(params: PyTree) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def _described(output: Any) -> str:
    if hasattr(output, "shape"):
        return f"an array of shape {tuple(output.shape)}"
    return f"a {type(output).__name__}"
