"""Going on with a run from its checkpoints: the numbers are those of a run that nobody disturbed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import pandas as pd
import pytest
from flax import nnx

import dlfb_lab
from dlfb_lab import journal
from dlfb_lab.engine import saving
from dlfb_lab.errors import DlfbLabError, OptionError, StoreError
from dlfb_lab.events import CheckpointSaved, Losses
from dlfb_lab.run import Run
from tests.torture import INTERVAL, Noisy, X, Y, torture

OPTIONS: dict[str, Any] = {
    "valid": 0.2,
    "steps": 60,
    "eval_every": 10,
    "batch_size": 16,
    "checkpoint": "every=8,keep=9",
}


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
    assert again.path is not None and (again.path / journal.BEFORE).exists()


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
    bare = dlfb_lab.train(Noisy(), (X, Y), store=tmp_path, **{**OPTIONS, "checkpoint": "off"})
    assert bare.checkpoints == []
    refused(tmp_path, StoreError, "has no checkpoint from which training can go on", resume=bare.id)
    with pytest.raises(StoreError, match=r"The model or its optimizer is not the one.*kernel has shape \(4, 6\)"):
        dlfb_lab.train(Noisy(7), (X, Y), store=tmp_path, resume=run.id, **OPTIONS)
    with pytest.raises(StoreError, match=r"its latest state, of step 60, is restored: dlfb_lab.train.*resume="):
        dlfb_lab.open_run(run.id, tmp_path).resume()


def test_a_run_that_has_come_to_its_end_is_restored(tmp_path: Path) -> None:
    run = dlfb_lab.train(Noisy(), (X, Y), store=tmp_path, early_stop="loss:9", **OPTIONS)
    assert saving.wait(60)
    restored = dlfb_lab.train(Noisy(), (X, Y), store=tmp_path, early_stop="loss:9", resume=run.id, **OPTIONS)
    assert restored.id == run.id
    same(restored, run)
    np.testing.assert_array_equal(restored.predict(X), run.predict(X))
    assert any("Nothing is left to train" in notice.text for notice in restored.record.notices)


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


def test_killed_at_random_moments_it_goes_on_bit_by_bit(tmp_path: Path) -> None:
    found = torture(tmp_path, 10, seed=1)
    assert found.kills == 10
    assert found.finished >= 1
    assert found.identical == found.finished
    assert max(found.repeated) <= INTERVAL


GUESTS = {
    "torch": """
import torch
torch.manual_seed(0)
def make():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 1)
    )
def arrays(model):
    return {name: value.numpy() for name, value in model.state_dict().items()}
""",
    "keras": """
import os
os.environ["KERAS_BACKEND"] = "torch"
import keras
def make():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(8), keras.layers.BatchNormalization(), keras.layers.Dropout(0.5),
         keras.layers.Dense(1)]
    )
    model.compile("adam", "mean_squared_error")
    return model
def arrays(model):
    return {str(i): value for i, value in enumerate(model.get_weights())}
""",
}

RESUMED = """
import sys
import time
import numpy as np
import optax
import dlfb_lab
from dlfb_lab.engine import saving
rng = np.random.default_rng(0)
x = rng.standard_normal((120, 4)).astype(np.float32)
y = (x[:, 0] - x[:, 1] ** 2).astype(np.float32)
options = dict(task="regression", valid=0.2, batch_size=16, eval_every=5, store=sys.argv[1])
options["checkpoint"] = "every=8,keep=9"
whole = dlfb_lab.train(make(), (x, y), steps=30, early_stop="loss:9", **options)
saving.wait()
assert [c.step for c in whole.checkpoints] == [8, 16, 24, 30], whole.checkpoints
again = dlfb_lab.train(make(), (x, y), steps=30, early_stop="loss:9", resume=f"{whole.path}@16", **options)
assert again.record.started.parent == whole.id
first, second = whole.history.iloc[16:], again.history
columns = ["train/loss", "valid/loss"]
np.testing.assert_array_equal(first[columns].to_numpy(), second.loc[first.index, columns].to_numpy())
for name, value in arrays(whole.state).items():
    np.testing.assert_array_equal(value, arrays(again.state)[name], err_msg=name)
opened = dlfb_lab.open_run(again.path, model=make())
np.testing.assert_array_equal(opened.predict(x), again.predict(x))
restored = dlfb_lab.restore(again.path, into=make())
for name, value in arrays(again.state).items():
    np.testing.assert_array_equal(value, arrays(restored)[name], err_msg=name)
print("the same")
"""


@pytest.mark.parametrize("framework", GUESTS)
def test_a_guest_goes_on_bit_by_bit_with_its_optimizer_and_its_random_numbers(framework: str, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip(framework)
    script = GUESTS[framework] + RESUMED
    found = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "DLFB_CHECKPOINT": ""},
    )
    assert found.returncode == 0, found.stderr[-3000:]
    assert found.stdout.rstrip().endswith("the same")


def test_another_rate_is_taken_where_a_guest_forks(tmp_path: Path) -> None:
    torch: Any = pytest.importorskip("torch")
    options: dict[str, Any] = {"steps": 10, "task": "regression", "checkpoint": "every=5,keep=9", "store": tmp_path}
    torch.manual_seed(0)
    module = torch.nn.Linear(X.shape[1], 1)
    run = dlfb_lab.train(module, (X, Y), lr=1e-3, **options)
    saving.wait()
    fork = dlfb_lab.train(module, (X, Y), lr=1e-9, resume=f"{run.path}@5", **options)
    then, now = (one.history["train/loss"].loc[5:].to_numpy() for one in (run, fork))
    assert now[0] == then[0] and now[1] != then[1]


def test_a_checkpoint_of_another_module_is_refused_by_name(tmp_path: Path) -> None:
    torch: Any = pytest.importorskip("torch")
    options: dict[str, Any] = {"steps": 10, "task": "regression", "checkpoint": "every=5,keep=9", "store": tmp_path}
    run = dlfb_lab.train(torch.nn.Sequential(torch.nn.Linear(X.shape[1], 1)), (X, Y), **options)
    saving.wait()
    other = torch.nn.Sequential(torch.nn.Linear(X.shape[1], 4), torch.nn.Linear(4, 1))
    with pytest.raises(StoreError, match=r"The model is not the one that was saved: 1\.weight is missing"):
        dlfb_lab.train(other, (X, Y), resume=f"{run.path}@5", **options)


CLAIMED = """
import sys, time
from pathlib import Path
from dlfb_lab import journal
from dlfb_lab.errors import StoreError
path, at = Path(sys.argv[1]), float(sys.argv[2])
journal.liveness(path)
time.sleep(max(0.0, at - time.time()))
try:
    kept = journal.rewound(path, 8, 0)
    print("mine", flush=True)
    time.sleep(5)
except StoreError as error:
    print(error)
"""


def test_of_kernels_that_resume_at_the_same_moment_one_is_told_who_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = stopped(20, monkeypatch, Noisy(), (X, Y), store=tmp_path, **OPTIONS)
    assert run.path is not None
    lines = (run.path / "events.jsonl").read_bytes().splitlines(keepends=True)
    # As a kernel leaves it that was killed.
    (run.path / "events.jsonl").write_bytes(b"".join(line for line in lines if b'"stopped"' not in line))
    (run.path / "writer.json").unlink()
    command = [sys.executable, "-c", CLAIMED, str(run.path), str(time.time() + 3)]
    kernels = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = [kernel.communicate(timeout=60)[0].strip() for kernel in kernels]
    assert said.count("mine") == 1
    owner = kernels[said.index("mine")].pid
    for other in said:
        assert other in (
            "mine",
            f"{run.path.name} is being trained by process {owner}. Stop it first, or wait for its end.",
        )


def test_a_process_that_died_while_a_run_changed_hands_does_not_keep_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = stopped(20, monkeypatch, Noisy(), (X, Y), store=tmp_path, **OPTIONS)
    assert run.path is not None
    monkeypatch.setattr(journal, "LOCK_S", 0.1)
    (run.path / journal.LOCK).touch()
    journal.rewound(run.path, 8, 0).close()
    assert not (run.path / journal.LOCK).exists()


def test_a_fork_that_cannot_take_the_state_leaves_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = stopped(20, monkeypatch, Noisy(), (X, Y), store=tmp_path, **OPTIONS)
    saving.wait()
    with pytest.raises(StoreError, match="not the one that was saved"):
        dlfb_lab.train(Noisy(width=5), (X, Y), store=tmp_path, **OPTIONS, resume=run)
    assert [one.id for one in dlfb_lab.runs(tmp_path)] == [run.id]


def test_what_has_to_be_read_again_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {**OPTIONS, "valid": (X[:20], Y[:20])}
    run = stopped(20, monkeypatch, Noisy(), batches, store=tmp_path, **options)
    saving.wait()
    again = dlfb_lab.train(Noisy(), batches, store=tmp_path, **options, resume=f"{run.id}@8")
    assert any(
        "cannot be entered in the middle: its first 2 batches are read again" in e.text for e in again.record.notices
    )


class Counting:
    """Brings batches without end, and can say and be told where it stands, as the iterators of Grain."""

    def __init__(self) -> None:
        self.at, self.read = 0, 0

    def __iter__(self) -> Counting:
        return self

    def __next__(self) -> Any:
        rows = np.random.default_rng(self.at).integers(0, len(X), 16)
        self.at, self.read = self.at + 1, self.read + 1
        return X[rows], Y[rows]

    def get_state(self) -> Any:
        return {"at": self.at}

    def set_state(self, state: Any) -> None:
        self.at = state["at"]


class CountingAnew(Counting):
    """Begins anew whenever it is asked for an iterator."""

    def __iter__(self) -> Counting:
        self.at = 0
        return self


class CountingInBytes(Counting):
    def get_state(self) -> bytes:
        return str(self.at).encode()

    def set_state(self, state: bytes) -> None:
        self.at = int(state)


@pytest.mark.parametrize("kind", [Counting, CountingAnew, CountingInBytes])
def test_an_iterator_that_can_tell_where_it_stands_is_entered_there(
    kind: type[Counting], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {**OPTIONS, "valid": (X[:20], Y[:20])}
    whole = dlfb_lab.train(Noisy(), kind(), store=tmp_path, **options)
    run = stopped(20, monkeypatch, Noisy(), kind(), store=tmp_path, **options)
    saving.wait()
    data = kind()
    again = dlfb_lab.train(Noisy(), data, store=tmp_path, **options, resume=f"{run.id}@16")
    then, now = (one.history["train/loss"].loc[16:].to_numpy() for one in (whole, again))
    np.testing.assert_array_equal(then, now)
    jax.tree.map(np.testing.assert_array_equal, whole.params, again.params)
    assert data.read < 60 - 16 + 10, "what came before is not read again"
    assert not any("read again" in event.text for event in again.record.notices)


def test_another_optimizer_is_named_and_makes_a_fork(tmp_path: Path) -> None:
    options = {**OPTIONS, "steps": 20, "store": tmp_path}
    run = dlfb_lab.train(Noisy(), (X, Y), optimizer=optax.sgd(0.01), **options)
    saving.wait()
    same_again = dlfb_lab.train(Noisy(), (X, Y), optimizer=optax.sgd(0.01), **options, resume=f"{run.path}@16")
    assert not any("Changed" in event.text for event in same_again.record.notices)
    fork = dlfb_lab.train(Noisy(), (X, Y), optimizer=optax.sgd(0.5), **options, resume=f"{run.path}@20")
    assert fork.id != run.id
    said = [event.text for event in fork.record.notices]
    assert any("Changed: the optimizer's own numbers" in text for text in said)
    assert any("begins at step 20 and was to end at step 20" in text for text in said)


def test_a_run_that_cannot_be_gone_on_with_is_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = stopped(20, monkeypatch, Noisy(), (X, Y), store=tmp_path, **OPTIONS)
    saving.wait()
    assert run.path is not None
    events = run.path / "events.jsonl"
    # As a kernel leaves it that was killed.
    lines = events.read_bytes().splitlines(keepends=True)
    events.write_bytes(b"".join(line for line in lines if b'"stopped"' not in line))
    (run.path / "writer.json").unlink()
    before = dlfb_lab.open_run(run.id, tmp_path)
    monkeypatch.setattr("dlfb_lab.assemble.resume.differences", lambda *given: [])
    with pytest.raises(StoreError, match="not the one that was saved"):
        dlfb_lab.train(Noisy(width=5), (X, Y), store=tmp_path, **OPTIONS, resume=run)
    after = dlfb_lab.open_run(run.id, tmp_path)
    assert (after.status, after.record.step) == (before.status, before.record.step) == ("interrupted", run.record.step)


def test_what_was_left_out_and_is_said_now_makes_no_fork(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = stopped(20, monkeypatch, Noisy(), (X, Y), store=tmp_path, **OPTIONS)
    saving.wait()
    again = dlfb_lab.train(Noisy(), (X, Y), store=tmp_path, **OPTIONS, optimizer="adam", lr=1e-3, resume=run)
    assert again.id == run.id


def test_a_run_of_another_machine_is_gone_on_with_and_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = stopped(20, monkeypatch, Noisy(), (X, Y), store=tmp_path, **OPTIONS)
    saving.wait()
    assert run.path is not None
    events, writer = run.path / "events.jsonl", run.path / "writer.json"
    lines = events.read_bytes().splitlines(keepends=True)
    events.write_bytes(b"".join(line for line in lines if b'"stopped"' not in line))
    writer.write_text(json.dumps({**json.loads(writer.read_text()), "host": "another machine"}))
    again = dlfb_lab.train(Noisy(), (X, Y), store=tmp_path, **OPTIONS, resume=run.id)
    assert any("was trained on another machine" in event.text for event in again.record.notices)


def test_another_static_field_of_a_module_is_named(tmp_path: Path) -> None:
    def net(rate: float) -> Any:
        rngs = nnx.Rngs(0)
        return nnx.Sequential(nnx.Linear(4, 6, rngs=rngs), nnx.Dropout(rate, rngs=rngs), nnx.Linear(6, 1, rngs=rngs))

    options = {**OPTIONS, "steps": 20, "store": tmp_path}
    run = dlfb_lab.train(net(0.1), (X, Y), **options)
    saving.wait()
    again = dlfb_lab.train(net(0.1), (X, Y), **options, resume=f"{run.path}@16")
    assert not any("Changed" in event.text for event in again.record.notices)
    other = dlfb_lab.train(net(0.2), (X, Y), **options, resume=f"{run.path}@16")
    assert any("Changed: the code of the model" in event.text for event in other.record.notices)
