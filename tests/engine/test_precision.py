"""Precision and rematerialisation: models with something around their function."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlfb_lab.engine.precision import notice, with_precision
from dlfb_lab.engine.remat import with_remat
from dlfb_lab.errors import OptionError
from dlfb_lab.models import function, linen

X = np.random.default_rng(0).normal(size=(64, 16)).astype(np.float32)
KEY = jax.random.key(0)


class Net(nn.Module):
    """Statistics, dropout, and a residual stream."""

    layers: int = 4

    @nn.compact
    def __call__(self, x: Any, train: bool) -> Any:
        x = nn.Dense(32)(x)
        for _ in range(self.layers):
            y = nn.gelu(nn.Dense(64)(nn.BatchNorm(use_running_average=not train)(x)))
            x = x + nn.Dense(32)(nn.Dropout(0.2, deterministic=not train)(y))
        return nn.Dense(3)(x)


def net(layers: int = 4) -> Any:
    model = linen.adapt(Net(layers))
    assert model is not None
    return model


def gradient(model: Any, x: Any = X) -> Any:
    """Returns loss, statistics and gradients of one training step, and the memory its program takes in between."""
    params, extra, _ = model.start(KEY, x[:1])

    def loss(params: Any) -> Any:
        outputs, after = model.apply(params, extra, x, jax.random.key(1), True)
        return (outputs**2).mean(), (outputs, after)

    program = jax.jit(jax.value_and_grad(loss, has_aux=True)).lower(params).compile()
    return program(params), program.memory_analysis().temp_size_in_bytes


def assert_near(a: Any, b: Any, part: float) -> None:
    """Fails if leaves differ in dtype, or by more than a part of the largest value."""
    for u, v in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert u.dtype == v.dtype
        assert float(jnp.abs(u - v).max()) <= part * float(jnp.abs(v).max()) + 1e-8


def test_mixed_precision_gives_nearly_the_same_numbers_in_the_same_dtypes() -> None:
    model = net()
    plain, _ = gradient(model)
    mixed, _ = gradient(with_precision(model, "bf16"))
    assert_near(mixed, plain, 0.1)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(mixed))
    difference = jnp.abs(mixed[0][1][0] - plain[0][1][0]).max()
    assert float(difference) > 1e-4, "computed in bfloat16"


def test_in_mixed_precision_products_are_of_bfloat16() -> None:
    model = with_precision(net(), "BF16")
    params, extra, _ = model.start(KEY, X[:1])
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves((params, extra)))
    text = str(jax.make_jaxpr(lambda p: model.apply(p, extra, X, KEY, False))(params))
    products = [line for line in text.splitlines() if "dot_general" in line]
    assert products
    assert all(":bf16" in line.split("=")[0] for line in products)


def test_statistics_keep_their_digits_in_mixed_precision() -> None:
    def counting(params: Any, extra: Any, x: Any, rng: Any, train: bool) -> Any:
        return x * params, {"mean": extra["mean"] * 0.999 + 0.001 * x.mean().astype(np.float32)}

    model = with_precision(SimpleNamespace(apply=counting, key="counting"), "bf16")  # type: ignore[arg-type]
    extra = {"mean": jnp.asarray(1.2345678)}
    _, after = model.apply(jnp.ones(()), extra, jnp.zeros(3), KEY, True)
    np.testing.assert_allclose(after["mean"], 1.2345678 * 0.999, rtol=1e-6)


def test_what_are_no_32_bit_floats_is_left_alone() -> None:
    def keeping(params: Any, extra: Any, x: Any, rng: Any, train: bool) -> Any:
        return x, extra

    model = with_precision(SimpleNamespace(apply=keeping, key="keeping"), "bf16")  # type: ignore[arg-type]
    x = {"tokens": np.arange(3), "half": np.ones(3, np.float16), "key": KEY, "mask": np.array([True])}
    outputs, _ = model.apply(jnp.ones(()), {}, x, KEY, True)
    for name, given in x.items():
        assert outputs[name].dtype == given.dtype


@pytest.mark.parametrize(("kind", "said"), [("tf32", "[HIGH, HIGH]"), ("f32", "[HIGHEST, HIGHEST]")])
def test_products_have_the_precision_in_the_gradient_too(kind: str, said: str) -> None:
    model = with_precision(net(), kind)
    params, extra, _ = model.start(KEY, X[:1])

    def loss(params: Any) -> Any:
        return (model.apply(params, extra, X, KEY, True)[0] ** 2).mean()

    text = str(jax.jit(jax.grad(loss)).lower(params).as_text())
    products = [line for line in text.splitlines() if "dot_general" in line]
    assert len(products) > 10
    assert all(said in line for line in products)
    assert jax.config.jax_default_matmul_precision is None  # type: ignore[attr-defined]
    assert_near(gradient(model)[0], gradient(net())[0], 1e-5)


def test_everything_else_is_the_models_own() -> None:
    model = net()
    wrapped = with_remat(with_precision(model, "bf16"))
    assert (wrapped.kind, wrapped.name, wrapped.given, wrapped.optimizer) == ("linen", "Net", False, None)
    keys = {model.key, with_precision(model, "bf16").key, with_precision(model, "f32").key, with_remat(model).key}
    assert len(keys) == 4
    assert with_precision(net(), "bf16").key == with_precision(net(), "bf16").key
    assert with_precision(model, None) is model
    assert copy.copy(wrapped).name == "Net"
    params = {"w": jnp.ones((2, 2))}
    given = with_remat(function.adapt((lambda params, x: x @ params["w"], params)))  # type: ignore[arg-type]
    assert given.finish(params, {}, None, 3).step == 3


@pytest.mark.parametrize(("kind", "said"), [("fp16", "fp16"), ("bf", "Did you mean `bf16`"), (16, "16: there is no")])
def test_what_is_no_precision_is_refused(kind: Any, said: str) -> None:
    with pytest.raises(OptionError, match=f"--precision {said}|{said}.*Known: bf16, tf32, f32"):
        with_precision(net(), kind)


def test_what_a_device_does_not_do_is_said() -> None:
    cpu = SimpleNamespace(platform="cpu", device_kind="cpu")
    old, new, other = (
        SimpleNamespace(platform="gpu", device_kind="GPU", compute_capability=c) for c in ("7.5", "9.0", "gfx90a")
    )
    assert notice("tf32", cpu) == (
        "This device (cpu, cpu) knows no TF32; matrix products are computed in its usual precision."
    )
    assert "bfloat16" in (notice("bf16", cpu) or "")
    assert [notice("tf32", device) is None for device in (old, new, other)] == [False, True, False]
    assert notice("bf16", new) is notice("f32", cpu) is notice(None) is None
