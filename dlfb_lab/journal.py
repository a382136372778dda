"""A run's folder: the truth about a run, from which every view is drawn.

    <store>/<run id>/events.jsonl            what training wrote, one event a line
    <store>/<run id>/events-<writer>.jsonl   what was added later, one file a writer
    <store>/<run id>/tail.json               losses newer than the last line of events.jsonl
    <store>/<run id>/split.npz               which rows are in which part
    <store>/<run id>/preparation.json        how the data were prepared, for whoever predicts elsewhere
    <store>/<run id>/writer.json             the process that trains, to tell whether it still lives
    <store>/<run id>/requests.jsonl          what others ask of the run; see inbox.py
    <store>/<run id>/checkpoints/            its states that were saved; see checkpoints/folder.py
    <store>/<run id>/before.jsonl            events.jsonl as it was before the run last went on from an earlier step

Events are only ever appended, in whole lines, but for a run that goes on from an
earlier step, whose journal is shortened to that step first. A line that a killed process
left unfinished is skipped on reading; the rest is intact. The longer a run goes on,
the more losses share a line (up to a second's, after half an hour), so that it
stays quick to read; what came since is in the tail, which is rewritten with
each report, so that views need not wait.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import re
import secrets
import shutil
import socket
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from time import monotonic, sleep
from typing import IO, Any, Literal

import numpy as np

from dlfb_lab.errors import StoreError, nearest
from dlfb_lab.events import ENDED, Evaluation, Event, Losses, RunStarted, Status, from_json, joined, to_json
from dlfb_lab.inbox import FILE as REQUESTS

EVENTS = "events.jsonl"
TAIL = "tail.json"
WRITER = "writer.json"
BEFORE = "before.jsonl"
LOCK, LOCK_S = ".changes-hands", 5.0
LINE_BYTES = 1 << 18
"""Losses that are so many get a line at once: the tail is written anew with each report."""


class Journal:
    """Appends to one file of a run's folder. It is a sink.

    Attributes:
        path: the run's folder.
    """

    def __init__(self, path: Path, file_name: str = EVENTS) -> None:
        self.path = path
        self._file: IO[bytes] = open(path / file_name, "a+b", buffering=0)  # noqa: SIM115 - closed by close()
        if self._file.tell():
            self._file.seek(-1, os.SEEK_END)
            if self._file.read(1) != b"\n":
                self._file.write(b"\n")
        self._tail: IO[bytes] | None = None
        self._held: Losses | None = None
        self._opened_s = self._lined_s = monotonic()

    def put(self, event: Event) -> None:
        """Appends one event in a single write, or keeps it in the tail where losses had a line a moment ago.

        Raises:
            OSError: the disk is full or the folder is gone.
        """
        if isinstance(event, Losses):
            held = event if self._held is None else joined(self._held, event)
            if held is None:
                self._release()
                held = event
            self._held = held
            now_s = monotonic()
            is_small = held.losses.nbytes * (1 + len(held.parts) + len(held.members)) < LINE_BYTES
            if is_small and now_s - self._lined_s < min(1.0, max(0.05, (now_s - self._opened_s) / 2000)):
                self._write_tail(held)
                return
            self._lined_s = now_s
            self._release()
        else:
            self._release()
            self._append(event)

    def close(self) -> None:
        """Closes the file after it has reached the disk."""
        if not self._file.closed:
            try:
                self._release()
                os.fsync(self._file.fileno())
                self._drop_tail()
            finally:
                self._file.close()
                if self._tail is not None:
                    self._tail.close()

    def _drop_tail(self) -> None:
        if self._tail is not None:
            # It is overtaken, so it does no harm where a reader keeps it from being removed.
            with contextlib.suppress(OSError):
                self._tail.close()
                (self.path / TAIL).unlink(missing_ok=True)

    def _release(self) -> None:
        if self._held is not None:
            self._append(self._held)
            self._held = None

    def _append(self, event: Event) -> None:
        line, end = _dumped(to_json(event)), self._file.tell()
        try:
            written = self._file.write(line)
            if written != len(line):
                raise OSError(f"only {written} of {len(line)} bytes could be written to {self.path}")
        except OSError:
            # Half a line would spoil the next one, and overtake the tail.
            with contextlib.suppress(OSError):
                self._file.truncate(end)
                self._file.seek(end)
            raise

    def _write_tail(self, event: Losses) -> None:
        if self._tail is None:
            self._tail = open(self.path / TAIL, "w+b", buffering=0)  # noqa: SIM115 - closed by close()
        values = to_json(event)
        self._tail.seek(0)
        # The place that it follows tells a reader whether the journal has since got a line that contains it, and the
        # check whether it was read while it was written.
        tail = {"follows": self._file.tell(), "check": zlib.crc32(_dumped(values)), "event": values}
        self._tail.write(_dumped(tail))
        self._tail.truncate()


def parse_tail(text: bytes) -> tuple[int, dict[str, Any]] | None:
    """Returns which byte of the journal a tail follows, and its losses as JSON values; None where it is damaged."""
    try:
        tail = json.loads(text.partition(b"\n")[0])
        follows, event = tail["follows"], tail["event"]
        whole = event["kind"] == "losses" and isinstance(follows, int) and tail["check"] == zlib.crc32(_dumped(event))
        return (follows, event) if whole else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _dumped(values: dict[str, Any]) -> bytes:
    return json.dumps(values, allow_nan=False, separators=(",", ":")).encode() + b"\n"


def store_folder(given: str | Path | None = None) -> Path:
    """Returns the given store, else what `DLFB_STORE` names, else `dlfb_runs` in the working folder.

    The path is absolute, so that a run finds its folder after `os.chdir`.
    """
    return Path(given or os.environ.get("DLFB_STORE") or "dlfb_runs").expanduser().absolute()


def create(store: Path, name: str) -> Journal:
    """Makes a new run folder, unique whatever the name, and opens its journal.

    Raises:
        StoreError: the folder cannot be made or written.
    """
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    slug = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-").lower()[:40] or "run"
    path = store_folder(store) / f"{slug}-{stamp}-{secrets.token_hex(2)}"
    try:
        path.mkdir(parents=True)
        _claim(path)
        return Journal(path)
    except OSError as error:
        raise StoreError(f"The store `{store}` cannot be written ({error.strerror or error}).") from error


def liveness(path: Path) -> Literal["alive", "gone", "elsewhere", "unknown"]:
    """Whether the process that trains a run still lives.

    "elsewhere": it is on another machine, and nothing can be said. "unknown": it could not be found out just now.
    """
    import psutil

    try:
        writer = json.loads((path / WRITER).read_text(encoding="utf-8"))
        if writer["host"] != socket.gethostname():
            return "elsewhere"
        process = psutil.Process(writer["pid"])
        if process.status() == psutil.STATUS_ZOMBIE:
            return "gone"
        # A process number is given again to others, but not with the same start.
        if writer.get("start") is not None:
            return "alive" if writer["start"] == _start(process.pid) else "gone"
        return "alive" if abs(process.create_time() - writer["created_s"]) < 60.0 else "gone"
    except (FileNotFoundError, NotADirectoryError, psutil.NoSuchProcess):
        return "gone"
    except (OSError, psutil.Error):
        return "unknown"
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return "gone"


def is_ours(path: Path) -> bool:
    """Whether a run was trained on this machine by this user: what is kept with it is then the user's own code."""
    try:
        writer = json.loads((path / WRITER).read_text(encoding="utf-8"))
        user = getattr(os, "getuid", lambda: None)()
        return writer["host"] == socket.gethostname() and user in (None, path.stat().st_uid)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def abandon(path: Path) -> None:
    """Says of a run that nobody writes its journal any more, though its process lives."""
    with contextlib.suppress(OSError):
        (path / WRITER).unlink(missing_ok=True)


def _this_process() -> dict[str, Any]:
    import psutil

    process = psutil.Process()
    return {
        "host": socket.gethostname(),
        "pid": process.pid,
        "created_s": process.create_time(),
        "start": _start(process.pid),
    }


def _start(pid: int) -> str | None:
    """Returns when a process began, in a count that no correction of the clock changes; None where there is none."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        # The name in brackets may hold anything; the start is the 20th field after it.
        ticks = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None
    return f"{boot}:{ticks}"


def rewound(path: Path, step: int, evaluated_at: int) -> Journal:
    """Opens the journal of a run that goes on from an earlier step, for this process to write.

    What was written of later steps is to come again, so it is taken out. The journal as it was stays beside it.

    Args:
        path: the run's folder.
        step: updates applied where it goes on.
        evaluated_at: the last step whose evaluation stays.

    Raises:
        StoreError: another process trains it, or the folder cannot be written.
    """
    begun = path / f".{EVENTS}-{secrets.token_hex(4)}"
    try:
        with _alone(path):
            refuse_trained(path)
            text = b"".join(_dumped(to_json(event)) for event in _until(path, step, evaluated_at))
            with open(begun, "wb") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            shutil.copy2(path / EVENTS, path / BEFORE)
            _claim(path)
            begun.replace(path / EVENTS)
        for name in (TAIL, REQUESTS):
            (path / name).unlink(missing_ok=True)
        return Journal(path)
    except StoreError:
        raise
    except OSError as error:
        begun.unlink(missing_ok=True)
        raise StoreError(f"The run in `{path}` cannot go on there ({error.strerror or error}).") from error


def put_back(path: Path) -> None:
    """Undoes `rewound` for a run that could not be gone on with."""
    with contextlib.suppress(OSError):
        (path / BEFORE).replace(path / EVENTS)
    abandon(path)


def refuse_trained(path: Path) -> None:
    """Refuses a run that is being trained by a process of this machine.

    Raises:
        StoreError: which process has it.
    """
    over = any(isinstance(event, Status) and event.state in ENDED for event in _read_file(path / EVENTS))
    if not over and liveness(path) == "alive":
        pid = json.loads((path / WRITER).read_text(encoding="utf-8"))["pid"]
        who = "this process" if pid == os.getpid() else f"process {pid}"
        raise StoreError(f"{path.name} is being trained by {who}. Stop it first, or wait for its end.")


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Keeps other processes out while a run changes hands; one that died meanwhile does so for a few seconds."""
    lock = path / LOCK
    deadline_s = monotonic() + LOCK_S
    while True:
        try:
            os.close(os.open(lock, os.O_CREAT | os.O_EXCL))
            break
        except FileExistsError:
            if monotonic() > deadline_s:
                lock.unlink(missing_ok=True)
            sleep(0.02)
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)


def _until(path: Path, step: int, evaluated_at: int) -> Iterator[Event]:
    for event in [*_read_file(path / EVENTS), *_read_tail(path)]:
        if isinstance(event, Losses):
            count = max(0, min(len(event.losses), (step - event.first_step) // event.stride))
            if count:
                yield replace(
                    event,
                    step=min(event.step, step),
                    losses=event.losses[:count],
                    parts={name: block[:count] for name, block in event.parts.items()},
                    members=[block[:count] for block in event.members],
                    duration_s=event.duration_s * count / len(event.losses),
                )
        elif isinstance(event, Evaluation):
            if event.step <= evaluated_at:
                yield event
        elif event.step <= step and not (isinstance(event, Status) and event.state in ENDED):
            yield event


def _claim(path: Path) -> None:
    (path / WRITER).write_text(json.dumps(_this_process()), encoding="utf-8")


def append_later(path: Path, event: Event) -> None:
    """Adds an event to a run that another writer trained.

    Raises:
        StoreError: the run's folder cannot be written.
    """
    try:
        journal = Journal(path, f"events-{secrets.token_hex(4)}.jsonl")
        journal.put(event)
        journal.close()
    except OSError as error:
        raise StoreError(f"The run in `{path}` cannot be added to ({error.strerror or error}).") from error


def read(path: Path) -> list[Event]:
    """Returns all events of a run: training's in the order written, then later additions by time.

    Raises:
        StoreError: there is no readable journal.
    """
    try:
        events = [*_read_file(path / EVENTS), *_read_tail(path)]
        later = [event for file in path.glob("events-*.jsonl") for event in _read_file(file)]
    except OSError as error:
        raise StoreError(f"No run can be read in `{path}` ({error.strerror or error}).") from error
    return events + sorted(later, key=lambda event: event.time_s)


def _read_file(path: Path) -> Iterator[Event]:
    for values in _parse(path.read_bytes().splitlines()):
        try:
            event = from_json(values)
        except (ValueError, KeyError, TypeError):
            continue
        if event is not None:
            yield event


def _read_tail(path: Path) -> Iterator[Event]:
    """Reads the losses that have no line yet; a damaged tail, or one that the journal has overtaken, says nothing."""
    try:
        tail = parse_tail((path / TAIL).read_bytes())
        if tail is not None and tail[0] == _end_of_lines(path / EVENTS) and (event := from_json(tail[1])):
            yield event
    except (OSError, ValueError, KeyError, TypeError):
        return


def _end_of_lines(path: Path) -> int:
    """Returns the place after the last whole line of a file."""
    with open(path, "rb") as file:
        place = file.seek(0, os.SEEK_END)
        while place > 0:
            start = max(0, place - 65536)
            file.seek(start)
            found = file.read(place - start).rfind(b"\n")
            if found >= 0:
                return start + found + 1
            place = start
    return 0


def _parse(lines: list[bytes]) -> Iterator[Any]:
    """Parses each whole line: all at once, which takes half the time, unless one of them is damaged."""
    try:
        values = json.loads(b"[" + b",".join(lines) + b"]")
        if len(values) == len(lines):
            yield from values
            return
    except ValueError:
        pass
    for line in lines:
        with contextlib.suppress(ValueError):
            yield json.loads(line)


def read_started(path: Path) -> RunStarted | None:
    """Returns the plan of the run in a folder, or None where it is not a run."""
    try:
        with open(path / EVENTS, "rb") as file:
            # It is the first event; a line or two before it may be torn.
            values = _parse([line for line, _ in zip(file, range(3), strict=False)])
            events = [from_json(v) for v in values]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return next((e for e in events if isinstance(e, RunStarted)), None)


def list_runs(store: Path) -> list[tuple[Path, RunStarted]]:
    """Returns the folders of a store that hold runs, with their plans, oldest first."""
    if not store.is_dir():
        return []
    found = [(path, started) for path in store.iterdir() if (started := read_started(path)) is not None]
    return sorted(found, key=lambda pair: pair[1].time_s)


def find(store: Path, run: str) -> Path:
    """Returns the folder of a run, given its id or a name that only one run has.

    Raises:
        StoreError: no run, or more than one, goes by that name.
    """
    found = list_runs(store)
    matches = [path for path, started in found if path.name == run or started.run_id == run]
    matches = matches or [path for path, started in found if started.name == run]
    if len(matches) == 1:
        return matches[0]
    if matches:
        ids = ", ".join(path.name for path in matches)
        raise StoreError(f"{len(matches)} runs are named `{run}`: {ids}. Give one of these ids.")
    known = [path.name for path, _ in found]
    hint = nearest(run, known) or (f" The latest is `{known[-1]}`." if known else " The store holds no runs.")
    raise StoreError(f"There is no run `{run}` in `{store}`.{hint}")


def write_split(path: Path, parts: Mapping[str, np.ndarray]) -> None:
    """Keeps which rows are in which part: row numbers by part name."""
    arrays: Any = {
        name: rows.astype(np.int32 if rows.max(initial=0) < 2**31 else np.int64) for name, rows in parts.items()
    }
    np.savez(path / "split.npz", **arrays)


def read_split(path: Path) -> dict[str, np.ndarray]:
    """Returns what `write_split` kept, int64.

    Raises:
        StoreError: it is gone or damaged.
    """
    try:
        with np.load(path / "split.npz") as file:
            return {name: file[name].astype(np.int64) for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise StoreError(f"No split can be read in `{path}` ({getattr(error, 'strerror', None) or error}).") from error


def write_preparation(path: Path, preparation: Mapping[str, Any]) -> None:
    """Keeps what must be done to new data before the model takes them, as JSON."""
    text = json.dumps(preparation, allow_nan=False, indent=1)
    (path / "preparation.json").write_text(text, encoding="utf-8")


def read_preparation(path: Path) -> dict[str, Any]:
    """Returns what `write_preparation` kept.

    Raises:
        StoreError: it is gone or damaged.
    """
    try:
        found = json.loads((path / "preparation.json").read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("it holds no object")
        return found
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        raise StoreError(f"How the data of `{path}` were prepared cannot be read ({reason}).") from error
