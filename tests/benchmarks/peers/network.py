"""The networks and the state that all peers in JAX share."""

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
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        for width in self.hidden:
            x = nn.relu(nn.Dense(width)(x))
        return nn.Dense(self.classes)(x)


class ImageCNN(nn.Module):
    """3×3 convolutions, ReLU, and max pooling that halves each side; x has shape [rows, height, width, channels]."""

    channels: tuple[int, ...]
    classes: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        for width in self.channels:
            x = nn.max_pool(nn.relu(nn.Conv(width, (3, 3))(x)), (2, 2), (2, 2))
        return nn.Dense(self.classes)(x.reshape(len(x), -1))


class SequenceCNN(nn.Module):
    """1-D convolutions with batch norm, GELU and pooling, a dense layer and dropout; x has shape [rows, length, 4]."""

    channels: tuple[int, ...]
    length: int
    dropout: float
    classes: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        for width in self.channels:
            x = nn.BatchNorm(use_running_average=not train)(nn.Conv(width, (self.length,))(x))
            x = nn.max_pool(nn.gelu(x), (2,), (2,))
        x = nn.gelu(nn.Dense(128)(x.reshape(len(x), -1)))
        return nn.Dense(self.classes)(nn.Dropout(self.dropout, deterministic=not train)(x))


class Transformer(nn.Module):
    """A pre-norm encoder and the mean over positions; x are token numbers, shape [rows, positions], int32."""

    tokens: int
    positions: int
    width: int
    depth: int
    heads: int
    classes: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        place = self.param("place", nn.initializers.normal(0.02), (self.positions, self.width))
        x = nn.Embed(self.tokens, self.width)(x) + place
        for _ in range(self.depth):
            x = x + nn.MultiHeadDotProductAttention(num_heads=self.heads)(nn.LayerNorm()(x))
            x = x + nn.Dense(self.width)(nn.gelu(nn.Dense(4 * self.width)(nn.LayerNorm()(x))))
        return nn.Dense(self.classes)(nn.LayerNorm()(x).mean(axis=1))


NETWORKS: dict[str, Callable[..., Any]] = {c.__name__: c for c in (MLP, ImageCNN, SequenceCNN, Transformer)}


class State(TrainState):
    """What a step changes.

    Attributes:
        extra: collections beside the parameters, such as batch statistics; empty where there are none.
        key: what dropout's keys are made from; None where there is none.
    """

    extra: Any
    key: jax.Array | None


def network(workload: Workload) -> Any:
    """Returns the linen module of a workload."""
    return NETWORKS[workload.network](**workload.settings)


def state_maker(workload: Workload) -> Callable[[jax.Array], State]:
    """Returns a jitted function from a key to a new state: compiled once, so that nobody's start is slow."""
    model = network(workload)
    adam = optax.adam(LEARNING_RATE)
    one = jnp.asarray(workload.data()[0][:1])

    @jax.jit
    def make(key: jax.Array) -> State:
        variables = dict(model.init(key, one))
        params = variables.pop("params")
        # Not a typed key: its wrapper would cost a loop over steps some 20 µs each time.
        own_key = jax.random.PRNGKey(1) if "dropout" in workload.settings else None
        return State.create(apply_fn=model.apply, params=params, tx=adam, extra=variables, key=own_key)

    return make


def update(state: State, x: jax.Array, y: jax.Array) -> tuple[State, Any]:
    """Applies one step to a batch of shape [batch, ...] and [batch]; returns the state and the loss."""
    rngs = None if state.key is None else {"dropout": jax.random.fold_in(state.key, state.step)}

    def mean_loss(params: Any) -> tuple[jax.Array, Any]:
        logits, extra = state.apply_fn(
            {"params": params, **state.extra}, x, train=True, rngs=rngs, mutable=list(state.extra)
        )
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean(), extra

    (loss, extra), gradients = jax.value_and_grad(mean_loss, has_aux=True)(state.params)
    return state.apply_gradients(grads=gradients, extra=extra), loss
