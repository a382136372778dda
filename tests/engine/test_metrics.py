"""Each metric beside scikit-learn's, on random and on degenerate predictions."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import scipy.stats
from sklearn import metrics as reference
from sklearn.exceptions import UndefinedMetricWarning

from dlfb_lab.engine import metrics
from dlfb_lab.engine import task as tasks
from dlfb_lab.engine.metrics import METRICS, Predictions
from dlfb_lab.engine.task import Task
from dlfb_lab.errors import OptionError

Case = tuple[np.ndarray, np.ndarray]
BINARY = tasks.infer(np.arange(2))
MULTICLASS = tasks.infer(np.arange(4))
MULTILABEL = tasks.infer(np.array([[1, 1, 0], [0, 0, 1]]))
REGRESSION = Task("regression", (), False, 1)
MACRO = {"zero_division": 0, "average": "macro"}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """scikit-learn warns of what is not defined; that is what is asked for here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UndefinedMetricWarning)
        warnings.simplefilter("ignore", UserWarning)
        yield


def class_cases(classes: int) -> Iterator[Case]:
    rng = np.random.default_rng(classes)
    for rows in (1, 2, 7, 100):
        y = rng.integers(classes, size=rows)
        yield y, rng.normal(size=(rows, classes)) * 4
        yield y, rng.integers(-2, 3, size=(rows, classes)).astype(float)  # ties
        yield y, np.zeros((rows, classes))  # nothing but ties
        yield y, 50.0 * np.eye(classes)[y]  # all right, and certain
        yield y, 800.0 * np.eye(classes)[(y + 1) % classes]  # all wrong, and certain beyond float64
        yield np.full(rows, classes - 1), rng.normal(size=(rows, classes))  # a class alone


def label_cases() -> Iterator[Case]:
    rng = np.random.default_rng(9)
    for rows in (1, 3, 60):
        y = rng.integers(2, size=(rows, 3)).astype(np.float32)
        for logits in (rng.normal(size=(rows, 3)), rng.integers(-2, 3, size=(rows, 3)).astype(float)):
            yield y, logits
            yield np.zeros_like(y), logits
            yield np.ones_like(y), logits
        yield y, np.where(y > 0, 60.0, -60.0)


def number_cases() -> Iterator[Case]:
    rng = np.random.default_rng(5)
    for rows in (2, 3, 100):
        y = rng.normal(size=rows).astype(np.float32)
        yield y, rng.normal(size=rows)
        yield y, y.astype(float)
        yield 1e4 + y, 1e4 + y + 0.1 * rng.normal(size=rows)
        yield y, np.full(rows, 0.5)


def close(ours: float, theirs: float) -> bool:
    return (math.isnan(ours) and math.isnan(theirs)) or math.isclose(ours, theirs, rel_tol=1e-12, abs_tol=1e-12)


def check(p: Predictions, wanted: dict[str, Callable[[], float]]) -> None:
    assert set(wanted) == {name for name, m in METRICS.items() if p.task.kind in m.tasks}, "every name is compared"
    ours = metrics.score([METRICS[name] for name in wanted], p)
    for name, theirs in wanted.items():
        assert close(ours[name], float(theirs())), (name, ours[name], float(theirs()))


def over_classes(scorer: Callable[[np.ndarray, np.ndarray], float], positives: np.ndarray, scores: np.ndarray) -> float:
    """Mean over the columns in which the score is defined."""
    columns = [(positives[:, i], scores[:, i]) for i in range(scores.shape[1])]
    columns = [(p, s) for p, s in columns if p.any() and (scorer is not reference.roc_auc_score or not p.all())]
    return float(np.mean([scorer(p, s) for p, s in columns])) if columns else math.nan


@pytest.mark.parametrize("task", [BINARY, MULTICLASS], ids=["binary", "multiclass"])
def test_scores_of_classes_are_scikit_learns(task: Task) -> None:
    for y, logits in class_cases(task.outputs):
        p = Predictions(y, logits, task, "softmax")
        probability = np.exp(logits - logits.max(1, keepdims=True))
        probability /= probability.sum(1, keepdims=True)
        labels = list(range(task.outputs))
        how = {**MACRO, "average": "binary"} if task is BINARY else {**MACRO, "labels": labels}
        said = p.predicted
        np.testing.assert_array_equal(said, logits.argmax(1))
        one_hot = (np.eye(task.outputs)[y] == 1)[:, 1 if task is BINARY else 0 :]
        scores = probability[:, 1 if task is BINARY else 0 :]
        check(
            p,
            {
                "accuracy": lambda y=y, said=said: reference.accuracy_score(y, said),
                "balanced_accuracy": lambda y=y, said=said: reference.balanced_accuracy_score(y, said),
                "precision": lambda y=y, said=said, how=how: reference.precision_score(y, said, **how),
                "recall": lambda y=y, said=said, how=how: reference.recall_score(y, said, **how),
                "f1": lambda y=y, said=said, how=how: reference.f1_score(y, said, **how),
                "mcc": lambda y=y, said=said: reference.matthews_corrcoef(y, said),
                "auc": lambda o=one_hot, s=scores: over_classes(reference.roc_auc_score, o, s),
                "auprc": lambda o=one_hot, s=scores: over_classes(reference.average_precision_score, o, s),
                "log_loss": lambda y=y, q=probability, labels=labels: reference.log_loss(y, q, labels=labels),
            },
        )


def test_one_logit_scores_as_two_do() -> None:
    chosen = metrics.choose(list(metrics.METRICS)[:9], BINARY)
    for y, logits in class_cases(2):
        one = logits[:, 1:] - logits[:, :1]
        for shape in ((-1, 1), (-1,)):
            scores = metrics.score(chosen, Predictions(y, one.reshape(shape), BINARY, "sigmoid"))
            both = metrics.score(chosen, Predictions(y, np.hstack([np.zeros_like(one), one]), BINARY, "softmax"))
            for name in scores:
                assert math.isclose(scores[name], both[name], rel_tol=1e-9, abs_tol=1e-9) or (
                    math.isnan(scores[name]) and math.isnan(both[name])
                ), name


def test_scores_of_labels_are_scikit_learns() -> None:
    for y, logits in label_cases():
        p = Predictions(y, logits, MULTILABEL, "sigmoid")
        probability = 1 / (1 + np.exp(-logits))
        said = (probability > 0.5).astype(int)
        check(
            p,
            {
                "accuracy": lambda y=y, said=said: 1 - reference.hamming_loss(y, said),
                "precision": lambda y=y, said=said: reference.precision_score(y, said, **MACRO),
                "recall": lambda y=y, said=said: reference.recall_score(y, said, **MACRO),
                "f1": lambda y=y, said=said: reference.f1_score(y, said, **MACRO),
                "auc": lambda y=y, q=probability: over_classes(reference.roc_auc_score, y > 0, q),
                "auprc": lambda y=y, q=probability: over_classes(reference.average_precision_score, y > 0, q),
                "log_loss": lambda y=y, q=probability: float(
                    np.mean([reference.log_loss(y[:, i], q[:, i], labels=[0, 1]) for i in range(3)])
                ),
            },
        )


def correlation(y: np.ndarray, said: np.ndarray) -> float:
    return math.nan if np.ptp(said) == 0 else float(scipy.stats.pearsonr(y.astype(float), said).statistic)


def test_scores_of_quantities_are_scikit_learns() -> None:
    for y, said in number_cases():
        for shape in ((-1,), (-1, 1)):
            check(
                Predictions(y.reshape(shape), said.reshape(shape), REGRESSION, "identity"),
                {
                    "mse": lambda y=y, said=said: reference.mean_squared_error(y, said),
                    "rmse": lambda y=y, said=said: reference.root_mean_squared_error(y, said),
                    "mae": lambda y=y, said=said: reference.mean_absolute_error(y, said),
                    "r2": lambda y=y, said=said: reference.r2_score(y, said),
                    "pearson": lambda y=y, said=said: correlation(y, said),
                },
            )


def test_several_quantities_are_averaged() -> None:
    rng = np.random.default_rng(0)
    y, said = rng.normal(size=(50, 3)) * [1, 5, 0.1], rng.normal(size=(50, 3))
    p = Predictions(y, said, Task("regression", (), False, 3), "identity")
    scores = metrics.score([METRICS[n] for n in ("mse", "mae", "r2", "pearson")], p)
    assert close(scores["mse"], reference.mean_squared_error(y, said))
    assert close(scores["mae"], reference.mean_absolute_error(y, said))
    assert close(scores["r2"], reference.r2_score(y, said))
    assert close(scores["pearson"], np.mean([correlation(y[:, i], said[:, i]) for i in range(3)]))


def test_what_is_not_defined_is_nan() -> None:
    constant = Predictions(np.full(3, 0.1, np.float32), np.arange(3.0), REGRESSION, "identity")
    assert math.isnan(metrics.r_squared(constant))
    assert math.isnan(metrics.pearson(constant))
    alone = Predictions(np.ones(3, int), np.zeros((3, 2)), BINARY, "softmax")
    assert math.isnan(metrics.area_under_roc(alone))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_diverged_model_is_scored_without_an_error(bad: float) -> None:
    for task, link, y, shape in (
        (BINARY, "softmax", np.array([0, 1, 1]), (3, 2)),
        (BINARY, "sigmoid", np.array([0, 1, 1]), (3, 1)),
        (MULTILABEL, "sigmoid", np.eye(3), (3, 3)),
        (REGRESSION, "identity", np.arange(3.0), (3, 1)),
    ):
        chosen = [m for m in METRICS.values() if task.kind in m.tasks]
        scores = metrics.score(chosen, Predictions(y, np.full(shape, bad), task, link))
        assert list(scores) == [m.name for m in chosen]
        assert all(type(v) is float for v in scores.values())


def test_other_names_for_a_metric_are_kept_as_column_names() -> None:
    for alias, name in metrics.ALIASES.items():
        task = BINARY if "binary" in METRICS[name].tasks else REGRESSION
        (chosen,) = metrics.choose([alias], task)
        assert chosen.name == alias
        assert chosen.function is METRICS[name].function


@pytest.mark.parametrize(
    ("name", "task", "said"),
    [
        ("acuracy", BINARY, "--metrics acuracy: there is no such metric. Did you mean `accuracy`.*Known for binary: "),
        ("r2", BINARY, "--metrics r2: it is for regression; the task is binary"),
        ("auc", REGRESSION, "--metrics auc: it is for binary and multiclass and multilabel; the task is regression"),
        (0.9, BINARY, "--metrics 0.9: a float is no metric"),
    ],
)
def test_a_metric_that_does_not_fit_is_refused(name: object, task: Task, said: str) -> None:
    with pytest.raises(OptionError, match=said):
        metrics.choose([name], task)  # type: ignore[list-item]
