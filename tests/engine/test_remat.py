"""Rematerialisation: the same numbers from less memory."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlfb_lab.engine.remat import Rematerialised

RNG = np.random.default_rng(0)
KEY = jax.random.key(0)


class Perceptron(nn.Module):
    @nn.compact
    def __call__(self, x: Any, train: bool) -> Any:
        x = nn.Dense(32)(x)
        for _ in range(8):
            y = nn.gelu(nn.Dense(64)(nn.LayerNorm()(x)))
            x = x + nn.Dense(32)(nn.Dropout(0.2, deterministic=not train)(y))
        return nn.Dense(3)(x)


class Convolutions(nn.Module):
    @nn.compact
    def __call__(self, x: Any, train: bool) -> Any:
        for _ in range(6):
            x = nn.relu(nn.BatchNorm(use_running_average=not train)(nn.Conv(8, (5,))(x)))
        return nn.Dense(3)(x.mean(axis=1))


class Transformer(nn.Module):
    @nn.compact
    def __call__(self, tokens: Any, train: bool) -> Any:
        x = nn.Embed(10, 16)(tokens)
        for _ in range(4):
            y = nn.LayerNorm()(x)
            x = x + nn.MultiHeadDotProductAttention(2)(y, y)
            x = x + nn.Dense(16)(nn.gelu(nn.Dense(32)(nn.LayerNorm()(x))))
        return nn.Dense(3)(x.mean(axis=1)), {"embedding": x}


def step(apply: Any, params: Any, extra: Any, x: Any, members: bool = False) -> tuple[Any, int]:
    """Returns value, other outputs and gradients; and the bytes that the program takes in between."""

    def loss(params: Any) -> Any:
        outputs, after = apply(params, extra, x, KEY, True)
        first = outputs[0] if isinstance(outputs, tuple) else outputs
        return (first**2).mean(), (outputs, after)

    of_one = jax.value_and_grad(loss, has_aux=True)
    program = jax.jit(jax.vmap(of_one) if members else of_one).lower(params).compile()
    return program(params), program.memory_analysis().temp_size_in_bytes


def applied(module: nn.Module) -> Any:
    def apply(params: Any, extra: Any, x: Any, rng: Any, train: bool) -> Any:
        return module.apply({"params": params, **extra}, x, train, rngs={"dropout": rng}, mutable=["batch_stats"])

    return apply


def assert_same(a: Any, b: Any) -> None:
    for u, v in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert (u.shape, u.dtype) == (v.shape, v.dtype)
        np.testing.assert_allclose(u, v, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("module", "x", "at_most"),
    [
        (Perceptron(), RNG.normal(size=(512, 16)).astype(np.float32), 0.7),
        (Convolutions(), RNG.normal(size=(64, 100, 4)).astype(np.float32), 0.8),
        (Transformer(), RNG.integers(10, size=(16, 64)), 0.6),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_the_same_numbers_come_from_less_memory(module: nn.Module, x: Any, at_most: float) -> None:
    variables = module.init({"params": KEY, "dropout": KEY}, x[:2], True)
    params, extra = variables["params"], {k: v for k, v in variables.items() if k != "params"}
    plain, kept = step(applied(module), params, extra, x)
    again, less = step(Rematerialised(applied(module)), params, extra, x)
    assert_same(again, plain)
    assert less < at_most * kept


def chain(params: Any, extra: Any, x: Any, rng: Any, train: bool) -> Any:
    for w in params:
        x = jnp.tanh(x @ w)
    return x, extra


PARAMS = [jnp.asarray(RNG.normal(size=(32, 32)), np.float32) for _ in range(12)]
X = RNG.normal(size=(256, 32)).astype(np.float32)


def test_what_is_jitted_inside_is_cut_too() -> None:
    plain, kept = step(chain, PARAMS, {}, X)
    inner = jax.jit(chain, static_argnums=4)
    again, less = step(Rematerialised(lambda *a, train: jax.jit(inner, static_argnums=4)(*a, train)), PARAMS, {}, X)  # type: ignore[arg-type]
    assert_same(again, plain)
    assert less < 0.7 * kept


def test_members_of_one_program_are_rematerialised_together() -> None:
    params = jax.tree.map(lambda w: jnp.stack([w, w / 4]), PARAMS)  # larger ones multiply what rounding does
    assert_same(step(Rematerialised(chain), params, {}, X, True)[0], step(chain, params, {}, X, True)[0])


def test_a_gradient_that_is_not_finite_stays_so() -> None:
    params = [*PARAMS[:-1], PARAMS[-1].at[0, 0].set(jnp.nan)]
    (_, gradients), _ = step(Rematerialised(chain), params, {}, X)
    assert not all(bool(jnp.isfinite(g).all()) for g in gradients)


def test_outside_of_training_the_model_is_called_as_it_is() -> None:
    seen: list[bool] = []

    def apply(params: Any, extra: Any, x: Any, rng: Any, train: bool) -> Any:
        seen.append(isinstance(x, jax.core.Tracer))
        return x, extra

    Rematerialised(apply)([], {}, X, KEY, False)
    Rematerialised(apply)([], {}, X, KEY, True)
    assert seen == [False, True]


def test_a_model_that_prints_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    def apply(params: Any, extra: Any, x: Any, rng: Any, train: bool) -> Any:
        jax.debug.print("here")
        return chain(params, extra, x, rng, train)

    (value, _), _ = step(Rematerialised(apply), PARAMS, {}, X)
    jax.effects_barrier()
    jax.block_until_ready(value)
    assert capsys.readouterr().out.count("here") == 1
    assert_same(value, step(chain, PARAMS, {}, X)[0][0])


def test_inputs_that_are_no_floats_and_parts_without_gradient_are_no_hindrance() -> None:
    def apply(params: Any, extra: Any, x: Any, rng: Any, train: bool) -> Any:
        h = jnp.where(x["mask"][:, None], params["table"][x["tokens"]], 0.0)
        count = extra["count"] + x["tokens"].size
        for _ in range(6):
            kept = jax.random.bernoulli(jax.random.fold_in(rng, count), 0.9, h.shape)
            order = jnp.argsort(h.sum(axis=1))
            h = jnp.tanh(jnp.where(kept, h, 0)[order] @ params["w"])
        return h, {"count": count}

    params = {"table": PARAMS[0], "w": PARAMS[1]}
    x = {"tokens": RNG.integers(32, size=128), "mask": RNG.random(128) < 0.5}
    arguments = params, {"count": jnp.asarray(0)}, x
    assert_same(step(Rematerialised(apply), *arguments)[0], step(apply, *arguments)[0])
