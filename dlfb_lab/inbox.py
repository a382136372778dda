"""What others ask of a run: a file of requests in its folder, which whoever trains it reads."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
from pathlib import Path
from typing import Literal, get_args

Action = Literal["pause", "resume", "stop"]
ACTIONS: tuple[Action, ...] = get_args(Action)

FILE = "requests.jsonl"
MOST_BYTES = 1 << 16
"""That are read at one look."""


def ask(run: Path, action: Action) -> None:
    """Leaves a request in a run's folder.

    Raises:
        OSError: the folder cannot be written, or the file is not a plain one of its own.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    if os.open in os.supports_dir_fd:
        # Whoever may write in the store could put a link in the folder's place just now.
        parent = os.open(run, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            handle = os.open(FILE, flags, 0o600, dir_fd=parent)
        finally:
            os.close(parent)
    else:
        handle = os.open(run / FILE, flags, 0o600)
    try:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
            raise OSError(errno.EPERM, "requests.jsonl is a link or no plain file; take it away")
        os.write(handle, json.dumps({"action": action}).encode() + b"\n")
    finally:
        os.close(handle)


class Inbox:
    """Reads the requests made of one run, each once. Looking costs microseconds when there is nothing new."""

    def __init__(self, run: Path) -> None:
        self._path = run / FILE
        self._read = 0

    def take(self) -> list[Action]:
        """Returns the requests since the last call, oldest first. What cannot be read is no request."""
        try:
            size = os.stat(self._path).st_size
            if size == self._read:
                return []
            if size < self._read:
                self._read = 0  # somebody took it away, and another began anew
            with open(self._path, "rb") as file:
                file.seek(self._read)
                text = file.read(MOST_BYTES)
        except OSError:
            return []
        # What is no line after so many bytes is no request either.
        lines = text[: text.rfind(b"\n") + 1] or (text if len(text) == MOST_BYTES else b"")
        self._read += len(lines)
        found: list[Action] = []
        for line in lines.splitlines():
            with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
                action = json.loads(line)["action"]
                if action in ACTIONS:
                    found.append(action)
        return found
