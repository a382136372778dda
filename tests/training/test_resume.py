"""Going on with a run from its checkpoints: the numbers are those of a run that nobody disturbed."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import pandas as pd
import pytest

import dlfb_lab
from dlfb_lab import journal
from dlfb_lab.checkpoints import folder
from dlfb_lab.engine import saving
from dlfb_lab.errors import DlfbLabError, OptionError, StoreError
from dlfb_lab.events import CheckpointSaved, Losses
from dlfb_lab.run import Run

RNG = np.random.default_rng(0)
X = RNG.normal(size=(100, 4)).astype(np.float32)
Y = (X @ [1.0, -2.0, 0.5, 0.0] + 0.1 * RNG.normal(size=100)).astype(np.float32)
OPTIONS: dict[str, Any] = {
    "valid": 0.2,
    "steps": 60,
    "eval_every": 10,
    "batch_size": 16,
    "checkpoint": "every=8,keep=9",
}


class Noisy(nn.Module):
    width: int = 6

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        x = nn.relu(nn.Dense(self.width)(x))
        return nn.Dense(1)(nn.Dropout(0.3, deterministic=not train)(x))


def batches() -> Iterator[Any]:
    for start in range(0, 96, 16):
        yield X[start : start + 16], Y[start : start + 16]


def stopped(at: int, monkeypatch: pytest.MonkeyPatch, *given: Any, **options: Any) -> Run:
    """Trains, and is told to stop by the losses of a step."""
    put = journal.Journal.put

    def told(self: Any, event: Any) -> None:
        put(self, event)
        if isinstance(event, Losses) and event.step >= at:
            with open(self.path / "requests.jsonl", "ab") as file:
                file.write(json.dumps({"action": "stop"}).encode() + b"\n")

    with monkeypatch.context() as patch:
        patch.setattr(journal.Journal, "put", told)
        # So that a dispatch is short.
        patch.setattr("dlfb_lab.engine.clock.Pace.TARGET_S", 1e-9)
        patch.setattr("dlfb_lab.engine.control.LOOK_S", 0.0)
        run = dlfb_lab.train(*given, **options)
    assert saving.wait(60)
    assert run.status == "stopped" and 0 < run.record.step < 60
    return run


def same(one: Run, other: Run) -> None:
    pd.testing.assert_frame_equal(one.history, other.history)
    jax.tree.map(np.testing.assert_array_equal, one.params, other.params)


@pytest.mark.parametrize(
    ("data", "options"),
    [
        ((X, Y), {}),
        ((X, Y), {"plan": "fused"}),
        ((X, Y), {"plan": "step"}),
        ((X, Y), {"seeds": 3}),
        ((X, Y), {"early_stop": "loss:2", "lr": 0.3}),
        ((X, Y), {"schedule": "cosine", "warmup": 5, "accumulate": 2}),
        (batches, {"valid": (X[:20], Y[:20])}),
    ],
    ids=["plain", "fused", "one by one", "seeds", "early stop", "schedule", "stream"],
)
def test_a_stopped_run_goes_on_as_if_nothing_had_been(
    data: Any, options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {**OPTIONS, **options}
    whole = dlfb_lab.train(Noisy(), data, store=tmp_path, **options)
    cut = stopped(13, monkeypatch, Noisy(), data, store=tmp_path, **options)
    run = dlfb_lab.train(Noisy(), data, store=tmp_path, resume=cut.id, **options)
    assert run.id == cut.id and run.status == whole.status == "finished"
    same(run, whole)
    said = [notice.text for notice in run.record.notices]
    assert len(said) == len(set(said)) and len(run.record.baselines) == len(whole.record.baselines)
    again = dlfb_lab.open_run(run.id, tmp_path)
    pd.testing.assert_frame_equal(again.history, whole.history)
    assert again.status == "finished"
    assert again.path is not None and len(list(again.path.glob("before-*.jsonl"))) == 1


def test_an_evaluation_that_only_the_stop_called_for_is_not_one_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = stopped(13, monkeypatch, Noisy(), (X, Y), store=tmp_path, **OPTIONS)
    evaluated = [e.step for e in cut.record.evaluations]
    run = cut.resume()
    assert run.id == cut.id
    assert evaluated[-1] % 10
    assert [e.step for e in run.record.evaluations] == list(range(0, 61, 10))
    assert cut.record.step < run.record.step == 60


def test_a_run_in_the_background_is_paused_and_goes_on(tmp_path: Path) -> None:
    run = dlfb_lab.train(Noisy(), (X, Y), store=tmp_path, background=True, **{**OPTIONS, "steps": 10_000})
    run.pause()
    assert run.resume() is run
    run.stop()
    run.wait(60)


def test_another_rate_or_an_earlier_step_is_a_run_of_its_own(tmp_path: Path) -> None:
    first = dlfb_lab.train(Noisy(), (X, Y), store=tmp_path, **OPTIONS)
    assert saving.wait(60)
    fork = dlfb_lab.train(Noisy(), (X, Y), store=tmp_path, resume=f"{first.id}@32", lr=0.1, **OPTIONS)
    started = fork.record.started
    assert started is not None and (started.parent, started.parent_step) == (first.id, 32)
    assert fork.id != first.id and fork.record.step == 60
    assert fork.record.losses()[0].tolist() == list(range(32, 60))
    losses = first.history["train/loss"]
    assert fork.history["train/loss"][32] == losses[32], "the first step's loss is that of the same parameters"
    assert fork.history["train/loss"][34] != losses[34]
    assert any("lr 0.1 (it was 0.001)" in notice.text for notice in fork.record.notices)
    back = dlfb_lab.train(Noisy(), (X, Y), store=tmp_path, resume=f"{first.id}@32", **OPTIONS)
    assert back.id != first.id
    pd.testing.assert_series_equal(back.history["train/loss"].loc[32:], losses.loc[32:])
    longer = dlfb_lab.train(Noisy(), (X, Y), store=tmp_path, resume=first, **{**OPTIONS, "steps": 70})
    assert longer.record.started is not None and longer.record.started.parent_step == 60
    assert longer.record.step == 70
    pd.testing.assert_frame_equal(dlfb_lab.open_run(first.id, tmp_path).history, first.history)


def refused(tmp_path: Path, error: type[DlfbLabError], said: str, *given: Any, **options: Any) -> None:
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(error, match=said):
        dlfb_lab.train(*(given or (Noisy(), (X, Y))), store=tmp_path, **{**OPTIONS, **options})
    assert sorted(path.name for path in tmp_path.iterdir()) == before, "nothing was begun"


def test_what_cannot_be_gone_on_with_is_said(tmp_path: Path) -> None:
    run = dlfb_lab.train(Noisy(), (X, Y), store=tmp_path, **OPTIONS)
    assert saving.wait(60)
    assert run.path is not None
    refused(tmp_path, StoreError, "There is no run `nobody`", resume="nobody")
    refused(tmp_path, OptionError, "after the @ stands a step", resume=f"{run.id}@last")
    refused(tmp_path, StoreError, "no checkpoint of step 3. There are those of steps 8, 16", resume=f"{run.id}@3")
    refused(tmp_path, StoreError, "the data are not those", Noisy(), (X + 1, Y), resume=run.id)
    refused(tmp_path, OptionError, "--resume goes on with one", sweep="batch_size=8,16", batch_size=None, resume=run.id)
    refused(tmp_path, OptionError, "has come to its end, at step 60. .*more", resume=run.id)
    bare = dlfb_lab.train(Noisy(), (X, Y), store=tmp_path, **{**OPTIONS, "checkpoint": "off"})
    assert bare.checkpoints == []
    refused(tmp_path, StoreError, "has no checkpoint from which training can go on", resume=bare.id)
    with pytest.raises(StoreError, match=r"The model or its optimizer is not the one.*kernel has shape \(4, 6\)"):
        dlfb_lab.train(Noisy(7), (X, Y), store=tmp_path, resume=run.id, **OPTIONS)
    with pytest.raises(StoreError, match=r"trained in another kernel.*--resume"):
        dlfb_lab.open_run(run.id, tmp_path).resume()


def test_a_damaged_checkpoint_is_named_and_the_newest_good_one_offered(tmp_path: Path) -> None:
    run = dlfb_lab.train(Noisy(), (X, Y), store=tmp_path, **OPTIONS)
    assert saving.wait(60)
    latest = run.checkpoints[-1]
    largest = max((p for p in (latest.path / "arrays").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    refused(tmp_path, StoreError, f"step 60 is damaged.*--resume {run.id}@56", resume=run.id)
    refused(tmp_path, StoreError, "step 60 is damaged: .*checksum differs", resume=f"{run.id}@60")
    good = dlfb_lab.train(Noisy(), (X, Y), store=tmp_path, resume=run.id, **OPTIONS)
    assert good.id == run.id
    same(good, run)
    assert saving.wait(60)
    assert [checkpoint.state for checkpoint in good.checkpoints] == ["complete"] * 8


def test_checkpoints_are_marked_on_the_axis_and_the_first_folder_may_be_copied(tmp_path: Path) -> None:
    run = dlfb_lab.train(Noisy(), (X, Y), store=tmp_path / "a store: ü", **OPTIONS)
    assert saving.wait(60)
    events = journal.read(run.path) if run.path is not None else []
    saved = [event for event in events if isinstance(event, CheckpointSaved)]
    assert sorted(event.step for event in saved) == [8, 16, 24, 32, 40, 48, 56, 60]
    assert all(event.bytes > 0 and event.state == "complete" for event in saved)
    assert [checkpoint.step for checkpoint in run.checkpoints] == [8, 16, 24, 32, 40, 48, 56, 60]
    assert run.path is not None
    shutil.copytree(run.path, tmp_path / "elsewhere" / run.id)
    shutil.rmtree(run.path)
    moved = dlfb_lab.train(Noisy(), (X, Y), store=tmp_path / "elsewhere", resume=f"{run.id}@48", **OPTIONS)
    pd.testing.assert_series_equal(moved.history["train/loss"].loc[48:], run.history["train/loss"].loc[48:])


CHILD = """
import sys
sys.path.insert(0, {here!r})
import test_resume
test_resume.child(*sys.argv[1:])
"""


def child(store: str, resume: str = "") -> None:
    """Trains in a process that will be killed."""
    import flax  # what takes long is over before the clock runs

    assert flax is not None
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    resume_options = {"resume": resume} if resume else {}
    dlfb_lab.train(Noisy(), (X, Y), store=store, **LONG, **resume_options)
    saving.wait()


LONG: dict[str, Any] = {
    **{"valid": 0.2, "steps": 60_000, "eval_every": 5_000, "batch_size": 16, "lr": 1e-4},
    **{"checkpoint": "every=500,keep=2", "name": "killed"},
}


def killed_and_resumed(store: Path, kills: int, seed: int) -> tuple[int, int, str]:
    """Kills runs at random moments and goes on with them; returns kills, runs and the last run's id."""
    rng = np.random.default_rng(seed)
    command = [sys.executable, "-c", CHILD.format(here=str(Path(__file__).parent)), str(store)]
    done, runs = 0, 0
    resume = ""
    while True:
        process = subprocess.Popen([*command, *([resume] if resume else [])], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "ready"
        runs += not resume
        if done < kills:
            try:
                process.wait(rng.uniform(0.2, 4.0))
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                done += 1
        process.stdout.close()
        code = process.wait(300)
        paths = sorted(journal.list_runs(store), key=lambda found: found[1].time_s)
        if code == 0 and done >= kills:
            return done, runs, paths[-1][0].name
        assert code in (0, -signal.SIGKILL), code
        if not paths:
            resume = ""
            continue
        path = paths[-1][0]
        journal.read(path)
        usable = [checkpoint for checkpoint in folder.listed(path) if checkpoint.usable]
        assert all(folder.verify(checkpoint).usable for checkpoint in usable), "what is whole is whole"
        resume = path.name if usable and code != 0 else ""


def test_killed_at_random_moments_it_goes_on_bit_by_bit(tmp_path: Path) -> None:
    kills, _, run = killed_and_resumed(tmp_path / "killed", 10, seed=1)
    assert kills == 10
    whole = dlfb_lab.train(Noisy(), (X, Y), store=tmp_path, **{**LONG, "checkpoint": "off"})
    found = dlfb_lab.open_run(run, tmp_path / "killed")
    assert found.status == "finished"
    pd.testing.assert_frame_equal(found.history, whole.history)
    last = found.checkpoints[-1]
    assert last.step == 60_000
