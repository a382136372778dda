from __future__ import annotations

from typing import Any

import jax
import numpy as np
import optax
import pytest

from dlfb_lab.engine import schedules
from dlfb_lab.errors import OptionError

STEPS = np.arange(120)


def factors(shape: schedules.Shape) -> np.ndarray:
    return np.asarray(jax.jit(shape)(STEPS))


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("cosine", optax.cosine_decay_schedule(1.0, 100)),
        ("linear", optax.linear_schedule(1.0, 0.0, 100)),
        ("exponential", optax.exponential_decay(1.0, 100, 0.01, end_value=0.01)),
        ("constant", optax.constant_schedule(1.0)),
        (None, optax.constant_schedule(1.0)),
    ],
)
def test_a_shape_is_that_of_optax(name: str | None, theirs: Any) -> None:
    wanted = [float(theirs(step)) for step in STEPS]
    np.testing.assert_allclose(factors(schedules.choose(name, None, 100)), wanted, atol=1e-6)


@pytest.mark.parametrize("name", schedules.SHAPES)
def test_the_rate_rises_in_equal_parts_and_falls_over_the_rest(name: str) -> None:
    found = factors(schedules.choose(name, 20, 100))
    np.testing.assert_allclose(found[:20], np.arange(1, 21) / 20, rtol=1e-6)
    np.testing.assert_allclose(found[20:], factors(schedules.choose(name, None, 80))[:100], atol=1e-6)
    assert (np.diff(found[20:]) <= 0).all()


def test_no_update_is_lost_to_a_rate_of_zero() -> None:
    for name in schedules.SHAPES:
        for warmup in (None, 1, 5):
            assert (factors(schedules.choose(name, warmup, 120)) > 0).all()


@pytest.mark.parametrize(
    ("warmup", "total", "updates"),
    [(None, 100, 0), (0, 100, 0), (10, 100, 10), (10, None, 10), (0.25, 100, 25), (0.001, 100, 1), (10.0, 0, 10)],
)
def test_a_warm_up_is_steps_or_a_fraction_of_them(warmup: Any, total: int | None, updates: int) -> None:
    assert schedules.choose(None, warmup, total).warmup == updates


def test_steps_whose_gradients_are_accumulated_are_one_update() -> None:
    assert schedules.choose("cosine", 10, 100, accumulate=4) == schedules.Shape("cosine", 3, 25)


def test_a_rate_that_stays_is_told_apart() -> None:
    assert not schedules.choose(None, None, None).changes
    assert not schedules.choose("constant", 1, 10).changes
    assert schedules.choose("constant", 2, 10).changes
    assert schedules.choose("Linear", None, 10).changes


@pytest.mark.parametrize(
    ("schedule", "warmup", "total", "said"),
    [
        ("cosin", None, 100, "--schedule cosin: there is no such schedule. Did you mean `cosine`.*Known: constant"),
        (optax.constant_schedule(1.0), None, 100, "--schedule a function: .* An optax schedule goes to --lr"),
        ("cosine", None, None, "--schedule cosine: how fast to fall depends on the number of steps.*--steps 10000"),
        (None, 0.1, 0, "--warmup 0.1: a fraction of how many steps"),
        (None, -1, 100, "--warmup -1: give a number of steps, or a fraction"),
        (None, 1.5, 100, "--warmup 1.5: give"),
        (None, True, 100, "--warmup True: give"),
        (None, "long", 100, "--warmup 'long': give"),
        (None, float("nan"), 100, "--warmup nan: give"),
        (None, 100, 100, "--warmup 100: the run has only 100 steps"),
    ],
)
def test_what_cannot_be_used_is_refused(schedule: Any, warmup: Any, total: int | None, said: str) -> None:
    with pytest.raises(OptionError, match=said):
        schedules.choose(schedule, warmup, total)
