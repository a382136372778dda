"""Saving a run while it goes on: as often as that costs little, in a thread that training does not wait for."""

from __future__ import annotations

import atexit
import concurrent.futures.thread  # noqa: F401 - Orbax uses its threads: they have to end after what `_Worker` waits for
import contextlib
import secrets
import shutil
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any, Literal

from dlfb_lab.checkpoints import folder, keeping
from dlfb_lab.checkpoints.folder import FOLDER
from dlfb_lab.engine.clock import duration
from dlfb_lab.engine.snapshot import Snapshot
from dlfb_lab.errors import OptionError, StoreError
from dlfb_lab.events import CheckpointSaved, Event, Notice

SHARE = 0.03
"""The most that saving may take of a run's time, where nothing else was asked for."""

FIRST_S, NEXT_S, BETTER_S = 15.0, 5.0, 1.0
"""Seconds before the first, between two, and before one of a better score."""

BYTES_PER_S = 5e8
"""How fast a state is taken to be saved, before that has been measured."""

SLIGHT, LARGE = 0.03, 0.25
"""Of the time between two checkpoints: each is waited for that takes less than the one, or more than the other."""

MUCH_BYTES = 5e9
"""Checkpoints that take more together are worth a word beforehand."""

PATIENCE_S = 3.0
"""How long the interpreter's end waits for a checkpoint without a word."""

HELP = "every=100 (steps) or every=5m, keep=3 (the latest), best=1; or off"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """How often to save and what to keep.

    Attributes:
        every_steps: updates between two; None where that was not said.
        every_s: seconds between two; None where that was not said.
        keep: how many of the latest are kept.
        best: how many of the best are kept.
    """

    every_steps: int | None = None
    every_s: float | None = None
    keep: int = 1
    best: int = 1


def asked(text: str | None) -> Asked | None:
    """Reads `--checkpoint`, such as "every=100,keep=3,best=2"; None for "off".

    Raises:
        OptionError: it reads otherwise.
    """
    if text is None or not text.strip():
        return Asked()
    if text.strip() == "off":
        return None
    found: dict[str, Any] = {}
    for part in text.split(","):
        name, _, value = (word.strip() for word in part.partition("="))
        if name == "every" and value.isdecimal() and int(value) > 0:
            found["every_steps"] = int(value)
        elif name == "every" and value:
            found["every_s"] = duration(value, "--checkpoint every")
        elif name in ("keep", "best") and value.isdecimal() and int(value) >= (name == "keep"):
            found[name] = int(value)
        else:
            raise OptionError(f"--checkpoint {text}: `{part.strip()}` is not understood. Say {HELP}.")
    return Asked(**found)


def room(run: Path, asked: Asked, state_bytes: int) -> list[tuple[Literal["info", "warning"], str]]:
    """Returns what the user should know beforehand of the space that checkpoints will take; nothing if that is little.

    Args:
        run: the run's folder.
        asked: how many are kept.
        state_bytes: about how much each takes.
    """
    # One more, since a new one is there before an old one is removed.
    count = asked.keep + asked.best + 1
    needed = count * state_bytes
    try:
        free = shutil.disk_usage(run).free
    except OSError:
        return []
    words = f"Checkpoints will take up to about {needed / 1e9:.2g} GB ({count} of {state_bytes / 1e9:.2g} GB)"
    if needed > free:
        return [
            (
                "warning",
                f"{words}, but the disk has {free / 1e9:.2g} GB free. Make room, give another folder with --store, "
                "or keep fewer: --checkpoint keep=1,best=0.",
            )
        ]
    return [("info", f"{words}; the disk has {free / 1e9:.2g} GB free.")] if needed > MUCH_BYTES else []


class Saver:
    """Keeps checkpoints of a run in its folder; a `Checkpointer`.

    How often is decided by what saving has cost so far: all of its time, though training goes on beside it, for both
    may want the same processors.
    """

    def __init__(
        self,
        run: Path,
        asked: Asked,
        monitor: str,
        mode: Literal["min", "max"],
        *,
        fingerprints: Mapping[str, str] | None = None,
        state_bytes: int = 0,
    ) -> None:
        """Begins to count the time.

        Args:
            run: its folder.
            asked: how often to save, and what to keep.
            monitor: the column of the history that tells which are the best; "" for none.
            mode: whether a small or a large value of it is better.
            fingerprints: of model, data, optimizer and code.
            state_bytes: about how much there will be to save.
        """
        self._run, self._asked, self._monitor, self._mode = run, asked, monitor, mode
        self._fingerprints = dict(fingerprints or {})
        self._began_s = self._saved_s = monotonic()
        self._went_on_s: float | None = None
        self._cost_s, self._spent_s, self._count = 0.1 + state_bytes / BYTES_PER_S, 0.0, 0
        self._writing = 0
        self._lock = threading.Lock()
        self._news: SimpleQueue[Event] = SimpleQueue()
        self._later: Callable[[Event], object] | None = None
        self._said = ""
        self._ending = False
        self._last: Snapshot | None = None

    def due(self, step: int, ending: bool, better: bool = False) -> bool:
        """See `Checkpointer`."""
        self._ending = ending
        if ending:
            return True
        a, since_s = self._asked, monotonic() - self._saved_s
        if a.every_steps is not None:
            return step > 0 and step % a.every_steps == 0
        if self._writing:
            return False
        if a.every_s is not None:
            return since_s >= a.every_s
        if since_s < (BETTER_S if better and self._count else NEXT_S if self._count else FIRST_S):
            return False
        return self._spent_s + self._cost_s <= SHARE * (monotonic() - self._began_s)

    def steps_until(self, step: int) -> int:
        """See `Checkpointer`."""
        if self._went_on_s is None:
            # What came before was preparation.
            self._went_on_s = monotonic()
        every = self._asked.every_steps
        return sys.maxsize if every is None else every - step % every

    def save(self, snapshot: Snapshot) -> None:
        """See `Checkpointer`. Waits for the one before, so that there is one copy in memory at most."""
        if self._ending:
            # Whoever waits for the end of training does not wait for this.
            self._last = snapshot
            return
        trained_s = monotonic() - (self._went_on_s or self._began_s)
        self._wait()
        self._submit(snapshot)
        if self._asked.every_steps is not None and not SLIGHT * trained_s < self._cost_s < LARGE * trained_s:
            # Where waiting costs next to nothing, or much would be trained meanwhile that a crash could lose, no more
            # than what lies between two checkpoints is ever trained again.
            self._wait()
        self._went_on_s = monotonic()

    def _wait(self) -> None:
        while self._writing:
            worker.wait(0.05)

    def _submit(self, snapshot: Snapshot) -> None:
        with self._lock:
            self._writing += 1
        self._saved_s = monotonic()
        self._spent_s += snapshot.took_s
        worker.put(partial(self._write, snapshot), f"step {snapshot.place['step']:,} of {self._run.name}")

    def news(self) -> Iterator[Event]:
        """See `Checkpointer`."""
        with contextlib.suppress(Empty):
            while True:
                yield self._news.get_nowait()

    def last(self) -> Snapshot | None:
        """See `Checkpointer`."""
        from dlfb_lab.checkpoints.arrays import restore

        wait()
        for checkpoint in keeping.usable(folder.listed(self._run)):
            with contextlib.suppress(StoreError):
                arrays = restore(checkpoint)
                assert checkpoint.manifest is not None
                return Snapshot(arrays, checkpoint.manifest.place, checkpoint.manifest.metrics)
        return None

    def close(self, later: Callable[[Event], object]) -> None:
        """Saves the last state; what is still to be told is given to `later`, in the thread that saves."""
        with self._lock:
            self._later = later
        for event in self.news():
            with contextlib.suppress(StoreError):
                later(event)
        last, self._last = self._last, None
        if last is not None:
            self._submit(last)

    def _tell(self, event: Event) -> None:
        with self._lock:
            later = self._later
            if later is None:
                self._news.put(event)
        if later is not None:
            with contextlib.suppress(StoreError):
                later(event)

    def _write(self, snapshot: Snapshot) -> None:
        from dlfb_lab.checkpoints.arrays import save  # imports Orbax, which takes seconds

        began_s, step = monotonic(), int(snapshot.place["step"])
        try:
            found = save(
                self._run,
                step,
                snapshot.arrays,
                metrics=snapshot.metrics,
                place=snapshot.place,
                fingerprints=self._fingerprints,
            )
            assert found.manifest is not None
            self._tell(
                CheckpointSaved(
                    step=step,
                    bytes=found.manifest.bytes,
                    duration_s=monotonic() - began_s,
                    stall_s=snapshot.took_s,
                    state=found.state,
                    kept=self._keep(),
                )
            )
        except Exception as error:
            self._failed(step, error)
        finally:
            with self._lock:
                cost_s = monotonic() - began_s
                self._writing -= 1
                self._count += 1
                self._spent_s += cost_s
                self._cost_s = cost_s + snapshot.took_s

    def _failed(self, step: int, error: Exception) -> None:
        said = (
            str(error) if isinstance(error, StoreError) else f"The checkpoint of step {step:,} was not saved: {error}"
        )
        reason = said.partition("(")[2] or said
        if reason == self._said:
            return
        self._said = reason
        with contextlib.suppress(StoreError):
            last = next(iter(keeping.usable(folder.listed(self._run))), None)
            said += f" The last one, of step {last.step:,}, is as it was." if last is not None else ""
        self._tell(Notice(step=step, level="warning", text=f"{said} Training goes on."))

    def _keep(self) -> list[int]:
        """Removes the checkpoints that need not be kept; returns the steps of those that are left."""
        found = folder.listed(self._run)
        a = self._asked
        kept = keeping.reasons(found, self._monitor, self._mode, best=a.best, latest=a.keep)
        last = found[-1].step if found else -1
        for checkpoint in found:
            # Of those that are not finite the last one, which shows what has become of the run.
            needed = checkpoint.step in kept or (not checkpoint.usable and checkpoint.step == last)
            if checkpoint.state in ("complete", "not finite") and not needed:
                # Under the name of one that is not whole, so that it is never taken for a damaged one.
                gone = self._run / FOLDER / f".step-{checkpoint.step}-{secrets.token_hex(4)}"
                with contextlib.suppress(OSError):
                    checkpoint.path.rename(gone)
                    shutil.rmtree(gone, ignore_errors=True)
        return [checkpoint.step for checkpoint in folder.listed(self._run) if checkpoint.state != "partial"]


class _Worker:
    """One thread for all that is to be saved in this process; it is there while there is something."""

    def __init__(self) -> None:
        self._jobs: deque[tuple[Callable[[], None], str]] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._ends = False

    def put(self, job: Callable[[], None], name: str) -> None:
        """Has a job done after those before it; the interpreter's end waits for it."""
        with self._changed:
            self._jobs.append((job, name))
            if not self._ends:
                self._ends = True
                # Orbax needs threads of its own, which can no more be had when functions of `atexit` are called.
                getattr(threading, "_register_atexit", atexit.register)(self._end)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="dlfb-checkpoints", daemon=True)
                self._thread.start()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Waits until a job is done; returns whether none is left."""
        with self._changed:
            if self._jobs:
                self._changed.wait(timeout_s)
            return not self._jobs

    def _work(self) -> None:
        while True:
            with self._changed:
                if not self._jobs:
                    self._thread = None
                    return
                job, _ = self._jobs[0]
            with contextlib.suppress(Exception):
                job()
            del job
            with self._changed:
                self._jobs.popleft()
                self._changed.notify_all()

    def _end(self) -> None:
        deadline_s = monotonic() + PATIENCE_S
        while not self.wait(0.1):
            if monotonic() > deadline_s:
                deadline_s = float("inf")
                with self._changed:
                    name = self._jobs[0][1] if self._jobs else ""
                print(  # noqa: T201 - there is no run any more that could say it
                    f"dlfb_lab: saving the checkpoint of {name}. Interrupt to leave without it.", file=sys.stderr
                )


worker = _Worker()


def wait(timeout_s: float | None = None) -> bool:
    """Waits until every checkpoint of this process is on the disk, or the time is up; returns whether they are."""
    deadline_s = None if timeout_s is None else monotonic() + timeout_s
    while not worker.wait(None if deadline_s is None else max(0.0, deadline_s - monotonic())):
        if deadline_s is not None and monotonic() >= deadline_s:
            return False
    return True
