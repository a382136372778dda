"""The thread in which an iterator of the user's is read: some, such as a connection to SQLite, are bound to one."""

from __future__ import annotations

import atexit
import contextvars
import threading
import weakref
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, TypeVar, cast

T = TypeVar("T")

LEAVING_S = 0.5
"""How long the interpreter's end waits for the thread, which must not be in JAX when that ends."""


class Reader:
    """Does what it is given in a daemon thread of its own, one thing after another.

    The thread begins when it is needed, with the context variables of whoever needs it, and ends with the `Reader` or
    after what is given to `last`.
    """

    def __init__(self) -> None:
        self._jobs: SimpleQueue[Callable[[], object] | None] | None = None

    def call(self, job: Callable[[], T], patience_s: float | None = None, late: Callable[[], object] = bool) -> T:
        """Returns what a job returns; raises what it raises.

        Args:
            job: what to do in the thread. An interrupt of whoever waits for it does not end it.
            patience_s: after how many seconds to call `late`, once.
            late: may say that it takes long.
        """
        answer: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()

        def answered() -> None:
            try:
                answer.put((job(), None))
            except BaseException as error:
                answer.put((None, error))

        self._begun().put(answered)
        try:
            value, error = answer.get(timeout=patience_s)
        except Empty:
            late()
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
            run = contextvars.copy_context().run
            self._thread = threading.Thread(target=run, args=(_work, self._jobs), name="dlfb-prefetch", daemon=True)
            self._end = weakref.finalize(self, self._jobs.put, None)
            # Of what is to be done at exit, the last registered comes first: before JAX takes its devices down.
            self._end.atexit = False
            atexit.register(_leave, weakref.ref(self._thread), self._jobs)
            self._thread.start()
        return self._jobs


def _leave(thread: weakref.ref[threading.Thread], jobs: SimpleQueue[Callable[[], object] | None]) -> None:
    working = thread()
    if working is not None and working.is_alive():
        jobs.put(None)
        working.join(LEAVING_S)


def _work(jobs: SimpleQueue[Callable[[], object] | None]) -> None:
    while (job := jobs.get()) is not None:
        job()
        del job
