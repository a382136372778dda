"""What every peer trains: the same data, network, batch and optimizer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

LEARNING_RATE = 1e-3

Drawn = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A classification with softmax cross-entropy and Adam, shuffled every epoch.

    Attributes:
        name: on the command line and in the results.
        network: class of `peers.network`.
        settings: its fields; `classes` among them.
        draw: makes inputs, shape [rows, ...], and class numbers, shape [rows], int32, from a generator and `rows`.
        rows: training rows; whole batches, where the network keeps statistics across rows.
        batch: rows per update.
        epochs: passes over the rows in one timed call, by peer; "" for all others.
        peers: who takes part, ours first.
        repeats: timed calls of each peer at most: where a call is long, few will do.
    """

    name: str
    network: str
    settings: dict[str, Any] = field(hash=False)
    draw: Callable[[np.random.Generator, int], Drawn]
    rows: int
    batch: int
    epochs: dict[str, int] = field(hash=False)
    peers: tuple[str, ...]
    repeats: int = 100

    def epochs_of(self, peer: str) -> int:
        """Returns how many epochs one timed call of a peer takes. Slow peers take fewer: steps/s are compared."""
        return self.epochs.get(peer, self.epochs[""])

    def data(self) -> Drawn:
        """Returns inputs, shape [rows, ...], and class numbers, shape [rows], int32."""
        return self.draw(np.random.default_rng(0), self.rows)


def _corners(rng: np.random.Generator, rows: int) -> Drawn:
    x = rng.standard_normal((rows, 2), dtype=np.float32)
    return x, (x[:, 0] * x[:, 1] > 0).astype(np.int32)


def _by_teacher(rng: np.random.Generator, rows: int) -> Drawn:
    x = rng.standard_normal((rows, 100), dtype=np.float32)
    teacher = rng.standard_normal((100, 10), dtype=np.float32)
    return x, np.argmax(x @ teacher + rng.standard_normal((rows, 10)), axis=1).astype(np.int32)


def _images(rng: np.random.Generator, rows: int) -> Drawn:
    """Noise with one of nine tiles brighter, whose number is the class."""
    x = rng.standard_normal((rows, 64, 64, 3), dtype=np.float32)
    y = rng.integers(0, 9, rows).astype(np.int32)
    for image, tile in zip(x, y, strict=True):
        down, right = 21 * (tile // 3), 21 * (tile % 3)
        image[down : down + 21, right : right + 21] += 0.5
    return x, y


def _sequences(rng: np.random.Generator, rows: int) -> Drawn:
    """DNA of 200 bp, one-hot; class 1 holds a motif somewhere."""
    bases = rng.integers(0, 4, (rows, 200))
    y = rng.integers(0, 2, rows).astype(np.int32)
    for row in np.flatnonzero(y):
        start = rng.integers(0, 192)
        bases[row, start : start + 8] = (0, 2, 1, 3, 3, 1, 2, 0)
    return np.eye(4, dtype=np.float32)[bases], y


def _proteins(rng: np.random.Generator, rows: int) -> Drawn:
    """128 of 25 residues; the class is which of the first ten is the most frequent."""
    x = rng.integers(0, 25, (rows, 128)).astype(np.int32)
    return x, np.argmax((x[:, :, None] == np.arange(10)).sum(axis=1), axis=1).astype(np.int32)


WORKLOADS = {
    w.name: w
    for w in (
        Workload(
            name="tiny",
            network="MLP",
            settings={"hidden": (8, 8), "classes": 2},
            draw=_corners,
            rows=2_000,
            batch=16,
            epochs={"": 200, "loop": 50, "keras": 20, "torch": 10},
            peers=("dlfb", "loop", "scan", "keras", "torch"),
        ),
        Workload(
            name="mlp",
            network="MLP",
            settings={"hidden": (256, 256), "classes": 10},
            draw=_by_teacher,
            rows=20_000,
            batch=128,
            epochs={"": 10, "loop": 5, "steps": 5, "keras": 5, "torch": 5},
            peers=("dlfb", "loop", "steps", "scan", "keras", "torch"),
        ),
        Workload(
            name="cnn",
            network="ImageCNN",
            settings={"channels": (16, 32, 64), "classes": 9},
            draw=_images,
            rows=640,
            batch=32,
            epochs={"": 2},
            peers=("dlfb", "steps"),
            repeats=15,
        ),
        Workload(
            name="dna",
            network="SequenceCNN",
            settings={"channels": (64, 64), "length": 10, "dropout": 0.2, "classes": 2},
            draw=_sequences,
            rows=3_200,
            batch=32,
            epochs={"": 3},
            peers=("dlfb", "steps"),
            repeats=15,
        ),
        Workload(
            name="transformer",
            network="Transformer",
            settings={"tokens": 25, "positions": 128, "width": 64, "depth": 2, "heads": 4, "classes": 10},
            draw=_proteins,
            rows=640,
            batch=32,
            epochs={"": 2},
            peers=("dlfb", "steps", "scan"),
            repeats=5,
        ),
    )
}
