"""From what the user gave to an experiment that is ready to run: every check, every default."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dlfb_lab import data as sources
from dlfb_lab import models
from dlfb_lab.data import splits
from dlfb_lab.data.scaling import Scaling, device_inputs, flattened
from dlfb_lab.data.source import Array, Examples
from dlfb_lab.data.tables import is_table
from dlfb_lab.engine import experiment as experiments
from dlfb_lab.engine import loop, losses, optimizers
from dlfb_lab.engine import metrics as metric_table
from dlfb_lab.engine import task as tasks
from dlfb_lab.engine.clock import seconds
from dlfb_lab.engine.control import Control
from dlfb_lab.engine.evaluation import Part
from dlfb_lab.engine.experiment import Experiment
from dlfb_lab.engine.task import Task
from dlfb_lab.errors import DataError, OptionError
from dlfb_lab.models.model import Model
from dlfb_lab.run import Session

DEFAULT_EPOCHS = 20
DEFAULT_BATCH = 32


@dataclass(frozen=True, kw_only=True)
class TrainRequest:
    """What was asked for, by the magic or by `dlfb_lab.train`, whose arguments these are."""

    model: Any
    data: Any
    target: str | None = None
    task: str | None = None
    loss: str | Callable[..., Any] | None = None
    metrics: str | Callable[..., Any] | Iterable[str | Callable[..., Any]] | None = None
    valid: Any = None
    test: Any = None
    groups: Any = None
    scale: bool = False
    epochs: int | None = None
    steps: int | None = None
    batch_size: int | Literal["full"] | None = None
    optimizer: Any = None
    lr: float | None = None
    seed: int = 0
    eval_every: int | None = None
    name: str | None = None
    timebox: str | float | None = None
    store: str | Path | None = None
    background: bool = False
    debug: bool = False
    source: str = ""


def session(request: TrainRequest) -> tuple[Session, dict[str, Array]]:
    """Returns what a run needs in this kernel, and the row numbers of each part.

    Raises:
        DataError, ModelError, OptionError: something that was given cannot be used.
    """
    r = request
    budget: dict[str, Any] = {name: _count(name, getattr(r, name)) for name in ("epochs", "steps", "eval_every")}
    if budget["epochs"] and budget["steps"]:
        raise OptionError(f"--epochs {r.epochs} and --steps {r.steps} are both given. Leave one out.")
    if not budget["epochs"] and not budget["steps"]:
        budget["epochs"] = DEFAULT_EPOCHS
    timebox_s = seconds(r.timebox)
    seed = _seed(r.seed)

    model = models.adapt(r.model)
    examples = sources.read(r.data, target=r.target, groups=r.groups)
    task = tasks.infer(
        examples.y,
        r.task,
        losses.regression_only(r.loss),
        categories=examples.categories,
        labels=examples.labels,
    )

    def encode(part: Examples, what: str) -> Array:
        y = task.encode(part.y, what)
        if isinstance(r.loss, str) and losses.ALIASES.get(r.loss, r.loss) == "kl_divergence":
            _check_probabilities(y, f"--loss {r.loss}: {what}")
        return y

    rows_of, parts = _divide(r, examples, task)
    encoded = {name: encode(part, f"the targets of the {name} part") for name, part in parts.items()}
    scaling = Scaling.fit(parts["train"].x) if r.scale else None
    ready = {name: Part(device_inputs(part.x, scaling), encoded[name]) for name, part in parts.items()}
    optimizer, optimizer_name, rate = _optimizer(r, model)
    batch_size = _batch_size(r.batch_size, len(ready["train"]))
    experiment = Experiment(
        name=model.name if r.name in (None, "") else str(r.name),
        model=model,
        optimizer=optimizer,
        task=task,
        loss=r.loss,
        metrics=_metrics(r.metrics, task),
        train=ready["train"],
        valid=ready.get("valid"),
        **budget,
        batch_size=batch_size,
        seed=seed,
        timebox_s=timebox_s,
        debug=bool(r.debug),
        rows={name: len(part) for name, part in ready.items()},
        split_hash=splits.fingerprint(rows_of, encoded),
        task_sentence=task.describe(task.encode(examples.y)),
        settings={
            **budget,
            "batch_size": batch_size,
            "optimizer": optimizer_name,
            "lr": rate,
            "seed": seed,
            "valid": _described(r.valid),
            "test": _described(r.test),
            "groups": _described(r.groups),
            "scale": bool(r.scale),
            "target": None if r.target is None else str(r.target),
            "timebox": None if r.timebox is None else str(r.timebox),
            "debug": bool(r.debug),
            "background": bool(r.background),
        },
        source=r.source,
    )
    plan = experiments.plan(experiment)
    experiment = replace(experiment, notices=tuple(_notices(r, examples, experiment, plan.target_shape)))

    def read(new: Any) -> Part:
        part = _like(_read_set(r, new, "the data"), examples, "the data")
        return Part(device_inputs(part.x, scaling), encode(part, "the targets"))

    return Session(
        experiment=experiment,
        plan=plan,
        evaluator=loop.make_evaluator(experiment, plan),
        control=Control(),
        parts=ready,
        read=read,
        scaling=scaling,
        feature_names=examples.features,
    ), rows_of


def _divide(r: TrainRequest, examples: Examples, task: Task) -> tuple[dict[str, Array], dict[str, Examples]]:
    fractions: dict[str, float] = {}
    given: dict[str, Examples] = {}
    for name, asked in (("valid", r.valid), ("test", r.test)):
        if _is_fraction(asked):
            fractions[name] = float(asked)
        elif asked is not None:
            given[name] = _like(_read_set(r, asked, f"--{name}"), examples, f"--{name}")
    rows_of = splits.divide(
        len(examples),
        fractions=fractions,
        seed=r.seed,
        classes=task.encode(examples.y) if task.classifies else None,
        groups=examples.groups,
    )
    parts = {name: examples.take(rows) if fractions else examples for name, rows in rows_of.items()} | given
    splits.check_groups({name: part.groups for name, part in parts.items()})
    rows_of |= {name: np.arange(len(part)) for name, part in given.items()}
    order = [name for name in ("train", "valid", "test") if name in parts]
    return {name: rows_of[name] for name in order}, {name: parts[name] for name in order}


def _is_fraction(asked: Any) -> bool:
    return isinstance(asked, int | float | np.number) and not isinstance(asked, bool)


def _check_probabilities(y: Array, what: str) -> None:
    if y.size and y.min() < 0:
        raise DataError(f"{what} hold {y.min():.4g}; this loss takes probabilities, none of them below 0.")
    total = y.sum(axis=-1, dtype=np.float64) if y.ndim > 1 else y
    wrong = np.abs(total - 1) > 1e-3
    if wrong.any():
        raise DataError(
            f"{what} are not probabilities: a row sums to {total[wrong][0]:.4g}, not to 1. "
            "Divide each row by its sum (y / y.sum(axis=1, keepdims=True)), or say --loss mse."
        )


def _read_set(r: TrainRequest, new: Any, what: str) -> Examples:
    pair = isinstance(new, tuple | list)
    groups = str(r.groups) if np.isscalar(r.groups) else None
    if pair and not (len(new) == 2 and _is_named(new[0]) and groups in [str(c) for c in new[0]]):
        groups = None
    try:
        return sources.read(new, target=None if pair else r.target, groups=groups)
    except (DataError, OptionError) as error:
        raise type(error)(f"{what}: {error}") from error


def _is_named(x: Any) -> bool:
    return is_table(x) or isinstance(x, Mapping)


def _like(new: Examples, like: Examples, what: str) -> Examples:
    """Returns a set whose features are those of the training data, in their order."""
    if like.features and new.features and new.features != like.features:
        missing = [n for n in like.features if n not in new.features]
        if missing or not isinstance(new.x, np.ndarray):
            raise DataError(f"{what} has no column `{missing[0]}`, which the training data have.")
        new = replace(new, x=new.x[:, [new.features.index(n) for n in like.features]], features=like.features)
    if like.labels and new.labels and new.labels != like.labels:
        if set(new.labels) != set(like.labels):
            raise DataError(
                f"{what} has the target columns {', '.join(new.labels)}; "
                f"the training data have {', '.join(like.labels)}. Give the same columns."
            )
        new = replace(new, y=new.y[:, [new.labels.index(n) for n in like.labels]], labels=like.labels)
    mine = new.x if isinstance(new.x, dict) else {"x": new.x}
    theirs = like.x if isinstance(like.x, dict) else {"x": like.x}
    if set(mine) != set(theirs):
        raise DataError(f"{what} has the inputs {', '.join(mine)}; the training data have {', '.join(theirs)}.")
    for name, array in theirs.items():
        if mine[name].shape[1:] != array.shape[1:]:
            raise DataError(
                f"{what}: {name} has rows of shape {mine[name].shape[1:]}; the training rows have {array.shape[1:]}."
            )
    return new


def _optimizer(r: TrainRequest, model: Model) -> tuple[Any, str, float | None]:
    if model.optimizer is None:
        return optimizers.choose(r.optimizer, r.lr)
    if r.optimizer is not None or r.lr is not None:
        option = "--optimizer" if r.optimizer is not None else "--lr"
        raise OptionError(f"{option}: the TrainState brings its own optimizer. Leave {option} out.")
    return model.optimizer, "the TrainState's own optimizer", None


def _metrics(asked: Any, task: Task) -> tuple[metric_table.Metric, ...]:
    if isinstance(asked, str):
        asked = [name.strip() for name in asked.split(",") if name.strip()]
    elif callable(asked):
        asked = [asked]
    return metric_table.choose(asked, task)


def _batch_size(asked: Any, rows: int) -> int:
    if asked is None:
        return min(DEFAULT_BATCH, rows)
    if asked == "full":
        return rows
    size = _count("batch_size", asked)
    assert size is not None
    return size


def _count(keyword: str, value: Any) -> int | None:
    if value is None:
        return None
    option = "--" + keyword.replace("_", "-")
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        whole = isinstance(value, float) and value.is_integer()
        if not whole:
            raise OptionError(f"{option} {value!r}: give a whole number above zero.")
    if value < 1:
        raise OptionError(f"{option} {value}: give a whole number above zero.")
    return int(value)


def _seed(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not 0 <= value < 2**32:
        raise OptionError(f"--seed {value!r}: give a whole number from 0 to 4294967295.")
    return int(value)


def _described(value: Any) -> Any:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, int | float | np.number):
        return float(value)
    return "given"


def _notices(
    r: TrainRequest, examples: Examples, experiment: Experiment, target_shape: tuple[int, ...]
) -> Iterable[tuple[Literal["info", "warning"], str]]:
    y, task = examples.y, experiment.task
    if y.ndim == 2 and y.shape[1] == 1 and (task.classifies or target_shape == ()):
        yield "info", f"The targets have shape {y.shape} and were read as ({len(y)},), one a row."
    for text in examples.notices:
        yield "info", text
    for name, asked in (("valid", r.valid), ("test", r.test)):
        if examples.groups is not None and _is_fraction(asked):
            share = experiment.rows[name] / len(examples)
            if abs(share - asked) > asked / 2:
                largest = np.unique(examples.groups, return_counts=True)[1].max()
                yield (
                    "warning",
                    f"The {name} part has {100 * share:.2g} % of the rows, where {100 * asked:.2g} % were asked for: "
                    f"a group is never divided, and the largest has {largest:,} of {len(examples):,} rows.",
                )
    if task.classifies:
        counts = np.bincount(experiment.train.y, minlength=task.outputs)
        missing = [task.classes[i] for i in np.flatnonzero(counts == 0)]
        if missing:
            yield "warning", f"No training row has the class {', '.join(missing[:5])}; it cannot be learned."
    for name, lost in () if r.scale else flattened(examples.x):
        what = f"the input `{name}`" if name else "x"
        shown = ", ".join(f"`{examples.features[i]}`" if examples.features else str(i) for i in lost[:5])
        yield (
            "warning",
            f"The numbers in column{'s' if len(lost) > 1 else ''} {shown} of {what} are so close together that they "
            "are all the same as 32-bit numbers, and teach nothing. Say --scale.",
        )
