"""Data for a step of the user's own: kept in the user's own structure, and only divided."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from dlfb_lab import data as sources
from dlfb_lab.assemble.labelled import Notices, Prepared
from dlfb_lab.assemble.request import TrainRequest, is_fraction, rows_asked
from dlfb_lab.data import splits
from dlfb_lab.data.batch import pair, rows_of
from dlfb_lab.data.lazy import is_lazy
from dlfb_lab.data.source import Array, Examples
from dlfb_lab.data.stream import Stream, joined, read_all
from dlfb_lab.engine.experiment import Experiment
from dlfb_lab.engine.feed import Rows, Streamed
from dlfb_lab.errors import DataError, OptionError
from dlfb_lab.models.model import PyTree


def prepare(r: TrainRequest, pairs: bool = False) -> Prepared:
    """Prepares data for a step that decides itself what is predicted.

    Args:
        r: what was asked for.
        pairs: whether the step takes `(x, y)`, whatever the data are; else it takes the user's own structure.

    Raises:
        DataError, OptionError: the data, or what was said of them, cannot be used.
    """
    for name in ("scale", "task", "loss", "metrics"):
        if getattr(r, name):
            who = "the model is compiled, and decides that" if pairs else "the step is your own, and decides that"
            raise OptionError(f"--{name} {getattr(r, name)}: {who}. Leave it out.")
    if r.valid is not None and r.step is not None and r.eval_step is None:
        raise OptionError("--valid: how rows are scored, a step of your own says. Give one with --eval-step.")
    read = _read(r, r.data, pairs)
    if isinstance(read, Stream):
        with read.or_closed():
            return _of_stream(r, read, pairs)
    groups = _groups(r, read)
    fractions: dict[str, float] = {}
    given: dict[str, Rows] = {}
    for name, asked in (("valid", r.valid), ("test", r.test)):
        if is_fraction(asked):
            fractions[name] = float(asked)
        elif asked is not None:
            given[name] = _part(r, asked, f"--{name}", pairs)
    if fractions and read.count is None:
        raise OptionError(
            "The data have no rows to divide, since their arrays differ in length. "
            "Give a set in the same form: --valid DATA."
        )
    numbers = splits.divide(len(read), fractions=fractions, seed=r.seed, groups=groups) if fractions else {}
    parts: dict[str, Any] = {name: _taken(read, rows) for name, rows in numbers.items()} or {"train": read}
    if groups is not None:
        splits.check_groups({name: groups[rows] for name, rows in numbers.items()})
    rows_of = numbers or {"train": np.arange(len(read))}
    rows_of |= {name: np.arange(len(part)) for name, part in given.items()}
    parts |= given
    order = [name for name in ("train", "valid", "test") if name in parts]
    rows_of = {name: rows_of[name] for name in order}
    rows = "the whole at once" if read.count is None else f"{read.count:,} rows"

    def notices(experiment: Experiment, target_shape: tuple[int, ...]) -> Notices:
        yield from ()

    return Prepared(
        train=parts["train"],
        parts={name: parts[name] for name in order},
        rows_of=rows_of,
        task=None,
        task_sentence=f"{_who(pairs)}, {rows}",
        # Which of the arrays are targets is not known here, so that the rows alone are counted.
        split_hash=splits.fingerprint(rows_of, rows_of),
        read=lambda new: _part(r, new, "the data", pairs),
        notices=notices,
    )


def _read(r: TrainRequest, data: Any, pairs: bool, whole: bool = False) -> Rows | Stream:
    """Reads rows, or a stream; with `whole` a stream is read to its end."""
    asked: dict[str, Any] = {"batch_size": rows_asked(r), "seed": int(r.seed), "apart": not whole}
    if pairs:
        read = sources.read(data, target=r.target, groups=r.groups, **asked)
        if isinstance(read, Stream):
            read = read_all(read, r.target) if whole else read
        return Rows((read.x, _numbers(read)), len(read)) if isinstance(read, Examples) else read
    found = sources.read_tree(data, **asked)
    if isinstance(found, Stream):
        if not whole:
            return found
        tree = joined(found)
        return Rows(tree, rows_of(tree))
    return Rows(found.tree, found.rows)


def _numbers(examples: Examples) -> Array:
    if examples.y.dtype.kind not in "biuf":
        raise DataError(
            f"The targets are {examples.y.dtype} values, such as {examples.y.reshape(-1)[0]!r}; the model's own loss "
            "takes numbers. Number the classes from 0."
        )
    return examples.y.astype(np.float32) if examples.y.dtype == np.float64 else examples.y


def _groups(r: TrainRequest, rows: Rows) -> Array | None:
    if r.groups is None:
        return None
    groups = r.groups
    if isinstance(groups, str):
        if not isinstance(rows.tree, dict) or groups not in rows.tree:
            raise OptionError(
                f"--groups {groups}: the data have no array of that name. Give an array, one entry a row."
            )
        groups = rows.tree[groups]
    groups = np.asarray(groups)
    if groups.ndim != 1 or rows.count is None or len(groups) != rows.count:
        raise OptionError(f"--groups has shape {groups.shape}; give one entry a row, shape ({len(rows)},).")
    return groups


def _taken(rows: Rows, numbers: Array) -> Rows:
    taken = jax.tree.map(lambda a: a.take(numbers) if is_lazy(a) else a[numbers], rows.tree)
    return Rows(taken, len(numbers))


def _part(r: TrainRequest, data: Any, what: str, pairs: bool) -> Rows:
    try:
        read = _read(r, data, pairs, whole=True)
    except (DataError, OptionError) as error:
        raise type(error)(f"{what}: {error}") from error
    assert isinstance(read, Rows)
    return read


def _of_stream(r: TrainRequest, stream: Stream, pairs: bool) -> Prepared:
    given: dict[str, Rows] = {}
    for name, asked in (("valid", r.valid), ("test", r.test)):
        if is_fraction(asked):
            raise OptionError(
                f"--{name} {asked}: the data are a {stream.name}, which cannot be divided. Give a set: --{name} DATA."
            )
        if asked is not None:
            given[name] = _part(r, asked, f"--{name}", pairs)

    def notices(experiment: Experiment, target_shape: tuple[int, ...]) -> Notices:
        for text in stream.notices:
            yield "info", text

    return Prepared(
        train=Streamed(stream, _pair(r) if pairs else _same),
        parts=dict(given),
        rows_of={name: np.arange(len(part)) for name, part in given.items()},
        task=None,
        task_sentence=f"{_who(pairs)}, a {stream.name}, batches of {stream.rows:,}",
        split_hash="",
        read=lambda new: _part(r, new, "the data", pairs),
        notices=notices,
    )


def _pair(r: TrainRequest) -> Callable[[PyTree], PyTree]:
    return lambda batch: pair(batch, r.target)


def _who(pairs: bool) -> str:
    return "a compiled model" if pairs else "a step of your own"


def _same(batch: PyTree) -> PyTree:
    return batch
