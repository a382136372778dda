"""Keras on other backends. KERAS_BACKEND is fixed at import, so each backend runs all its cases in one interpreter."""

from __future__ import annotations

import importlib.util
from functools import cache
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dlfb_lab.engine import losses
from dlfb_lab.models.keras_guest import OPTIMIZERS
from tests.clouds import expected_losses, in_keras

# The first test of a backend waits for all its cases, most of which is importing.
pytestmark = [pytest.mark.guests, pytest.mark.slow, pytest.mark.timeout(900)]
pytest.importorskip("keras")
BACKENDS = [
    pytest.param(name, marks=pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=f"no {name}"))
    for name in ("torch", "tensorflow")
]

CODE = '''
import sys
from tests.clouds import RATE, STEPS, clouds, keras_model
from dlfb_lab.engine import guest_losses
from dlfb_lab.engine.task import Task
from dlfb_lab.errors import DlfbLabError
from dlfb_lab.models import keras_guest, torch as torch_guest

X = np.random.default_rng(0).normal(size=(24, 3)).astype(np.float32)
Y = np.random.default_rng(1).normal(size=(24, 2)).astype(np.float32)
CLASSES = np.random.default_rng(2).integers(0, 2, 24).astype(np.int32)
W = np.random.default_rng(3).normal(size=(3, 2)).astype(np.float32)
SHARE = np.stack([CLASSES * 0.75, 1 - CLASSES * 0.75], 1).astype(np.float32)
layers, found = keras.layers, {}

def linear(*more, outputs=2):
    model = keras.Sequential([keras.Input((3,)), layers.Dense(outputs, name="dense"), *more], name="linear")
    model.get_layer("dense").set_weights([W[:, :outputs], np.zeros(outputs, np.float32)])
    return model

def guest(model, **given):
    usual = dict(loss="mean_squared_error", optimizer="sgd", lr=0.1, seed=0, sample=(X, Y))
    return keras_guest.adapt(model).make(**{**usual, **given})

def compiled(model, y, **how):
    model.compile(optimizer=keras.optimizers.SGD(0.1), **how)
    return guest(model, loss=None, optimizer=None, lr=None, sample=(X, y))

def steps(trained, count, batch=(X, Y)):
    return [trained.step(batch)["loss"] for _ in range(count)]

def refusal(call):
    try:
        call()
    except DlfbLabError as error:
        return f"{type(error).__name__}: {error}"

# The linear classifier of the four frameworks.
trained = guest(keras_model(), lr=RATE, sample=clouds())
found["clouds"] = steps(trained, STEPS, clouds())
found["right"] = float(((trained.outputs(clouds()[0]) > 0.5) == (clouds()[1] == 1)).mean())
compiled_clouds = keras_model()
compiled_clouds.compile(optimizer=keras.optimizers.SGD(RATE), loss="mse")
own = guest(compiled_clouds, loss=None, optimizer=None, lr=None, sample=clouds())
found["compiled clouds"] = steps(own, STEPS, clouds())

# What is known before training.
factory = keras_guest.adapt(linear())
found["facts"] = [factory.kind, factory.name, factory.parameter_count, factory.loss, factory.link]
found["versions"] = sorted(factory.versions)
found["chosen"] = [list(factory.optimizer(*o)[:2]) for o in (
    (None, None), ("SGD", None), (keras.optimizers.Adam(0.5), None), (keras.optimizers.Adam, 0.25))]
found["others"] = [keras_guest.adapt(other) for other in (None, "model", len, 3)]
found["not torch's"] = torch_guest.adapt(linear())
unbuilt = keras.Sequential([layers.Dense(2)])
found["unbuilt"] = [keras_guest.adapt(unbuilt).parameter_count, list(keras_guest.adapt(unbuilt).outputs(X, 0).shape)]
found["built"] = keras_guest.adapt(unbuilt).parameter_count

# Losses by name.
targets = {"mean_squared_error": Y, "mean_absolute_error": Y, "huber": 4 * Y, "cosine_similarity": Y,
           "kl_divergence": SHARE, "cross_entropy": CLASSES, "binary_crossentropy": np.stack([CLASSES, 1 - CLASSES], 1)}
found["losses"] = {}
for name, y in targets.items():
    trained = guest(linear(), loss=name, sample=(X, y))
    scored = trained.scores(trained.outputs(X), y)["loss"]
    found["losses"][name] = [scored, trained.step((X, y))["loss"]]

# Optimizers by name.
found["optimizers"] = {name: steps(guest(linear(), optimizer=name, lr=0.05), 15) for name in keras_guest.OPTIMIZERS}
found["class"] = steps(guest(linear(), optimizer=keras.optimizers.SGD), 3)
sgd = keras.optimizers.SGD(0.1)
found["object"] = steps(guest(linear(), optimizer=sgd, lr=None), 3)
found["used"] = int(sgd.iterations.numpy()) if hasattr(sgd.iterations, "numpy") else int(sgd.iterations)
found["sgd"] = steps(guest(linear()), 3)
clipped = linear()
guest(clipped, lr=1.0, clip=0.01).step((X, Y))
found["moved"] = float(sum(((a - b) ** 2).sum() for a, b in zip(clipped.get_weights(), linear().get_weights())) ** 0.5)

# Losses of the user's own.
def own_loss(y_true, y_pred):
    return keras.ops.mean((y_true - 2 * y_pred) ** 2, axis=-1)

regression = Task("regression", (), False, 2)
for name, loss in {"function": own_loss, "keras object": keras.losses.MeanSquaredError()}.items():
    chosen = guest_losses.choose(loss, regression, (24, 2))
    found[name] = [chosen.name, chosen.link, guest(linear(), loss=guest_losses.given(chosen)).step((X, Y))["loss"]]
found["regression"] = [guest_losses.regression_only(x) for x in (keras.losses.MeanSquaredError(), own_loss)]

# Compiled models: their own loss, and their own metrics.
softmax, sigmoid = layers.Activation("softmax"), layers.Activation("sigmoid")
def brought(loss, *more):
    model = linear(*more)
    model.compile(loss=loss)
    return [keras_guest.adapt(model).loss, keras_guest.adapt(model).link]

found["links"] = [
    brought("mse"), brought(keras.losses.BinaryCrossentropy(from_logits=True)),
    brought("sparse_categorical_crossentropy", softmax), brought("binary_crossentropy", sigmoid),
    brought(keras.losses.CategoricalCrossentropy(from_logits=True)), brought(own_loss), brought(None)]
trained = compiled(linear(softmax), CLASSES, loss="sparse_categorical_crossentropy", metrics=["accuracy"])
outputs = trained.outputs(X)
found["evaluated batch"] = trained.evaluate((X, CLASSES))
found["accuracy"] = [float((outputs.argmax(1) == CLASSES).mean()),
                     trained.scores(outputs, CLASSES), trained.step((X, CLASSES)), trained.step((X, CLASSES))["loss"]]
trained.step((X[:5], CLASSES[:5]))
found["scored"] = [trained.scores(trained.outputs(X), CLASSES)["loss"], trained.step((X, CLASSES))["loss"]]
one_hot = compiled(linear(softmax), CLASSES, loss="categorical_crossentropy", metrics=["accuracy"])
found["one-hot"] = one_hot.step((X, CLASSES))
single = compiled(linear(sigmoid, outputs=1), CLASSES, loss="binary_crossentropy", metrics=["accuracy"])
found["single"] = [single.step((X, CLASSES)), float(((single.outputs(X)[:, 0] > 0.5) == CLASSES).mean())]
weighted = compiled(linear(), Y, loss="mse")
found["weighted"] = weighted.step((X, Y, np.zeros(24, np.float32)))["loss"]
regular = keras.Sequential([keras.Input((3,)), layers.Dense(2, kernel_regularizer=keras.regularizers.L2(1.0))])
trained = compiled(regular, Y, loss="mse")
scored = trained.scores(trained.outputs(X), Y)["loss"]
found["regularised"] = [scored, trained.step((X, Y))["loss"], float(((trained.outputs(X) - Y) ** 2).mean())]

class Own(keras.Model):
    """Brings its own training step."""

    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(2)

    def call(self, x):
        return self.dense(x)

    def train_step(self, data):
        return {"first": 1.0, "loss": 2.0, "many": np.zeros(3)}

own_step = Own()
own_step(X)
own_step.compile(run_eagerly=True)
trained = guest(own_step, loss=None, optimizer=None, lr=None)
found["own step"] = [list(trained.step((X, Y)).items()), keras_guest.adapt(own_step).loss]
Own.train_step = lambda self, data: {"first": 1.0}
lossless = Own()
lossless(X)
lossless.compile(run_eagerly=True)
found["lossless"] = refusal(lambda: guest(lossless, loss=None, optimizer=None, lr=None).step((X, Y)))

# Random numbers, running statistics, coming back.
def dropping(**more):
    return linear(layers.BatchNormalization(), layers.Dropout(0.5, **more))

found["seeds"] = [steps(guest(dropping(), seed=seed), 4) for seed in (0, 0, 1)]
found["given seeds"] = [steps(guest(dropping(seed=7), seed=seed), 2) for seed in (0, 1)]
model = dropping()
trained = guest(model, optimizer="adam", lr=0.05)
steps(trained, 3)
statistics = model.layers[1].moving_mean.value * 1
found["evaluated"] = bool((trained.outputs(X) == trained.outputs(X)).all())
found["same statistics"] = bool(np.allclose(keras.ops.convert_to_numpy(statistics),
                                            keras.ops.convert_to_numpy(model.layers[1].moving_mean.value)))
kept = trained.keep()
if "torch" in sys.modules:
    import torch
    torch.manual_seed(5)
    before = torch.rand(4)
    torch.manual_seed(5)
    trained.step((X, Y))
    found["untouched"] = bool((torch.rand(4) == before).all())
    trained.restore(kept)
found["kept"] = [steps(trained, 3), trained.restore(kept), steps(trained, 3), trained.restore(kept), steps(trained, 3)]
found["finished"] = trained.finish() is model

# Inputs.
named = keras.Input((3,), name="what"), keras.Input((1,), name="who", dtype="int32")
joined = layers.Concatenate()([named[0], layers.Flatten()(layers.Embedding(2, 4)(named[1]))])
model = keras.Model({"what": named[0], "who": named[1]}, layers.Dense(2)(joined))
x = {"what": X, "who": CLASSES[:, None]}
trained = guest(model, sample=(x, Y))
found["named"] = [steps(trained, 5, (x, Y)), list(trained.outputs(x).shape)]
fixed = X.copy()
fixed.setflags(write=False)
trained = guest(linear(), sample=(fixed, Y))
found["read-only"] = steps(trained, 2, (fixed, Y)) == steps(guest(linear()), 2)
trained.step((fixed[:7], Y[:7]))
frozen = linear(layers.Dense(2))
frozen.layers[0].trainable = False
found["frozen"] = keras_guest.adapt(frozen).parameter_count

# What is refused.
two = keras.Model(named[0], [layers.Dense(2)(named[0]), layers.Dense(1)(named[0])])
stuck = linear()
stuck.trainable = False
mse = linear()
mse.compile(loss="mse")
other = keras.optimizers.Adam(0.1)
other.build(linear().trainable_variables)
found["refused"] = {
    "class": refusal(lambda: keras_guest.adapt(keras.Sequential)),
    "layer": refusal(lambda: keras_guest.adapt(layers.Dense(2, name="alone"))),
    "two outputs": refusal(lambda: keras_guest.adapt(two).outputs(X, 0)),
    "shape": refusal(lambda: keras_guest.adapt(linear()).outputs(X[:, :2], 0)),
    "targets": refusal(lambda: guest(linear(outputs=1))),
    "step": refusal(lambda: guest(linear()).step((X[:, :2], Y))),
    "nothing": refusal(lambda: guest(stuck)),
    "loss": refusal(lambda: guest(linear(), loss="hinge")),
    "own loss": refusal(lambda: guest(mse, optimizer=None, lr=None)),
    "own optimizer": refusal(lambda: guest(mse, loss=None, lr=None)),
    "own rate": refusal(lambda: guest(mse, loss=None, optimizer=None)),
    "own clip": refusal(lambda: guest(mse, loss=None, optimizer=None, lr=None, clip=1.0)),
    "clip": refusal(lambda: guest(linear(), optimizer=keras.optimizers.SGD(0.1), lr=None, clip=1.0)),
    "rate twice": refusal(lambda: guest(linear(), optimizer=keras.optimizers.SGD(0.1))),
    "name": refusal(lambda: guest(linear(), optimizer="admaw")),
    "another's": refusal(lambda: guest(linear(), optimizer=other, lr=None).step((X, Y))),
}
answer(found)
'''


@cache
def found(backend: str) -> Any:
    return in_keras(backend, CODE)


X = np.random.default_rng(0).normal(size=(24, 3)).astype(np.float32)
Y = np.random.default_rng(1).normal(size=(24, 2)).astype(np.float32)
CLASSES = np.random.default_rng(2).integers(0, 2, 24).astype(np.int32)
W = np.random.default_rng(3).normal(size=(3, 2)).astype(np.float32)
SHARE = np.stack([CLASSES * 0.75, 1 - CLASSES * 0.75], 1).astype(np.float32)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_linear_classifier_has_the_losses_of_plain_numpy(backend: str) -> None:
    f = found(backend)
    np.testing.assert_allclose(f["clouds"], expected_losses(), atol=1e-5, rtol=0)
    assert f["compiled clouds"] == f["clouds"]
    assert f["right"] > 0.98


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_known_before_training(backend: str) -> None:
    f = found(backend)
    assert f["facts"] == [f"keras on {backend}", "linear", 8, None, None]
    assert f["versions"] == sorted(["keras", backend])
    assert f["chosen"] == [
        ["adam", 1e-3],
        ["sgd", 0.01],
        ["the given keras.optimizers.Adam", 0.5],
        ["keras.optimizers.Adam", 0.25],
    ]
    assert f["unbuilt"] == [None, [24, 2]] and f["built"] == 8
    assert f["frozen"] == 6


@pytest.mark.parametrize("backend", BACKENDS)
def test_each_adapter_takes_its_own(backend: str) -> None:
    assert found(backend)["others"] == [None] * 4
    assert found(backend)["not torch's"] is None


@pytest.mark.parametrize("backend", BACKENDS)
def test_losses_by_name_are_ours(backend: str) -> None:
    targets = {"huber": 4 * Y, "kl_divergence": SHARE, "cross_entropy": CLASSES}
    targets["binary_crossentropy"] = np.stack([CLASSES, 1 - CLASSES], 1)
    outputs = jnp.asarray(X @ W)
    f = found(backend)["losses"]
    ours = {name: function for name, (function, _) in losses.REGRESSION.items()}
    ours |= {"cross_entropy": losses.softmax_cross_entropy, "binary_crossentropy": losses.sigmoid_cross_entropy}
    assert set(f) == set(ours)
    for name, function in ours.items():
        expected = float(function(outputs, jnp.asarray(targets.get(name, Y))).mean())
        assert f[name] == [pytest.approx(expected, abs=2e-6)] * 2, name


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", sorted(set(OPTIMIZERS) - {"nadam"}))
def test_optimizers_by_name_are_those_of_optax(backend: str, name: str) -> None:
    params: Any = (jnp.asarray(W), jnp.zeros(2))
    optimizer = getattr(optax, name)(0.05)
    state, expected = optimizer.init(params), []
    for _ in range(15):
        error = X @ params[0] + params[1] - Y
        gradients = 2 * X.T @ error / error.size, 2 * error.sum(axis=0) / error.size
        expected.append(float((error**2).mean()))
        updates, state = optimizer.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(found(backend)["optimizers"][name], expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_optimizers_as_classes_and_objects(backend: str) -> None:
    f = found(backend)
    assert f["class"] == f["object"] == f["sgd"]
    assert f["used"] == 3
    assert f["moved"] == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_loss_of_the_users_own(backend: str) -> None:
    f = found(backend)
    assert f["function"] == ["own_loss", "identity", pytest.approx(float(((Y - 2 * (X @ W)) ** 2).mean()), abs=1e-5)]
    assert f["keras object"][2] == pytest.approx(float(((Y - X @ W) ** 2).mean()), abs=1e-5)
    assert f["regression"] == [True, False]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_compiled_model_keeps_its_loss_and_its_metrics(backend: str) -> None:
    f = found(backend)
    assert f["links"] == [
        ["mean_squared_error", "identity"],
        ["binary_crossentropy", "sigmoid"],
        ["sparse_categorical_crossentropy", "probability"],
        ["binary_crossentropy", "probability"],
        ["categorical_crossentropy", "softmax"],
        ["own_loss", None],
        ["its own", None],
    ]
    accuracy, scored, first, second = f["accuracy"]
    assert list(first) == ["loss", "accuracy"]
    assert scored == pytest.approx(first, abs=1e-6) and first["accuracy"] == pytest.approx(accuracy)
    assert f["evaluated batch"] == pytest.approx(scored, abs=1e-6)
    assert second < first["loss"]
    assert f["scored"][0] == pytest.approx(f["scored"][1], abs=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_targets_take_the_form_that_the_models_loss_wants(backend: str) -> None:
    f = found(backend)
    assert f["one-hot"] == pytest.approx(f["accuracy"][2], abs=1e-5)
    single, accuracy = f["single"]
    logits = (X @ W)[:, 0]
    expected = np.log1p(np.exp(np.where(CLASSES == 1, -logits, logits))).mean()
    assert single["loss"] == pytest.approx(expected, abs=1e-5)
    assert 0 <= single["accuracy"] <= 1 and 0 <= accuracy <= 1
    assert f["weighted"] == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_losses_hold_what_layers_add(backend: str) -> None:
    scored, stepped, plain = found(backend)["regularised"]
    assert scored == pytest.approx(stepped, abs=1e-5)
    assert scored > plain + 0.1


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_training_step_of_the_models_own(backend: str) -> None:
    f = found(backend)
    assert f["own step"] == [[["loss", 2.0], ["first", 1.0]], "its own"]
    assert f["lossless"] == ("ModelError: The `train_step` of own_1 returned ['first']; it must return a `loss`, too.")


@pytest.mark.parametrize("backend", BACKENDS)
def test_random_numbers_follow_the_seed(backend: str) -> None:
    first, again, other = found(backend)["seeds"]
    assert first == again and first != other
    given, same = found(backend)["given seeds"]
    assert given == same


@pytest.mark.parametrize("backend", BACKENDS)
def test_evaluating_changes_nothing_and_what_was_kept_comes_back(backend: str) -> None:
    f = found(backend)
    assert f["evaluated"] and f["same statistics"] and f["finished"]
    first, _, again, _, once_more = f["kept"]
    assert first == again == once_more
    assert f.get("untouched", True)


@pytest.mark.parametrize("backend", BACKENDS)
def test_inputs_of_several_kinds(backend: str) -> None:
    values, shape = found(backend)["named"]
    assert values[-1] < values[0] and shape == [24, 2]
    assert found(backend)["read-only"]


REFUSALS = {
    "class": "ModelError: `Sequential` is a class, not a model. Make one: Sequential(…).",
    "layer": "ModelError: `alone` is a Keras layer. Make a model of it: keras.Sequential([alone]).",
    "two outputs": "ModelError: The model returned a list for 24 rows; it must return one array",
    "shape": "ModelError: The model failed on inputs of shape (24, 2), float32: ValueError",
    "targets": "ModelError: The model's outputs have shape (24, 1), but the targets (24, 2).",
    "step": "ModelError: Keras's train_step failed on shape (24, 2), float32: ValueError",
    "nothing": "ModelError: The model linear has no trainable weights",
    "loss": "OptionError: --loss hinge: Keras models have no such loss here. Known: mean_squared_error",
    "own loss": "OptionError: --loss: the Keras model is compiled with a loss.",
    "own optimizer": "OptionError: --optimizer: the Keras model is compiled with an optimizer. Leave --optimizer out.",
    "own rate": "OptionError: --lr: the Keras model is compiled with an optimizer. Leave --lr out.",
    "own clip": "OptionError: --clip 1: the Keras model is compiled with an optimizer. Give that global_clipnorm=1.",
    "clip": "OptionError: --clip 1: give the Keras optimizer global_clipnorm=1 in its place.",
    "rate twice": "OptionError: --lr 0.1: the given keras.optimizers.SGD has its rate already. Leave one out.",
    "name": "OptionError: --optimizer admaw: Keras has no optimizer that optax calls so. Did you mean `adamw`?",
    "another's": "ModelError: Keras's train_step failed on shape (24, 3), float32: ",
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", REFUSALS)
def test_what_is_refused(backend: str, case: str) -> None:
    assert found(backend)["refused"][case].startswith(REFUSALS[case])
