"""The runs of all stores, newest first, each in a few kilobytes."""

from __future__ import annotations

import contextlib
import datetime
import logging
import os
import re
import stat
import threading
from collections import OrderedDict
from pathlib import Path
from time import monotonic
from typing import Any

from dlfb_lab.events import ENDED
from dlfb_lab.journal import EVENTS
from dlfb_lab.server.errors import Refusal
from dlfb_lab.server.folders import RUN, Stores, is_settled
from dlfb_lab.server.rows import LOOK_OVER_S, LOOK_S, Row

MOST_RUNS = 200
MOST_ROWS = 500
"""Runs whose digests are kept."""
BUDGET_S = 0.5
"""For reading journals in one answer; what is left is read by the next ones."""
GRACE_S = 0.05
"""For one journal, where the budget is spent before any is read."""
HEADS_S = 1.0
"""For the beginnings of journals that were never looked at, whatever the budget, so that all runs show soon."""
RELIST_S = 30.0
"""A store is listed again after this long, even if its folder does not seem to have changed."""

log = logging.getLogger(__name__)

STAMP = re.compile(r"-(\d{8}-\d{6})-[0-9a-f]{4}$")


class Listing:
    """What is known of all runs. Answers are made one at a time."""

    def __init__(self, stores: Stores) -> None:
        self._stores = stores
        self._lock = threading.Lock()
        self._rows: OrderedDict[Path, Row] = OrderedDict()
        self._folders: dict[Path, Folders] = {}
        self._no_runs: dict[Path, tuple[int, ...]] = {}
        self._failed: set[Path] = set()

    def answer(self) -> tuple[dict[str, Any], list[str]]:
        """Returns what is said beside the runs, and the newest runs as JSON."""
        with self._lock:
            return self._answer()

    def _answer(self) -> tuple[dict[str, Any], list[str]]:
        deadline_s = monotonic() + BUDGET_S
        stores: list[dict[str, str]] = []
        found: dict[Path, tuple[float, str]] = {}
        noted = self._stores.all()
        self._folders = {path: self._folders.get(path) or Folders(path) for path in noted.values()}
        for key, path in noted.items():
            folders = self._folders[path]
            problem = folders.look()
            stores.append({"store": key, "path": str(path), "problem": problem})
            for folder, newness in folders.runs.items():
                # One store can be reached by two paths; its runs are told once.
                found.setdefault(folder, (newness, key))
        newest = sorted(found.items(), key=lambda item: item[1][0], reverse=True)
        told: list[tuple[float, str]] = []
        reading = others = 0
        graced = False
        if len(self._no_runs) > 2 * len(found):
            self._no_runs = {folder: look for folder, look in self._no_runs.items() if folder in found}
        heads_until_s = monotonic() + HEADS_S
        for place, (folder, (_, key)) in enumerate(newest):
            if len(told) == MOST_RUNS:
                others = len(newest) - place
                break
            if folder in self._no_runs and self._no_runs[folder] == _look(folder):
                continue
            if folder not in self._rows and monotonic() > heads_until_s:
                reading += 1
                continue
            row = self._row(folder)
            until_s = deadline_s
            if row.reading and not graced:
                # However slow the disk is, each answer gets on with one journal.
                graced, until_s = True, max(deadline_s, monotonic() + GRACE_S)
            try:
                about = self._told(folder, row, key, until_s)
            except (OSError, Refusal):
                if not row.is_run:
                    del self._rows[folder]
                continue
            except Exception:
                # Whatever somebody's journal holds, the others are told.
                if folder not in self._failed:
                    log.exception("dlfb_lab: the run in %s cannot be told of", folder)
                self._failed.add(folder)
                continue
            reading += row.reading
            if about is not None:
                told.append(about)
            elif not row.reading:
                # It would take the place of a run.
                del self._rows[folder]
        told.sort(key=lambda item: item[0], reverse=True)
        return {"stores": stores, "reading": reading, "hidden": others}, [text for _, text in told]

    def _told(self, folder: Path, row: Row, store: str, until_s: float) -> tuple[float, str] | None:
        """Reads on; returns when the run started, and its summary; None where there is no plan."""
        look = () if row.is_run else _look(folder)
        # Before reading, so that a run that ends meanwhile is not taken for one that broke off.
        life = row.pulse.life(LOOK_OVER_S if row.digest.state in ENDED else LOOK_S)
        row.read(until_s)
        if row.is_run:
            return row.digest.started_s, row.text(store, folder.name, life)
        if not row.reading:
            self._no_runs[folder] = look
        return None

    def _row(self, folder: Path) -> Row:
        row = self._rows.pop(folder, None) or Row(folder)
        self._rows[folder] = row
        while len(self._rows) > MOST_ROWS:
            self._rows.popitem(last=False)
        return row


class Folders:
    """The folders of a store that look like runs, listed again when the store has changed.

    Attributes:
        runs: how new each is, by its path without links; larger is newer.
    """

    def __init__(self, store: Path) -> None:
        self.runs: dict[Path, float] = {}
        self._store = store
        self._changed_ns = 0
        self._listed_s = float("-inf")

    def look(self) -> str:
        """Lists the store if need be; returns why it cannot be read, or nothing."""
        try:
            look = os.stat(self._store)
            if not stat.S_ISDIR(look.st_mode):
                raise NotADirectoryError
            if look.st_mtime_ns != self._changed_ns or monotonic() - self._listed_s > RELIST_S:
                self._changed_ns = look.st_mtime_ns if is_settled(look.st_mtime_ns) else 0
                self._listed_s = monotonic()
                with os.scandir(os.path.realpath(self._store)) as entries:
                    self.runs = {Path(e.path): newness for e in entries if (newness := _newness(e)) is not None}
        except FileNotFoundError:
            problem = "The folder is not there: it was moved or deleted, or its disk is not connected."
        except NotADirectoryError:
            problem = "There is a file where the folder was."
        except OSError as error:
            problem = f"The folder cannot be read ({error.strerror or error})."
        else:
            return ""
        self.runs, self._changed_ns = {}, 0
        return problem


def _look(folder: Path) -> tuple[int, ...]:
    """Returns what changes when a run's journal does."""
    try:
        look = os.lstat(os.path.join(folder, EVENTS))
    except OSError:
        return ()
    return look.st_ino, look.st_size, look.st_mtime_ns


def _newness(entry: os.DirEntry[str]) -> float | None:
    """Returns about when a run was started, Unix time in seconds; None for what is no run."""
    try:
        if not RUN.fullmatch(entry.name) or not entry.is_dir(follow_symlinks=False):
            return None
        os.lstat(os.path.join(entry.path, EVENTS))
        if stamp := STAMP.search(entry.name):
            with contextlib.suppress(ValueError, OverflowError, OSError):
                return datetime.datetime.strptime(stamp[1], "%Y%m%d-%H%M%S").timestamp()
        return entry.stat(follow_symlinks=False).st_mtime
    except OSError:
        return None
