from __future__ import annotations

import math
from typing import Any

import jax
import numpy as np
import pytest

from dlfb_lab.engine import losses, metrics
from dlfb_lab.engine import task as tasks
from dlfb_lab.engine.evaluation import Evaluator, Part, baseline_outputs, chunk_rows, chunks
from dlfb_lab.engine.metrics import Predictions
from dlfb_lab.engine.task import Task

RNG = np.random.default_rng(0)
MULTICLASS = tasks.infer(np.arange(3))
BINARY = tasks.infer(np.arange(2))
NUMBER = Task("regression", (), False, 1)


@pytest.mark.parametrize(
    ("rows", "width", "wanted"), [(1, 1, 1), (5, 1, 8), (8, 1, 8), (5000, 1, 1024), (5000, 2**17, 8), (5, 2**30, 1)]
)
def test_a_chunk_is_a_power_of_two_that_fits(rows: int, width: int, wanted: int) -> None:
    x = np.broadcast_to(np.float32(0), (rows, width))
    assert chunk_rows(x, rows) == wanted


@pytest.mark.parametrize("rows", [1, 7, 8, 9, 20])
def test_chunks_hold_every_row_in_order(rows: int) -> None:
    x = {"a": np.arange(rows), "b": np.arange(2 * rows).reshape(rows, 2)}
    pieces = list(chunks(x, 8))
    assert {len(p["a"]) for p in pieces} == {8}, "one shape, one program"
    np.testing.assert_array_equal(np.concatenate([p["a"] for p in pieces])[:rows], x["a"])
    np.testing.assert_array_equal(np.concatenate([p["b"] for p in pieces])[:rows], x["b"])


def evaluator(task: Task, output_shape: tuple[int, ...], target_shape: tuple[int, ...]) -> Evaluator:
    def apply(params: Any, extra: Any, x: Any, rng: jax.Array, train: bool) -> Any:
        assert train is False
        return x @ params, extra

    loss = losses.choose(None, task, output_shape)
    chosen = metrics.choose(None, task)
    return Evaluator(("linear", apply), apply, loss, chosen, task, chunk=8, target_shape=target_shape)


def test_scores_of_a_ragged_part_are_those_of_its_rows_alone() -> None:
    params = RNG.normal(size=(3, 3)).astype(np.float32)
    x, y = RNG.normal(size=(21, 3)).astype(np.float32), RNG.integers(3, size=21).astype(np.int32)
    judge = evaluator(MULTICLASS, (8, 3), ())
    [scores] = judge.scores(params, {}, Part(x, y))
    logits = x.astype(float) @ params
    log_probability = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    assert scores["loss"] == pytest.approx(-log_probability[np.arange(21), y].mean(), rel=1e-5)
    assert scores["accuracy"] == pytest.approx((logits.argmax(1) == y).mean())
    assert [name for name, _ in judge.compile_times] == ["forward pass", "mean loss"]
    judge.compile_times.clear()
    [again] = judge.scores(params, {}, Part(x, y), keep=True)
    assert judge.compile_times == []
    assert [again] == [scores] == judge.scores(params, {}, Part(x, y), keep=True)


def test_what_is_kept_on_the_device_is_told_apart() -> None:
    judge = evaluator(NUMBER, (8, 1), (1,))
    params = np.ones((3, 1), np.float32)
    for part in [Part(np.full((5, 3), i, np.float32), np.zeros(5, np.float32)) for i in range(4)]:
        np.testing.assert_array_equal(judge.outputs(params, {}, part.x, keep=True)[:, 0], part.x.sum(1))


@pytest.mark.parametrize(("link", "shape"), [("softmax", (2,)), ("sigmoid", (1,)), ("sigmoid", ())])
def test_the_majority_class_is_predicted_with_the_training_rows_frequency(link: str, shape: tuple[int, ...]) -> None:
    y = np.array([1] * 30 + [0] * 10, np.int32)
    outputs = baseline_outputs(BINARY, link, y, 5, shape)
    assert outputs.shape == (5, *shape)
    said = Predictions(np.ones(5, int), outputs, BINARY, link)
    assert said.predicted.tolist() == [1] * 5
    np.testing.assert_allclose(said.scores[:, 1], 0.75, rtol=1e-6)


def test_a_class_without_training_rows_has_a_finite_baseline() -> None:
    outputs = baseline_outputs(MULTICLASS, "softmax", np.array([0, 0, 1], np.int32), 2, (3,))
    assert np.isfinite(outputs).all()
    said = Predictions(np.zeros(2, int), outputs, MULTICLASS, "softmax")
    assert said.predicted.tolist() == [0, 0]


def test_labels_have_the_frequency_of_each() -> None:
    y = np.array([[1, 0, 1], [1, 0, 0], [1, 0, 0], [1, 0, 1]], np.float32)
    task = tasks.infer(y)
    said = Predictions(y, baseline_outputs(task, "sigmoid", y, 4, (3,)), task, "sigmoid")
    np.testing.assert_allclose(said.scores[0], [1, 0, 0.5], atol=1e-6)


@pytest.mark.parametrize("shape", [(), (1,), (2,), (2, 2)])
def test_quantities_have_their_mean(shape: tuple[int, ...]) -> None:
    y = RNG.normal(3, size=(50, *shape)).astype(np.float32)
    outputs = baseline_outputs(Task("regression", (), False, math.prod(shape)), "identity", y, 7, shape)
    np.testing.assert_allclose(outputs, np.broadcast_to(y.mean(0), (7, *shape)), rtol=1e-5)


def test_the_baseline_of_a_divergence_is_the_mean_distribution() -> None:
    y = RNG.dirichlet(np.ones(3), size=20).astype(np.float32)
    task = Task("regression", (), False, 3)
    said = Predictions(y[:4], baseline_outputs(task, "softmax", y, 4, (3,)), task, "softmax")
    np.testing.assert_allclose(said.scores[0], y.mean(0), rtol=1e-5)
