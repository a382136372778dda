"""`%dlfb_restore` in a real IPython shell."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.io import capture_output
from traitlets.config import Config

import dlfb_lab
from dlfb_lab.engine import saving
from dlfb_lab.run import Run
from tests.torture import Noisy, X, Y


@pytest.fixture(scope="module")
def singleton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InteractiveShell]:
    config = Config({"HistoryManager": {"enabled": False}})
    shell = InteractiveShell.instance(config=config, ipython_dir=str(tmp_path_factory.mktemp("ipython")))
    shell.run_line_magic("load_ext", "dlfb_lab")
    yield shell
    InteractiveShell.clear_instance()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    store = tmp_path_factory.mktemp("a store: ü")
    run = dlfb_lab.train(Noisy(), (X, Y), store=store, steps=20, batch_size=16, seeds=2, checkpoint="every=10,keep=9")
    assert saving.wait(60)
    return run


@pytest.fixture
def shell(singleton: InteractiveShell, trained: Run, monkeypatch: pytest.MonkeyPatch) -> InteractiveShell:
    assert trained.path is not None
    monkeypatch.setenv("DLFB_STORE", str(trained.path.parent))
    singleton.reset()
    zeros = jax.tree.map(np.zeros_like, trained.params)
    singleton.user_ns |= {"run": trained, "params": zeros, "zeros": zeros, "dlfb_lab": dlfb_lab}
    return singleton


def said_by(shell: InteractiveShell, cell: str) -> tuple[Any, str]:
    with capture_output() as captured:
        result = shell.run_cell(cell, store_history=False)
    return result, captured.stdout + captured.stderr


def same(found: Any, expected: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_the_variable_has_the_saved_values(shell: InteractiveShell, trained: Run) -> None:
    best = next(i for i, member in enumerate(trained.members) if member.params is trained.params)
    result, said = said_by(shell, f"%dlfb_restore {trained.id} --into params")
    assert result.success and result.result is None
    assert said == f"params: {trained.id}, step 20, seed {best}, the best of 2 members.\n"
    same(shell.user_ns["params"], trained.params)
    assert not shell.user_ns["zeros"]["Dense_0"]["kernel"].any(), "the other object is as it was"
    _, said = said_by(shell, "%dlfb_restore run@10 --into=params --member 1;")
    assert said == f"params: {trained.id}, step 10, seed 1 of 2 members.\n"
    same(shell.user_ns["params"], dlfb_lab.restore(f"{trained.path}@10", member=1))


def test_without_a_variable_the_parameters_are_returned(shell: InteractiveShell, trained: Run) -> None:
    _, said = said_by(shell, f'found = %dlfb_restore "{trained.path}@20" --member "seed 0"')
    assert "seed 0 of 2 members" in said
    same(shell.user_ns["found"], trained.members[0].params)


def test_a_dry_run_is_shown_and_changes_nothing(shell: InteractiveShell) -> None:
    result, said = said_by(shell, "%dlfb_restore run --into params --dry-run")
    assert "4 restored. Nothing was changed." in said
    assert "Dense_0/kernel" in result.result._repr_html_()
    assert not shell.user_ns["params"]["Dense_0"]["kernel"].any()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", r"Which run? Say: %dlfb_restore RUN[@STEP] --into NAME; found nothing."),
        ("run --into parms", "--into parms: there is no such variable. Did you mean `params`?"),
        ("run --into nothing", "Without --into the parameters are returned: nothing = %dlfb_restore run"),
        ("run --into state.params", "--into state.params: give the name of a variable."),
        ("run --in params", "--in: there is no such option. Did you mean `--into`? Help: %dlfb_restore?"),
        ("run@30 --into params", "has no checkpoint of step 30. There are those of steps 10, 20."),
        ("nobody --into params", "There is no run `nobody`"),
        ("run --which last --into params", "which='last': there are now, best."),
        ("run --which best --into params", "keeps no best state"),
        ("run --into run", "holds no arrays to restore"),
        ("run --dry-run", "Say what it is to be put into"),
    ],
)
def test_what_is_wrong_is_said(shell: InteractiveShell, line: str, said: str) -> None:
    before = dict(shell.user_ns)
    _, told = said_by(shell, f"%dlfb_restore {line}")
    assert said in told and "Traceback" not in told
    assert shell.user_ns["params"] is before["params"]


def test_what_is_wrong_with_another_dtype(shell: InteractiveShell, trained: Run) -> None:
    shell.user_ns["wide"] = jax.tree.map(lambda a: np.zeros(a.shape), trained.params)
    _, said = said_by(shell, "%dlfb_restore run --into wide")
    assert "Dense_0/bias is float64, and float32 in the checkpoint" in said and "--cast (cast=True)" in said
    _, said = said_by(shell, "%dlfb_restore run --into wide --cast")
    assert said.startswith("4 arrays were converted from float32 to float64.\nwide: ")
    assert shell.user_ns["wide"]["Dense_0"]["kernel"].dtype == np.float64


def test_the_cells_that_the_panel_writes(shell: InteractiveShell, trained: Run, tmp_path: Path) -> None:
    result, said = said_by(shell, f'dlfb_lab.diff("{trained.id}@10", "{trained.id}@20")')
    assert result.success and "arrays have changed" in said
    path = tmp_path / "run.safetensors"
    result, said = said_by(shell, f'dlfb_lab.export("{trained.id}@10", {str(path)!r})')
    assert result.success and path.exists() and "read back and compared" in said


def test_its_help(shell: InteractiveShell) -> None:
    _, said = said_by(shell, "%dlfb_restore?")
    for words in ("--into NAME", "--dry-run", "--cast", "--member MEMBER", "RUN[@STEP]"):
        assert words in (said or str(shell.magics_manager.magics["line"]["dlfb_restore"].__doc__))
