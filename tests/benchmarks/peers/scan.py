"""(b) What a good JAX user writes by hand: data on the device, one dispatch an epoch, its losses fetched once.

The last, ragged batch of an epoch is dropped, as is usual where shapes must be static.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
from workloads import Workload

from peers.network import State, state_maker, update


def prepare(workload: Workload) -> Callable[[int], dict[str, Any]]:
    x, y = workload.data()
    make_state = state_maker(workload)
    steps = len(x) // workload.batch

    @partial(jax.jit, donate_argnums=0)
    def train_epoch(state: State, x: jax.Array, y: jax.Array, key: jax.Array) -> tuple[State, jax.Array]:
        order = jax.random.permutation(key, len(x))[: steps * workload.batch]

        def step(state: State, rows: jax.Array) -> tuple[State, jax.Array]:
            return update(state, x[rows], y[rows])

        return jax.lax.scan(step, state, order.reshape(steps, workload.batch))

    def train(epochs: int) -> dict[str, Any]:
        key = jax.random.key(0)
        state = make_state(key)
        on_device = jax.device_put((x, y))
        losses: list[np.ndarray] = []
        for epoch_key in jax.random.split(key, epochs):
            state, values = train_epoch(state, *on_device, epoch_key)
            losses.append(np.asarray(values))
        jax.block_until_ready(state)
        return {"steps": steps * epochs, "last_loss": float(losses[-1].mean()), "device": jax.default_backend()}

    return train
