"""The network and the state that all peers in JAX share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax.training.train_state import TrainState
from workloads import LEARNING_RATE, Workload


class MLP(nn.Module):
    """Dense layers with ReLU between them; returns logits, shape [rows, classes]."""

    hidden: tuple[int, ...]
    classes: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for width in self.hidden:
            x = nn.relu(nn.Dense(width)(x))
        return nn.Dense(self.classes)(x)


def state_maker(workload: Workload) -> Callable[[jax.Array], TrainState]:
    """Returns a jitted function from a key to a new state: compiled once, so that nobody's start is slow."""
    model = MLP(workload.hidden, workload.classes)
    adam = optax.adam(LEARNING_RATE)

    @jax.jit
    def make(key: jax.Array) -> TrainState:
        params = model.init(key, jnp.zeros((1, workload.features)))["params"]
        return TrainState.create(apply_fn=model.apply, params=params, tx=adam)

    return make


def update(state: TrainState, x: jax.Array, y: jax.Array) -> tuple[TrainState, Any]:
    """Applies one step to a batch of shape [batch, features] and [batch]; returns the state and the loss."""

    def mean_loss(params: Any) -> jax.Array:
        logits = state.apply_fn({"params": params}, x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    loss, gradients = jax.value_and_grad(mean_loss)(state.params)
    return state.apply_gradients(grads=gradients), loss
