"""How good predictions are. Computed on the host, in float64.

scikit-learn has all of these; they are written out here because an evaluation in
the middle of training may cost microseconds, not the milliseconds of its input
validation, nor the two seconds of its import. The tests hold each to scikit-learn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from dlfb_lab.data.source import Array
from dlfb_lab.engine.names import OUTPUT_NAMES, SCORE_NAMES, name_of, two_arguments
from dlfb_lab.engine.task import KINDS, Task
from dlfb_lab.errors import OptionError, nearest, one_line

LEAST_PROBABILITY = float(np.finfo(np.float64).eps)


class Predictions:
    """What a model said about rows, and what was true of them.

    Attributes:
        targets: encoded targets; class numbers, shape [rows], or numbers, shape [rows, ...].
        outputs: the model's raw outputs, float64; of the targets' shape where there are no classes.
        task: what was predicted.
        link: what turns outputs into predictions.
    """

    def __init__(self, targets: Array, outputs: Array, task: Task, link: str) -> None:
        self.targets = targets if task.classifies else targets.astype(np.float64)
        # One number a row may come as [rows] or as [rows, 1]: beside each other they would be broadcast.
        shape = outputs.shape if task.classifies else targets.shape
        self.outputs = outputs.astype(np.float64).reshape(shape)
        self.task = task
        self.link = link

    @cached_property
    def scores(self) -> Array:
        """Probabilities, shape [rows, classes] or [rows, labels]; for regression the predicted values."""
        outputs = self.outputs
        if self.link == "identity":
            return outputs
        if self.link == "softmax":
            shifted = np.exp(outputs - outputs.max(axis=-1, keepdims=True))
            return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True))
        with np.errstate(over="ignore"):
            probability = outputs if self.link == "probability" else 1.0 / (1.0 + np.exp(-outputs))
        if self.task.kind == "binary" and probability.shape[1:] in ((), (1,)):
            probability = probability.reshape(len(probability))
            return np.stack([1.0 - probability, probability], axis=1)
        return np.asarray(probability)

    @cached_property
    def predicted(self) -> Array:
        """Class numbers, shape [rows]; 0/1 labels, shape [rows, labels]; or the predicted values."""
        if self.task.classifies:
            return np.asarray(self.scores.argmax(axis=1))
        if self.task.kind == "multilabel":
            return (self.scores > 0.5).astype(np.int64)
        return self.scores

    @cached_property
    def confusion(self) -> Array:
        """Counts, shape [true classes, predicted classes]."""
        count = self.task.outputs
        joint = self.targets.astype(np.int64) * count + self.predicted
        counts = np.bincount(joint, minlength=count * count)
        return np.asarray(counts.reshape(count, count), np.float64)

    @cached_property
    def label_counts(self) -> tuple[Array, Array, Array]:
        """True positives, false positives and false negatives: of class 1, of each class, or of each label."""
        if self.task.classifies:
            hits = np.diag(self.confusion)
            counts = hits, self.confusion.sum(axis=0) - hits, self.confusion.sum(axis=1) - hits
            return tuple(c[1:] for c in counts) if self.task.kind == "binary" else counts  # type: ignore[return-value]
        said, true = self.predicted == 1, self.targets == 1
        return (said & true).sum(axis=0), (said & ~true).sum(axis=0), (~said & true).sum(axis=0)

    @property
    def one_against_rest(self) -> Iterable[tuple[Array, Array]]:
        """Whether each row is positive, and its score: for class 1, for each class, or for each label."""
        if self.task.kind == "binary":
            yield self.targets == 1, self.scores[:, 1]
        else:
            for i in range(self.task.outputs):
                yield (
                    (self.targets == i if self.task.classifies else self.targets[:, i] == 1),
                    self.scores[:, i],
                )

    @property
    def columns(self) -> Iterable[tuple[Array, Array]]:
        """True and predicted values of each regression target, shape [rows]."""
        rows = len(self.targets)
        return zip(self.targets.reshape(rows, -1).T, self.scores.reshape(rows, -1).T, strict=True)


def _mean(values: Iterable[float]) -> float:
    listed = [v for v in values if not math.isnan(v)]
    return float(np.mean(listed)) if listed else math.nan


def _ratio(part: Any, whole: Any) -> Array:
    whole = np.asarray(whole, np.float64)
    return np.asarray(np.divide(part, whole, out=np.zeros_like(whole), where=whole > 0))


def accuracy(p: Predictions) -> float:
    """Share of rows (of labels, where there are several a row) that are right."""
    return float((p.predicted == p.targets).mean())


def balanced_accuracy(p: Predictions) -> float:
    """Mean recall over the classes that occur; Brodersen et al. (2010)."""
    occurring = p.confusion.sum(axis=1)
    return float((np.diag(p.confusion)[occurring > 0] / occurring[occurring > 0]).mean())


def precision(p: Predictions) -> float:
    """Share of those called positive that are; unweighted mean over classes or labels."""
    hits, false_positives, _ = p.label_counts
    return float(_ratio(hits, hits + false_positives).mean())


def recall(p: Predictions) -> float:
    """Share of the positives that were found; unweighted mean over classes or labels."""
    hits, _, misses = p.label_counts
    return float(_ratio(hits, hits + misses).mean())


def f1(p: Predictions) -> float:
    """Harmonic mean of precision and recall; unweighted mean over classes or labels."""
    hits, false_positives, misses = p.label_counts
    return float(_ratio(2 * hits, 2 * hits + false_positives + misses).mean())


def matthews(p: Predictions) -> float:
    """Matthews correlation coefficient; Gorodkin (2004) for several classes."""
    c = p.confusion
    total, right, said, true = c.sum(), np.trace(c), c.sum(axis=0), c.sum(axis=1)
    spread = math.sqrt(float(total**2 - said @ said)) * math.sqrt(float(total**2 - true @ true))
    return float((right * total - said @ true) / spread) if spread else 0.0


def area_under_roc(p: Predictions) -> float:
    """Chance that a positive row scores above a negative one (Mann and Whitney, 1947); mean over classes or labels."""
    return _mean(_auc(positive, score) for positive, score in p.one_against_rest)


def _auc(positive: Array, score: Array) -> float:
    positives = int(positive.sum())
    negatives = len(positive) - positives
    if not positives or not negatives or not np.isfinite(score).all():
        return math.nan
    _, inverse, counts = np.unique(score, return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(counts) - (counts - 1) / 2
    rank_sum = mean_rank[inverse][positive].sum()
    return float((rank_sum - positives * (positives + 1) / 2) / (positives * negatives))


def area_under_precision_recall(p: Predictions) -> float:
    """Average precision: sum of precision times the gain in recall; mean over classes or labels."""
    return _mean(_average_precision(positive, score) for positive, score in p.one_against_rest)


def _average_precision(positive: Array, score: Array) -> float:
    if not positive.any() or not np.isfinite(score).all():
        return math.nan
    order = np.argsort(-score, kind="stable")
    last_of_tie = np.append(np.flatnonzero(np.diff(score[order])), len(score) - 1)
    hits = np.cumsum(positive[order])[last_of_tie]
    gain = np.diff(hits, prepend=0) / positive.sum()
    return float((gain * hits / (last_of_tie + 1)).sum())


def log_loss(p: Predictions) -> float:
    """Mean negative log-likelihood of what was true, in nats."""
    probability = np.clip(p.scores, LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
    if p.task.classifies:
        return float(-np.log(probability[np.arange(len(p.targets)), p.targets]).mean())
    return float(-(p.targets * np.log(probability) + (1 - p.targets) * np.log(1 - probability)).mean())


def mean_squared_error(p: Predictions) -> float:
    """Mean of (predicted - true)**2."""
    return float(np.mean([((said - true) ** 2).mean() for true, said in p.columns]))


def root_mean_squared_error(p: Predictions) -> float:
    """Square root of the mean squared error, in the targets' unit."""
    return math.sqrt(mean_squared_error(p))


def mean_absolute_error(p: Predictions) -> float:
    """Mean of |predicted - true|, in the targets' unit."""
    return float(np.mean([np.abs(said - true).mean() for true, said in p.columns]))


def r_squared(p: Predictions) -> float:
    """Share of the targets' variance that is explained; mean over targets."""
    return _mean(
        1.0 - float(((true - said) ** 2).sum() / spread)
        for true, said in p.columns
        if (spread := ((true - true.mean()) ** 2).sum()) > 0
    )


def pearson(p: Predictions) -> float:
    """Pearson's correlation; mean over targets. NaN where one side is constant."""
    values = []
    for true, said in p.columns:
        a, b = true - true.mean(), said - said.mean()
        norm = math.sqrt(float(a @ a)) * math.sqrt(float(b @ b))
        # Rounding leaves a constant prediction with a tiny norm, not with zero.
        constant = float(np.ptp(said)) <= 1e-12 * max(1.0, float(np.abs(said).max()))
        values.append(math.nan if constant or norm == 0 else float(a @ b) / norm)
    return _mean(values)


@dataclass(frozen=True)
class Metric:
    """A score of predictions.

    Attributes:
        name: its name; also the column in a history.
        function: the score of some predictions.
        tasks: kinds of task it is for.
    """

    name: str
    function: Callable[[Predictions], float]
    tasks: tuple[str, ...]


_CLASSES = ("binary", "multiclass")
_LABELS = ("binary", "multiclass", "multilabel")
_NUMBERS = ("regression",)
METRICS: dict[str, Metric] = {
    m.name: m
    for m in (
        Metric("accuracy", accuracy, _LABELS),
        Metric("balanced_accuracy", balanced_accuracy, _CLASSES),
        Metric("precision", precision, _LABELS),
        Metric("recall", recall, _LABELS),
        Metric("f1", f1, _LABELS),
        Metric("mcc", matthews, _CLASSES),
        Metric("auc", area_under_roc, _LABELS),
        Metric("auprc", area_under_precision_recall, _LABELS),
        Metric("log_loss", log_loss, _LABELS),
        Metric("mse", mean_squared_error, _NUMBERS),
        Metric("rmse", root_mean_squared_error, _NUMBERS),
        Metric("mae", mean_absolute_error, _NUMBERS),
        Metric("r2", r_squared, _NUMBERS),
        Metric("pearson", pearson, _NUMBERS),
    )
}
ERRORS = ("log_loss", "mse", "rmse", "mae")
"""Of these a small value is better."""

ALIASES = {
    "categorical_accuracy": "accuracy",
    "sparse_categorical_accuracy": "accuracy",
    "binary_accuracy": "accuracy",
    "auroc": "auc",
    "roc_auc": "auc",
    "average_precision": "auprc",
    "mean_squared_error": "mse",
    "root_mean_squared_error": "rmse",
    "mean_absolute_error": "mae",
}
USUAL: dict[str, tuple[str, ...]] = {
    "binary": ("accuracy", "auc"),
    "multiclass": ("accuracy", "f1"),
    "multilabel": ("accuracy", "auc"),
    "regression": ("mae", "r2"),
}


def choose(metrics: Iterable[str | Callable[..., Any]] | None, task: Task) -> tuple[Metric, ...]:
    """Finds the metrics by name; a user's own function becomes one.

    Raises:
        OptionError: no metric goes by a name, or it does not fit the task.
    """
    if metrics is None:
        return tuple(METRICS[name] for name in USUAL[task.kind])
    if not isinstance(metrics, Iterable):
        raise OptionError(f"--metrics {metrics}: give names such as accuracy,f1, or functions of (y_true, y_pred).")
    chosen: dict[str, Metric] = {}
    for wanted in metrics:
        metric = _own(wanted) if callable(wanted) else _named(wanted, task)
        if metric.name in chosen and chosen[metric.name] is not metric:
            raise OptionError(f"--metrics: two metrics are named `{metric.name}`. Rename your function.")
        chosen[metric.name] = metric
    return tuple(chosen.values())


def _named(name: Any, task: Task) -> Metric:
    if not isinstance(name, str):
        raise OptionError(f"--metrics {name!r}: a {type(name).__name__} is no metric. Give a name, or a function.")
    metric = METRICS.get(ALIASES.get(name, name))
    if metric is None:
        known = [n for n, m in METRICS.items() if task.kind in m.tasks]
        raise OptionError(
            f"--metrics {name}: there is no such metric.{nearest(name, (*METRICS, *ALIASES))} "
            f"Known for {task.kind}: {', '.join(known)}."
        )
    if task.kind not in metric.tasks:
        raise OptionError(f"--metrics {name}: it is for {' and '.join(metric.tasks)}; the task is {task.kind}.")
    return metric if metric.name == name else Metric(name, metric.function, metric.tasks)


def _own(function: Callable[..., Any]) -> Metric:
    target_first, other = two_arguments(function, "metrics")
    name = name_of(function)

    def call(p: Predictions) -> float:
        said = p.outputs if other in OUTPUT_NAMES else p.predicted
        if other in SCORE_NAMES:
            said = p.scores[:, 1] if p.task.kind == "binary" else p.scores
        value = function(p.targets, said) if target_first else function(said, p.targets)
        try:
            return float(value)
        except (TypeError, ValueError):
            raise OptionError(
                f"--metrics {name}: it must return one number, and returned {type(value).__name__}."
            ) from None

    return Metric(name, call, KINDS)


def score(
    metrics: Iterable[Metric], predictions: Predictions, problems: dict[str, str] | None = None
) -> dict[str, float]:
    """Returns each metric's value; NaN where it is not defined, and where the outputs are not finite.

    Args:
        metrics: which to compute.
        predictions: what they are computed of.
        problems: gets, by name, what a user's metric raised, whose value is then NaN. Without it, it is raised.
    """
    if not np.isfinite(predictions.outputs).all():
        return {metric.name: math.nan for metric in metrics}
    values = {}
    with np.errstate(all="ignore"):
        for metric in metrics:
            try:
                values[metric.name] = metric.function(predictions)
            except Exception as error:
                if problems is None or metric is METRICS.get(metric.name):
                    raise
                problems[metric.name] = one_line(error)
                values[metric.name] = math.nan
    return values
