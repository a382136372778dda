"""`%dlfb_train` in a real IPython shell."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import pandas as pd
import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.io import capture_output
from traitlets.config import Config

import dlfb_lab
from dlfb_lab.options import TRAIN
from dlfb_lab.run import Run


class Linear(nn.Module):
    width: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Dense(self.width)(x)


@pytest.fixture(scope="module")
def singleton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InteractiveShell]:
    config = Config({"HistoryManager": {"enabled": False}})
    shell = InteractiveShell.instance(config=config, ipython_dir=str(tmp_path_factory.mktemp("ipython")))
    shell.run_line_magic("load_ext", "dlfb_lab")
    yield shell
    InteractiveShell.clear_instance()


@pytest.fixture
def shell(singleton: InteractiveShell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> InteractiveShell:
    monkeypatch.setenv("DLFB_STORE", str(tmp_path))
    x = np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32)
    singleton.reset()
    singleton.user_ns |= {"Linear": Linear, "model": Linear(), "x": x, "y": x[:, 0]}
    return singleton


def run_cell(shell: InteractiveShell, cell: str) -> tuple[Any, str]:
    with capture_output() as captured:
        result = shell.run_cell(cell, store_history=False)
    return result, captured.stdout + captured.stderr


def test_a_magic_returns_the_run(shell: InteractiveShell) -> None:
    result, said = run_cell(shell, "run = %dlfb_train model (x, y) --epochs 2 --valid 0.2 --batch-size full\nrun")
    assert result.success, said
    run = shell.user_ns["run"]
    assert isinstance(run, Run)
    assert result.result is run
    assert run.status == "finished"
    assert run.record.step == 2
    assert "Linear: finished" in said
    assert "regression: 20 rows" in said
    assert run.record.started is not None
    assert run.record.started.source == "%dlfb_train model (x, y) --epochs 2 --valid 0.2 --batch-size full"


def test_the_magic_and_the_function_are_one_experiment(shell: InteractiveShell) -> None:
    run_cell(shell, "run = %dlfb_train model (x, y) --epochs 3 --valid 0.2 --scale --seed 7 --lr 1e-2 --metrics mae,r2")
    magic = shell.user_ns["run"]
    x, y = shell.user_ns["x"], shell.user_ns["y"]
    function = dlfb_lab.train(Linear(), (x, y), epochs=3, valid=0.2, scale=True, seed=7, lr=1e-2, metrics=["mae", "r2"])
    pd.testing.assert_frame_equal(magic.history, function.history)
    assert magic.record.started is not None
    assert function.record.started is not None
    assert magic.record.started.settings == function.record.started.settings
    assert magic.record.started.split_hash == function.record.started.split_hash


def test_a_cell_magic_runs_its_body_first_and_keeps_its_source(shell: InteractiveShell) -> None:
    body = "two = 2\nmine = Linear()\n"
    result, said = run_cell(shell, f"%%dlfb_train mine (x, y) --epochs two --into kept\n{body}")
    assert result.success, said
    kept = shell.user_ns["kept"]
    assert kept.record.step == 2
    assert kept.record.started.source.strip().endswith(body.strip())
    assert f"<Run {kept.id}" in said


def test_a_body_that_fails_trains_nothing(shell: InteractiveShell, tmp_path: Path) -> None:
    _, said = run_cell(shell, "%%dlfb_train model (x, y) --into kept\n1 / 0\n")
    assert "ZeroDivisionError" in said
    assert "kept" not in shell.user_ns
    assert dlfb_lab.runs(tmp_path) == []


def test_braces_and_dollars_are_left_as_they_are(shell: InteractiveShell) -> None:
    shell.user_ns["name"] = "expanded"
    line = "%dlfb_train model (x, y) --epochs 1 --name {name}$name"
    result, said = run_cell(shell, f"run = {line}")
    assert result.success, said
    assert shell.user_ns["run"].name == "{name}$name"
    assert shell.user_ns["run"].record.started.source == line


def test_a_table_by_the_names_of_its_columns(shell: InteractiveShell) -> None:
    x, rng = shell.user_ns["x"], np.random.default_rng(1)
    shell.user_ns["cells"] = pd.DataFrame(
        {"a": x[:, 0], "b": x[:, 1], "kind": np.where(x[:, 0] > 0, "up", "down"), "patient": rng.integers(8, size=20)}
    )
    line = "run = %dlfb_train Linear(2) cells --target kind --groups patient --valid 0.3 --epochs 1 --metrics accuracy"
    result, said = run_cell(shell, line)
    assert result.success, said
    run = shell.user_ns["run"]
    assert run.classes == ["down", "up"]
    patients = shell.user_ns["cells"]["patient"].to_numpy()
    parts = run.split()
    assert not set(patients[parts["train"]]) & set(patients[parts["valid"]])


def test_help_lists_every_option(shell: InteractiveShell) -> None:
    _, said = run_cell(shell, "%dlfb_train?")
    pager = said or shell.inspector.info(shell.find_line_magic("dlfb_train"))["docstring"]
    for option in TRAIN:
        assert f"--{option.name}" in pager
    for word in ("run = %dlfb_train MODEL DATA", "%%dlfb_train", "--into", "run.history", "Interrupt the kernel"):
        assert word in pager


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("%dlfb_train", "What is to be trained, and on what"),
        ("%dlfb_train model", "the data are missing. Say: %dlfb_train model (x, y)"),
        ("%dlfb_train model (x, y) more", "found 3: model, (x, y), more"),
        ("%dlfb_train modle (x, y)", "The name `modle` does not exist. Did you mean `model`?"),
        ("%dlfb_train model (x, z)", "The name `z` does not exist."),
        ("%dlfb_train model (x, y) --epochs -3", "--epochs -3: give a whole number above zero"),
        ("%dlfb_train model (x, y) --epohcs 3", "--epohcs: there is no such option. Did you mean `--epochs`?"),
        ("%dlfb_train model (x, y[:3])", "x has 20 rows, y has 3 rows"),
    ],
)
def test_a_mistake_is_one_short_message(shell: InteractiveShell, line: str, said: str, tmp_path: Path) -> None:
    result, printed = run_cell(shell, line)
    assert isinstance(result.error_in_exec, dlfb_lab.DlfbLabError)
    assert said in printed
    assert "Traceback" not in printed
    assert len(printed.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir()), "a mistake leaves no folder behind"


def test_an_error_of_the_users_model_is_one_short_message_with_their_line(shell: InteractiveShell) -> None:
    _, printed = run_cell(
        shell,
        "class Broken(Linear):\n    def __call__(self, x):\n        return x @ nonsense\n%dlfb_train Broken() (x, y)",
    )
    assert "The model failed on inputs of shape (20, 2)" in printed
    assert "name 'nonsense' is not defined" in printed
    assert "return x @ nonsense" in printed
    assert len(printed.strip().splitlines()) == 1


def test_a_terminal_gets_a_quiet_table(shell: InteractiveShell) -> None:
    _, said = run_cell(shell, "%dlfb_train model (x, y) --epochs 2 --valid 0.2")
    lines = [line.split() for line in said.splitlines()]
    assert ["loss", "mae", "r2"] in lines
    assert any(line[:1] == ["valid"] and len(line) == 4 for line in lines)
    assert any(line[:2] == ["mean", "(valid)"] for line in lines)


def test_in_a_function_its_own_names_come_first(shell: InteractiveShell) -> None:
    shell.run_cell("import flax.linen as nn\nwidth = 4")
    body = "    run = %dlfb_train nn.Dense(width) (x, x[:, :width]) --epochs 1\n    return run\n"
    result = shell.run_cell(f"def trial(width):\n{body}trial(1)")
    assert result.success
    assert result.result.record.started.parameter_count == 3


def test_a_cell_magic_keeps_its_line_too(shell: InteractiveShell) -> None:
    shell.run_cell("%%dlfb_train Linear() (x, y) --epochs 1 --into kept\nfactor = 3")
    source = shell.user_ns["kept"].record.started.source
    assert source.startswith("%%dlfb_train Linear() (x, y) --epochs 1 --into kept\n")
    assert "factor = 3" in source


def test_the_help_names_every_loss_and_metric() -> None:
    from dlfb_lab.engine import losses, metrics
    from dlfb_lab.magics.train import help_text

    words = set(re.findall(r"[a-z_0-9]+", help_text()))
    long_names = {losses.ALIASES.get(name, name): name for name in losses.ALIASES}
    assert set(metrics.METRICS) <= words
    assert all({name, long_names.get(name, name)} & words for name in losses.NAMES if name not in losses.ALIASES)
