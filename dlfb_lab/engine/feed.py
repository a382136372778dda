"""Where batches come from: rows that are cut into batches, or a stream that brings its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from dlfb_lab.data.lazy import is_lazy
from dlfb_lab.data.reader import Reader
from dlfb_lab.data.source import Array, Inputs
from dlfb_lab.data.stream import Stream
from dlfb_lab.engine.step import random_order
from dlfb_lab.models.model import PyTree


class Place(NamedTuple):
    """A place in the data.

    Attributes:
        epoch: epochs completed.
        batch: batches of this epoch already used.
        state: of the iterator that brings them, where it can tell; see `Stream.state`.
    """

    epoch: int
    batch: int
    state: str | None = None

    def after(self, batch: Batch) -> Place:
        """Returns the place after one batch more."""
        return Place(self.epoch, self.batch + 1, batch.state)


START = Place(0, 0)


class TrainingData(Protocol):
    """What is learned from, as the engine takes it."""

    @property
    def rows(self) -> int | None:
        """How many rows there are; None where that is not known."""

    @property
    def reader(self) -> Reader | None:
        """In whose thread batches are to be read; None where any will do."""

    def sample(self, batch: int) -> PyTree:
        """Returns the first batch, on the host."""

    def batches(self, batch: int) -> int | None:
        """Returns how many batches an epoch has; None where that is not known."""

    def feed(
        self, batch: int, order_key: jax.Array, seed: int, epochs: int | None, fill: bool, start: Place = START
    ) -> Feed:
        """Returns the batches of a run, on the host, each to be made `ready`.

        Args:
            batch: rows per batch.
            order_key: that the order of an epoch's rows is drawn from.
            seed: of the run, for sources that draw for themselves.
            epochs: passes over the data; None for as many as are asked for.
            fill: whether an epoch's last batch is filled up with rows that do not count.
            start: from where on.
        """

    def ready(self, batch: Batch) -> Batch:
        """Makes of a batch what the step takes; may be called in any thread."""


class Batch(NamedTuple):
    """One batch.

    Attributes:
        tree: arrays, shape [rows, ...].
        counts: which rows count, shape [rows], bool; None where all do.
        begins: whether it is the first of its epoch.
        rows: how many rows count, as far as can be told.
        state: of the iterator it comes from, after it; see `Stream.state`.
    """

    tree: PyTree
    counts: Array | None
    begins: bool
    rows: int
    state: str | None = None


class EpochEnd(NamedTuple):
    """Stands between two epochs.

    Attributes:
        batches: that the epoch had.
    """

    batches: int


Feed = Iterator[Batch | EpochEnd]


@dataclass(frozen=True)
class Rows:
    """Rows of data in any structure, as a step of the user's own takes them.

    Attributes:
        tree: arrays, shape [rows, ...]; where `count` is None of any shapes, and taken whole.
        count: rows.
    """

    tree: PyTree
    count: int | None

    def __len__(self) -> int:
        return self.count or 1

    @property
    def rows(self) -> int | None:
        """See `TrainingData`."""
        return self.count

    @property
    def reader(self) -> Reader | None:
        """See `TrainingData`."""
        return None

    def sample(self, batch: int) -> PyTree:
        """See `TrainingData`."""
        return self.tree if self.count is None else jax.tree.map(lambda a: a[:batch], self.tree)

    def batches(self, batch: int) -> int | None:
        """See `TrainingData`."""
        return 1 if self.count is None else -(-self.count // batch)

    def feed(
        self, batch: int, order_key: jax.Array, seed: int, epochs: int | None, fill: bool, start: Place = START
    ) -> Feed:
        """See `TrainingData`: the order of the rows is that of the programs on the device."""
        order_of = jax.jit(lambda epoch: random_order(jax.random.fold_in(order_key, epoch), len(self)))
        for epoch in _counted(epochs, start.epoch):
            skipped = start.batch if epoch == start.epoch else 0
            if self.count is None or batch >= self.count:
                if not skipped:
                    yield Batch(self.tree, None, True, len(self))
                yield EpochEnd(1)
                continue
            order = np.asarray(order_of(epoch))
            firsts = range(0, self.count, batch)
            for first in firsts[skipped:]:
                chosen = order[first : first + batch]
                real = len(chosen)
                counts = None
                if fill:
                    chosen = np.resize(np.concatenate([chosen, order]), batch) if real < batch else chosen
                    counts = np.arange(batch) < real
                tree = jax.tree.map(lambda a, chosen=chosen: a[chosen], self.tree)
                yield Batch(tree, counts, first == 0, real)
            yield EpochEnd(len(firsts))

    def ready(self, batch: Batch) -> Batch:
        """See `TrainingData`."""
        return batch

    def chosen(self, batch: int, order_key: jax.Array, place: Place) -> Array | None:
        """Returns the numbers of the rows of a batch, shape [rows]; None where they are taken whole."""
        if self.count is None:
            return None
        if batch >= self.count:
            return np.arange(self.count)
        order = np.asarray(random_order(jax.random.fold_in(order_key, place.epoch), self.count))
        return order[place.batch * batch :][:batch]

    def taken(self, rows: Array | None) -> PyTree:
        """Returns rows by their numbers, in the structure of the tree; all of them for None."""
        return self.tree if rows is None else jax.tree.map(lambda a: np.asarray(a[rows]), self.tree)


@dataclass(frozen=True)
class Part(Rows):
    """Rows of inputs and encoded targets; its tree is `(x, y)`."""

    def __init__(self, x: Inputs, y: Array) -> None:
        super().__init__((x, y), len(y))

    @property
    def x(self) -> Inputs:
        """Inputs, shape [rows, ...]."""
        inputs: Inputs = self.tree[0]
        return inputs

    @property
    def y(self) -> Array:
        """Encoded targets, shape [rows, ...]."""
        y = self.tree[1]
        return np.asarray(y[:] if is_lazy(y) else y)


@dataclass(frozen=True)
class Streamed:
    """Batches that are read as they come.

    Attributes:
        stream: where they come from.
        convert: makes of a batch what the step takes.
    """

    stream: Stream
    convert: Callable[[Any], PyTree]

    @property
    def rows(self) -> int | None:
        """See `TrainingData`."""
        return None

    @property
    def reader(self) -> Reader | None:
        """See `TrainingData`."""
        return self.stream.reader

    def sample(self, batch: int) -> PyTree:
        """See `TrainingData`."""
        return self.convert(self.stream.first)

    def batches(self, batch: int) -> int | None:
        """See `TrainingData`."""
        return self.stream.batches

    def feed(
        self, batch: int, order_key: jax.Array, seed: int, epochs: int | None, fill: bool, start: Place = START
    ) -> Feed:
        """See `TrainingData`; where its iterator's state is not known, the batches before the start are read again."""
        for epoch in _counted(1 if self.stream.once else epochs, start.epoch):
            skipped, state = (start.batch, start.state) if epoch == start.epoch else (0, None)
            count = 0 if state is None else skipped
            for item in self.stream.epoch(epoch, seed, state):
                if count >= skipped:
                    yield Batch(item, None, count == 0, 0, self.stream.state)
                count += 1
            yield EpochEnd(count)

    def ready(self, batch: Batch) -> Batch:
        """See `TrainingData`."""
        tree = self.convert(batch.tree)
        return batch._replace(tree=tree, rows=_rows(tree))


def _counted(epochs: int | None, epoch: int) -> Iterator[int]:
    while epochs is None or epoch < epochs:
        yield epoch
        epoch += 1


def _rows(tree: PyTree) -> int:
    leaves = [leaf for leaf in jax.tree.leaves(tree) if np.ndim(leaf)]
    return len(leaves[0]) if leaves else 1
