"""The checkpoints of a run: told with what may be done to each, and changed; through no link."""

from __future__ import annotations

import contextlib
import os
import re
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from dlfb_lab.checkpoints import folder, keeping, trash
from dlfb_lab.checkpoints.folder import FOLDER, Checkpoint
from dlfb_lab.checkpoints.trash import TRASH
from dlfb_lab.errors import StoreError
from dlfb_lab.events import ENDED
from dlfb_lab.journal import EVENTS
from dlfb_lab.server import feed, lines
from dlfb_lab.server.answers import answer
from dlfb_lab.server.asking import asked
from dlfb_lab.server.errors import Refusal, shown
from dlfb_lab.server.folders import RUN, Stores, opened
from dlfb_lab.server.rows import HEAD, Pulse
from dlfb_lab.server.verifying import Verifier

NAME = re.compile(r"step-[0-9]{1,18}|\.step-[0-9]{1,18}-[0-9a-f]+")
ACTIONS = ("verify", "pin", "unpin", "delete", "undo")
MOST_SOURCE = 4000
"""Characters of a cell that is offered to be run again."""
SILENT_S = 300.0
"""A run on another machine that has written nothing for so long is not taken to go on."""


@dataclass(frozen=True)
class Plan:
    """What the beginning of a journal says.

    Attributes:
        monitor: the column of the history whose best is kept.
        mode: whether a small or a large value of it is better.
        source: the line that began the run; "" where it was a longer cell, or none.
        parent: the run whose checkpoint it began from; "" where it began anew.
        parent_step: updates applied to that checkpoint.
    """

    monitor: str = ""
    mode: Literal["min", "max"] = "min"
    source: str = ""
    parent: str = ""
    parent_step: int = 0


@dataclass(frozen=True)
class Found:
    """A checkpoint as it lies on the disk.

    Attributes:
        checkpoint: what is known of it.
        bytes: what it takes.
        kept: why it is kept, apart from being pinned; "" where it need not be.
        protected: why it cannot be deleted; "" where it can.
    """

    checkpoint: Checkpoint
    bytes: int
    kept: str = ""
    protected: str = ""


class Checkpoints:
    """The checkpoints of the runs in all stores."""

    def __init__(self, stores: Stores, pulse: Callable[[Path], Pulse], root: Path) -> None:
        """Prepares to answer.

        Args:
            stores: where runs are.
            pulse: tells whether a run's process lives.
            root: the folder that the Jupyter server shows.
        """
        self._stores, self._pulse, self._root = stores, pulse, root
        self._verifier = Verifier(lambda path: _bytes_of(path) is not None)

    def told(self, store: str, run: str) -> bytes:
        """Answers with a run's checkpoints, latest first, and what is in its trash.

        Raises:
            Refusal: there is no such run, or a link is in the way.
        """
        return self._told(self._stores.run(store, run))

    def tidy(self, run: Path) -> None:
        """Empties a run's trash of what is older than a week, unless a link is in the way."""
        with contextlib.suppress(Refusal):
            _trash(run)

    def change(self, store: str, run: str, body: bytes) -> bytes:
        """Does what is asked, and answers as `told` does.

        Raises:
            Refusal: it cannot be done; the message says why.
        """
        action, name = _action(body)
        path = self._stores.run(store, run)
        try:
            if action == "undo":
                _undo(path, name)
            else:
                self._change(path, action, name)
        except StoreError as error:
            raise Refusal(409, "not_written", str(error)) from error
        return self._told(path)

    def _change(self, run: Path, action: str, name: str) -> None:
        found = self._found(run)
        if action == "verify" and not name:
            self._verifier.put(one.checkpoint for one in found if one.checkpoint.manifest is not None)
            return
        chosen = next((one for one in found if one.checkpoint.path.name == name), None)
        if chosen is None:
            which = f"of step {_step(name):,}" if NAME.fullmatch(name) else f"“{shown(name)}”"
            raise Refusal(404, "no_checkpoint", f"{run.name} has no checkpoint {which} (any more).")
        checkpoint = chosen.checkpoint
        if _bytes_of(checkpoint.path) is None:
            raise Refusal(403, "link", f"The checkpoint of step {checkpoint.step:,} is left alone: {checkpoint.why}")
        if action == "verify":
            self._verifier.put([checkpoint])
        elif action in ("pin", "unpin"):
            folder.pin(checkpoint, action == "pin")
        elif chosen.protected:
            raise Refusal(
                409, "kept", f"The checkpoint of step {checkpoint.step:,} cannot be deleted: {chosen.protected}."
            )
        else:
            _own(run / FOLDER / TRASH)
            trash.delete(run, checkpoint)

    def _told(self, run: Path) -> bytes:
        plan = plan_of(run)
        found = self._found(run)
        return answer(
            {
                "run": run.name,
                "folder": str(run),
                "below": self._below(run.parent),
                "source": plan.source,
                "monitor": plan.monitor,
                "checkpoints": [self._row(one, plan) for one in reversed(found)],
                "trash": [
                    {
                        "name": one.path.name,
                        "step": one.step,
                        "bytes": _bytes_of(one.path) or 0,
                        "deleted_s": one.at_s,
                        "until_s": one.at_s + trash.WEEK_S,
                    }
                    for one in _trash(run)
                ],
            }
        )

    def _row(self, found: Found, plan: Plan) -> dict[str, Any]:
        checkpoint = found.checkpoint
        manifest, verdict = checkpoint.manifest, self._verifier.verdict(checkpoint)
        metrics = dict(manifest.metrics) if manifest is not None else {}
        first = {name: metrics.pop(name) for name in (plan.monitor,) if name in metrics}
        return {
            "name": checkpoint.path.name,
            "step": checkpoint.step,
            "state": checkpoint.state,
            "why": checkpoint.why,
            "bytes": found.bytes,
            "saved_s": manifest.saved_at_s if manifest is not None else None,
            "metrics": first | metrics,
            "pinned": checkpoint.pinned,
            "kept": found.kept,
            "protected": found.protected,
            "verifying": self._verifier.is_busy_with(checkpoint),
            "verified_s": verdict.at_s if verdict is not None else None,
        }

    def _found(self, run: Path) -> list[Found]:
        """Returns a run's checkpoints, oldest first, with why they are kept."""
        found = [(self._verifier.judged(checkpoint), size) for checkpoint, size in _listed(run)]
        plan = plan_of(run)
        # Pinned ones too are told to be the best or the latest.
        unpinned = [replace(checkpoint, pinned=False) for checkpoint, _ in found]
        kept = keeping.reasons(unpinned, plan.monitor, plan.mode)
        in_use, all_in_use = self._in_use(run)
        is_open = self._pulse(run).life() in ("alive", "unknown")

        def judged(checkpoint: Checkpoint, size: int) -> Found:
            if checkpoint.state != "partial":
                reason = kept.get(checkpoint.step, "")
                used = in_use.get(checkpoint.step, all_in_use)
                return Found(checkpoint, size, reason, used or _because(checkpoint.pinned, reason))
            if not is_open:
                return Found(checkpoint, size)
            # The last one is written when the run is over.
            checkpoint = replace(checkpoint, why="It is being saved, or was not saved to its end.")
            return Found(checkpoint, size, protected=all_in_use or "its kernel is still there, and may be saving it")

        return [judged(checkpoint, size) for checkpoint, size in found]

    def _in_use(self, run: Path) -> tuple[dict[int, str], str]:
        """Returns why checkpoints are in use, by step, and why all of them are; "" where they are not."""
        found: dict[int, str] = {}
        if self._is_trained(run):
            return found, "the run is being trained, and looks after its checkpoints itself"
        for other in _neighbours(run):
            plan = plan_of(other)
            if plan.parent == run.name and plan.parent_step not in found and self._is_trained(other):
                found[plan.parent_step] = f"{other.name}, which is being trained, began from it"
        return found, ""

    def _is_trained(self, run: Path) -> bool:
        # Before the state, so that a run that ends meanwhile is not taken for one that broke off.
        life = self._pulse(run).life()
        if life == "gone" or feed.state(run) in ENDED:
            return False
        if life != "elsewhere":
            return True
        with contextlib.suppress(OSError):
            return time.time() - os.lstat(run / EVENTS).st_mtime < SILENT_S
        return False

    def _below(self, store: Path) -> str | None:
        """Returns where a store lies below the folder that the Jupyter server shows, with "/" on every system."""
        with contextlib.suppress(ValueError):
            return store.relative_to(os.path.realpath(self._root)).as_posix()
        return None


def plan_of(run: Path) -> Plan:
    """Returns what a run's journal says of it at its beginning; an empty plan where that cannot be read."""
    try:
        return _plan(run, os.lstat(run / EVENTS).st_ino)
    except (OSError, Refusal, LookupError):
        return Plan()


@lru_cache(maxsize=2000)
def _plan(run: Path, _inode: int) -> Plan:
    text = b""
    with opened(run, EVENTS) as file:
        while b"\n" not in text and len(text) < lines.BEGINNING and (more := file.read(HEAD)):
            text += more
    events, _ = lines.parse(text.split(b"\n")[:-1])
    told = next((event for event in events if event["kind"] == "run_started"), None)
    if told is None:
        raise LookupError("it is only just being written")
    monitor, source, parent, step = (told.get(name) for name in ("monitor", "source", "parent", "parent_step"))
    return Plan(
        monitor=monitor if isinstance(monitor, str) else "",
        mode="max" if told.get("monitor_mode") == "max" else "min",
        source=source if isinstance(source, str) and len(source) <= MOST_SOURCE and "\n" not in source else "",
        parent=parent if isinstance(parent, str) else "",
        parent_step=step if isinstance(step, int) else 0,
    )


def _action(body: bytes) -> tuple[str, str]:
    """Returns the action and the name of the checkpoint that a request is about; "" for all of them."""
    told = asked(body)
    action, name = told.get("action"), told.get("name", "")
    if action not in ACTIONS or not isinstance(name, str) or (action != "verify" and not name):
        known = ", ".join(ACTIONS)
        raise Refusal(400, "bad_action", f"A checkpoint can be asked for by name, with one of these: {known}.")
    return action, name


def _because(pinned: bool, kept: str) -> str:
    if pinned:
        return "it is pinned; unpin it first"
    return f"it is {kept}" if kept else ""


def _own(path: Path) -> bool:
    """Whether a folder of a run's is there.

    Raises:
        Refusal: a link or a file is in its place.
    """
    try:
        look = os.lstat(path)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise Refusal(403, "unreadable", f"{path} cannot be read ({error.strerror or error}).") from error
    # The second look is for what is a link on other systems only.
    if not stat.S_ISDIR(look.st_mode) or os.path.realpath(path) != str(path):
        message = f"{path} is a link or something else that is no folder of its own, so it is left alone. Take it away."
        raise Refusal(403, "link", message)
    return True


def _listed(run: Path) -> list[tuple[Checkpoint, int]]:
    """Returns a run's checkpoints, oldest first, and what each takes; one with a link in it is not looked into."""
    place = run / FOLDER
    try:
        names = [name for name in os.listdir(place) if NAME.fullmatch(name)] if _own(place) else []
    except FileNotFoundError:
        names = []
    except OSError as error:
        raise Refusal(403, "unreadable", f"{place} cannot be read ({error.strerror or error}).") from error
    found = []
    for path in (place / name for name in names):
        size = _bytes_of(path)
        checkpoint = folder.looked_at(path) if size is not None else _strange(path)
        if checkpoint is not None and os.path.lexists(path):
            found.append((checkpoint, size or 0))
    return sorted(found, key=lambda one: (one[0].step, one[0].state == "partial"))


def _strange(path: Path) -> Checkpoint:
    why = "There is a link in it, or something else that is no file, so it is not read."
    return Checkpoint(path=path, step=_step(path.name), state="damaged", why=why)


def _step(name: str) -> int:
    return int(name.split("-")[1])


def _bytes_of(path: Path) -> int | None:
    """Returns what a folder's files take; None where it is, or holds, anything but folders and plain files."""
    total = 0
    waiting = [str(path)]
    while waiting:
        place = waiting.pop()
        try:
            if not stat.S_ISDIR(os.lstat(place).st_mode):
                return None
            with os.scandir(place) as entries:
                for entry in entries:
                    look = entry.stat(follow_symlinks=False)
                    if stat.S_ISDIR(look.st_mode):
                        waiting.append(entry.path)
                    elif stat.S_ISREG(look.st_mode):
                        total += look.st_size
                    else:
                        return None
        except FileNotFoundError:
            continue
        except OSError:
            return None
    return total


def _trash(run: Path) -> list[trash.Deleted]:
    """Returns what is in a run's trash, after emptying it of what is older than a week."""
    if not (_own(run / FOLDER) and _own(run / FOLDER / TRASH)):
        return []
    trash.empty(run)
    return trash.listed(run)


def _undo(run: Path, name: str) -> None:
    deleted = next((one for one in _trash(run) if one.path.name == name), None)
    if deleted is None:
        raise Refusal(404, "no_checkpoint", f"{shown(name)} is not in the trash of {run.name} (any more).")
    trash.undo(run, deleted)


def _neighbours(run: Path) -> list[Path]:
    """Returns the folders of the other runs in the same store."""
    try:
        with os.scandir(run.parent) as entries:
            return [
                Path(entry.path)
                for entry in entries
                if entry.name != run.name and RUN.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False)
            ]
    except OSError:
        return []
