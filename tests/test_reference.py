"""The book's toy regression, with its user's own TrainState, through the magic."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
import optax
import pytest
from flax.training.train_state import TrainState
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.io import capture_output
from traitlets.config import Config

PRINTED = [
    *(5.2768, 0.9498, 0.1091, 0.0845, 0.0283),
    *(0.0258, 0.0106, 0.0105, 0.0106, 0.0102),
    *(0.0101, 0.0100, 0.0100, 0.0100, 0.0100),
]


class M(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Dense(1)(x)


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[InteractiveShell]:
    monkeypatch.setenv("DLFB_STORE", str(tmp_path / "runs"))
    config = Config({"HistoryManager": {"enabled": False}})
    shell = InteractiveShell.instance(config=config, ipython_dir=str(tmp_path))
    shell.run_line_magic("load_ext", "dlfb_lab")
    yield shell
    InteractiveShell.clear_instance()


def test_the_fifteen_printed_losses(shell: InteractiveShell) -> None:
    assert jax.config.jax_threefry_partitionable, "the book's numbers are those of today's default"
    _, data_rng, noise_rng = jax.random.split(jax.random.PRNGKey(42), 3)
    x = jax.random.uniform(data_rng, (100, 1))
    y = 2 * x + 1 + 0.1 * jax.random.normal(noise_rng, (100, 1))
    params = M().init(jax.random.PRNGKey(42), np.ones([1, 1]))["params"]
    assert float(params["Dense_0"]["kernel"][0, 0]) == pytest.approx(-0.5220277, abs=5e-8)
    assert float(params["Dense_0"]["bias"][0]) == 0
    state = TrainState.create(apply_fn=M().apply, params=params, tx=optax.adam(1.0))
    shell.user_ns |= {"state": state, "x": x, "y": y}
    with capture_output():
        result = shell.run_cell("run = %dlfb_train state (x, y) --batch-size full --epochs 150", store_history=False)
    result.raise_error()
    run = shell.user_ns["run"]
    losses = run.history["train/loss"]
    assert [f"{loss:.4f}" for loss in losses[:150:10]] == [f"{loss:.4f}" for loss in PRINTED]
    assert run.state.step == 150
    assert run.predict([[0.5]])[0, 0] == pytest.approx(2.0, abs=0.05)
