"""Reading ahead: a thread pulls batches and converts them while the device works."""

from __future__ import annotations

import atexit
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, NamedTuple

from dlfb_lab.errors import DataError, DlfbLabError, one_line

GOODBYE_S = 0.1
"""How long `close` waits for the thread, which cannot be hurried where the user's code holds it."""


class Late(Exception):
    """Nothing has come within the time given."""


class Prefetch:
    """Iterates over what an iterator yields, converted, a few items ahead.

    The iterator is read in one daemon thread alone, and is closed there. An error of its own, or of `convert`, is
    raised in place of the item that failed: one of this package as it is, any other as the cause of a `DataError`.
    """

    def __init__(self, iterator: Iterator[Any], convert: Callable[[Any], Any], depth: int = 2) -> None:
        """Starts reading.

        Args:
            iterator: what to read.
            convert: what to make of each item, in the thread.
            depth: converted items that may wait, the one in work among them.
        """
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
        try:
            found = line.items.get(timeout=timeout_s)
        except Empty:
            raise Late from None
        if not isinstance(found, _End):
            line.room.put(None)
            return found.item
        self.close()
        error = found.error
        if error is None:
            raise StopIteration
        if isinstance(error, DlfbLabError) or not isinstance(error, Exception):
            raise error
        raise DataError(f"Reading the data failed: {one_line(error)}") from error

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


class _End(NamedTuple):
    error: BaseException | None


class _Line:
    """What the thread and the reader share; it does not hold the `Prefetch`, which may be let go without closing.

    Its queues have no lock that one thread could hold while it waits for its turn on a busy processor.
    """

    def __init__(self, depth: int) -> None:
        self.items: SimpleQueue[_Item | _End] = SimpleQueue()
        self.room: SimpleQueue[None] = SimpleQueue()
        self.over = threading.Event()
        for _ in range(depth):
            self.room.put(None)


def _read(iterator: Iterator[Any], convert: Callable[[Any], Any], line: _Line) -> None:
    error: BaseException | None = None
    try:
        while True:
            # Room first: an item that waits outside the line would be one more in memory.
            line.room.get()
            if line.over.is_set():
                break
            try:
                item = next(iterator)
            except StopIteration:
                break
            item = convert(item)
            if line.over.is_set():
                break
            line.items.put(_Item(item))
            del item
    except BaseException as caught:
        error = caught
    close = getattr(iterator, "close", None)
    if close is not None:
        try:
            close()
        except BaseException as caught:
            error = error or caught
    line.items.put(_End(error))


def _end(line: _Line, thread: threading.Thread) -> None:
    line.over.set()
    line.room.put(None)
    if thread is not threading.current_thread():
        thread.join(GOODBYE_S)
    with suppress(Empty):
        while True:
            line.items.get_nowait()
    # For whoever waits for an item in another thread.
    line.items.put(_End(None))
