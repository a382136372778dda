"""What every peer trains: the same data, network, batch and optimizer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LEARNING_RATE = 1e-3


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A classification by an MLP with ReLU, softmax cross-entropy and Adam, shuffled every epoch.

    Attributes:
        name: on the command line and in the results.
        rows: training rows.
        features: inputs a row.
        hidden: widths of the hidden layers.
        classes: outputs a row.
        batch: rows per update.
        epochs: passes over the rows in one timed call, by peer; "" for all others.
    """

    name: str
    rows: int
    features: int
    hidden: tuple[int, ...]
    classes: int
    batch: int
    epochs: dict[str, int]

    def epochs_of(self, peer: str) -> int:
        """Returns how many epochs one timed call of a peer takes. Slow peers take fewer: steps/s are compared."""
        return self.epochs.get(peer, self.epochs[""])

    def data(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns inputs, shape [rows, features], float32, and class numbers, shape [rows], int32."""
        rng = np.random.default_rng(0)
        x = rng.standard_normal((self.rows, self.features), dtype=np.float32)
        if self.features == 2:
            return x, (x[:, 0] * x[:, 1] > 0).astype(np.int32)
        teacher = rng.standard_normal((self.features, self.classes), dtype=np.float32)
        return x, np.argmax(x @ teacher + rng.standard_normal((self.rows, self.classes)), axis=1).astype(np.int32)


WORKLOADS = {
    w.name: w
    for w in (
        Workload(
            name="tiny",
            rows=2_000,
            features=2,
            hidden=(8, 8),
            classes=2,
            batch=16,
            epochs={"": 200, "loop": 50, "keras": 20, "torch": 10},
        ),
        Workload(
            name="mlp",
            rows=20_000,
            features=100,
            hidden=(256, 256),
            classes=10,
            batch=128,
            epochs={"": 10, "loop": 5, "keras": 5, "torch": 5},
        ),
    )
}
