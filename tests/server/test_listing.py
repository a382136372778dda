"""The list of runs: complete, in order, in time, and cheap to ask for again."""

from __future__ import annotations

import json
import os
import shutil
import stat
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dlfb_lab import journal, register
from dlfb_lab.events import DeviceMemory, Notice
from dlfb_lab.record import Record
from dlfb_lab.server import feed, rows
from dlfb_lab.server import listing as listing_module
from dlfb_lab.server.folders import Stores
from dlfb_lab.server.listing import Listing
from dlfb_lab.server.rows import Pulse, Row

from .conftest import strict
from .runs import STARTED, add, evaluation, line, losses, status, story, write, write_tail

SUMMARY = {
    *("store", "run", "name", "model", "task", "device", "versions_dlfb_lab", "state", "life", "reason"),
    *("started_s", "updated_s", "elapsed_s", "step", "steps_total", "best", "scores", "baseline", "curve", "valid"),
    *("warnings", "memory", "members", "reading", "parent", "parent_step", "checkpoints"),
}


@pytest.fixture
def listing(store: Path) -> Listing:
    return Listing(Stores())


def told(listing: Listing) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    beside, texts = listing.answer()
    return beside, [strict(text) for text in texts]


def runs(listing: Listing) -> list[dict[str, Any]]:
    return told(listing)[1]


def dated(store: Path, name: str, started_s: float, **given: Any) -> Path:
    return write(store, name, [replace(STARTED, name=name, time_s=started_s, **given), status(0, "running")])


def test_a_row_has_all_that_the_contract_names(store: Path, listing: Listing) -> None:
    memory = DeviceMemory(step=0, device="cuda:0", device_kind="H100", in_use_bytes=5.0)
    run = write(store, events=[*story(), memory, replace(memory, in_use_bytes=7.0)])
    (row,) = runs(listing)
    assert set(row) == SUMMARY
    assert (row["store"], row["run"], row["name"], row["state"]) == (register.key(store), run.name, "mlp", "finished")
    assert row["memory"][0]["in_use_bytes"] == 7.0 and row["memory"][0]["limit_bytes"] == "NaN"
    assert row["reading"] is False


def test_runs_of_all_stores_come_newest_first(store: Path, listing: Listing, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    register.note(other)
    for place, name, started_s in [(store, "b", 30.0), (other, "a", 10.0), (store, "d", 40.0), (other, "c", 20.0)]:
        dated(place, name, started_s)
    assert [row["name"] for row in runs(listing)] == ["d", "b", "c", "a"]
    assert [row["store"] for row in runs(listing)] == [register.key(place) for place in (store, store, other, other)]


def test_a_store_that_is_reached_by_two_paths_is_told_once(store: Path, listing: Listing, tmp_path: Path) -> None:
    write(store)
    (tmp_path / "link").symlink_to(store)
    register.note(tmp_path / "link")
    beside, rows = told(listing)
    assert len(rows) == 1 and len(beside["stores"]) == 2


def test_what_is_no_run_is_left_out(store: Path, listing: Listing, tmp_path: Path) -> None:
    (store / "notes").mkdir()
    (store / "file").touch()
    (store / "empty").mkdir()
    (store / "empty" / journal.EVENTS).touch()
    (store / "no plan").mkdir()
    write(store, "unplanned", text=b'{"kind": "status", "step": 0, "time_s": 1, "state": "running"}\n')
    (store / ".hidden").mkdir()
    shutil.copy(write(tmp_path, "x") / journal.EVENTS, store / ".hidden")
    (store / "linked").symlink_to(write(tmp_path, "elsewhere"))
    assert told(listing)[0] == {
        "stores": [{"store": register.key(store), "path": str(store), "problem": ""}],
        "reading": 0,
        "hidden": 0,
    }
    assert runs(listing) == []


def test_a_new_run_and_a_run_that_is_gone_show_at_once(store: Path, listing: Listing) -> None:
    assert runs(listing) == []
    first = write(store, "first")
    assert [row["name"] for row in runs(listing)] == ["first"]
    time.sleep(0.02)
    write(store, "second")
    assert {row["name"] for row in runs(listing)} == {"first", "second"}
    shutil.rmtree(first)
    assert [row["name"] for row in runs(listing)] == ["second"]


def test_a_store_is_listed_again_only_when_it_has_changed(
    store: Path, listing: Listing, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(store, "first")
    os.utime(store, (1e9, 1e9))
    scanned: list[Any] = []
    scan = os.scandir

    def counting(path: Any) -> Any:
        scanned.append(path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", counting)
    for _ in range(5):
        assert len(runs(listing)) == 1
    assert [path for path in scanned if path == str(store)] == [str(store)]
    write(store, "second")
    assert len(runs(listing)) == 2


def test_a_register_that_changes_is_seen(store: Path, listing: Listing, tmp_path: Path) -> None:
    assert len(told(listing)[0]["stores"]) == 1
    register.note(tmp_path / "another")
    assert len(told(listing)[0]["stores"]) == 2
    register.forget(register.key(tmp_path / "another"))
    assert len(told(listing)[0]["stores"]) == 1


def test_without_a_register_there_is_nothing(tmp_path: Path) -> None:
    assert told(Listing(Stores())) == ({"stores": [], "reading": 0, "hidden": 0}, [])


def problem(listing: Listing) -> str:
    (told_store,) = told(listing)[0]["stores"]
    return str(told_store["problem"])


def test_a_store_that_is_gone_says_so_and_comes_back(store: Path, listing: Listing) -> None:
    write(store)
    assert problem(listing) == "" and len(runs(listing)) == 1
    store.rename(store.with_name("away"))
    assert "is not there" in problem(listing) and runs(listing) == []
    store.with_name("away").rename(store)
    assert problem(listing) == "" and len(runs(listing)) == 1


def test_a_store_that_is_a_file_says_so(store: Path, listing: Listing) -> None:
    store.rmdir()
    store.write_text("a file")
    assert "a file where the folder was" in problem(listing)


@pytest.fixture
def sealed(store: Path) -> Iterator[Path]:
    write(store)
    store.chmod(0)
    yield store
    store.chmod(0o700)


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is closed to root")
def test_a_store_that_may_not_be_read_says_so(sealed: Path, listing: Listing) -> None:
    assert "cannot be read (Permission denied)" in problem(listing)


def test_a_store_on_a_disk_that_fails_says_so(store: Path, listing: Listing, monkeypatch: pytest.MonkeyPatch) -> None:
    scan = os.scandir

    def fails(path: Any) -> Any:
        if str(path) == str(store):
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", fails)
    assert problem(listing) == "The folder cannot be read (Permission denied)."


def test_a_run_that_goes_on_is_read_on(store: Path, listing: Listing, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write(store, events=[STARTED, status(0, "running"), losses(0, np.ones(5000))])
    assert runs(listing)[0]["step"] == 5000
    read: list[int] = []
    take = rows.lines.read

    def recording(file: Any, start: int, size: int) -> Any:
        read.append(start)
        return take(file, start, size)

    monkeypatch.setattr(rows.lines, "read", recording)
    before = (run / journal.EVENTS).stat().st_size
    assert runs(listing)[0]["step"] == 5000
    assert read == [], "nothing is opened when nothing is new"
    add(run, losses(5000, [1.0]), evaluation(5001, loss=0.25))
    (row,) = runs(listing)
    assert (row["step"], row["best"]["value"]) == (5001, 0.25)
    assert read == [before], "only what is new is read"
    add(run, status(5001, "stopped", reason="enough"))
    assert (runs(listing)[0]["state"], runs(listing)[0]["reason"]) == ("stopped", "enough")


def test_losses_without_a_line_yet_count_too(store: Path, listing: Listing) -> None:
    run = write(store, events=[STARTED, status(0, "running"), losses(0, [1.0, 2.0])])
    write_tail(run, losses(2, [3.0]))
    (row,) = runs(listing)
    assert (row["step"], row["curve"]["losses"], row["elapsed_s"]) == (3, [1.0, 2.0, 3.0], 3.0)
    write_tail(run, losses(2, [3.0, 4.0]))
    assert runs(listing)[0]["step"] == 4
    add(run, losses(2, [3.0, 4.0, 5.0]))
    assert runs(listing)[0]["curve"]["losses"] == [1.0, 2.0, 3.0, 4.0, 5.0]
    (run / journal.TAIL).unlink()
    (run / journal.TAIL).symlink_to(run / "nothing")
    assert runs(listing)[0]["step"] == 5


def test_the_summary_is_that_of_the_run_as_it_is_opened(store: Path, listing: Listing) -> None:
    run = write(store, events=[STARTED, status(0, "running"), losses(0, [1.0, 2.0]), evaluation(2)])
    write_tail(run, losses(2, [3.0]))
    journal.append_later(run, evaluation(2, split="test", look=1))
    record = Record(journal.read(run))
    (row,) = runs(listing)
    assert (row["step"], row["elapsed_s"]) == (record.step, record.elapsed_s) == (3, 3.0)
    assert row["curve"]["losses"] == record.losses()[1].tolist()
    assert set(row["scores"]) == {event.split for event in record.evaluations}


def test_a_line_that_is_being_written_waits(store: Path, listing: Listing) -> None:
    run = write(store, events=[STARTED])
    assert runs(listing)[0]["state"] == "waiting"
    whole = line(status(1, "running"))
    with open(run / journal.EVENTS, "ab", buffering=0) as file:
        file.write(whole[:10])
        assert runs(listing)[0]["state"] == "waiting"
        file.write(whole[10:])
    assert runs(listing)[0]["state"] == "running"


def test_another_journal_in_its_place_is_read_from_its_beginning(store: Path, listing: Listing) -> None:
    run = write(store, "one", story("one", 300))
    assert runs(listing)[0]["name"] == "one"
    for name, steps in (("two", 100), ("three", 5000)):
        (run / journal.EVENTS).write_bytes(b"".join(map(line, story(name, steps))))
        (row,) = runs(listing)
        assert (row["name"], row["step"]) == (name, steps)
    (run / journal.EVENTS).unlink()
    assert runs(listing) == []


def test_what_others_add_is_told_too(store: Path, listing: Listing) -> None:
    run = write(store)
    assert set(runs(listing)[0]["scores"]) == {"valid"}
    journal.append_later(run, evaluation(20, split="test", look=1, time_s=2e9, metrics={"loss": 0.7}))
    (row,) = runs(listing)
    assert row["scores"]["test"] == {"loss": 0.7}
    assert (row["elapsed_s"], row["updated_s"], row["state"]) == (20.0, 2e9, "finished")
    journal.append_later(run, evaluation(20, split="test", look=2, time_s=2.1e9, metrics={"loss": 0.6}))
    assert runs(listing)[0]["scores"]["test"] == {"loss": 0.6}
    (run / "events-bad.jsonl").symlink_to("/etc/passwd")
    assert runs(listing)[0]["scores"] == {"valid": {"loss": 0.5}}, "nothing of it while one of them is a link"


def test_what_is_left_when_the_time_is_over_is_read_by_the_next(
    store: Path, listing: Listing, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = np.ones(200)
    for number in range(6):
        told_events = [replace(STARTED, name=str(number), time_s=1.7e9 + number)]
        path = write(store, str(number), [*told_events, *(losses(first, block) for first in range(0, 60_000, 200))])
        path.rename(store / f"run-20260101-00000{number}-0000")
    monkeypatch.setattr(listing_module, "BUDGET_S", 0.0)
    monkeypatch.setattr(listing_module, "GRACE_S", 0.002)
    monkeypatch.setattr(rows, "HEAD", 3000)
    monkeypatch.setattr(rows.lines, "PIECE", 100_000)
    beside, rows_told = told(listing)
    assert [row["name"] for row in rows_told] == list("543210"), "all are there at once, as far as they are known"
    assert beside["reading"] > 0
    assert {row["reading"] for row in rows_told[1:]} == {True}
    assert rows_told[-1]["step"] < 60_000
    left = [beside["reading"]]
    for _ in range(200):
        beside, rows_told = told(listing)
        left.append(beside["reading"])
        done = [not row["reading"] for row in rows_told]
        assert done == sorted(done, reverse=True), "the newest first"
        if not left[-1]:
            break
    assert left[-1] == 0 and left == sorted(left, reverse=True)
    assert {row["step"] for row in rows_told} == {60_000}


def test_the_first_answer_over_many_journals_tells_of_all(
    store: Path, listing: Listing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing_module, "HEADS_S", 60.0)
    block = np.ones(20)
    text = b"".join(map(line, [STARTED, *(losses(first, block) for first in range(0, 400_000, 20))]))
    for number in range(12):
        write(store, f"n{number}", text=text)
    beside, texts = listing.answer()
    assert len(texts) == 12
    assert beside["reading"] == sum(strict(text)["reading"] for text in texts)


def test_at_most_200_are_told_and_the_rest_is_counted(
    store: Path, listing: Listing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing_module, "MOST_RUNS", 5)
    monkeypatch.setattr(listing_module, "MOST_ROWS", 7)
    for number in range(12):
        path = dated(store, str(number), 1.6e9 + number)
        path.rename(store / f"run-20260101-0000{number:02}-abcd")
    beside, rows_told = told(listing)
    assert [row["name"] for row in rows_told] == ["11", "10", "9", "8", "7"]
    assert beside["hidden"] == 7
    for number in range(7, 12):
        shutil.rmtree(store / f"run-20260101-0000{number:02}-abcd")
    assert [row["name"] for row in told(listing)[1]] == ["6", "5", "4", "3", "2"]
    assert len(listing._rows) == 7, "of the others nothing is kept"


def test_a_folder_without_a_stamp_in_its_name_is_as_new_as_it_is(
    store: Path, listing: Listing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing_module, "MOST_RUNS", 1)
    for name, at in (("old", 1.0e9), ("new", 1.5e9)):
        path = dated(store, name, at).rename(store / name)
        os.utime(path, (at, at))
    dated(store, "stamped", 1.2e9).rename(store / "x-20080110-000000-0000")
    assert [row["name"] for row in runs(listing)] == ["new"]


def test_of_a_journal_too_long_the_beginning_and_the_end_count(
    store: Path, listing: Listing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows.lines, "BEGINNING", 4000)
    monkeypatch.setattr(rows.lines, "END", 8000)
    monkeypatch.setattr(rows, "HEAD", 1000)
    many = [
        STARTED,
        status(0, "running"),
        *(losses(n, [float(n)]) for n in range(400)),
        evaluation(400),
        status(400, "finished"),
    ]
    write(store, events=many)
    (row,) = runs(listing)
    assert (row["name"], row["step"], row["state"], row["best"]["step"]) == ("mlp", 400, "finished", 400)


def test_five_gigabytes_are_listed_in_time(store: Path, listing: Listing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows.lines, "END", 4 << 20)
    run = write(store, events=[STARTED])
    with open(run / journal.EVENTS, "r+b") as file:
        file.seek(5_000_000_000)
        file.write(b"\n" + line(losses(10, [1.0])))
    (row,) = runs(listing)
    assert (row["name"], row["step"]) == ("mlp", 11)


def test_a_journal_with_nothing_but_a_hole_at_its_end_is_read_once_and_in_time(
    store: Path, listing: Listing, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write(store)
    os.truncate(run / journal.EVENTS, 5_000_000_000)
    while told(listing)[0]["reading"]:
        pass
    (row,) = runs(listing)
    assert (row["name"], row["state"]) == ("mlp", "finished")
    with open(run / journal.EVENTS, "ab") as file:
        file.write(b"\n" + line(status(20, "stopped")))
    read: list[int] = []
    take = rows.lines.read

    def recording(file: Any, start: int, size: int) -> Any:
        read.append(size - start)
        return take(file, start, size)

    monkeypatch.setattr(rows.lines, "read", recording)
    assert runs(listing)[0]["state"] == "stopped"
    assert max(read) < 1000, "only what is new"


def test_a_hole_keeps_to_the_time_for_reading(store: Path, listing: Listing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing_module, "BUDGET_S", 0.05)
    monkeypatch.setattr(listing_module, "GRACE_S", 0.0)
    monkeypatch.setattr(rows.lines, "PIECE", 1 << 10)
    os.truncate(write(store) / journal.EVENTS, 5_000_000_000)
    assert told(listing)[0]["reading"] == 1


HUGE = b"1" + b"0" * 400
ODD = {
    "no versions": b'{"kind": "run_started", "time_s": 1, "versions": null, "name": "x"}',
    "versions in a list": b'{"kind": "run_started", "time_s": 1, "versions": [], "name": "x"}',
    "a huge time": b'{"kind": "status", "state": "failed", "step": 1, "time_s": %s}' % HUGE,
    "a huge metric": b'{"kind": "evaluation", "split": "valid", "step": 1, "time_s": 1, "metrics": {"loss": %s}}'
    % HUGE,
    "a huge duration": b'{"kind": "losses", "step": 21, "first_step": 20, "time_s": 1, "losses": "f4:AAAAAA==", '
    b'"duration_s": %s}' % HUGE,
    "a huge step": b'{"kind": "losses", "step": %s, "first_step": 20, "time_s": 1, "losses": "f4:AAAAAA=="}' % HUGE,
    "dispatches without end": b'{"kind": "losses", "step": 21, "first_step": 20, "time_s": 1, "losses": "f4:AAAAAA==", '
    b'"dispatches": 1e999}',
    "deep": b'{"kind": "status", "state": "finished", "step": 1, "time_s": 1, "reason": %s%s}'
    % (b"[" * 900, b"]" * 900),
    "deeper": b'{"kind": "status", "state": "x", "step": 1, "time_s": 1, "reason": %s}' % (b"[" * 90_000),
}


@pytest.mark.parametrize("name", ["events.jsonl", "events-0a1b2c3d.jsonl"])
@pytest.mark.parametrize("odd", ODD.values(), ids=ODD.keys())
def test_an_odd_line_spoils_neither_the_list_nor_the_run(store: Path, listing: Listing, odd: bytes, name: str) -> None:
    run = write(store)
    write(store, "other")
    with open(run / name, "ab") as file:
        file.write(odd + b"\n")
    assert {row["name"] for row in runs(listing)} == {"mlp", "other"}
    assert feed.read(run, "")["events"]


def test_a_huge_time_has_no_place_among_additions(store: Path) -> None:
    run = write(store)
    (run / "events-a.jsonl").write_bytes(b'{"kind": "notice", "step": 1, "time_s": %s, "text": "odd"}\n' % HUGE)
    journal.append_later(run, Notice(step=1, level="info", text="even"))
    assert [event["text"] for event in feed.read(run, "")["events"][-2:]] == ["odd", "even"]


def test_a_file_that_names_no_writer_spoils_nothing(store: Path, listing: Listing) -> None:
    (write(store) / "writer.json").write_bytes(b"[" * 100_000)
    assert runs(listing)[0]["life"] in ("gone", "unknown")


def test_a_run_that_fails_for_any_reason_is_left_out_and_logged_once(
    store: Path, listing: Listing, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bad = write(store, "bad")
    write(store, "good")
    text = Row.text

    def fails(row: Row, store: str, run: str, life: Any) -> str:
        if run == bad.name:
            raise RuntimeError("never thought of")
        return text(row, store, run, life)

    monkeypatch.setattr(Row, "text", fails)
    for _ in range(3):
        assert [row["name"] for row in runs(listing)] == ["good"]
    (logged,) = caplog.records
    assert str(bad) in logged.getMessage() and "never thought of" in caplog.text


def test_folders_that_are_no_runs_are_read_once(store: Path, listing: Listing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing_module, "MOST_ROWS", 3)
    for number in range(20):
        (store / f"n{number}").mkdir()
        (store / f"n{number}" / journal.EVENTS).write_bytes(b'{"kind": "other"}\n')
    write(store, "run").rename(store / "run-20000101-000000-0000")
    assert len(runs(listing)) == 1
    read: list[str] = []
    take = rows.opened

    def recording(folder: Path, name: str) -> Any:
        read.append(folder.name)
        return take(folder, name)

    monkeypatch.setattr(rows, "opened", recording)
    assert len(runs(listing)) == 1
    assert read == []
    (store / "n7" / journal.EVENTS).write_bytes(line(STARTED))
    assert len(runs(listing)) == 2
    assert set(read) == {"n7"}


def test_the_beginnings_of_journals_keep_to_a_time_too(
    store: Path, listing: Listing, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        write(store, str(number))
    monkeypatch.setattr(listing_module, "HEADS_S", -1.0)
    beside, rows_told = told(listing)
    assert (beside["reading"], rows_told) == (5, [])
    monkeypatch.setattr(listing_module, "HEADS_S", 1.0)
    assert len(runs(listing)) == 5


def test_a_run_that_ends_while_it_is_read_has_not_broken_off(
    store: Path, listing: Listing, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write(store, events=story()[:-1])
    lives = ["alive"]
    monkeypatch.setattr(journal, "liveness", lambda _: lives[-1])
    monkeypatch.setattr(listing_module, "LOOK_S", 0.0)
    read = Row.read

    def ends(row: Row, deadline_s: float) -> None:
        read(row, deadline_s)
        add(run, status(20, "finished"))
        lives.append("gone")

    monkeypatch.setattr(Row, "read", ends)
    (row,) = runs(listing)
    assert (row["state"], row["life"]) == ("running", "alive")


def test_the_life_of_a_run_is_that_of_its_kernel(store: Path, listing: Listing) -> None:
    run = write(store, events=story()[:-1])
    assert runs(listing)[0]["life"] == "alive", "this process wrote it"
    writer = run / "writer.json"
    for text, life in [
        ('{"host": "another-machine", "pid": 1, "created_s": 1.0}', "elsewhere"),
        (json.dumps(json.loads(writer.read_text()) | {"created_s": 1.0, "start": "another"}), "gone"),
        ("{", "gone"),
    ]:
        writer.write_text(text)
        assert Pulse(run).life() == life
    writer.unlink()
    assert Pulse(run).life() == "gone"


def test_a_process_is_looked_at_once_a_second_and_the_dead_once(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write(store)
    looks: list[Path] = []
    lives = {"now": "alive"}

    def look(path: Path) -> Any:
        looks.append(path)
        return lives["now"]

    monkeypatch.setattr(journal, "liveness", look)
    monkeypatch.setattr(rows, "LOOK_S", 0.05)
    pulse = Pulse(run)
    for _ in range(20):
        assert pulse.life(10) == "alive"
    assert len(looks) == 1
    lives["now"] = "gone"
    assert pulse.life(0) == "gone" and len(looks) == 2
    for _ in range(20):
        assert pulse.life(0) == "gone"
    assert len(looks) == 2
    lives["now"] = "alive"
    (run / "writer.json").write_text('{"somebody": "else"}')
    assert pulse.life(0) == "alive", "another process writes it now"


def test_what_cannot_be_told_just_now_is_asked_again(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write(store)
    lives = {"now": "unknown"}
    monkeypatch.setattr(journal, "liveness", lambda _: lives["now"])
    pulse = Pulse(run)
    assert pulse.life(0) == "unknown"
    lives["now"] = "alive"
    assert pulse.life(0) == "alive"
    lives["now"] = "unknown"
    assert pulse.life(0) == "alive", "the last that was known"
    lstat = os.lstat

    def fails(path: Any) -> Any:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "lstat", fails)
    assert pulse.life(0) == "alive"
    monkeypatch.setattr(os, "lstat", lstat)
    lives["now"] = "gone"
    assert pulse.life(0) == "gone"


def test_a_row_is_encoded_again_only_when_it_has_changed(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write(store)
    row = Row(run)
    row.read(time.monotonic() + 10)
    text = row.text("s", "r", "alive")
    assert row.text("s", "r", "alive") is text
    assert strict(row.text("s", "r", "gone"))["life"] == "gone"
    add(run, Notice(step=20, level="warning", text="look"))
    row.read(time.monotonic() + 10)
    assert strict(row.text("s", "r", "alive"))["warnings"] == 1


def test_names_of_people_are_kept(store: Path, listing: Listing) -> None:
    name = 'Läufer 名前 "x" </script> \u2028'
    dated(store, name, 1.0)
    assert runs(listing)[0]["name"] == name
    assert stat.S_ISDIR(store.stat().st_mode)
