"""From what the user gave to an experiment: what is refused, what is said aloud, what reaches the engine."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import numpy as np
import pandas as pd
import pytest

from dlfb_lab.assemble import TrainRequest, session
from dlfb_lab.run import Session

RNG = np.random.default_rng(0)
X = RNG.normal(size=(20, 2)).astype(np.float32)
Y = X[:, 0]


class Net(nn.Module):
    outputs: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Dense(self.outputs)(x)


def assembled(data: Any, outputs: int = 1, **options: Any) -> Session:
    return session(TrainRequest(model=Net(outputs), data=data, **options))[0]


def said(ready: Session, level: str) -> list[str]:
    return [text for its, text in ready.experiment.notices if its == level]


def test_a_small_spread_about_a_large_number_is_scaled_not_lost() -> None:
    x = 1e8 + RNG.normal(size=(20, 2))
    ready = assembled((x, Y), scale=True, valid=0.2)
    for part in ready.parts.values():
        assert isinstance(part.x, np.ndarray)
        assert part.x.dtype == np.float32
        assert part.x.std() > 0.3
    assert ready.read((x, Y)).x.std() == pytest.approx(1, abs=0.3)


def test_a_column_that_32_bits_flatten_is_warned_of_unless_scaled() -> None:
    table = pd.DataFrame({"mass": 1e9 + RNG.normal(size=20), "age": X[:, 1], "y": Y})
    (warning,) = said(assembled(table, target="y"), "warning")
    assert "`mass`" in warning
    assert "--scale" in warning
    assert not said(assembled(table, target="y", scale=True), "warning")


def test_whole_numbers_are_scaled_in_a_dict_too() -> None:
    counts = RNG.integers(0, 1000, size=(20, 2))
    ready = assembled((counts, Y), scale=True)
    assert isinstance(ready.parts["train"].x, np.ndarray)
    np.testing.assert_allclose(ready.parts["train"].x.std(axis=0), 1, rtol=1e-5)
