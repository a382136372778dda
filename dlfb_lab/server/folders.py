"""Which folders and files the server reads: those of runs in registered stores, and through no link."""

from __future__ import annotations

import errno
import os
import re
import stat
from pathlib import Path
from time import time_ns
from typing import BinaryIO

from dlfb_lab import register
from dlfb_lab.server.errors import Refusal, shown

STORE = re.compile(r"[0-9a-f]{16}")
RUN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")

SETTLED_NS = 2_000_000_000
"""A folder that changed less than this before it was read may change once more without a newer time."""


class Stores:
    """The registered stores, read again when the register has changed."""

    def __init__(self) -> None:
        self._read: tuple[Path, int, dict[str, Path]] | None = None

    def all(self) -> dict[str, Path]:
        """Returns the stores' paths by key."""
        folder = register.folder()
        try:
            changed_ns = os.stat(folder).st_mtime_ns
        except OSError:
            return {}
        if self._read is not None and self._read[:2] == (folder, changed_ns):
            return self._read[2]
        settled = is_settled(changed_ns)
        found = register.stores()
        self._read = (folder, changed_ns, found) if settled else None
        return found

    def run(self, store: str, run: str) -> Path:
        """Returns the folder of a run.

        Raises:
            Refusal: there is none, or it may not be read.
        """
        if not STORE.fullmatch(store) or not RUN.fullmatch(run):
            raise Refusal(400, "bad_name", f"“{shown(store)}/{shown(run)}” names no run.")
        stores = self.all()
        if store in stores and os.path.isdir(stores[store]):
            return run_folder(stores[store], run)
        # A notebook that was moved, and its runs with it, still names the store of old.
        found = {os.path.realpath(path): path for path in stores.values() if is_run(path, run)}
        if len(found) == 1:
            return run_folder(next(iter(found.values())), run)
        if store in stores:
            message = f"The folder {stores[store]}, which held the run {run}, is not there any more."
        else:
            message = f"No kernel of yours is known to have written the run {run} here, so it cannot be read."
        raise Refusal(404, "no_store", message)


def is_settled(changed_ns: int) -> bool:
    """Whether what is now read of a folder that changed then stays true until its time changes again."""
    return time_ns() - changed_ns > SETTLED_NS


def is_run(store: Path, run: str) -> bool:
    """Whether a store has a run of that name, which may be read."""
    try:
        run_folder(store, run)
    except Refusal:
        return False
    return True


def run_folder(store: Path, run: str) -> Path:
    """Returns the real path of a run's folder, which lies directly in the store.

    Raises:
        Refusal: it is not there, or is a link.
    """
    folder = Path(os.path.realpath(store)) / run
    try:
        found = os.lstat(folder)
    except (OSError, ValueError):
        raise Refusal(404, "no_run", f"There is no run {run} in {store} (any more).") from None
    # The second look is for what is a link on other systems only.
    if not stat.S_ISDIR(found.st_mode) or os.path.realpath(folder) != str(folder):
        raise Refusal(403, "link", f"{run} in {store} is no folder of its own, so it is not read.")
    return folder


def opened(folder: Path, name: str) -> BinaryIO:
    """Opens a plain file directly in a run's folder, following no link.

    Raises:
        FileNotFoundError: it is not there.
        Refusal: it is a link or anything but a plain file, or may not be read.
    """
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        if os.open in os.supports_dir_fd:
            # Whoever may write in the store could put a link in the folder's place just now.
            parent = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                handle = os.open(name, flags, dir_fd=parent)
            finally:
                os.close(parent)
        else:
            if os.path.islink(folder / name):
                raise OSError(errno.ELOOP, "it is a link")
            handle = os.open(folder / name, flags)
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO, errno.ENOTDIR):
            raise _special(folder, name) from None
        raise Refusal(403, "unreadable", f"{folder / name} cannot be read ({error.strerror or error}).") from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise _special(folder, name)
    return os.fdopen(handle, "rb", buffering=0)


def _special(folder: Path, name: str) -> Refusal:
    message = (
        f"{name} of the run {folder.name} is a link or something else that is no file, so the run is not read. "
        "Put the file itself in its place, or take it away."
    )
    return Refusal(403, "link", message)
