"""Which checkpoints are kept, and what becomes of those that are not."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dlfb_lab.checkpoints import folder, trash
from dlfb_lab.checkpoints.arrays import restore, save
from dlfb_lab.checkpoints.folder import Checkpoint, pin
from dlfb_lab.checkpoints.keeping import ranked, reasons
from dlfb_lab.checkpoints.manifest import Manifest
from dlfb_lab.errors import StoreError

NOW_S = 1_800_000_000.0


def checkpoint(step: int, loss: float = math.nan, **values: Any) -> Checkpoint:
    manifest = Manifest(step=step, saved_at_s=0.0, metrics={"valid/loss": loss, "valid/r2": -loss})
    return Checkpoint(
        **{"path": Path(f"step-{step}"), "step": step, "state": "complete", "manifest": manifest, **values}
    )


SOME = [
    checkpoint(10, 0.9, pinned=True),
    checkpoint(20, 0.2),
    checkpoint(30, 0.2),
    checkpoint(40, 0.1, state="damaged"),
    checkpoint(50, math.nan),
    checkpoint(60, 0.5),
    checkpoint(70, 0.05, state="not finite"),
    checkpoint(80, state="partial", manifest=None),
]


def test_the_best_the_latest_and_the_pinned_are_kept() -> None:
    assert [found.step for found in ranked(SOME, "valid/loss", "min")] == [20, 30, 60, 10]
    assert [found.step for found in ranked(SOME, "valid/r2", "max")] == [20, 30, 60, 10]
    assert [found.step for found in ranked(SOME, "valid/loss", "max")] == [10, 60, 20, 30]
    assert reasons(SOME, "valid/loss", "min") == {10: "pinned", 20: "the best by valid/loss", 60: "the latest"}
    assert reasons(SOME, "valid/loss", "min", best=2, latest=2) == {
        10: "pinned",
        20: "the best by valid/loss",
        30: "one of the 2 best by valid/loss",
        50: "one of the 2 latest",
        60: "the latest",
    }


def test_one_can_be_the_latest_and_the_best() -> None:
    assert reasons([checkpoint(10, 0.2), checkpoint(20, 0.1)], "valid/loss", "min") == {
        20: "the latest and the best by valid/loss"
    }


def test_without_a_score_the_latest_is_kept() -> None:
    assert reasons(SOME, "valid/accuracy", "max") == {10: "pinned", 60: "the latest"}
    assert reasons([], "valid/loss", "min") == {}


def test_what_is_pinned_is_listed_so(tmp_path: Path) -> None:
    saved = save(tmp_path, 1, {"a": np.ones(2)})
    assert not saved.pinned
    assert pin(saved).pinned
    assert folder.listed(tmp_path)[0].pinned
    assert folder.verify(saved).state == "complete"
    assert not pin(saved, False).pinned
    assert not pin(saved, False).pinned
    with pytest.raises(StoreError, match="step 2 cannot be pinned"):
        pin(checkpoint(2, path=tmp_path / "gone" / "step-2"))


def test_what_was_deleted_can_be_had_back_for_a_week(tmp_path: Path) -> None:
    arrays = {"a": np.arange(5)}
    for step in (1, 2, 3):
        save(tmp_path, step, arrays)
    one, two, _ = folder.listed(tmp_path)
    trash.delete(tmp_path, one, NOW_S)
    deleted = trash.delete(tmp_path, two, NOW_S + 10)
    assert deleted.bytes > 0
    assert [found.step for found in folder.listed(tmp_path)] == [3]
    assert [found.step for found in trash.listed(tmp_path)] == [2, 1]
    back = trash.undo(tmp_path, deleted)
    assert (back.state, back.step) == ("complete", 2)
    np.testing.assert_array_equal(restore(back)["a"], arrays["a"])
    assert trash.empty(tmp_path, NOW_S + trash.WEEK_S) == []
    assert [found.step for found in trash.empty(tmp_path, NOW_S + trash.WEEK_S + 1)] == [1]
    assert trash.listed(tmp_path) == []
    assert [found.step for found in folder.listed(tmp_path)] == [2, 3]


def test_one_of_a_step_that_was_saved_again_is_not_overwritten(tmp_path: Path) -> None:
    deleted = trash.delete(tmp_path, save(tmp_path, 1, {"a": np.zeros(1)}))
    again = save(tmp_path, 1, {"a": np.ones(1)})
    with pytest.raises(StoreError, match="another checkpoint of step 1 now"):
        trash.undo(tmp_path, deleted)
    assert restore(again)["a"] == 1
    with pytest.raises(StoreError, match="cannot be deleted"):
        trash.delete(tmp_path, checkpoint(9, path=tmp_path / "checkpoints" / "step-9"))
    trash.empty(tmp_path, NOW_S * 2)
    with pytest.raises(StoreError, match="cannot be taken back"):
        trash.undo(tmp_path / "other", deleted)


def test_a_run_without_a_trash(tmp_path: Path) -> None:
    assert trash.listed(tmp_path) == []
    assert trash.empty(tmp_path) == []
