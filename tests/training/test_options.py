"""Options of training, from `dlfb_lab.train` to the numbers that they change."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import dlfb_lab
from dlfb_lab.engine import memory
from dlfb_lab.errors import DlfbLabError, ModelError, OptionError
from dlfb_lab.run import Run

RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 4)).astype(np.float32)
Y = np.tanh(X @ RNG.normal(size=(4,))).astype(np.float32)
KIND = np.where(X[:, 0] > 1, "rare", "common")


class Net(nn.Module):
    outputs: int = 1
    width: int = 6

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Dense(self.outputs, name="head")(nn.tanh(nn.Dense(self.width, name="encoder")(x)))


def trained(data: Any = (X, Y), outputs: int = 1, **options: Any) -> Run:
    given: dict[str, Any] = {"batch_size": 16, "epochs": 3, "optimizer": "sgd", "lr": 0.1, "plan": "step", **options}
    return dlfb_lab.train(Net(outputs), data, **given)


def losses(run: Run) -> Any:
    return run.history["train/loss"].dropna().to_numpy()


def notices(run: Run) -> str:
    return "\n".join(notice.text for notice in run.record.notices)


@pytest.fixture(scope="module")
def plain() -> Run:
    return trained()


def test_a_metric_by_another_name_takes_the_place_of_the_usual_one() -> None:
    run = trained((X, KIND), 2, valid=0.25, early_stop="auroc:3", epochs=1)
    assert set(run.record.evaluations[-1].metrics) == {"loss", "accuracy", "auroc"}


def test_early_stopping_restores_the_best_weights_exactly() -> None:
    # The labels of the validation rows contradict those of training, so that the score falls and rises again.
    run = trained(valid=(X, -Y), epochs=50, early_stop="loss:3", lr=0.3)
    scores = run.history["valid/loss"].dropna()
    best = int(scores.idxmin())
    assert run.record.step == best + 3 * 4 < 200
    again = trained(valid=(X, -Y), steps=best, lr=0.3) if best else None
    expected = again.params if again is not None else _initial()
    for a, b in zip(jax.tree.leaves(run.params), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)
    assert run.evaluate("valid")["loss"] == pytest.approx(scores.min(), rel=1e-6)
    assert f"those of step {best:,}" in notices(run)


def _initial() -> Any:
    from dlfb_lab.engine.experiment import init_key

    return Net().init(init_key(0), X[:1])["params"]


def test_a_patience_alone_and_a_metric_alone_are_read() -> None:
    for given, monitor, mode in (
        ("2", "valid/loss", "min"),
        ("auc", "valid/auc", "max"),
        ("valid/f1:2", "valid/f1", "max"),
    ):
        run = trained((X, KIND), 2, valid=0.25, early_stop=given, epochs=1)
        assert run.record.started is not None
        assert (run.record.started.monitor, run.record.started.monitor_mode) == (monitor, mode)
        assert monitor in run.history, "and what decides is computed"
    for given in ("auc:0", "auc:x", ":3", "auc:3:4x"):
        with pytest.raises(OptionError, match="say METRIC:PATIENCE"):
            trained((X, KIND), 2, valid=0.25, early_stop=given)
    with pytest.raises(OptionError, match="r2: it is for regression; the task is binary"):
        trained((X, KIND), 2, valid=0.25, early_stop="r2:3")
    with pytest.raises(OptionError, match=r"--early-stop acu: it is not evaluated\. Did you mean `auc`\?"):
        trained((X, KIND), 2, valid=0.25, early_stop="acu:3", metrics="auc")


def test_a_timebox_finishes_evaluation_inside_the_box() -> None:
    run = trained(valid=0.25, epochs=10**7, timebox="3s")
    assert run.status == "finished"
    assert run.record.status is not None
    assert run.record.status.reason == "the timebox of 3 s is used up"
    assert run.history["valid/loss"].dropna().index[-1] == run.record.step > 0


# --- the optimizer's options


def by_hand(tx: optax.GradientTransformation, steps: int = 12) -> list[float]:
    """Returns the losses of full batches in a loop of one's own."""
    params = _initial()
    state, found = tx.init(params), []

    @jax.jit
    def step(params: Any, state: Any) -> Any:
        def loss(params: Any) -> Any:
            return ((Net().apply({"params": params}, X)[:, 0] - Y) ** 2).mean()

        value, gradients = jax.value_and_grad(loss)(params)
        updates, state = tx.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, value

    for _ in range(steps):
        params, state, value = step(params, state)
        found.append(float(value))
    return found


def kernels(params: Any) -> Any:
    return jax.tree.map(lambda a: a.ndim > 1, params)


@pytest.mark.parametrize(
    ("options", "tx"),
    [
        ({}, optax.sgd(0.1)),
        ({"schedule": "cosine"}, optax.sgd(optax.cosine_decay_schedule(0.1, 12))),
        ({"warmup": 4}, optax.sgd(lambda n: 0.1 * jnp.minimum((n + 1) / 4, 1))),
        ({"clip": 0.1}, optax.chain(optax.clip_by_global_norm(0.1), optax.sgd(0.1))),
        ({"accumulate": 3}, optax.MultiSteps(optax.sgd(0.1), 3).gradient_transformation()),
        ({"optimizer": "adamw", "weight_decay": 0.3}, optax.adamw(0.1, weight_decay=0.3, mask=kernels)),
        ({"optimizer": "adam", "weight_decay": 0.3, "decay_mask": "all"}, optax.adamw(0.1, weight_decay=0.3)),
        ({"lr": optax.linear_schedule(0.1, 0, 12)}, optax.sgd(optax.linear_schedule(0.1, 0, 12))),
        (
            {"optimizer": optax.adam(0.1), "lr": None, "clip": 0.1},
            optax.chain(optax.clip_by_global_norm(0.1), optax.adam(0.1)),
        ),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_an_optimizers_options_are_those_of_optax(options: dict[str, Any], tx: Any) -> None:
    run = trained(batch_size="full", epochs=None, steps=12, **options)
    np.testing.assert_allclose(losses(run), by_hand(tx), rtol=2e-4, atol=1e-6)


def test_class_weights_make_the_rare_class_count() -> None:
    rates = {}
    for name, weights in (("plain", None), ("balanced", "balanced"), ("given", {"common": 1.0, "rare": 40.0})):
        run = trained((X, KIND), 2, class_weights=weights, epochs=6, valid=(X, KIND))
        rates[name] = float((run.predict(X) == "rare").mean())
        scores = run.history["valid/loss"].dropna()
        assert scores.iloc[0] == pytest.approx(rates.setdefault("first", float(scores.iloc[0]))), (
            "scores are not weighted"
        )
    assert rates["plain"] < rates["balanced"] <= rates["given"]
    with pytest.raises(OptionError, match="--class-weights"):
        trained(class_weights="balanced")


def test_what_is_frozen_stays_and_the_rest_learns(plain: Run) -> None:
    run = trained(freeze="encoder/*")
    before = _initial()
    np.testing.assert_array_equal(run.params["encoder"]["kernel"], before["encoder"]["kernel"])
    np.testing.assert_array_equal(run.params["encoder"]["bias"], before["encoder"]["bias"])
    assert not np.array_equal(run.params["head"]["kernel"], before["head"]["kernel"])
    assert losses(run)[0] == losses(plain)[0]
    with pytest.raises(OptionError, match="--freeze encodr: no parameter is called so"):
        trained(freeze="encodr")
    with pytest.raises(OptionError, match="nothing is left to train"):
        trained(freeze="*")


def test_it_starts_from_a_run_or_a_pytree(plain: Run) -> None:
    for source in (plain, plain.params, {"params": plain.params}):
        run = trained(init_from=source, epochs=1)
        first = ((Net().apply({"params": plain.params}, X)[:, 0] - Y) ** 2).mean()
        assert losses(trained(init_from=source, epochs=1, batch_size="full"))[0] == pytest.approx(
            float(first), rel=1e-5
        )
        assert "4 of 4 parameter arrays start from the given values" in notices(run)
    # Another head: what fits is taken, and the rest is listed.
    run = trained((X, KIND), 2, init_from=plain, freeze="encoder", epochs=1)
    np.testing.assert_array_equal(run.params["encoder"]["kernel"], plain.params["encoder"]["kernel"])
    assert "2 of 4 parameter arrays" in notices(run)
    assert "head/kernel ((6, 1) there, (6, 2) here)" in notices(run)
    np.testing.assert_array_equal(plain.predict(X[:3]), plain.predict(X[:3])), "the run it came from is as it was"
    with pytest.raises(OptionError, match="--init-from: none of its parameters fits"):
        trained(init_from={"w": X})
    settings = run.record.started.settings if run.record.started else {}
    assert (settings["init_from"], settings["freeze"]) == (f"run {plain.id}", "encoder")
    assert f"parameters encoder frozen, initial parameters from run {plain.id}" in run.cite()
    opened = dlfb_lab.open_run(plain.id)
    with pytest.raises(DlfbLabError, match="were not saved"):
        trained(init_from=opened)


@pytest.mark.parametrize("plan", ["fused", "step", "auto"])
def test_plans_change_no_number(plan: str, plain: Run) -> None:
    run = trained(plan=plan)
    assert losses(run).tolist() == losses(plain).tolist()
    if plan != "auto":
        assert [p.plan for p in run.record.plans] == [{"fused": "fused", "step": "one by one"}[plan]]
        assert run.record.plans[-1].reason == "asked for"
    with pytest.raises(OptionError, match="--plan faster: there are auto, fused, step"):
        trained(plan="faster")


def test_activations_computed_anew_change_no_number(plain: Run) -> None:
    run = trained(remat=True)
    np.testing.assert_allclose(losses(run), losses(plain), rtol=1e-6)
    assert run.record.started is not None and run.record.started.settings["remat"] is True


@pytest.mark.parametrize(("precision", "tolerance"), [("bf16", 3e-2), ("tf32", 1e-2), ("f32", 1e-6)])
def test_precision(precision: str, tolerance: float, plain: Run) -> None:
    run = trained(precision=precision)
    np.testing.assert_allclose(losses(run), losses(plain), rtol=tolerance, atol=tolerance)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(run.params))
    if precision == "bf16":
        assert losses(run).tolist() != losses(plain).tolist()
    with pytest.raises(OptionError, match=r"--precision fp16: there is no such precision\..*bf16, tf32, f32"):
        trained(precision="fp16")


def test_a_rate_is_found_by_trying() -> None:
    run = trained(lr="find", valid=0.25)
    (test,) = run.record.rate_tests
    assert len(test.rates) == len(test.losses) > 20
    assert 1e-6 < test.chosen < 10
    assert "The learning rate is" in notices(run)
    params = run.params
    # Trying rates leaves no trace: the run is that of the rate given at once.
    again = trained(lr=test.chosen, valid=0.25)
    np.testing.assert_allclose(losses(again), losses(run), rtol=1e-5)
    np.testing.assert_allclose(params["head"]["kernel"], again.params["head"]["kernel"], rtol=1e-4)
    assert dlfb_lab.open_run(run.id).record.rate_tests[0].chosen == pytest.approx(test.chosen)
    with pytest.raises(OptionError, match="--lr find: the optimizer has its rate already"):
        trained(lr="find", optimizer=optax.sgd(0.1))


def test_a_rate_is_found_for_a_stream_or_it_is_said() -> None:
    batches = [(X[i : i + 16], Y[i : i + 16]) for i in range(0, 64, 16)]
    with pytest.raises(OptionError, match="--lr find"):
        trained(batches, lr="find", batch_size=None)


def test_a_task_without_targets() -> None:
    model = Net(4, width=3)
    run = dlfb_lab.train(model, X, task="reconstruction", epochs=30, lr=0.05, valid=0.25)
    scores = run.history["valid/loss"].dropna()
    assert scores.iloc[-1] < 0.8 * scores.iloc[0]
    assert run.predict(X[:5]).shape == (5, 4)
    rows = run.split()["valid"]
    assert ((run.predict(X[rows]) - X[rows]) ** 2).mean() == pytest.approx(scores.iloc[-1], rel=1e-4)
    assert run.evaluate(X[rows])["loss"] == pytest.approx(scores.iloc[-1], rel=1e-4)
    batches = [X[i : i + 16] for i in range(0, 64, 16)]
    streamed = dlfb_lab.train(model, batches, task="reconstruction", epochs=2, lr=0.05)
    assert streamed.record.step == 8
    with pytest.raises(DlfbLabError, match="reconstruction"):
        dlfb_lab.train(model, X, epochs=1)


def test_memory_that_cannot_hold_the_run_is_told_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda device: 4_000.0)
    with pytest.raises(ModelError, match=r"The parameters take 1.23e-05 GB, and 4e-06 GB are free"):
        dlfb_lab.train(Net(width=512), (X, Y), epochs=1, batch_size="full")
    monkeypatch.setattr(memory, "free_bytes", lambda device: 13_000.0)
    with pytest.raises(ModelError, match=r"A training step needs .* GB beside data and state.*--batch-size"):
        dlfb_lab.train(Net(width=512), (X, Y), epochs=1, batch_size="full")
    last = dlfb_lab.runs()[-1]
    assert last.status == "failed" and last.record.step == 0


def test_data_that_do_not_fit_on_the_device_are_streamed(monkeypatch: pytest.MonkeyPatch, plain: Run) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda device: 1_500.0)
    monkeypatch.setattr(memory, "check_room", lambda program: None)
    monkeypatch.setattr("dlfb_lab.engine.streamed.check_room", lambda program: None)
    run = trained()
    assert run.record.plans[-1].plan == "streamed"
    assert "do not fit on the device" in run.record.plans[-1].reason
    np.testing.assert_allclose(losses(run), losses(plain), rtol=1e-5)


DEVICES = """
import json, sys, numpy as np, flax.linen as nn, jax, dlfb_lab, tempfile
assert len(jax.local_devices()) == 2
class Net(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        # A bias here would have no gradient but rounding errors, which Adam makes steps of.
        x = nn.BatchNorm(use_running_average=not train)(nn.Dense(8, use_bias=False)(x))
        return nn.Dense(1)(nn.tanh(x))
rng = np.random.default_rng(0)
x = rng.normal(size=(48, 4)).astype("float32"); y = np.tanh(x[:, 0])
store, found = tempfile.mkdtemp(), {}
batches = [(x[i:i + 12], y[i:i + 12]) for i in range(0, 48, 12)]
for devices in (1, 2):
    options = dict(valid=(x, y), epochs=3, lr=0.05, store=store, devices=devices)
    runs = [dlfb_lab.train(Net(), (x, y), batch_size=16, **options), dlfb_lab.train(Net(), batches, **options),
            dlfb_lab.train(Net(), (x, y), batch_size=16, seeds=2, **options)]
    found[devices] = [[np.asarray(r.history[c].dropna(), float).ravel().tolist() for c in ("train/loss", "valid/loss")]
                      for r in runs]
    found[f"said {devices}"] = runs[0].record.started.settings["devices"]
    found[f"predicts {devices}"] = runs[0].predict(x[:3]).tolist()
print("ANSWER" + json.dumps(found))
"""


@pytest.mark.slow
def test_two_devices_give_the_numbers_of_one() -> None:
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", DEVICES], capture_output=True, text=True, env=environment, cwd=root)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout.rpartition("ANSWER")[2])
    for one, two in zip(found["1"], found["2"], strict=True):
        for a, b in zip(one, two, strict=True):
            np.testing.assert_allclose(b, a, atol=1e-6, rtol=1e-5)
    assert found["said 2"] == 2
    np.testing.assert_allclose(found["predicts 2"], found["predicts 1"], atol=1e-5)
    there = len(jax.local_devices())
    with pytest.raises(OptionError, match=f"--devices {there + 1}: there (is|are) {there}"):
        trained(devices=there + 1)


# --- other kinds of models


def test_a_module_of_nnx_trains_predicts_and_is_brought_up_to_date() -> None:
    class Module(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.dropout, self.head = nnx.Dropout(0.1, rngs=rngs), nnx.Linear(4, 2, rngs=rngs)

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.head(self.dropout(x))

    module = Module(nnx.Rngs(0))
    run = dlfb_lab.train(module, (X, KIND), valid=0.25, test=0.2, epochs=10, lr=0.03, plan="step")
    assert run.history["train/loss"].dropna().iloc[-1] < run.history["train/loss"].iloc[0]
    assert run.state is module
    module.eval()
    np.testing.assert_array_equal(np.asarray(run.classes)[module(jnp.asarray(X)).argmax(1)], run.predict(X))
    assert run.evaluate("test")["accuracy"] > 0.5
    assert run.record.started is not None and run.record.started.model_kind == "nnx"


def test_a_module_of_equinox_trains_predicts_and_is_handed_back() -> None:
    module = eqx.nn.MLP(4, 2, 6, 1, key=jax.random.key(0))
    run = dlfb_lab.train(module, (X, KIND), valid=0.25, test=0.2, epochs=10, lr=0.03, plan="step")
    assert run.history["train/loss"].dropna().iloc[-1] < run.history["train/loss"].iloc[0]
    np.testing.assert_array_equal(np.asarray(run.classes)[jax.vmap(run.state)(X).argmax(1)], run.predict(X))
    assert not np.array_equal(module.layers[0].weight, run.state.layers[0].weight)
    assert run.evaluate("test")["accuracy"] > 0.5


def test_running_statistics_go_with_the_parameters_that_training_starts_from() -> None:
    class Normed(nn.Module):
        @nn.compact
        def __call__(self, x: Any, train: bool = False) -> Any:
            return nn.Dense(2)(nn.BatchNorm(use_running_average=not train)(x))

    moved = 4 * X + 3
    first = dlfb_lab.train(Normed(), (moved, KIND), valid=(moved, KIND), epochs=5)
    ended = first.evaluate("valid")["loss"]
    for given in (first, {"params": first.params, **first.extra}):
        second = dlfb_lab.train(Normed(), (moved, KIND), valid=(moved, KIND), epochs=1, init_from=given)
        assert second.record.evaluations[0].metrics["loss"] == ended
        assert "So do 2 of 2 arrays of running statistics." in notices(second)
    third = dlfb_lab.train(Normed(), (moved, KIND), valid=(moved, KIND), epochs=1, init_from=first.params)
    assert "So do 0 of 2 arrays of running statistics." in notices(third)


def test_more_accumulated_steps_than_there_are_is_refused() -> None:
    with pytest.raises(OptionError, match=r"--accumulate 1000: the run has only [\d,]+ steps"):
        trained(accumulate=1000)
