"""Steps that take long share a dispatch where that pays, and can be stopped after each."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlfb_lab import assemble
from dlfb_lab.assemble import TrainRequest
from dlfb_lab.engine import asking, loop, plan, resident
from dlfb_lab.engine.allocator import LARGEST
from dlfb_lab.engine.control import interrupts_stop
from dlfb_lab.engine.programs import Lowered, Program
from dlfb_lab.events import Event, Losses, PlanChosen, Status
from dlfb_lab.record import Record

RNG = np.random.default_rng(0)
X = RNG.normal(size=(400, 3)).astype(np.float32)
Y = (X @ [1.0, -2.0, 0.5]).astype(np.float32)


class Net(nn.Module):
    """Dropout, and a name of its own, so that no other test has compiled it."""

    name_of_test: str

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        return nn.Dense(1)(nn.Dropout(0.2, deterministic=not train)(nn.relu(nn.Dense(8)(x))))


@pytest.fixture(autouse=True)
def every_step_asks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Lets fused steps that ask win as soon as they are compiled, if they compute the same."""
    judge, made = plan.compare, resident.Fusing

    def and_wait(lowered: Any) -> Any:
        fusing = made(lowered)
        fusing.result()
        return fusing

    def same_bits(*arguments: Any) -> plan.Verdict:
        verdict = judge(*arguments)
        assert "other bits" not in verdict.reason
        return replace(verdict, fused=True, fused_step_s=1e-3)

    plan._verdicts.clear()
    monkeypatch.setattr(resident, "Fusing", and_wait)
    monkeypatch.setattr(resident, "PROBE_SLOWER", 1e9)
    monkeypatch.setattr(plan, "LONG_STEP_S", 0.0)
    monkeypatch.setattr(plan, "compare", same_bits)
    monkeypatch.setattr(asking, "pays", lambda single: True)
    yield
    plan._verdicts.clear()


def train(model: Any, seen: Callable[[Any, Event], None] | None = None, **options: Any) -> tuple[list[Event], Any]:
    session, _ = assemble.session(TrainRequest(model=model, data=(X, Y), batch_size=8, **options))
    events = loop.train(session.experiment, session.plan, session.control, session.trainer)
    told: list[Event] = []
    while True:
        try:
            told.append(next(events))
        except StopIteration as end:
            return told, end.value
        if seen is not None:
            seen(session, told[-1])


def fused(event: Event) -> bool:
    return isinstance(event, PlanChosen) and event.plan == "fused"


@pytest.mark.parametrize("options", [{}, {"valid": 0.25, "eval_every": 37}, {"seeds": 2}])
def test_the_numbers_are_those_of_steps_one_by_one(options: dict[str, Any]) -> None:
    def numbers(told: list[Event], trained: Any) -> list[bytes]:
        leaves = jax.tree.leaves((trained.params, trained.opt_state))
        return [Record(told).losses()[1].tobytes(), *(np.asarray(leaf).tobytes() for leaf in leaves)]

    model = Net(f"numbers {options}")
    told, trained = train(model, steps=3000, **options)
    assert any(map(fused, told))
    assert numbers(told, trained) == numbers(*train(model, steps=3000, plan="step", **options))


def test_the_next_run_asks_from_the_start_and_takes_long_dispatches() -> None:
    model = Net("next")
    train(model, steps=3000)
    told, _ = train(model, steps=900)
    assert [fused(e) for e in told if isinstance(e, PlanChosen)] == [True]
    assert sum(e.dispatches for e in told if isinstance(e, Losses)) == 1


@pytest.mark.parametrize("how", ["stop", "pause"])
def test_a_dispatch_ends_after_the_step_that_it_is_at(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Net("ended by " + how)
    train(model, steps=3000)
    control: list[Any] = []
    asked: list[int] = []

    class Slow(set[int]):
        """Takes its time to answer, so that a step lasts; at the tenth question, somebody presses a button."""

        def __contains__(self, number: object) -> bool:
            asked.append(1)
            if len(asked) == 10:
                control[0].ask(how)
                if how == "pause":
                    threading.Timer(0.5, lambda: control[0].ask("resume")).start()
            time.sleep(0.05)
            return super().__contains__(number)

    monkeypatch.setattr(asking, "_go_on", Slow())

    def seen(session: Any, event: Event) -> None:
        if fused(event):
            control.append(session.control)

    steps = 40
    told, _ = train(model, seen, steps=steps)
    record = Record(told)
    if how == "stop":
        assert record.status is not None and record.status.state == "stopped"
        assert 10 <= record.step <= 15
    else:
        assert record.step == steps
        assert 10 <= next(e.step for e in told if isinstance(e, Losses)) <= 15
    assert len(record.losses()[1]) == record.step


def test_an_interrupt_is_seen_within_a_dispatch(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Net("interrupted")
    train(model, steps=3000)

    class Slow(set[int]):
        def __contains__(self, number: object) -> bool:
            time.sleep(0.05)
            return super().__contains__(number)

    monkeypatch.setattr(asking, "_go_on", Slow())
    session, _ = assemble.session(TrainRequest(model=model, data=(X, Y), batch_size=8, steps=400))
    interrupt = threading.Timer(1.0, lambda: signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT))
    with interrupts_stop(session.control):
        interrupt.start()
        told = list(loop.train(session.experiment, session.plan, session.control, session.trainer))
    record = Record(told)
    assert [(e.state, e.reason) for e in told if isinstance(e, Status)][-1] == ("stopped", "interrupted")
    assert 0 < record.step < 400


def test_finding_out_can_be_stopped_too(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[int] = []

    def seen(session: Any, event: Event) -> None:
        if isinstance(event, Losses) and not said:
            said.append(event.step)
            before = session.trainer._one_by_one

            def stopped(program: Any, count: int, *goes_on: Any) -> Any:
                if goes_on:
                    session.control.stop()
                return before(program, count, *goes_on)

            monkeypatch.setattr(session.trainer, "_one_by_one", stopped)

    told, _ = train(Net("stopped while finding out"), seen, steps=100_000)
    record = Record(told)
    assert record.status is not None and record.status.state == "stopped"
    assert not any(map(fused, told))
    assert len(record.losses()[1]) == record.step


def compiled(function: Callable[..., Any], *arguments: Any) -> Any:
    return Lowered(Program("test", function, function), arguments).finish()[0]


def test_it_pays_with_much_temporary_memory_and_without_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    wide = jnp.ones((1024, 4096))
    assert wide.nbytes < LARGEST

    def products(x: jax.Array) -> jax.Array:
        return jnp.tanh(jnp.sin(x @ x.T) @ x).sum() + (jnp.cos(x.T @ x) @ x.T).sum()

    def convolutions(x: jax.Array) -> jax.Array:
        image = x.reshape(1, 1024, 4096, 1)
        kernel = jnp.ones((3, 3, 1, 8))
        return jax.lax.conv_general_dilated(
            image, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        ).std()

    assert compiled(products, wide).memory_analysis().temp_size_in_bytes > LARGEST
    assert compiled(convolutions, wide).memory_analysis().temp_size_in_bytes > LARGEST
    assert asking.pays(compiled(products, wide))
    assert not asking.pays(compiled(convolutions, wide))
    assert not asking.pays(compiled(products, jnp.ones((8, 8))))
