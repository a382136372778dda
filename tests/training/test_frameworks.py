"""One small problem in four frameworks: the same losses from the same start, whoever computes the steps."""

from __future__ import annotations

import importlib.util
from functools import cache
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.io import capture_output
from traitlets.config import Config

import dlfb_lab
from dlfb_lab.run import Run
from tests.clouds import RATE, STEPS, clouds, expected_losses, in_keras, torch_model, weights

FULL: dict[str, Any] = {"batch_size": "full", "epochs": STEPS}
PLAIN: dict[str, Any] = {**FULL, "loss": "mse", "optimizer": "sgd", "lr": RATE}


def check(run: Run) -> None:
    np.testing.assert_allclose(run.history["train/loss"].dropna(), expected_losses(), atol=1e-5)
    assert run.status == "finished"
    assert run.history["train/loss"].dropna().iloc[-1] == pytest.approx(0.025, abs=0.01)


def test_flax() -> None:
    params = {"params": {"kernel": jnp.asarray(weights()), "bias": jnp.zeros(1)}}
    run = dlfb_lab.train((nn.Dense(1).apply, params), clouds(), **PLAIN)
    check(run)
    assert ((run.predict(clouds()[0]) > 0.5) == (clouds()[1] == 1)).mean() > 0.95


def test_a_step_of_ones_own_in_numpy_for_no_framework_at_all() -> None:
    state = {"w": weights().astype(np.float64), "b": np.zeros(1)}

    def step(x: Any, y: Any) -> Any:
        error = x @ state["w"] + state["b"] - y
        state["w"] = state["w"] - RATE * 2 * x.T @ error / len(x)
        state["b"] = state["b"] - RATE * 2 * error.mean()
        return (error**2).mean()

    check(dlfb_lab.train(clouds(), step=step, **FULL))


@pytest.mark.guests("torch")
def test_torch() -> None:
    torch: Any = pytest.importorskip("torch")
    for options in ({}, {"optimizer": torch.optim.SGD}, {"loss": torch.nn.MSELoss()}):
        model = torch_model()
        run = dlfb_lab.train(model, clouds(), **{**PLAIN, **options})
        check(run)
        assert run.state is model
        assert ((run.predict(clouds()[0]) > 0.5) == (clouds()[1] == 1)).mean() > 0.95


@pytest.mark.guests("torch")
def test_a_step_of_ones_own_in_torch() -> None:
    torch: Any = pytest.importorskip("torch")
    model = torch_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)

    def step(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    check(dlfb_lab.train(clouds(), step=step, **FULL))


CODE = """
import dlfb_lab, tempfile
from tests.clouds import RATE, STEPS, clouds, keras_model
store = tempfile.mkdtemp()
full = dict(batch_size="full", epochs=STEPS, store=store)
losses = lambda run: [float(v) for v in run.history["train/loss"].dropna()]
found = {}
plain, compiled = keras_model(), keras_model()
run = dlfb_lab.train(plain, clouds(), loss="mse", optimizer="sgd", lr=RATE, **full)
found["plain"] = losses(run)
found["right"] = float(((np.asarray(run.predict(clouds()[0])) > 0.5) == (clouds()[1] == 1)).mean())
compiled.compile(optimizer=keras.optimizers.SGD(RATE), loss="mse", metrics=["mae"])
run = dlfb_lab.train(compiled, clouds(), valid=clouds(), **full)
found["compiled"] = losses(run)
found["columns"] = list(run.history.columns)
found["last"] = float(run.history["valid/mae"].dropna().iloc[-1])
found["its own"] = float(np.abs(compiled.predict(clouds()[0], verbose=0) - clouds()[1]).mean())
found["keras"] = sorted(run.keras_history)
if keras.config.backend() == "tensorflow":
    import tensorflow as tf
    from tests.clouds import weights
    w, b = tf.Variable(weights()), tf.Variable([0.0])

    @tf.function(jit_compile=True)
    def step(x, y):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((tf.matmul(x, w) + b - y) ** 2)
        for variable, gradient in zip((w, b), tape.gradient(loss, (w, b))):
            variable.assign_sub(RATE * gradient)
        return loss

    found["tape"] = losses(dlfb_lab.train(clouds(), step=step, **full))
answer(found)
"""


@cache
def in_a_kernel_with(backend: str) -> Any:
    return in_keras(backend, CODE)


@pytest.mark.guests("keras")
@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch", "tensorflow"])
def test_keras(backend: str) -> None:
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"no {backend}")
    found = in_a_kernel_with(backend)
    for name in ("plain", "compiled"):
        np.testing.assert_allclose(found[name], expected_losses(), atol=1e-5)
    assert found["right"] > 0.95
    assert {"train/loss", "train/mae", "valid/loss", "valid/mae"} <= set(found["columns"])
    assert found["last"] == pytest.approx(found["its own"], abs=1e-5)
    assert {"loss", "mae", "val_loss", "val_mae"} <= set(found["keras"])


@pytest.mark.guests("keras", "tensorflow")
@pytest.mark.slow
def test_a_step_of_ones_own_in_tensorflow() -> None:
    np.testing.assert_allclose(in_a_kernel_with("tensorflow")["tape"], expected_losses(), atol=1e-5)


CELLS = (
    "import torch, optax, jax.numpy as jnp\nfrom tests.clouds import clouds, torch_model, weights\n"
    "x, y = clouds()\nmodel = torch_model()\n"
    "apply = lambda params, x: x @ params['w'] + params['b']\n"
    "params = {'w': jnp.asarray(weights()), 'b': jnp.zeros(1)}",
    "a = %dlfb_train model (x, y) --loss mse --optimizer sgd --lr 0.1 --batch-size full --epochs 40",
    "b = %dlfb_train (apply, params) (x, y) --loss mse --optimizer sgd --lr 0.1 --batch-size full --epochs 40",
    "def step(state, batch):\n"
    "    x, y = batch\n"
    "    loss, g = __import__('jax').value_and_grad(lambda p: ((apply(p, x) - y) ** 2).mean())(state)\n"
    "    return {k: state[k] - 0.1 * g[k] for k in state}, loss",
    "c = %dlfb_train (x, y) --step step --state params --batch-size full --epochs 40",
    "w = weights()\n"
    "def own(x, y):\n"
    "    global w, b0\n"
    "    error = x @ w + b0 - y\n"
    "    w, b0 = w - 0.2 * x.T @ error / len(x), b0 - 0.2 * error.mean()\n"
    "    return (error ** 2).mean()\n"
    "b0 = 0.0",
    "%%dlfb_train (x, y) --step own --batch-size full --epochs 40 --into d\n# nothing to prepare",
)


@pytest.mark.guests("torch")
def test_a_notebook_trains_in_each(tmp_path: Any) -> None:
    pytest.importorskip("torch")
    config = Config({"HistoryManager": {"enabled": False}})
    shell = InteractiveShell.instance(config=config, ipython_dir=str(tmp_path))
    shell.run_line_magic("load_ext", "dlfb_lab")
    try:
        for cell in CELLS:
            with capture_output() as said:
                result = shell.run_cell(cell, store_history=False)
            assert result.success, said.stdout + said.stderr
        for name in "abcd":
            check(shell.user_ns[name])
        assert shell.user_ns["d"].record.started.source.startswith("%%dlfb_train (x, y) --step own")
    finally:
        InteractiveShell.clear_instance()
