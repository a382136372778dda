"""The thread in which an iterator of the user's is read: some, such as a connection to SQLite, are bound to one."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar, cast

T = TypeVar("T")


class Reader:
    """Does what it is given in a daemon thread of its own, one thing after another.

    The thread begins when it is needed, and ends with the `Reader` or after what is given to `last`.
    """

    def __init__(self) -> None:
        self._jobs: SimpleQueue[Callable[[], object] | None] | None = None

    def call(self, job: Callable[[], T]) -> T:
        """Returns what a job returns; raises what it raises."""
        answer: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()

        def answered() -> None:
            try:
                answer.put((job(), None))
            except BaseException as error:
                answer.put((None, error))

        self._begun().put(answered)
        value, error = answer.get()
        try:
            if error is not None:
                raise error
            return cast(T, value)
        finally:
            # Or the error would hold this frame, and this frame the error.
            del error

    def last(self, job: Callable[[], object]) -> threading.Thread:
        """Gives the thread a job after which it ends, and returns the thread."""
        jobs = self._begun()
        self._jobs = None
        self._end.detach()
        jobs.put(job)
        jobs.put(None)
        return self._thread

    def _begun(self) -> SimpleQueue[Callable[[], object] | None]:
        if self._jobs is None:
            self._jobs = SimpleQueue()
            self._end = weakref.finalize(self, self._jobs.put, None)
            self._thread = threading.Thread(target=_work, args=(self._jobs,), name="dlfb-prefetch", daemon=True)
            self._thread.start()
        return self._jobs


def _work(jobs: SimpleQueue[Callable[[], object] | None]) -> None:
    while (job := jobs.get()) is not None:
        job()
        del job
