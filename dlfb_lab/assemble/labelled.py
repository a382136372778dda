"""Rows with targets: read, given a task, divided, encoded and scaled."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from dlfb_lab import data as sources
from dlfb_lab.assemble.request import TrainRequest, is_fraction, rows_asked
from dlfb_lab.data import splits
from dlfb_lab.data.batch import inputs_of, pair
from dlfb_lab.data.lazy import examples_are_lazy
from dlfb_lab.data.scaling import Scaling, device_inputs, flattened
from dlfb_lab.data.source import Array, Examples, select_features
from dlfb_lab.data.stream import Stream, read_all
from dlfb_lab.data.tables import is_table
from dlfb_lab.engine import losses
from dlfb_lab.engine import task as tasks
from dlfb_lab.engine.experiment import Experiment
from dlfb_lab.engine.feed import Part, Rows, Streamed, TrainingData
from dlfb_lab.engine.task import Task
from dlfb_lab.errors import DataError, OptionError

Notices = Iterable[tuple[Literal["info", "warning"], str]]


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Data as an experiment takes them.

    Attributes:
        train: what is learned from.
        parts: rows by part name; of a stream only those that were read beforehand.
        rows_of: row numbers by part name.
        task: what is predicted; None where a step of the user's own decides that.
        task_sentence: the task said aloud.
        split_hash: identifies the split.
        read: reads new data in the form the training data had.
        scaling: what inputs are standardised with, if they are.
        feature_names: names of the columns of a table.
        notices: what the user should know, once the experiment is made: level and text.
    """

    train: TrainingData
    parts: dict[str, Part | Rows]
    rows_of: dict[str, Array]
    task: Task | None
    task_sentence: str
    split_hash: str
    read: Callable[[Any], Part | Rows]
    scaling: Scaling | None = None
    feature_names: tuple[str, ...] = ()
    notices: Callable[[Experiment, tuple[int, ...]], Notices]


def prepare(r: TrainRequest, outputs_of: Callable[[Any], tuple[int, ...]], regression: bool) -> Prepared:
    """Prepares data for a model with our loss and metrics.

    Args:
        r: what was asked for.
        outputs_of: returns the shape of the model's outputs for inputs; a stream's classes are counted by it.
        regression: whether the loss is one that only regression takes.

    Raises:
        DataError, OptionError: the data, or what was said of them, cannot be used.
    """
    tasks.check_name(r.task)
    asked: dict[str, Any] = {"batch_size": rows_asked(r), "seed": int(r.seed), "apart": True}
    if r.task == "reconstruction" and r.target is None:
        read = sources.read_inputs(r.data, groups=r.groups, **asked)
    else:
        read = sources.read(r.data, target=r.target, groups=r.groups, **asked)
    if not isinstance(read, Stream):
        return _of_rows(r, read, regression)
    with read.or_closed():
        return _of_stream(r, read, outputs_of, regression)


def _of_rows(r: TrainRequest, examples: Examples, regression: bool) -> Prepared:
    task = tasks.infer(
        examples.y,
        r.task,
        regression,
        categories=examples.categories,
        labels=examples.labels,
    )

    rows_of, parts = _divide(r, examples, task)
    encoded = {name: _encoded(r, part, task, f"the targets of the {name} part") for name, part in parts.items()}
    scaling = Scaling.fit(parts["train"].x) if r.scale else None
    ready: dict[str, Part | Rows] = {name: _part_of(part, encoded[name], task, scaling) for name, part in parts.items()}
    return Prepared(
        train=ready["train"],
        parts=ready,
        rows_of=rows_of,
        task=task,
        task_sentence=task.describe(task.encode(examples.y)),
        split_hash=splits.fingerprint(rows_of, encoded),
        read=reader(r, examples, task, scaling),
        scaling=scaling,
        feature_names=tuple(examples.features),
        notices=lambda experiment, target_shape: _notices(r, examples, experiment, target_shape),
    )


def reader(r: TrainRequest, like: Examples, task: Task, scaling: Scaling | None) -> Callable[[Any], Part]:
    """Returns what reads new data in the form that the training data had.

    Args:
        r: what was asked for.
        like: rows as the training rows were read.
        task: what is predicted.
        scaling: what inputs are standardised with, if they are.
    """

    def read(new: Any) -> Part:
        part = _like(_read_set(r, new, "the data"), like, "the data")
        return _part_of(part, _encoded(r, part, task, "the targets"), task, scaling)

    return read


def _encoded(r: TrainRequest, part: Examples, task: Task, what: str) -> Array:
    y = task.encode(part.y, what)
    if isinstance(r.loss, str) and losses.ALIASES.get(r.loss, r.loss) == "kl_divergence":
        _check_probabilities(y, f"--loss {r.loss}: {what}")
    return y


def _part_of(part: Examples, y: Array, task: Task, scaling: Scaling | None) -> Part:
    x = device_inputs(part.x, scaling)
    # Of a reconstruction the scaled inputs are the targets.
    return Part(x, x if task.reconstructs and not isinstance(x, dict) else y)


def _of_stream(
    r: TrainRequest, stream: Stream, outputs_of: Callable[[Any], tuple[int, ...]], regression: bool
) -> Prepared:
    if r.scale:
        raise OptionError(f"--scale: the data are a {stream.name}, whose statistics are not known. Scale its batches.")
    if r.groups is not None:
        raise OptionError(f"--groups: the data are a {stream.name}; groups are kept whole when rows are divided.")

    def split(batch: Any) -> tuple[Any, Any]:
        if r.task != "reconstruction" or r.target is not None:
            return pair(batch, r.target)
        x = inputs_of(batch)
        return x, x

    x, y = split(stream.first)
    task = tasks.infer_from_batch(y, r.task, outputs_of(x), regression)

    def convert(batch: Any) -> tuple[Any, Array]:
        x, y = split(batch)
        return x, task.encode(y, "a batch's targets")

    def read(new: Any) -> Part:
        return _read_part(r, new, "the data", task)

    given: dict[str, Part | Rows] = {}
    for name, asked in (("valid", r.valid), ("test", r.test)):
        if is_fraction(asked):
            raise OptionError(
                f"--{name} {asked}: the data are a {stream.name}, which cannot be divided. Give a set: --{name} (x, y)."
            )
        if asked is not None:
            given[name] = _read_part(r, asked, f"--{name}", task)

    def notices(experiment: Experiment, target_shape: tuple[int, ...]) -> Notices:
        for text in stream.notices:
            yield "info", text

    rows = f"batches of {stream.rows:,}"
    return Prepared(
        train=Streamed(stream, convert),
        parts=given,
        rows_of={name: np.arange(len(part)) for name, part in given.items()},
        task=task,
        task_sentence=f"{task.phrase}: a {stream.name}, {rows}",
        split_hash="",
        read=read,
        notices=notices,
    )


def _read_part(r: TrainRequest, new: Any, what: str, task: Task) -> Part:
    examples = _read_set(r, new, what)
    x = device_inputs(examples.x, None)
    return Part(x, task.encode(examples.y, f"the targets of {what}"))


def _divide(r: TrainRequest, examples: Examples, task: Task) -> tuple[dict[str, Array], dict[str, Examples]]:
    fractions: dict[str, float] = {}
    given: dict[str, Examples] = {}
    for name, asked in (("valid", r.valid), ("test", r.test)):
        if is_fraction(asked):
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
    is_pair = isinstance(new, tuple | list)
    groups = str(r.groups) if np.isscalar(r.groups) else None
    if is_pair and not (len(new) == 2 and _is_named(new[0]) and groups in [str(c) for c in new[0]]):
        groups = None
    try:
        if r.task == "reconstruction" and r.target is None:
            read = sources.read_inputs(new, groups=groups)
            return read_all(read, reconstruct=True) if isinstance(read, Stream) else read
        read = sources.read(new, target=None if is_pair else r.target, groups=groups)
        return read_all(read, r.target) if isinstance(read, Stream) else read
    except (DataError, OptionError) as error:
        raise type(error)(f"{what}: {error}") from error


def _is_named(x: Any) -> bool:
    return is_table(x) or isinstance(x, Mapping)


def _like(new: Examples, like: Examples, what: str) -> Examples:
    """Returns a set whose features are those of the training data, in their order."""
    if like.features and new.features and new.features != like.features:
        missing = [n for n in like.features if n not in new.features]
        if missing:
            raise DataError(f"{what} has no column `{missing[0]}`, which the training data have.")
        new = select_features(new, like.features)
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


def _notices(r: TrainRequest, examples: Examples, experiment: Experiment, target_shape: tuple[int, ...]) -> Notices:
    y, task = examples.y, experiment.task
    assert task is not None and isinstance(experiment.train, Part)
    if y.ndim == 2 and y.shape[1] == 1 and (task.classifies or target_shape == ()):
        yield "info", f"The targets have shape {y.shape} and were read as ({len(y)},), one a row."
    for text in examples.notices:
        yield "info", text
    for name, asked in (("valid", r.valid), ("test", r.test)):
        if examples.groups is not None and is_fraction(asked):
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
    for name, lost in () if r.scale or examples_are_lazy(examples.x) else flattened(examples.x):
        what = f"the input `{name}`" if name else "x"
        shown = ", ".join(f"`{examples.features[i]}`" if examples.features else str(i) for i in lost[:5])
        yield (
            "warning",
            f"The numbers in column{'s' if len(lost) > 1 else ''} {shown} of {what} are so close together that they "
            "are all the same as 32-bit numbers, and teach nothing. Say --scale.",
        )
