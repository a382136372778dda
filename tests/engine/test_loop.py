"""The loop as a generator of events: what it computes, in which order, and what it compiles."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.training.train_state import TrainState

from dlfb_lab import assemble, inbox
from dlfb_lab.assemble import TrainRequest
from dlfb_lab.engine import clock, control, loop, resident
from dlfb_lab.engine.trainer import Trained
from dlfb_lab.events import Compilation, Evaluation, Event, Losses, Notice, RunStarted, Status
from dlfb_lab.record import Record

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 3)).astype(np.float32)
Y = (X @ [1.0, -2.0, 0.5] + 0.1 * RNG.normal(size=40)).astype(np.float32)
ADAM = optax.adam(0.05)


class Linear(nn.Module):
    width: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Dense(self.width)(x)


class Noisy(nn.Module):
    """Dropout, and statistics across rows."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = nn.BatchNorm(use_running_average=not train)(nn.Dense(4)(x))
        return nn.Dense(1)(nn.Dropout(0.5, deterministic=not train)(x))


def table(params: jax.Array, x: jax.Array) -> jax.Array:
    """One parameter a row, so that a parameter tells what became of its row."""
    return params[x]


def start(model: Any, data: Any = (X, Y), **options: Any) -> tuple[assemble.Session, Iterator[Event]]:
    session, _ = assemble.session(TrainRequest(model=model, data=data, **options))
    return session, loop.train(session.experiment, session.plan, session.control, session.trainer, "id")


def train(model: Any, data: Any = (X, Y), **options: Any) -> tuple[list[Event], Trained]:
    _, events = start(model, data, **options)
    told = []
    while True:
        try:
            told.append(next(events))
        except StopIteration as end:
            return told, end.value


def losses(events: list[Event]) -> np.ndarray:
    steps, values = Record(events).losses()
    np.testing.assert_array_equal(steps, np.arange(len(steps)))
    return values


def compilations(events: list[Event]) -> list[Compilation]:
    return [e for e in events if isinstance(e, Compilation)]


def test_events_come_in_their_order() -> None:
    events, trained = train(Linear(), valid=0.2, epochs=3, batch_size=8, optimizer=ADAM)
    kinds = [e.kind for e in events]
    assert kinds[:3] == ["run_started", "status", "baseline"]
    assert [e.state for e in events if isinstance(e, Status)] == ["compiling", "running", "finished"]
    running = next(i for i, e in enumerate(events) if isinstance(e, Status) and e.state == "running")
    assert all(e.planned for e in compilations(events))
    assert {c.program for c in compilations(events[:running])} == {
        "initialise",
        "forward pass",
        "mean loss",
        "train step",
    }
    assert compilations(events[running:]) == []
    after = [k for k in kinds[running + 1 : -1] if k not in ("losses", "device_memory")]
    assert after == ["evaluation"] * 4
    assert kinds[running + 1] == "evaluation", "before the first step"
    assert kinds[-3:] == ["losses", "evaluation", "status"]
    record = Record(events)
    assert [e.step for e in record.evaluations] == [0, 4, 8, 12]
    assert record.started is not None
    assert record.started.evaluations_total == 4
    assert record.started.steps_total == trained.step == len(losses(events)) == 12
    assert [e.step for e in events] == sorted(e.step for e in events)
    assert sum(b.dispatches for b in record.blocks) >= 3


def test_the_started_event_shows_every_default() -> None:
    events, _ = train(Linear(), valid=0.2, epochs=1, optimizer=ADAM)
    started = events[0]
    assert isinstance(started, RunStarted)
    assert (started.batch_size, started.steps_per_epoch, started.parameter_count) == (32, 1, 4)
    assert started.rows == {"train": 32, "valid": 8}
    assert (started.monitor, started.monitor_mode) == ("valid/loss", "min")
    assert started.settings["seed"] == 0
    assert started.settings["loss"] == "mean_squared_error"
    assert {"python", "jax", "flax", "optax", "numpy", "dlfb-lab"} <= set(started.versions)
    assert "regression: 40 rows" in started.task_sentence


def by_hand(apply: Callable[..., Any], params: Any, tx: Any, steps: int) -> tuple[list[float], Any]:
    """The loop that everybody writes: full batch, mean squared error."""

    @jax.jit
    def step(params: Any, opt_state: Any) -> Any:
        loss, gradients = jax.value_and_grad(lambda p: ((apply(p)[:, 0] - Y) ** 2).mean())(params)
        updates, opt_state = tx.update(gradients, opt_state, params)
        return loss, optax.apply_updates(params, updates), opt_state

    opt_state, told = tx.init(params), []
    for _ in range(steps):
        loss, params, opt_state = step(params, opt_state)
        told.append(float(loss))
    return told, params


def test_the_loss_at_a_step_is_that_of_a_loop_written_by_hand() -> None:
    model, tx = Linear(), optax.adam(0.1)
    state = TrainState.create(apply_fn=model.apply, params=model.init(jax.random.key(3), X)["params"], tx=tx)
    events, trained = train(state, epochs=25, batch_size="full")
    wanted, params = by_hand(lambda p: model.apply({"params": p}, X), state.params, tx, 25)
    np.testing.assert_allclose(losses(events), wanted, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), trained.params, params)


TEN = (np.arange(10), (1 + np.arange(10.0)) / 10)


def mean_square(y_true: jax.Array, y_pred: jax.Array) -> jax.Array:
    return ((y_true - y_pred) ** 2).mean()


def squares(y_true: jax.Array, y_pred: jax.Array) -> jax.Array:
    return (y_true - y_pred) ** 2


@pytest.mark.parametrize("loss", [None, mean_square, squares])
def test_every_row_is_used_once_an_epoch_and_a_ragged_batch_is_a_mean_over_its_own_rows(loss: Any) -> None:
    events, trained = train((table, jnp.zeros(10)), TEN, loss=loss, epochs=1, batch_size=4, optimizer=optax.sgd(0.1))
    values = losses(events)
    # A row's parameter moves by 0.1 * 2 * y / (rows in its batch), once.
    moved = np.asarray(trained.params) / (0.2 * TEN[1])
    assert sorted(np.round(1 / moved, 4).tolist()) == [2.0] * 2 + [4.0] * 8
    last = moved > 0.4
    assert values[2] == pytest.approx((TEN[1][last] ** 2).mean(), rel=1e-6)
    assert (values * [4, 4, 2]).sum() == pytest.approx((TEN[1] ** 2).sum(), rel=1e-6)
    programs = [c.program for c in compilations(events) if c.program.startswith("train step")]
    assert programs == (["train step"] if loss is None else ["train step", "train step, last batch"])
    assert all(c.planned for c in compilations(events))
    if loss is not None:
        assert compilations(events)[-1].cause == "the last batch of an epoch has 2 rows, and the loss is your own"


def test_every_epoch_takes_all_rows_in_a_new_order() -> None:
    _, trained = train((table, jnp.zeros(10)), TEN, epochs=2, batch_size=4, optimizer=optax.sgd(0.1))
    # What is left of y after batches of a and b rows.
    left = 1 - np.asarray(trained.params) / TEN[1]
    kinds = {round(float((1 - 0.2 / a) * (1 - 0.2 / b)), 4) for a, b in ((4, 4), (4, 2), (2, 4), (2, 2))}
    assert set(np.round(left, 4).tolist()) <= kinds
    in_last = np.round(left, 4) == round((1 - 0.2 / 4) * (1 - 0.2 / 2), 4)
    assert in_last.sum() + 2 * (np.round(left, 4) == round(0.9 * 0.9, 4)).sum() == 4
    assert in_last.any(), "the last batch of the second epoch has other rows than that of the first"
    orders = set()
    for seed in range(3):
        for epochs in (1, 2):
            _, trained = train(
                (table, jnp.zeros(10)), TEN, epochs=epochs, batch_size=4, optimizer="sgd", lr=0.1, seed=seed
            )
            orders.add(tuple(np.round(np.asarray(trained.params), 4).tolist()))
    assert len(orders) == 6


def test_rows_without_a_remainder_are_all_used() -> None:
    _, trained = train((table, jnp.zeros(10)), TEN, epochs=1, batch_size=5, optimizer=optax.sgd(0.1))
    np.testing.assert_allclose(trained.params, 0.2 * TEN[1] / 5, rtol=1e-6)


def test_statistics_across_rows_get_a_planned_program_for_the_last_batch() -> None:
    events, trained = train(Noisy(), epochs=2, batch_size=16, optimizer=ADAM)
    last = compilations(events)[-1]
    assert (last.program, last.planned) == ("train step, last batch", True)
    assert last.cause == "the last batch of an epoch has 8 rows, and the model keeps statistics across rows"
    assert len(losses(events)) == 6
    assert not np.allclose(trained.extra["batch_stats"]["BatchNorm_0"]["mean"], 0)


@pytest.mark.parametrize("model", [Linear(), Noisy()], ids=["linear", "noisy"])
def test_numbers_do_not_depend_on_how_steps_are_dispatched(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    told = []
    for target_s in (0.0, 1e9, 0.002):
        monkeypatch.setattr(clock.Pace, "TARGET_S", target_s)
        events, trained = train(model, epochs=4, batch_size=16, optimizer=ADAM)
        blocks = [e for e in events if isinstance(e, Losses)]
        told.append((losses(events).tobytes(), jax.tree.map(np.asarray, trained.params), blocks))
    assert sum(b.dispatches for b in told[0][2]) == 12
    assert sum(b.dispatches for b in told[1][2]) < 12
    for values, params, _ in told[1:]:
        assert values == told[0][0]
        jax.tree.map(np.testing.assert_array_equal, params, told[0][1])


def test_the_seed_alone_decides() -> None:
    first, again, other = (
        losses(train(Noisy(), epochs=4, batch_size=16, optimizer=ADAM, seed=seed)[0]) for seed in (1, 1, 2)
    )
    assert first.tobytes() == again.tobytes()
    assert not np.allclose(first, other)


def make_state(module: nn.Module, tx: Any) -> TrainState:
    return TrainState.create(apply_fn=module.apply, params=module.init(jax.random.key(0), X)["params"], tx=tx)


@pytest.mark.parametrize("kind", ["linen", "train state", "train state of a new module", "function"])
def test_a_second_run_compiles_nothing(kind: str) -> None:
    tx = optax.adam(0.01)
    params = {"w": jnp.zeros((3, 1))}

    def apply(params: Any, x: jax.Array) -> jax.Array:
        return x @ params["w"]

    state = make_state(Linear(), tx)
    make = {
        "linen": lambda: (Linear(), tx),
        "train state": lambda: (state, None),
        "train state of a new module": lambda: (make_state(Linear(), tx), None),
        "function": lambda: ((apply, params), tx),
    }[kind]
    counts = []
    for seed in (0, 1):
        model, optimizer = make()
        events, _ = train(model, valid=0.2, epochs=2, batch_size=8, optimizer=optimizer, seed=seed)
        counts.append(len(compilations(events)))
    assert counts[0] > 0
    assert counts[1] == 0


def test_by_name_too_the_optimizer_is_found_again() -> None:
    counts = [len(compilations(train(Linear(), epochs=1, optimizer="sgd", lr=0.03)[0])) for _ in range(2)]
    assert counts[0] > 0
    assert counts[1] == 0


def test_another_module_is_not_taken_for_the_same() -> None:
    y = np.stack([Y, Y], axis=1)
    train(Linear(1), epochs=1, optimizer=ADAM)
    _, trained = train(Linear(2), (X, y), epochs=1, optimizer=ADAM)
    assert trained.params["Dense_0"]["kernel"].shape == (3, 2)


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"epochs": 3, "batch_size": 8}, [0, 4, 8, 12]),
        ({"epochs": 5, "batch_size": 8, "eval_every": 2}, [0, 8, 16, 20]),
        ({"steps": 10, "batch_size": 8, "eval_every": 4}, [0, 4, 8, 10]),
        ({"steps": 6, "batch_size": 8}, [0, 4, 6]),
        ({"steps": 2, "batch_size": 8, "eval_every": 10}, [0, 2]),
    ],
)
def test_the_model_is_scored_at_the_start_every_so_often_and_at_the_end(
    options: dict[str, Any], steps: list[int]
) -> None:
    events, _ = train(Linear(), valid=0.2, optimizer=ADAM, **options)
    record = Record(events)
    assert [e.step for e in record.evaluated("valid")] == steps
    assert record.started is not None
    assert record.started.evaluations_total == len(steps)
    assert record.started.steps_total == len(losses(events))


def test_of_many_epochs_at_most_200_are_scored() -> None:
    session, _ = start(Linear(), valid=0.2, epochs=1000, batch_size=8, optimizer=ADAM)
    assert session.plan.evaluations_total == 201
    asked, _ = start(Linear(), valid=0.2, epochs=1000, batch_size=8, optimizer=ADAM, eval_every=1)
    assert asked.plan.evaluations_total == 1001


def test_without_validation_rows_nothing_is_scored_but_the_baseline() -> None:
    events, _ = train(Linear(), epochs=2, batch_size=8, optimizer=ADAM)
    record = Record(events)
    assert record.evaluations == []
    assert [b.split for b in record.baselines] == ["train"]


def test_a_score_is_that_of_the_parameters_at_its_step() -> None:
    session, events = start(Linear(), valid=0.2, steps=6, eval_every=3, batch_size=32, optimizer=ADAM)
    told: list[Event] = []
    end: Any = None
    while end is None:
        try:
            told.append(next(events))
        except StopIteration as stop:
            end = stop.value
    last = Record(told).evaluated("valid")[-1]
    valid = session.parts["valid"]
    kernel, bias = (np.asarray(end.params["Dense_0"][k], float) for k in ("kernel", "bias"))
    error = (valid.x @ kernel + bias)[:, 0] - valid.y
    assert last.metrics["loss"] == pytest.approx((error**2).mean(), rel=1e-5)
    assert last.metrics["mae"] == pytest.approx(np.abs(error).mean(), rel=1e-5)
    assert last.rows == 8


def test_the_obvious_baseline_is_scored_before_the_first_step() -> None:
    session, events = start(Linear(), valid=0.2, epochs=1, optimizer=ADAM)
    baseline = next(e for e in events if e.kind == "baseline")
    mean = session.parts["train"].y.mean(dtype=float)
    valid = session.parts["valid"].y
    assert (baseline.name, baseline.split) == ("mean", "valid")  # type: ignore[attr-defined]
    assert baseline.metrics["loss"] == pytest.approx(((valid - mean) ** 2).mean(), rel=1e-5)  # type: ignore[attr-defined]
    labels = np.where(Y > -1, "high", "low")
    session, events = start(Linear(2), (X, labels), valid=0.5, epochs=1, optimizer=ADAM)
    baseline = next(e for e in events if e.kind == "baseline")
    share = (session.parts["valid"].y == 0).mean()
    assert session.experiment.task.classes[0] == "high"
    assert share > 0.5
    assert baseline.name == "majority class"  # type: ignore[attr-defined]
    assert baseline.metrics["accuracy"] == pytest.approx(share)  # type: ignore[attr-defined]
    assert baseline.metrics["auc"] == 0.5  # type: ignore[attr-defined]


def test_a_timebox_ends_a_run_and_keeps_it() -> None:
    events, trained = train(Linear(), steps=10**9, batch_size=8, optimizer=ADAM, timebox=0.3)
    end = events[-1]
    assert isinstance(end, Status)
    assert (end.state, end.reason) == ("finished", "the timebox of 0.3 s is used up")
    assert 0 < trained.step == len(losses(events)) < 10**9


def test_a_stop_ends_a_run_and_keeps_it() -> None:
    session, events = start(Linear(), valid=0.2, steps=10**9, batch_size=8, optimizer=ADAM)
    told = []
    end: Any = None
    while end is None:
        try:
            told.append(next(events))
            if isinstance(told[-1], Losses):
                session.control.stop("enough")
        except StopIteration as stop:
            end = stop.value
    assert isinstance(told[-1], Status)
    assert (told[-1].state, told[-1].reason) == ("stopped", "enough")
    assert end.step == len(losses(told)) == told[-1].step
    assert Record(told).evaluated("valid")[-1].step == end.step


def test_a_run_hears_what_is_asked_through_a_file(tmp_path: Path) -> None:
    session, events = start(Linear(), steps=10**9, batch_size=8, optimizer=ADAM)
    session.control.requests = inbox.Inbox(tmp_path).take
    told: list[Event] = []
    answers: dict[str, inbox.Action] = {"running": "pause", "paused": "resume", "resumed": "stop"}
    for event in events:
        told.append(event)
        if isinstance(event, Status) and (action := answers.get(event.reason or event.state)):
            threading.Timer(0.02, inbox.ask, (tmp_path, action)).start()
    states = [(e.state, e.reason) for e in told if isinstance(e, Status)][2:]
    assert states == [("paused", ""), ("running", "resumed"), ("stopped", "stop was pressed")]


def test_a_stop_gives_up_a_long_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    session, events = start(Linear(), valid=0.5, steps=10**9, batch_size=8, optimizer=ADAM)
    evaluator = session.trainer.learner.evaluator
    monkeypatch.setattr(evaluator, "_chunk", 1)
    outputs = evaluator.outputs
    asked_after = 3

    def slow(params: Any, extra: Any, x: Any, keep: bool, goes_on: Callable[[], bool]) -> Any:
        looks = 0

        def asked() -> bool:
            nonlocal looks
            looks += 1
            if looks == asked_after:
                session.control.stop("enough")
                time.sleep(loop.PATIENCE_S)
            return goes_on()

        found = outputs(params, extra, x, keep, asked)
        assert looks < asked_after, "it was given up"
        return found

    monkeypatch.setattr(evaluator, "outputs", slow)
    told = list(events)
    assert isinstance(told[-1], Status)
    assert (told[-1].state, told[-1].reason) == ("stopped", "enough")
    assert Record(told).evaluations == []


def test_a_stop_before_the_first_step_leaves_the_initial_parameters() -> None:
    session, events = start(Linear(), steps=100, batch_size=8, optimizer=ADAM)
    session.control.stop()
    told = list(events)
    assert isinstance(told[-1], Status)
    assert (told[-1].state, told[-1].step) == ("stopped", 0)
    assert len(losses(told)) == 0


def test_a_paused_run_holds_until_it_is_resumed() -> None:
    session, events = start(Linear(), steps=50, batch_size=8, optimizer=ADAM)
    session.control.pause()
    told = []
    for event in events:
        told.append(event)
        if isinstance(event, Status) and event.state == "paused":
            threading.Timer(0.05, session.control.resume).start()
    assert [e.state for e in told if isinstance(e, Status)] == ["compiling", "running", "paused", "running", "finished"]
    assert len(losses(told)) == 50


def test_a_paused_run_can_be_stopped() -> None:
    session, events = start(Linear(), steps=50, batch_size=8, optimizer=ADAM)
    session.control.pause()
    told = []
    for event in events:
        told.append(event)
        if isinstance(event, Status) and event.state == "paused":
            threading.Timer(0.05, session.control.stop).start()
    assert [e.state for e in told if isinstance(e, Status)] == ["compiling", "running", "paused", "stopped"]


def test_a_diverging_run_is_warned_of_once() -> None:
    events, _ = train(Linear(), valid=0.2, epochs=60, batch_size=8, optimizer="sgd", lr=1e6, on_nan="warn")
    values = losses(events)
    assert sum(not np.isfinite(b.losses).all() for b in Record(events).blocks) > 1
    assert not np.isfinite(values[-1])
    warnings = [e for e in events if isinstance(e, Notice) and e.level == "warning"]
    assert len(warnings) == 1
    first = int(np.flatnonzero(~np.isfinite(values))[0])
    assert warnings[0].step == first
    assert f"from step {first:,} on. Try a smaller --lr" in warnings[0].text


def test_training_leaves_the_users_state_and_params_alone() -> None:
    state = make_state(Linear(), ADAM)
    before = jax.tree.map(np.array, state)
    params = {"w": jnp.ones((3, 1))}
    train(state, epochs=2, batch_size=8)
    train((lambda p, x: x @ p["w"], params), epochs=2, batch_size=8, optimizer=ADAM)
    jax.tree.map(np.testing.assert_array_equal, jax.tree.map(np.array, state), before)
    np.testing.assert_array_equal(params["w"], 1)


def test_training_never_sees_a_test_row() -> None:
    rows = np.arange(40, dtype=np.float32)[:, None] * np.ones(3, np.float32)
    session, events = start(Linear(), (rows, Y), valid=0.2, test=0.3, epochs=2, batch_size=4, optimizer=ADAM)
    held = set(session.parts["test"].x[:, 0])
    assert len(held) == 12
    for part in (session.experiment.train, session.experiment.valid):
        assert part is not None
        assert not held & set(part.x[:, 0])
    session.parts["test"].x[:] = np.nan
    session.parts["test"].y[:] = np.nan
    told = list(events)
    assert np.isfinite(losses(told)).all()
    assert all(np.isfinite(e.metrics["loss"]) for e in Record(told).evaluations)
    assert "test" not in {e.split for e in Record(told).evaluations}


def test_a_failing_metric_is_nan_and_said_once() -> None:
    def fails(y_true: Any, y_pred: Any) -> float:
        raise ZeroDivisionError("of all things")

    _, events = start(Linear(), valid=0.2, epochs=3, metrics=[fails, "mae"], optimizer=ADAM)
    told = list(events)
    scores = [e.metrics for e in told if isinstance(e, Evaluation)]
    assert all(np.isnan(s["fails"]) and s["mae"] > 0 for s in scores)
    (notice,) = [e for e in told if isinstance(e, Notice)]
    assert "The metric `fails` failed" in notice.text
    assert "ZeroDivisionError: of all things" in notice.text
    assert "raise ZeroDivisionError" in notice.text, "the user's own line is shown"
    assert told[-1].state == "finished"


def test_a_failing_run_says_so_and_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("of all things")

    _, events = start(Linear(), valid=0.2, epochs=3, optimizer=ADAM)
    monkeypatch.setattr("dlfb_lab.engine.evaluation.Evaluator.scores", fails)
    told = []
    with pytest.raises(ZeroDivisionError):
        told.extend(iter_into(events, told))
    assert isinstance(told[-1], Status)
    assert told[-1].state == "failed"
    assert "ZeroDivisionError: of all things" in told[-1].reason
    assert "raise ZeroDivisionError" in told[-1].reason, "the user's own line is shown"


def iter_into(events: Iterator[Event], told: list[Event]) -> list[Event]:
    for event in events:
        told.append(event)
    return []


class Interrupting:
    """A metric during which Ctrl-C is pressed, in one of its calls."""

    def __init__(self, at_call: int, times: int) -> None:
        self.calls, self.at_call, self.times = 0, at_call, times

    def __call__(self, y_true: Any, y_pred: Any) -> float:
        self.calls += 1
        if self.calls == self.at_call:
            for _ in range(self.times):
                signal.raise_signal(signal.SIGINT)
        return 0.0


@pytest.fixture
def no_interrupt_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "_last_interrupt_s", -1e9)


@pytest.mark.usefixtures("no_interrupt_before")
def test_an_interrupt_stops_and_raises_nothing() -> None:
    handler = signal.getsignal(signal.SIGINT)
    session, events = start(
        Linear(), valid=0.2, steps=10**9, eval_every=4, batch_size=8, metrics=Interrupting(4, 1), optimizer=ADAM
    )
    with control.interrupts_stop(session.control):
        told = list(events)
    assert isinstance(told[-1], Status)
    assert (told[-1].state, told[-1].reason) == ("stopped", "interrupted")
    assert signal.getsignal(signal.SIGINT) is handler


@pytest.mark.usefixtures("no_interrupt_before")
def test_a_second_interrupt_within_two_seconds_raises() -> None:
    session, events = start(
        Linear(), valid=0.2, steps=10**9, eval_every=4, batch_size=8, metrics=Interrupting(4, 2), optimizer=ADAM
    )
    told: list[Event] = []
    with pytest.raises(KeyboardInterrupt), control.interrupts_stop(session.control):
        iter_into(events, told)
    assert isinstance(told[-1], Status)
    assert told[-1].state == "stopped"
    assert "interrupted twice" in told[-1].reason


@pytest.mark.usefixtures("no_interrupt_before")
def test_an_interrupt_soon_after_another_run_was_interrupted_raises() -> None:
    with control.interrupts_stop(control.Control()):
        signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), control.interrupts_stop(control.Control()):
        signal.raise_signal(signal.SIGINT)


@pytest.mark.usefixtures("no_interrupt_before")
def test_two_interrupts_far_apart_do_not_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = control.Control()
    with control.interrupts_stop(asked):
        signal.raise_signal(signal.SIGINT)
        monkeypatch.setattr(control, "_last_interrupt_s", control._last_interrupt_s - control.INSIST_S)
        signal.raise_signal(signal.SIGINT)
    assert asked.stop_reason == "interrupted"


@pytest.mark.parametrize("plan", ["step", "fused"])
@pytest.mark.parametrize("batch_size", [8, 12], ids=["whole batches", "a ragged last one"])
def test_what_is_begun_while_losses_are_told_is_trained_once(
    plan: str, batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ahead = resident.ResidentTrainer.ahead
    begun: list[int] = []

    def counted(trainer: resident.ResidentTrainer, count: int) -> None:
        begun.append(count)
        ahead(trainer, count)

    monkeypatch.setattr(resident.ResidentTrainer, "ahead", counted)
    monkeypatch.setattr(clock.Pace, "LARGEST_GROWTH", 1)  # so that there are many dispatches

    def trained(told: bool) -> tuple[np.ndarray, Any]:
        begun.clear()
        monkeypatch.setattr(clock.Reporter, "due", lambda reporter: told)
        events, result = train(Noisy(), (X, Y), epochs=6, batch_size=batch_size, plan=plan, valid=0.2)
        return losses(events), result.params

    rarely = trained(False)
    assert not begun
    often = trained(True)
    assert begun
    np.testing.assert_array_equal(often[0], rarely[0])
    jax.tree.map(np.testing.assert_array_equal, often[1], rarely[1])


@pytest.mark.parametrize("plan", ["step", "fused"])
def test_a_pause_while_losses_are_told_comes_after_what_has_begun(plan: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock.Pace, "LARGEST_GROWTH", 1)
    monkeypatch.setattr(clock.Reporter, "due", lambda reporter: True)
    session, events = start(Noisy(), (X, Y), epochs=50, batch_size=8, plan=plan)
    told = []
    while True:
        try:
            event = next(events)
        except StopIteration as end:
            trained = end.value
            break
        told.append(event)
        if isinstance(event, Losses) and event.step >= 3:
            session.control.pause()
        if isinstance(event, Status) and event.state == "paused":
            session.control.stop()
    assert "paused" in [event.state for event in told if isinstance(event, Status)]
    assert trained.step == len(losses(told)) < 50
    _, undisturbed = train(Noisy(), (X, Y), steps=trained.step, batch_size=8, plan=plan)
    jax.tree.map(np.testing.assert_array_equal, trained.params, undisturbed.params)


def test_losses_are_told_before_a_launch_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock.Pace, "LARGEST_GROWTH", 1)
    monkeypatch.setattr(clock.Reporter, "due", lambda reporter: True)
    begin = resident.ResidentTrainer._begin

    def fails(trainer: resident.ResidentTrainer, count: int, *more: Any) -> Any:
        if trainer._step == 7:
            raise RuntimeError("out of memory")
        return begin(trainer, count, *more)

    monkeypatch.setattr(resident.ResidentTrainer, "_begin", fails)
    _, events = start(Linear(), (X, Y), epochs=50, batch_size=8, plan="fused")
    told: list[Event] = []
    with pytest.raises(RuntimeError, match="out of memory"):
        for event in events:
            told.append(event)
    assert len(losses(told)) == 7
