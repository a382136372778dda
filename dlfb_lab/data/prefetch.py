"""Reading ahead: a thread pulls batches and converts them while the device works."""

from __future__ import annotations

import atexit
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from queue import Empty, SimpleQueue
from time import perf_counter, thread_time
from types import TracebackType
from typing import Any, NamedTuple

from dlfb_lab.errors import DataError, DlfbLabError, one_line

GOODBYE_S = 0.1
"""How long `close` waits for the thread, which cannot be hurried where the user's code holds it."""


LEAST_READ = 16
BUSY_SHARE = 0.5
"""Of its time that the thread computes, from which on it is in the way of others that run Python."""

LONGEST_S = 0.05
"""For an item that is read in the asker's thread, who cannot look up meanwhile."""


class Late(Exception):
    """Nothing has come within the time given."""


class Prefetch:
    """Iterates over what an iterator yields, converted, a few items ahead.

    The iterator is read in one daemon thread alone, and is closed there. An error of its own, or of `convert`, is
    raised in place of the item that failed: one of this package as it is, any other as the cause of a `DataError`.

    An iterator that computes in Python may be handed over, to be read by whoever asks for items: two threads would only
    take the interpreter's lock from one another.
    """

    def __init__(self, iterator: Iterator[Any], convert: Callable[[Any], Any], depth: int = 2) -> None:
        """Starts reading.

        Args:
            iterator: what to read.
            convert: what to make of each item, in the thread.
            depth: converted items that may wait, the one in work among them.
        """
        self._convert = convert
        self._own: Iterator[Any] | None = None
        self._line = _Line(depth)
        thread = threading.Thread(target=_read, args=(iterator, convert, self._line), name="dlfb-prefetch", daemon=True)
        self._end = weakref.finalize(self, _end, self._line, thread)
        # Of what is to be done at exit, the last registered comes first: before JAX takes its devices down.
        self._end.atexit = False
        atexit.register(self._end)
        thread.start()

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return self.get()

    def get(self, timeout_s: float | None = None) -> Any:
        """Returns the next item, waiting for it.

        Raises:
            Late: it has not come in time.
            StopIteration: there are no more, or this was closed.
            DataError: the iterator failed; what it raised is the cause.
        """
        line = self._line
        if line.over.is_set():
            raise StopIteration
        found: _Item | _Handed | _End
        if self._own is None:
            try:
                found = line.items.get(timeout=timeout_s)
            except Empty:
                raise Late from None
            line.room.put(None)
            self._own = found.iterator if isinstance(found, _Handed) else None
        if self._own is not None:
            found = _pulled(self._own, self._convert)
        if isinstance(found, _Item):
            return found.item
        error = found.error if isinstance(found, _End) else None
        if line.handed:
            failed = _closed(line.handed.pop())
            error = error or failed
        self.close()
        if error is None:
            raise StopIteration
        if isinstance(error, DlfbLabError) or not isinstance(error, Exception):
            raise error
        raise DataError(f"Reading the data failed: {one_line(error)}") from error

    def hand_over(self) -> None:
        """Lets the iterator be read in the asker's thread, if it computes in Python and its items come quickly.

        That pays where what is done with an item goes on by itself while the next is read.
        """
        self._line.may_hand_over.set()

    def close(self) -> None:
        """Ends reading, at once or, where the iterator is at work, when it has given its item."""
        atexit.unregister(self._end)
        self._end()

    def __enter__(self) -> Prefetch:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class _Item(NamedTuple):
    item: Any


class _Handed(NamedTuple):
    iterator: Iterator[Any]


class _End(NamedTuple):
    error: BaseException | None


class _Line:
    """What the thread and the reader share; it does not hold the `Prefetch`, which may be let go without closing.

    Its queues have no lock that one thread could hold while it waits for its turn on a busy processor.

    Attributes:
        items: what was read.
        handed: the iterator, once the thread has let go of it; whoever takes it out closes it.
    """

    def __init__(self, depth: int) -> None:
        self.items: SimpleQueue[_Item | _Handed | _End] = SimpleQueue()
        self.room: SimpleQueue[None] = SimpleQueue()
        self.over = threading.Event()
        self.may_hand_over = threading.Event()
        self.handed: list[Iterator[Any]] = []
        for _ in range(depth):
            self.room.put(None)


class _Busy:
    """Finds out whether a thread computes most of the time, and soon has an item."""

    def __init__(self) -> None:
        self._start_s = self._start_cpu_s = 0.0
        self._waited_s = 0.0
        self._count = -1

    def look(self, waited_s: float) -> bool:
        """Counts an item, before which the thread waited for room; the first one is left out."""
        self._count += 1
        if self._count == 0:
            self._start_s, self._start_cpu_s = perf_counter(), thread_time()
            return False
        self._waited_s += waited_s
        took_s = perf_counter() - self._start_s - self._waited_s
        is_busy = thread_time() - self._start_cpu_s > BUSY_SHARE * took_s
        return self._count >= LEAST_READ and is_busy and took_s < LONGEST_S * self._count


def _read(iterator: Iterator[Any], convert: Callable[[Any], Any], line: _Line) -> None:
    busy = _Busy()
    while True:
        # Room first: an item that waits outside the line would be one more in memory.
        start_s = perf_counter()
        line.room.get()
        waited_s = perf_counter() - start_s
        if line.over.is_set():
            found: _Item | _End = _End(None)
            break
        found = _pulled(iterator, convert)
        if isinstance(found, _End) or line.over.is_set():
            break
        line.items.put(found)
        del found
        if busy.look(waited_s) and line.may_hand_over.is_set():
            line.handed.append(iterator)
            line.items.put(_Handed(iterator))
            if line.over.is_set():
                _end_handed(line)
            return
    failed = _closed(iterator)
    line.items.put(_End((found.error if isinstance(found, _End) else None) or failed))


def _pulled(iterator: Iterator[Any], convert: Callable[[Any], Any]) -> _Item | _End:
    try:
        try:
            item = next(iterator)
        except StopIteration:
            return _End(None)
        return _Item(convert(item))
    except BaseException as error:
        return _End(error)


def _closed(iterator: Iterator[Any]) -> BaseException | None:
    """Closes an iterator, and returns what it raises at that."""
    close = getattr(iterator, "close", None)
    try:
        if close is not None:
            close()
    except BaseException as error:
        return error
    return None


def _end_handed(line: _Line) -> None:
    with suppress(IndexError):  # the other thread was quicker
        _closed(line.handed.pop())


def _end(line: _Line, thread: threading.Thread) -> None:
    line.over.set()
    line.room.put(None)
    if thread is not threading.current_thread():
        thread.join(GOODBYE_S)
    _end_handed(line)
    with suppress(Empty):
        while True:
            line.items.get_nowait()
    # For whoever waits for an item in another thread.
    line.items.put(_End(None))
