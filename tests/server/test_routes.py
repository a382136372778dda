"""What the routes answer."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dlfb_lab import __version__, inbox, journal, register
from dlfb_lab.events import SCHEMA
from dlfb_lab.server import feed, threads
from dlfb_lab.server.listing import Listing

from .runs import STARTED, add, lines, losses, status, story, write, write_tail


def address(run: Path) -> str:
    return f"runs/{register.key(run.parent)}/{run.name}"


async def test_the_runs_are_listed(ask: Any, run: Path, store: Path, tmp_path: Path) -> None:
    register.note(tmp_path / "gone")
    answer = await ask("runs")
    assert answer.status == 200 and answer.headers["Content-Type"].startswith("application/json")
    told = answer.json
    assert set(told) == {"version", "schema", "runs", "stores", "reading", "hidden"}
    assert (told["version"], told["schema"], told["reading"], told["hidden"]) == (__version__, SCHEMA, 0, 0)
    assert [row["run"] for row in told["runs"]] == [run.name]
    problems = {place["path"]: place["problem"] for place in told["stores"]}
    assert problems[str(store)] == "" and "is not there" in problems[str(tmp_path / "gone")]


async def test_a_run_is_read_by_cursor(ask: Any, store: Path) -> None:
    run = write(store, events=[STARTED, status(0, "running")])
    answer = await ask(address(run))
    assert answer.status == 200
    told = answer.json
    assert set(told) == {"version", "schema", "run", "life", "reset", "events", "next", "note"}
    assert (told["run"], told["life"], told["reset"], told["note"]) == (run.name, "alive", True, "")
    assert [event["kind"] for event in told["events"]] == ["run_started", "status"]
    write_tail(run, losses(0, [1.0]))
    told = (await ask(f"{address(run)}?after={told['next']}")).json
    assert told["reset"] is False and [event["kind"] for event in told["events"]] == ["losses"]
    assert (await ask(f"{address(run)}?after={told['next']}")).json["events"] == []


async def test_a_journal_with_bare_nan_is_answered_in_strict_json(ask: Any, store: Path) -> None:
    scores = b'{"loss": NaN, "a": -Infinity, "b": 1e999}'
    text = b'{"kind": "evaluation", "step": 1, "time_s": 2.0, "split": "valid", "metrics": %s, "duration_s": NaN}\n'
    run = write(store, text=lines(story()[:-1]) + text % scores)
    event = (await ask(address(run))).json["events"][-1]
    assert event["metrics"] == {"loss": "NaN", "a": "-Infinity", "b": "Infinity"}
    assert (await ask("runs")).json["runs"][0]["scores"]["valid"]["b"] == "Infinity"


@pytest.mark.parametrize("action", inbox.ACTIONS)
async def test_a_request_reaches_the_run(ask: Any, store: Path, action: str) -> None:
    run = write(store, events=story()[:-1])
    answer = await ask(f"{address(run)}/requests", "POST", {"action": action})
    assert answer.status == 200
    assert answer.json == {"version": __version__, "schema": SCHEMA, "action": action}
    assert inbox.Inbox(run).take() == [action]


@pytest.mark.parametrize("state", ["finished", "stopped", "failed"])
async def test_a_run_that_is_over_cannot_be_asked(ask: Any, store: Path, state: str) -> None:
    run = write(store, events=story()[:-1])
    assert (await ask(f"{address(run)}/requests", "POST", {"action": "pause"})).status == 200
    add(run, status(20, state))
    answer = await ask(f"{address(run)}/requests", "POST", {"action": "stop"})
    assert (answer.status, answer.json["code"]) == (409, "over")
    assert state in answer.json["message"]
    assert inbox.Inbox(run).take() == ["pause"]


async def test_a_run_whose_kernel_is_gone_cannot_be_asked(ask: Any, store: Path) -> None:
    run = write(store, events=story()[:-1])
    (run / "writer.json").unlink()
    answer = await ask(f"{address(run)}/requests", "POST", {"action": "stop"})
    assert (answer.status, answer.json["code"]) == (409, "over")
    assert "its kernel has ended" in answer.json["message"]


async def test_a_run_on_another_machine_can_be_asked(ask: Any, store: Path) -> None:
    run = write(store, events=story()[:-1])
    (run / "writer.json").write_text(json.dumps({"host": "far-away", "pid": 1, "created_s": 1.0}))
    assert (await ask(address(run))).json["life"] == "elsewhere"
    assert (await ask(f"{address(run)}/requests", "POST", {"action": "stop"})).status == 200


async def test_what_is_not_there_is_told_by_name(ask: Any, store: Path, run: Path) -> None:
    key = register.key(store)
    for path, code in [
        (f"runs/{'0' * 16}/{run.name}x", "no_store"),
        (f"runs/{key}/nothing", "no_run"),
        (f"runs/{key}/{run.name}", ""),
    ]:
        answer = await ask(path)
        assert answer.status == 200
        assert answer.json.get("code", "") == code
        assert ("version" in answer.json) == (code == "")
    (run / journal.EVENTS).unlink()
    answer = await ask(address(run))
    assert (answer.status, answer.json["code"]) == (200, "no_journal")
    assert run.name in answer.json["message"]
    shutil.rmtree(store)
    assert (await ask(address(run))).json["code"] == "no_store"


async def test_a_notebook_that_was_moved_finds_its_runs(ask: Any, run: Path, store: Path, tmp_path: Path) -> None:
    """With its folder of runs: then another store has the run, and the notebook's output names the old one."""
    old = address(run)
    moved = tmp_path / "elsewhere" / "dlfb_runs"
    moved.parent.mkdir()
    store.rename(moved)
    assert (await ask(old)).json["code"] == "no_store"
    register.note(moved)
    answer = await ask(old)
    assert answer.status == 200 and answer.json["reset"] is True
    other = await ask(f"runs/{'f' * 16}/{run.name}")
    assert other.status == 200, "also under a key that was never noted here"
    shutil.copytree(moved, tmp_path / "copy")
    register.note(tmp_path / "copy")
    assert (await ask(old)).json["code"] == "no_store", "two have it, so it is not guessed which is meant"


async def test_a_store_is_forgotten_only_when_its_folder_is_gone(ask: Any, run: Path, store: Path) -> None:
    path = f"stores/{register.key(store)}"
    answer = await ask(path, "DELETE")
    assert (answer.status, answer.json["code"]) == (409, "still_there")
    assert register.key(store) in register.stores()
    shutil.rmtree(store)
    answer = await ask(path, "DELETE")
    assert answer.status == 200 and answer.json["version"] == __version__
    assert register.stores() == {}
    assert (await ask("runs")).json["stores"] == []
    assert (await ask(path, "DELETE")).json["code"] == "no_store"
    assert (await ask("stores/x", "DELETE")).json["code"] == "bad_name"


async def test_a_store_that_became_a_dangling_link_stays(ask: Any, store: Path, tmp_path: Path) -> None:
    """A disk that is not mounted just now; whoever wants to can take the link away first."""
    store.rmdir()
    store.symlink_to(tmp_path / "disk that is away")
    answer = await ask(f"stores/{register.key(store)}", "DELETE")
    assert (answer.status, answer.json["code"]) == (409, "still_there")


async def test_the_machine_is_described(ask: Any) -> None:
    first = (await ask("devices")).json
    assert set(first) == {
        *("version", "schema", "host", "interval_s", "next", "reset", "samples", "memory_total_bytes"),
        *("disk_total_bytes", "memory_of", "missing", "gpus", "no_gpus"),
    }
    assert set(first["host"]) == {"name", "cpu_count", "disk_path"}
    end = time.monotonic() + 20
    while not (told := (await ask(f"devices?after={first['next']}")).json)["samples"]:
        assert time.monotonic() < end
        await asyncio.sleep(0.1)
    sample = told["samples"][-1]
    assert set(sample) == {"time_s", "cpu_percent", "memory_used_bytes", "disk_used_bytes", "gpus"}
    assert told["memory_total_bytes"] > sample["memory_used_bytes"] > 0
    for after in ("x", "-1", "1e9", "", "9" * 30):
        assert (await ask(f"devices?after={after}")).json["reset"] is True


async def test_what_goes_wrong_is_told_plainly_and_logged_whole(
    ask: Any, run: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: Any) -> Any:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(feed, "read", fails)
    answer = await ask(address(run))
    assert answer.status == 500
    assert answer.json == {
        "message": "Something went wrong in the Jupyter server; its log says what.",
        "code": "internal",
    }
    assert "secret detail" in caplog.text and "Traceback" in caplog.text


async def test_a_run_that_is_not_there_fills_no_log(ask: Any, store: Path, caplog: pytest.LogCaptureFixture) -> None:
    await ask(f"runs/{register.key(store)}/nothing")
    assert "Traceback" not in caplog.text


@pytest.fixture
def hung(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Reads hang of runs whose folder's path has "hung" in it, until this is set."""
    goes_on = threading.Event()
    read = feed.read

    def slow(folder: Path, *given: Any) -> Any:
        if "hung" in str(folder):
            goes_on.wait(60)
        return read(folder, *given)

    monkeypatch.setattr(feed, "read", slow)
    yield goes_on
    goes_on.set()


async def test_a_store_that_hangs_holds_up_no_other(
    ask: Any, run: Path, tmp_path: Path, hung: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "PATIENCE_S", 0.3)
    store = tmp_path / "hung"
    store.mkdir()
    register.note(store)
    stuck = write(store, events=story()[:-1])
    waiting = [asyncio.ensure_future(ask(address(stuck))) for _ in range(8)]
    await asyncio.sleep(0.1)
    for path in ("devices", "runs", address(run)):
        assert (await ask(path)).status == 200
    assert (await ask(f"{address(stuck)}/requests", "POST", {"action": "stop"})).status == 200
    assert inbox.Inbox(stuck).take() == ["stop"]
    done, left = await asyncio.wait(waiting, timeout=3)
    assert (len(done), len(left)) == (6, 2)
    for answer in done:
        assert (answer.result().status, answer.result().json["code"]) == (503, "busy")
        assert "does not answer" in answer.result().json["message"]
    hung.set()
    assert [(await answer).status for answer in left] == [200, 200]
    assert (await ask(address(stuck))).status == 200, "its places are free again"


async def test_a_stop_waits_for_no_list(ask: Any, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write(store, events=story()[:-1])
    goes_on = threading.Event()
    monkeypatch.setattr(Listing, "_answer", lambda _: goes_on.wait(30) and ({}, []))
    waiting = [asyncio.ensure_future(ask("runs")) for _ in range(6)]
    await asyncio.sleep(0.1)
    assert (await ask(f"{address(run)}/requests", "POST", {"action": "stop"})).status == 200
    goes_on.set()
    assert {answer.status for answer in await asyncio.gather(*waiting)} == {200}


async def test_long_runs_are_read_a_few_at_a_time(ask: Any, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = [write(store, f"run{n}", [STARTED, losses(0, np.full(100, n))]) for n in range(6)]
    at_once: list[int] = []
    now: list[Any] = []
    since = feed._since

    def counted(*given: Any) -> Any:
        now.append(given)
        at_once.append(len(now))
        time.sleep(0.05)
        found = since(*given)
        now.pop()
        return found

    monkeypatch.setattr(feed, "_since", counted)
    monkeypatch.setattr(feed, "LONG", 100)
    answers = await asyncio.gather(*(ask(address(run)) for run in made))
    assert [answer.json["run"] for answer in answers] == [run.name for run in made]
    assert max(at_once) == 1
    following = await asyncio.gather(*(ask(f"{address(made[0])}?after={answers[0].json['next']}") for _ in range(6)))
    assert {answer.status for answer in following} == {200}
    assert max(at_once) == 2, "what is new of a run does not wait"


async def test_a_run_that_ends_while_it_is_read_has_not_broken_off(
    ask: Any, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write(store, events=story()[:-1])
    lives = ["alive"]
    monkeypatch.setattr(journal, "liveness", lambda _: lives[-1])
    read = feed.read

    def ends(*given: Any) -> Any:
        found = read(*given)
        add(run, status(20, "finished"))
        lives.append("gone")
        return found

    monkeypatch.setattr(feed, "read", ends)
    told = (await ask(address(run))).json
    assert (told["events"][-1]["kind"], told["life"]) == ("evaluation", "alive")


async def test_many_ask_at_once_and_each_gets_all(ask: Any, store: Path) -> None:
    made = [write(store, f"run{n}", [STARTED, losses(0, np.full(100, n))]) for n in range(5)]
    answers = await asyncio.gather(*(ask(address(made[n % 5])) for n in range(40)), *(ask("runs") for _ in range(10)))
    for n, answer in enumerate(answers[:40]):
        assert answer.json["run"] == made[n % 5].name and len(answer.json["events"]) == 2
    assert all(len(answer.json["runs"]) == 5 for answer in answers[40:])
