"""What is to be predicted: inferred from the targets, and said aloud."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np

from dlfb_lab.data.source import Array
from dlfb_lab.errors import DataError, OptionError, nearest

Kind = Literal["binary", "multiclass", "multilabel", "regression"]
KINDS: tuple[str, ...] = get_args(Kind)
MOST_INTEGER_CLASSES = 50
"""Whole numbers with more distinct values than this are taken for quantities."""


@dataclass(frozen=True)
class Task:
    """What the model is to learn.

    Attributes:
        kind: the kind of targets.
        classes: names of the classes, or of the labels; empty for regression.
        one_hot: whether the user's classes are one-hot rows.
        outputs: numbers per row to predict; for classes, how many there are.
        values: the classes as they stand in the targets, in the order of `classes`; empty where they have no names.
        reconstructs: whether the targets are the inputs themselves.
    """

    kind: Kind
    classes: tuple[str, ...]
    one_hot: bool
    outputs: int
    values: tuple[object, ...] = ()
    reconstructs: bool = False

    @property
    def name(self) -> str:
        """What the task is called."""
        return "reconstruction" if self.reconstructs else self.kind

    @property
    def phrase(self) -> str:
        """What the task is called in a sentence."""
        return self.name if self.kind == "regression" else f"{self.kind} classification"

    @property
    def classifies(self) -> bool:
        """Whether each row has exactly one class."""
        return self.kind in ("binary", "multiclass")

    @cached_property
    def _counts(self) -> bool:
        """Whether the classes are 0, 1, 2 and so on, so that a class is its own number."""
        return all(type(v) is int for v in self.values) and self.values == tuple(range(len(self.values)))

    def encode(self, y: Array, what: str = "y") -> Array:
        """Returns targets as the losses take them.

        Args:
            y: targets as the user gave them, shape [rows, ...].
            what: how to call them in a message.

        Returns:
            Class numbers, shape [rows], int32; or label and regression targets, shape as given, float32.

        Raises:
            DataError: a class was not among the training targets, a row has another width than the training
                targets, or a value is not a finite number.
        """
        if self.classifies:
            return self._encode_classes(y, what)
        numbers = _numbers(y, what)
        if _width(y) != self.outputs:
            each = "label" if self.kind == "multilabel" else "value"
            raise DataError(
                f"{what} has shape {y.shape}: {_width(y)} numbers a row. "
                f"The training targets have {self.outputs} {each}{'s' if self.outputs > 1 else ''} a row; give as many."
            )
        if self.kind == "multilabel" and not np.isin(numbers, (0, 1)).all():
            other = numbers[~np.isin(numbers, (0, 1))][0]
            raise DataError(f"{what} holds {other:g}; labels are 1 where a row has the label, and 0 where it has not.")
        return numbers

    def _encode_classes(self, y: Array, what: str) -> Array:
        if self.one_hot:
            if y.ndim != 2 or y.shape[1] != len(self.classes):
                raise DataError(f"{what} has shape {y.shape}; one-hot rows of {len(self.classes)} classes are needed.")
            if not _is_one_hot(y):
                raise DataError(f"{what} has rows that are not one-hot. Give each row one 1, and 0 elsewhere.")
            return np.asarray(np.argmax(y, axis=1), np.int32)
        flat = _flat(y)
        if flat.ndim != 1:
            raise DataError(f"{what} has shape {y.shape}; give one class a row, shape ({len(y)},).")
        count = len(self.values)
        if flat.dtype.kind in "iu" and self._counts and flat.min(initial=0) >= 0 and flat.max(initial=0) < count:
            return flat.astype(np.int32)
        known = np.asarray(self.values)
        if flat.dtype.kind in "biuf" and known.dtype.kind in "biuf":
            order = np.argsort(known)
            number = order[np.searchsorted(known, flat, sorter=order).clip(max=len(known) - 1)]
            unknown = np.flatnonzero(known[number] != flat)
        else:
            numbers = {value: i for i, value in enumerate(self.values)}
            number = np.fromiter((numbers.get(v, -1) for v in flat.tolist()), np.int32, len(flat))
            unknown = np.flatnonzero(number < 0)
        if len(unknown):
            raise DataError(
                f"{what} {'hold' if what.endswith('s') else 'holds'} the class {flat.tolist()[unknown[0]]!r}; "
                f"the known classes are {', '.join(self.classes)}."
            )
        return np.asarray(number, np.int32)

    def describe(self, encoded: Array) -> str:
        """Returns the task in one sentence, from encoded targets."""
        rows = f"{len(encoded):,} rows"
        if self.kind == "binary":
            share = float((encoded == 1).mean())
            of_1 = f"{100 * share:.0f} % {self.classes[1]}"
            return f"binary classification: {self.classes[0]} / {self.classes[1]}, {rows}, {of_1}"
        if self.kind == "multiclass":
            counts = np.bincount(encoded, minlength=len(self.classes))
            common = int(counts.argmax())
            shown = ", ".join(self.classes[:6]) + (", …" if len(self.classes) > 6 else "")
            share = counts[common] / len(encoded)
            return (
                f"multiclass classification: {len(self.classes)} classes ({shown}), {rows}, "
                f"most frequent {self.classes[common]} with {100 * share:.0f} %"
            )
        if self.kind == "multilabel":
            return (
                f"multilabel classification: {len(self.classes)} labels, {rows}, "
                f"{encoded.mean() * len(self.classes):.2g} labels a row"
            )
        width = f"{self.outputs} values a row, " if self.outputs > 1 else ""
        return (
            f"{self.name}: {width}{rows}, targets {encoded.min():.4g} to {encoded.max():.4g}, "
            f"mean {encoded.mean():.4g}, standard deviation {encoded.std():.4g}"
        )


def infer(
    y: Array,
    kind: str | None = None,
    regression_loss: bool = False,
    *,
    categories: Sequence[object] | None = None,
    labels: Sequence[str] = (),
) -> Task:
    """Finds the task that fits the targets of all rows.

    Args:
        y: targets as the user gave them, shape [rows, ...].
        kind: what the user says it is; None to look.
        regression_loss: whether the user chose a loss that only regression takes.
        categories: the classes in their order, where the user gave one; such targets are classes, even if numbers.
        labels: names of the columns of `y`, where it has any.

    Raises:
        OptionError: no task goes by that name.
        DataError: the targets do not fit the task.
    """
    check_name(kind)
    if categories is not None:
        kind = kind or ("binary" if len(categories) <= 2 else "multiclass")
    kind = kind or ("regression" if regression_loss and y.dtype.kind in "biuf" else _look(y))
    if kind in ("regression", "reconstruction"):
        return Task("regression", (), False, _width(_numbers(y, "y")), reconstructs=kind == "reconstruction")
    if kind == "multilabel":
        return _multilabel(y, labels)
    if y.ndim == 2 and y.shape[1] > 1:
        return _one_hot(y, kind, labels)
    if _flat(y).ndim != 1:
        raise DataError(f"--task {kind}: y has shape {y.shape}; give one class a row, shape ({len(y)},).")
    return _classes(y, kind, categories)


NAMES = (*KINDS, "reconstruction")


def check_name(kind: str | None) -> None:
    """Checks that a task goes by the name.

    Raises:
        OptionError: none does.
    """
    if kind is not None and kind not in NAMES:
        raise OptionError(f"--task {kind}: there is no such task.{nearest(kind, NAMES)} Known: {', '.join(NAMES)}.")


def infer_from_batch(y: Array, kind: str | None, outputs: tuple[int, ...], regression_loss: bool = False) -> Task:
    """Finds the task that fits the targets of a stream's first batch; how many classes there are, the model tells.

    Args:
        y: targets of one batch, shape [rows, ...].
        kind: what the user says it is; None to look.
        outputs: shape of the model's outputs for the batch.
        regression_loss: whether the user chose a loss that only regression takes.

    Raises:
        OptionError: no task goes by that name.
        DataError: classes have names, which of a stream cannot all be known beforehand.
    """
    check_name(kind)
    if kind == "reconstruction":
        return Task("regression", (), False, _width(y), reconstructs=True)
    if y.dtype.kind not in "biuf":
        raise DataError(f"The targets of the stream are {y.dtype} values, such as {y.reshape(-1)[0]!r}. Give numbers.")
    width = outputs[-1] if len(outputs) > 1 else 1
    kind = kind or ("regression" if regression_loss else _look_at_batch(y, width))
    if kind == "regression":
        return Task("regression", (), False, _width(y))
    one_hot = kind == "multiclass" and y.ndim == 2 and y.shape[1] > 1
    count = _width(y) if kind == "multilabel" or one_hot else max(2, width)
    names = tuple(str(i) for i in range(count))
    return Task(
        "multilabel" if kind == "multilabel" else "binary" if kind == "binary" else "multiclass",
        names,
        one_hot,
        count,
        () if one_hot or kind == "multilabel" else tuple(range(count)),
    )


def _look_at_batch(y: Array, width: int) -> str:
    if y.ndim >= 2 and y.shape[1] > 1:
        return _look(y)
    if y.dtype.kind == "f":
        return "binary" if np.isin(y, (0.0, 1.0)).all() and width <= 2 else "regression"
    return "multiclass" if width > 2 else "binary"


def _look(y: Array) -> str:
    if y.ndim >= 2 and y.shape[1] > 1:
        binary = y.ndim == 2 and y.dtype.kind in "biuf" and bool(np.isin(y, (0, 1)).all())
        if not binary:
            return "regression"
        return "multiclass" if (y.sum(axis=1) == 1).all() else "multilabel"
    flat = _flat(y)
    if flat.dtype.kind == "f":
        return "binary" if np.isin(flat, (0.0, 1.0)).all() else "regression"
    distinct = len(np.unique(flat.astype(str) if flat.dtype == object else flat))
    if flat.dtype.kind in "iu" and distinct > MOST_INTEGER_CLASSES:
        return "regression"
    return "binary" if distinct <= 2 else "multiclass"


def _classes(y: Array, kind: str, categories: Sequence[object] | None) -> Task:
    flat = _flat(y)
    if flat.dtype.kind == "f" and not np.isfinite(flat).all():
        raise DataError(
            f"y holds NaN or infinity, in {int((~np.isfinite(flat)).sum()):,} of {len(flat):,} rows. Drop those rows."
        )
    missing = sum(v is None or v != v for v in flat.tolist()) if flat.dtype == object else 0
    if missing:
        raise DataError(f"{missing:,} of {len(flat):,} rows have no target (None or NaN). Drop those rows.")
    values: list[Any] = list(categories or sorted(set(flat.tolist()), key=lambda v: (type(v).__name__, v)))
    if len(values) == 1:
        raise DataError(f"All {len(flat):,} targets are {values[0]!r}: with one class only there is nothing to learn.")
    numeric = flat.dtype.kind in "iuf" and categories is None
    if numeric and [float(v) for v in values] != [float(v) for v in range(len(values))]:
        whole = values == [float(v) for v in range(int(values[0]), int(values[0]) + len(values))]
        shown = ", ".join(f"{v:g}" for v in values[:8]) + (", …" if len(values) > 8 else "")
        fix = f"Subtract {values[0]:g}" if whole else "Number them from 0 (np.unique(y, return_inverse=True)[1])"
        raise DataError(
            f"Integer classes must be 0 to {len(values) - 1}, but y holds {shown}. {fix}, give them as strings "
            "to keep these names, or say --task regression if they are quantities."
        )
    if kind == "binary" and len(values) > 2:
        raise DataError(f"--task binary: y holds {len(values)} classes. Say --task multiclass.")
    names = tuple(f"{v:g}" if isinstance(v, float) else str(v) for v in values)
    return Task("binary" if kind == "binary" else "multiclass", names, False, len(values), tuple(values))


def _is_one_hot(y: Array) -> bool:
    return bool(np.isin(y, (0, 1)).all() and (y.sum(axis=1) == 1).all())


def _one_hot(y: Array, kind: str, labels: Sequence[str]) -> Task:
    if not _is_one_hot(y):
        raise DataError(f"--task {kind}: y has shape {y.shape}, but its rows are not one-hot. Give class numbers.")
    names = tuple(labels) or tuple(str(i) for i in range(y.shape[1]))
    if (y.sum(axis=0) == len(y)).any():
        raise DataError(f"All {len(y):,} targets are one class: there is nothing to learn.")
    return Task("multiclass", names, True, y.shape[1], tuple(labels))


def _multilabel(y: Array, labels: Sequence[str]) -> Task:
    if y.ndim != 2 or not np.isin(y, (0, 1)).all():
        raise DataError(f"--task multilabel: y must be rows of 0 and 1, one column a label; its shape is {y.shape}.")
    names = tuple(labels) or tuple(str(i) for i in range(y.shape[1]))
    return Task("multilabel", names, False, y.shape[1])


def _numbers(y: Array, what: str) -> Array:
    if y.dtype.kind not in "biuf":
        try:
            y = y.astype(np.float64)
        except (TypeError, ValueError):
            raise DataError(
                f"{what} holds {y.dtype} values (for example {y.reshape(-1)[0]!r}); this task needs numbers."
            ) from None
    finite = np.isfinite(y)
    if not finite.all():
        raise DataError(
            f"{what} holds NaN or infinity, in {int((~finite).sum()):,} of {finite.size:,} values. Drop those rows."
        )
    return y.astype(np.float32)


def _width(y: Array) -> int:
    return int(np.prod(y.shape[1:])) if y.ndim > 1 else 1


def _flat(y: Array) -> Array:
    """Class targets of shape [rows, 1] are read as [rows]."""
    return y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
