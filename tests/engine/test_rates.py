"""The range test: on losses made up for it, and on small models, whose training tells whether the choice was good."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dlfb_lab.engine import optimizers
from dlfb_lab.engine.rates import COUNT, find_rate


def script(loss: Callable[[float], float], noise: float = 0.0) -> Callable[[float], float]:
    rng = np.random.default_rng(0)
    return lambda rate: loss(rate) + noise * float(rng.normal())


def valley(rate: float) -> float:
    """Falls from 1 to 0.5 at 0.1, and rises from there."""
    return 0.5 + 0.1 * abs(math.log10(rate) + 1)


@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_a_third_of_the_rate_of_the_lowest_loss_is_taken(noise: float) -> None:
    found = find_rate(script(valley, noise), 1e-3)
    assert 0.015 < found.chosen < 0.06
    assert found.reason.startswith("The loss was lowest around 0.")
    assert len(found.rates) == len(found.losses) == COUNT
    assert (found.rates.dtype, found.losses.dtype) == (np.float32, np.float32)
    assert (np.diff(found.rates) > 0).all()
    assert float(f"{found.chosen:.1e}") == found.chosen


@pytest.mark.parametrize("broken", [math.inf, math.nan, 1e9])
def test_the_test_ends_where_training_breaks_down_and_keeps_its_distance(broken: float) -> None:
    found = find_rate(lambda rate: valley(rate) if rate < 0.12 else broken, 1e-3)
    assert 0.12 < found.rates[-1] < 0.2
    assert found.chosen == pytest.approx(0.012, rel=0.3)
    assert "broke down at 0.1; a tenth of that" in found.reason
    assert not found.losses[-1] < 1e9


def test_one_odd_batch_is_no_break_down() -> None:
    seen: list[float] = []

    def odd(rate: float) -> float:
        seen.append(rate)
        return 10.0 if len(seen) == 60 else valley(rate)

    assert len(find_rate(odd, 1e-3).rates) == COUNT


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_a_loss_that_never_falls_leaves_the_usual_rate(noise: float) -> None:
    found = find_rate(script(lambda rate: 1.0, noise), 1e-3)
    assert found.chosen == 1e-3
    assert found.reason.startswith("The loss fell at no rate")


def test_a_usual_rate_that_would_break_down_is_not_taken() -> None:
    for at in (3e-3, 2e-6):
        found = find_rate(lambda rate, at=at: 1.0 if rate < at else math.inf, 1e-3)  # type: ignore[misc]
        assert found.chosen == pytest.approx(at / 10, rel=0.2)
        assert "before the loss had fallen" in found.reason
    assert find_rate(lambda rate: 1.0 if rate < 0.5 else math.inf, 1e-3).chosen == 1e-3


def test_a_loss_that_is_not_finite_from_the_start_is_no_matter_of_the_rate() -> None:
    found = find_rate(lambda rate: math.nan, 1e-3)
    assert (found.chosen, len(found.losses)) == (1e-3, 1)
    assert "not finite before any update" in found.reason


def test_a_negative_loss_is_a_loss() -> None:
    found = find_rate(lambda rate: valley(rate) - 2, 1e-3)
    assert len(found.rates) == COUNT
    assert 0.02 < found.chosen < 0.05
    assert len(find_rate(lambda rate: -1.0 if rate < 1e-3 else math.nan, 1e-3).rates) < COUNT


RNG = np.random.default_rng(0)
INPUTS = RNG.normal(size=(1000, 10)).astype(np.float32)
PROBLEMS = {
    "regression": np.sin(INPUTS[:, :1]) + INPUTS[:, 1:2] * INPUTS[:, 2:3] + 0.1 * RNG.normal(size=(1000, 1)),
    "large targets": 100 * (INPUTS[:, :1] + INPUTS[:, 1:2] * INPUTS[:, 2:3]),
}


class Training:
    """A perceptron with one hidden layer, on batches of 32."""

    def __init__(self, targets: Any, optimizer: str) -> None:
        x, y = jnp.asarray(INPUTS), jnp.asarray(targets, jnp.float32)
        self.chosen = optimizers.choose(optimizer, None)

        def loss(params: Any, x: Any, y: Any) -> Any:
            return ((jax.nn.relu(x @ params["w"] + params["b"]) @ params["v"] - y) ** 2).mean()

        @jax.jit
        def step(params: Any, state: Any, rows: Any, rate: Any) -> Any:
            value, gradients = jax.value_and_grad(loss)(params, x[rows], y[rows])
            updates, state = self.chosen.make({"lr": rate}).update(gradients, state, params)
            return optax.apply_updates(params, updates), state, value

        self.step, self.loss = step, jax.jit(lambda params: loss(params, x, y))

    def start(self) -> Any:
        rng = np.random.default_rng(1)
        params = {
            "w": jnp.asarray(rng.normal(size=(10, 64)) / 10**0.5, jnp.float32),
            "b": jnp.zeros(64),
            "v": jnp.asarray(rng.normal(size=(64, 1)) / 8, jnp.float32),
        }
        return params, self.chosen.make(self.chosen.hyper).init(params)

    def batches(self) -> Iterator[np.ndarray]:
        rng = np.random.default_rng(2)
        while True:
            yield from rng.permutation(1000)[:992].reshape(31, 32)

    def find(self) -> float:
        params, state = self.start()
        batches = self.batches()

        def run_step(rate: float) -> float:
            nonlocal params, state
            params, state, value = self.step(params, state, next(batches), np.float32(rate))
            return float(value)

        return find_rate(run_step, self.chosen.hyper["lr"]).chosen

    def trained(self, rate: float, steps: int = 310) -> float:
        params, state = self.start()
        for _, rows in zip(range(steps), self.batches(), strict=False):
            params, state, _ = self.step(params, state, rows, np.float32(rate))
        loss = float(self.loss(params))
        return loss if math.isfinite(loss) else math.inf


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("problem", PROBLEMS)
def test_the_chosen_rate_trains_nearly_as_well_as_the_best_of_many(problem: str, optimizer: str) -> None:
    training = Training(PROBLEMS[problem], optimizer)
    start = training.trained(1e-3, steps=0)
    best = min(training.trained(rate) for rate in 10.0 ** np.arange(-6.0, 1.0, 0.5))
    assert best < start / 2
    assert start - training.trained(training.find()) > 0.8 * (start - best)


def test_where_time_is_up_it_chooses_from_what_was_tried() -> None:
    left = iter([True] * 30)
    found = find_rate(script(valley, 0.0), 1e-3, lambda: next(left, False))
    assert len(found.rates) == 30 and found.chosen == 1e-3
    assert found.reason.startswith("Time allowed 30 of 200 rates, up to 1e-05.")
    assert find_rate(script(valley, 0.0), 1e-3, lambda: False).chosen == 1e-3
