"""Flax nnx modules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import dlfb_lab
from dlfb_lab import models
from dlfb_lab.errors import ModelError
from dlfb_lab.events import Compilation


class Net(nnx.Module):
    def __init__(self, seed: int = 0, width: int = 8, rate: float = 0.5) -> None:
        rngs = nnx.Rngs(seed)
        self.first, self.last = nnx.Linear(3, width, rngs=rngs), nnx.Linear(width, 1, rngs=rngs)
        self.norm = nnx.BatchNorm(width, momentum=0.5, rngs=rngs)
        self.dropout = nnx.Dropout(rate, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.last(self.dropout(activation(self.norm(self.first(x)))))


def activation(x: jax.Array) -> jax.Array:
    return jnp.tanh(x)


def values(module: nnx.Module) -> list[np.ndarray]:
    return [
        np.asarray(jax.random.key_data(a) if jnp.issubdtype(a.dtype, jax.dtypes.prng_key) else a)
        for a in jax.tree.leaves(nnx.state(module))
    ]


def test_it_learns(learn: Any) -> None:
    model = models.adapt(Net(rate=0.1))
    assert (model.kind, model.name, model.given) == ("nnx", "Net", True)
    losses = learn(model, 150).losses
    assert losses[-5:].mean() < 0.1 * losses[0]


def test_dropout_differs_by_step_repeats_with_the_seed_and_is_off_in_evaluation(learn: Any, xy: Any) -> None:
    model = models.adapt(Net())
    params, extra, _ = model.start(jax.random.key(0), xy[0])
    keys = jax.random.key(1), jax.random.key(2)
    trained = [model.apply(params, extra, xy[0], key, True)[0] for key in (*keys, keys[0])]
    assert not np.allclose(trained[0], trained[1])
    np.testing.assert_array_equal(trained[0], trained[2])
    np.testing.assert_array_equal(*(model.apply(params, extra, xy[0], key, False)[0] for key in keys))
    np.testing.assert_array_equal(learn(model).losses, learn(model).losses)
    assert not np.array_equal(learn(model).losses, learn(model, seed=1).losses)


def test_batch_statistics_move_in_training_alone(xy: Any) -> None:
    model = models.adapt(Net())
    params, extra, _ = model.start(jax.random.key(0), xy[0])
    assert jax.tree.map(jnp.shape, extra) == {"norm": {"mean": (8,), "var": (8,)}}, "and no random streams"
    _, after = model.apply(params, extra, xy[0], jax.random.key(0), True)
    hidden = xy[0] @ params["first"]["kernel"] + params["first"]["bias"]
    np.testing.assert_allclose(after["norm"]["mean"], 0.5 * hidden.mean(0), rtol=1e-4, atol=1e-6)
    _, evaluated = model.apply(params, after, xy[0], jax.random.key(0), False)
    jax.tree.map(np.testing.assert_array_equal, evaluated, after)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_the_users_module_is_left_alone_and_trained_at_the_end(mode: str, learn: Any, xy: Any) -> None:
    module = Net()
    getattr(module, mode)()
    before = values(module)
    model = models.adapt(module)
    learned = learn(model)
    for a, b in zip(values(module), before, strict=True):
        np.testing.assert_array_equal(a, b)
    assert module.dropout.deterministic is (mode == "eval")
    trained = model.finish(learned.params, learned.extra, None, 5)
    assert trained is module
    assert module.dropout.deterministic is (mode == "eval")
    outputs, _ = model.apply(learned.params, learned.extra, xy[0], jax.random.key(0), False)
    module.eval()
    np.testing.assert_allclose(module(xy[0]), outputs, rtol=1e-5)
    again = models.adapt(module).start(jax.random.key(0), xy[0])[0]
    jax.tree.map(np.testing.assert_array_equal, again, learned.params)


def test_modules_made_alike_have_equal_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    key = models.adapt(Net()).key
    assert models.adapt(Net(seed=1)).key == key
    assert hash(models.adapt(Net(seed=1)).key) == hash(key)
    assert models.adapt(Net(width=4)).key != key
    assert models.adapt(Net(rate=0.2)).key != key
    monkeypatch.setitem(globals(), "activation", lambda x: x)
    assert models.adapt(Net()).key != key


def test_a_class_of_a_cell_run_again_counts_by_its_code() -> None:
    cell = "class Net(nnx.Module):\n    def __init__(self):\n        self.w = nnx.Param(jnp.ones((3, 1)))\n"

    def run(call: str) -> Any:
        names: dict[str, Any] = {"nnx": nnx, "jnp": jnp, "__name__": "__main__"}
        exec(cell + f"    @nnx.jit\n    def helper(self, x):\n        return {call}\n    def __call__(self, x):\n"
             "        return self.helper(x)\n", names)  # fmt: skip
        return models.adapt(names["Net"]()).key[2]

    assert run("x @ self.w") == run("x @ self.w")
    assert run("x @ self.w") != run("2 * x @ self.w")


class Tied(nnx.Module):
    def __init__(self) -> None:
        self.there, self.back = (nnx.Linear(3, 3, use_bias=False, rngs=nnx.Rngs(i)) for i in range(2))
        self.back.kernel = self.there.kernel
        self.head = nnx.Linear(3, 1, rngs=nnx.Rngs(2))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.head(self.back(self.there(x)))


def test_tied_parameters_are_one_and_stay_tied(learn: Any, xy: Any) -> None:
    module = Tied()
    model = models.adapt(module)
    learned = learn(model)
    assert len(jax.tree.leaves(learned.params)) == 3
    model.finish(learned.params, learned.extra, None, 5)
    assert module.back.kernel is module.there.kernel
    np.testing.assert_allclose(
        module(xy[0]), model.apply(learned.params, {}, xy[0], jax.random.key(0), False)[0], rtol=1e-6
    )


class Flagged(nnx.Module):
    def __init__(self) -> None:
        self.dense = nnx.Linear(3, 1, rngs=nnx.Rngs(0))

    def __call__(self, x: jax.Array, *, deterministic: bool) -> jax.Array:
        return self.dense(x) + 1000.0 * (not deterministic)


def test_a_module_is_told_whether_it_trains(xy: Any) -> None:
    model = models.adapt(Flagged())
    params, extra, _ = model.start(jax.random.key(0), xy[0])
    outputs = [model.apply(params, extra, xy[0], jax.random.key(0), train)[0] for train in (True, False)]
    np.testing.assert_allclose(outputs[0] - outputs[1], 1000, rtol=1e-3)


class Counts(nnx.Module):
    def __init__(self) -> None:
        self.dense = nnx.Linear(3, 1, rngs=nnx.Rngs(0))
        self.calls = nnx.Variable(jnp.zeros((), jnp.int32))
        self.noise = nnx.Rngs(noise=0).noise.split(3)

    def __call__(self, x: jax.Array) -> jax.Array:
        self.calls[...] += 1
        self.sow(nnx.Intermediate, "seen", x)
        keys = jax.vmap(lambda stream: stream())(self.noise)
        return self.dense(x) + 100 * jax.vmap(jax.random.normal)(keys).sum()


@pytest.mark.filterwarnings("ignore:Using 'Module.sow:DeprecationWarning")
def test_variables_of_the_users_own_streams_of_any_shape_and_sown_values(learn: Any, xy: Any) -> None:
    module = Counts()
    learned = learn(models.adapt(module))
    assert learned.extra["calls"] == 5
    assert set(learned.extra) == {"calls"}
    assert len(set(learned.losses)) == 5
    assert module.calls[...] == 0
    module(xy[0])  # leaves what it sows in the module
    assert set(learn(models.adapt(module)).extra) == {"calls"}


class Whole(nnx.Module):
    def __init__(self) -> None:
        self.n = nnx.Param(jnp.arange(3))

    def __call__(self, x: jax.Array) -> jax.Array:
        return x


class Silent(nnx.Module):
    def __init__(self) -> None:
        self.w = nnx.Param(jnp.ones(3))


class Empty(nnx.Module):
    def __call__(self, x: jax.Array) -> jax.Array:
        return x


def test_what_cannot_be_trained_is_refused() -> None:
    module = Net()
    optimizer = nnx.Optimizer(module, optax.adam(0.1), wrt=nnx.Param)
    for model, said in (
        (Net, r"`Net` is a class, not a model. Make one: Net\(…, rngs=nnx.Rngs\(0\)\)"),
        ((module, optimizer), "An nnx module is given alone.*--optimizer"),
        (optimizer, "An nnx module is given alone"),
        (Whole(), "nnx.Param of int32 values.*nnx.Variable"),
        (Silent(), r"has no __call__"),
        (Empty(), "has no nnx.Param; there is nothing to train"),
    ):
        with pytest.raises(ModelError, match=said):
            models.adapt(model)


def test_a_run_trains_the_users_module_and_a_second_compiles_nothing(tmp_path: Path, xy: Any) -> None:
    x, y = xy[0], xy[1][:, 0]
    for again in (False, True):
        module = Net(seed=int(again), rate=0.1)
        run = dlfb_lab.train(module, (x, y), epochs=20, valid=0.25, lr=0.05, batch_size=8, store=tmp_path)
        assert run.history["valid/loss"].dropna().iloc[-1] < 0.3 * run.history["valid/loss"].dropna().iloc[0]
        assert bool([e for e in run.record.events if isinstance(e, Compilation)]) is not again
        assert run.state is module
        module.eval()
        np.testing.assert_allclose(module(x)[:, 0], run.predict(x), rtol=1e-4, atol=1e-5)
