"""Checkpoints on disk: whole or not there, and never restored wrong without a word."""

from __future__ import annotations

import math
import os
import random
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from dlfb_lab.checkpoints import arrays as storage
from dlfb_lab.checkpoints import folder
from dlfb_lab.checkpoints.arrays import restore, save
from dlfb_lab.checkpoints.folder import Checkpoint, folder_of, listed, verify
from dlfb_lab.checkpoints.manifest import Manifest, dumped, parsed
from dlfb_lab.errors import StoreError

ARRAYS: dict[str, np.ndarray[Any, Any]] = {
    "params/Dense_0/kernel": np.random.default_rng(0).normal(size=(40, 30)).astype(np.float32),
    "params/Dense_0/bias": np.zeros(30, np.float32),
    "params/half": np.asarray(jnp.ones(3, jnp.bfloat16)),
    "opt_state/0/count": np.int32(7).reshape(()),
    "key": np.array([1, 2**32 - 1], np.uint32),
    "mask": np.array([True, False]),
    "nothing": np.zeros((0, 4), np.float32),
    "double": np.array([math.pi]),
    "complex": np.array([1 + 2j], np.complex64),
    "with . and spaces/ü": np.arange(3),
}


def same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert set(found) == set(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype, name
        assert found[name].shape == array.shape, name
        assert found[name].tobytes() == array.tobytes(), name


@pytest.fixture
def saved(tmp_path: Path) -> Checkpoint:
    return save(tmp_path, 340, ARRAYS, metrics={"valid/loss": 0.5}, place={"epochs": 3}, fingerprints={"code": "ab"})


def test_what_was_saved_comes_back_bit_by_bit(saved: Checkpoint, tmp_path: Path) -> None:
    same(restore(saved), ARRAYS)
    assert saved.path == tmp_path / "checkpoints" / "step-340"
    assert (saved.state, saved.why, saved.usable) == ("complete", "", True)
    assert [found.step for found in listed(tmp_path)] == [340]
    manifest = saved.manifest
    assert manifest is not None
    assert (manifest.metrics, manifest.place, manifest.fingerprints) == (
        {"valid/loss": 0.5},
        {"epochs": 3},
        {"code": "ab"},
    )
    on_disk = sum(path.stat().st_size for path in (saved.path / "arrays").rglob("*") if path.is_file())
    assert manifest.bytes == on_disk
    assert manifest.leaves["params/half"].dtype == "bfloat16"
    assert verify(saved).state == "complete"


def test_orbax_alone_can_read_it(saved: Checkpoint) -> None:
    found = ocp.PyTreeCheckpointer().restore(saved.path / "arrays")
    np.testing.assert_array_equal(found["params/Dense_0/kernel"], ARRAYS["params/Dense_0/kernel"])


def test_nothing_but_empty_arrays(tmp_path: Path) -> None:
    empty = {"a": np.zeros((0,), np.int8)}
    same(restore(save(tmp_path, 0, empty)), empty)
    same(restore(save(tmp_path, 1, {})), {})


@pytest.mark.parametrize("name", ["a run", "läuft: 50 % – 走", "x" * 100])
def test_any_name_of_a_folder_will_do(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    same(restore(save(tmp_path / name, 1, ARRAYS)), ARRAYS)
    shutil.move(tmp_path / name, tmp_path / "copied")
    same(restore(listed(tmp_path / "copied")[0]), ARRAYS)


def test_a_run_without_checkpoints(tmp_path: Path) -> None:
    assert listed(tmp_path) == []
    assert listed(tmp_path / "gone") == []


def test_they_are_listed_by_step_without_jax_or_orbax(tmp_path: Path) -> None:
    for step in (1000, 20, 3):
        save(tmp_path, step, {"a": np.full(3, step)})
    code = (
        "import sys, pathlib\nfrom dlfb_lab.checkpoints.folder import listed, verify\n"
        f"found = listed(pathlib.Path({str(tmp_path)!r}))\n"
        "print([c.step for c in found], {verify(c).state for c in found})\n"
        "print([name for name in ('jax', 'orbax', 'pickle') if name in sys.modules and name != 'pickle'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[3, 20, 1000] {'complete'}", "[]"]


def test_the_first_of_a_step_stays(saved: Checkpoint, tmp_path: Path) -> None:
    again = save(tmp_path, 340, {"a": np.ones(1)})
    assert again == saved
    same(restore(again), ARRAYS)


def test_what_is_not_finite_is_said_and_can_be_read(tmp_path: Path) -> None:
    bad = {"a": np.ones(2), "b": np.array([1.0, math.nan]), "c": np.asarray(jnp.array([math.inf], jnp.bfloat16))}
    found = save(tmp_path, 5, bad, metrics={"valid/loss": math.nan, "train/loss": -math.inf})
    assert found.state == "not finite"
    assert not found.usable
    assert found.why == "b and 1 more: NaN or infinity."
    assert found.manifest is not None
    assert math.isnan(found.manifest.metrics["valid/loss"])
    assert found.manifest.metrics["train/loss"] == -math.inf
    same(restore(found), bad)


# --- damage


def files_of(checkpoint: Checkpoint) -> list[Path]:
    return sorted(path for path in checkpoint.path.rglob("*") if path.is_file() and path.stat().st_size)


@pytest.mark.parametrize("kind", ["cut", "flipped", "missing"])
def test_no_damage_goes_unnoticed(saved: Checkpoint, tmp_path: Path, kind: str) -> None:
    rng = random.Random(kind)
    for attempt in range(25):
        run = tmp_path / str(attempt)
        shutil.copytree(tmp_path / "checkpoints", run / "checkpoints")
        whole = listed(run)[0]
        victim = rng.choice(files_of(whole))
        content = victim.read_bytes()
        at = rng.randrange(len(content))
        if kind == "cut":
            victim.write_bytes(content[:at])
        elif kind == "flipped":
            victim.write_bytes(content[:at] + bytes([content[at] ^ (1 << rng.randrange(8))]) + content[at + 1 :])
        else:
            victim.unlink()
        name = victim.relative_to(whole.path).as_posix()
        with pytest.raises(StoreError, match=r"^The checkpoint of step 340 is (damaged|newer): .+") as caught:
            restore(whole)
        found = verify(whole)
        assert found.state in ("damaged", "newer"), name
        assert name in str(caught.value) or found.state == "newer"
        assert name in found.why or found.state == "newer"
        assert listed(run)[0].state == found.state, "it is remembered"
        shutil.rmtree(run)


def test_what_is_mended_is_whole_again(saved: Checkpoint, tmp_path: Path) -> None:
    victim = max(files_of(saved), key=lambda path: path.stat().st_size)
    content = victim.read_bytes()
    victim.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert listed(tmp_path)[0].state == "complete", "a listing reads no contents"
    assert verify(saved).state == "damaged"
    assert listed(tmp_path)[0].state == "damaged"
    victim.write_bytes(content)
    assert verify(saved).state == "complete"
    assert listed(tmp_path)[0].state == "complete"


def test_another_name_is_not_believed(saved: Checkpoint, tmp_path: Path) -> None:
    saved.path.rename(folder_of(tmp_path, 9))
    found = listed(tmp_path)[0]
    assert (found.state, found.why) == ("damaged", "It is that of step 340, under another name.")


def test_a_manifest_of_a_newer_version_is_refused(saved: Checkpoint, tmp_path: Path) -> None:
    path = saved.path / "checkpoint.json"
    path.write_text(path.read_text().replace('"version": 1', '"version": 2'))
    found = listed(tmp_path)[0]
    assert found.state == "newer"
    with pytest.raises(StoreError, match=r"of version 2; this dlfb_lab reads up to 1\. Update dlfb-lab"):
        restore(found)


@pytest.mark.parametrize("name", ["../../secret", "/etc/passwd", "a/../../b", "C:/x", "a\\..\\b"])
def test_files_outside_the_checkpoint_are_no_part_of_it(name: str) -> None:
    from dlfb_lab.checkpoints.manifest import Stored

    with pytest.raises(ValueError, match="not within the checkpoint"):
        parsed(dumped(Manifest(step=1, saved_at_s=0.0, files={name: Stored(bytes=1, xxh3="0")})))


@pytest.mark.parametrize(
    "text", [b"", b"{}", b"[]", b"null", b'{"version": 1}', b"\xff", b'{"version":1,"xxh3":"","manifest":3}']
)
def test_what_is_no_manifest(text: bytes) -> None:
    with pytest.raises(ValueError, match="no manifest"):
        parsed(text)


def test_links_are_not_followed(saved: Checkpoint, tmp_path: Path) -> None:
    other = tmp_path / "other"
    (other / "checkpoints").mkdir(parents=True)
    (other / "checkpoints" / "step-340").symlink_to(saved.path, target_is_directory=True)
    assert listed(other) == []
    victim = max(files_of(saved), key=lambda path: path.stat().st_size)
    victim.rename(tmp_path / "elsewhere")
    victim.symlink_to(tmp_path / "elsewhere")
    assert listed(tmp_path)[0].state == "damaged"


# --- saving that does not come to its end


def test_a_process_that_is_killed_while_it_saves_leaves_no_wrong_checkpoint(tmp_path: Path) -> None:
    save(tmp_path, 1, ARRAYS)
    code = (
        "import os, pathlib, numpy as np\nfrom dlfb_lab.checkpoints import arrays\n"
        "arrays.dumped = lambda manifest: os.kill(os.getpid(), 9)\n"
        f"arrays.save(pathlib.Path({str(tmp_path)!r}), 2, {{'a': np.ones(1000)}})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == -9
    assert [(found.step, found.state) for found in listed(tmp_path)] == [(1, "complete"), (2, "partial")]
    with pytest.raises(StoreError, match="step 2 is partial: It was not saved to its end"):
        restore(listed(tmp_path)[1])
    save(tmp_path, 2, {"a": np.ones(1000)})
    assert [(found.step, found.state) for found in listed(tmp_path)] == [
        (1, "complete"),
        (2, "complete"),
        (2, "partial"),
    ]


@pytest.mark.parametrize("where", ["_write_arrays", "checksums.stored", "dumped", "_sync_folders"])
def test_a_full_disk_leaves_the_others_as_they_were(
    saved: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(f"{storage.__name__}.{where}", full)
    with pytest.raises(StoreError, match=r"step 341 cannot be saved in .* \(No space left on device\)"):
        save(tmp_path, 341, ARRAYS)
    monkeypatch.undo()
    assert os.listdir(tmp_path / "checkpoints") == ["step-340"]
    same(restore(listed(tmp_path)[0]), ARRAYS)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file is in the way")
    with pytest.raises(StoreError, match="step 1 cannot be saved"):
        save(tmp_path, 1, ARRAYS)
    with pytest.raises(StoreError, match="cannot be read"):
        listed(tmp_path)


def test_two_that_save_the_same_step_at_once(tmp_path: Path) -> None:
    found: list[Checkpoint] = []
    threads = [threading.Thread(target=lambda: found.append(save(tmp_path, 1, ARRAYS))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [checkpoint.state for checkpoint in found] == ["complete"] * 4
    assert os.listdir(tmp_path / "checkpoints") == ["step-1"]
    same(restore(listed(tmp_path)[0]), ARRAYS)


def test_one_that_changes_between_the_look_and_the_reading_is_refused(
    saved: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = storage._read_arrays
    monkeypatch.setattr(storage, "_read_arrays", lambda path, names: {**read(path, names), "double": np.ones(2)})
    with pytest.raises(StoreError, match="double is not as its manifest says"):
        restore(saved)
    assert folder.looked_at(saved.path) == saved


def test_every_byte_of_a_manifest_counts(saved: Checkpoint) -> None:
    path = saved.path / "checkpoint.json"
    text = path.read_bytes()
    assert parsed(text) == saved.manifest
    for at in range(len(text)):
        for bit in (0, 3, 5):
            with pytest.raises((ValueError, StoreError)):
                parsed(text[:at] + bytes([text[at] ^ (1 << bit)]) + text[at + 1 :])
