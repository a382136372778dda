"""(e) One jitted step in a loop, well written: NumPy batches, the state donated, losses fetched once an epoch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from workloads import Workload

from peers.network import state_maker, update


def prepare(workload: Workload) -> Callable[[int], dict[str, Any]]:
    x, y = workload.data()
    make_state, train_step = state_maker(workload), jax.jit(update, donate_argnums=0)

    def train(epochs: int) -> dict[str, Any]:
        state = make_state(jax.random.key(0))
        rng = np.random.default_rng(0)
        losses: list[np.ndarray] = []
        for _ in range(epochs):
            order = rng.permutation(len(x))
            values = []
            for start in range(0, len(x), workload.batch):
                rows = order[start : start + workload.batch]
                state, loss = train_step(state, x[rows], y[rows])
                values.append(loss)
            losses.append(np.asarray(jax.device_get(values)))
        jax.block_until_ready(state)
        return {
            "steps": sum(map(len, losses)),
            "last_loss": float(losses[-1].mean()),
            "device": jax.default_backend(),
        }

    return train
