"""Steps that keep their state to themselves, by any framework."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from dlfb_lab.errors import ModelError, OptionError
from dlfb_lab.models.holders import holders
from dlfb_lab.models.host import HostStep

RNG = np.random.default_rng(0)
X = RNG.normal(size=(32, 2)).astype(np.float32)
Y = (X @ np.array([[1.0], [-1.0]], np.float32)).astype(np.float32)


def stepping() -> Any:
    weights = np.zeros((2, 1), np.float32)

    def step(x: Any, y: Any, rate: float = 0.1) -> Any:
        nonlocal weights
        error = x @ weights - y
        weights = weights - rate * 2 * x.T @ error / len(x)
        return (error**2).mean(), {"weights": weights, "largest": abs(weights).max()}

    return step


def test_a_closure_over_its_state_trains() -> None:
    own = HostStep(stepping(), lambda x, y: {"rows": len(x), "valid_loss": 0.5}, {"rate": 0.3})
    history = [own.step((X, Y)) for _ in range(20)]
    assert list(history[0]) == ["loss", "largest"] and all(type(v) is float for v in history[0].values())
    assert history[-1]["loss"] < 0.01 * history[0]["loss"]
    assert own.evaluates and own.evaluate((X[:5], Y[:5])) == {"loss": 0.5, "rows": 5.0}
    assert (own.kind, own.name, own.parameter_count, own.versions) == ("own step", "step", 0, {})
    assert callable(own.finish())


def test_what_cannot_be_done_is_said() -> None:
    own = HostStep(stepping())
    with pytest.raises(OptionError, match=r"--step `step` cannot be kept .*--state"):
        own.keep()
    with pytest.raises(OptionError, match="not how to predict"):
        own.outputs(X)
    with pytest.raises(OptionError, match="--eval-step"):
        own.evaluate((X, Y))
    with pytest.raises(OptionError, match="takes no argument `rat`"):
        HostStep(stepping(), arguments={"rat": 1})


@pytest.mark.parametrize(
    ("step", "batch", "message"),
    [
        (lambda x, y: None, (X, Y), r"returned a NoneType|returned nothing"),
        (lambda batch: {"accuracy": 1.0}, (X, Y), "none of them is a loss"),
        (lambda batch: batch[0], (X, Y), r"shape \(32, 2\) where the loss belongs"),
        (lambda batch: batch["x"], (X, Y), r"--step `step` failed\. TypeError"),
        (lambda x, y, key: 0.0, (X, Y), "takes x, y, key, and a batch is a tuple of 2"),
    ],
)
def test_a_step_that_returns_something_else_is_told_so(step: Any, batch: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        HostStep(step).step(batch)


@pytest.mark.guests("torch")
def test_a_torch_closure_trains_and_can_be_kept_and_restored() -> None:
    torch: Any = pytest.importorskip("torch")
    torch.manual_seed(0)
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)

    def step(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        loss = ((model(x) - y) ** 2).mean()
        loss.backward()
        optimizer.step()
        return {"total_loss": loss, "mae": (model(x) - y).abs().mean(), "outputs": model(x)}

    own = HostStep(step, lambda x, y: ((model(torch.as_tensor(x)) - torch.as_tensor(y)) ** 2).mean())
    assert own.parameter_count == 3 and own.versions == {"torch": torch.__version__}
    first = [own.step((X, Y)) for _ in range(3)]
    kept = own.keep()
    ahead = [own.step((X, Y)) for _ in range(5)]
    assert list(first[0]) == ["loss", "mae"] and ahead[-1]["loss"] < first[0]["loss"]
    assert own.evaluate((X, Y))["loss"] < ahead[-1]["loss"]
    for _ in range(2):  # restoring leaves what was kept as it is
        own.restore(kept)
        assert [own.step((X, Y)) for _ in range(5)] == ahead
    assert own.finish() == {"optimizer": optimizer, "model": model}


@pytest.mark.guests("torch")
def test_a_torch_step_that_converts_by_itself_gets_numpy_arrays() -> None:
    torch: Any = pytest.importorskip("torch")
    weight = torch.zeros((2, 1), requires_grad=True)

    def step(x: Any, y: Any) -> Any:
        assert isinstance(x, np.ndarray)
        loss = ((torch.from_numpy(x) @ weight - torch.from_numpy(y)) ** 2).mean()
        (gradient,) = torch.autograd.grad(loss, [weight])
        with torch.no_grad():
            weight.sub_(0.1 * gradient)
        return loss

    own = HostStep(step)
    kept = own.keep()
    before = [own.step((X, Y))["loss"] for _ in range(3)]
    own.restore(kept)
    assert [own.step((X, Y))["loss"] for _ in range(3)] == before
    assert own.parameter_count == 2 and own.finish() is weight


@pytest.mark.guests("torch")
def test_an_error_after_the_first_step_is_not_tried_again() -> None:
    torch: Any = pytest.importorskip("torch")
    model = torch.nn.Linear(2, 1)
    calls = []

    def step(x: Any, y: Any) -> Any:
        calls.append(type(x))
        if len(calls) == 2:
            raise TypeError("broken")
        return model(torch.as_tensor(x)).mean()

    own = HostStep(step)
    own.step((X, Y))
    with pytest.raises(ModelError, match="TypeError: broken"):
        own.step((X, Y))
    assert calls == [np.ndarray, np.ndarray]


@pytest.mark.guests("tensorflow")
def test_a_tensorflow_step_trains_and_can_be_kept_and_restored() -> None:
    tf: Any = pytest.importorskip("tensorflow")
    w, b = tf.Variable(tf.zeros((2, 1))), tf.Variable(0.5)
    steps = tf.Variable(0, trainable=False)

    def updated(x: Any, y: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((tf.matmul(x, w) + b - y) ** 2)
        for variable, gradient in zip((w, b), tape.gradient(loss, (w, b)), strict=True):
            variable.assign_sub(0.1 * gradient)
        steps.assign_add(1)
        return loss

    @tf.function(jit_compile=True)
    def step(x: Any, y: Any) -> Any:
        return updated(x, y), {"steps": steps}

    own = HostStep(step)
    assert own.parameter_count == 3 and own.versions == {"tensorflow": tf.__version__}
    weights = np.zeros((2, 1), np.float32)
    bias, expected = 0.5, []
    for _ in range(10):
        error = X @ weights + bias - Y
        expected.append((error**2).mean())
        weights, bias = weights - 0.2 * X.T @ error / len(X), bias - 0.2 * error.mean()
    kept = own.keep()
    history = [own.step((X, Y)) for _ in range(10)]
    np.testing.assert_allclose([values["loss"] for values in history], expected, rtol=1e-5, atol=1e-6)
    assert history[-1]["steps"] == 10
    own.restore(kept)
    assert own.step((X, Y)) == history[0]
    found = own.finish()
    assert found["w"] is w and found["b"] is b and found["steps"] is steps


@pytest.mark.guests("tensorflow")
def test_modules_in_arguments_partials_and_objects_are_found() -> None:
    tf: Any = pytest.importorskip("tensorflow")

    class Module(tf.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            self.w = tf.Variable([1.0, 2.0])

    class Trainer:
        def __init__(self) -> None:
            self.parts = {"net": Module()}

        def step(self, batch: Any) -> Any:
            return self.parts["net"].w

    trainer = Trainer()
    assert list(holders(trainer.step, {})) == ["net"]
    assert list(holders(lambda batch: 0.0, {"net": Module()})) == ["net"]
    assert list(holders(functools.partial(lambda net, batch: 0.0, net=Module()), {})) == ["net"]
    holder = holders(trainer.step, {})["net"]
    kept = holder.keep()
    trainer.parts["net"].w.assign([5.0, 6.0])
    holder.restore(kept)
    np.testing.assert_array_equal(trainer.parts["net"].w.numpy(), [1.0, 2.0])


KERAS = """
import numpy as np, tensorflow as tf, keras
from dlfb_lab.models.host import HostStep
X = np.random.default_rng(0).normal(size=(32, 2)).astype("float32"); Y = X[:, :1]
model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
optimizer = keras.optimizers.Adam(0.1)
optimizer.build(model.trainable_variables)

@tf.function
def step(x, y):
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean((model(x) - y) ** 2)
    optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
    return loss

own = HostStep(step)
assert sorted(own.held) == ["model", "optimizer"], own.held
assert own.parameter_count == 3 and own.versions == {"keras": keras.__version__}
kept = own.keep()
first = [own.step((X, Y)) for _ in range(3)]
own.restore(kept)
assert [own.step((X, Y)) for _ in range(3)] == first
assert first[2] != first[0]
"""


@pytest.mark.guests("keras", "tensorflow")
def test_a_keras_model_and_optimizer_are_found() -> None:
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run([sys.executable, "-c", KERAS], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
