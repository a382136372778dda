"""Attempts to read or write what is no run of a registered store."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from dlfb_lab import inbox, journal, register

from .runs import STARTED, line, story, write

SECRET = "s3cr3t-0f-s0meb0dy-else"
SECRET_EVENT = {"kind": "notice", "step": 1, "time_s": 1.0, "level": "info", "text": SECRET}


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """What must never be seen: a run, as good as any other, and files, beside the store."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "secret.txt").write_text(SECRET)
    (folder / "secret.jsonl").write_bytes(line(STARTED) + json.dumps(SECRET_EVENT).encode() + b"\n")
    hidden = write(folder, "hidden", text=(folder / "secret.jsonl").read_bytes())
    hidden.rename(folder / "run")
    (folder / journal.EVENTS).write_bytes((folder / "secret.jsonl").read_bytes())
    return folder


TRAVERSALS = [
    ("..", "outside"),
    ("..", ".."),
    (".", "."),
    ("", ""),
    ("~", "~"),
    ("/", "etc"),
    ("{store}", ".."),
    ("{store}", "."),
    ("{store}", "../outside"),
    ("{store}", "../outside/run"),
    ("{store}", "..%2foutside%2frun"),
    ("{store}", "..%252foutside%252frun"),
    ("{store}", "%2e%2e/outside/run"),
    ("{store}", "..\\outside\\run"),
    ("{store}", "....//outside//run"),
    ("{store}", "{outside}/run"),
    ("{store}", "//{outside}/run"),
    ("{store}", "/etc/passwd"),
    ("{store}", "C:\\Windows\\win.ini"),
    ("{store}", "\\\\host\\share"),
    ("{store}", "run\0"),
    ("{store}", "\0"),
    ("{store}", "{run}\0.txt"),
    ("{store}", "{run}\n"),
    ("{store}", "{run}\r\nX: y"),
    ("{store}", "{run} "),
    ("{store}", " {run}"),
    ("{store}", "{run}/"),
    ("{store}", "{run}/.."),
    ("{store}", "{run}/../../outside/run"),
    ("{store}", "{run}/events.jsonl"),
    ("{store}", "-rf"),
    ("{store}", ".hidden"),
    ("{store}", "a" * 201),
    ("{store}", "a" * 5000),
    ("{store}", "\u2025/outside/run"),
    ("{store}", "\uff0e\uff0e\uff0foutside\uff0frun"),
    ("{store}", "\u2024\u2024\u2215outside\u2215run"),
    ("{store}", "..\u2044outside\u2044run"),
    ("{store}", "\u202e{run}"),
    ("{store}", "r\u00fcn"),
    ("{store}", "*"),
    ("{store}", "?"),
    ("{store}", "${HOME}"),
    ("{store}", "$(id)"),
    ("{store}", "`id`"),
    ("{store}", "a;b"),
    ("{store}", "file:run"),
    ("../outside", "run"),
    ("{outside}", "run"),
    ("{store}/../{outside_key}", "run"),
    ("{outside_key}", "run"),
    ("0123456789abcdef", "run"),
    ("0123456789ABCDEF", "run"),
    ("{store}\0", "{run}"),
    ("{store} ", "{run}"),
    ("{STORE}", "{run}"),
    ("{store}{store}", "{run}"),
    ("*", "{run}"),
]


@pytest.mark.parametrize(("store_name", "run_name"), TRAVERSALS)
async def test_no_name_leads_outside(ask: Any, run: Path, outside: Path, store_name: str, run_name: str) -> None:
    fill = {
        "{store}": register.key(run.parent),
        "{STORE}": register.key(run.parent).upper(),
        "{run}": run.name,
        "{outside}": str(outside),
        "{outside_key}": register.key(outside),
    }
    for gap, value in fill.items():
        store_name, run_name = store_name.replace(gap, value), run_name.replace(gap, value)
    before = {path: path.read_bytes() for path in outside.rglob("*") if path.is_file()}
    once = f"{quote(store_name, safe='')}/{quote(run_name, safe='')}"
    ways = {
        once,
        f"{quote(quote(store_name, safe=''), safe='')}/{quote(quote(run_name, safe=''), safe='')}",
        # As a client sends it that cleans nothing up; a line break would end the request.
        f"{store_name}/{run_name}".translate({i: None for i in range(33)}).encode("ascii", "ignore").decode(),
    } - {f"{register.key(run.parent)}/{run.name}"}
    assert once in ways
    for way in ways:
        for path, method, body in [
            (f"runs/{way}", "GET", None),
            (f"runs/{way}/requests", "POST", '{"action": "stop"}'),
            (f"runs/{way}/checkpoints", "GET", None),
            (f"runs/{way}/checkpoints", "POST", '{"action": "verify"}'),
        ]:
            answer = await ask(path, method, body)
            # That a run is not here is an answer, and no failure, to whoever wants to read it.
            assert 400 <= answer.status < 500 or answer.status == 200, (path, answer.body)
            assert SECRET.encode() not in answer.body
            assert set(answer.json) == {"message", "code"}
    for path in (f"stores/{quote(store_name, safe='')}",):
        answer = await ask(path, "DELETE")
        assert 400 <= answer.status < 500
    assert {path: path.read_bytes() for path in outside.rglob("*") if path.is_file()} == before
    assert not (run / inbox.FILE).exists()
    assert len(register.stores()) == 1


@pytest.mark.parametrize("text", ["%ff%fe", "%c0%ae%c0%ae", "%", "%zz", "%00", "%2e%2e%5c", "a%2fb", "%u002e%u002e"])
async def test_no_odd_encoding_leads_anywhere(ask: Any, run: Path, outside: Path, text: str) -> None:
    for path in (f"runs/{register.key(run.parent)}/{text}", f"runs/{text}/{run.name}"):
        answer = await ask(path)
        assert set(answer.json) == {"message", "code"}
        assert SECRET.encode() not in answer.body


def a_linked_folder(run: Path, outside: Path) -> None:
    run.rename(run.with_name("moved"))
    run.symlink_to(outside / "run")


def a_linked_folder_within_the_store(run: Path, outside: Path) -> None:
    run.rename(run.with_name("moved"))
    run.symlink_to(run.with_name("moved"))


def a_link_that_loops(run: Path, outside: Path) -> None:
    run.rename(run.with_name("moved"))
    run.symlink_to(run.name)


def a_file_for_a_folder(run: Path, outside: Path) -> None:
    run.rename(run.with_name("moved"))
    run.write_text("not a folder")


def replaced(name: str, make: Callable[[Path, Path], None]) -> Callable[[Path, Path], None]:
    def change(run: Path, outside: Path) -> None:
        (run / name).unlink(missing_ok=True)
        make(run / name, outside)

    change.__name__ = f"{make.__name__}_{name}"
    return change


def linked_to_a_journal(path: Path, outside: Path) -> None:
    path.symlink_to(outside / "secret.jsonl")


def linked_to_a_file(path: Path, outside: Path) -> None:
    path.symlink_to(outside / "secret.txt")


def linked_nowhere(path: Path, outside: Path) -> None:
    path.symlink_to(outside / "nothing")


def linked_by_a_relative_path(path: Path, outside: Path) -> None:
    path.symlink_to(os.path.relpath(outside / "secret.jsonl", path.parent))


def linked_to_a_device(path: Path, outside: Path) -> None:
    path.symlink_to("/dev/zero")


def linked_to_this_process(path: Path, outside: Path) -> None:
    path.symlink_to("/proc/self/environ")


def a_fifo(path: Path, outside: Path) -> None:
    os.mkfifo(path)


def a_folder(path: Path, outside: Path) -> None:
    path.mkdir()


def a_socket(path: Path, outside: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


KINDS = (
    linked_to_a_journal,
    linked_to_a_file,
    linked_nowhere,
    linked_by_a_relative_path,
    linked_to_a_device,
    linked_to_this_process,
    a_fifo,
    a_folder,
    a_socket,
)
FOLDERS = (a_linked_folder, a_linked_folder_within_the_store, a_link_that_loops, a_file_for_a_folder)
READ = [replaced(name, kind) for name in (journal.EVENTS, journal.TAIL, "events-0a1b2c3d.jsonl") for kind in KINDS]


@pytest.mark.parametrize("change", [*FOLDERS, *READ], ids=lambda change: change.__name__)
async def test_nothing_but_plain_files_of_the_run_is_read(
    ask: Any, store: Path, outside: Path, change: Callable[[Path, Path], None]
) -> None:
    run = write(store, events=story()[:-1])
    address = f"runs/{register.key(store)}/{run.name}"
    cursor = (await ask(address)).json["next"]
    change(run, outside)
    for path in (address, f"{address}?after={cursor}"):
        answer = await ask(path)
        assert answer.status == 403, answer.body
        assert (answer.json["code"], SECRET.encode() in answer.body) == ("link", False)
    listed = await ask("runs")
    assert listed.status == 200
    assert SECRET.encode() not in listed.body


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
async def test_the_file_that_names_the_writer_is_read_only_if_it_is_plain(
    ask: Any, store: Path, outside: Path, kind: Callable[[Path, Path], None]
) -> None:
    run = write(store, events=story()[:-1])
    replaced("writer.json", kind)(run, outside)
    answer = await ask(f"runs/{register.key(store)}/{run.name}")
    assert (answer.status, answer.json["life"]) == (200, "gone")
    assert SECRET.encode() not in answer.body


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
async def test_a_request_is_written_into_a_plain_file_only(
    ask: Any, store: Path, outside: Path, kind: Callable[[Path, Path], None]
) -> None:
    run = write(store, events=story()[:-1])
    kind(run / inbox.FILE, outside)
    before = {path: path.read_bytes() for path in outside.rglob("*") if path.is_file()}
    answer = await ask(f"runs/{register.key(store)}/{run.name}/requests", "POST", {"action": "stop"})
    assert (answer.status, answer.json["code"]) == (409, "not_written"), answer.body
    assert {path: path.read_bytes() for path in outside.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("change", FOLDERS, ids=lambda change: change.__name__)
async def test_no_request_leaves_the_store(
    ask: Any, store: Path, outside: Path, change: Callable[[Path, Path], None]
) -> None:
    run = write(store, events=story()[:-1])
    change(run, outside)
    answer = await ask(f"runs/{register.key(store)}/{run.name}/requests", "POST", {"action": "stop"})
    assert answer.status == 403
    assert not (outside / "run" / inbox.FILE).exists()


async def test_a_file_that_is_no_journal_says_nothing(ask: Any, store: Path, outside: Path) -> None:
    """A hard link cannot be told from a file; what is in it is no event, and is not passed on."""
    run = write(store)
    (run / journal.EVENTS).unlink()
    os.link(outside / "secret.txt", run / journal.EVENTS)
    with open(run / journal.EVENTS, "a") as file:
        file.write(f'\n{{"password": "{SECRET}"}}\n["{SECRET}"]\n"{SECRET}"\n')
    answer = await ask(f"runs/{register.key(store)}/{run.name}")
    assert answer.json["events"] == []
    assert SECRET.encode() not in answer.body
    assert "4 lines" in answer.json["note"]


async def test_a_store_that_is_itself_reached_by_a_link_is_served(ask: Any, tmp_path: Path) -> None:
    real = tmp_path / "scratch" / "of" / "the" / "group"
    real.mkdir(parents=True)
    (tmp_path / "link").symlink_to(real)
    run = write(real)
    register.note(tmp_path / "link")
    assert (await ask(f"runs/{register.key(tmp_path / 'link')}/{run.name}")).json["reset"] is True
    assert [row["run"] for row in (await ask("runs")).json["runs"]] == [run.name]


async def test_a_store_that_was_not_noted_is_not_served(ask: Any, outside: Path) -> None:
    write(outside)
    answer = await ask(f"runs/{register.key(outside)}/run")
    assert answer.json == {"message": answer.json["message"], "code": "no_store"}
    assert (await ask("runs")).json["runs"] == []


async def test_a_register_entry_that_was_tampered_with_opens_nothing(ask: Any, run: Path, outside: Path) -> None:
    """An entry counts only under the key that is made from its own path."""
    (entry,) = register.folder().iterdir()
    entry.write_text(json.dumps({"store": str(outside)}))
    answer = await ask(f"runs/{register.key(run.parent)}/run")
    assert answer.json["code"] == "no_store"
    assert SECRET.encode() not in answer.body


@pytest.mark.parametrize(
    "body",
    ["", "null", "[]", "7", '"stop"', "{", '{"action": null}', '{"action": "delete"}', '{"action": ["stop"]}',
     '{"action": "stop\\u0000"}', '{"action": "STOP"}', '{"Action": "stop"}', b"\xff\xfe", "[" * 5000,
     '{"action": "stop", "x": "' + "x" * 20_000 + '"}'],
)  # fmt: skip
async def test_a_body_that_asks_for_nothing_is_refused(ask: Any, store: Path, body: Any) -> None:
    run = write(store, events=story()[:-1])
    answer = await ask(f"runs/{register.key(store)}/{run.name}/requests", "POST", body)
    assert (answer.status, answer.json["code"]) == (400, "bad_action")
    assert not (run / inbox.FILE).exists()


@pytest.mark.parametrize(
    "after",
    ["x", "-1", "1.2", "1.2.3.4.5.6.7", "9" * 400, "٣.0.0.0.0.0", "0x1.0.0.0.0.0", "1e9.0.0.0.0.0", "..", "%00"],
)
async def test_a_cursor_that_is_none_gives_the_whole_run(ask: Any, run: Path, after: str) -> None:
    answer = await ask(f"runs/{register.key(run.parent)}/{run.name}?after={quote(after, safe='%')}")
    assert answer.status == 200 and answer.json["reset"] is True
