"""Keras models on JAX through `dlfb_lab.train`. KERAS_BACKEND is fixed at import: all cases run in one interpreter."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

from tests.clouds import in_keras

pytestmark = [pytest.mark.guests("keras"), pytest.mark.slow]

CODE = """
import tempfile, os, warnings
os.environ["DLFB_STORE"] = tempfile.mkdtemp()
warnings.filterwarnings("ignore")
import dlfb_lab
rng = np.random.default_rng(0)
X = rng.normal(size=(60, 3)).astype("float32")
KIND = np.where(X[:, 0] > 0, "t cell", "b cell")
CODES = (KIND == "t cell").astype("int32")
layers, found = keras.layers, {}

def net(outputs=2, activation=None):
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((3,)), layers.Dense(4, activation="tanh"), layers.Dense(outputs, activation)])

def compiled(rate=0.05):
    model = net(1, "sigmoid")
    model.compile(optimizer=keras.optimizers.SGD(rate), loss="binary_crossentropy", metrics=["accuracy"])
    return model

# Not compiled: our loss, optimizer and metrics, members and all.
model = net()
run = dlfb_lab.train(model, (X, KIND), valid=0.25, test=0.2, epochs=15, lr=0.05, early_stop="auc:5")
found["plain"] = [run.record.started.model_kind, run.classes, run.evaluate("test")["accuracy"], run.status]
again = np.asarray(run.classes)[model.predict(X, verbose=0).argmax(1)]
found["updated"] = float((again == run.predict(X)).mean())
members = dlfb_lab.train(net(), (X, KIND), valid=0.25, epochs=4, sweep="lr=0.001,0.1")
states = [m.state for m in members.members]
difference = np.abs(states[0].get_weights()[0] - states[1].get_weights()[0]).max()
found["members"] = [members.record.members, len(set(map(id, states))), float(difference)]

# Compiled: Keras's own, against its own fit.
ours, theirs = compiled(), compiled()
options = dict(epochs=3, batch_size=60)
run = dlfb_lab.train(ours, (X, CODES), valid=(X[:20], CODES[:20]), **options)
history = theirs.fit(X, CODES, validation_data=(X[:20], CODES[:20]), shuffle=False, verbose=0, **options).history
found["fit"] = [run.keras_history, {k: [float(v) for v in values] for k, values in history.items()}]
found["weights"] = max(float(np.abs(a - b).max()) for a, b in zip(ours.get_weights(), theirs.get_weights()))
found["predict"] = float(np.abs(run.predict(X) - theirs.predict(X, verbose=0)).max())
found["evaluate"] = [run.evaluate((X, CODES)), theirs.evaluate(X, CODES, return_dict=True, verbose=0)]
found["iterations"] = int(ours.optimizer.iterations)
sizes = dlfb_lab.train(compiled(), (X, CODES), valid=0.25, epochs=2, sweep="batch_size=15,45")
found["sweep"] = [[r.history["valid/loss"].iloc[0] for r in sizes.sweep], [r.record.step for r in sizes.sweep]]
batches = [(X[i:i + 20], CODES[i:i + 20]) for i in (0, 20, 40)]
found["stream"] = float(dlfb_lab.train(compiled(), batches, epochs=2, valid=(X, CODES)).record.step)

def refusal(**options):
    try:
        dlfb_lab.train(compiled(), (X, CODES), epochs=1, **options)
    except dlfb_lab.DlfbLabError as error:
        return str(error)

found["refused"] = {name: refusal(**{name: value}) for name, value in dict(
    lr=0.1, optimizer="adam", loss="mse", metrics="auc", seeds=3, precision="bf16", scale=True).items()}
answer(found)
"""


@cache
def cases() -> Any:
    pytest.importorskip("keras")
    return in_keras("jax", CODE)


def test_a_model_that_is_not_compiled_has_our_loss_and_metrics() -> None:
    kind, classes, accuracy, status = cases()["plain"]
    assert (kind, classes, status) == ("keras", ["b cell", "t cell"], "finished")
    assert accuracy > 0.7
    assert cases()["updated"] == 1.0, "the Keras object has what was learned"


def test_members_have_models_of_their_own() -> None:
    names, models, difference = cases()["members"]
    assert names == ["lr 0.001", "lr 0.1"]
    assert models == 2
    assert difference > 1e-3


def test_a_compiled_model_has_the_history_of_its_own_fit() -> None:
    ours, theirs = cases()["fit"]
    assert set(ours) == set(theirs)
    for name, values in theirs.items():
        np.testing.assert_allclose(ours[name], values, rtol=1e-5, atol=1e-6)
    assert cases()["weights"] < 1e-5
    assert cases()["predict"] < 1e-5
    ours, theirs = cases()["evaluate"]
    for name, value in theirs.items():
        assert ours[name] == pytest.approx(value, abs=1e-5)
    assert cases()["iterations"] == 3
    assert cases()["stream"] == 6


def test_each_run_of_a_sweep_starts_from_the_model_as_it_was() -> None:
    first, steps = cases()["sweep"]
    assert first[0] == first[1]
    assert steps == [6, 2]


def test_what_a_compiled_model_decides_is_refused() -> None:
    for name, said in cases()["refused"].items():
        assert said is not None and said.startswith(f"--{name}"), (name, said)
        assert "compiled" in said, (name, said)
    assert "--sweep seed=0,1,2" in cases()["refused"]["seeds"]
