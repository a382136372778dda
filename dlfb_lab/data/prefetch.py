"""Reading ahead: a thread pulls batches while the device works."""

from __future__ import annotations

import atexit
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from time import perf_counter, thread_time
from types import TracebackType
from typing import Any, NamedTuple

from dlfb_lab.data.reader import Reader
from dlfb_lab.errors import DataError, DlfbLabError, one_line

GOODBYE_S = 0.03
"""How long `close` waits for the thread, which cannot be hurried where the user's code holds it."""

COMPUTES = 0.5
"""An iterator computes where this share of the time it takes is the processor's."""

SMALL = 0.2
"""Using an item in the thread pays where it takes less than this share of the time that getting it takes."""

GATHER_S = 0.06
"""Items that come within this time are used together in the thread: beginning to compute on a device costs more than
going on with it."""

LOOKED_AT = 16
"""Items, before anything is said of the iterator; what was before them counts half."""


class Late(Exception):
    """Nothing has come within the time given."""


class Prefetch:
    """Iterates over what an iterator yields, converted, a few items ahead.

    The iterator is read in one daemon thread alone, and is closed there. Items are converted in the thread while others
    wait for the reader, and by the reader where it would otherwise wait: so a slow iterator is not held up. An error of
    its own, or of `convert`, is raised in place of the item that failed: one of this package as it is, any other as the
    cause of a `DataError`.
    """

    def __init__(
        self,
        iterator: Iterator[Any],
        convert: Callable[[Any], Any],
        depth: int = 2,
        reader: Reader | None = None,
    ) -> None:
        """Starts reading.

        Args:
            iterator: what to read.
            convert: what to make of each item; called in both threads.
            depth: items that may wait, the one in work among them.
            reader: in whose thread to read; None for one of its own.
        """
        self._line = _Line(depth, convert)
        thread = (reader or Reader()).last(partial(_read, iterator, self._line))
        self._end = weakref.finalize(self, _end, self._line, thread)
        # Of what is to be done at exit, the last registered comes first: before JAX takes its devices down.
        self._end.atexit = False
        atexit.register(self._end)

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
            found = line.refused.pop() if line.refused else line.items.get(timeout=timeout_s)
        except Empty:
            raise Late from None
        error: BaseException | None
        if isinstance(found, _End):
            error = found.error
        else:
            with line.lock:
                line.used()
            try:
                return line.converted(found)
            except BaseException as caught:
                error = caught
        self.close()
        if error is None:
            raise StopIteration
        if isinstance(error, DlfbLabError) or not isinstance(error, Exception):
            raise error
        raise DataError(f"Reading the data failed: {one_line(error)}") from error

    @property
    def lendable(self) -> bool:
        """Whether the thread is best left alone with the items, since it computes while the reader waits.

        Two threads that compute take the interpreter's lock from one another; one that does both has no such trouble.
        """
        line = self._line
        return line.lendable and not line.ended and not line.over.is_set()

    def lend(self, use: Callable[[Any], bool], count: int, timeout_s: float) -> None:
        """Has up to `count` of the next items used in the thread: one after another those that come in `GATHER_S`.

        Args:
            use: called with each item in turn, in the thread; false where `get` has to return the item instead, before
                any other is lent. It is not called any more when this returns.
            count: the most items.
            timeout_s: how long to wait for them.

        Raises:
            BaseException: what `use` raised.
        """
        line = self._line
        with line.lock:
            if line.refused or line.ended:
                return
            line.use, line.left, line.until = use, count, perf_counter() + GATHER_S
        if not line.items.empty():
            line.room.put(_SERVE)
        try:
            with suppress(Empty):
                line.woken.get(timeout=timeout_s)
        finally:
            with line.lock:
                line.use, line.left = None, 0
                _empty(line.woken)
        error, line.failed = line.failed, None
        if error is not None:
            raise error

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
    converted: bool


class _End(NamedTuple):
    error: BaseException | None


class _Serve:
    """Told to a thread that waits for room: there are items to use."""


_SERVE = _Serve()


class _Line:
    """What the thread and the reader share; it does not hold the `Prefetch`, which may be let go without closing.

    Its queues have no lock that one thread could hold while it waits for its turn on a busy processor.
    """

    def __init__(self, depth: int, convert: Callable[[Any], Any]) -> None:
        self.convert = convert
        self.items: SimpleQueue[_Item | _End] = SimpleQueue()
        self.room: SimpleQueue[_Serve | None] = SimpleQueue()
        self.over = threading.Event()
        for _ in range(depth):
            self.room.put(None)
        self.lock = threading.Lock()
        """Held while items are used in the thread, and to begin and end lending."""
        self.use: Callable[[Any], bool] | None = None
        self.left = 0
        self.until = 0.0
        self.ended = False
        self.more = 0
        """Items that may be in the line beyond its depth, gathered to be used together."""
        self.failed: BaseException | None = None
        self.refused: list[_Item | _End] = []
        self.woken: SimpleQueue[None] = SimpleQueue()
        self.seen = 0
        self.took_s = self.computed_s = self.used_s = 0.0

    @property
    def lendable(self) -> bool:
        enough = self.seen >= LOOKED_AT and self.computed_s > COMPUTES * self.took_s
        return enough and self.used_s < SMALL * self.took_s

    def look(self, took_s: float, computed_s: float) -> None:
        """Learns how long an item took to get."""
        if self.seen == 2 * LOOKED_AT:
            self.seen = LOOKED_AT
            self.took_s, self.computed_s, self.used_s = self.took_s / 2, self.computed_s / 2, self.used_s / 2
        self.seen += 1
        self.took_s += took_s
        self.computed_s += computed_s

    def converted(self, found: _Item) -> Any:
        return found.item if found.converted else self.convert(found.item)

    def used(self) -> None:
        """Makes room for another item, in place of one that was used."""
        if self.more:
            self.more -= 1
        else:
            self.room.put(None)

    def serve(self, ended: bool = False) -> None:
        """Uses the items there are, in the thread, where they are lent and no other is expected in time."""
        with self.lock:
            self.ended = ended
            if not self.left:
                return
            expected = perf_counter() + self.took_s / max(self.seen, 1)
            if not ended and expected < self.until and self.items.qsize() < self.left:
                self.more += 1
                self.room.put(None)
                return
            start = perf_counter()
            try:
                while self.left and not self.items.empty():
                    self.left -= 1
                    try:
                        found = self.items.get_nowait()
                    except Empty:
                        break  # it was closed just now
                    if isinstance(found, _Item):
                        try:
                            found = _Item(self.converted(found), True)
                        except BaseException as error:
                            found = _End(error)
                    if isinstance(found, _End) or self.use is None or not self.use(found.item):
                        self.refused.append(found)
                        break
                    self.used()
            except BaseException as error:
                self.failed = error
                self.used()
            self.used_s += perf_counter() - start
            self.left = 0
            self.woken.put(None)


def _read(iterator: Iterator[Any], line: _Line) -> None:
    error: BaseException | None = None
    try:
        while True:
            # Room first: an item that waits outside the line would be one more in memory.
            room = line.room.get()
            if line.over.is_set():
                break
            if room is _SERVE:
                line.serve()
                continue
            start, began = perf_counter(), thread_time()
            try:
                item = next(iterator)
            except StopIteration:
                break
            if line.over.is_set():
                break
            line.look(perf_counter() - start, thread_time() - began)
            found = _Item(item, False)
            if not line.left and not line.items.empty():
                found = _Item(line.convert(item), True)
            line.items.put(found)
            del item, found
            line.serve()
    except BaseException as caught:
        error = caught
    close = getattr(iterator, "close", None)
    if close is not None:
        try:
            close()
        except BaseException as caught:
            error = error or caught
    line.items.put(_End(error))
    line.serve(ended=True)


def _end(line: _Line, thread: threading.Thread) -> None:
    line.over.set()
    line.room.put(None)
    if thread is not threading.current_thread():
        thread.join(GOODBYE_S)
    _empty(line.items)
    line.refused.clear()
    # For whoever waits for an item in another thread.
    line.items.put(_End(None))
    line.woken.put(None)


def _empty(queue: SimpleQueue[Any]) -> None:
    with suppress(Empty):
        while True:
            queue.get_nowait()
