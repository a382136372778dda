from __future__ import annotations

import re
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dlfb_lab.engine import task as tasks
from dlfb_lab.errors import DataError, OptionError


@pytest.mark.parametrize(
    ("y", "kind", "classes"),
    [
        (["b", "a", "b"], "binary", ("a", "b")),
        ([True, False], "binary", ("False", "True")),
        ([0, 1, 1], "binary", ("0", "1")),
        ([0.0, 1.0], "binary", ("0", "1")),
        ([[0], [1]], "binary", ("0", "1")),
        (["a", "b", "c"], "multiclass", ("a", "b", "c")),
        ([0, 1, 2], "multiclass", ("0", "1", "2")),
        ([[1, 0, 0], [0, 0, 1], [0, 1, 0]], "multiclass", ("0", "1", "2")),
        ([[1, 0, 1], [0, 0, 1]], "multilabel", ("0", "1", "2")),
        ([0.5, 1.0], "regression", ()),
        ([0.0, 1.0, 2.0], "regression", ()),
        ([[0.5, 1.0], [2.0, 3.0]], "regression", ()),
        ([[0.5], [1.0]], "regression", ()),
        (list(range(51)), "regression", ()),
        (list(range(50)), "multiclass", tuple(str(i) for i in range(50))),
    ],
)
def test_the_task_is_seen_from_the_targets(y: list[Any], kind: str, classes: tuple[str, ...]) -> None:
    task = tasks.infer(np.asarray(y))
    assert (task.kind, task.classes) == (kind, classes)


@pytest.mark.parametrize(
    ("y", "asked", "outputs"),
    [
        ([0, 1, 1], "regression", 1),
        ([0, 1, 1], "multiclass", 2),
        ([0.0, 1.0, 2.0], "multiclass", 3),
        ([[0, 1], [1, 0]], "multilabel", 2),
        ([[0, 1], [1, 0]], "regression", 2),
        (list(range(60)), "multiclass", 60),
    ],
)
def test_the_user_may_say_otherwise(y: list[Any], asked: str, outputs: int) -> None:
    task = tasks.infer(np.asarray(y), asked)
    assert (task.kind, task.outputs) == (asked, outputs)


def test_a_loss_for_quantities_makes_whole_numbers_quantities() -> None:
    assert tasks.infer(np.array([0, 1, 1]), regression_loss=True).kind == "regression"
    assert tasks.infer(np.array(["a", "b"]), regression_loss=True).kind == "binary"


@pytest.mark.parametrize(
    ("y", "codes"),
    [
        (np.array(["malignant", "benign", "malignant"]), [1, 0, 1]),
        (np.array(["malignant", "benign", "malignant"], object), [1, 0, 1]),
        (np.asarray(pd.Categorical(["m", "b", "m"], categories=["m", "b"])), [1, 0, 1]),
        (np.asarray(pd.array(["x", "y", "x"], dtype="string")), [0, 1, 0]),
        (np.array([True, False, True]), [1, 0, 1]),
        (np.array([[1], [0], [1]]), [1, 0, 1]),
        (np.array([[0, 1], [1, 0], [0, 1]]), [1, 0, 1]),
        (np.array([2, 0, 1, 2], np.uint8), [2, 0, 1, 2]),
    ],
)
def test_classes_are_numbered_in_the_order_of_their_names(y: np.ndarray, codes: list[int]) -> None:
    task = tasks.infer(y)
    encoded = task.encode(y)
    assert encoded.dtype == np.int32
    assert encoded.tolist() == codes
    if task.values:
        assert [task.values[i] for i in encoded] == y.reshape(-1).tolist(), "the user's own values can be given back"


def test_quantities_and_labels_keep_their_shape_as_float32() -> None:
    for y in (np.array([[0.5], [1.5]]), np.array([[1, 0, 1], [0, 0, 1]]), np.array([1.5, 2.5])):
        encoded = tasks.infer(y).encode(y)
        assert (encoded.dtype, encoded.shape) == (np.float32, y.shape)


@pytest.mark.parametrize(
    ("y", "seen", "remedy"),
    [
        ([1, 2, 3, 1], "must be 0 to 2, but y holds 1, 2, 3", "Subtract 1"),
        ([-1, 1, -1], "must be 0 to 1, but y holds -1, 1", "np.unique"),
        ([0, 2, 5], "must be 0 to 2, but y holds 0, 2, 5", "np.unique"),
        ([[3], [4]], "but y holds 3, 4", "Subtract 3"),
    ],
)
def test_integer_classes_outside_their_range_are_refused(y: list[Any], seen: str, remedy: str) -> None:
    with pytest.raises(DataError) as caught:
        tasks.infer(np.array(y))
    assert seen in str(caught.value)
    assert remedy in str(caught.value)
    assert "--task regression" in str(caught.value)


@pytest.mark.parametrize("y", [["a", "a"], [0, 0, 0], [1, 1], [1.0, 1.0], [True, True], [[1, 0, 0], [1, 0, 0]]])
def test_one_class_is_refused(y: list[Any]) -> None:
    with pytest.raises(DataError, match=r"All \d targets are"):
        tasks.infer(np.array(y))


@pytest.mark.parametrize(
    ("y", "asked", "error", "said"),
    [
        ([0, 1], "classification", OptionError, "no such task.*Known: binary, multiclass, multilabel, regression"),
        ([0, 1], "binray", OptionError, "Did you mean `binary`"),
        ([0, 1, 2], "binary", DataError, "--task binary: y holds 3 classes. Say --task multiclass"),
        ([0, 1, 2], "multilabel", DataError, r"must be rows of 0 and 1.*\(3,\)"),
        ([[0.5, 1], [1, 0]], "multiclass", DataError, "not one-hot"),
        (["a", "b"], "regression", DataError, "y holds <U1 values.*'a'"),
        ([0.5, np.nan], None, DataError, "holds NaN or infinity, in 1 of"),
        ([0, np.nan, 1], "binary", DataError, "holds NaN or infinity, in 1 of"),
        ([[0.5, np.inf]], "regression", DataError, "holds NaN or infinity, in 1 of"),
    ],
)
def test_targets_that_do_not_fit_are_refused(y: list[Any], asked: str | None, error: type, said: str) -> None:
    with pytest.raises(error, match=said):
        tasks.infer(np.array(y), asked)


def test_a_missing_class_name_is_no_class() -> None:
    for y in (np.array(["a", None, "b"], object), np.array(["a", np.nan, "b"], object)):
        with pytest.raises(DataError, match="1 of 3 rows have no target"):
            tasks.infer(y)


def test_a_class_unknown_to_training_is_named() -> None:
    task = tasks.infer(np.array(["a", "b"]))
    with pytest.raises(DataError, match=r"the targets holds? the class 'c'; the known classes are a, b"):
        task.encode(np.array(["a", "c"]), "the targets")
    one_hot = tasks.infer(np.eye(3))
    with pytest.raises(DataError, match="one-hot rows of 3 classes are needed"):
        one_hot.encode(np.array([0, 1]))


@pytest.mark.parametrize(
    ("y", "sentence"),
    [
        (["b"] * 63 + ["m"] * 37, "binary classification: b / m, 100 rows, 37 ?% m"),
        (
            [0] * 600 + [1] * 300 + [2] * 300,
            r"multiclass classification: 3 classes \(0, 1, 2\), 1,200 rows, most .* 0 .*50 ?%",
        ),
        ([[1, 0, 1], [0, 0, 0]], "multilabel classification: 3 labels, 2 rows, 1 labels? a row"),
        ([0.5, 1.5], r"regression: 2 rows, targets 0.5 to 1.5, mean 1, standard deviation 0.5"),
        ([[0.5, 1.5]], r"regression: 2 values a row, 1 rows"),
    ],
)
def test_the_task_is_said_in_one_sentence(y: list[Any], sentence: str) -> None:
    y = np.array(y)
    task = tasks.infer(y)
    said = task.describe(task.encode(y))
    assert re.match(sentence, said), said


def test_categories_give_classes_in_their_own_order() -> None:
    y = np.array([3, 1, 2, 1])
    task = tasks.infer(y, categories=(3, 1, 2))
    assert (task.kind, task.classes, task.values) == ("multiclass", ("3", "1", "2"), (3, 1, 2))
    assert task.encode(y).tolist() == [0, 1, 2, 1]
    assert tasks.infer(np.array([1.5, 2.5]), categories=(2.5, 1.5), regression_loss=True).kind == "binary"
    assert tasks.infer(y, "regression", categories=(3, 1, 2)).kind == "regression"


@pytest.mark.parametrize(
    ("y", "later", "said"),
    [
        ([0.5, 1.5], [[1.0, 2.0]], r"later has shape \(1, 2\): 2 numbers a row. .* 1 value a row"),
        ([[0.5, 1.5], [1.0, 2.0]], [1.0], "1 numbers a row. .* 2 values a row"),
        ([[0, 1, 1], [1, 1, 0]], [[1, 0]], "2 numbers a row. .* 3 labels a row"),
        ([[0, 1, 1], [1, 1, 0]], [[1, 0, 2]], "later holds 2; labels are 1"),
        ([[0, 1], [1, 0]], [[1, 1]], "later has rows that are not one-hot"),
        (["a", "b"], [["a", "b"]], r"later has shape \(1, 2\); give one class a row"),
    ],
)
def test_later_targets_must_be_like_those_of_training(y: Any, later: Any, said: str) -> None:
    task = tasks.infer(np.asarray(y))
    with pytest.raises(DataError, match=said):
        task.encode(np.asarray(later), "later")


def test_classes_in_more_than_rows_are_refused() -> None:
    with pytest.raises(DataError, match=r"--task multiclass: y has shape \(2, 2, 2\)"):
        tasks.infer(np.zeros((2, 2, 2), int), "multiclass")
