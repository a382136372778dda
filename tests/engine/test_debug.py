"""Steps without jit: the model's own Python runs at every step, with values."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import pytest

import dlfb_lab
from dlfb_lab.errors import ModelError
from dlfb_lab.events import Losses

X = np.random.default_rng(0).normal(size=(10, 2)).astype(np.float32)
Y = X[:, 0]
SEEN: list[int] = []


def micro(value: jax.Array) -> int:
    """Makes a Python number of a value. JAX allows it to `int` and `bool` while it differentiates, not to `float`."""
    return int(1e6 * value)


class Looks(nn.Module):
    """Looks at a value, as print and pdb do."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        hidden = nn.Dense(1)(x)
        SEEN.append(micro(hidden.mean()))
        return hidden


def looks_too(y_true: jax.Array, y_pred: jax.Array) -> jax.Array:
    error = (y_true - y_pred) ** 2
    SEEN.append(micro(error.mean()))
    return error[:, 0]


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DLFB_STORE", str(tmp_path))
    SEEN.clear()


def test_values_can_be_seen_in_model_and_loss() -> None:
    run = dlfb_lab.train(Looks(), (X, Y), loss=looks_too, epochs=1, batch_size=4, valid=0.2, debug=True)
    losses = run.history["train/loss"].dropna().tolist()
    assert len(losses) == 2
    for loss in losses:
        assert any(seen == pytest.approx(1e6 * loss, rel=1e-4, abs=2) for seen in SEEN), "each step's own are seen"
    assert run.record.compilations == []
    assert all(isinstance(e, Losses) and e.dispatches == len(e.losses) for e in run.record.blocks)


def test_with_jit_the_same_model_is_refused_with_its_line() -> None:
    with pytest.raises(ModelError, match=r"micro|SEEN\.append|int\(1e6"):
        dlfb_lab.train(Looks(), (X, Y), epochs=1)


def test_debugging_changes_no_number() -> None:
    class Plain(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            return nn.Dense(1)(nn.tanh(nn.Dense(2)(x)))

    def history(debug: bool) -> Any:
        run = dlfb_lab.train(Plain(), (X, Y), epochs=1, batch_size=4, debug=debug)
        return run.history["train/loss"].to_numpy()

    np.testing.assert_allclose(history(True), history(False), rtol=1e-5)


def test_jax_disable_jit_means_it_too(tmp_path: Path) -> None:
    program = """
        import numpy as np, flax.linen as nn, dlfb_lab
        class Looks(nn.Module):
            @nn.compact
            def __call__(self, x):
                hidden = nn.Dense(1)(x)
                return hidden if hidden.mean() > 0 else -hidden
        x = np.ones((4, 2), np.float32)
        run = dlfb_lab.train(Looks(), (x, np.arange(4.0)), steps=2)
        print(run.status, len(run.record.compilations))
    """
    environment = {**os.environ, "JAX_DISABLE_JIT": "1", "JAX_PLATFORMS": "cpu", "DLFB_STORE": str(tmp_path)}
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], env=environment, capture_output=True, text=True, timeout=120
    )
    assert ran.stdout.splitlines()[-1:] == ["finished 0"], ran.stderr
