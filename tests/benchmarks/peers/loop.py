"""(a) The loop as the reference text writes it: a jitted step, NumPy batches, `float(loss)` each step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from workloads import Workload

from peers.network import state_maker, update


def prepare(workload: Workload) -> Callable[[int], dict[str, Any]]:
    x, y = workload.data()
    make_state, train_step = state_maker(workload), jax.jit(update)

    def train(epochs: int) -> dict[str, Any]:
        state = make_state(jax.random.key(0))
        rng = np.random.default_rng(0)
        losses: list[float] = []
        for _ in range(epochs):
            order = rng.permutation(len(x))
            for start in range(0, len(x), workload.batch):
                rows = order[start : start + workload.batch]
                state, loss = train_step(state, x[rows], y[rows])
                losses.append(float(loss))
        jax.block_until_ready(state)
        return {
            "steps": len(losses),
            "last_loss": float(np.mean(losses[-(len(losses) // epochs) :])),
            "device": jax.default_backend(),
        }

    return train
