"""From what the user gave to an experiment: what is refused, what is said aloud, what reaches the engine."""

from __future__ import annotations

import json
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import pandas as pd
import pytest

from dlfb_lab.assemble import TrainRequest, session
from dlfb_lab.errors import DataError, OptionError
from dlfb_lab.events import Evaluation, to_json
from dlfb_lab.run import Session

RNG = np.random.default_rng(0)
X = RNG.normal(size=(20, 2)).astype(np.float32)
Y = X[:, 0]


class Net(nn.Module):
    outputs: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Dense(self.outputs)(x)


def assembled(data: Any, outputs: int = 1, **options: Any) -> Session:
    return session(TrainRequest(model=Net(outputs), data=data, **options))[0]


def said(ready: Session, level: str) -> list[str]:
    return [text for its, text in ready.experiment.notices if its == level]


def test_a_small_spread_about_a_large_number_is_scaled_not_lost() -> None:
    x = 1e8 + RNG.normal(size=(20, 2))
    ready = assembled((x, Y), scale=True, valid=0.2)
    for part in ready.parts.values():
        assert isinstance(part.x, np.ndarray)
        assert part.x.dtype == np.float32
        assert part.x.std() > 0.3
    assert ready.read((x, Y)).x.std() == pytest.approx(1, abs=0.3)


def test_a_column_that_32_bits_flatten_is_warned_of_unless_scaled() -> None:
    table = pd.DataFrame({"mass": 1e9 + RNG.normal(size=20), "age": X[:, 1], "y": Y})
    (warning,) = said(assembled(table, target="y"), "warning")
    assert "`mass`" in warning
    assert "--scale" in warning
    assert not said(assembled(table, target="y", scale=True), "warning")


def test_whole_numbers_are_scaled_in_a_dict_too() -> None:
    counts = RNG.integers(0, 1000, size=(20, 2))
    ready = assembled((counts, Y), scale=True)
    assert isinstance(ready.parts["train"].x, np.ndarray)
    np.testing.assert_allclose(ready.parts["train"].x.std(axis=0), 1, rtol=1e-5)


TABLE = pd.DataFrame(X, columns=["a", "b"])


def test_rows_are_matched_by_their_labels_and_it_is_said() -> None:
    y = pd.Series(Y)
    ready = assembled((TABLE, y.sample(frac=1, random_state=0)))
    np.testing.assert_array_equal(ready.parts["train"].y, Y)
    (notice,) = said(ready, "info")
    assert "y were put in the order of x" in notice


def test_a_giant_group_in_a_small_part_is_warned_of() -> None:
    groups = np.repeat(["big", "other"], [12, 8])
    (warning,) = said(assembled((X, Y), valid=0.1, groups=groups), "warning")
    for part in ("valid", "40 %", "10 %", "12 of 20 rows"):
        assert part in warning
    assert not said(assembled((X, Y), valid=0.1, groups=np.arange(20)), "warning")


def test_the_group_column_of_a_given_pair_is_no_feature_and_is_checked() -> None:
    train = TABLE.assign(patient=["p1", "p2"] * 10)
    ready = assembled((train, Y), groups="patient", valid=(TABLE.assign(patient="p3"), Y))
    assert ready.feature_names == ["a", "b"]
    assert ready.parts["valid"].x.shape == (20, 2)  # type: ignore[union-attr]
    with pytest.raises(DataError, match="group 'p1' is in the train part and in the valid part"):
        assembled((train, Y), groups="patient", valid=(train, Y))
    assert len(assembled((train, Y), groups="patient", valid=(TABLE, Y)).parts["valid"]) == 20
    arrays = {"a": X, "b": X, "patient": train["patient"]}
    with pytest.raises(DataError, match="group 'p1' is in the train part and in the valid part"):
        assembled((arrays, Y), groups="patient", valid=(arrays, Y))
    with pytest.raises(OptionError, match="--valid: --target y: there is no such column"):
        assembled(TABLE.assign(y=Y), target="y", valid=TABLE)


ORDERED = pd.Series(["mid", "low", "high", "low"] * 5, dtype=pd.CategoricalDtype(["low", "mid", "high", "none"], True))


def test_categories_keep_their_order_in_every_form() -> None:
    for data, target in (
        ((TABLE, ORDERED), None),
        ((X, pd.Categorical(ORDERED)), None),
        ({"x": X, "y": ORDERED}, None),
        (TABLE.assign(y=ORDERED), "y"),
    ):
        ready = assembled(data, 3, target=target)
        assert ready.experiment.task.classes == ("low", "mid", "high")
        assert ready.parts["train"].y.tolist() == [1, 0, 2, 0] * 5


def test_the_second_category_is_the_positive_class() -> None:
    y = pd.Series(pd.Categorical(["sick", "healthy"] * 10, categories=["sick", "healthy"]))
    task = assembled((X, y)).experiment.task
    assert (task.kind, task.classes) == ("binary", ("sick", "healthy"))


def test_numbers_that_are_categories_are_classes() -> None:
    grades = pd.Series([3, 1, 2, 1] * 5, dtype=pd.CategoricalDtype([3, 2, 1]))
    ready = assembled((X, grades), 3)
    assert ready.experiment.task.classes == ("3", "2", "1")
    assert ready.parts["train"].y.tolist() == [0, 2, 1, 2] * 5
    assert ready.read((X, np.array([1, 2, 3, 1] * 5))).y.tolist() == [2, 1, 0, 2] * 5
    assert assembled((X, (grades.astype(float) / 2).astype("category")), 3).experiment.task.classes == (
        "0.5",
        "1",
        "1.5",
    )


LABELS = pd.DataFrame({"nucleus": [0, 1] * 10, "membrane": [1, 1] * 10})


def test_the_columns_of_the_targets_name_the_labels() -> None:
    ready = assembled((X, LABELS), 2)
    assert ready.experiment.task.classes == ("nucleus", "membrane")
    turned = ready.read((X, LABELS[["membrane", "nucleus"]]))
    np.testing.assert_array_equal(turned.y, LABELS)
    with pytest.raises(DataError, match="target columns other, nucleus; the training data have nucleus, membrane"):
        ready.read((X, LABELS.set_axis(["other", "nucleus"], axis="columns")))
    one_hot = pd.DataFrame({"dog": [1, 0] * 10, "cat": [0, 1] * 10})
    task = assembled((X, one_hot), 2).experiment.task
    assert (task.kind, task.classes, task.values) == ("multiclass", ("dog", "cat"), ("dog", "cat"))
    assert assembled((X, pd.DataFrame({"y": Y}))).parts["train"].y.shape == (20,)


@pytest.mark.parametrize(
    ("y", "other", "match"),
    [
        (Y, np.stack([Y, Y], axis=1), r"--valid|valid part has shape \(20, 2\)"),
        (LABELS.to_numpy(), LABELS.to_numpy()[:, :1], r"shape \(20, 1\).*2 labels a row"),
        (LABELS.to_numpy(), LABELS.to_numpy() * 0.5, "holds 0.5; labels are 1 where"),
    ],
)
def test_targets_of_a_given_set_must_be_like_those_of_training(y: Any, other: Any, match: str) -> None:
    with pytest.raises(DataError, match=match):
        assembled((X, y), 1 if y is Y else 2, valid=(X, other))
    ready = assembled((X, y), 1 if y is Y else 2)
    with pytest.raises(DataError, match="the targets"):
        ready.read((X, other))


def test_names_may_be_numbers() -> None:
    table = pd.DataFrame(np.column_stack([X, Y, np.arange(20)]))
    ready = assembled(table, target=2, groups=3, name=7, valid=0.2)
    assert ready.feature_names == ["0", "1"]
    assert (ready.experiment.name, ready.experiment.settings["target"]) == ("7", "2")
    assert len(assembled({0: X, 1: Y}, target=1).parts["train"]) == 20
    assert assembled((table[[0, 1, 3]], Y), groups=3).feature_names == ["0", "1"]


def test_switches_may_be_numpys() -> None:
    yes = np.bool_(True)
    ready = assembled((X, Y), scale=yes, debug=yes, background=yes)
    for switch in ("scale", "debug", "background"):
        assert ready.experiment.settings[switch] is True
    assert ready.experiment.debug is True
    event = Evaluation(step=1, split="valid", metrics={"right": yes}, rows=1, duration_s=0.0)
    assert json.loads(json.dumps(to_json(event)))["metrics"] == {"right": True}


@pytest.mark.parametrize(
    ("y", "match"),
    [
        (np.tile([0.5, 0.7], (20, 1)), "--loss kl_divergence: the targets.* sums to 1.2, not to 1"),
        (np.tile([-0.5, 1.5], (20, 1)), "hold -0.5"),
    ],
)
def test_targets_of_kl_divergence_must_be_probabilities(y: np.ndarray, match: str) -> None:
    with pytest.raises(DataError, match=match):
        assembled((X, y), 2, loss="kl_divergence")
    right = np.tile(np.float32([0.3, 0.7]), (20, 1))
    ready = assembled((X, right), 2, loss="kl_div")
    with pytest.raises(DataError, match="--loss kl_div: the targets"):
        ready.read((X, y))
