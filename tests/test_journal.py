from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

import dlfb_lab
from dlfb_lab import events, journal
from dlfb_lab.errors import StoreError
from dlfb_lab.events import Event, Losses, Notice, RunStarted, Status
from dlfb_lab.record import Record

GOLDEN = Path(__file__).parent / "golden" / "run.jsonl"
STARTED = next(e for e in journal._read_file(GOLDEN) if isinstance(e, RunStarted))


def few_events() -> list[Event]:
    return [
        replace(STARTED, source="", settings={}, versions={}),
        Status(step=0, state="running"),
        Losses(step=3, first_step=0, losses=np.array([3, np.nan, 1], np.float32), duration_s=0.1),
        Notice(step=3, level="warning", text="a “notice”\nof two lines"),
        Status(step=3, state="finished"),
    ]


def as_json(found: list[Event]) -> list[dict[str, object]]:
    return [events.to_json(e) for e in found]


def keep(store: Path, name: str, told: list[Event] | None = None) -> Path:
    kept = journal.create(store, name)
    for event in few_events() if told is None else told:
        kept.put(replace(event, name=name, run_id=kept.path.name) if isinstance(event, RunStarted) else event)
    kept.close()
    return kept.path


def test_what_was_put_is_read(tmp_path: Path) -> None:
    told = few_events()
    kept = journal.Journal(tmp_path)
    for event in told:
        kept.put(event)
        assert as_json(journal.read(tmp_path))[-1] == events.to_json(event), "every event is readable at once"
    kept.close()
    kept.close()
    assert as_json(journal.read(tmp_path)) == as_json(told)
    assert len((tmp_path / journal.EVENTS).read_bytes().splitlines()) == len(told)


def test_a_journal_cut_at_any_byte_keeps_all_its_whole_lines(tmp_path: Path) -> None:
    told = few_events()
    path = keep(tmp_path, "cut", told)
    file = path / journal.EVENTS
    whole = file.read_bytes()
    wanted = as_json(journal.read(path))
    ends = np.flatnonzero(np.frombuffer(whole, np.uint8) == ord("\n"))
    for cut in range(len(whole) + 1):
        file.write_bytes(whole[:cut])
        found = as_json(journal.read(path))
        # A line that lacks nothing but its newline says all that it had to say.
        assert len(found) == int((ends <= cut).sum()), cut
        assert found == wanted[: len(found)]


def test_a_writer_goes_on_after_a_torn_line(tmp_path: Path) -> None:
    path = keep(tmp_path, "torn")
    file = path / journal.EVENTS
    file.write_bytes(file.read_bytes()[:-20])
    again = journal.Journal(path)
    again.put(Notice(step=3, level="info", text="went on"))
    again.close()
    found = journal.read(path)
    assert [e.kind for e in found] == ["run_started", "status", "losses", "notice", "notice"]
    assert found[-1].text == "went on"


def test_garbage_between_lines_hides_nothing(tmp_path: Path) -> None:
    path = keep(tmp_path, "garbage")
    file = path / journal.EVENTS
    lines = file.read_bytes().splitlines(keepends=True)
    garbage = [b"\xff\xfe\n", b"[]\n", b"7\n", b"\n", b'{"kind": "status"}\n', b'{"kind": "losses", "losses": 3}\n']
    file.write_bytes(b"".join(x for pair in zip([*garbage, *garbage], lines, strict=False) for x in pair))
    assert len(journal.read(path)) == len(lines)


def test_what_is_added_later_is_merged_by_time(tmp_path: Path) -> None:
    path = keep(tmp_path, "later")
    before = (path / journal.EVENTS).read_bytes()
    journal.append_later(path, Notice(step=3, time_s=3e9, level="info", text="second"))
    journal.append_later(path, Notice(step=3, time_s=2e9, level="info", text="first"))
    assert (path / journal.EVENTS).read_bytes() == before, "training's file has one writer"
    assert len(list(path.glob("events-*.jsonl"))) == 2
    assert [getattr(e, "text", "") for e in journal.read(path)][-2:] == ["first", "second"]


def test_a_million_steps_take_25_megabytes_at_most_and_all_come_back(tmp_path: Path) -> None:
    losses = np.random.default_rng(0).standard_normal(1_000_000).astype(np.float32)
    kept = journal.create(tmp_path, "long")
    kept.put(STARTED)
    for first in range(0, len(losses), 64):
        block = losses[first : first + 64]
        kept.put(Losses(step=first + len(block), first_step=first, losses=block, duration_s=0.001))
    kept.close()
    assert (kept.path / journal.EVENTS).stat().st_size <= 25e6
    steps, found = Record(journal.read(kept.path)).losses()
    np.testing.assert_array_equal(found, losses)
    np.testing.assert_array_equal(steps, np.arange(1_000_000))


def block(first: int, count: int) -> Losses:
    losses = np.arange(first, first + count, dtype=np.float32)
    return Losses(step=first + count, first_step=first, losses=losses, duration_s=0.1)


def test_losses_are_readable_at_once_and_in_a_long_run_share_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(journal, "monotonic", lambda: now[0])
    kept = journal.Journal(tmp_path)
    kept.put(STARTED)
    now[0] = 3600.0
    for first in range(0, 100, 5):
        now[0] += 0.2
        kept.put(block(first, 5))
        steps, losses = Record(journal.read(tmp_path)).losses()
        assert steps.tolist() == losses.tolist() == list(range(first + 5))
    assert 20 / 5 <= len((tmp_path / journal.EVENTS).read_bytes().splitlines()) - 1 <= 20 / 4
    kept.put(Status(step=100, state="finished"))
    assert [e.kind for e in journal.read(tmp_path)][-2:] == ["losses", "status"]
    kept.close()
    assert not (tmp_path / journal.TAIL).exists()
    assert sum(len(e.losses) for e in journal.read(tmp_path) if isinstance(e, Losses)) == 100


def test_losses_that_do_not_follow_one_another_keep_their_steps(tmp_path: Path) -> None:
    kept = journal.Journal(tmp_path)
    kept._lined_s += 3600.0  # nothing is due for an hour
    told = [block(0, 5), block(5, 5), block(3, 4), replace(block(7, 2), losses=np.array([7.0, 8.0]))]
    for event in told:
        kept.put(event)
        assert np.concatenate([e.losses for e in journal.read(tmp_path)])[-1] == event.losses[-1]
    kept.close()
    assert [(e.first_step, e.losses.dtype) for e in journal.read(tmp_path)] == [(0, "f4"), (3, "f4"), (7, "f8")]


@pytest.mark.parametrize("damage", [b"", b"{", b"[]\n", b'{"follows": 1}\n', b"\xff\n", b"[" * 100_000 + b"\n"])
def test_a_tail_that_is_damaged_or_overtaken_says_nothing(tmp_path: Path, damage: bytes) -> None:
    kept = journal.Journal(tmp_path)
    kept._lined_s += 3600.0
    kept.put(block(0, 5))
    tail = (tmp_path / journal.TAIL).read_bytes()
    kept.put(block(5, 5))
    (tmp_path / journal.TAIL).write_bytes(tail + damage)
    assert len(Record(journal.read(tmp_path)).losses()[0]) == 5, "what follows its line is left from a longer one"
    (tmp_path / journal.TAIL).write_bytes(damage)
    assert journal.read(tmp_path) == []
    kept.put(Status(step=10, state="finished"))
    (tmp_path / journal.TAIL).write_bytes(tail)
    assert len(Record(journal.read(tmp_path)).losses()[0]) == 10, "the journal has overtaken that tail"
    kept.close()


def test_a_tail_that_was_read_while_it_was_written_says_nothing(tmp_path: Path) -> None:
    """Its new beginning and its old end can be valid together, with wrong losses."""
    kept = journal.Journal(tmp_path)
    kept._lined_s += 3600.0
    kept.put(block(0, 3000))
    old = (tmp_path / journal.TAIL).read_bytes()
    kept._held = None
    kept.put(block(3000, 3000))
    new = (tmp_path / journal.TAIL).read_bytes()
    kept.close()
    assert journal.parse_tail(old) and journal.parse_tail(new)
    torn = new[: len(new) // 2] + old[-(len(new) - len(new) // 2) :]
    json.loads(torn)
    assert journal.parse_tail(torn) is None


def test_a_tail_stays_readable_behind_half_a_line(tmp_path: Path) -> None:
    kept = journal.Journal(tmp_path)
    kept.put(STARTED)
    kept._lined_s += 3600.0
    kept.put(block(0, 5))
    with open(tmp_path / journal.EVENTS, "ab") as file:
        file.write(b'{"kind": "los')
    assert [e.kind for e in journal.read(tmp_path)] == ["run_started", "losses"]
    kept.close()


def test_a_full_disk_costs_nothing_that_was_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = journal.Journal(tmp_path)
    kept.put(STARTED)
    kept._lined_s += 3600.0
    kept.put(block(0, 200))
    file = kept._file

    class Full:
        def __getattr__(self, name: str) -> object:
            return getattr(file, name)

        def write(self, line: bytes) -> int:
            return file.write(line[:20])

    monkeypatch.setattr(kept, "_file", Full())
    with pytest.raises(OSError, match="20 of"):
        kept.put(Status(step=200, state="finished"))
    assert len(Record(journal.read(tmp_path)).losses()[0]) == 200
    with pytest.raises(OSError, match="20 of"):
        kept.close()
    assert len(Record(journal.read(tmp_path)).losses()[0]) == 200, "the tail stays where its losses have no line"
    assert (tmp_path / journal.EVENTS).read_bytes().endswith(b"\n")


def test_two_runs_of_one_name_are_both_kept(tmp_path: Path) -> None:
    paths = {keep(tmp_path, "My run: 1/2") for _ in range(2)}
    assert len(paths) == 2
    assert {path for path, _ in journal.list_runs(tmp_path)} == paths
    assert all(p.name.startswith("my-run-1-2-") for p in paths)


@pytest.mark.parametrize("name", ["", "..", "/etc/passwd", "ä" * 300, "a b\n"])
def test_any_name_makes_a_folder_within_the_store(tmp_path: Path, name: str) -> None:
    kept = journal.create(tmp_path, name)
    kept.close()
    assert kept.path.parent == tmp_path


def test_runs_are_listed_oldest_first_and_other_folders_are_left_out(tmp_path: Path) -> None:
    for name, time_s in (("b", 30.0), ("a", 10.0), ("c", 20.0)):
        keep(tmp_path, name, [replace(STARTED, time_s=time_s)])
    (tmp_path / "notes").mkdir()
    (tmp_path / "a file").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / journal.EVENTS).touch()
    assert [started.name for _, started in journal.list_runs(tmp_path)] == ["a", "c", "b"]
    assert journal.list_runs(tmp_path / "nowhere") == []


def test_a_run_is_found_by_id_and_by_a_name_of_its_own(tmp_path: Path) -> None:
    first, second = keep(tmp_path, "mlp"), keep(tmp_path, "linear")
    assert journal.find(tmp_path, first.name) == first
    assert journal.find(tmp_path, "linear") == second


def test_a_name_of_two_runs_is_refused_with_both_ids(tmp_path: Path) -> None:
    paths = [keep(tmp_path, "mlp") for _ in range(2)]
    with pytest.raises(StoreError, match="2 runs are named `mlp`") as caught:
        journal.find(tmp_path, "mlp")
    assert all(p.name in str(caught.value) for p in paths)
    assert "Give one of these ids" in str(caught.value)


def test_an_unknown_run_is_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="The store holds no runs"):
        journal.find(tmp_path, "x")
    path = keep(tmp_path, "mlp")
    with pytest.raises(StoreError, match=f"Did you mean `{path.name}`"):
        journal.find(tmp_path, path.name[:-1])
    with pytest.raises(StoreError, match=f"The latest is `{path.name}`"):
        journal.find(tmp_path, "zzzz")


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="No run can be read"):
        journal.read(tmp_path)
    assert journal.read_started(tmp_path) is None
    (tmp_path / journal.EVENTS).touch()
    with pytest.raises(StoreError, match="its journal has no beginning"):
        dlfb_lab.open_run(tmp_path)


def test_a_store_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"The store `.*file/runs` cannot be written \(Not a directory\)"):
        journal.create(tmp_path / "file" / "runs", "x")
    with pytest.raises(StoreError, match="cannot be added to"):
        journal.append_later(tmp_path / "file", Status(step=0, state="running"))


def test_the_store_is_what_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DLFB_STORE", "/somewhere")
    assert journal.store_folder() == Path("/somewhere")
    assert journal.store_folder("/given") == Path("/given")
    monkeypatch.delenv("DLFB_STORE")
    assert journal.store_folder() == Path.cwd() / "dlfb_runs"
    assert journal.store_folder("~/runs") == Path.home() / "runs"


def test_the_split_and_the_preparation_come_back(tmp_path: Path) -> None:
    parts = {"train": np.array([0, 2]), "test": np.array([1])}
    journal.write_split(tmp_path, parts)
    found = journal.read_split(tmp_path)
    assert {k: v.tolist() for k, v in found.items()} == {"train": [0, 2], "test": [1]}
    journal.write_preparation(tmp_path, {"classes": ["ä"], "scaling": None})
    assert json.loads((tmp_path / "preparation.json").read_text("utf-8")) == {"classes": ["ä"], "scaling": None}


def test_a_split_that_is_gone_or_damaged_is_said_to_be(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"No split can be read in .*No such file"):
        journal.read_split(tmp_path)
    for damaged in (b"", b"PK", b"text"):
        (tmp_path / "split.npz").write_bytes(damaged)
        with pytest.raises(StoreError, match="No split can be read in"):
            journal.read_split(tmp_path)


def test_a_process_that_has_ended_but_is_not_reaped_does_not_write(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        writer = {
            "host": socket.gethostname(),
            "pid": process.pid,
            "created_s": psutil.Process(process.pid).create_time() + 3.0,  # the clock was corrected since
            "start": journal._start(process.pid),
        }
        (tmp_path / "writer.json").write_text(json.dumps(writer), "utf-8")
        assert journal.liveness(tmp_path) == "alive"
        process.send_signal(signal.SIGKILL)
        end = time.monotonic() + 30
        while psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < end
            time.sleep(0.01)
        assert journal.liveness(tmp_path) == "gone"
        (tmp_path / "writer.json").write_text(json.dumps(writer | {"host": "another"}), "utf-8")
        assert journal.liveness(tmp_path) == "elsewhere"
        (tmp_path / "writer.json").write_text("{", "utf-8")
        assert journal.liveness(tmp_path) == "gone"
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "[" * 100_000,
        '{"host": 7}',
        '{"host": "HOST", "pid": "x"}',
        '{"host": "HOST", "pid": 1, "created_s": 1e400}',
    ],
)
def test_a_damaged_note_of_the_writer_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / journal.WRITER).write_text(text.replace("HOST", socket.gethostname()))
    assert journal.liveness(tmp_path) in ("gone", "elsewhere")


def test_a_passing_trouble_does_not_end_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = journal.create(tmp_path, "mine")
    assert journal.liveness(kept.path) == "alive"
    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_text", lambda *_, **__: os.stat("\0" * 0 + "/proc/self/mem/x"))
        assert journal.liveness(kept.path) in ("unknown", "gone")
    with monkeypatch.context() as patched:
        patched.setattr(psutil, "Process", lambda _: (_ for _ in ()).throw(psutil.AccessDenied(1)))
        assert journal.liveness(kept.path) == "unknown"
    assert journal.liveness(kept.path) == "alive"
    journal.abandon(kept.path)
    assert journal.liveness(kept.path) == "gone"
    kept.close()


TRAINING = """
    import sys
    import numpy as np, flax.linen as nn
    import dlfb_lab

    class Linear(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(1)(x)

    x = np.linspace(-1, 1, 40, dtype=np.float32)[:, None]
    for name in ("interrupted", "killed"):
        run = dlfb_lab.train(
            Linear(), (x, 2 * x), steps=10**9, batch_size=8, valid=0.2, name=name, store=sys.argv[1]
        )
        print(f"returned: {run.status}, {run.params['Dense_0']['kernel'].shape}", flush=True)
"""


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str, int]]:
    """A process that trains: interrupted once, then killed in its second run. The store, what it said, its end."""
    store = tmp_path_factory.mktemp("store")
    program = [sys.executable, "-c", textwrap.dedent(TRAINING), str(store)]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    process = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment, text=True)
    try:
        for name, number in (("interrupted", signal.SIGINT), ("killed", signal.SIGKILL)):
            wait_for(lambda name=name: trained_steps(store, name) > 0, process)
            process.send_signal(number)
        said, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    yield store, said, process.returncode


def trained_steps(store: Path, name: str) -> int:
    found = [path for path, started in journal.list_runs(store) if started.name == name]
    return Record(journal.read(found[0])).step if found else 0


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str], limit_s: float = 120) -> None:
    end = time.monotonic() + limit_s
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end, "the process does not train"
        time.sleep(0.05)


def test_an_interrupt_stops_and_keeps(training: tuple[Path, str, int]) -> None:
    store, said, _ = training
    assert "returned: stopped, (1, 1)" in said
    assert "KeyboardInterrupt" not in said
    run = dlfb_lab.open_run("interrupted", store)
    assert (run.status, run.record.status.reason) == ("stopped", "interrupted")
    assert run.record.evaluated("valid")[-1].step == run.record.step, "the last evaluation is of the last step"


def test_a_killed_run_reads_as_interrupted(training: tuple[Path, str, int]) -> None:
    store, _, code = training
    assert code == -signal.SIGKILL
    run = dlfb_lab.open_run("killed", store)
    assert run.status == "interrupted"
    losses = run.history["train/loss"].dropna()
    assert losses.index.tolist() == list(range(len(losses)))
    assert len(losses) == run.record.step > 0
    assert "is interrupted" in run.cite()
    assert [r.name for r in dlfb_lab.runs(store)] == ["interrupted", "killed"]
    with pytest.raises(StoreError, match=r"The parameters of `killed-.*` were not saved"):
        run.predict([[1.0]])


def test_every_line_of_a_journal_is_strict_json(training: tuple[Path, str, int]) -> None:
    store, _, _ = training
    run = dlfb_lab.open_run("interrupted", store)
    lines = (run.path / journal.EVENTS).read_text("utf-8").splitlines()
    kinds = [json.loads(line, parse_constant=pytest.fail)["kind"] for line in lines]
    assert kinds[0] == "run_started"
    assert "losses" in kinds
