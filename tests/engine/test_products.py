"""Small products of several members, written as sums."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlfb_lab.engine.products import with_small_products_as_sums

RNG = np.random.default_rng(0)


def operations(function: Callable[..., Any], *arguments: Any) -> list[str]:
    return [eqn.primitive.name for eqn in jax.make_jaxpr(function)(*arguments).eqns]


@pytest.mark.parametrize(
    ("a", "b", "left", "right"),
    [
        ((16, 2), (2, 8), 1, 0),
        ((16, 8), (16, 3), 0, 0),
        ((16, 8), (5, 8), 1, 1),
        ((4, 3, 6), (6, 5), 2, 0),
        ((7,), (7,), 0, 0),
        ((1, 1), (1, 1), 1, 0),
    ],
)
@pytest.mark.parametrize("members", [0, 3])
def test_the_sum_is_the_product(a: tuple[int, ...], b: tuple[int, ...], left: int, right: int, members: int) -> None:
    def product(a: jax.Array, b: jax.Array) -> jax.Array:
        return jax.lax.dot_general(a, b, (((left,), (right,)), ((), ())))

    changed = with_small_products_as_sums(product)
    assert "dot_general" not in operations(changed, jnp.ones(a), jnp.ones(b))
    lead = (members,) if members else ()
    x, y = (jnp.asarray(RNG.standard_normal((*lead, *shape)), jnp.float32) for shape in (a, b))
    one, other = (jax.vmap(f) if members else f for f in (changed, product))
    assert one(x, y).shape == other(x, y).shape
    np.testing.assert_allclose(one(x, y), other(x, y), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("a", "b", "dtype"),
    [((64, 100), (100, 4), "float32"), ((64, 20), (20, 64), "float32"), ((4, 2), (2, 3), "bfloat16")],
)
def test_large_products_and_other_numbers_stay(a: tuple[int, ...], b: tuple[int, ...], dtype: str) -> None:
    def product(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.matmul(a, b, preferred_element_type=jnp.float32)

    changed = with_small_products_as_sums(product)
    assert "dot_general" in operations(changed, jnp.ones(a, dtype), jnp.ones(b, dtype))


def test_a_product_within_a_jitted_function_is_found_and_pytrees_pass() -> None:
    def step(state: dict[str, jax.Array], x: jax.Array, none: None) -> tuple[dict[str, jax.Array], jax.Array]:
        out = jax.jit(lambda w, x: jnp.tanh(x @ w))(state["w"], x)
        return {"w": state["w"] + 1}, out.sum()

    state, x = {"w": jnp.full((2, 3), 0.5)}, jnp.ones((4, 2))
    changed = with_small_products_as_sums(step)
    assert "dot_general" not in operations(lambda s, x: changed(s, x, None), state, x)
    after, total = changed(state, x, None)
    np.testing.assert_allclose(total, step(state, x, None)[1], rtol=1e-6)
    np.testing.assert_array_equal(after["w"], state["w"] + 1)


def test_what_prints_is_left_as_it_is(capfd: pytest.CaptureFixture[str]) -> None:
    def step(w: jax.Array) -> jax.Array:
        jax.debug.print("seen {}", w[0, 0])
        return w @ w

    jax.jit(with_small_products_as_sums(step))(jnp.ones((2, 2))).block_until_ready()
    jax.effects_barrier()
    assert capfd.readouterr().out.count("seen") == 1
