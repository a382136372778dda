"""Each loss beside its formula, written out in NumPy with float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlfb_lab.engine import losses
from dlfb_lab.engine import task as tasks
from dlfb_lab.engine.task import Task
from dlfb_lab.errors import ModelError, OptionError

RNG = np.random.default_rng(0)
OUT = RNG.normal(size=(7, 3)).astype(np.float32) * 3
NUMBERS = RNG.normal(size=(7, 3)).astype(np.float32) * 3
SHARES = RNG.dirichlet(np.ones(3), size=7).astype(np.float32)
CLASSES = RNG.integers(3, size=7).astype(np.int32)
LABELS = RNG.integers(2, size=(7, 3)).astype(np.float32)

REGRESSION = Task("regression", (), False, 3)
MULTICLASS = tasks.infer(np.arange(3))
BINARY = tasks.infer(np.arange(2))
MULTILABEL = tasks.infer(np.array([[1, 1, 0], [0, 0, 1]]))


def log_softmax(z: np.ndarray) -> np.ndarray:
    return z - np.log(np.exp(z).sum(axis=1, keepdims=True))


def cosine(y: np.ndarray, z: np.ndarray) -> np.ndarray:
    return -(y * z).sum(1) / np.sqrt((y**2).sum(1) * (z**2).sum(1))


def huber(y: np.ndarray, z: np.ndarray) -> np.ndarray:
    error = np.abs(y - z)
    return np.where(error <= 1, error**2 / 2, error - 0.5).mean(1)


def bernoulli(y: np.ndarray, z: np.ndarray) -> np.ndarray:
    return -(y * -np.log1p(np.exp(-z)) + (1 - y) * -np.log1p(np.exp(z)))


Formula = Callable[[np.ndarray, np.ndarray], np.ndarray]


@pytest.mark.parametrize(
    ("names", "task", "targets", "formula"),
    [
        (("mse", "mean_squared_error", None), REGRESSION, NUMBERS, lambda y, z: ((y - z) ** 2).mean(1)),
        (("mae", "mean_absolute_error"), REGRESSION, NUMBERS, lambda y, z: np.abs(y - z).mean(1)),
        (("huber",), REGRESSION, NUMBERS, huber),
        (
            ("kl_divergence", "kld", "kl_div"),
            REGRESSION,
            SHARES,
            lambda y, z: (y * (np.log(y) - log_softmax(z))).sum(1),
        ),
        (("cosine_similarity",), REGRESSION, NUMBERS, cosine),
        (
            ("cross_entropy", "categorical_crossentropy", "sparse_categorical_crossentropy", "log_loss", None),
            MULTICLASS,
            CLASSES,
            lambda y, z: -log_softmax(z)[np.arange(7), y],
        ),
        (
            ("binary_crossentropy", "bce", "cross_entropy", None),
            MULTILABEL,
            LABELS,
            lambda y, z: bernoulli(y, z).mean(1),
        ),
    ],
)
def test_a_loss_is_its_formula_row_by_row(
    names: tuple[str | None, ...], task: Task, targets: np.ndarray, formula: Formula
) -> None:
    wanted = formula(targets if targets.dtype == np.int32 else targets.astype(float), OUT.astype(float))
    for name in names:
        loss = losses.choose(name, task, OUT.shape)
        assert loss.per_row
        np.testing.assert_allclose(loss.function(jnp.asarray(OUT), jnp.asarray(targets)), wanted, rtol=2e-5, atol=1e-6)


def test_a_binary_task_takes_one_logit_or_two() -> None:
    y = np.array([0, 1, 1, 0, 1, 0, 1], np.int32)
    one = losses.choose(None, BINARY, (7, 1))
    two = losses.choose(None, BINARY, (7, 2))
    assert (one.name, one.link, two.name, two.link) == ("binary_crossentropy", "sigmoid", "cross_entropy", "softmax")
    logits = OUT[:, :1]
    shape = losses.target_shape(BINARY, one.link, logits.shape, y.shape)
    assert shape == (7, 1)
    values = one.function(jnp.asarray(logits), jnp.asarray(y.reshape(shape)))
    np.testing.assert_allclose(values, bernoulli(y[:, None], logits.astype(float))[:, 0], rtol=1e-5)
    both = np.concatenate([np.zeros_like(logits), logits], axis=1)
    np.testing.assert_allclose(two.function(jnp.asarray(both), jnp.asarray(y)), values, rtol=1e-5)


def test_the_mean_squared_error_of_the_books_example() -> None:
    task = Task("regression", (), False, 1)
    y_true, y_pred = np.array([1.1, 0.1, 1.0]), np.array([0.9, 0.2, 1.2])
    with jax.enable_x64(True):
        values = losses.choose("mse", task, (3,)).function(jnp.asarray(y_pred), jnp.asarray(y_true))
        assert float(values.mean()) == 0.030000000000000002


def test_extreme_logits_stay_finite() -> None:
    outputs = jnp.asarray([[1e4, -1e4, 0.0]])
    assert float(losses.softmax_cross_entropy(outputs, jnp.asarray([1]))[0]) == 2e4
    assert np.isfinite(losses.sigmoid_cross_entropy(outputs, jnp.asarray([[0.0, 1.0, 1.0]]))).all()


@pytest.mark.parametrize(
    ("loss", "task", "outputs", "said"),
    [
        ("msee", REGRESSION, (7, 3), "--loss msee: there is no such loss. Did you mean `mse`.*Known: "),
        ("mse", MULTICLASS, (7, 3), "the task is multiclass. Say --task regression, or --loss cross_entropy"),
        ("cross_entropy", REGRESSION, (7, 3), "the task is regression. Say --loss mse"),
        ("binary_crossentropy", MULTICLASS, (7, 3), "the task has 3 classes, one a row. Say --loss cross_entropy"),
        ("sparse_categorical_crossentropy", BINARY, (7, 1), "one number a label. Say --loss binary_crossentropy"),
    ],
)
def test_a_loss_that_does_not_fit_is_refused(loss: str, task: Task, outputs: tuple[int, ...], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        losses.choose(loss, task, outputs)


@pytest.mark.parametrize("loss", [0.3, 3, ["mse"]])
def test_what_is_no_loss_at_all_is_refused(loss: Any) -> None:
    with pytest.raises(OptionError, match="--loss"):
        losses.choose(loss, REGRESSION, (7, 3))


@pytest.mark.parametrize(
    ("task", "link", "outputs", "targets", "shape"),
    [
        (REGRESSION, "identity", (7, 3), (7, 3), (7, 3)),
        (Task("regression", (), False, 1), "identity", (7, 1), (7,), (7, 1)),
        (Task("regression", (), False, 1), "identity", (7,), (7, 1), (7,)),
        (MULTICLASS, "softmax", (7, 3), (7,), (7,)),
        (MULTILABEL, "sigmoid", (7, 3), (7, 3), (7, 3)),
    ],
)
def test_targets_take_the_shape_that_broadcasts_nothing(
    task: Task, link: Any, outputs: tuple[int, ...], targets: tuple[int, ...], shape: tuple[int, ...]
) -> None:
    assert losses.target_shape(task, link, outputs, targets) == shape


@pytest.mark.parametrize(
    ("task", "link", "outputs", "targets", "said"),
    [
        (MULTICLASS, "softmax", (7, 5), (7,), r"shape \[rows, 5\].*need 3 logits a row.*Dense\(3\)"),
        (MULTICLASS, "softmax", (7, 2, 3), (7,), r"shape \[rows, 2, 3\]"),
        (BINARY, "softmax", (7, 3), (7,), r"Dense\(1\) or Dense\(2\)"),
        (REGRESSION, "identity", (7, 2), (7, 3), r"need 3 numbers a row.*Dense\(3\)"),
        (Task("regression", (), False, 1), "identity", (7, 2), (7,), r"need one number a row.*Dense\(1\)"),
        (MULTILABEL, "sigmoid", (7, 2), (7, 3), r"need 3 numbers a row.*Dense\(3\)"),
    ],
)
def test_outputs_that_do_not_fit_are_refused(
    task: Task, link: Any, outputs: tuple[int, ...], targets: tuple[int, ...], said: str
) -> None:
    with pytest.raises(ModelError, match=said):
        losses.target_shape(task, link, outputs, targets)


def test_losses_around_one_function_are_one_to_the_compiler() -> None:
    def own(y_true: Any, y_pred: Any) -> Any:
        return y_pred - y_true

    first, second = (losses.choose(own, REGRESSION, (7, 3)) for _ in range(2))
    assert first == second
    assert hash(first) == hash(second)
    assert first != losses.choose(lambda y_true, y_pred: y_pred - y_true, REGRESSION, (7, 3))
    assert losses.choose("mse", REGRESSION, (7, 3)) != losses.choose("mae", REGRESSION, (7, 3))


def test_an_activation_is_seen_in_the_outputs() -> None:
    z = np.linspace(-3, 3, 12).reshape(4, 3)
    softmax = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    sigmoid = 1 / (1 + np.exp(-z))
    assert losses.predictions_look_squashed(softmax, "softmax") == "softmax"
    assert losses.predictions_look_squashed(sigmoid, "sigmoid") == "sigmoid"
    assert losses.predictions_look_squashed(z, "softmax") is None
    assert losses.predictions_look_squashed(softmax, "identity") is None
    assert losses.predictions_look_squashed(np.full((4, 3), np.nan), "softmax") is None
