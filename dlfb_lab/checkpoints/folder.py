"""The checkpoints in a run's folder, and in what state they are: without JAX, from manifests and sizes of files.

<run>/checkpoints/step-340/checkpoint.json   its manifest, written when all else was
<run>/checkpoints/step-340/arrays/           its arrays, as Orbax writes them
<run>/checkpoints/step-340/damage.json       what `verify` found, if it found damage
<run>/checkpoints/step-340/pinned            there if it is to be kept whatever comes
<run>/checkpoints/.step-340-1f3c/            one that is being saved, or was when its process ended
<run>/checkpoints/.trash/                    what was deleted and can be had back; see trash.py
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Literal

from dlfb_lab.checkpoints import checksums
from dlfb_lab.checkpoints.manifest import Manifest, parsed
from dlfb_lab.errors import StoreError

FOLDER, MANIFEST, ARRAYS, DAMAGE, PIN = "checkpoints", "checkpoint.json", "arrays", "damage.json", "pinned"

State = Literal["complete", "partial", "damaged", "not finite", "newer"]

_WHOLE, _BEGUN = re.compile(r"step-(\d{1,18})"), re.compile(r"\.step-(\d{1,18})-[0-9a-f]+")
_MOST_BYTES = 1 << 28
"""Of a manifest: one of a million arrays has fewer."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """One checkpoint.

    Attributes:
        path: its folder.
        step: updates applied before it was saved.
        state: "complete"; "partial", which its process left unfinished or is still saving; "damaged"; "not finite",
            complete but with a NaN or an infinity in an array; "newer", of a version that this package cannot read.
        why: what is wrong with it, in a sentence; "" where nothing is.
        manifest: what it holds; None where that cannot be read.
        pinned: whether it is to be kept whatever comes.
    """

    path: Path
    step: int
    state: State
    why: str = ""
    manifest: Manifest | None = field(default=None, repr=False)
    pinned: bool = False

    @property
    def usable(self) -> bool:
        """Whether training can go on from it."""
        return self.state == "complete"


def folder_of(run: Path, step: int) -> Path:
    """Returns where a run's checkpoint of a step lies."""
    return run / FOLDER / f"step-{step}"


def listed(run: Path) -> list[Checkpoint]:
    """Returns a run's checkpoints, oldest step first; no file's content is read but manifests.

    Raises:
        StoreError: the folder cannot be read.
    """
    found = []
    try:
        with os.scandir(run / FOLDER) as entries:
            for entry in entries:
                if not entry.is_dir(follow_symlinks=False):
                    continue
                checkpoint = looked_at(Path(entry.path))
                if checkpoint is not None:
                    found.append(checkpoint)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StoreError(f"The checkpoints in {run} cannot be read ({error.strerror or error}).") from error
    return sorted(found, key=lambda checkpoint: (checkpoint.step, checkpoint.state == "partial"))


def looked_at(path: Path) -> Checkpoint | None:
    """Returns a checkpoint with its state, as far as names, manifest and sizes tell; None for another folder."""
    if begun := _BEGUN.fullmatch(path.name):
        return Checkpoint(path=path, step=int(begun[1]), state="partial", why="It was not saved to its end.")
    whole = _WHOLE.fullmatch(path.name)
    return _whole(Checkpoint(path=path, step=int(whole[1]), state="complete")) if whole else None


def _whole(checkpoint: Checkpoint) -> Checkpoint:
    path, step = checkpoint.path, checkpoint.step
    checkpoint = replace(checkpoint, pinned=_size(path, PIN) is not None)
    if link := _link(path, [MANIFEST]):
        return replace(checkpoint, state="damaged", why=f"{link} is a link, which is not followed.")
    try:
        manifest = parsed(_content(path / MANIFEST))
    except StoreError as error:
        return replace(checkpoint, state="newer", why=str(error))
    except (OSError, ValueError):
        return replace(checkpoint, state="damaged", why=f"{MANIFEST} is missing or cannot be read.")
    checkpoint = replace(checkpoint, manifest=manifest)
    if manifest.step != step:
        return replace(checkpoint, state="damaged", why=f"It is that of step {manifest.step:,}, under another name.")
    if link := _link(path, manifest.files):
        return replace(checkpoint, state="damaged", why=f"{link} is a link, which is not followed.")
    for name, file in manifest.files.items():
        size = _size(path, name)
        if size is None:
            return replace(checkpoint, state="damaged", why=f"{name} is missing.")
        if size != file.bytes:
            return replace(checkpoint, state="damaged", why=f"{name} has {size:,} bytes, not {file.bytes:,}.")
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return replace(checkpoint, state="damaged", why=str(json.loads(_content(path / DAMAGE))["why"]))
    if manifest.not_finite and not manifest.place.get("usable"):
        names = manifest.not_finite
        more = f" and {len(names) - 1:,} more" if len(names) > 1 else ""
        return replace(checkpoint, state="not finite", why=f"{names[0]}{more}: NaN or infinity.")
    return checkpoint


def pin(checkpoint: Checkpoint, pinned: bool = True) -> Checkpoint:
    """Has a checkpoint kept whatever comes, or no longer.

    Raises:
        StoreError: its folder cannot be written.
    """
    try:
        if pinned:
            (checkpoint.path / PIN).touch()
        else:
            (checkpoint.path / PIN).unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(
            f"The checkpoint of step {checkpoint.step:,} cannot be pinned or let go ({error.strerror or error})."
        ) from error
    return looked_at(checkpoint.path) or checkpoint


def verify(checkpoint: Checkpoint) -> Checkpoint:
    """Reads every file of a checkpoint and compares checksums; what is damaged is remembered.

    Returns:
        The checkpoint with the state that was found.
    """
    now = looked_at(checkpoint.path) or checkpoint
    if now.manifest is None or _sizes_differ(now):
        return now
    why = damage_in(now)
    note = now.path / DAMAGE
    with contextlib.suppress(OSError):
        if why:
            note.write_text(json.dumps({"why": why}), encoding="utf-8")
        else:
            note.unlink(missing_ok=True)
    return replace(now, state="damaged", why=why) if why else looked_at(checkpoint.path) or now


def damage_in(checkpoint: Checkpoint) -> str:
    """Returns which file is not as it was written, in a sentence; "" for none."""
    assert checkpoint.manifest is not None
    files = checkpoint.manifest.files
    try:
        found = checksums.stored(checkpoint.path, files)
    except OSError as error:
        return f"{Path(error.filename or '').name or 'A file'} cannot be read ({error.strerror or error})."
    wrong = [name for name, file in files.items() if found[name] != file]
    more = f" Nor are {len(wrong) - 1:,} more." if len(wrong) > 1 else ""
    return f"{wrong[0]} is not as it was written: its checksum differs.{more}" if wrong else ""


def _sizes_differ(checkpoint: Checkpoint) -> bool:
    assert checkpoint.manifest is not None
    return any(_size(checkpoint.path, name) != file.bytes for name, file in checkpoint.manifest.files.items())


def _size(path: Path, name: str) -> int | None:
    try:
        found = os.stat(path / name, follow_symlinks=False)
    except OSError:
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def _link(path: Path, names: Iterable[str]) -> str:
    """Returns the first of some files, and of the folders that they are in, that is a symbolic link; "" for none."""
    within = {parent.as_posix() for name in names for parent in (PurePosixPath(name), *PurePosixPath(name).parents)}
    return next((name for name in sorted(within - {"."}) if (path / name).is_symlink()), "")


def _content(path: Path) -> bytes:
    with open(path, "rb") as file:
        text = file.read(_MOST_BYTES + 1)
    if len(text) > _MOST_BYTES:
        raise ValueError(f"{path.name} is too long")
    return text
