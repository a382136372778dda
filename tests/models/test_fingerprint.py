"""When kept programs are stale."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import numpy as np

import dlfb_lab
from dlfb_lab.events import Compilation
from dlfb_lab.models.fingerprint import fingerprint

X = np.linspace(-1, 1, 20, dtype=np.float32)[:, None]
Y = 2 * X[:, 0]
SCALE = 1.0


def activation(x: Any) -> Any:
    return x


class Net(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        return activation(nn.Dense(1)(x))


def scaled_loss(y_true: Any, y_pred: Any) -> Any:
    return SCALE * ((y_true - y_pred) ** 2).mean()


class Loss:
    def __init__(self, factor: float) -> None:
        self.factor = factor

    def __call__(self, y_true: Any, y_pred: Any) -> Any:
        return self.factor * ((y_true - y_pred) ** 2).mean()


def first_loss(tmp_path: Any, **options: Any) -> float:
    run = dlfb_lab.train(Net(), (X, Y), epochs=1, batch_size="full", store=tmp_path, **options)
    return float(run.history["train/loss"].iloc[0])


def test_a_helper_defined_anew_is_used(tmp_path: Any, monkeypatch: Any) -> None:
    before = first_loss(tmp_path)
    monkeypatch.setitem(globals(), "activation", lambda x: 10 * x)
    assert first_loss(tmp_path) != before


def test_a_changed_global_of_a_loss_is_used(tmp_path: Any, monkeypatch: Any) -> None:
    before = first_loss(tmp_path, loss=scaled_loss)
    monkeypatch.setitem(globals(), "SCALE", 100.0)
    np.testing.assert_allclose(first_loss(tmp_path, loss=scaled_loss), 100 * before, rtol=1e-5)


def test_a_changed_attribute_of_a_loss_is_used(tmp_path: Any) -> None:
    loss = Loss(1.0)
    before = first_loss(tmp_path, loss=loss)
    loss.factor = 100.0
    np.testing.assert_allclose(first_loss(tmp_path, loss=loss), 100 * before, rtol=1e-5)


@dataclasses.dataclass
class Unhashable:
    factor: float

    def __call__(self, y_true: Any, y_pred: Any) -> Any:
        return self.factor * ((y_true - y_pred) ** 2).mean()


def test_a_loss_that_cannot_be_hashed_trains(tmp_path: Any) -> None:
    once, twice = first_loss(tmp_path, loss=Unhashable(1.0)), first_loss(tmp_path, loss=Unhashable(2.0))
    np.testing.assert_allclose(twice, 2 * once, rtol=1e-5)


def test_nothing_changed_compiles_nothing(tmp_path: Any) -> None:
    for loss in (None, scaled_loss, Loss(3.0), functools.partial(scaled_loss)):
        for again in (False, True):
            run = dlfb_lab.train(Net(), (X, Y), epochs=1, batch_size="full", store=tmp_path, loss=loss)
            if again:
                assert not [e for e in run.record.events if isinstance(e, Compilation)]


def make(value: Any) -> Any:
    return lambda: value


def test_what_a_fingerprint_sees() -> None:
    assert fingerprint(make(1)) == fingerprint(make(1))
    assert fingerprint(make(1)) != fingerprint(make(2))
    assert fingerprint(make(1)) != fingerprint(make(1.0))
    assert fingerprint(make(np.zeros(3))) != fingerprint(make(np.ones(3)))
    assert fingerprint(lambda x: x + 1) != fingerprint(lambda x: x + 2)
    assert fingerprint(functools.partial(make, 1)) != fingerprint(functools.partial(make, 2))
    assert fingerprint(jax.jit(activation)) == fingerprint(jax.jit(activation))
    assert fingerprint(nn.Dense(3)) == fingerprint(nn.Dense(3))
    assert hash(fingerprint(Net())) == hash(fingerprint(Net()))


def test_things_that_hold_themselves_end() -> None:
    def recursive(n: int) -> int:
        return recursive(n - 1)

    ring: list[Any] = []
    ring.append(ring)
    assert fingerprint(recursive) == fingerprint(recursive)
    assert fingerprint(ring) == fingerprint(ring)


def test_an_attribute_is_no_global_that_has_its_name() -> None:
    def of(rate: float) -> Any:
        space = {"rate": rate}
        exec("def step(options, x):\n    return options.rate * x", space)
        return space["step"]

    assert fingerprint(of(0.1)) == fingerprint(of(0.2))
