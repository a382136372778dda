"""Each kind of model: what it is called with, and what is left of it after training."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.training.train_state import TrainState

import dlfb_lab
from dlfb_lab import models
from dlfb_lab.errors import ModelError
from dlfb_lab.models.function import FunctionState
from dlfb_lab.models.linen import LinenState
from dlfb_lab.run import Run

TINY = optax.sgd(1e-12)
RNG = np.random.default_rng(0)
X = RNG.normal(size=(24, 3)).astype(np.float32)
Y = X[:, 0].astype(np.float32)


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DLFB_STORE", str(tmp_path))


def train(model: Any, **options: Any) -> Run:
    return dlfb_lab.train(model, (X, Y), **{"steps": 2, "batch_size": "full", **options})


class Train(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        return nn.Dense(1)(x) + 1000.0 * train


class Training(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array, *, training: bool = False) -> jax.Array:
        return nn.Dense(1)(x) + 1000.0 * training


class Deterministic(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array, deterministic: bool) -> jax.Array:
        return nn.Dense(1)(x) + 1000.0 * (not deterministic)


class RunningAverage(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array, use_running_average: bool = True) -> jax.Array:
        return nn.Dense(1)(x) + 1000.0 * (not use_running_average)


FLAGGED = [Train(), Training(), Deterministic(), RunningAverage()]


@pytest.mark.parametrize("model", FLAGGED, ids=lambda m: type(m).__name__)
def test_a_module_is_told_whether_it_trains(model: Any) -> None:
    run = train(model, valid=0.25)
    assert run.history["train/loss"][0] > 5e5
    assert run.history["valid/loss"].dropna().max() < 1e3
    assert np.abs(run.predict(X)).max() < 100


def test_a_train_state_is_told_too() -> None:
    model = Deterministic()
    params = model.init(jax.random.key(0), X, deterministic=True)["params"]
    run = train(TrainState.create(apply_fn=model.apply, params=params, tx=optax.adam(0.01)))
    assert run.history["train/loss"][0] > 5e5
    assert np.abs(run.predict(X)).max() < 100


def handed_on(module: nn.Module) -> Any:
    @functools.wraps(module.apply)
    def apply(variables: Any, x: jax.Array, **arguments: Any) -> Any:
        return module.apply(variables, x, **arguments)

    return apply


WRAPPED: dict[str, Callable[[nn.Module], Any]] = {
    "jit": lambda module: jax.jit(module.apply),
    "jit with static flags": lambda module: jax.jit(module.apply, static_argnames=("train", "mutable")),
    "partial": lambda module: functools.partial(module.apply, mutable=["batch_stats"]),
    "partial of jit": lambda module: functools.partial(jax.jit(module.apply), capture_intermediates=False),
    "jit of partial": lambda module: jax.jit(functools.partial(module.apply, method="__call__")),
    "wraps": handed_on,
}


@pytest.mark.parametrize("wrapper", WRAPPED)
def test_a_wrapped_apply_trains_as_the_module_does(wrapper: str) -> None:
    module = DropsOut()
    variables = module.init({"params": jax.random.key(0), "dropout": jax.random.key(1)}, X)

    def trained(apply_fn: Any) -> Run:
        state = StateWithStatistics.create(
            apply_fn=apply_fn, params=variables["params"], tx=TINY, batch_stats=variables["batch_stats"]
        )
        return train(state, valid=0.25)

    run, plain = trained(WRAPPED[wrapper](module)), trained(module.apply)
    np.testing.assert_array_equal(run.history["train/loss"], plain.history["train/loss"])
    np.testing.assert_array_equal(run.history["valid/loss"], plain.history["valid/loss"])
    assert np.any(run.state.batch_stats["BatchNorm_0"]["mean"] != 0)
    assert run.name == "DropsOut"


def test_arguments_that_a_partial_binds_are_kept() -> None:
    module = Deterministic()
    params = module.init(jax.random.key(0), X, deterministic=True)["params"]
    frozen = functools.partial(module.apply, deterministic=True)
    run = train(TrainState.create(apply_fn=frozen, params=params, tx=TINY))
    assert run.history["train/loss"][0] < 1e3


def test_batch_statistics_that_cannot_be_updated_are_refused() -> None:
    module = DropsOut()
    variables = module.init({"params": jax.random.key(0), "dropout": jax.random.key(1)}, X)

    def own(variables: Any, x: jax.Array) -> Any:
        return module.apply(variables, x, train=False)

    wrapper = functools.wraps(module.apply)(lambda variables, x: own(variables, x))
    for apply_fn, said in (
        (own, "`own` takes no argument `mutable`"),
        (wrapper, "`DropsOut` takes no argument `train`"),
    ):
        state = StateWithStatistics.create(
            apply_fn=apply_fn, params=variables["params"], tx=TINY, batch_stats=variables["batch_stats"]
        )
        with pytest.raises(ModelError, match=said + ".*apply_fn=model.apply"):
            train(state)


def test_params_that_are_all_variables_are_refused() -> None:
    module = nn.Dense(1)
    state = TrainState.create(apply_fn=module.apply, params=module.init(jax.random.key(0), X), tx=TINY)
    with pytest.raises(ModelError, match=r'Give params=variables\["params"\]'):
        train(state)


@pytest.mark.parametrize("params", [{"w": np.zeros(3, np.float32)}, np.zeros(3, np.float32)], ids=["dict", "array"])
def test_an_apply_of_params_rather_than_variables_is_told_so(params: Any) -> None:
    def own(params: Any, x: jax.Array) -> jax.Array:
        return x @ params["w"]

    state = TrainState.create(apply_fn=own if isinstance(params, dict) else lambda p, x: x @ p, params=params, tx=TINY)
    with pytest.raises(ModelError, match=r"apply_fn.*is called with \{\"params\": params\} and x.*, params\)"):
        train(state)


class DropsOut(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array, train: bool = True) -> jax.Array:
        x = nn.BatchNorm(use_running_average=not train, momentum=0.5)(x)
        return nn.Dense(1)(nn.Dropout(0.5, deterministic=not train)(x))


class StateWithStatistics(TrainState):
    batch_stats: Any = None


@pytest.fixture(scope="module")
def dropped(tmp_path_factory: pytest.TempPathFactory) -> Run:
    store = tmp_path_factory.mktemp("runs")
    tiny = optax.sgd(1e-12)
    return dlfb_lab.train(DropsOut(), (X, Y), steps=4, batch_size="full", optimizer=tiny, store=store)


def test_every_step_drops_others_and_prediction_drops_none(dropped: Run) -> None:
    losses = dropped.history["train/loss"].to_numpy()
    assert len(set(losses.tolist())) == 4
    np.testing.assert_array_equal(dropped.predict(X), dropped.predict(X))


def test_batch_statistics_are_carried_from_step_to_step(dropped: Run) -> None:
    mean = dropped.state.extra["batch_stats"]["BatchNorm_0"]["mean"]
    np.testing.assert_allclose(mean, X.mean(0) * (1 - 0.5**4), rtol=1e-4)
    assert dropped.state.variables.keys() == {"params", "batch_stats"}


def test_a_linen_run_leaves_variables_that_the_module_takes(dropped: Run) -> None:
    state = dropped.state
    assert isinstance(state, LinenState)
    assert state.step == 4
    np.testing.assert_allclose(DropsOut().apply(state.variables, X, train=False)[:, 0], dropped.predict(X), rtol=1e-5)


def test_a_train_state_comes_back_in_its_own_type_with_its_step_counted_on() -> None:
    module = DropsOut()
    variables = module.init({"params": jax.random.key(0), "dropout": jax.random.key(1)}, X)
    state = StateWithStatistics.create(
        apply_fn=module.apply, params=variables["params"], tx=optax.adam(0.1), batch_stats=variables["batch_stats"]
    )
    before = jax.tree.map(np.array, state)
    first = train(state).state
    assert isinstance(first, StateWithStatistics)
    assert first.step == 2
    assert first.tx is state.tx
    assert not np.allclose(first.batch_stats["BatchNorm_0"]["mean"], 0)
    assert int(first.opt_state[0].count) == 2
    jax.tree.map(np.testing.assert_array_equal, jax.tree.map(np.array, state), before)
    second = train(first).state
    assert second.step == 4
    assert int(second.opt_state[0].count) == 4, "the optimizer goes on from where it was"


def test_frozen_batch_statistics_stay_frozen() -> None:
    module = DropsOut()
    variables = module.init({"params": jax.random.key(0), "dropout": jax.random.key(1)}, X)
    frozen = flax.core.freeze(variables["batch_stats"])
    state = StateWithStatistics.create(apply_fn=module.apply, params=variables["params"], tx=TINY, batch_stats=frozen)
    after = train(state).state.batch_stats
    assert jax.tree.structure(after) == jax.tree.structure(frozen)
    assert np.any(after["BatchNorm_0"]["mean"] != 0)


class Memory(nn.Module):
    """Keeps a number and an array, each in a collection of its own, and draws from a stream of its own."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        calls = self.variable("counts", "calls", lambda: 0)
        spectral = self.variable("spectral", "u", jnp.zeros, (3,))
        self.sow("intermediates", "seen", x)
        if train and not self.is_initializing():
            calls.value += 1
            spectral.value = spectral.value + 1
            x = x + 100 * jax.random.normal(self.make_rng("noise"), x.shape)
        return nn.Dense(1)(x)


def test_any_collection_is_carried_on_and_any_stream_has_keys(learn: Any) -> None:
    model = models.adapt(Memory())
    learned = learn(model)
    assert set(learned.extra) == {"counts", "spectral"}
    assert int(learned.extra["counts"]["calls"]) == 5
    np.testing.assert_array_equal(learned.extra["spectral"]["u"], 5)
    assert len(set(learned.losses)) == 5
    np.testing.assert_array_equal(learn(model).losses, learned.losses)
    _, evaluated = model.apply(learned.params, learned.extra, X, jax.random.key(0), False)
    assert int(evaluated["counts"]["calls"]) == 5


class StateWithMore(TrainState):
    counts: Any = None
    spectral: Any = None
    average: Any = None
    key: Any = None


def test_any_field_that_is_a_collection_is_carried_on(learn: Any) -> None:
    module = Memory()
    variables = module.init(jax.random.key(0), X)
    fields = {"average": variables["params"], "key": jax.random.key(3), "spectral": variables["spectral"]}
    counts = {"calls": jnp.zeros((), int)}
    state = StateWithMore.create(apply_fn=module.apply, params=variables["params"], tx=TINY, counts=counts, **fields)
    model = models.adapt(state)
    learned = learn(model)
    after = model.finish(learned.params, learned.extra, state.opt_state, 5)
    assert int(after.counts["calls"]) == 5
    np.testing.assert_array_equal(after.spectral["u"], 5)
    jax.tree.map(np.testing.assert_array_equal, after.average, variables["params"])
    assert after.key is state.key, "no collection"
    assert int(state.counts["calls"]) == 0


def test_a_train_state_with_a_function_of_the_users_own() -> None:
    def apply_fn(variables: Any, x: jax.Array) -> jax.Array:
        return x @ variables["params"]["w"]

    state = TrainState.create(apply_fn=apply_fn, params={"w": jnp.zeros(3)}, tx=optax.sgd(0.1))
    run = train(state, steps=200)
    np.testing.assert_allclose(run.params["w"], [1, 0, 0], atol=1e-3)
    np.testing.assert_allclose(run.state.params["w"], [1, 0, 0], atol=1e-3)
    with pytest.raises(dlfb_lab.OptionError, match=r"--lr: the train state brings its own optimizer\. Leave --lr out"):
        train(state, lr=0.1)
    with pytest.raises(dlfb_lab.OptionError, match="--optimizer: the train state brings its own"):
        train(state, optimizer="adam")


def linear(params: Any, x: jax.Array) -> jax.Array:
    return x @ params["w"]


def test_a_function_with_params_trains() -> None:
    run = train((linear, {"w": np.zeros(3, np.float32)}), steps=200, optimizer="sgd", lr=0.1)
    assert isinstance(run.state, FunctionState)
    assert run.state.step == 200
    np.testing.assert_allclose(run.params["w"], [1, 0, 0], atol=1e-3)
    assert run.name == "linear"


def test_inputs_by_name_reach_the_model_as_a_dict() -> None:
    class Two(nn.Module):
        @nn.compact
        def __call__(self, inputs: dict[str, jax.Array]) -> jax.Array:
            return nn.Dense(1)(jnp.concatenate([inputs["a"], inputs["b"][:, None]], axis=1))

    data = {"a": X[:, :2], "b": X[:, 2], "label": Y}
    run = dlfb_lab.train(Two(), data, steps=2, valid=0.25, scale=True)
    assert run.predict({"a": X[:, :2], "b": X[:, 2]}).shape == (24,)
    with pytest.raises(dlfb_lab.DataError, match="The inputs are a; the model was trained on a, b"):
        run.predict({"a": X[:, :2]})


class Empty(nn.Module):
    def __call__(self, x: jax.Array) -> jax.Array:
        return x[:, 0]


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("MLP", "'MLP'.*str.* is not a model that can be trained.*linen or nnx.*Equinox.*PyTorch.*Keras.*TrainState"),
        (3, r"\bint\b.* is not a model"),
        (None, r"\bNoneType\b.* is not a model"),
        ({"w": 1.0}, r"\bdict\b.* is not a model"),
        (Train, r"`Train` is a class, not a model. Make one: Train\("),
        (linear, r"`linear` is a function without parameters.*\(linear, params\)"),
        ((linear, {}), "The params of the function are empty"),
        ((linear, {"w": "zeros"}), r"The params hold a str \('zeros'\); arrays of floats"),
        ((linear, {"w": np.zeros(3, int)}), "The params hold int.. values; only floats"),
        ((linear,), r"\btuple\b.* is not a model"),
    ],
)
def test_what_is_no_model_is_refused(model: Any, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        models.adapt(model)


def test_a_model_without_parameters_is_refused() -> None:
    with pytest.raises(ModelError, match="The model Empty has no parameters"):
        train(Empty())


def test_equal_modules_have_equal_keys() -> None:
    assert models.adapt(Train()).key == models.adapt(Train()).key
    assert models.adapt(nn.Dense(1)).key != models.adapt(nn.Dense(2)).key
    assert models.adapt((linear, {"w": 1.0})).key == models.adapt((linear, {"w": 2.0})).key
    listed = nn.Sequential([nn.Dense(2), nn.Dense(1)])
    assert hash(models.adapt(listed).key) == hash(models.adapt(listed).key)
