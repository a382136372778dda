"""Whether a model's program shows that its outputs can be any number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from dlfb_lab.engine.ending import is_free

X = jnp.ones((4, 8, 3))


class Ends(nn.Module):
    """A dense layer, and what comes after it."""

    last: Callable[[Any], Any]
    bias: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        hidden = nn.relu(nn.Dense(5)(x.reshape(4, -1)))
        return self.last(nn.Dense(2, use_bias=self.bias)(hidden))


class Convolves(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Conv(2, (3,))(x).reshape(4, -1)


def free(model: nn.Module) -> bool:
    params = model.init(jax.random.key(0), X)
    program = jax.make_jaxpr(lambda params, x: model.apply(params, x))(params, X)
    return is_free(program, len(jax.tree.leaves(params)))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "last",
    [lambda z: z, lambda z: z[:, 0], lambda z: jnp.squeeze(z[:, :1], -1).astype(jnp.float32), jax.jit(jnp.ravel)],
)
def test_a_layer_at_the_end_is_free(last: Callable[[Any], Any], bias: bool) -> None:
    assert free(Ends(last, bias))


def test_a_convolution_at_the_end_is_free() -> None:
    assert free(Convolves())


@pytest.mark.parametrize(
    "last",
    [
        nn.softmax,
        nn.sigmoid,
        jax.jit(nn.sigmoid),
        nn.relu,
        lambda z: 0.5 * jnp.tanh(z) + 0.5,
        lambda z: jnp.clip(z, 0, 1),
        lambda z: jnp.ones((4, 2)) + 0 * z,
    ],
)
def test_what_comes_after_a_layer_may_bound_it(last: Callable[[Any], Any]) -> None:
    assert not free(Ends(last))


def test_a_number_of_the_program_is_no_parameter() -> None:
    shift = jnp.arange(2.0)
    assert not free(Ends(lambda z: nn.sigmoid(z) + shift))
