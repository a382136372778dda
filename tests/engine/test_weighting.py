from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight

from dlfb_lab.engine import losses
from dlfb_lab.engine import task as tasks
from dlfb_lab.engine.task import Task
from dlfb_lab.engine.weighting import class_weights, weighted
from dlfb_lab.errors import OptionError

RNG = np.random.default_rng(0)
NAMES = np.array(["ape", "bee", "cat"])[RNG.choice(3, size=60, p=[0.7, 0.2, 0.1])]
ANIMALS = tasks.infer(NAMES)
ENCODED = ANIMALS.encode(NAMES)
LABELS = (RNG.random((60, 3)) < [0.1, 0.5, 0.8]).astype(np.float32)
MULTILABEL = Task("multilabel", ("a", "b", "c"), False, 3)
BINARY = tasks.infer(np.array([0, 1]))
OUT = RNG.normal(size=(60, 3)).astype(np.float32)


def test_balanced_is_scikit_learns() -> None:
    weights = class_weights("balanced", ANIMALS, ENCODED)
    assert weights is not None
    assert weights.dtype == np.float32
    np.testing.assert_allclose(weights, compute_class_weight("balanced", classes=np.arange(3), y=ENCODED), rtol=1e-6)


def test_balanced_labels_are_balanced_one_by_one() -> None:
    weights = class_weights("balanced", MULTILABEL, LABELS)
    assert weights is not None
    for label in range(3):
        wanted = compute_class_weight("balanced", classes=np.arange(2), y=LABELS[:, label])
        np.testing.assert_allclose(weights[label], wanted, rtol=1e-6)


@pytest.mark.parametrize(
    ("asked", "given"),
    [
        ({"bee": 3, "cat": 0.5}, [1, 3, 0.5]),
        ({1: 3, np.int64(2): np.float32(0.5)}, [1, 3, 0.5]),
        ([1, 3, 0.5], [1, 3, 0.5]),
        (np.array([1, 3, 0.5]), [1, 3, 0.5]),
        (jnp.array([0, 3, 0.5]), [0, 3, 0.5]),
    ],
)
def test_weights_as_given_have_a_mean_of_1_over_the_training_rows(asked: Any, given: list[float]) -> None:
    weights = class_weights(asked, ANIMALS, ENCODED)
    assert weights is not None
    assert weights[ENCODED].mean() == pytest.approx(1, rel=1e-5)
    np.testing.assert_allclose(weights / weights[1], np.array(given) / 3, rtol=1e-6)


def test_weights_of_labels_are_those_of_the_ones() -> None:
    weights = class_weights({"a": 5}, MULTILABEL, LABELS)
    assert weights is not None
    assert weights.shape == (3, 2)
    np.testing.assert_allclose(weights / weights[0, 0], [[1, 5], [1, 1], [1, 1]], rtol=1e-6)
    chosen = np.where(LABELS == 1, weights[:, 1], weights[:, 0])
    assert chosen.mean() == pytest.approx(1, rel=1e-5)


def test_a_class_without_training_rows_spoils_nothing() -> None:
    some = ENCODED[ENCODED != 1]
    weights = class_weights("balanced", ANIMALS, some)
    assert weights is not None
    assert weights[1] == 1
    np.testing.assert_allclose(
        weights[[0, 2]], compute_class_weight("balanced", classes=np.array([0, 2]), y=some), rtol=1e-6
    )
    ones = np.ones((4, 3), np.float32)
    np.testing.assert_array_equal(np.asarray(class_weights("balanced", MULTILABEL, ones)), 1)


def test_weights_stay_as_given_where_the_rows_are_not_known() -> None:
    np.testing.assert_array_equal(np.asarray(class_weights([1, 3, 0.5], ANIMALS, ENCODED[:0])), [1, 3, 0.5])
    np.testing.assert_array_equal(
        np.asarray(class_weights({"a": 5}, MULTILABEL, np.zeros(0, np.float32))), [[1, 5], [1, 1], [1, 1]]
    )


def test_no_weights_are_none() -> None:
    assert class_weights(None, ANIMALS, ENCODED) is None
    assert class_weights(None, Task("regression", (), False, 1), ENCODED) is None


@pytest.mark.parametrize("width", [2, 1])
def test_each_row_counts_by_its_class(width: int) -> None:
    y = np.array([0, 1, 1, 0, 0], np.int32)
    loss = losses.choose(None, BINARY, (5, width))
    shape = losses.target_shape(BINARY, loss.link, (5, width), y.shape)
    arguments = OUT[:5, :width], y.reshape(shape)
    changed = weighted(loss, np.array([0.5, 2.0]), BINARY)
    values = jax.jit(changed.function)(*arguments)
    np.testing.assert_allclose(values, loss.function(*arguments) * np.where(y, 2.0, 0.5), rtol=1e-6)
    assert (changed.per_row, changed.own, changed.link, changed.name) == (True, False, loss.link, loss.name)


def test_each_label_counts_by_its_own() -> None:
    loss = losses.choose(None, MULTILABEL, OUT.shape)
    weights = class_weights("balanced", MULTILABEL, LABELS)
    assert weights is not None
    values = jax.jit(weighted(loss, weights, MULTILABEL).function)(OUT, LABELS)
    logits = OUT.astype(float)
    each = np.where(LABELS == 1, weights[:, 1] * np.log1p(np.exp(-logits)), weights[:, 0] * np.log1p(np.exp(logits)))
    np.testing.assert_allclose(values, each.mean(axis=1), rtol=1e-5)
    plain = weighted(loss, np.ones((3, 2)), MULTILABEL).function(OUT, LABELS)
    np.testing.assert_allclose(plain, loss.function(OUT, LABELS), rtol=1e-5)


def test_other_weights_are_another_program() -> None:
    loss = losses.choose(None, ANIMALS, OUT.shape)
    made = [weighted(loss, np.array(w), ANIMALS) for w in ([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [1.0, 2.0, 4.0])]
    assert made[0] == made[1]
    assert hash(made[0]) == hash(made[1])
    assert len({loss, *made}) == 3


def test_a_loss_of_the_users_own_is_weighted_row_by_row() -> None:
    def own(y_true: Any, y_pred: Any) -> Any:
        return (jax.nn.one_hot(y_true, 3) - y_pred) ** 2

    loss = losses.choose(own, ANIMALS, OUT.shape)
    changed = weighted(loss, np.array([1.0, 2.0, 3.0]), ANIMALS)
    assert changed.own
    assert not changed.per_row
    np.testing.assert_allclose(
        changed.function(jnp.asarray(OUT), jnp.asarray(ENCODED)),
        loss.function(jnp.asarray(OUT), jnp.asarray(ENCODED)) * np.array([1.0, 2.0, 3.0])[ENCODED][:, None],
        rtol=1e-6,
    )


def test_a_loss_that_gives_no_value_for_each_row_is_refused() -> None:
    loss = losses.choose(lambda y_true, y_pred: (y_pred**2).mean(), ANIMALS, OUT.shape)
    changed = weighted(loss, np.ones(3), ANIMALS)
    with pytest.raises(OptionError, match=r"gives shape \(\) for 60 rows. Let it return one value for each row"):
        jax.eval_shape(changed.function, OUT, ENCODED)
    with pytest.raises(OptionError, match=r"is your own.*Take --loss binary_crossentropy"):
        weighted(losses.choose(lambda y_true, y_pred: y_pred, MULTILABEL, OUT.shape), np.ones((3, 2)), MULTILABEL)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("balance", "--class-weights balance: say balanced, or give the weights, such as {'ape': 2.0}"),
        ({"bea": 1.0}, "there is no class 'bea'. Did you mean `bee`. Known: ape, bee, cat"),
        ({3: 1.0}, "there is no class 3"),
        ([1.0, 2.0], "2 weights for 3 classes, ape, bee, cat"),
        (2.0, "a float is no weights"),
        ([1, -1, 1], "-1 is no weight"),
        ({"ape": "much"}, "'much' is no weight"),
        ([1, float("nan"), 1], "nan is no weight"),
        ([0, 0, 0], "no training row counts"),
    ],
)
def test_what_are_no_weights_is_refused(asked: Any, said: str) -> None:
    with pytest.raises(OptionError, match=said):
        class_weights(asked, ANIMALS, ENCODED)


def test_a_task_without_classes_has_no_weights() -> None:
    with pytest.raises(OptionError, match="--class-weights: the task is regression, which has no classes"):
        class_weights("balanced", Task("regression", (), False, 1), np.ones(3, np.float32))
