"""Class weights: rare classes count more in the loss."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dlfb_lab.data.source import Array
from dlfb_lab.engine.losses import Loss
from dlfb_lab.engine.task import Task
from dlfb_lab.errors import OptionError, nearest


@dataclass(frozen=True)
class WeightedLoss(Loss):
    """A loss whose values are multiplied by weights, in training only: scores are not weighted.

    Attributes:
        weights: of the classes; or of the zeros and ones of each label, one pair after the other.
    """

    weights: tuple[float, ...] = ()


def class_weights(asked: Any, task: Task, encoded_targets: Array) -> np.ndarray | None:
    """Reads `--class-weights`.

    The weights are scaled so that their mean over the training rows is 1: a learning rate keeps its meaning, and the
    batch's loss is the plain mean of the weighted values. (Keras, too, takes the plain mean, but of weights as given;
    PyTorch divides by the weights of the batch.) "balanced" is scikit-learn's rows / (classes * rows of the class),
    whose mean is 1 already; for labels, which scikit-learn leaves out, the same for the zeros and ones of each.

    Args:
        asked: "balanced"; or weights by class, in a dict of names or numbers, where a class left out counts 1, or in
            a list. For labels: the weights of the ones; a zero counts 1. None for no weights.
        task: what is predicted.
        encoded_targets: of the training rows, as `Task.encode` returns them. Of a stream there are none beforehand:
            without any, weights stay as given, and cannot be balanced.

    Returns:
        Weights, shape [classes] or [labels, 2] (of zeros and of ones), float32; None if not asked.

    Raises:
        OptionError: the task has no classes, a class is unknown, or a weight is no number of at least zero.
    """
    if asked is None:
        return None
    multilabel = task.kind == "multilabel"
    if not task.classifies and not multilabel:
        raise OptionError(f"--class-weights: the task is {task.kind}, which has no classes. Leave it out.")
    y = np.asarray(encoded_targets)
    if multilabel:
        ones = (y.reshape(len(y), task.outputs) == 1).sum(axis=0)
        counts = np.stack([len(y) - ones, ones], axis=1).astype(float)
    else:
        counts = np.bincount(y.reshape(-1), minlength=task.outputs).astype(float)
    if isinstance(asked, str):
        if asked.lower() != "balanced":
            raise OptionError(
                f"--class-weights {asked}: say balanced, or give the weights, such as {{{task.classes[0]!r}: 2.0}}."
            )
        # What no training row has is never weighted; dividing by its count would spoil the scaling.
        weights = np.divide(1, counts, out=np.zeros_like(counts), where=counts > 0)
        present = (counts > 0).sum(axis=-1, keepdims=True)
        weights *= counts.sum(axis=-1, keepdims=True) / present
        weights[counts == 0] = 1
        return np.asarray(weights, np.float32)
    given = _given(asked, task)
    weights = np.stack([np.ones_like(given), given], axis=1) if multilabel else given
    if not len(y):
        return np.asarray(weights, np.float32)
    mean = (weights * counts).sum() / counts.sum()
    if mean <= 0:
        raise OptionError("--class-weights: with these weights no training row counts. Give one above zero.")
    return np.asarray(weights / mean, np.float32)


def weighted(loss: Loss, weights: np.ndarray, task: Task) -> Loss:
    """Returns the loss with its values multiplied by the weights of the targets.

    Args:
        loss: one of ours, or the user's own if it gives values row by row.
        weights: from `class_weights`.
        task: what is predicted.

    Raises:
        OptionError: the loss is the user's own and the task has labels; or, when called, gives no value for each row.
    """
    if task.kind != "multilabel":
        function = partial(_by_class, loss, weights)
    elif loss.own:
        raise OptionError(
            f"--class-weights: the loss `{loss.name}` is your own, and how it puts labels together is not known. "
            "Take --loss binary_crossentropy, or weight the labels in your loss."
        )
    else:
        function = partial(_by_label, loss, weights)
    return WeightedLoss(
        name=loss.name,
        function=function,
        link=loss.link,
        per_row=loss.per_row,
        key=loss.key,
        weights=tuple(weights.reshape(-1).tolist()),
    )


def _by_class(loss: Loss, weights: np.ndarray, outputs: Any, targets: Any) -> jax.Array:
    values = loss.function(outputs, targets)
    rows = len(targets)
    if values.ndim == 0 or len(values) != rows:
        raise OptionError(
            f"--class-weights: the loss `{loss.name}` gives shape {values.shape} for {rows:,} rows. Let it return one "
            "value for each row instead of their mean, or leave --class-weights out."
        )
    each = jnp.asarray(weights, values.dtype)[targets.reshape(rows).astype(jnp.int32)]
    return values * each.reshape(rows, *[1] * (values.ndim - 1))


def _by_label(loss: Loss, weights: np.ndarray, outputs: Any, targets: Any) -> jax.Array:
    rows, labels = len(targets), len(weights)
    # One label at a time, for a row's value is already the mean over its labels.
    values = jax.vmap(loss.function, in_axes=1, out_axes=1)(
        outputs.reshape(rows, labels, 1), targets.reshape(rows, labels, 1)
    )
    zeros, ones = jnp.asarray(weights, values.dtype).T
    return (values * jnp.where(targets.reshape(rows, labels) == 1, ones, zeros)).mean(axis=1)


def _given(asked: Any, task: Task) -> np.ndarray:
    """Returns the weights given for the classes or labels, shape [classes], float64."""
    if isinstance(asked, Mapping):
        places: dict[Any, int] = {number: number for number in range(task.outputs)}
        places |= {value: i for i, value in enumerate(task.values)} | {name: i for i, name in enumerate(task.classes)}
        weights = np.ones(task.outputs)
        for name, weight in asked.items():
            if name not in places:
                hint = nearest(str(name), task.classes)
                raise OptionError(
                    f"--class-weights: there is no class {name!r}.{hint} Known: {', '.join(task.classes)}."
                )
            weights[places[name]] = _number(weight)
        return weights
    try:
        listed = list(asked)
    except TypeError:
        raise OptionError(
            f"--class-weights: a {type(asked).__name__} is no weights. Say balanced, or give a dict or a list."
        ) from None
    if len(listed) != task.outputs:
        each = f"{task.outputs} {'labels' if task.kind == 'multilabel' else 'classes'}"
        raise OptionError(f"--class-weights: {len(listed)} weights for {each}, {', '.join(task.classes)}.")
    return np.array([_number(weight) for weight in listed])


def _number(weight: Any) -> float:
    try:
        number = math.nan if isinstance(weight, str | bool) else float(weight)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 <= number < math.inf:
        raise OptionError(f"--class-weights: {weight!r} is no weight. Give numbers of at least zero.")
    return number
