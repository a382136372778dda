"""Starting from other parameters, and leaving some as they are."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import equinox as eqx
import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training.train_state import TrainState

from dlfb_lab.errors import OptionError
from dlfb_lab.models.paths import named_leaves
from dlfb_lab.models.transfer import freeze, frozen_labels, transfer

ENCODER = {"Dense_0": {"kernel": np.full((3, 8), 2.0), "bias": np.full(8, 3.0)}}


def params() -> dict[str, Any]:
    return {
        "encoder": {"Dense_0": {"kernel": jnp.zeros((3, 8)), "bias": jnp.zeros(8)}},
        "head": {"kernel": jnp.zeros((8, 2)), "bias": jnp.zeros(2)},
    }


def given() -> dict[str, Any]:
    return {"encoder": ENCODER, "head": {"kernel": np.ones((8, 5)), "scale": np.ones(2)}}


def state_of(tree: Any) -> TrainState:
    return TrainState.create(apply_fn=None, params=tree, tx=optax.sgd(0.1))


def test_parameters_are_matched_by_name_and_shape_and_the_rest_is_listed() -> None:
    new, moved = transfer(given(), params())
    assert moved.taken == ("encoder/Dense_0/bias", "encoder/Dense_0/kernel")
    assert moved.missing == ("head/bias",) and moved.extra == ("head/scale",)
    assert moved.other_shape == {"head/kernel": ((8, 5), (8, 2))}
    assert float(new["encoder"]["Dense_0"]["kernel"].sum()) == 48 and not np.any(new["head"]["kernel"])
    assert moved.text == (
        "2 of 4 parameter arrays start from the given values. Of the rest, head/kernel ((8, 5) there, (8, 2) here) "
        "have other shapes; head/bias are not there; head/scale are not used."
    )
    assert jax.tree.structure(new) == jax.tree.structure(params())


def test_what_fits_entirely_is_said_in_one_sentence() -> None:
    assert transfer(params(), params())[1].text == "4 of 4 parameter arrays start from the given values."


@pytest.mark.parametrize(
    "wrap",
    [
        lambda tree: {"params": tree, "batch_stats": {"mean": np.ones(3)}},
        lambda tree: flax.core.freeze({"params": tree}),
        state_of,
        lambda tree: state_of({"params": tree}),
        lambda tree: SimpleNamespace(params=tree),
        flax.core.freeze,
    ],
)
def test_parameters_are_found_in_what_holds_them(wrap: Any) -> None:
    new, moved = transfer(wrap(given()), params())
    assert len(moved.taken) == 2 and moved.extra == ("head/scale",)
    new, _ = transfer(given(), {"params": params()})
    assert float(new["params"]["encoder"]["Dense_0"]["bias"].sum()) == 24


def test_dtypes_are_the_models_own_and_arrays_are_copies() -> None:
    source = {"w": jnp.arange(3.0), "n": np.arange(3, dtype=np.float64)}
    new, _ = transfer(source, {"w": jnp.zeros(3, jnp.bfloat16), "n": jnp.zeros(3)})
    assert (new["w"].dtype, new["n"].dtype) == (jnp.bfloat16, jnp.float32)
    again, _ = transfer(source, source)
    assert again["w"].unsafe_buffer_pointer() != source["w"].unsafe_buffer_pointer()


def test_nothing_in_common_is_refused_with_both_sides() -> None:
    with pytest.raises(OptionError, match=r"It has a/w \(2,\); the model has b/w \(2,\)"):
        transfer({"a": {"w": np.ones(2)}}, {"b": {"w": np.ones(2)}})
    with pytest.raises(OptionError, match=r"It has no arrays"):
        transfer("run-1", {"b": {"w": np.ones(2)}})


def test_nnx_and_equinox_modules_give_their_parameters() -> None:
    first, second = nnx.Linear(3, 2, rngs=nnx.Rngs(0)), nnx.Linear(3, 2, rngs=nnx.Rngs(1))
    for source in (first, nnx.state(first)):
        new, moved = transfer(source, nnx.state(second, nnx.Param))
        assert set(moved.taken) == {"bias", "kernel"} and not moved.extra
        np.testing.assert_array_equal(new["kernel"][...], first.kernel[...])
    linen = {"kernel": np.asarray(first.kernel[...])}
    assert transfer(linen, nnx.state(second))[1].missing == ("bias",)
    one, two = (eqx.nn.MLP(2, 2, 4, 1, key=jax.random.key(i)) for i in (0, 1))
    module, moved = transfer(one, two)
    assert moved.taken[0] == "layers/0/weight" and len(moved.taken) == 4 and not moved.missing
    np.testing.assert_array_equal(module.layers[1].weight, one.layers[1].weight)
    assert module.activation is two.activation


@pytest.mark.parametrize(
    ("patterns", "frozen"),
    [
        ("encoder", ["encoder/Dense_0/bias", "encoder/Dense_0/kernel"]),
        ("encoder/*", ["encoder/Dense_0/bias", "encoder/Dense_0/kernel"]),
        ("params/encoder/", ["encoder/Dense_0/bias", "encoder/Dense_0/kernel"]),
        ("enc*", ["encoder/Dense_0/bias", "encoder/Dense_0/kernel"]),
        ("*/bias", ["encoder/Dense_0/bias", "head/bias"]),
        ("encoder/Dense_0/kernel", ["encoder/Dense_0/kernel"]),
        (["*/kernel", "head/bias"], ["encoder/Dense_0/kernel", "head/bias", "head/kernel"]),
        ("*/kernel, head/bias", ["encoder/Dense_0/kernel", "head/bias", "head/kernel"]),
    ],
)
def test_patterns_name_what_is_frozen(patterns: Any, frozen: list[str]) -> None:
    for tree, prefix in ((params(), ""), ({"params": params()}, "params/")):
        labels = frozen_labels(tree, patterns)
        assert [name for name, label in named_leaves(labels) if label] == [prefix + name for name in frozen]
        assert jax.tree.structure(labels) == jax.tree.structure(tree)


def test_patterns_that_cannot_be_meant_are_refused() -> None:
    with pytest.raises(OptionError, match=r"no parameter is called so.*Did you mean `encoder`\?"):
        frozen_labels(params(), "encodr/*")
    with pytest.raises(OptionError, match=r"--freeze nothing: .*encoder/Dense_0/bias \(8,\)"):
        frozen_labels(params(), ["head", "nothing"])
    with pytest.raises(OptionError, match=r"--freeze encoder,head: that is every parameter"):
        frozen_labels(params(), ["encoder", "head"])


def test_frozen_parameters_stay_exactly_as_they_are() -> None:
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x: Any) -> Any:
            return nn.Dense(1, name="head")(nn.Dense(4, name="encoder")(x))

    model = Net()
    x = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)
    start = model.init(jax.random.key(0), x)["params"]
    optimizer = freeze(optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(0.1, weight_decay=0.5)), "encoder")
    state = optimizer.init(start)
    sizes = sorted(np.shape(a) for a in jax.tree.leaves(state))
    assert sizes == sorted([(), *[np.shape(a) for a in jax.tree.leaves(start["head"])] * 2])

    @jax.jit
    def step(params: Any, state: Any) -> Any:
        gradients = jax.grad(lambda p: (model.apply({"params": p}, x) ** 2).mean())(params)
        gradients["encoder"] = jax.tree.map(lambda a: a * jnp.nan, gradients["encoder"])
        updates, state = optimizer.update(gradients, state, params, value=0.0)
        return optax.apply_updates(params, updates), state, updates

    trained = start
    for _ in range(3):
        trained, state, updates = step(trained, state)
        assert not any(np.any(a) for a in jax.tree.leaves(updates["encoder"]))
    jax.tree.map(np.testing.assert_array_equal, trained["encoder"], start["encoder"])
    assert np.isfinite(trained["head"]["kernel"]).all() and np.any(trained["head"]["kernel"] != start["head"]["kernel"])


def test_a_pattern_is_looked_up_when_the_state_is_made() -> None:
    optimizer = freeze(optax.sgd(0.1), "nothing")
    with pytest.raises(OptionError, match="--freeze nothing"):
        optimizer.init(params())


def test_nnx_parameters_can_be_frozen() -> None:
    class Net(nnx.Module):
        def __init__(self) -> None:
            self.encoder = nnx.Linear(2, 2, rngs=nnx.Rngs(0))
            self.head = nnx.Linear(2, 1, rngs=nnx.Rngs(1))

    start = nnx.state(Net(), nnx.Param)
    optimizer = freeze(optax.adam(0.1), "encoder")
    updates, _ = optimizer.update(jax.tree.map(jnp.ones_like, start), optimizer.init(start), start)
    assert not np.any(updates["encoder"]["kernel"][...]) and np.all(updates["head"]["kernel"][...])
