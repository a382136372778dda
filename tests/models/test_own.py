"""A user's own training step, on what the reference asks of it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

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
from sklearn.metrics import roc_auc_score

from dlfb_lab.errors import ModelError, OptionError
from dlfb_lab.models.model import structure
from dlfb_lab.models.own import OwnStep, own_step

RNG = np.random.default_rng(0)
X = RNG.normal(size=(24, 3)).astype(np.float32)
Y = (X @ np.array([1.0, -2.0, 0.5], np.float32))[:, None]
BATCHES = [(X[i : i + 8], Y[i : i + 8]) for i in (0, 8, 16)] * 4


def drive(own: OwnStep, batches: Sequence[Any] = BATCHES, seed: int = 0) -> tuple[Any, list[dict[str, float]]]:
    """Trains as the engine does, and holds the step to one compilation."""
    state = own.start(jax.random.key(seed), batches[0])
    form = structure(state)
    step = jax.jit(own.step, donate_argnums=0) if own.traces else own.step
    history = []
    for i, batch in enumerate(batches):
        state, values = step(state, batch, jax.random.fold_in(jax.random.key(seed), i), np.bool_(i == 0))
        assert "loss" in values
        history.append({name: float(value) for name, value in values.items()})
    assert structure(state) == form
    return state, history


def curve(history: list[dict[str, float]], name: str = "loss") -> list[float]:
    return [values[name] for values in history]


def train_state(tx: optax.GradientTransformation | None = None, **fields: Any) -> TrainState:
    model = nn.Dense(1)
    params = model.init(jax.random.key(0), X[:1])["params"]
    return TrainState.create(apply_fn=model.apply, params=params, tx=tx or optax.adam(0.1), **fields)


def squared(params: Any, state: TrainState, batch: Any) -> jax.Array:
    x, y = batch
    return ((state.apply_fn({"params": params}, x) - y) ** 2).mean()


def plain_step(state: TrainState, batch: Any) -> Any:
    loss, gradients = jax.value_and_grad(squared)(state.params, state, batch)
    return state.apply_gradients(grads=gradients), loss


def by_hand(step: Callable[..., Any], state: Any, batches: Sequence[Any] = BATCHES) -> tuple[Any, list[float]]:
    losses = []
    for batch in batches:
        state, loss = jax.jit(step)(state, batch)
        losses.append(float(loss))
    return state, losses


# 1. What a step returns


def test_a_train_state_trains_as_in_a_loop_of_ones_own() -> None:
    start = train_state()
    own = own_step(plain_step, start, BATCHES[0])
    state, history = drive(own)
    expected, losses = by_hand(plain_step, start)
    assert curve(history) == losses
    finished = own.finish(state, len(BATCHES))
    assert isinstance(finished, TrainState) and int(finished.step) == len(BATCHES)
    jax.tree.map(np.testing.assert_array_equal, finished, expected)
    assert start.step == 0 and not jax.tree.leaves(start.params)[0].is_deleted()
    assert (own.kind, own.name, own.traces, own.evaluates) == ("own step", "plain_step", True, False)


def test_what_belongs_to_the_loss_becomes_values_of_their_own() -> None:
    def step(state: Any, batch: Any) -> Any:
        state, loss = plain_step(state, batch)
        aux = {"parts": {"fit": loss, "penalty": 0.5}, "outputs": batch[0], "hits@20": (batch[1] > 0).sum(), "loss": 7}
        return state, (loss, aux)

    values = drive(own_step(step, train_state(), BATCHES[0]))[1][0]
    assert set(values) == {"loss", "hits@20", "parts/fit", "parts/penalty"}
    assert values["parts/fit"] == values["loss"] != 7 and values["parts/penalty"] == 0.5


class Parts(NamedTuple):
    fit: Any
    outputs: Any


@pytest.mark.parametrize(
    ("aux", "names"),
    [
        (lambda loss, x: loss, ["loss", "aux"]),
        (lambda loss, x: (loss, 2 * loss, x), ["loss", "aux/0", "aux/1"]),
        (lambda loss, x: Parts(loss, x), ["loss", "fit"]),
        (lambda loss, x: None, ["loss"]),
    ],
)
def test_aux_may_be_any_pytree(aux: Any, names: list[str]) -> None:
    def step(state: Any, batch: Any) -> Any:
        state, loss = plain_step(state, batch)
        return state, (loss, aux(loss, batch[0]))

    assert set(drive(own_step(step, train_state(), BATCHES[0]))[1][0]) == set(names)


def test_three_things_are_read_as_state_loss_and_aux() -> None:
    def step(state: Any, batch: Any) -> Any:
        return *plain_step(state, batch), {"accuracy": 0.5}

    assert set(drive(own_step(step, train_state(), BATCHES[0]))[1][0]) == {"loss", "accuracy"}


def returning(metrics: Callable[[Any], Any]) -> Callable[..., Any]:
    def step(state: Any, batch: Any) -> Any:
        state, loss = plain_step(state, batch)
        return state, metrics(loss)

    return step


@pytest.mark.parametrize(
    ("metrics", "names"),
    [
        (lambda loss: {"accuracy": 1.0, "loss": loss, "aux_loss": 0.0}, ["loss", "accuracy", "aux_loss"]),
        (lambda loss: {"mcc": 1.0, "train_loss": loss}, ["loss", "mcc"]),
        (lambda loss: {"total_loss": loss, "a_loss": loss, "b_loss": loss}, ["loss", "a_loss", "b_loss"]),
    ],
)
def test_the_loss_is_found_among_metrics(metrics: Any, names: list[str]) -> None:
    own = own_step(returning(metrics), train_state(), BATCHES[0])
    assert set(drive(own)[1][0]) == set(names)
    assert curve(drive(own)[1]) == by_hand(plain_step, train_state())[1]


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        (lambda loss: {"a_loss": loss, "b_loss": loss}, "a_loss, b_loss; 2 of them end in loss"),
        (lambda loss: {"accuracy": loss}, "accuracy; none of them is a loss"),
        (lambda loss: {}, "without any scalar"),
        (lambda loss: jnp.zeros(8) + loss, r"shape \(8,\) where the loss belongs"),
        (lambda loss: (jnp.zeros(8), {}), r"shape \(8,\) where the loss belongs"),
        (lambda loss: "low", "a str, without any scalar"),
    ],
)
def test_a_loss_that_cannot_be_found_is_said(metrics: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        own_step(returning(metrics), train_state(), BATCHES[0])


def test_metrics_that_are_not_computed_yet_are_said() -> None:
    @flax.struct.dataclass
    class Collection:
        total: Any

        def compute(self) -> Any:
            return {"loss": self.total}

    with pytest.raises(ModelError, match=r"a Collection, which is to be computed first"):
        own_step(returning(Collection), train_state(), BATCHES[0])


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (lambda state, batch: state, "returned the state alone"),
        (lambda state, batch: (0.0, state), "returned the state last"),
        (lambda state, batch: None, "returned nothing"),
        (lambda state, batch: {"loss": 0.0}, "returned a dict of loss"),
        (lambda state, batch: (state,), "returned a tuple of 1"),
        (lambda state, batch: ({**state, "n": 1}, 0.0), "it has n besides"),
        (lambda state, batch: ({}, 0.0), "it lacks tag, w"),
        (lambda state, batch: ({**state, "w": state["w"][:1]}, 0.0), r"`w` from float32\[3\] to float32\[1\]"),
        (lambda state, batch: ({**state, "w": state["w"] > 0}, 0.0), r"`w` from float32\[3\] to bool\[3\]"),
        (lambda state, batch: ({**state, "w": "none"}, 0.0), r"`w` from float32\[3\] to 'none'"),
        (lambda state, batch: ({**state, "tag": "b"}, 0.0), "`tag` from 'a' to 'b'"),
        (lambda state, batch: (state["missing"], 0.0), r"failed\. KeyError: 'missing' \(at"),
    ],
)
def test_a_step_that_returns_something_else_is_told_so(step: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        own_step(step, {"w": jnp.ones(3), "tag": "a"}, BATCHES[0])


def test_the_path_of_a_changed_leaf_is_named_in_a_train_state() -> None:
    def step(state: Any, batch: Any) -> Any:
        return state.replace(params=jax.tree.map(lambda a: a.astype(jnp.bfloat16), state.params)), 0.0

    with pytest.raises(ModelError, match=r"`params/bias` from float32\[1\] to bfloat16\[1\]"):
        own_step(step, train_state(), BATCHES[0])


# The state is an opaque pytree


class WithStatistics(TrainState):
    batch_stats: Any = None
    key: Any = None
    note: str = flax.struct.field(pytree_node=False, default="")


class Normed(nn.Module):
    @nn.compact
    def __call__(self, x: Any, train: bool) -> Any:
        x = nn.BatchNorm(use_running_average=not train)(nn.Dense(8)(x))
        return nn.Dense(1)(nn.Dropout(0.3, deterministic=not train)(x))


@pytest.mark.parametrize(("make", "frozen"), [(jax.random.key, False), (jax.random.PRNGKey, True)])
def test_batch_statistics_a_key_and_a_note_are_carried_in_the_state(make: Any, frozen: bool) -> None:
    model = Normed()
    variables = model.init(jax.random.key(0), X[:1], train=False)
    statistics = variables["batch_stats"]
    start = WithStatistics.create(
        apply_fn=model.apply,
        params=variables["params"],
        tx=optax.sgd(0.05),
        batch_stats=flax.core.freeze(statistics) if frozen else statistics,
        key=make(7),
        note="kept",
    )

    def step(state: Any, batch: Any) -> Any:
        key, dropout = jax.random.split(state.key)

        def loss_of(params: Any) -> Any:
            variables = {"params": params, "batch_stats": state.batch_stats}
            out, changed = state.apply_fn(variables, batch[0], True, rngs={"dropout": dropout}, mutable=["batch_stats"])
            return ((out - batch[1]) ** 2).mean(), changed

        (loss, changed), gradients = jax.value_and_grad(loss_of, has_aux=True)(state.params)
        return state.apply_gradients(grads=gradients, batch_stats=changed["batch_stats"], key=key), loss

    own = own_step(step, start, BATCHES[0])
    state, history = drive(own)
    finished, losses = by_hand(step, start)
    assert curve(history) == losses
    mine = own.finish(state, len(BATCHES))
    assert type(mine) is WithStatistics and mine.note == "kept"
    assert isinstance(mine.batch_stats, flax.core.FrozenDict) is frozen
    assert np.array_equal(jax.random.key_data(mine.key), jax.random.key_data(finished.key))
    assert not np.array_equal(jax.random.key_data(mine.key), jax.random.key_data(start.key))


def test_functions_and_text_in_the_state_survive() -> None:
    state = {
        "w": jnp.zeros(3),
        "activation": jnp.tanh,
        "name": "net",
        "none": None,
        "n": 0,
        "rate": 0.1,
        "pair": (1, [X]),
    }

    def step(state: Any, batch: Any) -> Any:
        assert state["name"] == "net" and state["none"] is None

        def loss_of(w: Any) -> Any:
            return ((state["activation"](batch[0] @ w) - batch[1][:, 0]) ** 2).mean()

        loss, gradient = jax.value_and_grad(loss_of)(state["w"])
        return {**state, "w": state["w"] - state["rate"] * gradient, "n": state["n"] + 1}, loss

    own = own_step(step, state, BATCHES[0])
    finished = own.finish(drive(own)[0], len(BATCHES))
    assert finished["activation"] is jnp.tanh and finished["name"] == "net" and finished["none"] is None
    assert int(finished["n"]) == len(BATCHES) and set(finished) == set(state)
    assert np.array_equal(finished["pair"][1][0], X)


def test_a_number_in_the_state_gives_way_to_the_dtype_of_arrays() -> None:
    def step(state: Any, batch: Any) -> Any:
        return {**state, "w": state["w"] - state["rate"] * state["w"]}, state["w"].sum()

    own = own_step(step, {"w": jnp.ones(2, jnp.bfloat16), "rate": 0.5}, BATCHES[0])
    assert curve(drive(own)[1])[:3] == [2, 1, 0.5]


def test_a_count_that_becomes_a_plain_integer_compiles_nothing_anew() -> None:
    def step(state: Any, batch: Any) -> Any:
        return {"w": state["w"], "n": jnp.asarray(state["n"] + 1, jnp.int32), "m": state["n"] + state["m"]}, 0.0

    own = own_step(step, {"w": jnp.ones(2), "n": 0, "m": 0}, BATCHES[0])
    state = own.start(jax.random.key(0), BATCHES[0])
    jitted = jax.jit(own.step)
    for _ in range(3):
        state, _ = jitted(state, BATCHES[0], jax.random.key(0), np.bool_(False))
    assert jitted._cache_size() == 1
    assert (int(state.state["n"]), int(state.state["m"])) == (3, 3)


def test_an_equinox_module_and_its_optimizer_state() -> None:
    model = eqx.nn.MLP(3, 1, 8, 1, key=jax.random.key(0))
    optimizer = optax.adam(0.05)
    start = (model, optimizer.init(eqx.filter(model, eqx.is_inexact_array)))

    @eqx.filter_jit
    def step(state: Any, x: Any, y: Any) -> Any:
        model, opt_state = state
        loss, gradients = eqx.filter_value_and_grad(lambda m: ((jax.vmap(m)(x) - y) ** 2).mean())(model)
        updates, opt_state = optimizer.update(gradients, opt_state)
        return (eqx.apply_updates(model, updates), opt_state), loss

    own = own_step(step, start, BATCHES[0])
    state, history = drive(own)
    assert own.traces and np.mean(curve(history)[-3:]) < 0.7 * np.mean(curve(history)[:3])
    trained = own.finish(state, len(BATCHES))[0]
    assert isinstance(trained, eqx.nn.MLP) and trained(X[0]).shape == (1,)
    assert own.parameter_count(state) == 3 * 8 + 8 + 8 + 1


def test_an_nnx_module_is_to_be_split_and_then_trains() -> None:
    model = nnx.Linear(3, 1, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.sgd(0.1), wrt=nnx.Param)
    for given in (model, {"model": model}, (model, optimizer)):
        with pytest.raises(ModelError, match=r"nnx\.split"):
            own_step(lambda state, batch: (state, 0.0), given, BATCHES[0])
    graphdef, start = nnx.split((model, optimizer))

    def step(state: Any, batch: Any) -> Any:
        model, optimizer = nnx.merge(graphdef, state)
        loss, gradients = nnx.value_and_grad(lambda m: ((m(batch[0]) - batch[1]) ** 2).mean())(model)
        optimizer.update(model, gradients)
        return nnx.state((model, optimizer)), loss

    history = drive(own_step(step, start, BATCHES[0]))[1]
    assert history[-1]["loss"] < 0.2 * history[0]["loss"]


@pytest.mark.parametrize("state", ["w", {"f": jnp.tanh}, 3, ()])
def test_a_state_without_arrays_is_refused(state: Any) -> None:
    with pytest.raises(ModelError, match="holds no arrays"):
        own_step(lambda state, batch: (state, 0.0), state, BATCHES[0])


# 2. Keys


def noise(key: Any) -> jax.Array:
    return jax.random.normal(key, ())


def counted(key: Any, batch: Any) -> Any:
    return {"n": jnp.zeros(())}, noise(key)


@pytest.mark.parametrize(
    "step",
    [
        lambda state, batch, key: (state, noise(key)),
        lambda state, batch, *, dropout_rng: (state, noise(dropout_rng)),
        lambda key, state, batch: (state, noise(key)),
        lambda state, x, y, rng_key=None: (state, noise(rng_key)),
        lambda state, batch, mode="train", prng=None: (state, noise(prng)),
        functools.partial(lambda state, k, batch, rng: (state, noise(rng) + 0 * k), k=2),
    ],
)
def test_a_key_is_given_where_the_signature_takes_one(step: Any) -> None:
    own = own_step(step, {"n": jnp.zeros(())}, BATCHES[0])
    expected = [float(noise(jax.random.fold_in(jax.random.key(0), i))) for i in range(len(BATCHES))]
    np.testing.assert_allclose(curve(drive(own)[1]), expected, rtol=1e-6)
    assert len(set(expected)) == len(BATCHES)


def test_several_keys_differ() -> None:
    def step(state: Any, batch: Any, dropout_key: Any, sample_key: Any) -> Any:
        return state, (noise(dropout_key), {"other": noise(sample_key)})

    values = drive(own_step(step, {"n": jnp.zeros(())}, BATCHES[0]))[1][0]
    assert values["loss"] != values["other"]


@pytest.mark.parametrize("given", [jax.random.key, jax.random.PRNGKey])
def test_a_step_made_for_keys_of_the_old_style_gets_one(given: Any) -> None:
    def step(state: Any, batch: Any, key: Any) -> Any:
        assert key.shape == (2,), "an old key has two numbers"
        return {"key": key}, noise(key)

    own = own_step(step, {"key": jax.random.PRNGKey(0)}, BATCHES[0])
    state = own.start(given(0), BATCHES[0])
    _, values = jax.jit(own.step)(state, BATCHES[0], given(3), np.bool_(True))
    np.testing.assert_allclose(values["loss"], noise(jax.random.key(3)), rtol=1e-6)


def test_a_step_made_for_keys_of_the_new_style_gets_one_from_an_old_one() -> None:
    def step(state: Any, batch: Any, key: Any) -> Any:
        assert jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
        return state, noise(key)

    own = own_step(step, {"n": jnp.zeros(())}, BATCHES[0])
    state = own.start(jax.random.key(0), BATCHES[0])
    _, values = jax.jit(own.step)(state, BATCHES[0], jax.random.PRNGKey(3), np.bool_(True))
    np.testing.assert_allclose(values["loss"], noise(jax.random.key(3)), rtol=1e-6)


def test_a_state_of_one_array_is_not_taken_for_a_loss() -> None:
    step = lambda state, batch: (state + 1, state.sum())  # noqa: E731
    own = own_step(step, jnp.zeros(2), BATCHES[0], lambda state, batch: (state.sum(), {"n": len(batch[0])}))
    state, history = drive(own, BATCHES[:3])
    assert curve(history) == [0, 2, 4]
    assert own.evaluate(state, BATCHES[0], jax.random.key(0)) == {"loss": 6, "n": 8}


def test_several_members_step_at_once() -> None:
    def step(state: Any, batch: Any, key: Any) -> Any:
        return {"w": state["w"] + noise(key)}, state["w"].sum()

    own = own_step(step, {"w": jnp.zeros(2)}, BATCHES[0])
    one = own.start(jax.random.key(0), BATCHES[0])
    keys = jax.random.split(jax.random.key(1), 3)
    states = jax.tree.map(lambda a: jnp.stack([a] * 3), one)
    states, _ = jax.jit(jax.vmap(own.step, in_axes=(0, None, 0, None)))(states, BATCHES[0], keys, np.bool_(True))
    expected = [float(noise(key)) for key in keys]
    np.testing.assert_allclose(states.state["w"][:, 0], expected, rtol=1e-6)


def test_a_step_runs_without_jit_for_debugging() -> None:
    with jax.disable_jit():
        own = own_step(plain_step, train_state(), BATCHES[0])
        assert own.traces
        state = own.start(jax.random.key(0), BATCHES[0])
        state, values = own.step(state, BATCHES[0], jax.random.key(0), np.bool_(True))
    assert float(values["loss"]) == pytest.approx(by_hand(plain_step, train_state(), BATCHES[:1])[1][0], rel=1e-6)


# 3. Batches

TOTAL = float(X[:8].sum() + Y[:8].sum())
AS_DICT = {"x": X[:8], "y": Y[:8]}


@pytest.mark.parametrize(
    ("step", "batch"),
    [
        (lambda state, batch: (state, batch[0].sum() + batch[1].sum()), BATCHES[0]),
        (lambda state, x, y: (state, x.sum() + y.sum()), BATCHES[0]),
        (lambda state, *batch: (state, batch[0].sum() + batch[1].sum()), BATCHES[0]),
        (lambda *args: (args[0], args[1][0].sum() + args[1][1].sum()), BATCHES[0]),
        (lambda state, x, y, w=None: (state, x.sum() + y.sum() + (w is not None)), BATCHES[0]),
        (lambda state, x, y, w=None: (state, x.sum() + y.sum() + w), (*BATCHES[0], np.float32(0))),
        (lambda state, batch: (state, batch["x"].sum() + batch["y"].sum()), AS_DICT),
        (lambda state, y, x: (state, x.sum() + y.sum() + 0 * x[0, 2] + 0 * y[0, 0]), AS_DICT),
        (lambda state, **batch: (state, batch["x"].sum() + batch["y"].sum()), AS_DICT),
        (lambda state, x, **rest: (state, x.sum() + rest["y"].sum()), AS_DICT),
        (lambda state, batch=None: (state, batch["x"].sum() + batch["y"].sum()), AS_DICT),
    ],
)
def test_a_batch_comes_whole_or_in_parts(step: Any, batch: Any) -> None:
    values = drive(own_step(step, {"n": jnp.zeros(())}, batch), [batch])[1]
    assert values[0]["loss"] == pytest.approx(TOTAL, rel=1e-5)


@pytest.mark.parametrize(
    ("step", "batch", "error", "message"),
    [
        (lambda state, x, y: (state, 0.0), X, ModelError, r"takes x, y after the state, and a batch is one array"),
        (lambda state, x, y, w: (state, 0.0), (X, Y), ModelError, "a batch is a tuple of 2"),
        (lambda state, x, target: (state, 0.0), AS_DICT, ModelError, "a batch is a dict of x, y"),
        (lambda state, batch, k: (state, 0.0), (X, Y), OptionError, r"takes `k` beside the batch.*dict\(k="),
        (lambda: None, (X, Y), OptionError, "takes no state"),
        ("train", (X, Y), OptionError, "'train' is no function"),
    ],
)
def test_arguments_that_cannot_be_filled_are_said(step: Any, batch: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        own_step(step, {"n": jnp.zeros(())}, batch)


class Trainer:
    def __init__(self, factor: float) -> None:
        self.factor = factor

    def step(self, state: Any, batch: Any) -> Any:
        return {"n": state["n"] + self.factor}, state["n"]

    __call__ = step


@pytest.mark.parametrize("step", [Trainer(2.0).step, Trainer(2.0)])
def test_methods_and_callable_objects_are_steps(step: Any) -> None:
    assert curve(drive(own_step(step, {"n": jnp.zeros(())}, BATCHES[0]), BATCHES[:3])[1]) == [0, 2, 4]


# 5. Further arguments


def test_a_jitted_step_keeps_its_static_arguments_and_its_donation() -> None:
    @functools.partial(jax.jit, donate_argnums=0, static_argnames=("reduction", "k"))
    def step(state: Any, batch: Any, reduction: str, k: int, scale: Any) -> Any:
        assert isinstance(reduction, str) and isinstance(k, int) and isinstance(scale, jax.core.Tracer)
        return {"n": state["n"] + k}, scale * getattr(jnp, reduction)(jnp.stack([state["n"]] * k))

    def run(reduction: str) -> list[float]:
        arguments = dict(reduction=reduction, k=3, scale=np.float32(2) * np.ones((), np.float32).reshape(()))
        arguments["scale"] = np.asarray(arguments["scale"])
        return curve(drive(own_step(step, {"n": jnp.ones(())}, BATCHES[0], arguments=arguments), BATCHES[:3])[1])

    assert run("mean") == [2, 8, 14]
    assert run("sum") == [6, 24, 42]


def test_static_arguments_by_position() -> None:
    step = jax.jit(lambda state, mode, batch: (state, 1.0 if mode == "a" else 2.0), static_argnums=1)
    assert curve(drive(own_step(step, {"n": jnp.ones(())}, BATCHES[0], arguments={"mode": "b"}))[1])[0] == 2


def test_unknown_arguments_are_refused() -> None:
    with pytest.raises(OptionError, match=r"--step `plain_step` takes no argument `graf`"):
        own_step(plain_step, train_state(), BATCHES[0], arguments={"graf": 1})
    with pytest.raises(OptionError, match=r"give a dict by name"):
        own_step(plain_step, train_state(), BATCHES[0], arguments=[1])  # type: ignore[arg-type]


NODES, K = 30, 5


def a_graph() -> dict[str, Any]:
    edges = RNG.integers(0, NODES, size=(2, 60))
    return {"senders": edges[0], "receivers": edges[1], "features": np.eye(NODES, dtype=np.float32), "n_nodes": NODES}


def embedded(params: Any, graph: dict[str, Any]) -> jax.Array:
    hidden = graph["features"] @ params["w"]
    gathered = jax.ops.segment_sum(hidden[graph["senders"]], graph["receivers"], graph["n_nodes"])
    return hidden + gathered / 2


def link_scores(z: jax.Array, senders: Any, receivers: Any) -> jax.Array:
    return (z[senders] * z[receivers]).sum(-1)


@functools.partial(jax.jit, static_argnames="k")
def _sampled(key: Any, senders: Any, k: int, n_nodes: Any) -> Any:
    return jax.random.randint(key, (k, len(senders)), 0, n_nodes)


def graph_step(state: TrainState, batch: Any, graph: Any, k: int, rng: Any) -> Any:
    negatives = _sampled(rng, batch["senders"], k, graph["n_nodes"])

    def loss_of(params: Any) -> Any:
        z = embedded(params, graph)
        positive = jax.nn.softplus(-link_scores(z, batch["senders"], batch["receivers"])).mean()
        negative = jax.nn.softplus(link_scores(z, batch["senders"], negatives)).mean()
        return positive + negative, {"positive": positive, "negative": negative}

    (loss, parts), gradients = jax.value_and_grad(loss_of, has_aux=True)(state.params)
    return state.apply_gradients(grads=gradients), {"loss": loss, **parts, "drawn": negatives.sum()}


def graph_evaluation(state: TrainState, batch: Any, graph: Any, rng: Any) -> Any:
    z = embedded(state.params, graph)
    positive = link_scores(z, batch["senders"], batch["receivers"])
    negative = link_scores(z, *jax.random.randint(rng, (2, 100), 0, NODES))
    return {"hits@20": (positive > jnp.sort(negative)[-20]).mean(), "links": positive.shape[0]}


def test_a_graph_is_passed_whole_with_negatives_drawn_anew() -> None:
    graph = a_graph()
    batch = {"senders": graph["senders"], "receivers": graph["receivers"]}
    params = {"w": jax.random.normal(jax.random.key(1), (NODES, 8)) * 0.1}
    start = TrainState.create(apply_fn=None, params=params, tx=optax.adam(0.05))
    own = own_step(graph_step, start, batch, graph_evaluation, {"graph": graph, "k": K})
    assert own.traces and own.evaluation_traces
    evaluate = jax.jit(own.evaluate)
    before = evaluate(own.start(jax.random.key(0), batch), batch, jax.random.key(5))
    state, history = drive(own, [batch] * 60)
    after = evaluate(state, batch, jax.random.key(5))
    assert len(set(curve(history, "drawn"))) > 50
    assert set(history[0]) == {"loss", "positive", "negative", "drawn"}
    assert list(after) == ["hits@20", "links"] and after["links"] == 60
    assert float(after["hits@20"]) > float(before["hits@20"]) + 0.2
    assert drive(own, [batch] * 60)[1] == history


def test_arrays_among_the_arguments_are_no_constants_of_the_program() -> None:
    graph = a_graph()
    batch = {"senders": graph["senders"], "receivers": graph["receivers"]}
    start = TrainState.create(apply_fn=None, params={"w": jnp.ones((NODES, 8))}, tx=optax.sgd(0.1))
    own = own_step(graph_step, start, batch, arguments={"graph": graph, "k": K})
    state = own.start(jax.random.key(0), batch)
    program = jax.make_jaxpr(own.step)(state, batch, jax.random.key(0), True)
    assert sum(np.size(constant) for constant in program.consts) == 0
    assert any(np.shape(leaf) == (NODES, NODES) for leaf in jax.tree.leaves(state.arguments))
    assert own.parameter_count(state) == NODES * 8


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_a_partly_frozen_network_by_multi_transform(weight_decay: float) -> None:
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x: Any) -> Any:
            return nn.Dense(1, name="head")(nn.relu(nn.Dense(8, name="encoder")(x)))

    model = Net()
    params = model.init(jax.random.key(0), X[:1])["params"]
    optimizer = optax.multi_transform(
        {"train": optax.adamw(0.05, weight_decay=weight_decay), "freeze": optax.set_to_zero()},
        {"encoder": "freeze", "head": "train"},
    )
    start = TrainState.create(apply_fn=model.apply, params=params, tx=optimizer)
    own = own_step(plain_step, start, BATCHES[0])
    state, history = drive(own)
    finished = own.finish(state, len(BATCHES))
    jax.tree.map(np.testing.assert_array_equal, finished.params["encoder"], params["encoder"])
    assert not np.array_equal(finished.params["head"]["kernel"], params["head"]["kernel"])
    assert curve(history) == by_hand(plain_step, start)[1]


# 7. A loss of several named parts, outputs that are tuples


class QuantizedState(TrainState):
    usage: Any = None
    dropout_key: Any = None


class Quantizer(nn.Module):
    @nn.compact
    def __call__(self, x: Any, train: bool = False) -> Any:
        z = nn.Dense(4)(nn.Dropout(0.1, deterministic=not train)(x))
        codes = self.param("codes", nn.initializers.normal(1.0), (6, 4))
        nearest = ((z[:, None] - codes) ** 2).sum(-1).argmin(1)
        quantized = codes[nearest]
        through = z + jax.lax.stop_gradient(quantized - z)
        return nn.Dense(3)(through), nn.Dense(2)(through), (z, quantized, nearest)


def quantized_step(state: QuantizedState, batch: Any, beta: float) -> Any:
    key = jax.random.fold_in(state.dropout_key, state.step)

    def loss_of(params: Any) -> Any:
        outputs = state.apply_fn({"params": params}, batch["image"], train=True, rngs={"dropout": key})
        reconstructed, logits, (z, quantized, nearest) = outputs
        parts = {
            "reconstruction": ((reconstructed - batch["image"]) ** 2).mean(),
            "codebook": ((jax.lax.stop_gradient(z) - quantized) ** 2).mean(),
            "commitment": beta * ((z - jax.lax.stop_gradient(quantized)) ** 2).mean(),
            "classification": optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean(),
        }
        return sum(parts.values()), (parts, nearest)

    (loss, (parts, nearest)), gradients = jax.value_and_grad(loss_of, has_aux=True)(state.params)
    usage = state.usage + jnp.bincount(nearest, length=6)
    return state.apply_gradients(grads=gradients, usage=usage), (loss, {**parts, "codes": nearest})


def test_each_part_of_a_loss_has_its_own_curve() -> None:
    batch = {"image": X, "label": (Y[:, 0] > 0).astype(np.int32)}
    model = Quantizer()
    params = model.init(jax.random.key(0), X)["params"]
    start = QuantizedState.create(
        apply_fn=model.apply,
        params=params,
        tx=optax.adam(0.02),
        usage=jnp.zeros(6, jnp.int32),
        dropout_key=jax.random.key(3),
    )
    own = own_step(quantized_step, start, batch, arguments={"beta": 0.25})
    state, history = drive(own, [batch] * 80)
    parts = ["reconstruction", "codebook", "commitment", "classification"]
    assert set(history[0]) == {"loss", *parts}
    for values in history:
        assert values["loss"] == pytest.approx(sum(values[name] for name in parts), rel=1e-5)
    for name in ("reconstruction", "classification"):
        assert np.mean(curve(history, name)[-5:]) < 0.8 * np.mean(curve(history, name)[:5])
    assert int(own.finish(state, 80).usage.sum()) == 80 * len(X)
    assert own.parameter_count(state) == sum(a.size for a in jax.tree.leaves(params))


# 4. Evaluation, in jit and on the host


@pytest.mark.parametrize(
    ("returned", "names"),
    [
        (lambda state, loss: loss, ["loss"]),
        (lambda state, loss: {"accuracy": 0.5, "loss": loss}, ["loss", "accuracy"]),
        (lambda state, loss: {"accuracy": 0.5}, ["accuracy"]),
        (lambda state, loss: {"hits@20": 0.5, "valid_loss": loss}, ["loss", "hits@20"]),
        (lambda state, loss: (loss, {"mcc": 0.5, "logits": jnp.ones(3)}), ["loss", "mcc"]),
        (lambda state, loss: (state, {"mcc": 0.5}), ["mcc"]),
        (lambda state, loss: (state, loss), ["loss"]),
    ],
)
def test_what_an_evaluation_step_may_return(returned: Any, names: list[str]) -> None:
    own = own_step(
        plain_step,
        train_state(),
        BATCHES[0],
        lambda state, batch: returned(state, squared(state.params, state, batch)),
    )
    state = own.start(jax.random.key(0), BATCHES[0])
    for rows in (24, 5):  # the whole split at once, and a ragged last batch
        scores = jax.jit(own.evaluate)(state, (X[:rows], Y[:rows]), jax.random.key(0))
        assert set(scores) == set(names)
        if "loss" in scores:
            x, y = X[:rows], Y[:rows]
            expected = np.mean((x @ np.asarray(train_state().params["kernel"]) - y) ** 2)
            assert float(scores["loss"]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("returned", [jnp.ones((8, 2)), {"logits": jnp.ones((8, 2))}, "good", None])
def test_an_evaluation_step_without_scores_is_refused(returned: Any) -> None:
    with pytest.raises(ModelError, match=r"--eval-step `step`.*Return"):
        own_step(plain_step, train_state(), BATCHES[0], lambda state, batch: returned)


def test_an_evaluation_on_the_host_is_called_as_it_is() -> None:
    def on_the_host(state: Any, x: Any, y: Any) -> Any:
        scores = np.asarray(state.apply_fn({"params": state.params}, x))[:, 0]
        return {"auc": roc_auc_score(y[:, 0] > 0, scores), "n": len(scores)}

    own = own_step(plain_step, train_state(), BATCHES[0], on_the_host)
    assert own.traces and not own.evaluation_traces
    (notice,) = own.notices
    assert "--eval-step `on_the_host` needs numbers while it runs (TracerArrayConversionError" in notice
    assert "is called as it is" in notice
    state, _ = drive(own)
    scores = own.evaluate(state, (X, Y), jax.random.key(0))
    expected = roc_auc_score(Y[:, 0] > 0, np.asarray(own.finish(state, 1).apply_fn({"params": state.state.params}, X)))
    assert float(scores["auc"]) == expected and float(scores["n"]) == 24


def test_without_an_evaluation_step_there_are_no_scores_and_never_outputs() -> None:
    own = own_step(plain_step, train_state(), BATCHES[0])
    with pytest.raises(OptionError, match="--eval-step"):
        _ = own.evaluate
    with pytest.raises(OptionError, match=r"run\.state"):
        own.outputs(own.start(jax.random.key(0), BATCHES[0]), X)


# Steps that cannot be compiled


def test_a_step_that_prints_its_loss_is_called_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    jitted = jax.jit(plain_step, donate_argnums=0)

    def step(state: Any, batch: Any) -> Any:
        state, loss = jitted(state, batch)
        print(f"{float(loss):.3f}")  # noqa: T201
        return state, float(loss)

    start = train_state()
    own = own_step(step, start, BATCHES[0])
    assert not own.traces
    assert "--step `step` needs numbers while it runs (ConcretizationTypeError" in own.notices[0]
    assert "float(loss)" in own.notices[0]
    state, history = drive(own)
    assert curve(history) == by_hand(plain_step, train_state())[1]
    assert capsys.readouterr().out.count("\n") == len(BATCHES)
    finished = own.finish(state, len(BATCHES))
    assert isinstance(finished, TrainState) and finished.step == len(BATCHES)
    assert not jax.tree.leaves(start.params)[0].is_deleted()


def test_a_step_in_numpy_keeps_numpy_arrays_and_numbers() -> None:
    def step(state: Any, x: Any, y: Any, rate: float) -> Any:
        error = np.asarray(x) @ state["w"] - np.asarray(y)
        assert isinstance(state["w"], np.ndarray)
        state["w"][:] = state["w"] - rate * 2 * x.T @ error / len(x)
        return {"w": state["w"], "order": list(range(state["n"])), "n": state["n"] + 1} | {"order": []}, (
            error**2
        ).mean()

    weights = np.zeros((3, 1), np.float32)
    own = own_step(step, {"w": weights, "order": [], "n": 0}, BATCHES[0], arguments={"rate": 0.1})
    assert not own.traces
    state, history = drive(own)
    assert history[-1]["loss"] < 0.5 * history[0]["loss"]
    assert own.finish(state, 12)["n"] == 12 and not weights.any()


def test_a_state_that_changes_while_it_runs_is_named() -> None:
    def step(state: Any, batch: Any) -> Any:
        float(state["w"].sum())
        return {"w": np.concatenate([state["w"], [1.0]])}, 0.0

    own = own_step(step, {"w": np.ones(2)}, BATCHES[0])
    with pytest.raises(ModelError, match=r"`w` from float64\[2\] to float64\[3\]"):
        drive(own)


def test_an_error_of_a_step_on_the_host_is_said_in_one_line() -> None:
    def step(state: Any, batch: Any) -> Any:
        if float(state["w"].sum()) > 0:
            raise ValueError("too large")
        return state, 0.0

    own = own_step(step, {"w": jnp.ones(2)}, BATCHES[0])
    with pytest.raises(ModelError, match=r"--step `step` failed\. ValueError: too large"):
        drive(own)


def test_a_step_that_draws_from_numpy_is_not_compiled() -> None:
    def step(state: Any, batch: Any) -> Any:
        return {"n": state["n"] + 1}, state["n"] + np.random.rand()

    np.random.seed(0)
    own = own_step(step, {"n": jnp.zeros(())}, BATCHES[0])
    assert not own.traces and "draws NumPy's or Python's random numbers" in own.notices[0]
    losses = curve(drive(own, BATCHES[:3])[1])
    np.random.seed(0)
    np.testing.assert_allclose(losses, [i + np.random.rand() for i in range(3)], rtol=1e-6)


# Programs are kept by key


def helper(x: Any) -> Any:
    return x


def helped_step(state: Any, batch: Any, k: int = 1) -> Any:
    return {"n": state["n"] + helper(k)}, state["n"]


def key_of(n: Any = 0.0, **arguments: Any) -> Any:
    return own_step(helped_step, {"n": jnp.asarray(n)}, BATCHES[0], arguments=arguments).key


def test_equal_keys_mean_equal_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    before = key_of()
    assert hash(before) == hash(key_of()) and before == key_of() == key_of(n=5.0)
    assert key_of(k=2) == key_of(k=2) != key_of(k=3)
    assert key_of(k=np.ones(())) == key_of(k=np.zeros(()))
    with_evaluation = own_step(helped_step, {"n": jnp.zeros(())}, BATCHES[0], lambda state, batch: 0.0)
    assert with_evaluation.key != before
    monkeypatch.setitem(globals(), "helper", lambda x: 2 * x)
    assert key_of() != before


def test_a_step_holds_no_arrays() -> None:
    own = own_step(plain_step, train_state(), BATCHES[0], lambda state, batch: squared(state.params, state, batch))

    def reached(value: Any, depth: int = 6) -> bool:
        if isinstance(value, jax.Array | np.ndarray):
            return True
        below = list(value) if isinstance(value, tuple | list) else list(getattr(value, "__dict__", {}).values())
        below += [*value.args] if isinstance(value, functools.partial) else []
        return depth > 0 and any(reached(item, depth - 1) for item in below)

    assert reached(own) and not reached(own.step) and not reached(own.evaluate) and not reached(own.key)
