"""Parameters as files of safetensors: whole and the same bit by bit, or not there."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors import deserialize

import dlfb_lab
from dlfb_lab.checkpoints import export as exporting
from dlfb_lab.checkpoints.arrays import save
from dlfb_lab.errors import OptionError, StoreError
from tests.checkpoints.test_difference import begun

ARRAYS: dict[str, np.ndarray[Any, Any]] = {
    "now/state/params/Dense_0/kernel": np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32),
    "now/state/params/half": np.asarray(jnp.arange(3, dtype=jnp.bfloat16)),
    "now/state/params/eighth": np.arange(4).astype(ml_dtypes.float8_e4m3fn),
    "now/state/params/mask": np.array([True, False]),
    "now/state/params/number": np.int64(7).reshape(()),
    "now/state/params/nothing": np.zeros((0, 4), np.float32),
    "now/state/params/complex": np.array([1 + 2j], np.complex64),
    "now/state/extra/batch_stats/mean": np.ones(5, np.float16),
    "now/state/opt_state/0/count": np.int32(7).reshape(()),
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    path = begun(tmp_path, "one")
    save(path, 340, ARRAYS)
    return path


def read(path: Path) -> dict[str, Any]:
    return dict(deserialize(path.read_bytes()))


def test_the_file_holds_the_parameters_bit_by_bit(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = dlfb_lab.export(f"{run}@340", tmp_path / "über all: 1.safetensors")
    assert "params of" in capsys.readouterr().out
    found = read(path)
    expected = {name.removeprefix("now/state/params/"): a for name, a in ARRAYS.items() if "/params/" in name}
    assert set(found) == set(expected)
    for name, array in expected.items():
        assert bytes(found[name]["data"]) == array.tobytes() and tuple(found[name]["shape"]) == array.shape
    assert (found["half"]["dtype"], found["eighth"]["dtype"]) == ("BF16", "F8_E4M3")
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    metadata = {"run": run.name, "step": "340", "what": "params", "dlfb_lab": dlfb_lab.__version__}
    assert header["__metadata__"] == metadata
    assert os.stat(path).st_mode & 0o777 == os.stat(run / "events.jsonl").st_mode & 0o777


def test_variables_and_the_whole_state(run: Path, tmp_path: Path) -> None:
    variables = read(dlfb_lab.export(run, tmp_path / "a", what="variables"))
    assert {"params/Dense_0/kernel", "batch_stats/mean"} <= set(variables) and "opt_state/0/count" not in variables
    state = read(dlfb_lab.export(run, tmp_path / "b", what="state"))
    assert set(state) == {name.removeprefix("now/state/") for name in ARRAYS}
    with pytest.raises(OptionError, match="what='all': there are params, variables, state"):
        dlfb_lab.export(run, tmp_path / "c", what="all")  # type: ignore[arg-type]


def test_what_is_there_is_not_overwritten_unless_that_is_said(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_text("mine")
    with pytest.raises(StoreError, match=r"is there already\. Give another name, or say overwrite=True"):
        dlfb_lab.export(run, path)
    assert path.read_text() == "mine"
    with pytest.raises(StoreError, match=r"is a folder\. Give a file in it"):
        dlfb_lab.export(run, tmp_path)
    dlfb_lab.export(run, path, what="variables", overwrite=True)
    assert "batch_stats/mean" in read(path)


def test_a_dtype_that_safetensors_has_not_is_named(tmp_path: Path) -> None:
    run = begun(tmp_path, "two")
    save(run, 1, {"now/state/params/a": np.ones(2, np.complex128), "now/state/params/b": np.ones(2, np.float32)})
    with pytest.raises(OptionError, match="safetensors has no dtype for params/a is complex128"):
        dlfb_lab.export(run, tmp_path / "a")
    assert not (tmp_path / "a").exists()


def left(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in tmp_path.iterdir() if path.is_file())


@pytest.mark.parametrize("where", ["_write", "_compare", "os.fsync"])
def test_a_full_disk_leaves_nothing(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(f"{exporting.__name__}.{where}", full)
    with pytest.raises(StoreError, match=r"cannot be written \(No space left on device\). Nothing is left of it"):
        dlfb_lab.export(run, tmp_path / "a.safetensors")
    assert left(tmp_path) == []


def test_a_folder_that_cannot_be_written(run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "nowhere" / "a", tmp_path / "file" / "a"):
        with pytest.raises(StoreError, match=r"cannot be written \("):
            dlfb_lab.export(run, path)
    assert left(tmp_path) == ["file"]


def test_what_was_written_otherwise_is_not_kept(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = exporting._write

    def flips(path: Path, *rest: Any) -> None:
        write(path, *rest)
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)

    monkeypatch.setattr(exporting, "_write", flips)
    with pytest.raises(StoreError, match="what was read back is not what was written"):
        dlfb_lab.export(run, tmp_path / "a")
    assert left(tmp_path) == []
