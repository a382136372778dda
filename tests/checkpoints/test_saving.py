"""Saving while training goes on: how often, what is kept, and what is said where it fails."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dlfb_lab.checkpoints import arrays, folder
from dlfb_lab.engine import saving
from dlfb_lab.engine.saving import Asked, Saver, asked
from dlfb_lab.engine.snapshot import Snapshot
from dlfb_lab.errors import OptionError, StoreError
from dlfb_lab.events import CheckpointSaved, Event, Notice


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """Time, to be set by the test."""
    now = [0.0]
    monkeypatch.setattr(saving, "monotonic", lambda: now[0])
    yield now


def snapshot(step: int, took_s: float = 0.0, **metrics: float) -> Snapshot:
    return Snapshot({"now/w": np.full(3, step, np.float32)}, {"step": step}, metrics, took_s)


def save(saver: Saver, *snapshots: Snapshot) -> list[Event]:
    for one in snapshots:
        saver.save(one)
    while not saving.worker.wait(1):
        pass
    return list(saver.news())


def steps(run: Path) -> list[int]:
    return [checkpoint.step for checkpoint in folder.listed(run)]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (None, Asked()),
        ("off", None),
        ("every=100", Asked(every_steps=100)),
        ("every=90s, keep=3", Asked(every_s=90, keep=3)),
        ("every=1.5h,best=0", Asked(every_s=5400, best=0)),
    ],
)
def test_what_is_asked_for(text: str | None, found: Asked | None) -> None:
    assert asked(text) == found


@pytest.mark.parametrize("text", ["often", "every=", "every=0", "every=-3", "keep=0", "best=x", "every=5,often=2"])
def test_what_is_not_understood(text: str) -> None:
    with pytest.raises(OptionError, match=r"--checkpoint.*(Say every=100|duration)"):
        asked(text)


def test_every_so_many_steps(tmp_path: Path) -> None:
    saver = Saver(tmp_path, Asked(every_steps=10), "", "min")
    assert [step for step in range(31) if saver.due(step, False)] == [10, 20, 30]
    assert [saver.steps_until(step) for step in (0, 1, 9, 10, 25)] == [10, 9, 1, 10, 5]
    assert saver.due(7, True), "the last state is kept whatever was asked"


def test_every_so_many_seconds(tmp_path: Path, clock: list[float]) -> None:
    saver = Saver(tmp_path, Asked(every_s=60), "", "min")
    found = []
    for clock[0] in range(0, 200, 10):
        if saver.due(int(clock[0]), False):
            found.append(clock[0])
            save(saver, snapshot(int(clock[0])))
    assert found == [60, 120, 180]


def test_as_often_as_costs_a_share_of_the_time(tmp_path: Path, clock: list[float]) -> None:
    saver = Saver(tmp_path, Asked(), "", "min")
    found, cost_s = [], 0.6
    for clock[0] in range(200):
        if saver.due(int(clock[0]), False):
            found.append(clock[0])
            save(saver, snapshot(int(clock[0]), cost_s))
    assert found[0] == saving.FIRST_S
    assert len(found) > 5
    assert cost_s * len(found) <= saving.SHARE * found[-1] + cost_s
    assert all(later - earlier >= saving.NEXT_S for earlier, later in pairwise(found))


def test_a_large_state_is_not_saved_before_that_is_worth_it(tmp_path: Path, clock: list[float]) -> None:
    saver = Saver(tmp_path, Asked(), "", "min", state_bytes=int(10 * saving.BYTES_PER_S))
    clock[0] = 300
    assert not saver.due(1, False)
    clock[0] = 340
    assert saver.due(1, False)


def test_a_better_score_is_saved_sooner(tmp_path: Path, clock: list[float]) -> None:
    saver = Saver(tmp_path, Asked(), "valid/loss", "min")
    clock[0] = 100
    save(saver, snapshot(1))
    clock[0] = 102
    assert not saver.due(2, False)
    assert saver.due(2, False, better=True)


def test_the_best_and_the_latest_are_kept(tmp_path: Path) -> None:
    saver = Saver(tmp_path, Asked(keep=2, best=1), "valid/loss", "min")
    losses = [0.5, 0.1, 0.4, 0.3, 0.2]
    told = save(saver, *(snapshot(10 * i, **{"valid/loss": loss}) for i, loss in enumerate(losses)))
    assert steps(tmp_path) == [10, 30, 40]
    assert [event.kept for event in told if isinstance(event, CheckpointSaved)] == [
        [0],
        [0, 10],
        [10, 20],
        [10, 20, 30],
        [10, 30, 40],
    ]
    folder.pin(folder.listed(tmp_path)[1])
    save(saver, *(snapshot(10 * i) for i in (5, 6)))
    assert steps(tmp_path) == [10, 30, 50, 60], "what is pinned stays"
    assert not [path for path in (tmp_path / folder.FOLDER).iterdir() if path.name.startswith(".")]


def test_of_states_that_are_not_finite_only_the_last_is_kept(tmp_path: Path) -> None:
    saver = Saver(tmp_path, Asked(), "", "min")
    bad = [Snapshot({"now/w": np.full(3, np.nan, np.float32)}, {"step": step}) for step in (2, 3, 4)]
    told = save(saver, snapshot(1), *bad)
    assert [(found.step, found.state) for found in folder.listed(tmp_path)] == [(1, "complete"), (4, "not finite")]
    assert [vars(event)["state"] for event in told] == ["complete", *["not finite"] * 3]


def test_one_that_cannot_be_saved_is_told_once_and_the_last_one_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saver = Saver(tmp_path, Asked(), "", "min")
    save(saver, snapshot(1))

    def full(path: Path, saved: Any) -> None:
        path.mkdir()
        (path / "half").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(arrays, "_write_arrays", full)
    told = save(saver, snapshot(2), snapshot(3))
    assert [type(event) for event in told] == [Notice]
    text = str(vars(told[0])["text"])
    assert "The checkpoint of step 2 cannot be saved" in text and "No space left on device" in text
    assert "The last one, of step 1, is as it was. Training goes on." in text
    assert [checkpoint.state for checkpoint in folder.listed(tmp_path)] == ["complete"]


def test_a_folder_that_was_deleted_is_not_made_again(tmp_path: Path) -> None:
    run = tmp_path / "a run: ä"
    run.mkdir()
    saver = Saver(run, Asked(), "", "min")
    assert isinstance(save(saver, snapshot(1))[0], CheckpointSaved)
    shutil.rmtree(run)
    assert isinstance(save(saver, snapshot(2))[0], Notice)
    assert not run.exists()


def test_a_damaged_one_of_the_same_step_is_put_aside(tmp_path: Path) -> None:
    saver = Saver(tmp_path, Asked(), "", "min")
    save(saver, snapshot(1))
    whole = folder.listed(tmp_path)[0]
    next(path for path in (whole.path / "arrays").rglob("*") if path.is_file()).write_bytes(b"")
    assert folder.listed(tmp_path)[0].state == "damaged"
    save(saver, snapshot(1))
    assert [checkpoint.state for checkpoint in folder.listed(tmp_path)] == ["complete"]


def test_what_comes_after_the_end_is_told_to_who_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saver, later = Saver(tmp_path, Asked(), "", "min"), list[Event]()
    saver.save(snapshot(1))
    saver.close(later.append)
    saver.save(snapshot(2))
    assert saving.wait(60)
    assert [event.step for event in later] == [1, 2]
    assert list(saver.news()) == []

    def gone(event: Event) -> None:
        raise StoreError("the folder is gone")

    saver.close(gone)
    assert isinstance(save(saver, snapshot(3)), list)
    assert steps(tmp_path) == [3], "whether or not it can be told"


SCRIPT = """
import sys, time
from pathlib import Path
import numpy as np
from dlfb_lab.checkpoints import arrays
from dlfb_lab.engine import saving
from dlfb_lab.engine.snapshot import Snapshot
write = arrays._write_arrays
def slow(*given):
    time.sleep({seconds})
    write(*given)
arrays._write_arrays = slow
saving.PATIENCE_S = 0.1
saver = saving.Saver(Path(sys.argv[1]), saving.Asked(), "", "min")
saver.save(Snapshot({{"now/w": np.ones(3, np.float32)}}, {{"step": 7}}))
"""


def test_the_interpreter_ends_when_all_is_saved(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SCRIPT.format(seconds=1), str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = folder.listed(tmp_path)
    assert [(checkpoint.step, checkpoint.state) for checkpoint in found] == [(7, "complete")]
    assert folder.verify(found[0]).usable
    assert f"saving the checkpoint of step 7 of {tmp_path.name}. Interrupt to leave" in ended.stderr


def test_the_room_that_checkpoints_will_take_is_told_beforehand(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    assert saving.room(tmp_path, Asked(), 1000) == []
    ((level, text),) = saving.room(tmp_path, Asked(keep=3, best=2), free)
    assert level == "warning" and "6 of" in text and "--store" in text and "keep=1,best=0" in text
    ((level, text),) = saving.room(tmp_path, Asked(), int(min(free / 4, 2e9))) if free > 8e9 else (("info", "GB free"),)
    assert level == "info" and "GB free" in text
    assert saving.room(tmp_path / "gone", Asked(), free) == []


def test_a_full_disk_is_told_and_costs_neither_the_run_nor_the_checkpoint_before(tmp_path: Path) -> None:
    """On a real file system that is too small, where one can be mounted."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("no file system can be mounted here")
    try:
        saver = Saver(disk, Asked(every_steps=1, keep=3), "", "min")
        small, large = np.ones(1000, np.float32), np.random.default_rng(0).random(2**20).astype(np.float32)
        for step, array in ((1, small), (2, large), (3, large)):
            saver.save(Snapshot({"now/w": array}, {"step": step}))
        assert saving.wait(60)
        told = list(saver.news())
        assert [event.kind for event in told] == ["checkpoint_saved", "notice"], "a failure is told once"
        text = told[1].text  # type: ignore[attr-defined]
        assert text.startswith(f"The checkpoint of step 2 cannot be saved in {disk} (No space left on device).")
        assert "The last one, of step 1, is as it was. Training goes on." in text
        assert [(one.step, one.state) for one in folder.listed(disk)] == [(1, "complete")]
        assert folder.verify(folder.listed(disk)[0]).usable
        saver.save(Snapshot({"now/w": small}, {"step": 4}))
        assert saving.wait(60)
        assert steps(disk) == [1, 4], "once there is room again it goes on"
    finally:
        subprocess.run(["umount", str(disk)], check=False)
