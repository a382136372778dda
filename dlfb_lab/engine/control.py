"""How a run is told to stop, pause or go on, whoever says so."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType

INSIST_S = 2.0
"""A second interrupt within this time raises, so that a notebook's Run All can be stopped."""

LOOK_S = 0.05
"""How often requests are looked for that nobody announces."""

_last_interrupt_s = -INSIST_S


def _no_requests() -> Iterable[str]:
    return ()


class Control:
    """What has been asked of a run. Safe to use from any thread.

    Attributes:
        requests: returns what was asked since it was last called ("pause", "resume", "stop") by those who cannot
            reach this process while it is busy.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._stop_reason: str | None = None
        self._pause = False
        self._looked_s = 0.0
        self.requests: Callable[[], Iterable[str]] = _no_requests

    def ask(self, action: str) -> None:
        """Does what a button says: "pause", "resume" or "stop"."""
        {"pause": self.pause, "resume": self.resume, "stop": self.stop}[action]()

    def look(self) -> None:
        """Takes up what was requested from outside, unless it has looked a moment ago."""
        now = time.monotonic()
        if now - self._looked_s >= LOOK_S:
            self._looked_s = now
            for action in self.requests():
                self.ask(action)

    def stop(self, reason: str = "stop was pressed") -> None:
        """Asks the run to stop after the current dispatch, and to keep what it has."""
        with self._changed:
            self._stop_reason = self._stop_reason or reason
            self._changed.notify_all()

    def pause(self) -> None:
        """Asks the run to hold after the current dispatch."""
        with self._changed:
            self._pause = True

    def resume(self) -> None:
        """Lets a paused run go on."""
        with self._changed:
            self._pause = False
            self._changed.notify_all()

    @property
    def stop_reason(self) -> str | None:
        """Why the run shall stop, or None."""
        return self._stop_reason

    @property
    def paused(self) -> bool:
        """Whether the run shall hold."""
        return self._pause and self._stop_reason is None

    def wait_while_paused(self) -> None:
        """Returns when the run may go on, or shall stop."""
        while self.paused:
            with self._changed:
                # A bounded wait lets the main thread see an interrupt on every platform.
                self._changed.wait_for(lambda: not self.paused, timeout=2 * LOOK_S)
            self.look()


@contextmanager
def interrupts_stop(control: Control) -> Iterator[None]:
    """Makes an interrupt stop the run and keep it; a second one within two seconds raises.

    Does nothing outside the main thread, where no interrupt arrives.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        global _last_interrupt_s
        now = time.monotonic()
        insists = now - _last_interrupt_s < INSIST_S
        _last_interrupt_s = now
        if insists:
            raise KeyboardInterrupt
        control.stop("interrupted")

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
