"""One quiet progress line, and the outcome in a table: for terminals, and notebooks without widgets."""

from __future__ import annotations

import sys
from collections.abc import Callable
from time import monotonic
from typing import TextIO

from dlfb_lab.events import Event, Status
from dlfb_lab.record import Record
from dlfb_lab.views import summary

EVERY_S = 0.5


class ConsoleView:
    """Rewrites one line of a terminal, and prints the outcome at the end."""

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = out or sys.stdout
        self._record = Record()
        self._last_s = 0.0
        self._width = 0

    def put(self, event: Event) -> None:
        """Takes one event."""
        self._record.put(event)
        if self._out.isatty() and monotonic() - self._last_s > EVERY_S:
            self._last_s = monotonic()
            line = summary.progress(self._record)
            self._out.write("\r" + line.ljust(self._width))
            self._out.flush()
            self._width = len(line)

    def close(self) -> None:
        """Prints the outcome."""
        if self._width:
            self._out.write("\r" + " " * self._width + "\r")
        state = self._record.status.state if self._record.status else "failed"
        if state == "failed" and not self._record.blocks:
            return  # the error says all there is to say
        self._out.write(summary.text(self._record, state) + "\n")
        self._out.flush()


class OutputView:
    """Rewrites the text of a cell's output. The outcome is shown by whoever made the output."""

    def __init__(self, update: Callable[[dict[str, str]], None]) -> None:
        self._update = update
        self._record = Record()
        self._last_s = 0.0

    def put(self, event: Event) -> None:
        """Takes one event."""
        self._record.put(event)
        if monotonic() - self._last_s > EVERY_S and not isinstance(event, Status):
            self._last_s = monotonic()
            self._update({"text/plain": summary.progress(self._record)})

    def close(self) -> None:
        """Nothing to let go."""
