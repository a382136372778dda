"""The checkpoints of runs, as the server lists and changes them."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dlfb_lab import register
from dlfb_lab.checkpoints import folder, trash
from dlfb_lab.checkpoints.folder import FOLDER, MANIFEST
from dlfb_lab.checkpoints.manifest import dumped, parsed
from dlfb_lab.checkpoints.trash import TRASH, WEEK_S
from dlfb_lab.events import CheckpointSaved

from .runs import STARTED, checkpoint, status, story, write

SECRET = "s3cr3t"


def address(run: Path) -> str:
    return f"runs/{register.key(run.parent)}/{run.name}/checkpoints"


@pytest.fixture
def saved(run: Path) -> Path:
    """A run with three checkpoints, the second of which is the best."""
    for step, loss in ((10, 0.6), (15, 0.4), (20, 0.5)):
        checkpoint(run, step, loss)
    return run


async def change(ask: Any, run: Path, action: str, name: str = "") -> Any:
    return await ask(address(run), "POST", {"action": action, "name": name})


async def listed(ask: Any, run: Path) -> dict[int, dict[str, Any]]:
    answer = await ask(address(run))
    assert answer.status == 200
    return {one["step"]: one for one in answer.json["checkpoints"]}


async def verified(ask: Any, run: Path) -> dict[int, dict[str, Any]]:
    """Waits until nothing is being verified."""
    end = time.monotonic() + 20
    while True:
        found = await listed(ask, run)
        if not any(one["verifying"] for one in found.values()):
            return found
        assert time.monotonic() < end
        await asyncio.sleep(0.02)


async def test_a_run_opens_to_its_checkpoints(ask: Any, saved: Path) -> None:
    told = (await ask(address(saved))).json
    assert set(told) == {
        *("version", "schema", "run", "folder", "below", "source", "monitor", "checkpoints", "trash"),
    }
    assert (told["folder"], told["monitor"], told["trash"]) == (str(saved), "valid/loss", [])
    latest, best, first = told["checkpoints"]
    assert [one["step"] for one in told["checkpoints"]] == [20, 15, 10]
    assert list(latest["metrics"].items()) == [("valid/loss", 0.5), ("valid/accuracy", 0.5)]
    assert latest["bytes"] == 1000 + (saved / FOLDER / "step-20" / "checkpoint.json").stat().st_size
    assert (latest["state"], latest["saved_s"], latest["why"]) == ("complete", STARTED.time_s + 20, "")
    assert (latest["kept"], latest["protected"]) == ("the latest", "it is the latest")
    assert (best["kept"], best["protected"]) == ("the best by valid/loss", "it is the best by valid/loss")
    assert (first["kept"], first["protected"], first["pinned"], first["verifying"]) == ("", "", False, False)


async def test_each_state_is_told_with_its_reason(ask: Any, saved: Path) -> None:
    checkpoint(saved, 30, finite=False)
    (saved / FOLDER / ".step-40-1f3c" / "arrays").mkdir(parents=True)
    (saved / FOLDER / ".step-40-1f3c" / "arrays" / "d").write_bytes(bytes(10))
    (saved / FOLDER / "step-10" / "arrays" / "d" / "data").write_bytes(b"cut")
    newer = saved / FOLDER / "step-15" / "checkpoint.json"
    newer.write_text(newer.read_text().replace('"version": 1', '"version": 9'))
    found = await listed(ask, saved)
    assert {step: one["state"] for step, one in found.items()} == {
        **{40: "partial", 30: "not finite", 20: "complete", 15: "newer", 10: "damaged"}
    }
    assert found[10]["why"] == "arrays/d/data has 3 bytes, not 1,000."
    assert "Update dlfb-lab" in found[15]["why"] and found[30]["why"] == "w: NaN or infinity."
    assert (found[40]["bytes"], found[40]["kept"], found[40]["saved_s"]) == (10, "", None)


async def test_a_run_without_checkpoints_has_none(ask: Any, run: Path) -> None:
    told = (await ask(address(run))).json
    assert (told["checkpoints"], told["trash"]) == ([], [])
    assert (await change(ask, run, "verify")).status == 200
    answer = await change(ask, run, "delete", "step-1")
    assert (answer.status, answer.json["code"]) == (200, "no_checkpoint")
    assert answer.json["message"] == f"{run.name} has no checkpoint of step 1 (any more)."


async def test_one_is_pinned_and_let_go(ask: Any, saved: Path) -> None:
    one = (await change(ask, saved, "pin", "step-10")).json["checkpoints"][-1]
    assert one["pinned"] and one["kept"] == ""
    best = (await change(ask, saved, "pin", "step-15")).json["checkpoints"][1]
    assert best["pinned"] and best["kept"] == "the best by valid/loss"
    answer = await change(ask, saved, "delete", "step-10")
    assert (answer.status, answer.json["code"]) == (409, "kept")
    assert answer.json["message"] == ("The checkpoint of step 10 cannot be deleted: it is pinned; unpin it first.")
    assert not (await change(ask, saved, "unpin", "step-10")).json["checkpoints"][-1]["pinned"]


async def test_one_is_deleted_and_taken_back(ask: Any, saved: Path) -> None:
    told = (await change(ask, saved, "delete", "step-10")).json
    assert [one["step"] for one in told["checkpoints"]] == [20, 15]
    (deleted,) = told["trash"]
    assert (deleted["step"], deleted["until_s"] - deleted["deleted_s"]) == (10, WEEK_S)
    assert deleted["bytes"] > 1000 and abs(deleted["deleted_s"] - time.time()) < 60
    again = await change(ask, saved, "delete", "step-10")
    assert again.json["code"] == "no_checkpoint", "a second click"
    told = (await change(ask, saved, "undo", deleted["name"])).json
    assert [one["step"] for one in told["checkpoints"]] == [20, 15, 10] and told["trash"] == []
    again = await change(ask, saved, "undo", deleted["name"])
    assert again.json["code"] == "no_checkpoint" and "not in the trash" in again.json["message"]


async def test_one_that_was_never_whole_is_deleted_and_taken_back(ask: Any, saved: Path) -> None:
    name = ".step-20-1f3c"
    (saved / FOLDER / name).mkdir()
    (saved / "writer.json").unlink()
    told = (await change(ask, saved, "delete", name)).json
    assert [one["step"] for one in told["trash"]] == [20] and len(told["checkpoints"]) == 3
    told = (await change(ask, saved, "undo", told["trash"][0]["name"])).json
    assert [one["state"] for one in told["checkpoints"]] == ["partial", "complete", "complete", "complete"]


async def test_one_that_may_be_being_saved_is_not_deleted(ask: Any, saved: Path) -> None:
    (saved / FOLDER / ".step-30-1f3c").mkdir()
    one = (await listed(ask, saved))[30]
    assert (one["state"], one["why"]) == ("partial", "It is being saved, or was not saved to its end.")
    answer = await change(ask, saved, "delete", ".step-30-1f3c")
    assert answer.json["code"] == "kept" and answer.json["message"].endswith(
        "its kernel is still there, and may be saving it."
    )


async def test_two_of_a_step_deleted_in_one_second_are_both_kept(
    ask: Any, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = time.time()
    monkeypatch.setattr(trash.time, "time", lambda: now_s)
    await change(ask, saved, "delete", "step-10")
    checkpoint(saved, 10, 0.9)
    told = (await change(ask, saved, "delete", "step-10")).json
    assert [one["step"] for one in told["trash"]] == [10, 10]
    checkpoint(saved, 10, 0.8)
    answer = await change(ask, saved, "undo", told["trash"][0]["name"])
    assert (answer.status, answer.json["code"]) == (409, "not_written")
    assert "another checkpoint of step 10 now" in answer.json["message"]


async def test_both_of_two_clicks_at_once_are_answered(ask: Any, saved: Path) -> None:
    answers = await asyncio.gather(*(change(ask, saved, "delete", "step-10") for _ in range(4)))
    assert sorted(answer.json.get("code", "") for answer in answers) == ["", *["no_checkpoint"] * 3]
    assert len(trash.listed(saved)) == 1


@pytest.mark.parametrize(("name", "kept"), [("step-20", "the latest"), ("step-15", "the best by valid/loss")])
async def test_what_is_kept_is_not_deleted(ask: Any, saved: Path, name: str, kept: str) -> None:
    answer = await change(ask, saved, "delete", name)
    assert (answer.status, answer.json["code"]) == (409, "kept")
    assert answer.json["message"].endswith(f"cannot be deleted: it is {kept}.")
    assert (saved / FOLDER / name).is_dir()


async def test_of_a_run_that_is_being_trained_none_is_deleted(ask: Any, store: Path) -> None:
    run = write(store, events=story()[:-1])
    checkpoint(run, 10, 0.9)
    checkpoint(run, 20, 0.1)
    assert {one["protected"] for one in (await listed(ask, run)).values()} == {
        "the run is being trained, and looks after its checkpoints itself"
    }
    assert (await change(ask, run, "delete", "step-10")).json["code"] == "kept"
    assert (await change(ask, run, "pin", "step-10")).status == 200


async def test_what_a_run_in_training_began_from_is_not_deleted(ask: Any, saved: Path, store: Path) -> None:
    began = replace(STARTED, name="child", parent=saved.name, parent_step=10)
    child = write(store, "child", [began, status(10, "running")])
    other = write(store, "other", [replace(began, parent="elsewhere"), status(10, "running")])
    found = await listed(ask, saved)
    assert found[10]["protected"] == f"{child.name}, which is being trained, began from it"
    assert other.name not in found[10]["protected"]
    answer = await change(ask, saved, "delete", "step-10")
    assert (answer.status, answer.json["code"]) == (409, "kept")
    (child / "writer.json").unlink()
    time.sleep(1.1)  # whether its process lives is looked at once a second
    assert (await listed(ask, saved))[10]["protected"] == ""


async def test_a_run_elsewhere_that_is_silent_is_not_taken_to_go_on(ask: Any, store: Path) -> None:
    run = write(store, events=story()[:-1])
    checkpoint(run, 10, 0.9)
    checkpoint(run, 20, 0.1)
    (run / "writer.json").write_text(json.dumps({"host": "far-away", "pid": 1, "created_s": 1.0}))
    assert "being trained" in (await listed(ask, run))[10]["protected"]
    os.utime(run / "events.jsonl", (1.0, 1.0))
    assert (await listed(ask, run))[10]["protected"] == ""


async def test_damage_is_found_by_verifying(ask: Any, saved: Path) -> None:
    (saved / FOLDER / "step-10" / "arrays" / "d" / "data").write_bytes(bytes(999) + b"x")
    answer = await change(ask, saved, "verify")
    assert answer.status == 200
    found = await verified(ask, saved)
    assert {step: one["state"] for step, one in found.items()} == {20: "complete", 15: "complete", 10: "damaged"}
    assert found[10]["why"] == "arrays/d/data is not as it was written: its checksum differs."
    assert all(abs(one["verified_s"] - time.time()) < 60 for one in found.values())
    (saved / FOLDER / "step-10" / "arrays" / "d" / "data").write_bytes(bytes(1000))
    await change(ask, saved, "verify", "step-10")
    assert (await verified(ask, saved))[10]["state"] == "complete"


async def test_damage_is_told_where_it_cannot_be_noted(ask: Any, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (saved / FOLDER / "step-10" / "arrays" / "d" / "data").write_bytes(bytes(999) + b"x")
    monkeypatch.setattr(Path, "write_text", read_only)
    await change(ask, saved, "verify", "step-10")
    found = await verified(ask, saved)
    assert not (saved / FOLDER / "step-10" / "damage.json").exists()
    assert found[10]["state"] == "damaged" and "checksum differs" in found[10]["why"]
    saved_again = checkpoint(saved, 11)
    shutil.rmtree(saved / FOLDER / "step-10")
    manifest = parsed((saved_again / MANIFEST).read_bytes())
    saved_again.rename(saved / FOLDER / "step-10")
    (saved / FOLDER / "step-10" / MANIFEST).write_bytes(dumped(replace(manifest, step=10)))
    assert (await listed(ask, saved))[10]["state"] == "complete", "another one of that step"


def read_only(*_: Any, **__: Any) -> Any:
    raise OSError(30, "Read-only file system")


async def test_verifying_holds_nobody_up(
    ask: Any, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long a disk takes: neither who asks, nor another store."""
    other_store = tmp_path / "other"
    other_store.mkdir()
    register.note(other_store)
    other = write(other_store)
    checkpoint(other, 10)
    hangs = threading.Event()
    begun: list[Path] = []

    def slow(found: Any, verify: Callable[[Any], Any] = folder.verify) -> Any:
        begun.append(found.path)
        if found.path.is_relative_to(saved):
            hangs.wait(20)
        return verify(found)

    monkeypatch.setattr(folder, "verify", slow)
    try:
        await change(ask, saved, "verify")
        await change(ask, saved, "verify")
        await change(ask, other, "verify")
        assert (await verified(ask, other))[10]["verified_s"] is not None
        assert {one["verifying"] for one in (await listed(ask, saved)).values()} == {True}
        assert (await change(ask, saved, "pin", "step-10")).status == 200
    finally:
        hangs.set()
    assert all(one["verified_s"] for one in (await verified(ask, saved)).values())
    assert len(begun) == 4, "the second click asked for nothing more"


async def test_one_that_goes_while_it_is_verified_is_not_damaged(
    ask: Any, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(found: Any, verify: Callable[[Any], Any] = folder.verify) -> Any:
        shutil.rmtree(found.path)
        return verify(found)

    monkeypatch.setattr(folder, "verify", gone)
    await change(ask, saved, "verify", "step-10")
    assert sorted(await verified(ask, saved)) == [15, 20]


async def test_the_trash_is_emptied_of_what_is_old(ask: Any, saved: Path) -> None:
    old = trash.delete(saved, folder.listed(saved)[0], time.time() - WEEK_S - 10)
    assert (await ask(address(saved))).json["trash"] == []
    assert not old.path.exists()
    old = trash.delete(saved, folder.listed(saved)[0], time.time() - WEEK_S - 10)
    assert (await ask(address(saved).removesuffix("/checkpoints"))).status == 200, "also when the run is opened"
    assert not old.path.exists()


async def test_a_store_that_cannot_be_written_is_said(ask: Any, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("rename", "touch", "mkdir"):
        monkeypatch.setattr(Path, name, read_only)
    for action in ("pin", "delete"):
        answer = await change(ask, saved, action, "step-10")
        assert (answer.status, answer.json["code"]) == (409, "not_written")
        assert answer.json["message"].startswith("The checkpoint of step 10 cannot be ")
        assert "(Read-only file system)" in answer.json["message"]


async def test_a_run_that_is_gone_is_said(ask: Any, saved: Path) -> None:
    shutil.rmtree(saved)
    for answer in (await ask(address(saved)), await change(ask, saved, "delete", "step-10")):
        assert (answer.status, answer.json["code"]) == (200, "no_run")


@pytest.mark.parametrize(
    "body",
    [
        *("", "null", "[]", "7", '"delete"', "{}", '{"action": "delete"}', '{"action": "undo", "name": ""}'),
        *('{"action": "burn", "name": "step-10"}', '{"action": "pin", "name": 7}', '{"action": ["pin"]}', "[" * 5000),
        '{"action": "pin", "name": "step-10", "more": "' + "x" * 10_000 + '"}',
    ],
)
async def test_what_is_no_request_is_refused(ask: Any, saved: Path, body: str) -> None:
    answer = await ask(address(saved), "POST", body)
    assert (answer.status, answer.json["code"]) == (400, "bad_action")


@pytest.mark.parametrize(
    "name",
    ["..", ".", "/", "../..", "step-10/..", "step-10/arrays", TRASH, "step-\u0661\u0660", "step-10\n", "*", "a" * 5000],
)
async def test_no_other_name_is_a_checkpoint(ask: Any, saved: Path, name: str) -> None:
    before = everything(saved)
    for action in ("verify", "pin", "delete", "undo"):
        answer = await change(ask, saved, action, name)
        assert answer.json["code"] == "no_checkpoint"
        assert len(answer.json["message"]) < 300
    assert everything(saved) == before


def everything(folder: Path) -> dict[str, Any]:
    return {
        str(path.relative_to(folder)): os.readlink(path)
        if path.is_symlink()
        else path.read_bytes()
        if path.is_file()
        else None
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A run beside the store that must be left alone: it has checkpoints, and a trash in which one is old."""
    store = tmp_path / "outside"
    store.mkdir()
    run = write(store, "private")
    run = run.rename(store / "run")
    for step in (10, 15, 20):
        checkpoint(run, step)
    (run / FOLDER / "step-10" / "checkpoint.json").write_text(
        (run / FOLDER / "step-10" / "checkpoint.json").read_text() + SECRET
    )
    trash.delete(run, folder.listed(run)[0], 1000.0)
    checkpoint(run, 10)
    (run / "damage.json").write_text(json.dumps({"why": SECRET}))
    return run


def the_folder(run: Path, outside: Path) -> None:
    shutil.rmtree(run / FOLDER)
    (run / FOLDER).symlink_to(outside / FOLDER)


def a_checkpoint(run: Path, outside: Path) -> None:
    shutil.rmtree(run / FOLDER / "step-10")
    (run / FOLDER / "step-10").symlink_to(outside / FOLDER / "step-10")


def an_unfinished_one(run: Path, outside: Path) -> None:
    (run / FOLDER / ".step-9-ab").symlink_to(outside / FOLDER / "step-10")


def the_trash(run: Path, outside: Path) -> None:
    (run / FOLDER / TRASH).symlink_to(outside / FOLDER / TRASH)


def one_in_the_trash(run: Path, outside: Path) -> None:
    (run / FOLDER / TRASH).mkdir()
    (run / FOLDER / TRASH / "step-9-1000").symlink_to(outside / FOLDER / "step-10")


def its_arrays(run: Path, outside: Path) -> None:
    shutil.rmtree(run / FOLDER / "step-10" / "arrays")
    (run / FOLDER / "step-10" / "arrays").symlink_to(outside / FOLDER / "step-10" / "arrays")


def its_manifest(run: Path, outside: Path) -> None:
    (run / FOLDER / "step-10" / "checkpoint.json").unlink()
    (run / FOLDER / "step-10" / "checkpoint.json").symlink_to(outside / FOLDER / "step-10" / "checkpoint.json")


def its_manifest_a_pipe(run: Path, outside: Path) -> None:
    (run / FOLDER / "step-10" / "checkpoint.json").unlink()
    os.mkfifo(run / FOLDER / "step-10" / "checkpoint.json")


def its_note_of_damage(run: Path, outside: Path) -> None:
    (run / FOLDER / "step-10" / "damage.json").symlink_to(outside / "damage.json")


def its_pin(run: Path, outside: Path) -> None:
    (run / FOLDER / "step-10" / "pinned").symlink_to(outside / "a new file")


@pytest.mark.parametrize(
    "link",
    [
        *(the_folder, a_checkpoint, an_unfinished_one, the_trash, one_in_the_trash, its_arrays, its_manifest),
        *(its_manifest_a_pipe, its_note_of_damage, its_pin),
    ],
)
async def test_no_link_leads_outside(ask: Any, saved: Path, outside: Path, link: Callable[[Path, Path], None]) -> None:
    link(saved, outside)
    before = everything(outside)
    answers = [await ask(address(saved)), await ask(address(saved).removesuffix("/checkpoints"))]
    for action, name in [
        *(("verify", ""), ("verify", "step-10"), ("pin", "step-10"), ("unpin", "step-10"), ("delete", "step-10")),
        *(("verify", ".step-9-ab"), ("pin", ".step-9-ab"), ("delete", ".step-9-ab"), ("undo", "step-9-1000")),
        ("undo", "step-10-1000"),
    ]:
        answers.append(await change(ask, saved, action, name))
        assert set(answers[-1].json) == {"message", "code"} or "checkpoints" in answers[-1].json
    end = time.monotonic() + 20
    while any(thread.name == "dlfb-verifying" for thread in threading.enumerate()):
        assert time.monotonic() < end
        await asyncio.sleep(0.02)
    answers.append(await ask(address(saved)))
    assert everything(outside) == before
    assert not any(SECRET in answer.body.decode() for answer in answers)


@pytest.mark.parametrize("link", [the_folder, the_trash])
async def test_a_link_in_the_place_of_a_folder_is_said(
    ask: Any, saved: Path, outside: Path, link: Callable[[Path, Path], None]
) -> None:
    link(saved, outside)
    answer = await ask(address(saved))
    assert (answer.status, answer.json["code"]) == (403, "link")
    assert "is a link or something else that is no folder of its own" in answer.json["message"]


async def test_a_checkpoint_with_a_link_in_it_is_listed_and_left_alone(ask: Any, saved: Path, outside: Path) -> None:
    its_arrays(saved, outside)
    found = await listed(ask, saved)
    assert found[10]["state"] == "damaged" and "There is a link in it" in found[10]["why"]
    answer = await change(ask, saved, "pin", "step-10")
    assert (answer.status, answer.json["code"]) == (403, "link")


async def test_the_list_of_runs_says_how_many_there_are_and_where_a_run_began(ask: Any, store: Path) -> None:
    kept = CheckpointSaved(
        step=20, time_s=STARTED.time_s + 20, bytes=9, duration_s=0.1, stall_s=0.01, state="complete", kept=[10, 20]
    )
    run = write(store, events=[*story(), kept])
    child = replace(STARTED, name="child", parent=run.name, parent_step=10, time_s=STARTED.time_s + 1)
    write(store, "child", [child])
    rows = {row["name"]: row for row in (await ask("runs")).json["runs"]}
    assert (rows["mlp"]["checkpoints"], rows["mlp"]["parent"], rows["mlp"]["parent_step"]) == (2, "", 0)
    assert (rows["child"]["checkpoints"], rows["child"]["parent"], rows["child"]["parent_step"]) == (0, run.name, 10)


async def test_where_the_store_lies_is_told_as_notebooks_are_named(
    ask: Any, saved: Path, server: Any, tmp_path: Path
) -> None:
    assert (await ask(address(saved))).json["below"] is None
    store = Path(os.path.realpath(server.root_dir)) / "a folder" / "dlfb_runs"
    store.mkdir(parents=True)
    register.note(store)
    assert (await ask(address(write(store)))).json["below"] == "a folder/dlfb_runs"


@pytest.mark.parametrize(
    ("source", "told"),
    [("%dlfb_train model (x, y)", "%dlfb_train model (x, y)"), ("%%dlfb_train m d\nx = 1", ""), ("x" * 5000, "")],
)
async def test_the_line_that_began_a_run_is_told(ask: Any, store: Path, source: str, told: str) -> None:
    run = write(store, events=[replace(STARTED, source=source), *story()[1:]])
    assert (await ask(address(run))).json["source"] == told
