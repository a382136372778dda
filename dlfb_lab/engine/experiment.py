"""What is to be done: an experiment as asked for, and its plan."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import jax

from dlfb_lab.data.source import Array
from dlfb_lab.engine.feed import Part, Rows, TrainingData
from dlfb_lab.engine.losses import Loss
from dlfb_lab.engine.metrics import ALIASES, ERRORS, METRICS, Metric
from dlfb_lab.engine.optimizers import Optimizer
from dlfb_lab.engine.plan import Asked
from dlfb_lab.engine.task import Task
from dlfb_lab.models.model import Guest, Model, Stepper

OnNan = Literal["stop", "rollback", "warn"]


def as_it_is(loss: Loss) -> Loss:
    """Returns a loss whose rows all weigh the same."""
    return loss


def family(model: Model | Stepper | Guest) -> str:
    """Returns which of the three protocols something to train keeps: "model", "stepper" or "guest"."""
    return "guest" if hasattr(model, "keep") else "stepper" if hasattr(model, "evaluates") else "model"


@dataclass(frozen=True, kw_only=True)
class Member:
    """One of several models that are trained at once.

    Attributes:
        name: for people, for example "seed 1" or "lr 0.001".
        seed: of its initial parameters, the order of the rows and dropout.
        hyper: numbers of the optimizer that are its own.
    """

    name: str
    seed: int
    hyper: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class EarlyStop:
    """When to stop before the budget is used up.

    Attributes:
        metric: of the evaluations on the validation rows.
        patience: evaluations in a row without a better value.
        mode: whether a small or a large value is better.
    """

    metric: str
    patience: int
    mode: Literal["min", "max"]


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Everything that decides what a run computes. The test rows are no part of it.

    Attributes:
        name: of the run.
        model: what is trained.
        optimizer: what turns gradients into updates; None where the model brings its own step.
        task: what is predicted; None where a step of the user's own decides that.
        loss: the loss's name, the user's function, or None for the task's usual one; of a guest the loss itself.
        weigh: makes of a loss one whose rows have weights.
        metrics: computed at every evaluation.
        train: rows or batches to learn from.
        valid: rows to evaluate on while training, if any.
        epochs: passes over the training rows; None where `steps` is given.
        steps: updates; None where `epochs` is given.
        batch_size: rows per update.
        eval_batch_size: rows per evaluation step of the user's own.
        eval_every: epochs (or steps, where `steps` is given) between evaluations; None to choose.
        seed: of the initial parameters, the order of the rows and dropout.
        members: what is trained at once; empty for one model.
        early_stop: when to stop before the budget is used up, if at all.
        timebox_s: when to stop in any case, seconds.
        find_rate: whether to try learning rates first, and take the best.
        init_from: parameters to start from where they fit, if any.
        init_statistics: running statistics that go with them.
        asked_plan: how the user wants steps to be run.
        resident: whether the training rows are kept on the device.
        devices: local devices that share each batch.
        on_nan: what to do when no member's losses and arrays are finite any more.
        row_numbers: of the training rows among those that were given, shape [rows]; None where there are none.
        debug: whether steps run without jit.
        rows: rows per part, the test part included.
        split_hash: identifies the split.
        task_sentence: the task said aloud.
        settings: every option, for the record.
        source: the cell that started the run.
        notices: what the user should know beforehand: level and text.
    """

    name: str
    model: Model | Stepper | Guest
    optimizer: Optimizer | None
    task: Task | None
    loss: str | Callable[..., Any] | Loss | None
    weigh: Callable[[Loss], Loss] = as_it_is
    metrics: tuple[Metric, ...]
    train: TrainingData
    valid: Part | Rows | None
    epochs: int | None
    steps: int | None
    batch_size: int
    eval_batch_size: int = 0
    eval_every: int | None
    seed: int
    members: tuple[Member, ...] = ()
    early_stop: EarlyStop | None = None
    timebox_s: float | None
    find_rate: bool = False
    init_from: Any = None
    init_statistics: dict[str, Any] = field(default_factory=dict)
    asked_plan: Asked = "auto"
    resident: bool = True
    devices: int = 1
    on_nan: OnNan = "stop"
    row_numbers: Array | None = None
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
        loss: what is minimised; None where the model brings its own step.
        scored_loss: the same without the weights of classes, for evaluations.
        output_shape: of the model's outputs for one row.
        target_shape: of the targets of one row beside those outputs.
        parameter_count: scalar parameters.
        steps_total: updates; 0 where that is not known, since the batches are counted only by reading them.
        steps_per_epoch: updates per pass over the training rows; 0 where that is not known.
        remainder: rows of an epoch's last batch where it is ragged, else 0.
        mask_padding: whether a ragged last batch is filled up and masked.
        eval_steps: steps between evaluations; 0 for none, or where they follow epochs.
        eval_epochs: epochs between evaluations where the steps of an epoch are not known; else 0.
        monitor: the column of the history whose best is looked for, such as "valid/loss"; empty for none.
        monitor_mode: whether a small or a large value of it is better.
    """

    loss: Loss | None = None
    scored_loss: Loss | None = None
    output_shape: tuple[int, ...] = ()
    target_shape: tuple[int, ...] = ()
    parameter_count: int
    steps_total: int
    steps_per_epoch: int
    remainder: int = 0
    mask_padding: bool = False
    eval_steps: int
    eval_epochs: int = 0
    monitor: str = ""
    monitor_mode: Literal["min", "max"] = "min"

    @property
    def evaluations_total(self) -> int:
        """Evaluations planned: before the first step, every `eval_steps`, and after the last; 0 where not known."""
        return 0 if not self.eval_steps else 1 + math.ceil(self.steps_total / self.eval_steps)


def mode_of(metric: str) -> Literal["min", "max"]:
    """Returns whether a small or a large value of a metric is better, as its name tells."""
    name = metric.rpartition("/")[2].lower()
    known = METRICS.get(ALIASES.get(name, name))
    if known is not None:
        return "min" if known.name in ERRORS else "max"
    return "min" if any(word in name for word in ("loss", "error", "mse", "mae", "perplexity", "distance")) else "max"


def debugging(experiment: Experiment) -> bool:
    """Whether steps run without jit: `--debug`, or JAX_DISABLE_JIT."""
    config: Any = jax.config
    return experiment.debug or bool(config.jax_disable_jit)


def init_key(seed: int) -> jax.Array:
    """Returns the key of the initial parameters."""
    return jax.random.fold_in(jax.random.key(seed), 0)


def order_key(seed: int) -> jax.Array:
    """Returns the key of the order of the rows."""
    return jax.random.fold_in(jax.random.key(seed), 1)


def step_key(seed: int) -> jax.Array:
    """Returns the key that dropout keys are folded from, one a step."""
    return jax.random.fold_in(jax.random.key(seed), 2)
