"""Which way steps are run is found out by measuring, and changes no number."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlfb_lab import assemble
from dlfb_lab.assemble import TrainRequest
from dlfb_lab.engine import loop, plan, resident
from dlfb_lab.engine.plan import Verdict
from dlfb_lab.errors import OptionError
from dlfb_lab.events import Compilation, Event, PlanChosen
from dlfb_lab.record import Record

RNG = np.random.default_rng(0)
X = RNG.normal(size=(500, 3)).astype(np.float32)
Y = (X @ [1.0, -2.0, 0.5] + 0.1 * RNG.normal(size=500)).astype(np.float32)


class Net(nn.Module):
    """Dropout, batch statistics and a name of its own, so that no other test has compiled it."""

    name_of_test: str

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = nn.BatchNorm(use_running_average=not train)(nn.relu(nn.Dense(8)(x)))
        return nn.Dense(1)(nn.Dropout(0.2, deterministic=not train)(x))


@pytest.fixture(autouse=True)
def no_verdicts() -> Iterator[None]:
    plan._verdicts.clear()
    yield
    plan._verdicts.clear()


def train(model: Any, **options: Any) -> tuple[list[Event], Any, Any]:
    session, _ = assemble.session(TrainRequest(model=model, data=(X, Y), batch_size=8, **options))
    events = loop.train(session.experiment, session.plan, session.control, session.trainer)
    told = []
    while True:
        try:
            told.append(next(events))
        except StopIteration as end:
            return told, end.value, session


def plans(events: list[Event]) -> list[PlanChosen]:
    return [e for e in events if isinstance(e, PlanChosen)]


def numbers(told: list[Event], trained: Any) -> list[bytes]:
    state = trained.params, trained.extra, trained.opt_state
    return [Record(told).losses()[1].tobytes(), *(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state))]


def wait_for_the_fused_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets training wait for the fused program once it is being compiled, however slow the machine."""
    made = resident.Fusing

    def and_wait(lowered: Any) -> Any:
        fusing = made(lowered)
        fusing.result()
        return fusing

    monkeypatch.setattr(resident, "Fusing", and_wait)
    monkeypatch.setattr(plan, "LONG_STEP_S", 1e9)


def test_the_fused_program_is_compiled_beside_training_and_the_journal_says_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wait_for_the_fused_program(monkeypatch)
    told, _, _ = train(Net("beside"), steps=3000)
    first, second = plans(told)
    assert (first.step, first.plan) == (0, "one by one")
    assert second.step > 0
    assert second.reason
    assert second.step_s > 0 < second.fused_step_s
    fused = [e for e in told if isinstance(e, Compilation) and e.program == "fused train steps"]
    assert len(fused) == 1
    assert fused[0].planned


def test_the_next_run_goes_on_with_what_was_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    wait_for_the_fused_program(monkeypatch)
    model = Net("next")
    before = plans(train(model, steps=3000)[0])[-1]
    told, _, _ = train(model, steps=50, seed=5)
    assert [(e.plan, e.reason) for e in plans(told)] == [(before.plan, before.reason)]
    assert not [e for e in told if isinstance(e, Compilation) and "train step" in e.program]


@pytest.mark.parametrize("rows", ["divided", "ragged"])
def test_numbers_do_not_depend_on_the_plan(rows: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Net("plans" + rows)
    options: dict[str, Any] = {"steps": 200} if rows == "divided" else {"steps": 200, "valid": 0.25, "eval_every": 37}
    fused, single = (numbers(*train(model, plan=asked, **options)[:2]) for asked in ("fused", "step"))
    assert fused == single
    wait_for_the_fused_program(monkeypatch)
    told, trained, _ = train(model, **options)
    assert numbers(told, trained) == single


@pytest.mark.slow
def test_five_runs_under_load_give_the_same_bits() -> None:
    load = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    try:
        found = []
        for number in range(5):
            if number % 2:
                plan._verdicts.clear()
            told, trained, _ = train(Net("load"), steps=400)
            found.append(numbers(told, trained))
    finally:
        for process in load:
            process.kill()
            process.wait()
    assert all(each == found[0] for each in found)


def test_other_bits_keep_steps_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    wait_for_the_fused_program(monkeypatch)
    monkeypatch.setattr(plan, "same_bits", lambda a, b: False)
    monkeypatch.setattr(resident, "PROBE_SLOWER", 1e9)
    told, _, session = train(Net("other bits"), steps=600)
    assert plans(told)[-1].plan == "one by one"
    assert "other bits" in plans(told)[-1].reason
    assert session.trainer._fused is None


def test_a_long_step_is_not_fused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "LONG_STEP_S", 0.0)
    told, _, session = train(Net("long"), steps=400)
    assert "launching it costs next to nothing" in plans(told)[-1].reason
    assert session.trainer._fusing is None
    assert [e.program for e in told if isinstance(e, Compilation)].count("fused train steps") == 0


@pytest.mark.parametrize(("asked", "ran"), [("fused", "fused"), ("step", "one by one")])
def test_the_user_can_decide(asked: str, ran: str) -> None:
    told, _, _ = train(Net("decide" + asked), steps=100, plan=asked)
    assert [(e.plan, e.reason) for e in plans(told)] == [(ran, "asked for")]


def test_an_unknown_plan_is_refused() -> None:
    with pytest.raises(OptionError, match="--plan quick: there are auto, fused, step"):
        train(Net("unknown"), steps=1, plan="quick")


def test_bits_are_compared_whole() -> None:
    key = jax.random.key(0)
    tree = {"a": jnp.array([1.0, jnp.nan]), "key": key}
    assert plan.same_bits(tree, {"a": jnp.array([1.0, jnp.nan]), "key": jax.random.key(0)})
    assert not plan.same_bits(tree, {"a": jnp.array([1.0, jnp.nan]), "key": jax.random.key(1)})
    assert not plan.same_bits({"a": jnp.array(0.0)}, {"a": jnp.array(-0.0)})
    assert not plan.same_bits({"a": jnp.zeros(2)}, {"a": jnp.zeros(2), "b": jnp.zeros(2)})
    assert not plan.same_bits({"a": jnp.zeros(2)}, {"a": jnp.zeros(2, jnp.int32)})


def test_a_faster_way_with_the_same_bits_is_taken() -> None:
    one = {"a": np.zeros(3)}
    assert plan.compare(one, one, 2e-3, 1e-3).fused
    assert not plan.compare(one, one, 1e-3, 1e-3).fused
    assert not plan.compare(one, {"a": np.ones(3)}, 2e-3, 1e-3).fused


def test_verdicts_are_kept_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "MOST_KEPT", 2)
    for number in range(3):
        plan.remember(number, Verdict(True, str(number)))
    assert [plan.known(number) is None for number in range(3)] == [True, False, False]


def test_where_the_order_is_drawn_changes_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    for asked in ("step", "fused"):
        inside = numbers(*train(Net("order"), plan=asked, steps=150)[:2])
        with monkeypatch.context() as patch:
            patch.setattr(resident, "MOST_DRAWN_INSIDE", 10)
            told, trained, session = train(Net("order"), plan=asked, steps=150)
        assert not session.trainer._batching.draws
        assert numbers(told, trained) == inside
