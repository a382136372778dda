"""Optimizers beside optax's own, in compiled steps."""

from __future__ import annotations

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dlfb_lab.engine import optimizers
from dlfb_lab.engine.optimizers import Optimizer
from dlfb_lab.errors import OptionError
from dlfb_lab.models.transfer import freeze

pytestmark = pytest.mark.filterwarnings(
    "ignore:Specifying a key will be required:UserWarning", "ignore::DeprecationWarning"
)

RNG = np.random.default_rng(0)
X = RNG.normal(size=(16, 8)).astype(np.float32)
OTHERS_BITS_DIFFER = ("adafactor", "fromage")
"""These compute a constant from the rate, which Python does in float64 and the program in float32."""


def start(dtype: Any = np.float32) -> Any:
    rng = np.random.default_rng(1)
    return {
        "dense": {
            "kernel": jnp.asarray(rng.normal(size=(8, 4)), dtype),
            "bias": jnp.asarray(rng.normal(size=4), dtype),
        }
    }


def loss(params: Any, x: Any = X) -> Any:
    outputs = jnp.tanh(x.astype(params["dense"]["bias"].dtype) @ params["dense"]["kernel"] + params["dense"]["bias"])
    return ((outputs - 0.3) ** 2).mean()


def train(make: Any, numbers: Any, steps: int = 8, params: Any = None) -> tuple[Any, Any]:
    """Takes jitted steps whose numbers are arguments, and returns parameters and state."""

    @jax.jit
    def step(params: Any, state: Any, numbers: Any) -> Any:
        value, gradients = jax.value_and_grad(loss)(params)
        transformation = optax.with_extra_args_support(make(numbers))
        updates, state = transformation.update(gradients, state, params, value=value)
        return optax.apply_updates(params, updates), state

    params = start() if params is None else params
    state = make(numbers).init(params)
    for _ in range(steps):
        params, state = step(params, state, numbers)
    return params, state


def arrays(chosen: Optimizer) -> dict[str, jax.Array]:
    return {name: jnp.asarray(value, float) for name, value in chosen.hyper.items()}


def assert_same(a: Any, b: Any, **tolerance: float) -> None:
    jax.tree.map(lambda u, v: np.testing.assert_allclose(u, v, **{"rtol": 0, **tolerance}), a, b)


def test_optimizers_go_by_the_names_of_optax() -> None:
    assert {"adam", "adamw", "sgd", "rmsprop", "lion", "adagrad"} <= set(optimizers.names())
    chosen = optimizers.choose("AdamW", 0.1)
    assert (chosen.name, chosen.hyper) == ("adamw", {"lr": 0.1})
    assert isinstance(chosen.make({"lr": 0.1}), optax.GradientTransformationExtraArgs)
    assert (optimizers.choose(None, None).name, optimizers.choose(None, None).hyper) == ("adam", {"lr": 1e-3})
    assert optimizers.choose("sgd", None).hyper == {"lr": 0.01}
    assert optimizers.choose(optax.sgd, 0.5).name == "sgd"


@pytest.mark.parametrize("name", optimizers.names())
def test_a_rate_that_is_an_argument_changes_no_bit(name: str) -> None:
    chosen = optimizers.choose(name, 1e-3)
    ours, _ = train(chosen.make, arrays(chosen))
    theirs, _ = train(lambda _: getattr(optax, name)(1e-3), {})
    assert_same(ours, theirs, rtol=1e-6 if name in OTHERS_BITS_DIFFER else 0)
    assert float(loss(ours)) < float(loss(start()))


@pytest.mark.parametrize("name", optimizers.names())
def test_state_and_parameters_keep_their_dtypes_with_everything_around(name: str) -> None:
    scheduled: Any = {} if name in ("optimistic_adam", "rprop", "sm3") else {"schedule": "cosine", "warmup": 2}
    for dtype in (np.float32, jnp.bfloat16):
        for every in (1, 2):
            chosen = optimizers.choose(
                name, None, clip=1.0, accumulate=every, weight_decay=0.01, steps_total=20, **scheduled
            )

            def step(params: Any, state: Any, numbers: Any, chosen: Optimizer = chosen) -> Any:
                updates, state = chosen.make(numbers).update(params, state, params, value=jnp.zeros(()))
                return optax.apply_updates(params, updates), state

            params = start(dtype)
            state = jax.eval_shape(lambda p, n, c=chosen: c.make(n).init(p), params, arrays(chosen))
            new = jax.eval_shape(step, params, state, arrays(chosen))
            assert jax.tree.structure(new) == jax.tree.structure((params, state))
            for after, before in zip(jax.tree.leaves(new), jax.tree.leaves((params, state)), strict=True):
                assert (after.shape, after.dtype) == (before.shape, before.dtype)


def test_members_of_one_program_have_rates_of_their_own() -> None:
    chosen = optimizers.choose("adam", 1.0, weight_decay=0.1, clip=1.0)
    assert set(chosen.hyper) == {"lr", "weight_decay", "clip"}
    each = [{"lr": 1e-3, "weight_decay": 0.0, "clip": 9.0}, {"lr": 1e-1, "weight_decay": 0.5, "clip": 0.01}]
    together = {name: jnp.asarray([one[name] for one in each]) for name in chosen.hyper}

    def trained(numbers: Any) -> Any:
        return train(chosen.make, numbers)[0]

    both = jax.vmap(trained)(together)
    for i, one in enumerate(each):
        assert_same(jax.tree.map(lambda leaf, i=i: leaf[i], both), trained(one), rtol=1e-5, atol=1e-6)


def test_the_key_holds_what_is_compiled_and_not_the_numbers() -> None:
    same = [optimizers.choose("adam", lr, clip=clip, weight_decay=0.1) for lr, clip in ((1e-3, 1.0), (1e-2, 2.0))]
    assert same[0].key == same[1].key
    assert same[0] != same[1]
    others = [
        optimizers.choose("sgd", 1e-3),
        optimizers.choose("adam", 1e-3),
        optimizers.choose("adam", 1e-3, clip=1.0),
        optimizers.choose("adam", 1e-3, weight_decay=0.1),
        optimizers.choose("adam", 1e-3, weight_decay=0.1, decay_mask="all"),
        optimizers.choose("adam", 1e-3, accumulate=2),
        optimizers.choose("adam", 1e-3, warmup=5),
        optimizers.choose("adam", 1e-3, schedule="cosine", steps_total=10),
        optimizers.choose("adam", 1e-3, schedule="cosine", steps_total=20),
        optimizers.choose("adam", optax.linear_schedule(1e-3, 0, 10)),
        optimizers.choose(optax.adam(1e-3), None),
        optimizers.choose(optax.adam(1e-3), None, clip=1.0),
    ]
    assert len({chosen.key for chosen in others}) == len(others)
    given = optax.adam(1e-3)
    assert optimizers.choose(given, None).key == optimizers.choose(given, None).key
    assert optimizers.choose("adam", 1e-3, steps_total=10).key == optimizers.choose("adam", 1e-3, steps_total=20).key


def test_adam_with_weight_decay_is_adamw() -> None:
    chosen = optimizers.choose("adam", 0.01, weight_decay=0.3, decay_mask="all")
    ours, _ = train(chosen.make, arrays(chosen))
    theirs, _ = train(lambda _: optax.adamw(0.01, weight_decay=0.3), {})
    assert_same(ours, theirs, rtol=1e-6)


@pytest.mark.parametrize("name", ["sgd", "rmsprop", "adagrad", "adamw", "lion"])
@pytest.mark.parametrize("schedule", [None, "linear"])
def test_weight_decay_takes_rate_times_decay_off_the_weights_alone(name: str, schedule: str | None) -> None:
    options: Any = {"schedule": schedule, "steps_total": 4 if schedule else None}
    chosen = optimizers.choose(name, 0.1, weight_decay=0.5, **options)
    transformation = chosen.make(arrays(chosen))
    params = start()
    state = transformation.init(params)
    nothing = jax.tree.map(jnp.zeros_like, params)
    for rate in (0.1, 0.075) if schedule else (0.1, 0.1):
        updates, state = transformation.update(nothing, state, params)
        np.testing.assert_allclose(updates["dense"]["kernel"], -rate * 0.5 * params["dense"]["kernel"], rtol=1e-5)
        np.testing.assert_array_equal(updates["dense"]["bias"], 0)


def test_a_decay_of_zero_changes_nothing() -> None:
    chosen = optimizers.choose("sgd", 0.1, weight_decay=0)
    assert_same(train(chosen.make, arrays(chosen))[0], train(lambda _: optax.sgd(0.1), {})[0], rtol=1e-6)


@pytest.mark.parametrize("clip", [0.01, 100.0])
def test_clipping_is_optax_clipping(clip: float) -> None:
    chosen = optimizers.choose("sgd", 0.1, clip=clip)
    ours, _ = train(chosen.make, arrays(chosen))
    theirs, _ = train(lambda _: optax.chain(optax.clip_by_global_norm(clip), optax.sgd(0.1)), {})
    assert_same(ours, theirs, rtol=1e-6)
    moved = optax.global_norm(jax.tree.map(jnp.subtract, ours, start()))
    assert (float(moved) <= 8 * 0.1 * clip * 1.001) == (clip == 0.01) or clip == 100.0


def test_a_longer_gradient_is_scaled_to_the_norm() -> None:
    chosen = optimizers.choose("sgd", 1.0, clip=0.5)
    transformation = chosen.make(chosen.hyper)
    gradients = jax.tree.map(lambda leaf: 100 * leaf, start())
    updates, _ = transformation.update(gradients, transformation.init(start()), start())
    assert float(optax.global_norm(updates)) == pytest.approx(0.5, rel=1e-5)


def test_accumulation_averages_batches_and_leaves_parameters_alone_in_between() -> None:
    chosen = optimizers.choose("adam", 0.01, accumulate=4, clip=1.0, schedule="linear", steps_total=12)
    ours = chosen.make(chosen.hyper)
    theirs = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(lambda update: 0.01 * (1 - update / 3)))

    @jax.jit
    def our_step(params: Any, state: Any, x: Any) -> Any:
        updates, state = ours.update(jax.grad(loss)(params, x), state, params, value=jnp.zeros(()))
        return optax.apply_updates(params, updates), state

    @jax.jit
    def their_step(params: Any, state: Any) -> Any:
        updates, state = theirs.update(jax.grad(loss)(params, X), state, params)
        return optax.apply_updates(params, updates), state

    params = expected = start()
    state, their_state = ours.init(params), theirs.init(params)
    for step in range(12):
        new, state = our_step(params, state, X[4 * (step % 4) : 4 * (step % 4) + 4])
        if step % 4 < 3:
            assert_same(new, params)
        else:
            expected, their_state = their_step(expected, their_state)
            assert_same(new, expected, rtol=1e-4, atol=1e-6)
            assert bool((new["dense"]["kernel"] != params["dense"]["kernel"]).any())
        params = new


@pytest.mark.parametrize("accumulate", [None, 2])
def test_the_value_of_the_loss_reaches_an_optimizer_that_asks_for_it(accumulate: int | None) -> None:
    seen = []

    def update(updates: Any, state: Any, params: Any = None, *, value: Any, **extra: Any) -> Any:
        seen.append(value)
        return updates, state

    given = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
    chosen = optimizers.choose(given, None, clip=1.0, accumulate=accumulate)
    transformation = chosen.make(chosen.hyper)
    transformation.update(start(), transformation.init(start()), start(), value=jnp.asarray(3.5))
    assert seen
    assert chosen.describe() == {
        "optimizer": "the given optax optimizer",
        "clip": 1.0,
        **({"accumulate": 2} if accumulate else {}),
    }


def test_an_object_is_taken_as_it_is() -> None:
    given = optax.multi_transform({"a": optax.adam(0.01), "b": optax.sgd(0.1)}, {"dense": {"kernel": "a", "bias": "b"}})
    chosen = optimizers.choose(given, None)
    assert chosen.hyper == {}
    assert_same(train(chosen.make, {})[0], train(lambda _: given, {})[0])
    steps = optax.MultiSteps(optax.sgd(0.1), 2)
    assert_same(train(optimizers.choose(steps, None).make, {})[0], train(lambda _: steps, {})[0])


def test_a_schedule_of_optax_is_the_rate() -> None:
    schedule = optax.cosine_decay_schedule(0.1, 8)
    chosen = optimizers.choose("sgd", schedule, weight_decay=0.1, decay_mask="all")
    assert set(chosen.hyper) == {"weight_decay"}
    ours, _ = train(chosen.make, arrays(chosen))
    theirs, _ = train(lambda _: optax.chain(optax.add_decayed_weights(0.1), optax.sgd(schedule)), {})
    assert_same(ours, theirs, rtol=1e-5, atol=1e-7)
    assert json.loads(json.dumps(chosen.describe()))["lr"] == "given schedule"


def test_a_named_schedule_is_the_same_as_optax_with_it() -> None:
    chosen = optimizers.choose("adam", 0.1, schedule="cosine", steps_total=8)
    theirs = optax.adam(optax.cosine_decay_schedule(0.1, 8))
    assert_same(train(chosen.make, arrays(chosen))[0], train(lambda _: theirs, {})[0], rtol=1e-5, atol=1e-6)


def test_weights_decay_beside_frozen_ones() -> None:
    for mask in ("weights", "*/kernel", {"dense": {"kernel": True, "bias": False}}):
        chosen = optimizers.choose("adam", 0.1, weight_decay=0.5, decay_mask=mask)
        ours, _ = train(lambda numbers, c=chosen: freeze(c.make(numbers), "dense/bias"), arrays(chosen))
        np.testing.assert_array_equal(ours["dense"]["bias"], start()["dense"]["bias"])
        assert bool((ours["dense"]["kernel"] != start()["dense"]["kernel"]).all())


def test_what_was_chosen_can_be_written_down() -> None:
    chosen = optimizers.choose(
        "sgd", np.float32(0.5), schedule="linear", warmup=0.1, steps_total=100, weight_decay=1, clip=2, accumulate=2
    )
    assert json.loads(json.dumps(chosen.describe())) == {
        "optimizer": "sgd",
        "lr": 0.5,
        "clip": 2.0,
        "weight_decay": 1.0,
        "accumulate": 2,
        "schedule": "linear",
        "warmup": 10,
        "decay_mask": "weights",
    }


@pytest.mark.parametrize(
    ("optimizer", "lr", "options", "said"),
    [
        ("adm", None, {}, "--optimizer adm: optax has no such optimizer. Did you mean `adam`"),
        ("lbfgs", None, {}, "--optimizer lbfgs: it searches along a line.*Take another, such as adam"),
        ("scale_by_rprop", None, {}, "--optimizer scale_by_rprop: optax has no such optimizer"),
        (3, None, {}, "a int is no optimizer"),
        ("adam", 0, {}, "--lr 0: give a number above zero"),
        ("adam", -1.0, {}, "--lr -1.0: give a number above zero"),
        ("adam", float("nan"), {}, "--lr nan"),
        ("adam", float("inf"), {}, "--lr inf"),
        ("adam", "fast", {}, "--lr 'fast': give a number above zero"),
        (optax.adam(1.0), 0.1, {}, "--lr 0.1: the optimizer is an object and has its rate already"),
        (optax.adam(1.0), None, {"schedule": "cosine"}, "--schedule: the optimizer is an object and has its rate"),
        (optax.adam(1.0), None, {"weight_decay": 0.1}, "--weight-decay 0.1: .* has its weight decay already"),
        ("adam", None, {"weight_decay": -0.1}, "--weight-decay -0.1: give a number of at least zero"),
        ("adam", None, {"weight_decay": "some"}, "--weight-decay 'some'"),
        ("adam", None, {"decay_mask": "all"}, "--decay-mask: nothing decays. Say how much: --weight-decay"),
        ("adam", None, {"clip": 0}, "--clip 0: give a number above zero"),
        ("adam", None, {"accumulate": 0}, "--accumulate 0: give a whole number above zero"),
        ("adam", None, {"accumulate": 1.5}, "--accumulate 1.5"),
        ("adam", None, {"accumulate": True}, "--accumulate True"),
        ("adam", optax.constant_schedule(0.1), {"warmup": 3}, "--warmup: --lr is a schedule already"),
        ("rprop", None, {"warmup": 3}, "--optimizer rprop: optax lets its rate not change"),
        ("sm3", optax.constant_schedule(0.1), {}, "--optimizer sm3: optax lets its rate not change"),
    ],
)
def test_what_cannot_be_used_is_refused(optimizer: Any, lr: Any, options: Any, said: str) -> None:
    with pytest.raises(OptionError, match=said):
        optimizers.choose(optimizer, lr, **options)


def test_a_rate_may_be_any_kind_of_number() -> None:
    for rate in (np.float32(0.5), np.float64(0.5), jnp.float32(0.5)):
        assert optimizers.choose("adam", rate).hyper == {"lr": 0.5}
