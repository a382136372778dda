"""That scores and predictions speak of the same thing as the targets."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

import dlfb_lab
from dlfb_lab import DataError, ModelError
from dlfb_lab.events import Notice

RNG = np.random.default_rng(4)
X = RNG.normal(size=(60, 3)).astype(np.float32)
Y = 2 * X[:, 0] + 1
BINARY = (X[:, 0] > 0).astype(int)


class Net(nn.Module):
    squash: bool = False

    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = nn.Dense(1)(x)
        return nn.sigmoid(x) if self.squash else x


def train(model: Any, data: Any, tmp_path: Any, **options: Any) -> Any:
    return dlfb_lab.train(model, data, batch_size="full", optimizer="adam", lr=0.1, store=tmp_path, **options)


def mean_square(y_true: Any, y_pred: Any) -> float:
    return float(np.mean((y_true - y_pred) ** 2))


def test_a_metric_of_ones_own_is_not_broadcast(tmp_path: Any) -> None:
    run = train(Net(), (X, Y), tmp_path, valid=0.3, epochs=5, metrics=["mse", mean_square])
    history = run.history.dropna()
    np.testing.assert_allclose(history["valid/mse"], history["valid/mean_square"], rtol=1e-6)
    assert run.predict(X).shape == Y.shape
    assert train(Net(), (X, Y[:, None]), tmp_path, epochs=1).predict(X).shape == (60, 1)


def cross_entropy_of_probabilities(y_true: Any, y_pred: Any) -> Any:
    p = jnp.clip(y_pred, 1e-6, 1 - 1e-6)
    return -(y_true * jnp.log(p) + (1 - y_true) * jnp.log(1 - p)).mean()


def test_a_loss_of_ones_own_that_takes_probabilities(tmp_path: Any) -> None:
    options = {"loss": cross_entropy_of_probabilities, "valid": 0.3, "epochs": 300, "metrics": "accuracy,log_loss"}
    run = train(Net(squash=True), (X, BINARY), tmp_path, **options)
    (notice,) = [e.text for e in run.record.events if isinstance(e, Notice)]
    assert "read as probabilities" in notice
    last = run.record.evaluations[-1].metrics
    assert last["accuracy"] > 0.9
    np.testing.assert_allclose(last["log_loss"], last["loss"], rtol=1e-4)
    baseline = run.record.baselines[0].metrics
    np.testing.assert_allclose(baseline["log_loss"], baseline["loss"], rtol=1e-4)
    assert (run.predict(X) == BINARY).mean() > 0.9
    assert run.predict_proba(X)[:, 1].max() > 0.9


def test_a_loss_of_ones_own_that_takes_logits_says_so(tmp_path: Any) -> None:
    def squared(y_true: Any, logits: Any) -> Any:
        return ((y_true - logits) ** 2).mean()

    run = train(Net(), (X, BINARY), tmp_path, loss=squared, epochs=1)
    (notice,) = [e.text for e in run.record.events if isinstance(e, Notice)]
    assert "read as logits" in notice


def test_a_diverged_model_scores_nothing_and_predicts_nothing(tmp_path: Any) -> None:
    options: dict[str, Any] = {"optimizer": "sgd", "lr": 1e30, "on_nan": "warn", "store": tmp_path}
    run = dlfb_lab.train(Net(), (X * 1e20, Y), valid=0.3, epochs=3, metrics="mae,r2", **options)
    last = run.record.evaluations[-1].metrics
    assert np.isnan(last["mae"])
    assert np.isnan(last["r2"])
    with pytest.raises(ModelError, match="NaN or infinity for 60 of 60 rows"):
        run.predict(X)


def test_tokens_stay_whole_numbers(tmp_path: Any) -> None:
    class Tokens(nn.Module):
        @nn.compact
        def __call__(self, x: Any) -> Any:
            return nn.Dense(1)(nn.Embed(5, 4)(x).mean(axis=1))

    tokens = RNG.integers(0, 5, size=(60, 3))
    run = train(Tokens(), (tokens, Y), tmp_path, epochs=1)
    np.testing.assert_array_equal(run.predict(tokens.astype(float)), run.predict(tokens))
    with pytest.raises(DataError, match=r"holds .*whole numbers of type int32"):
        run.predict(tokens + 0.5)


def test_a_single_row_is_told_how(tmp_path: Any) -> None:
    with pytest.raises(DataError, match=r"For a single row give x\[None\]"):
        train(Net(), (X, Y), tmp_path, epochs=1).predict(X[0])
