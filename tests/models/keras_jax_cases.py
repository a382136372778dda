"""Keras on JAX. Run by test_keras.py in an interpreter of its own: a backend is fixed when Keras is imported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
from keras import layers

import dlfb_lab
from dlfb_lab import models
from dlfb_lab.errors import ModelError, OptionError
from dlfb_lab.events import Compilation, Evaluation, Losses, RunStarted
from dlfb_lab.models.keras import keras_history
from dlfb_lab.record import Record

# Keras's own variables, under NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
KEY = jax.random.key(0)


def net(rate: float = 0.5, width: int = 8, seed: int = 0, **options: Any) -> Any:
    keras.utils.set_random_seed(seed)
    hidden = layers.Dense(width, activation="tanh", **options)
    return keras.Sequential([hidden, layers.BatchNormalization(momentum=0.5), layers.Dropout(rate), layers.Dense(1)])


def values(model: Any) -> list[np.ndarray]:
    return [np.array(v.value) for v in model.variables]


def started(model: Any, x: Any) -> tuple[Any, Any]:
    params, extra, opt_state = model.start(KEY, x)
    assert opt_state is None
    return params, extra


class Own(keras.Model):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.hidden, self.blocks = layers.Dense(width), [layers.Dense(3), layers.Dense(1)]
        self.scale = 2.0

    def call(self, x: Any, training: bool = False) -> Any:
        for layer in (self.hidden, *self.blocks):
            x = activation(layer(x))
        return self.scale * x + 1000.0 * bool(training)


def activation(x: Any) -> Any:
    return keras.ops.tanh(x)


def functional(size: int = 3) -> Any:
    given = keras.Input((3,))
    hidden = layers.Dense(size)(given)
    return keras.Model(given, layers.Dense(1)(hidden + layers.Dense(size, name="side")(hidden)))


def test_it_learns(learn: Any) -> None:
    model = models.adapt(net(rate=0.1))
    assert (model.kind, model.given) == ("keras", True)
    losses = learn(model, 150).losses
    assert losses[-5:].mean() < 0.1 * losses[0]


def test_a_model_is_built_while_something_is_traced(xy: Any) -> None:
    for model in (net(), Own()):
        assert not model.variables or not model.built
        adapted = models.adapt(model)
        key = adapted.key
        params, _ = jax.eval_shape(lambda x, a=adapted: started(a, x), xy[0][:1])
        assert not any(isinstance(v.value, jax.core.Tracer) for v in model.variables)
        assert params["dense/kernel"].shape == model.trainable_variables[0].shape
        assert models.adapt(model).key == key == adapted.key


def test_dropout_differs_by_step_repeats_with_the_seed_and_is_off_in_evaluation(learn: Any, xy: Any) -> None:
    keras_model = net()
    model = models.adapt(keras_model)
    params, extra = started(model, xy[0])
    keys = jax.random.key(1), jax.random.key(2)
    trained = [np.asarray(model.apply(params, extra, xy[0], key, True)[0]) for key in (*keys, keys[0])]
    assert not np.allclose(trained[0], trained[1])
    np.testing.assert_array_equal(trained[0], trained[2])
    np.testing.assert_array_equal(*(model.apply(params, extra, xy[0], key, False)[0] for key in keys))
    np.testing.assert_allclose(
        model.apply(params, extra, xy[0], KEY, False)[0], keras_model(xy[0], training=False), rtol=1e-5
    )
    np.testing.assert_array_equal(learn(model).losses, learn(model).losses)


def test_batch_statistics_move_in_training_alone(xy: Any) -> None:
    model = models.adapt(net())
    params, extra = started(model, xy[0])
    assert set(extra) == {"batch_normalization/moving_mean", "batch_normalization/moving_variance"}, "and no seeds"
    _, after = model.apply(params, extra, xy[0], KEY, True)
    hidden = np.tanh(xy[0] @ params["dense/kernel"] + params["dense/bias"])
    np.testing.assert_allclose(after["batch_normalization/moving_mean"], 0.5 * hidden.mean(0), rtol=1e-4, atol=1e-6)
    _, evaluated = model.apply(params, after, xy[0], KEY, False)
    jax.tree.map(np.testing.assert_array_equal, evaluated, after)


def test_the_users_model_is_left_alone_and_trained_at_the_end(learn: Any, xy: Any) -> None:
    keras_model = net()
    keras_model.build((None, 3))
    before = values(keras_model)
    model = models.adapt(keras_model)
    learned = learn(model)
    for a, b in zip(values(keras_model), before, strict=True):
        np.testing.assert_array_equal(a, b)
    assert model.finish(learned.params, learned.extra, None, 5) is keras_model
    outputs, _ = model.apply(learned.params, learned.extra, xy[0], KEY, False)
    np.testing.assert_allclose(keras_model.predict(xy[0], verbose=0), outputs, rtol=1e-5)


def test_models_of_any_kind_and_inputs_by_name(xy: Any) -> None:
    x = xy[0]
    for keras_model in (functional(), Own()):
        model = models.adapt(keras_model)
        params, extra = started(model, x)
        np.testing.assert_allclose(model.apply(params, extra, x, KEY, False)[0], keras_model(x), rtol=1e-5)
    trained, _ = model.apply(params, extra, x, KEY, True)
    np.testing.assert_allclose(trained - keras_model(x), 1000, rtol=1e-3)

    class Two(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.dense = layers.Dense(1)

        def call(self, x: Any) -> Any:
            return self.dense(x["a"]) - self.dense(x["b"])

    model = models.adapt(Two())
    params, extra = started(model, {"a": x[:1], "b": x[:1]})
    np.testing.assert_allclose(model.apply(params, extra, {"a": x, "b": x}, KEY, True)[0], 0)


class Shifted(layers.Layer):
    def __init__(self, shift: float) -> None:
        super().__init__()
        self.shift = shift

    def call(self, x: Any) -> Any:
        return activation(x) + self.shift


def with_own_layer(shift: float = 1.0) -> Any:
    return keras.Sequential([layers.Dense(1), Shifted(shift)])


def test_models_made_alike_have_equal_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    def key(model: Any) -> Any:
        return models.adapt(model).key

    for make in (net, functional, Own, with_own_layer):
        assert key(make()) == key(make())
        assert hash(key(make())) == hash(key(make()))
    for make in (net, functional, Own):
        assert key(make(width=5) if make is not functional else functional(5)) != key(make())
    assert key(net(rate=0.2)) != key(net())
    assert key(with_own_layer(2.0)) != key(with_own_layer())
    own = Own()
    before = key(own)
    own.scale = 3.0
    assert key(own) != before
    lambdas = [keras.Sequential([layers.Lambda(f), layers.Dense(1)]) for f in (lambda x: x + 1, lambda x: x + 2)]
    assert key(lambdas[0]) != key(lambdas[1])

    def compiled(**options: Any) -> Any:
        model = net()
        model.compile(**{"optimizer": keras.optimizers.Adam(0.1), "loss": "mse", "metrics": ["mae"], **options})
        return key(model)

    assert compiled() == compiled(optimizer=keras.optimizers.Adam(0.2)), "a rate is a variable"
    assert len({compiled(), compiled(optimizer="sgd"), compiled(loss="mae"), compiled(metrics=[]), key(net())}) == 5
    assert compiled(loss=own_loss) == compiled(loss=own_loss)
    before = key(Own()), key(with_own_layer()), compiled(loss=own_loss)
    monkeypatch.setitem(globals(), "activation", lambda x: x)
    after = key(Own()), key(with_own_layer()), compiled(loss=own_loss)
    assert all(a != b for a, b in zip(before, after, strict=True))


def own_loss(y: Any, predicted: Any) -> Any:
    return keras.ops.mean(activation(y - predicted) ** 2, axis=-1)


def test_regularizers_that_do_not_count_are_said(xy: Any) -> None:
    assert models.adapt(net()).notices_on(xy[0]) == ()
    (said,) = models.adapt(net(kernel_regularizer="l2")).notices_on(xy[0])
    assert "regularizers" in said
    assert "model.compile" in said


BATCH, EPOCHS = 10, 3
"""Of 24 rows: the last batch of an epoch has 4."""


def compiled_net(**options: Any) -> Any:
    model = net(kernel_regularizer="l2")
    model.compile(
        **{
            "optimizer": keras.optimizers.Adam(keras.optimizers.schedules.ExponentialDecay(0.1, 5, 0.9)),
            "loss": "mse",
            "metrics": ["mae", keras.metrics.RootMeanSquaredError(name="rmse")],
            **options,
        }
    )
    return model


def stepped(stepper: Any, x: Any, y: Any) -> tuple[Any, Record]:
    """Trains as an engine would, in the order of the rows, and returns the last state and what happened."""
    steps = -(-len(x) // BATCH)
    record = Record([started_event(len(x), steps)])
    state = stepper.start(KEY, (x[:BATCH], y[:BATCH]))
    step, evaluate = jax.jit(stepper.step), jax.jit(stepper.evaluate)
    for number in range(EPOCHS * steps):
        rows = slice(number % steps * BATCH, number % steps * BATCH + BATCH)
        state, scalars = step(state, (x[rows], y[rows]), KEY, jnp.asarray(number % steps == 0))
        loss, parts = np.array([scalars.pop("loss")]), {name: np.array([v]) for name, v in scalars.items()}
        record.put(Losses(step=number + 1, first_step=number, losses=loss, duration_s=0.1, parts=parts))
        if number % steps == steps - 1:
            scores = {name: float(v) for name, v in evaluate(state, (x[:9], y[:9]), KEY).items()}
            record.put(Evaluation(step=number + 1, split="valid", metrics=scores, rows=9, duration_s=0.1))
    return state, record


def started_event(rows: int, steps: int) -> RunStarted:
    empty: Any = dict.fromkeys(
        ("run_id", "name", "task", "task_sentence", "model", "model_kind", "monitor", "split_hash", "device"), ""
    )
    return RunStarted(
        step=0, classes=[], parameter_count=0, steps_total=EPOCHS * steps, steps_per_epoch=steps, batch_size=BATCH,
        evaluations_total=0, monitor_mode="min", rows={"train": rows}, settings={}, versions={}, **empty,
    )  # fmt: skip


def test_a_compiled_model_trains_as_its_own_fit_does(xy: Any) -> None:
    x, y = xy
    by_fit, by_us = compiled_net(), compiled_net()
    for model in (by_fit, by_us):
        model.build((None, 3))
    by_us.set_weights(by_fit.get_weights())
    seeds = [[v for v in m.non_trainable_variables if v.name == "seed_generator_state"] for m in (by_fit, by_us)]
    for one, other in zip(*seeds, strict=True):
        other.assign(np.array(one.value))
    before = values(by_us)
    history = by_fit.fit(
        x, y, batch_size=BATCH, epochs=EPOCHS, shuffle=False, verbose=0, validation_data=(x[:9], y[:9])
    ).history

    stepper = models.adapt(by_us)
    assert (stepper.kind, stepper.traces, stepper.evaluates, stepper.evaluation_traces) == (
        "compiled keras", True, True, True,
    )  # fmt: skip
    state, record = stepped(stepper, x, y)
    for a, b in zip(values(by_us)[: len(before)], before, strict=True):
        np.testing.assert_array_equal(a, b)
    assert stepper.finish(state, 9) is by_us
    assert stepper.parameter_count(state) == sum(int(np.prod(w.shape)) for w in by_us.trainable_weights)

    ours = keras_history(record, 3)
    assert set(ours) == set(history)
    for name, per_epoch in history.items():
        np.testing.assert_allclose(ours[name], per_epoch, rtol=1e-5, atol=1e-6, err_msg=name)
    for one, other in ((by_fit.variables, by_us.variables), (by_fit.optimizer.variables, by_us.optimizer.variables)):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_allclose(np.array(a.value), np.array(b.value), rtol=1e-5, atol=1e-6, err_msg=a.path)
    np.testing.assert_allclose(stepper.outputs(state, x), by_fit.predict(x, verbose=0), rtol=1e-4, atol=1e-5)
    more = [m.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0).history["loss"] for m in (by_fit, by_us)]
    np.testing.assert_allclose(*more, rtol=1e-5, err_msg="it goes on from there")


def test_the_loss_of_a_step_is_that_of_its_batch(xy: Any) -> None:
    x, y = xy
    model = compiled_net(loss="mse", optimizer=keras.optimizers.SGD(0.0), metrics=["mae"])
    stepper = models.adapt(model)
    state = stepper.start(KEY, (x, y))
    for rows in (slice(0, 6), slice(6, 12)):
        scores = stepper.evaluate(state, (x[rows], y[rows]), KEY)
        model.reset_metrics()
        expected = model.evaluate(x[rows], y[rows], verbose=0, return_dict=True)
        np.testing.assert_allclose([scores[n] for n in expected], list(expected.values()), rtol=1e-5)
    losses, absolute = [], []
    for number, rows in enumerate((slice(0, 6), slice(6, 12))):
        state, scalars = stepper.step(state, (x[rows], y[rows]), KEY, jnp.asarray(number == 0))
        losses.append(float(scalars["loss"]))
        absolute.append(float(scalars["mae"]))
    total, count = (v for v in model.metrics[0].variables)
    stepper.finish(state, 2)
    np.testing.assert_allclose(float(total.value) / float(count.value), np.mean(losses), rtol=1e-5)
    assert losses[0] != losses[1]
    assert next(iter(scalars)) == "loss"


def test_steps_fuse_and_keep_their_structure(xy: Any) -> None:
    stepper = models.adapt(compiled_net())
    state = stepper.start(KEY, xy)

    def fused(state: Any) -> Any:
        return jax.lax.fori_loop(0, 4, lambda i, s: stepper.step(s, xy, KEY, i == 0)[0], state)

    after = state
    for number in range(4):
        after, _ = jax.jit(stepper.step)(after, xy, KEY, jnp.asarray(number == 0))
    for a, b in zip(jax.tree.leaves(jax.jit(fused)(state)), jax.tree.leaves(after), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
        assert (a.shape, a.dtype) == (b.shape, b.dtype)


class OwnStep(keras.Model):
    def __init__(self, said: str) -> None:
        super().__init__()
        self.dense, self.said = layers.Dense(1), said

    def call(self, x: Any) -> Any:
        return self.dense(x)

    def train_step(self, state: Any, data: Any) -> Any:
        logs, state = super().train_step(state, data)
        return {self.said: logs["loss"], "twice": 2 * logs["loss"]}, state


def test_a_train_step_of_the_users_own(xy: Any) -> None:
    for said in ("loss", "error"):
        model = OwnStep(said)
        model.compile(optimizer="sgd", loss="mse")
        stepper = models.adapt(model)
        state = stepper.start(KEY, xy)
        if said == "loss":
            _, scalars = stepper.step(state, xy, KEY, jnp.asarray(True))
            np.testing.assert_allclose(scalars["twice"], 2 * scalars["loss"], rtol=1e-6)
        else:
            with pytest.raises(ModelError, match=r"train_step of .* returned error, twice; it must return a `loss`"):
                stepper.step(state, xy, KEY, jnp.asarray(True))


def test_several_outputs_and_scores_of_several_numbers(xy: Any) -> None:
    x, _ = xy
    given = keras.Input((3,))
    outputs = {"a": layers.Dense(1, name="a")(given), "b": layers.Dense(2, activation="sigmoid", name="b")(given)}
    model = keras.Model(given, outputs)
    f1 = keras.metrics.F1Score(average=None, name="f1")
    model.compile(optimizer="adam", loss={"a": "mse", "b": "binary_crossentropy"}, metrics={"b": [f1]})
    batch = x, {"a": x[:, :1], "b": (x[:, :2] > 0).astype(np.float32)}
    stepper = models.adapt(model)
    state = stepper.start(KEY, batch)
    state, scalars = jax.jit(stepper.step)(state, batch, KEY, jnp.asarray(True))
    assert {"loss", "a_loss", "b_loss", "b_f1_0", "b_f1_1"} == set(scalars)
    assert all(v.shape == () for v in scalars.values())
    with pytest.raises(OptionError, match=r"several outputs \(a, b\)\. Predict with Keras"):
        stepper.outputs(state, x)


def test_a_model_whose_own_way_cannot_be_used_is_told(xy: Any) -> None:
    x, y = xy

    def run(batch: Any, **options: Any) -> Any:
        model = net()
        model.compile(optimizer="sgd", **options)
        stepper = models.adapt(model)
        return stepper.step(stepper.start(KEY, batch), batch, KEY, jnp.asarray(True))

    with pytest.raises(ModelError, match=r"sequential.* was compiled without a loss"):
        run((x, y), loss=None)
    with pytest.raises(ModelError, match=r"The compiled Keras model sequential.* ValueError: .*same shape"):
        run((x, np.zeros((24, 7), np.float32)), loss="binary_crossentropy")
    assert not models.adapt(compiled_net(run_eagerly=True)).traces
    for model, said in (
        (layers.Dense(1), r"is a layer of Keras. Make a model of it: keras.Sequential\(\[Dense\(…\)\]\)"),
        (Own, r"`Own` is a class, not a model. Make one: Own\(…\)"),
    ):
        with pytest.raises(ModelError, match=said):
            models.adapt(model)
    frozen = net()
    frozen.trainable = False
    with pytest.raises(ModelError, match="no trainable variables"):
        models.adapt(frozen).start(KEY, x)


def test_a_run_trains_the_users_model_and_a_second_compiles_nothing(tmp_path: Path, xy: Any) -> None:
    x, y = xy[0], xy[1][:, 0]
    for again in (False, True):
        model = net(rate=0.1, seed=int(again))
        run = dlfb_lab.train(model, (x, y), epochs=20, valid=0.25, lr=0.05, batch_size=8, store=tmp_path)
        assert run.history["valid/loss"].dropna().iloc[-1] < 0.3 * run.history["valid/loss"].dropna().iloc[0]
        assert bool([e for e in run.record.events if isinstance(e, Compilation)]) is not again
        assert run.state is model
        np.testing.assert_allclose(model.predict(x, verbose=0)[:, 0], run.predict(x), rtol=1e-4, atol=1e-5)
