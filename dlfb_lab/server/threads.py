"""Work that may wait for a disk: in threads that do not keep the process alive, a few at a time for each store."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeVar
from weakref import WeakValueDictionary

from dlfb_lab.server.errors import Refusal

T = TypeVar("T")

PATIENCE_S, LONG_PATIENCE_S = 5.0, 20.0
"""With what is in the way before a thread can be had: in general, and where long journals are read."""
SLOW = "Reading the runs takes long: a disk that holds some of them does not answer. Wait a little."


@dataclass(frozen=True)
class Place:
    """Where only some can be at once.

    Attributes:
        name: of the place.
        most: so many can be there.
        busy: what those are told who did not get in.
    """

    name: str
    most: int
    busy: str = SLOW


LISTS = (Place("lists", 1),)


def reads(store: str) -> tuple[Place, ...]:
    """Returns the places that a read of a run takes, the one that is soonest taken first."""
    return Place(f"reads {store}", 2), Place("reads", 12)


def long_reads(store: str) -> tuple[Place, ...]:
    """Returns the places that a read of a long run takes: each takes several times its size in memory."""
    busy = "Other long runs are being read just now. Wait a little."
    return Place(f"long reads {store}", 1, busy), Place("long reads", 2, busy), *reads(store)


def requests(store: str) -> tuple[Place, ...]:
    """Returns the places that a request takes; no read is in its way."""
    return Place(f"requests {store}", 2), Place("requests", 12)


def changes(store: str) -> tuple[Place, ...]:
    """Returns the places that a change of checkpoints takes: one after another in a store."""
    return Place(f"changes {store}", 1), Place("changes", 12)


class Threads:
    """Calls functions in daemon threads: one that hangs on a disk holds up neither others nor the process's end."""

    def __init__(self) -> None:
        self._gates: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    async def call(self, make: Callable[[], T], places: tuple[Place, ...], patience_s: float | None = None) -> T:
        """Returns what a function returns. Who waits for a place takes no thread.

        Raises:
            Refusal: a place was not to be had in time.
        """
        held: list[asyncio.Semaphore] = []
        try:
            async with asyncio.timeout(PATIENCE_S if patience_s is None else patience_s):
                for place in places:
                    gate = self._gates.setdefault(place.name, asyncio.Semaphore(place.most))
                    await gate.acquire()
                    held.append(gate)
            done = asyncio.wrap_future(_started(make))
        except BaseException as error:
            _release(held)
            if isinstance(error, TimeoutError):
                raise Refusal(503, "busy", places[len(held)].busy) from None
            raise
        # A place is free when its thread has ended, whether or not somebody still waits for the answer.
        done.add_done_callback(lambda _: _release(held))
        return await asyncio.shield(done)


def _release(gates: list[asyncio.Semaphore]) -> None:
    for gate in gates:
        gate.release()


def _started(make: Callable[[], T]) -> Future[T]:
    future: Future[T] = Future()

    def work() -> None:
        try:
            made = make()
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(made)

    threading.Thread(target=work, name="dlfb-server", daemon=True).start()
    return future
