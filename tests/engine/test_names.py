from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dlfb_lab.engine import losses, metrics, names
from dlfb_lab.engine import task as tasks
from dlfb_lab.errors import OptionError

BINARY = tasks.infer(np.array([0, 1]))


@pytest.mark.parametrize(
    ("function", "target_first", "other"),
    [
        (lambda y_true, y_pred: 0, True, "y_pred"),
        (lambda y_pred, y_true: 0, False, "y_pred"),
        (lambda logits, labels: 0, False, "logits"),
        (lambda labels, logits: 0, True, "logits"),
        (lambda predictions, targets, weight=1: 0, False, "predictions"),
        (lambda y, y_hat: 0, True, "y_hat"),
        (lambda y, p: 0, True, "p"),
        (lambda Y_True, z: 0, True, "z"),
        (lambda a, y_score: 0, True, "y_score"),
        (optax.losses.squared_error, False, "predictions"),
        (optax.losses.softmax_cross_entropy_with_integer_labels, False, "logits"),
    ],
)
def test_the_names_tell_which_argument_is_the_target(function: Any, target_first: bool, other: str) -> None:
    assert names.two_arguments(function, "loss") == (target_first, other)


def test_scikit_learns_own_metrics_are_understood() -> None:
    from sklearn.metrics import f1_score, roc_auc_score

    assert names.two_arguments(f1_score, "metrics") == (True, "y_pred")
    assert names.two_arguments(roc_auc_score, "metrics") == (True, "y_score")


@pytest.mark.parametrize("function", [lambda a, b: 0, lambda y, target: 0, lambda logits, scores: 0])
def test_names_that_do_not_tell_are_refused(function: Any) -> None:
    with pytest.raises(OptionError, match=r"which argument is the target cannot be told\. Name them y_true and y_pred"):
        names.two_arguments(function, "loss")


@pytest.mark.parametrize("function", [lambda y: 0, lambda *all_of_it: 0, lambda *, y_true, y_pred: 0, max])
def test_a_function_of_other_than_two_arguments_is_refused(function: Any) -> None:
    with pytest.raises(OptionError, match="must take two arguments"):
        names.two_arguments(function, "metrics")


@pytest.mark.parametrize("swapped", [False, True])
def test_a_loss_of_the_users_gets_its_arguments_in_its_own_order(swapped: bool) -> None:
    own: Any = (lambda y_pred, y_true: y_pred - 10 * y_true) if swapped else lambda y_true, y_pred: y_pred - 10 * y_true
    loss = losses.choose(own, BINARY, (4,))
    assert loss.own
    assert float(loss.function(jnp.float32(3), jnp.float32(1))) == -7


def test_a_metric_of_the_users_gets_what_it_names() -> None:
    outputs = np.array([[0.0, 2.0], [1.0, 0.0]])
    predictions = metrics.Predictions(np.array([1, 1]), outputs, BINARY, "softmax")
    got: dict[str, Any] = {}

    def about_classes(y_true: Any, y_pred: Any) -> float:
        return got.setdefault("y_pred", y_pred).sum()

    def about_scores(y_score: Any, y_true: Any) -> float:
        return got.setdefault("y_score", y_score).sum()

    def about_logits(labels: Any, logits: Any) -> float:
        got["labels"] = labels
        return got.setdefault("logits", logits).sum()

    chosen = metrics.choose([about_classes, about_scores, about_logits], BINARY)
    scores = metrics.score(chosen, predictions)
    assert list(scores) == ["about_classes", "about_scores", "about_logits"]
    assert all(type(v) is float for v in scores.values())
    assert got["y_pred"].tolist() == [1, 0]
    np.testing.assert_allclose(got["y_score"], np.exp([2, 0]) / (np.exp([2, 0]) + np.exp([0, 1])))
    np.testing.assert_array_equal(got["logits"], outputs)
    np.testing.assert_array_equal(got["labels"], [1, 1])


def test_a_metric_that_returns_no_number_is_refused() -> None:
    def words(y_true: Any, y_pred: Any) -> str:
        return "good"

    predictions = metrics.Predictions(np.array([1, 1]), np.zeros((2, 2)), BINARY, "softmax")
    with pytest.raises(OptionError, match="--metrics words: it must return one number, and returned str"):
        metrics.score(metrics.choose([words], BINARY), predictions)


def test_two_metrics_of_one_name_are_refused() -> None:
    def accuracy(y_true: Any, y_pred: Any) -> float:
        return 0.0

    with pytest.raises(OptionError, match="two metrics are named `accuracy`"):
        metrics.choose(["accuracy", accuracy], BINARY)
    assert len(metrics.choose(["accuracy", "accuracy"], BINARY)) == 1
