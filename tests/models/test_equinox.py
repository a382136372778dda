"""Equinox modules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dlfb_lab
from dlfb_lab import models
from dlfb_lab.errors import ModelError
from dlfb_lab.events import Compilation

KEY = jax.random.key(0)


class Net(eqx.Module):
    first: eqx.nn.Linear
    last: eqx.nn.Linear
    dropout: eqx.nn.Dropout

    def __init__(self, seed: int = 0, width: int = 8, rate: float = 0.5) -> None:
        keys = jax.random.split(jax.random.key(seed))
        self.first, self.last = eqx.nn.Linear(3, width, key=keys[0]), eqx.nn.Linear(width, 1, key=keys[1])
        self.dropout = eqx.nn.Dropout(rate)

    def __call__(self, x: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        return self.last(self.dropout(activation(self.first(x)), key=key))


def activation(x: jax.Array) -> jax.Array:
    return jnp.tanh(x)


class Normed(eqx.Module):
    first: eqx.nn.Linear
    norm: eqx.nn.BatchNorm
    last: eqx.nn.Linear

    def __init__(self, axis: str = "batch") -> None:
        keys = jax.random.split(KEY)
        self.first, self.last = eqx.nn.Linear(3, 8, key=keys[0]), eqx.nn.Linear(8, 1, key=keys[1])
        self.norm = eqx.nn.BatchNorm(8, axis, momentum=0.5, mode="ema")

    def __call__(self, x: jax.Array, state: eqx.nn.State) -> tuple[jax.Array, eqx.nn.State]:
        x, state = self.norm(self.first(x), state)
        return self.last(x), state


def started(model: Any, x: Any) -> tuple[Any, Any]:
    params, extra, opt_state = model.start(KEY, x)
    assert opt_state is None
    return params, extra


def test_it_learns(learn: Any) -> None:
    model = models.adapt(Net(rate=0.1))
    assert (model.kind, model.name, model.given) == ("equinox", "Net", True)
    losses = learn(model, 150).losses
    assert losses[-5:].mean() < 0.1 * losses[0]


def test_every_row_of_every_step_has_a_key_of_its_own_and_evaluation_none(learn: Any) -> None:
    model = models.adapt(Net())
    same = np.ones((6, 3), np.float32)
    params, extra = started(model, same)
    keys = jax.random.key(1), jax.random.key(2)
    trained = [np.asarray(model.apply(params, extra, same, key, True)[0]) for key in (*keys, keys[0])]
    assert len(np.unique(trained[0])) > 1
    assert not np.allclose(trained[0], trained[1])
    np.testing.assert_array_equal(trained[0], trained[2])
    evaluated = np.asarray(model.apply(params, extra, same, keys[0], False)[0])
    assert len(np.unique(evaluated)) == 1
    np.testing.assert_array_equal(learn(model).losses, learn(model).losses)
    assert not np.array_equal(learn(model).losses, learn(model, seed=1).losses)


def test_the_users_module_is_left_alone_and_another_returned(learn: Any, xy: Any) -> None:
    for mode in (False, True):
        module = eqx.nn.inference_mode(Net(), value=mode)
        before = [np.array(a) for a in jax.tree.leaves(module)]
        model = models.adapt(module)
        learned = learn(model)
        assert len(set(learned.losses)) == 5
        trained = model.finish(learned.params, learned.extra, None, 5)
        jax.tree.map(np.testing.assert_array_equal, before, [np.array(a) for a in jax.tree.leaves(module)])
        assert isinstance(trained, Net)
        assert trained.dropout.inference is mode
        outputs, _ = model.apply(learned.params, learned.extra, xy[0], KEY, False)
        np.testing.assert_allclose(jax.vmap(eqx.nn.inference_mode(trained))(xy[0]), outputs, rtol=1e-5)


@pytest.mark.parametrize("axis", ["batch", "rows"])
def test_a_state_moves_in_training_alone_and_comes_back_with_the_module(axis: str, learn: Any, xy: Any) -> None:
    module, state = eqx.nn.make_with_state(Normed)(axis)
    model = models.adapt((module, state))
    params, extra = started(model, xy[0])
    _, after = model.apply(params, extra, xy[0], KEY, True)
    hidden = jax.vmap(module.first)(xy[0])
    mean, _ = after["state"].get(module.norm.ema_state_index)
    np.testing.assert_allclose(mean, hidden.mean(0), rtol=1e-4, atol=1e-6)
    _, evaluated = model.apply(params, after, xy[0], KEY, False)
    jax.tree.map(np.testing.assert_array_equal, evaluated, after)
    assert bool(state.get(module.norm.ema_first_time_index)), "the user's own is as it was"

    learned = learn(model, 150)
    assert learned.losses[-1] < 0.1 * learned.losses[0]
    trained, trained_state = model.finish(learned.params, learned.extra, None, 150)
    outputs, _ = model.apply(learned.params, learned.extra, xy[0], KEY, False)
    own, _ = jax.vmap(eqx.nn.inference_mode(trained), in_axes=(0, None), out_axes=(0, None), axis_name=axis)(
        xy[0], trained_state
    )
    np.testing.assert_allclose(own, outputs, rtol=1e-5)


class OfBatches(eqx.Module):
    w: jax.Array

    def __init__(self) -> None:
        self.w = jnp.ones((3, 1))

    def __call__(self, x: jax.Array) -> jax.Array:
        rows, _ = x.shape
        return x @ self.w + rows


class OfAnything(OfBatches):
    def __call__(self, x: jax.Array) -> jax.Array:
        return x @ self.w + x.ndim


def test_what_a_module_takes_is_found_out_and_said(xy: Any) -> None:
    for module, added, said in (
        (OfBatches(), 24, "OfBatches does not take one example, and is called with whole batches"),
        (OfAnything(), 1, r"OfAnything takes one example as well as a batch. It is called with one at a time"),
    ):
        model = models.adapt(module)
        params, extra = started(model, xy[0])
        for train in (True, False):
            outputs, _ = model.apply(params, extra, xy[0], KEY, train)
            np.testing.assert_allclose(outputs, xy[0].sum(1, keepdims=True) + added, rtol=1e-5)
        (notice,) = model.notices_on(xy[0][:2])
        assert said in notice
    assert models.adapt(Net()).notices_on(xy[0][:1]) == ()


def test_a_module_that_takes_neither_is_refused_with_its_own_error(xy: Any) -> None:
    model = models.adapt(eqx.nn.MLP(4, 1, 8, 1, key=KEY))
    params, extra = started(model, xy[0])
    with pytest.raises(ModelError, match=r"one example of shape \(3,\), and on a batch of shape \(24, 3\): .*shape"):
        model.apply(params, extra, xy[0], KEY, True)


class Told(eqx.Module):
    w: jax.Array
    table: jax.Array

    def __init__(self) -> None:
        self.w, self.table = jnp.ones((3, 1)), jnp.arange(3)

    def __call__(self, x: jax.Array, key: jax.Array, *, inference: bool) -> jax.Array:
        return x[self.table] @ self.w + jax.random.normal(key) + 1000.0 * (not inference)


def test_flags_constants_and_keys_that_evaluation_cannot_do_without(learn: Any, xy: Any) -> None:
    module = Told()
    model = models.adapt(module)
    params, extra = started(model, xy[0])
    assert set(extra) == {"constants"}
    outputs = [model.apply(params, extra, xy[0], KEY, train)[0] for train in (True, False)]
    np.testing.assert_allclose(outputs[0] - outputs[1], 1000, rtol=1e-3)
    learned = learn(model)
    trained = model.finish(learned.params, learned.extra, None, 5)
    np.testing.assert_array_equal(trained.table, [0, 1, 2])
    other = eqx.tree_at(lambda m: m.table, module, jnp.array([2, 1, 0]))
    assert models.adapt(other).key == model.key, "what is an argument of the program is no part of its key"


def test_layers_in_a_row_are_called_like_any_module(learn: Any) -> None:
    keys = jax.random.split(KEY)
    row = [eqx.nn.Linear(3, 8, key=keys[0]), eqx.nn.Lambda(jax.nn.relu), eqx.nn.Dropout(0.1)]
    module = eqx.nn.Sequential([*row, eqx.nn.Linear(8, 1, key=keys[1])])
    losses = learn(models.adapt(module), 100).losses
    assert losses[-5:].mean() < 0.2 * losses[0]
    mlp = eqx.nn.MLP(3, "scalar", 8, 1, key=KEY)
    assert learn(models.adapt(mlp), 100).losses[-1] < 0.2 * losses[0]


def test_modules_made_alike_have_equal_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    key = models.adapt(Net()).key
    assert models.adapt(Net(seed=1)).key == key
    assert hash(models.adapt(Net(seed=1)).key) == hash(key)
    assert models.adapt(Net(width=4)).key != key
    assert models.adapt(Net(rate=0.2)).key != key
    assert models.adapt(eqx.nn.make_with_state(Normed)()).key == models.adapt(eqx.nn.make_with_state(Normed)()).key
    monkeypatch.setitem(globals(), "activation", lambda x: x)
    assert models.adapt(Net()).key != key


def test_a_class_of_a_cell_run_again_counts_by_its_code() -> None:
    def code(call: str) -> Any:
        names: dict[str, Any] = {"eqx": eqx, "jnp": jnp, "jax": jax, "__name__": "__main__"}
        lines = (
            "class Net(eqx.Module):",
            "    w: jax.Array",
            "    @eqx.filter_jit",
            f"    def helper(self, x): return {call}",
            "    def __call__(self, x): return self.helper(x)",
            "net = Net(jnp.ones((3, 1)))",
        )
        exec("\n".join(lines), names)
        return models.adapt(names["net"]).key[2]

    assert code("x @ self.w") == code("x @ self.w")
    assert code("x @ self.w") != code("2 * x @ self.w")


class Silent(eqx.Module):
    w: jax.Array


class Empty(eqx.Module):
    def __call__(self, x: jax.Array) -> jax.Array:
        return x


def test_what_cannot_be_trained_is_refused() -> None:
    for model, said in (
        (Net, r"`Net` is a class, not a model. Make one: Net\(…\)"),
        (eqx.nn.make_with_state(Normed)()[0], r"Normed has layers that keep a state. Give \(model, state\), as eqx.nn"),
        (Silent(jnp.ones(3)), "has no __call__"),
        (Empty(), "Empty holds no arrays of floats; there is nothing to train"),
    ):
        with pytest.raises(ModelError, match=said):
            models.adapt(model)


def test_a_run_trains_a_copy_and_a_second_compiles_nothing(tmp_path: Path, xy: Any) -> None:
    x, y = xy[0], xy[1][:, 0]
    for again in (False, True):
        module = Net(seed=int(again), rate=0.1)
        run = dlfb_lab.train(module, (x, y), epochs=20, valid=0.25, lr=0.05, batch_size=8, store=tmp_path)
        assert run.history["valid/loss"].dropna().iloc[-1] < 0.3 * run.history["valid/loss"].dropna().iloc[0]
        assert bool([e for e in run.record.events if isinstance(e, Compilation)]) is not again
        own = jax.vmap(eqx.nn.inference_mode(run.state))(x)[:, 0]
        np.testing.assert_allclose(own, run.predict(x), rtol=1e-4, atol=1e-5)
