from __future__ import annotations

import json
import os
import socket
import stat
import threading
import time
from pathlib import Path

import pytest

from dlfb_lab import inbox
from dlfb_lab.inbox import Inbox, ask


def test_each_request_is_taken_once_in_its_order(tmp_path: Path) -> None:
    box = Inbox(tmp_path)
    assert box.take() == []
    ask(tmp_path, "pause")
    ask(tmp_path, "resume")
    assert box.take() == ["pause", "resume"]
    assert box.take() == []
    ask(tmp_path, "stop")
    assert box.take() == ["stop"]


def test_a_request_that_is_being_written_is_taken_when_it_is_whole(tmp_path: Path) -> None:
    box = Inbox(tmp_path)
    line = json.dumps({"action": "stop"}).encode() + b"\n"
    with open(tmp_path / inbox.FILE, "ab", buffering=0) as file:
        file.write(line[:7])
        assert box.take() == []
        file.write(line[7:])
        assert box.take() == ["stop"]


def test_what_is_no_request_is_passed_over(tmp_path: Path) -> None:
    lines = [b"", b"{", b"[]", b"7", b'"stop"', b'{"action": "delete"}', b'{"action": ["stop"]}', b"\xff", b"{}"]
    (tmp_path / inbox.FILE).write_bytes(b"\n".join([*lines, b'{"action": "pause"}']) + b"\n")
    assert Inbox(tmp_path).take() == ["pause"]


def test_many_can_ask_at_once(tmp_path: Path) -> None:
    threads = [threading.Thread(target=lambda: [ask(tmp_path, "pause") for _ in range(50)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    box, taken = Inbox(tmp_path), []
    while any(thread.is_alive() for thread in threads):
        taken += box.take()
    for thread in threads:
        thread.join()
    assert taken + box.take() == ["pause"] * 200


def test_a_look_when_nothing_is_new_opens_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ask(tmp_path, "pause")
    box = Inbox(tmp_path)
    assert box.take() == ["pause"]
    monkeypatch.setattr("builtins.open", None)
    assert box.take() == []


def test_what_is_no_request_costs_no_run(tmp_path: Path) -> None:
    file = tmp_path / inbox.FILE
    file.write_bytes(b"[" * 100_000 + b'\n{"action": "pause"}\n')
    box = Inbox(tmp_path)
    assert [action for _ in range(3) for action in box.take()] == ["pause"]
    with file.open("ab") as out:
        out.truncate(10**9)
    before = box._read
    box.take()
    assert before < box._read <= before + inbox.MOST_BYTES, "no more is read at one look"


def test_a_file_that_was_taken_away_and_begun_anew_is_read(tmp_path: Path) -> None:
    box = Inbox(tmp_path)
    for action in ("pause", "resume"):
        ask(tmp_path, action)
    assert box.take() == ["pause", "resume"]
    (tmp_path / inbox.FILE).unlink()
    ask(tmp_path, "stop")
    assert box.take() == ["stop"]


def test_a_hard_link_to_another_file_is_not_written(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("untouched")
    run = tmp_path / "run"
    run.mkdir()
    os.link(other, run / inbox.FILE)
    with pytest.raises(OSError, match="take it away"):
        ask(run, "stop")
    assert other.read_text() == "untouched"


def test_the_file_of_requests_is_the_users_own(tmp_path: Path) -> None:
    ask(tmp_path, "pause")
    assert stat.S_IMODE((tmp_path / inbox.FILE).stat().st_mode) == 0o600


def test_no_link_is_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("untouched")
    run = tmp_path / "run"
    run.mkdir()
    (run / inbox.FILE).symlink_to(outside)
    with pytest.raises(OSError):
        ask(run, "stop")
    (run / inbox.FILE).unlink()
    (run / inbox.FILE).symlink_to(tmp_path / "not yet there")
    with pytest.raises(OSError):
        ask(run, "stop")
    assert outside.read_text() == "untouched" and not (tmp_path / "not yet there").exists()


def test_only_a_plain_file_is_written(tmp_path: Path) -> None:
    def fifo(path: Path) -> None:
        os.mkfifo(path)

    def bound(path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as made:
            here = Path.cwd()
            os.chdir(path.parent)
            made.bind(path.name)
            os.chdir(here)

    for make in (fifo, bound, Path.mkdir):
        run = tmp_path / make.__name__
        run.mkdir()
        make(run / inbox.FILE)
        start = time.perf_counter()
        with pytest.raises(OSError):
            ask(run, "stop")
        assert time.perf_counter() - start < 1, "nobody waits for a reader"


def test_a_fifo_that_somebody_reads_is_no_plain_file_either(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / inbox.FILE)
    reader = os.open(tmp_path / inbox.FILE, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with pytest.raises(OSError, match="no plain file"):
            ask(tmp_path, "stop")
        assert os.read(reader, 10) == b""
    finally:
        os.close(reader)


def test_a_folder_that_is_gone_is_an_error_for_who_asks_and_none_for_who_looks(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        ask(tmp_path / "gone", "stop")
    assert Inbox(tmp_path / "gone").take() == []
