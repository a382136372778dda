"""Asks what may never answer, in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic
from typing import Generic, TypeVar

T = TypeVar("T")


class Background(Generic[T]):
    """A question that is asked over and over, and that may hang: a driver, a disk on the network."""

    def __init__(self, question: Callable[[], T], name: str) -> None:
        """Prepares to ask; the thread starts with the first question.

        Args:
            question: called in the thread; must not raise.
            name: of the thread.
        """
        self._question = question
        self._name = name
        self._asked = threading.Event()
        self._answered = threading.Event()
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._answer: T | None = None
        self._since_s: float | None = None

    @property
    def hangs(self) -> bool:
        """Whether an answer is due."""
        return self._since_s is not None and not self._answered.is_set()

    def ask(self, patience_s: float) -> tuple[T | None, float]:
        """Returns the answer, and 0; or where none comes in time, the last one and for how many seconds it is due."""
        if self._since_s is None:
            self._answered.clear()
            self._since_s = monotonic()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
            self._asked.set()
            self._answered.wait(patience_s)
        if self._answered.is_set():
            self._since_s = None
            return self._answer, 0.0
        return self._answer, monotonic() - self._since_s

    def stop(self, patience_s: float) -> None:
        """Ends the thread, unless it hangs: then it ends with its question, or with the process."""
        self._stopping = True
        self._asked.set()
        if self._thread is not None:
            self._thread.join(patience_s)

    def _run(self) -> None:
        while True:
            self._asked.wait()
            self._asked.clear()
            if self._stopping:
                return
            self._answer = self._question()
            self._answered.set()
