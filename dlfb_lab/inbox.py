"""What others ask of a run: a file of requests in its folder, which whoever trains it reads."""

from __future__ import annotations

import contextlib
import json
import os
import stat
from pathlib import Path
from typing import Literal, get_args

Action = Literal["pause", "resume", "stop"]
ACTIONS: tuple[Action, ...] = get_args(Action)

FILE = "requests.jsonl"


def ask(run: Path, action: Action) -> None:
    """Leaves a request in a run's folder.

    Raises:
        OSError: the folder cannot be written, or the file is not a plain one.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    handle = os.open(run / FILE, flags, 0o600)
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(f"{run / FILE} is not a plain file")
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
            if os.stat(self._path).st_size <= self._read:
                return []
            with open(self._path, "rb") as file:
                file.seek(self._read)
                text = file.read()
        except OSError:
            return []
        lines = text[: text.rfind(b"\n") + 1]
        self._read += len(lines)
        found: list[Action] = []
        for line in lines.splitlines():
            with contextlib.suppress(ValueError, KeyError, TypeError):
                action = json.loads(line)["action"]
                if action in ACTIONS:
                    found.append(action)
        return found
