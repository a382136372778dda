"""Data that come in batches, read as they come."""

from __future__ import annotations

import contextlib
import inspect
import threading
import warnings
import weakref
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, cast

import jax
import numpy as np
import psutil

from dlfb_lab.data import states
from dlfb_lab.data.batch import described, inputs_of, on_host, pair, rows_of, stacked
from dlfb_lab.data.host import Array
from dlfb_lab.data.items import Kind, tell
from dlfb_lab.data.reader import Reader
from dlfb_lab.data.source import Examples, check
from dlfb_lab.errors import DataError, DlfbLabError, one_line

DEFAULT_BATCH = 32

PATIENCE_S = 10.0
"""After how long it is said that an item does not come."""


END = object()
"""Comes after the last item."""


@dataclass(frozen=True, kw_only=True)
class Items:
    """Where items come from, before anybody has looked at them: what an adapter makes of the user's object.

    Attributes:
        name: what it is, for people.
        open: begins a pass: takes the epoch's number and the seed, and returns an iterator.
        once: whether it can be read only once.
        drawn: whether a pass depends on the epoch's number and the seed.
        count: items in a pass, where that is known.
        endless: whether a pass is known to have no end.
        batched: whether an item is a batch; None where that has to be told from the items.
        notice: what the user should know about it; or "".
    """

    name: str
    open: Callable[[int, int], Iterator[Any]]
    once: bool = False
    drawn: bool = False
    count: int | None = None
    endless: bool = False
    batched: bool | None = None
    notice: str = ""


@dataclass(frozen=True, kw_only=True)
class Stream:
    """Batches that are read as they come.

    Attributes:
        name: what they come from, for people.
        first: the first batch, read in advance: a pytree of NumPy arrays, shape [rows, ...], structured as given.
        rows: of the first batch; 1 where its arrays have different lengths.
        batches: in an epoch, where that is known without reading.
        endless: whether an epoch is known to have no end.
        once: whether there is only one epoch.
        notices: what the user should know about how the data are read.
        reader: in whose thread the first pass has begun, and all are to be read; None for that of whoever began it.
    """

    name: str
    first: Any
    rows: int
    batches: int | None
    endless: bool
    once: bool
    notices: tuple[str, ...]
    reader: Reader | None
    _passes: _Passes = field(repr=False)

    def epoch(self, number: int, seed: int, state: str | None = None) -> Iterator[Any]:
        """Returns the batches of one pass, structured as `first`.

        Args:
            number: of the epoch, from 0.
            seed: what is drawn at random depends on it and on the number alone.
            state: where to enter the pass, as `state` said; None for its beginning.

        Raises:
            DataError: at once, if the data are used up; while reading, if they fail, end early or change structure.
        """
        return self._passes.epoch(number, seed, state)

    def close(self) -> None:
        """Closes what has been begun, in the thread where it was; a traceback may keep it from being collected."""
        self._passes.end()

    @contextlib.contextmanager
    def or_closed(self) -> Iterator[None]:
        """Closes it where what is done with it is refused."""
        try:
            yield
        except BaseException:
            self.close()
            raise

    @property
    def state(self) -> str | None:
        """Where the pass stands after the batch that came last, as JSON; None where the source cannot tell."""
        return self._passes.state


def begin(
    items: Items, *, batch_size: int | None = None, seed: int = 0, whole: bool = False, apart: bool = False
) -> Stream:
    """Reads the first batch, and tells batches from single examples, of which batches are made.

    Args:
        items: where they come from.
        batch_size: rows of a batch that is made of single examples; None for 32.
        seed: of the run; the first epoch then goes on where this has begun.
        whole: whether a batch may be anything, such as a graph: for a step of the user's own.
        apart: whether it is read in a thread of its own, as what is trained on.

    Raises:
        DataError: there is nothing, it is not made of arrays, or examples cannot be stacked.
    """
    rest = _read(items, 0, seed)
    reader = Reader() if apart else None
    try:
        stream = _begun(items, rest, reader, batch_size, seed, whole)
    except BaseException:
        _close(rest, reader)
        raise
    # Whoever reads an epoch holds the passes, but perhaps not the stream.
    stream._passes.end = weakref.finalize(stream._passes, _close, rest, reader)
    stream._passes.end.atexit = False
    return stream


def _close(rest: Generator[Any], reader: Reader | None) -> None:
    """Closes what was begun, in the thread where it was; not if it is over or whoever reads it will."""
    if inspect.getgeneratorstate(rest) not in (inspect.GEN_CREATED, inspect.GEN_SUSPENDED):
        return
    if reader is None:
        rest.close()
    else:
        reader.last(rest.close)


def _begun(
    items: Items,
    rest: Generator[tuple[Any, Any, str | None]],
    reader: Reader | None,
    batch_size: int | None,
    seed: int,
    whole: bool,
) -> Stream:
    def late() -> None:
        text = (
            f"The {items.name} has not given its next item for {PATIENCE_S:.0f} s. Interrupt to end waiting. It is "
            "read in a thread of its own: if it needs a lock that this cell holds, it waits for ever."
        )
        warnings.warn(text, stacklevel=2)

    def following(count: int) -> list[tuple[Any, Any, str | None]]:
        """Returns the next items; one by one, so that after an interrupt no more are read."""
        found: list[tuple[Any, Any, str | None]] = []
        while len(found) < count:
            one = (
                list(islice(rest, 1))
                if reader is None
                else reader.call(lambda: list(islice(rest, 1)), PATIENCE_S, late)
            )
            if not one:
                break
            found += one
        return found

    ahead: list[tuple[Any, Any, str | None]] = []
    kind = None if items.batched is None else Kind(items.batched)
    while not ahead or kind is None:
        ahead += (more := following(1))
        if not ahead:
            raise DataError(f"The {items.name} is empty: it gave no batch and no example.")
        if kind is None:
            raw, read, _ = zip(*ahead, strict=True)
            kind = tell(raw, read, ended=not more, batch_size=batch_size, whole=whole)
    examples = [item for _, item, _ in ahead]
    notices = [notice for notice in (items.notice, kind.notice) if notice]
    if kind.batched:
        size, first = None, examples[0]
        if rows_of(first) == 0:
            raise DataError(f"Batch 0 of the {items.name} has no rows. Leave it out.")
        rows = rows_of(first) or 1
        if batch_size not in (None, rows):
            notices.append(
                f"--batch-size {batch_size} has no effect: the {items.name} brings batches of {rows:,} rows."
            )
    else:
        size = batch_size or DEFAULT_BATCH
        ahead += following(max(0, size - len(examples)))
        examples = [item for _, item, _ in ahead]
        first = stacked(examples[:size])
        rows = min(size, len(examples))
        notices.append(f"The {items.name} gives one example at a time; batches of {size:,} are made of them.")
    batches = items.count if size is None or items.count is None else -(-items.count // size)
    return Stream(
        name=items.name,
        first=first,
        rows=rows,
        batches=batches,
        endless=items.endless,
        once=items.once,
        notices=tuple(notices),
        reader=reader,
        _passes=_Passes(items, ahead, rest, seed, size, first, batches),
    )


class _Passes:
    """Begins the passes; the first one goes on where `begin` has left it, so that nothing is read twice."""

    def __init__(
        self,
        items: Items,
        ahead: list[tuple[Any, Any, str | None]],
        rest: Generator[tuple[Any, Any, str | None]],
        seed: int,
        size: int | None,
        first: Any,
        batches: int | None,
    ) -> None:
        self.state: str | None = None
        self.end: Any = None
        self._rest = rest
        self._items, self._seed, self._size, self._first = items, seed, size, first
        self._begun: Generator[Any] | None = self._noted(ahead, rest)
        self._structure: Any = jax.tree.structure(first)
        self._most = batches or 0

    def epoch(self, number: int, seed: int, state: str | None) -> Iterator[Any]:
        begun, self._begun = self._begun, None
        if state is not None:
            self._drop(begun)
            return self._batches(self._noted([], _read(self._items, number, seed, state)), number, entered=True)
        if begun is None or (self._items.drawn and (number, seed) != (0, self._seed)):
            if self._items.once:
                raise DataError(
                    f"The {self._items.name} was used up by the first epoch: it can be read only once. Give a list of "
                    "batches, or the function that makes it (train calls that for each epoch); or train for one epoch."
                )
            self._drop(begun)
            begun = self._noted([], _read(self._items, number, seed))
        return self._batches(begun, number)

    def _drop(self, begun: Generator[Any] | None) -> None:
        """Closes the first pass where another is taken in its place, but for an iterator that is the same."""
        if begun is not None and not self._items.once:
            self._rest.close()

    def _noted(
        self, ahead: list[tuple[Any, Any, str | None]], rest: Generator[tuple[Any, Any, str | None]]
    ) -> Generator[Any]:
        """Yields items, first those that were read in advance, and notes where the pass stands."""
        try:
            while ahead:
                _, item, self.state = ahead.pop(0)
                yield item
            for _, item, self.state in rest:
                yield item
        finally:
            rest.close()

    def _batches(self, items: Generator[Any], number: int, entered: bool = False) -> Iterator[Any]:
        count = 0
        try:
            for batch in items if self._size is None else _cut(items, self._size):
                if rows_of(batch) == 0:
                    raise DataError(f"Batch {count} of the {self._items.name} has no rows. Leave it out.")
                if jax.tree.structure(batch) != self._structure:
                    raise DataError(
                        f"Batch {count} is {described(batch)}; the first was {described(self._first)}. "
                        "Give every batch one structure."
                    )
                yield batch
                count += 1
        finally:
            items.close()
        if not entered:
            self._check_end(count, number)

    def _check_end(self, count: int, number: int) -> None:
        if count == 0:
            raise DataError(
                f"The {self._items.name} gave nothing in epoch {number + 1}: it seems that it can be read only once. "
                "Give a list of batches, or a function that makes it anew for each epoch."
            )
        if count < self._most:
            raise DataError(
                f"The {self._items.name} ended early in epoch {number + 1}: after {count:,} of {self._most:,} batches. "
                "Give as many in every epoch, or make them without end and say --steps."
            )
        self._most = count


def _read(items: Items, number: int, seed: int, state: str | None = None) -> Generator[tuple[Any, Any, str | None]]:
    """Yields items as they are given and with NumPy arrays for leaves, in one pass, and where it stands after each."""
    iterator: Any = None
    count = 0
    try:
        iterator = iter(items.open(number, seed))
        if state is not None:
            states.enter(iterator, state)
        # Not in a `for`, which would ask for the iterator again: some begin anew then.
        while (item := _next(iterator)) is not END:
            # A copy, for whoever made the item may fill the same arrays again while it waits.
            arrays = jax.tree.map(_own, on_host(item, f"Item {count} of the {items.name}"))
            yield item, arrays, states.of(iterator)
            count += 1
    except (DlfbLabError, GeneratorExit):
        raise
    except BaseException as error:
        # In the cell's thread that may be the user's interrupt; nobody interrupts another.
        if isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
            raise
        raise DataError(f"The {items.name} failed at item {count}: {one_line(error)}") from error
    finally:
        close = getattr(iterator, "close", None)
        if close is not None:
            close()


def _next(iterator: Iterator[Any]) -> Any:
    try:
        return next(iterator, END)
    except GeneratorExit as error:
        # Raised by the iterator itself; it does not mean that this generator is to be closed.
        raise RuntimeError("it raised GeneratorExit") from error


def _own(leaf: Any) -> Any:
    return leaf.copy() if isinstance(leaf, np.ndarray) else leaf


def _cut(examples: Iterator[Any], size: int) -> Iterator[Any]:
    start = 0
    while chunk := list(islice(examples, size)):
        yield stacked(chunk, start)
        start += len(chunk)


def joined(stream: Stream, limit_bytes: int | None = None) -> Any:
    """Returns one pass over a stream as one batch: a pytree of arrays, shape [rows, ...]; one batch alone as it is.

    Args:
        stream: what to read.
        limit_bytes: of all arrays; None for a third of the memory that is free.

    Raises:
        DataError: it has no end, does not fit, or its batches cannot be joined.
    """
    advice = "Give a set that ends, such as itertools.islice(batches, 10), or tf.data's .take(10)."
    if stream.endless:
        raise DataError(f"The {stream.name} has no end, so it cannot be evaluated on as a whole. {advice}")
    # Joining holds the parts and the whole for a moment.
    limit = psutil.virtual_memory().available // 3 if limit_bytes is None else limit_bytes

    def read() -> list[Any]:
        batches: list[Any] = []
        total = 0
        for batch in stream.epoch(0, 0):
            batches.append(batch)
            total += sum(leaf.nbytes for leaf in jax.tree.leaves(batch))
            if total > limit:
                raise DataError(
                    f"The {stream.name} does not fit into memory: {len(batches):,} batches take {total / 1e9:.3g} GB, "
                    f"and {limit / 1e9:.3g} GB are free for them. {advice}"
                )
        return batches

    batches = read() if stream.reader is None else stream.reader.call(read)
    if len(batches) == 1:
        # It may be anything, such as a graph.
        return batches[0]
    odd = next((batch for batch in batches if rows_of(batch) is None), None)
    if odd is not None:
        raise DataError(f"A batch is {described(odd)}, whose arrays have different lengths: it cannot be joined.")
    return jax.tree.map(_concatenated, *batches)


def _concatenated(*parts: Array) -> Array:
    for part in parts:
        if part.shape[1:] != parts[0].shape[1:]:
            raise DataError(
                f"Batches of rows of shape {parts[0].shape[1:]} and {part.shape[1:]} cannot be joined. Pad them to "
                "one shape."
            )
    return np.concatenate(parts)


def read_all(
    stream: Stream, target: str | None = None, *, reconstruct: bool = False, limit_bytes: int | None = None
) -> Examples:
    """Returns all rows of a stream that ends, as for a validation or a test set.

    Args:
        stream: what to read.
        target: the target's key, as for `batch.pair`.
        reconstruct: whether all of it is inputs, which are the targets too.
        limit_bytes: see `joined`.

    Raises:
        DataError: see `joined` and `batch.pair`.
    """
    tree = joined(stream, limit_bytes)
    x, y = (inputs_of(tree), None) if reconstruct else pair(tree, target)
    return check(Examples(x=x, y=cast(Array, x) if y is None else y, notices=stream.notices))
