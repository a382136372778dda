from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
import pytest

RNG = np.random.default_rng(0)
X = RNG.normal(size=(24, 3)).astype(np.float32)
Y = X @ np.array([[1.0], [-2.0], [0.5]], np.float32)


class Learned(NamedTuple):
    params: Any
    extra: Any
    losses: np.ndarray


@pytest.fixture
def xy() -> tuple[np.ndarray, np.ndarray]:
    return X, Y


@pytest.fixture
def learn() -> Callable[..., Learned]:
    """Trains an adapted model in a jitted step of its `apply`, on the mean squared error."""

    def learn(model: Any, steps: int = 5, seed: int = 0, rate: float = 0.05) -> Learned:
        optimizer = optax.adam(rate)

        @jax.jit
        def step(params: Any, extra: Any, opt_state: Any, rng: jax.Array) -> Any:
            def loss(params: Any) -> Any:
                outputs, changed = model.apply(params, extra, X, rng, True)
                return ((outputs.reshape(Y.shape) - Y) ** 2).mean(), changed

            (value, changed), gradients = jax.value_and_grad(loss, has_aux=True)(params)
            updates, opt_state = optimizer.update(gradients, opt_state, params)
            return optax.apply_updates(params, updates), changed, opt_state, value

        params, extra, _ = model.start(jax.random.key(seed), X[:1])
        opt_state, losses = optimizer.init(params), []
        for i in range(steps):
            params, extra, opt_state, value = step(
                params, extra, opt_state, jax.random.fold_in(jax.random.key(seed), i)
            )
            losses.append(float(value))
        return Learned(params, extra, np.array(losses))

    return learn
