"""Deleted checkpoints: they can be had back for a week.

<run>/checkpoints/.trash/step-340-1795340000         deleted then, in seconds since 1970
<run>/checkpoints/.trash/.step-340-1f3c-1795340000   one that was never whole
"""

from __future__ import annotations

import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from dlfb_lab.checkpoints.folder import FOLDER, Checkpoint, looked_at
from dlfb_lab.errors import StoreError

TRASH = ".trash"
WEEK_S = 7 * 24 * 3600.0

_NAME = re.compile(r"(?:step-(\d{1,18})|\.step-(\d{1,18})-[0-9a-f]+)-(\d{1,12})")


@dataclass(frozen=True, kw_only=True)
class Deleted:
    """A checkpoint that was deleted, and can be had back.

    Attributes:
        path: its folder.
        step: updates applied before it was saved.
        at_s: when it was deleted, seconds since 1970.
    """

    path: Path
    step: int
    at_s: float

    @property
    def name(self) -> str:
        """What its folder was called before."""
        return self.path.name.rpartition("-")[0]

    @property
    def bytes(self) -> int:
        """What it takes on disk."""
        return sum(file.stat().st_size for file in self.path.rglob("*") if file.is_file() and not file.is_symlink())


def delete(run: Path, checkpoint: Checkpoint, now_s: float | None = None) -> Deleted:
    """Puts a checkpoint into the trash. What must be kept is for the caller to know; see `keeping.reasons`.

    Raises:
        StoreError: it is gone, or cannot be moved.
    """
    at_s = int(time.time() if now_s is None else now_s)
    trash = run / FOLDER / TRASH
    try:
        trash.mkdir(exist_ok=True)
        while (path := trash / f"{checkpoint.path.name}-{at_s}").exists():
            at_s += 1  # another of this step was deleted in the same second
        checkpoint.path.rename(path)
    except OSError as error:
        raise StoreError(
            f"The checkpoint of step {checkpoint.step:,} cannot be deleted ({error.strerror or error})."
        ) from error
    return Deleted(path=path, step=checkpoint.step, at_s=at_s)


def undo(run: Path, deleted: Deleted) -> Checkpoint:
    """Takes a checkpoint back from the trash.

    Raises:
        StoreError: it is gone, or another one of that step has been saved meanwhile.
    """
    path = run / FOLDER / deleted.name
    if path.exists():
        raise StoreError(f"There is another checkpoint of step {deleted.step:,} now. Delete that one first.")
    try:
        deleted.path.rename(path)
    except OSError as error:
        raise StoreError(
            f"The checkpoint of step {deleted.step:,} cannot be taken back ({error.strerror or error})."
        ) from error
    found = looked_at(path)
    assert found is not None
    return found


def listed(run: Path) -> list[Deleted]:
    """Returns what is in a run's trash, the latest deleted first."""
    folder = run / FOLDER / TRASH
    try:
        paths = [path for path in folder.iterdir() if path.is_dir() and not path.is_symlink()]
    except OSError:
        return []
    named = [(path, _NAME.fullmatch(path.name)) for path in paths]
    found = [Deleted(path=path, step=int(name[1] or name[2]), at_s=float(name[3])) for path, name in named if name]
    return sorted(found, key=lambda deleted: -deleted.at_s)


def empty(run: Path, now_s: float | None = None) -> list[Deleted]:
    """Removes for good what was deleted more than a week ago; returns that."""
    now_s = time.time() if now_s is None else now_s
    old = [deleted for deleted in listed(run) if now_s - deleted.at_s > WEEK_S]
    for deleted in old:
        shutil.rmtree(deleted.path, ignore_errors=True)
    return old
