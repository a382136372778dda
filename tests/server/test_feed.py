"""Reading a run by cursor: every event once, whatever happens to the journal meanwhile."""

from __future__ import annotations

import json
import os
import random
import shutil
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dlfb_lab import journal
from dlfb_lab.events import Event, Losses, Notice, from_json, to_json
from dlfb_lab.record import MOST_SAVED, Record, most_saved, saved_events
from dlfb_lab.server import feed, lines
from dlfb_lab.server.errors import Refusal

from .runs import STARTED, add, evaluation, line, losses, status, story, write, write_tail


def decoded(events: list[dict[str, Any]]) -> Record:
    return Record(event for values in events if (event := from_json(values)) is not None)


class Reader:
    """A client: it appends what comes, and starts anew when told so."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self.events: list[dict[str, Any]] = []
        self.next = ""
        self.resets = 0
        self.note = ""

    def poll(self) -> list[dict[str, Any]]:
        answer = feed.read(self.run, self.next)
        if answer["reset"]:
            self.resets += 1
            self.events = []
        self.events += answer["events"]
        self.next, self.note = answer["next"], answer["note"]
        return list(answer["events"])

    def losses(self) -> tuple[list[int], list[float]]:
        steps, values = decoded(self.events).losses()
        return steps.tolist(), values.tolist()


def test_a_whole_run_is_its_lines_as_they_are(store: Path) -> None:
    run = write(store)
    answer = feed.read(run, "")
    assert (answer["reset"], answer["note"]) == (True, "")
    assert answer["events"] == [json.loads(line) for line in (run / journal.EVENTS).read_bytes().splitlines()]


def test_a_reader_gets_what_is_new_and_nothing_twice(store: Path) -> None:
    run = write(store, events=[STARTED, status(0, "running")])
    reader = Reader(run)
    reader.poll()
    assert reader.poll() == []
    add(run, losses(0, [3, 2]), evaluation(2))
    assert [event["kind"] for event in reader.poll()] == ["losses", "evaluation"]
    assert reader.poll() == []
    add(run, losses(2, [1]), status(3, "finished"))
    assert [event["kind"] for event in reader.poll()] == ["losses", "status"]
    assert reader.resets == 1
    assert reader.losses() == ([0, 1, 2], [3.0, 2.0, 1.0])


def test_a_line_that_is_being_written_is_read_when_it_is_whole(store: Path) -> None:
    run = write(store, events=[STARTED])
    reader = Reader(run)
    reader.poll()
    whole = line(losses(0, [3, 2, 1]))
    for cut in range(0, len(whole), 7):
        with open(run / journal.EVENTS, "ab") as file:
            file.write(whole[cut : cut + 7])
        seen = reader.poll()
        assert len(seen) == (cut + 7 >= len(whole))
    assert reader.losses()[1] == [3, 2, 1]


def test_losses_in_the_tail_come_before_they_have_a_line_and_not_again_with_it(store: Path) -> None:
    run = write(store, events=[STARTED])
    reader = Reader(run)
    write_tail(run, losses(0, [9, 8]))
    assert reader.poll()[-1]["first_step"] == 0
    assert reader.poll() == []
    write_tail(run, losses(0, [9, 8, 7]))
    (more,) = reader.poll()
    assert more["first_step"] == 2
    add(run, losses(0, [9, 8, 7, 6, 5], duration_s=1.0, dispatches=10))
    (rest,) = reader.poll()
    assert (rest["first_step"], rest["step"], rest["dispatches"]) == (3, 5, 4)
    assert rest["duration_s"] == pytest.approx(0.4), "the share of the steps that are new"
    add(run, losses(5, [4]))
    reader.poll()
    assert reader.losses() == ([0, 1, 2, 3, 4, 5], [9, 8, 7, 6, 5, 4])


def test_a_line_that_says_no_more_than_the_tail_did_is_nothing_new(store: Path) -> None:
    run = write(store, events=[STARTED])
    write_tail(run, losses(0, [9, 8]))
    reader = Reader(run)
    reader.poll()
    add(run, losses(0, [9, 8]), evaluation(2))
    assert [event["kind"] for event in reader.poll()] == ["evaluation"]
    write_tail(run, losses(2, [7]))
    assert [event["first_step"] for event in reader.poll()] == [2]


@pytest.mark.parametrize(
    "text",
    [b"", b"\n", b"{", b"[]\n", b"7\n", b'{"follows": 0}\n', b'{"follows": {size}, "event": 3}\n', b"\xff\xff\n",
     b'{"follows": {size}, "event": {"kind": "losses", "losses": "f4:???"}}\n',
     b'{"follows": {size}, "event": {"kind": "losses", "first_step": 0, "step": 1, "losses": "f4:AAA="}}\n',
     b'{"follows": {size}, "event": {"kind": "notice", "step": 0, "time_s": 1, "text": "no loss"}}\n',
     b"[" * 100_000],
)  # fmt: skip
def test_a_tail_that_is_torn_says_nothing(store: Path, text: bytes) -> None:
    run = write(store, events=[STARTED])
    size = (run / journal.EVENTS).stat().st_size
    (run / journal.TAIL).write_bytes(text.replace(b"{size}", str(size).encode()))
    answer = feed.read(run, "")
    assert [event["kind"] for event in answer["events"]] == ["run_started"]
    assert feed.read(run, answer["next"])["events"] == []


def test_a_tail_of_another_time_says_nothing(store: Path) -> None:
    run = write(store, events=[STARTED])
    write_tail(run, losses(0, [9, 8]))
    add(run, losses(0, [9, 8, 7]))
    reader = Reader(run)
    reader.poll()
    assert reader.losses()[1] == [9, 8, 7]
    write_tail(run, losses(3, [6]), follows=10**6)
    assert reader.poll() == []


def test_a_tail_longer_than_the_last_is_read_to_its_first_line_break(store: Path) -> None:
    """It is written over in place, so what is left of a longer one may stand behind it for a moment."""
    run = write(store, events=[STARTED])
    write_tail(run, losses(0, [9, 8]))
    with open(run / journal.TAIL, "ab") as file:
        file.write(b"0, 1, 2]}}\n")
    reader = Reader(run)
    reader.poll()
    assert reader.losses()[1] == [9, 8]


def test_what_others_add_comes_once_by_time(store: Path) -> None:
    run = write(store)
    journal.append_later(run, Notice(step=20, time_s=STARTED.time_s + 100, level="info", text="one"))
    reader = Reader(run)
    reader.poll()
    assert reader.poll() == []
    journal.append_later(run, Notice(step=20, time_s=STARTED.time_s + 200, level="info", text="two"))
    assert [event["text"] for event in reader.poll()] == ["two"]
    assert reader.poll() == []
    assert reader.resets == 1


def test_an_addition_with_an_earlier_time_begins_anew_rather_than_going_wrong(store: Path) -> None:
    run = write(store)
    journal.append_later(run, Notice(step=20, time_s=STARTED.time_s + 100, level="info", text="one"))
    reader = Reader(run)
    reader.poll()
    journal.append_later(run, Notice(step=20, time_s=STARTED.time_s + 50, level="info", text="zero"))
    reader.poll()
    assert reader.resets == 2
    assert [event["text"] for event in reader.events if event["kind"] == "notice"] == ["zero", "one"]
    for file in run.glob("events-*.jsonl"):
        file.unlink()
    reader.poll()
    assert reader.resets == 3
    assert [event["kind"] for event in reader.events if event["kind"] == "notice"] == []


def test_what_is_no_addition_is_not_read(store: Path) -> None:
    run = write(store)
    for name in ("events-.jsonl", "events-1.json", "events-1.jsonl.bak", "events-a b.jsonl", "xevents-1.jsonl"):
        (run / name).write_bytes(line(Notice(step=1, level="info", text=name)))
    assert len(feed.read(run, "")["events"]) == 5


def test_an_addition_too_long_to_be_one_is_left_out_and_told(store: Path) -> None:
    run = write(store)
    (run / "events-1.jsonl").write_bytes(line(Notice(step=1, level="info", text="x" * 2_000_000)))
    answer = feed.read(run, "")
    assert len(answer["events"]) == 5
    assert "1 line" in answer["note"]


def test_a_journal_that_is_gone_is_told(store: Path) -> None:
    run = write(store)
    cursor = feed.read(run, "")["next"]
    (run / journal.EVENTS).unlink()
    for after in ("", cursor):
        with pytest.raises(Refusal) as caught:
            feed.read(run, after)
        assert (caught.value.status, caught.value.code) == (404, "no_journal")
    shutil.rmtree(run)
    with pytest.raises(Refusal) as caught:
        feed.read(run, cursor)
    assert caught.value.status == 404


@pytest.mark.parametrize("steps", [5, 20, 400])
def test_another_journal_in_its_place_is_read_from_its_beginning(store: Path, steps: int) -> None:
    run = write(store)
    reader = Reader(run)
    reader.poll()
    (run / journal.EVENTS).write_bytes(b"".join(map(line, story("another", steps))))
    reader.poll()
    assert reader.resets == 2
    assert reader.events[0]["name"] == "another" and len(reader.losses()[0]) == steps


def test_a_journal_that_was_cut_is_read_from_its_beginning(store: Path) -> None:
    run = write(store)
    reader = Reader(run)
    reader.poll()
    whole = (run / journal.EVENTS).read_bytes()
    (run / journal.EVENTS).write_bytes(whole[: len(whole) // 2])
    reader.poll()
    assert reader.resets == 2


def test_a_copied_folder_goes_on_where_the_reader_is(store: Path, tmp_path: Path) -> None:
    run = write(store, events=[STARTED, losses(0, [1, 2])])
    reader = Reader(run)
    reader.poll()
    shutil.copytree(run, tmp_path / "copy")
    reader.run = tmp_path / "copy"
    add(reader.run, losses(2, [3]))
    assert len(reader.poll()) == 1 and reader.resets == 1


def test_damaged_lines_are_left_out_and_counted(store: Path) -> None:
    garbage = [b"\xff\xfe", b"[]", b"7", b"null", b'"text"', b"{", b'{"step": 1}', b'{"kind": 5}', b"[" * 5000,
               b'{"kind": "losses", "losses": "f4:AAAA", "first_step": 0, "step": 1}',
               b'{"kind": "losses", "losses": "f4:!!!!", "first_step": 0, "step": 1}',
               b'{"kind": "losses", "losses": "f4:AAAAAA==", "first_step": -1, "step": 1}',
               b'{"kind": "losses", "losses": "f4:AAAAAA==", "first_step": 1e3, "step": 1}',
               b'{"kind": "losses", "losses": "f4:AAAAAA==", "first_step": 9007199254740993, "step": 1}',
               b"1" * 5000]  # fmt: skip
    good = [line(event) for event in story()]
    text = b"".join(part for pair in zip([g + b"\n" for g in garbage], good * 3, strict=True) for part in pair)
    run = write(store, text=text + b"\n\n" + garbage[0] + b"\n")
    reader = Reader(run)
    reader.poll()
    assert len(reader.events) == 15
    assert reader.note == f"{len(garbage) + 1} lines are damaged and were left out."
    add(run, Notice(step=1, level="info", text="later"))
    assert len(reader.poll()) == 1
    assert str(len(garbage) + 1) in reader.note, "it stays true of what the reader has"
    with open(run / journal.EVENTS, "ab") as file:
        file.write(b"{torn\n")
    reader.poll()
    assert str(len(garbage) + 2) in reader.note


def test_events_of_a_newer_vocabulary_are_passed_on_as_they_are(store: Path) -> None:
    newer = [
        {"kind": "from_the_future", "step": 1, "time_s": 2.0, "novelty": [1, {"a": None}]},
        {"kind": "losses", "first_step": 0, "step": 2, "losses": "f2:AAAA", "duration_s": 1, "time_s": 2.0},
        {"kind": "losses", "first_step": 0, "step": 2, "losses": [1.0, 2.0], "duration_s": 1, "time_s": 2.0},
        {"kind": "status", "step": 0, "time_s": 1.0, "state": "thinking", "mood": "good"},
    ]
    run = write(store, text=b"".join(json.dumps(event).encode() + b"\n" for event in newer))
    answer = feed.read(run, "")
    assert answer["events"] == newer and answer["note"] == ""


def test_a_long_run_comes_shortened_as_a_saved_notebook_has_it(store: Path) -> None:
    rng = np.random.default_rng(0)
    values = rng.random(MOST_SAVED * 3 + 17, dtype=np.float32)
    values[5] = np.nan
    told: list[Event] = [STARTED, status(0, "running")]
    for first in range(0, len(values), 501):
        told += [losses(first, values[first : first + 501])]
        if first % 5010 == 0:
            told += [evaluation(first)]
    run = write(store, events=told)
    events = feed.read(run, "")["events"]
    wanted = saved_events(Record(told))
    assert len(events) == len(wanted)
    for event, want in zip(events, wanted, strict=True):
        if event["kind"] == "losses":
            want["duration_s"] = pytest.approx(want["duration_s"])
        assert event == want
    (block,) = [event for event in events if event["kind"] == "losses"]
    assert block["stride"] == 4
    assert len(from_json(block).losses) <= MOST_SAVED  # type: ignore[union-attr]


def test_what_comes_after_a_shortened_run_is_whole(store: Path) -> None:
    values = np.arange(MOST_SAVED * 2, dtype=np.float32)
    run = write(store, events=[STARTED, losses(0, values)])
    write_tail(run, losses(len(values), [1, 2]))
    reader = Reader(run)
    reader.poll()
    add(run, losses(len(values), [1, 2, 3]))
    (more,) = reader.poll()
    assert (more["first_step"], more["stride"]) == (len(values) + 2, 1)


def test_a_gap_does_not_shift_what_follows_it(store: Path) -> None:
    many = np.ones(MOST_SAVED, np.float32)
    run = write(store, events=[STARTED, losses(0, many), losses(500_000, 2 * many), status(1, "finished")])
    blocks = [event for event in feed.read(run, "")["events"] if event["kind"] == "losses"]
    assert [(block["first_step"], from_json(block).losses[0]) for block in blocks] == [(0, 1.0), (500_000, 2.0)]  # type: ignore[union-attr]


def test_a_reader_that_slept_for_long_gets_what_it_missed_shortened(store: Path) -> None:
    run = write(store, events=[STARTED])
    reader = Reader(run)
    reader.poll()
    for first in range(0, 5 * MOST_SAVED, 1000):
        add(run, losses(first, np.ones(1000)))
    (block,) = reader.poll()
    assert (block["first_step"], block["stride"], block["step"]) == (0, 5, 5 * MOST_SAVED)


def test_of_a_journal_too_long_the_beginning_and_the_end_are_read(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "BEGINNING", 2000)
    monkeypatch.setattr(lines, "END", 5000)
    monkeypatch.setattr(lines, "PIECE", 700)
    told = [STARTED, *(losses(first, [float(first)]) for first in range(200)), status(200, "running")]
    run = write(store, events=told)
    size = (run / journal.EVENTS).stat().st_size
    reader = Reader(run)
    reader.poll()
    assert f"{size / 1e6:.0f} MB" in reader.note and "only its beginning and its latest" in reader.note
    assert "damaged" not in reader.note, "a line that was cut by us is not damaged"
    steps, values = reader.losses()
    assert steps == values and steps[0] == 0 and steps[-1] == 199
    gaps = np.diff(steps)
    assert (gaps == 1).sum() == len(gaps) - 1 and gaps.max() > 50, "one gap, in the middle"
    assert reader.events[0]["kind"] == "run_started" and reader.events[-1]["kind"] == "status"
    add(run, losses(200, [200.0]))
    assert len(reader.poll()) == 1 and reader.resets == 1
    assert "only its beginning" in reader.note, "it stays true of what the reader has"
    for first in range(201, 300):
        add(run, losses(first, [float(first)]))
    reader.poll()
    assert reader.resets == 2, "so much at once is read as a whole"


def test_five_gigabytes_neither_fill_memory_nor_take_long(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write(store, events=[STARTED, losses(0, [1.0])])
    with open(run / journal.EVENTS, "r+b") as file:
        file.seek(5_000_000_000)  # a hole: it takes no room on the disk
        file.write(b"\n" + b"".join(map(line, [losses(10**6, [2.0]), status(10**6 + 1, "running")])))
    monkeypatch.setattr(lines, "END", 8 << 20)
    tracemalloc.start()
    reader = Reader(run)
    reader.poll()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert reader.losses() == ([0, 10**6], [1.0, 2.0])
    assert reader.note.startswith("This run's journal is 5.0 GB: only its beginning and its latest 8 MB are drawn.")
    assert peak < 6 * lines.END
    add(run, losses(10**6 + 1, [3.0]))
    assert len(reader.poll()) == 1 and reader.resets == 1


def test_more_than_was_asked_for_is_not_read(store: Path) -> None:
    run = write(store)
    cursor = feed.read(run, "", 10**6)["next"]
    with pytest.raises(feed.Long):
        feed.read(run, "", 100)
    add(run, Notice(step=1, level="info", text="new"))
    assert len(feed.read(run, cursor, 500)["events"]) == 1, "what is new of a run is little"


def test_a_journal_with_nothing_but_a_hole_at_its_end_is_not_read_again(store: Path) -> None:
    run = write(store, events=[STARTED])
    os.truncate(run / journal.EVENTS, 5_000_000_000)
    reader = Reader(run)
    reader.poll()
    assert [event["kind"] for event in reader.events] == ["run_started"]
    assert feed.read(run, reader.next, 0)["reset"] is False, "there is nothing more to read"
    with open(run / journal.EVENTS, "ab") as file:
        file.write(b"\n" + line(losses(0, [1.0])))
    reader.poll()
    assert reader.resets == 1 and reader.losses() == ([0], [1.0])


def test_a_line_of_many_pieces_is_read_whole(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "PIECE", 100)
    run = write(store, events=[STARTED, Notice(step=1, level="info", text="x" * 5000), status(1, "finished")])
    assert [event["kind"] for event in feed.read(run, "")["events"]] == ["run_started", "notice", "status"]


def test_the_last_state_is_found_at_the_end(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "STATE_BYTES", 1000)
    run = write(store, events=[STARTED, status(0, "running"), losses(0, np.ones(1000))])
    assert feed.state(run) == "", "a run that is over says so at the end"
    add(run, status(1000, "stopped"))
    assert feed.state(run) == "stopped"
    with open(run / journal.EVENTS, "ab") as file:
        file.write(b'{"kind": "status", "st')
    assert feed.state(run) == "stopped"
    (run / journal.EVENTS).unlink()
    assert feed.state(run) == ""


def test_a_whole_run_does_not_hold_up_other_threads(store: Path) -> None:
    """Each piece is parsed by itself, between which others run."""
    run = write(store, events=[STARTED, *(losses(first, np.ones(64)) for first in range(0, 640_000, 64))])
    with open(run / journal.EVENTS, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        pieces = list(lines.read(file, 0, size))
    assert size > 4 * lines.PIECE
    assert len(pieces) == -(-size // lines.PIECE)
    assert sum(len(events) for events, _, _ in pieces) == 10_001


class Kernel:
    """Writes a journal as a kernel does, and knows what a reader must end up with."""

    def __init__(self, run: Path, seed: int) -> None:
        self.run = run
        self.random = random.Random(seed)
        self.step = 0
        self.lined = 0
        self.losses: list[float] = []
        self.others = 1
        self.added = 0

    def train(self) -> None:
        count = self.random.randrange(1, 6)
        self.losses += [float(self.step + i) for i in range(count)]
        self.step += count
        if self.random.random() < 0.6:
            write_tail(self.run, losses(self.lined, self.losses[self.lined :]))
        elif self.random.random() < 0.3:
            self.tear()
        else:
            self.flush()

    def flush(self) -> None:
        if self.lined < self.step:
            add(self.run, losses(self.lined, self.losses[self.lined :]))
            self.lined = self.step

    def evaluate(self) -> None:
        self.flush()
        add(self.run, evaluation(self.step))
        self.others += 1

    def tear(self) -> None:
        (self.run / journal.TAIL).write_bytes(b'{"follows": 12, "eve')

    def look(self) -> None:
        self.added += 1
        journal.append_later(self.run, evaluation(self.step, split="test", look=self.added, time_s=3e9 + self.added))
        self.others += 1


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), actions=st.lists(st.sampled_from("ttttefxlpppr"), min_size=5, max_size=60))
def test_whatever_the_order_each_event_comes_once(
    tmp_path_factory: pytest.TempPathFactory, seed: int, actions: list[str]
) -> None:
    run = write(tmp_path_factory.mktemp("store"), events=[STARTED])
    kernel, reader = Kernel(run, seed), Reader(run)
    readers = [reader]
    for action in actions:
        match action:
            case "t":
                kernel.train()
            case "e":
                kernel.evaluate()
            case "f":
                kernel.flush()
            case "x":
                kernel.tear()
            case "l":
                kernel.look()
            case "p":
                reader.poll()
            case "r":
                readers.append(Reader(run))
                readers[-1].poll()
    kernel.flush()
    for reader in readers:
        reader.poll()
        reader.poll()
        assert reader.resets == 1
        assert reader.losses() == (list(range(kernel.step)), kernel.losses)
        assert len([event for event in reader.events if event["kind"] != "losses"]) == kernel.others


def test_the_journal_of_the_package_is_read_as_it_is_written(store: Path) -> None:
    """The same through `Journal`, which keeps losses in a tail between lines."""
    kept = journal.create(store, "real")
    reader = Reader(kept.path)
    kept.put(STARTED)
    values = np.arange(400, dtype=np.float32)
    for first in range(0, 400, 4):
        kept.put(Losses(step=first + 4, first_step=first, losses=values[first : first + 4], duration_s=0.001))
        if first % 12 == 0:
            reader.poll()
            assert len(reader.losses()[0]) == first + 4, "at once, whether or not there is a line yet"
    kept.put(status(400, "finished"))
    kept.close()
    reader.poll()
    assert reader.resets == 1
    assert reader.losses()[1] == values.tolist()
    assert decoded(reader.events).status == decoded([to_json(status(400, "finished"))]).status


def test_losses_of_two_precisions_are_not_mixed_up(store: Path) -> None:
    exact = replace(losses(MOST_SAVED, []), losses=np.full(MOST_SAVED, 0.1), step=2 * MOST_SAVED)
    run = write(store, events=[STARTED, losses(0, np.full(MOST_SAVED, 0.1)), exact])
    reader = Reader(run)
    reader.poll()
    steps, values = reader.losses()
    assert len(steps) == 2 * MOST_SAVED
    assert values[-1] == 0.1 and values[0] == pytest.approx(0.1, abs=1e-7)


def test_parts_and_members_are_shortened_and_cut_with_their_losses(store: Path) -> None:
    def block(first: int, count: int) -> Losses:
        values = np.arange(first, first + count, dtype=np.float32)
        beside = {"parts": {"kl": values + 0.5}, "members": [values - 1, values + 1]}
        return replace(losses(first, values), **beside)

    run = write(store, events=[STARTED, block(0, 10)])
    write_tail(run, block(10, 5))
    first = feed.read(run, "")
    add(run, block(10, 8))
    (rest,) = (from_json(event) for event in feed.read(run, first["next"])["events"])
    assert isinstance(rest, Losses)
    assert (rest.first_step, rest.losses.tolist()) == (15, [15, 16, 17])
    assert rest.parts["kl"].tolist() == [15.5, 16.5, 17.5]
    assert [member.tolist() for member in rest.members] == [[14, 15, 16], [16, 17, 18]]

    told: list[Event] = [STARTED, *(block(at, 500) for at in range(0, 2 * most_saved(3), 500))]
    events = feed.read(write(store, events=told), "")["events"]
    (short,) = (event for event in events if event["kind"] == "losses")
    (want,) = (event for event in saved_events(Record(told)) if event["kind"] == "losses")
    assert short["stride"] == 2
    assert (short["parts"], short["members"]) == (want["parts"], want["members"])


@pytest.mark.parametrize(
    "beside",
    [
        {"parts": 7, "members": 7},
        {"parts": {"kl": "f4:AAA="}, "members": ["f4:!", 3]},
        {"parts": {"kl": None}, "members": [None]},
        {"parts": {"kl": to_json(losses(0, [1.0]))["losses"]}, "members": [to_json(losses(0, [1.0]))["losses"]]},
    ],
)
def test_damaged_parts_and_members_are_left_out_where_losses_are_shortened(store: Path, beside: dict[str, Any]) -> None:
    many = np.ones(4 * MOST_SAVED, np.float32)
    text = line(STARTED) + json.dumps({**to_json(losses(0, many)), **beside}).encode() + b"\n"
    (block,) = (event for event in feed.read(write(store, text=text), "")["events"] if event["kind"] == "losses")
    assert block["stride"] >= 4
    assert (block["parts"], block["members"]) == ({}, [])
