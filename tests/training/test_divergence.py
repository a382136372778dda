"""Losses and arrays that become NaN or infinite: training ends, says where it began, and keeps what was good."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import dlfb_lab
from dlfb_lab.engine import divergence
from dlfb_lab.engine.divergence import Spikes, Watch
from dlfb_lab.errors import OptionError
from dlfb_lab.run import Run

RNG = np.random.default_rng(0)
X = RNG.standard_normal((500, 8)).astype(np.float32)
Y = (X[:, 0] * X[:, 1] > 0).astype(np.int32)
STEEP: dict[str, Any] = {"task": "regression", "optimizer": "sgd"}
LARGE = (100 * X, 1e4 * X[:, 0])


class Rooted(nn.Module):
    """Has no gradient where its hidden values are zero."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        return nn.Dense(2)(jnp.sqrt(jnp.abs(nn.Dense(4, use_bias=False)(x))))


def warned(run: Run) -> list[str]:
    return [event.text for event in run.record.events if event.kind == "notice" and event.level == "warning"]


def good(tree: Any) -> bool:
    return all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("plan", ["step", "fused"])
def test_a_loss_that_is_not_finite_ends_training_with_the_state_before_it(tmp_path: Path, plan: str) -> None:
    run = dlfb_lab.train(nn.Dense(1), LARGE, **STEEP, lr=1.0, epochs=200, plan=plan, store=tmp_path)
    assert run.status == "stopped" and run.diverged
    losses = run.history["train/loss"].to_numpy()
    first = int(np.flatnonzero(~np.isfinite(losses))[0])
    assert len(losses) < 200 * 16
    assert run.record.status is not None and f"from step {first} on" in run.record.status.reason
    said = warned(run)
    assert said[0].startswith("The training loss is inf from step") and "--lr" in said[0]
    assert f"the first bad step is {first}, batch {first + 1} of epoch 1" in said[1]
    assert good(run.params)
    # The state is that of the step before: another run to there has it, too.
    other = dlfb_lab.train(nn.Dense(1), LARGE, **STEEP, lr=1.0, steps=first, plan=plan, store=tmp_path)
    jax.tree.map(np.testing.assert_array_equal, run.params, other.params)


def test_the_row_that_brings_it_is_named_by_its_number_in_what_was_given(tmp_path: Path) -> None:
    x = X.copy()
    x[77] = 1e30
    run = dlfb_lab.train(nn.Dense(1), (x, X[:, 0]), **STEEP, valid=0.2, epochs=20, store=tmp_path)
    assert run.diverged
    assert re.search(r"row 77\b", warned(run)[-1]) and "1e+30" in warned(run)[-1]


def test_a_gradient_that_is_not_finite_names_its_array_and_its_row(tmp_path: Path) -> None:
    x = X.copy()
    x[123] = 0
    run = dlfb_lab.train(Rooted(), (x, Y), epochs=20, store=tmp_path)
    assert run.diverged and good(run.params)
    last = warned(run)[-1]
    assert "the gradient of Dense_1/kernel is not finite, because of row 123" in last and "The loss is 0." in last


def test_it_is_replayed_from_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def step(state: Any, batch: Any) -> Any:
        return state - 0.01, jnp.mean(batch[0][:, 0] ** 2) * jnp.log(state)

    run = dlfb_lab.train(
        (X, Y), step=step, state=jnp.float32(1.0), steps=500, checkpoint="every=30,keep=9", store=tmp_path
    )
    said = warned(run)
    assert run.diverged and "Repeated from the checkpoint of step 90: the first bad step is 101" in said[-1]
    dlfb_lab.engine.saving.wait()
    assert [checkpoint.step for checkpoint in run.checkpoints][-2:] == [90, 101]
    assert all(checkpoint.usable for checkpoint in run.checkpoints)


def test_arrays_that_become_infinite_are_seen_before_the_loss_is(tmp_path: Path) -> None:
    def step(state: Any, batch: Any) -> Any:
        return {**state, "unused": state["unused"] * 1e10}, jnp.mean(batch[0] ** 2)

    state = {"unused": jnp.float32(1.0), "limit": jnp.float32(jnp.inf)}
    run = dlfb_lab.train((X, Y), step=step, state=state, steps=500, plan="step", store=tmp_path)
    assert (run.diverged and "state/unused" in warned(run)[0]) or "unused" in warned(run)[0]
    assert "the first bad step is 3," in warned(run)[-1] and "made state/unused NaN or infinite" in warned(run)[-1]
    assert "limit" not in "".join(warned(run))


def test_of_several_members_the_others_go_on(tmp_path: Path) -> None:
    run = dlfb_lab.train(nn.Dense(1), LARGE, **STEEP, sweep="lr=1e-6,1.0", epochs=20, store=tmp_path)
    assert run.status == "finished" and not run.diverged and good(run.params)
    assert warned(run)[0].startswith("The training loss of lr 1 is inf from step")
    run = dlfb_lab.train(nn.Dense(1), LARGE, **STEEP, sweep="lr=2.0,1.0", epochs=200, store=tmp_path)
    assert run.status == "stopped" and run.diverged


def test_rollback_goes_back_with_half_the_rate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options: dict[str, Any] = {**STEEP, "on_nan": "rollback", "store": tmp_path}
    run = dlfb_lab.train(nn.Dense(1), LARGE, **options, lr=2e-4, epochs=60)
    assert run.status == "finished" and run.learning_rate == 5e-5 and good(run.params)
    printed = capsys.readouterr().out
    assert "tried again from the start with --lr 0.0001" in printed and "--lr 5e-05" in printed
    runs = dlfb_lab.runs(tmp_path)
    assert [one.status for one in runs] == ["stopped", "stopped", "finished"]


def test_rollback_begins_at_the_last_checkpoint_as_a_fork(tmp_path: Path) -> None:
    options: dict[str, Any] = {**STEEP, "on_nan": "rollback", "store": tmp_path, "checkpoint": "every=8,keep=9"}
    run = dlfb_lab.train(nn.Dense(1), LARGE, **options, lr=2e-4, epochs=8)
    assert run.status == "finished"
    started = run.record.started
    assert started is not None and started.parent and started.parent_step % 8 == 0 and started.parent_step > 0
    assert good(run.params)


def test_a_warning_is_all_where_that_was_asked_for(tmp_path: Path) -> None:
    run = dlfb_lab.train(nn.Dense(1), LARGE, **STEEP, lr=1.0, epochs=20, on_nan="warn", store=tmp_path)
    assert run.status == "finished" and not run.diverged and len(warned(run)) == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"on_nan": "explode"}, "--on-nan explode: there are stop, rollback, warn."),
        ({"on_nan": "rollback", "background": True}, "Leave --background out"),
        ({"on_nan": "rollback", "sweep": "lr=0.1,0.2"}, "a rate each"),
    ],
)
def test_what_cannot_be_done_is_refused(options: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=re.escape(said)):
        dlfb_lab.train(nn.Dense(2), (X, Y), store=tmp_path, **options)
    assert list(tmp_path.iterdir()) == []


def test_a_replay_that_fails_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*given: Any) -> Any:
        raise RuntimeError("no room")

    monkeypatch.setattr(divergence.Replay, "_explained", fails)
    run = dlfb_lab.train(nn.Dense(1), LARGE, **STEEP, lr=1.0, epochs=200, store=tmp_path)
    assert run.status == "stopped" and run.diverged
    said = "The first bad step was not found by repeating them: RuntimeError: no room"
    assert any(event.text.startswith(said) for event in run.record.notices)


def test_a_large_state_is_looked_at_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(divergence, "ON_HOST_BYTES", 0)
    monkeypatch.setattr(divergence, "THERE_BYTES", 0)
    state = {
        "a": jnp.ones((2, 3)),
        "b": jnp.ones((2,), jnp.bfloat16),
        "n": jnp.zeros((2,), int),
        "mask": jnp.full(2, -jnp.inf),
    }

    def holding(state: Any) -> Any:
        return SimpleNamespace(state=state)

    watch = Watch(["one", "two"])
    watch.begin(state, 5)
    watch.arrays(6, holding(state))
    assert watch.finite_at == 6 and not watch.news()
    watch.arrays(7, holding({**state, "a": state["a"].at[1, 2].set(jnp.nan)}))
    assert not watch.over and [bad.text for bad in watch.news()] == [
        "The array a of two became NaN or infinite before step 7."
    ]
    watch.arrays(8, holding({**state, "b": state["b"].at[0].set(jnp.inf)}))
    assert watch.over and watch.finite_at == 6


def test_spikes_are_told_and_noise_is_not() -> None:
    spikes, rng = Spikes(), np.random.default_rng(0)
    told = [event for i in range(20) for event in spikes.look(100 * i, rng.normal(1.0, 0.1, 100).astype(np.float32))]
    assert told == []
    losses = rng.normal(1.0, 0.1, 100).astype(np.float32)
    losses[40] = 30
    (event,) = spikes.look(2000, losses)
    assert event.step == 2040 and "jumped to 30 at step 2,040" in event.text  # type: ignore[attr-defined]
    for i in range(50):
        losses = rng.normal(1.0, 0.1, 400).astype(np.float32)
        losses[40] = 300 * 4.0**i if i < 20 else 1
        told += spikes.look(3000 + 400 * i, losses)
    assert len(told) <= divergence.MOST_SPIKES


def test_a_fork_is_replayed_from_where_it_began(tmp_path: Path) -> None:
    def step(state: Any, batch: Any, rate: float) -> Any:
        return state - rate, jnp.mean(batch[0][:, 0] ** 2) * jnp.log(state)

    options: dict[str, Any] = {"step": step, "state": jnp.float32(1.0), "steps": 500, "plan": "step", "store": tmp_path}
    run = dlfb_lab.train((X, Y), **{**options, "steps": 60}, args={"rate": 0.01}, checkpoint="every=60")
    dlfb_lab.engine.saving.wait()
    fork = dlfb_lab.train((X, Y), **options, args={"rate": 0.03}, resume=run)
    started = fork.record.started
    assert started is not None and started.parent == run.id
    assert any("Changed: steps 500 (it was 60); --args" in event.text for event in fork.record.notices)
    # 1 - 60 * 0.01 is left, which lasts for 13 steps of 0.03.
    assert "the first bad step is 74," in warned(fork)[-1] or "the first bad step is 73," in warned(fork)[-1]
    assert fork.diverged and good(fork.state)


def test_who_stops_a_replay_gets_the_state_that_training_came_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = divergence.Replay.run

    def stopped(self: Any, snapshot: Any, finite_at: int, until: int, step_s: float, goes_on: Any) -> Any:
        yield from run(self, snapshot, finite_at, until, step_s, lambda: False)

    monkeypatch.setattr(divergence.Replay, "run", stopped)
    found = dlfb_lab.train(nn.Dense(1), LARGE, **STEEP, lr=1.0, epochs=200, checkpoint="every=999", store=tmp_path)
    assert found.diverged and len(warned(found)) == 1
    dlfb_lab.engine.saving.wait()
    assert found.checkpoints[-1].step == found.record.step


def test_with_one_member_lost_a_run_can_be_gone_on_with(tmp_path: Path) -> None:
    options: dict[str, Any] = {**STEEP, "sweep": "lr=1e-6,1.0", "checkpoint": "every=50,keep=3", "store": tmp_path}
    run = dlfb_lab.train(nn.Dense(1), LARGE, **options, steps=200)
    dlfb_lab.engine.saving.wait()
    assert [(one.step, one.usable) for one in run.checkpoints] == [(100, True), (150, True), (200, True)]
    again = dlfb_lab.train(nn.Dense(1), LARGE, **options, steps=200, resume=f"{run.path}@150")
    np.testing.assert_array_equal(run.history["train/loss"].loc[150:], again.history["train/loss"].loc[150:])


def test_what_is_infinite_on_purpose_is_saved_as_usable(tmp_path: Path) -> None:
    def step(state: Any, batch: Any) -> Any:
        return {**state, "w": state["w"] * 0.9}, jnp.mean(batch[0] ** 2) * state["w"]

    state = {"w": jnp.float32(1.0), "limit": jnp.float32(jnp.inf)}
    run = dlfb_lab.train((X, Y), step=step, state=state, steps=20, checkpoint="every=10", store=tmp_path)
    dlfb_lab.engine.saving.wait()
    assert [one.usable for one in run.checkpoints] == [True]


def test_rollback_of_a_module_that_changes_in_place_begins_with_what_was_given(tmp_path: Path) -> None:
    options: dict[str, Any] = {**STEEP, "on_nan": "rollback", "store": tmp_path, "epochs": 60}
    run = dlfb_lab.train(nnx.Linear(8, 1, rngs=nnx.Rngs(0)), LARGE, **options, lr=2e-4)
    assert run.status == "finished" and run.learning_rate == 5e-5
    first = [one.history["train/loss"].iloc[0] for one in dlfb_lab.runs(tmp_path)]
    assert first[0] == first[1] == first[2]


def test_rollbacks_end_with_a_state_that_is_saved(tmp_path: Path) -> None:
    options: dict[str, Any] = {**STEEP, "on_nan": "rollback", "store": tmp_path, "checkpoint": "every=1000"}
    run = dlfb_lab.train(nn.Dense(1), LARGE, **options, lr=1e9, epochs=60)
    assert run.diverged and len(dlfb_lab.runs(tmp_path)) == 6
    dlfb_lab.engine.saving.wait()
    assert run.checkpoints[-1].usable


def test_large_numbers_whose_sum_overflows_are_finite() -> None:
    huge = np.full((2, 3), 3e38, np.float32)
    watch = Watch(["one", "two"])
    watch.begin({"a": huge}, 0)
    watch.arrays(1, SimpleNamespace(state={"a": huge}))  # type: ignore[arg-type]
    assert watch.finite_at == 1 and not watch.news()
    watch.arrays(2, SimpleNamespace(state={"a": np.where([[0, 0, 0], [0, 1, 0]], np.inf, huge)}))  # type: ignore[arg-type]
    assert [bad.text for bad in watch.news()] == ["The array a of two became NaN or infinite before step 2."]
    low = Watch(())
    low.begin({"b": jnp.ones(4, jnp.bfloat16)}, 0)
    low.arrays(1, SimpleNamespace(state={"b": jnp.array([1, jnp.nan, 1, 1], jnp.bfloat16)}))  # type: ignore[arg-type]
    assert low.over
