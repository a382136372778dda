"""What the user holds in a hand after training."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import dlfb_lab
from dlfb_lab import assemble, journal
from dlfb_lab.assemble import TrainRequest
from dlfb_lab.errors import DataError, DlfbLabError, OptionError, StoreError
from dlfb_lab.events import Evaluation, Status
from dlfb_lab.run import Run

RNG = np.random.default_rng(0)
X = (RNG.normal(size=(60, 3)) * [1, 10, 0.1] + [0, 50, -3]).astype(np.float32)
KINDS = np.array(["benign", "malignant", "unsure"])[(X[:, 1] > 45).astype(int) + (X[:, 1] > 55)]


class Linear(nn.Module):
    width: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Dense(self.width)(x)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def cells() -> pd.DataFrame:
    return pd.DataFrame({"a": X[:, 0], "b": X[:, 1], "c": X[:, 2], "kind": pd.Categorical(KINDS)})


@pytest.fixture(scope="module")
def run(store: Path, cells: pd.DataFrame) -> Run:
    return dlfb_lab.train(
        Linear(3), cells, target="kind", valid=0.2, test=0.3, scale=True, epochs=40, batch_size=10, lr=0.1, store=store
    )


def test_the_run_says_what_it_is(run: Run, store: Path) -> None:
    assert run.path is not None
    assert run.path.parent == store
    assert run.id == run.path.name
    assert (run.name, run.status) == ("Linear", "finished")
    assert run.classes == ["benign", "malignant", "unsure"]
    assert run.params["Dense_0"]["kernel"].shape == (3, 3)
    assert run.id in repr(run)
    assert "finished" in repr(run)


def test_the_history_is_a_table_by_step(run: Run) -> None:
    history = run.history
    assert list(history.columns)[:3] == ["epoch", "train/loss", "valid/loss"]
    assert set(history.columns[3:]) == {"valid/accuracy", "valid/f1"}
    assert history["train/loss"].dropna().index.tolist() == list(range(120))
    assert history["valid/loss"].dropna().index.tolist() == list(range(0, 121, 3))
    assert history["epoch"].iloc[-1] == 40
    assert history["train/loss"].iloc[119] < history["train/loss"].iloc[0]


def test_prediction_is_the_model_on_inputs_scaled_as_the_training_rows_were(run: Run, cells: pd.DataFrame) -> None:
    train = X[run.split()["train"]].astype(float)
    scaled = (X - train.mean(0)) / train.std(0)
    dense = run.params["Dense_0"]
    logits = scaled @ np.asarray(dense["kernel"], float) + np.asarray(dense["bias"], float)
    probability = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(run.predict_proba(X), probability, atol=1e-5)
    assert run.predict(X).tolist() == [run.classes[i] for i in logits.argmax(1)]
    assert run.predict(cells).tolist() == run.predict(X).tolist()
    assert run.predict(cells[["c", "kind", "a", "b"]]).tolist() == run.predict(X).tolist(), "columns go by name"
    assert run.predict(jnp.asarray(X)).tolist() == run.predict(X.tolist()).tolist()
    kept = json.loads((run.path / "preparation.json").read_text("utf-8"))
    np.testing.assert_allclose(kept["scaling"][""]["mean"], train.mean(0), rtol=1e-5)
    assert kept["classes"] == run.classes
    assert kept["features"] == ["a", "b", "c"]


def test_a_prediction_of_many_rows_is_that_of_each(run: Run) -> None:
    many = np.tile(X, (40, 1))
    np.testing.assert_allclose(run.predict_proba(many), np.tile(run.predict_proba(X), (40, 1)), atol=1e-6)
    assert run.predict(X[:1]).shape == (1,)


def test_inputs_that_do_not_fit_are_refused(run: Run, cells: pd.DataFrame) -> None:
    with pytest.raises(DataError, match="no column `b`, which the model was trained on"):
        run.predict(cells[["a", "c"]])
    with pytest.raises(DataError, match=r"x has shape \(60, 2\); the model was trained on rows of shape \(3,\)"):
        run.predict(X[:, :2])
    with pytest.raises(DataError, match="holds <U3 values"):
        run.predict([["one", "two", "six"]])
    with pytest.raises(DataError, match=r"NaN.*1 value.*column `b`"):
        run.predict([[1.0, np.nan, 2.0]])
    with pytest.raises(DataError, match="0 rows"):
        run.predict(X[:0])
    assert run.predict(np.round(X).astype(int)).tolist() == run.predict(np.round(X)).tolist()


def test_a_table_whose_columns_are_numbers_is_predicted_by_them(tmp_path: Path) -> None:
    table = pd.DataFrame(X)
    run = dlfb_lab.train(Linear(), table, target="0", steps=1, store=tmp_path)
    np.testing.assert_array_equal(run.predict(table), run.predict(X[:, 1:]))


def test_the_split_is_written_down_and_stratified(run: Run) -> None:
    parts = run.split()
    assert {name: len(rows) for name, rows in parts.items()} == {"train": 30, "valid": 12, "test": 18}
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(60))
    for kind in np.unique(KINDS):
        whole = (kind == KINDS).mean()
        for rows in parts.values():
            assert abs((KINDS[rows] == kind).sum() - whole * len(rows)) <= 2


def test_an_evaluation_is_scikit_learns_on_the_held_out_rows(run: Run, cells: pd.DataFrame) -> None:
    from sklearn.metrics import accuracy_score, f1_score, log_loss

    rows = run.split()["valid"]
    scores = run.evaluate("valid")
    said = run.predict(X[rows])
    assert scores["accuracy"] == pytest.approx(accuracy_score(KINDS[rows], said))
    assert scores["f1"] == pytest.approx(f1_score(KINDS[rows], said, average="macro", zero_division=0))
    assert scores["loss"] == pytest.approx(
        log_loss(KINDS[rows], run.predict_proba(X[rows]), labels=run.classes), abs=1e-5
    )
    on_new = run.evaluate(cells.iloc[rows])
    assert on_new == pytest.approx(scores)
    assert run.evaluate((X[rows], KINDS[rows])) == pytest.approx(scores)
    last = run.record.evaluated("data")[-1]
    assert (last.rows, last.look) == (12, 0)


def test_new_data_that_do_not_fit_are_refused(run: Run, cells: pd.DataFrame) -> None:
    with pytest.raises(DataError, match=r"holds? the class 'new'; the known classes are benign, malignant, unsure"):
        run.evaluate((X, ["new"] * 60))
    with pytest.raises(DataError, match="no column `c`"):
        run.evaluate(cells.drop(columns="c"))
    with pytest.raises(OptionError, match="no part `tset`; it has train, valid, test"):
        run.evaluate("tset")


@pytest.fixture
def tiny(store: Path) -> Run:
    return dlfb_lab.train(Linear(), (X, X[:, 0]), test=0.3, steps=1, batch_size="full", store=store)


def test_looks_at_the_test_set_are_counted_said_and_kept(tiny: Run, store: Path, capsys: Any) -> None:
    assert tiny.record.evaluations == []
    for ordinal in ("1st", "2nd", "3rd"):
        tiny.evaluate("test")
        assert f"test set: {ordinal} look" in capsys.readouterr().out
    tiny.evaluate("train")
    assert capsys.readouterr().out == ""
    again = dlfb_lab.open_run(tiny.id, store)
    assert [e.look for e in again.record.evaluated("test")] == [1, 2, 3]
    assert "3rd look" in dlfb_lab.views.summary.text(again.record, again.status)
    assert "looked at 3 times" in again.cite()
    elsewhere = Evaluation(step=1, split="test", metrics={"loss": 1.0}, rows=18, duration_s=0.1, look=4)
    journal.append_later(tiny.path, elsewhere)
    tiny.evaluate("test")
    assert "test set: 5th look" in capsys.readouterr().out, "a look from another kernel counts"


def test_a_reopened_run_has_all_but_the_parameters(run: Run, store: Path) -> None:
    for handle in (run.id, str(run.path), run.path):
        again = dlfb_lab.open_run(handle, store)
        assert (again.id, again.status, again.name, again.classes) == (run.id, run.status, run.name, run.classes)
    pd.testing.assert_frame_equal(again.history, run.history)
    assert {k: v.tolist() for k, v in again.split().items()} == {k: v.tolist() for k, v in run.split().items()}
    assert again.cite() == dlfb_lab.open_run(run.id, store).cite()
    for ask in ("params", "state"):
        with pytest.raises(StoreError, match=r"were not saved.*train it again"):
            getattr(again, ask)
    for call in (again.stop, again.pause, again.resume, lambda: again.predict(X), lambda: again.evaluate("test")):
        with pytest.raises(StoreError, match="were not saved"):
            call()
    assert again.wait() is again


def test_the_list_of_runs_shows_itself(run: Run, tiny: Run, store: Path) -> None:
    listed = dlfb_lab.runs(store)
    assert listed[0].id == run.id
    assert tiny.id in [r.id for r in listed]
    assert run.id in repr(listed)
    assert run.id in listed._repr_html_()
    assert repr(dlfb_lab.runs(store / "nothing")) == "no runs"


def test_the_methods_paragraph_is_complete(run: Run) -> None:
    text = run.cite()
    assert run.record.started is not None
    for said in (
        "Linear",
        "12 parameters",
        "multiclass classification",
        "30 train, 12 valid, 18 test",
        run.record.started.split_hash,
        "seed 0",
        "standardised",
        "cross entropy",
        "adam",
        "learning rate 0.1",
        "batches of 10 rows",
        "120 updates (40 epochs)",
        "ran to its end",
        "On the 12 validation rows",
        "majority class",
        f"JAX {jax.__version__}",
        run.id,
    ):
        assert said in text


def test_plots_and_bundles_are_drawn(run: Run) -> None:
    figure = run.plot()
    assert [axes.get_ylabel() for axes in figure.axes] == ["loss", "accuracy", "f1"]
    bundle = run._repr_mimebundle_()
    assert {"text/plain", "text/html", "image/svg+xml"} <= set(bundle)
    assert run.id in bundle["text/plain"]
    figure.canvas.draw()


@pytest.mark.parametrize(
    ("y", "width", "kind", "predicted"),
    [
        (X[:, 1] > 50, 1, "binary", [False, True]),
        ((X[:, 1] > 50).astype(int), 2, "binary", [0, 1]),
        (np.where(X[:, 1] > 50, "up", "down"), 1, "binary", ["down", "up"]),
        (np.eye(3, dtype=int)[RNG.integers(3, size=60)], 3, "multiclass", [0, 1, 2]),
        (RNG.integers(2, size=(60, 3)), 3, "multilabel", None),
        (X[:, :2], 2, "regression", None),
    ],
)
def test_predictions_are_of_the_targets_own_kind(
    y: np.ndarray, width: int, kind: str, predicted: Any, tmp_path: Path
) -> None:
    trained = dlfb_lab.train(Linear(width), (X, y), scale=True, steps=20, batch_size="full", lr=0.1, store=tmp_path)
    assert trained.record.started is not None
    assert trained.record.started.task == kind
    said = trained.predict(X)
    if predicted is not None:
        assert said.shape == (60,)
        assert set(said.tolist()) <= set(predicted)
        assert type(said.tolist()[0]) is type(predicted[0])
        assert trained.classes == [str(p) for p in predicted]
        assert trained.predict_proba(X).shape == (60, len(predicted))
        np.testing.assert_allclose(trained.predict_proba(X).sum(1), 1, atol=1e-9)
    elif kind == "multilabel":
        assert said.shape == (60, 3)
        assert set(said.reshape(-1).tolist()) <= {0, 1}
        assert trained.predict_proba(X).shape == (60, 3)
    else:
        assert said.shape == (60, 2)
        with pytest.raises(OptionError, match="no probabilities"):
            trained.predict_proba(X)


def test_given_sets_are_taken_as_they_are(tmp_path: Path) -> None:
    y = X[:, 0]
    trained = dlfb_lab.train(
        Linear(),
        (X[:40], y[:40]),
        valid=(X[40:50], y[40:50]),
        test=(X[50:], y[50:]),
        scale=True,
        steps=2,
        store=tmp_path,
    )
    assert trained.record.started is not None
    assert trained.record.started.rows == {"train": 40, "valid": 10, "test": 10}
    dense = trained.params["Dense_0"]
    scaled = (X[40:50] - X[:40].mean(0, dtype=float)) / X[:40].std(0, dtype=float)
    error = (scaled @ np.asarray(dense["kernel"], float) + np.asarray(dense["bias"], float))[:, 0] - y[40:50]
    assert trained.evaluate("valid")["loss"] == pytest.approx((error**2).mean(), rel=1e-4)


def test_one_split_has_one_hash() -> None:
    def split_hash(**options: Any) -> str:
        session, _ = assemble.session(TrainRequest(model=Linear(), data=(X, X[:, 0]), **options))
        return session.experiment.split_hash

    first = split_hash(valid=0.2)
    assert first == split_hash(valid=0.2, lr=0.5)
    assert first != split_hash(valid=0.2, seed=1)
    assert first != split_hash(valid=0.3)


def wait_until(condition: Callable[[], bool], limit_s: float = 60) -> None:
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_run_in_the_background_pauses_resumes_and_stops(tmp_path: Path) -> None:
    run = dlfb_lab.train(Linear(), (X, X[:, 0]), valid=0.2, steps=10**9, batch_size=8, background=True, store=tmp_path)
    wait_until(lambda: run.record.step > 0)
    assert run.status == "running"
    with pytest.raises(DlfbLabError, match="still running"):
        _ = run.params
    run.pause()
    wait_until(lambda: run.status == "paused")
    held = run.record.step
    time.sleep(0.1)
    assert run.record.step == held
    run.resume()
    wait_until(lambda: run.record.step > held)
    run.stop()
    assert run.wait(60) is run
    assert run.status == "stopped"
    assert run.predict(X).shape == (60,)
    states = [e.state for e in run.record.events if isinstance(e, Status)]
    assert states == ["compiling", "running", "paused", "running", "stopped"]
    assert dlfb_lab.open_run(run.id, tmp_path).record.step == run.record.step


def test_a_run_that_fails_in_the_background_keeps_its_error(tmp_path: Path) -> None:
    class Squashed(nn.Module):
        @nn.compact
        def __call__(self, x: Any) -> Any:
            return nn.sigmoid(nn.Dense(1)(x))

    run = dlfb_lab.train(Squashed(), (X, X[:, 0] > 0), epochs=9, background=True, store=tmp_path).wait(60)
    assert run.status == "failed"
    with pytest.raises(DlfbLabError, match=r"failed and left no parameters.*passed a sigmoid"):
        _ = run.params
    assert dlfb_lab.open_run(run.id, tmp_path).status == "failed"


def test_a_view_that_fails_is_let_go_and_training_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dlfb_lab.views import bundle

    class Broken:
        puts = closes = 0

        def put(self, event: Any) -> None:
            self.puts += 1
            raise RuntimeError("no screen")

        def close(self) -> None:
            self.closes += 1

    broken = Broken()
    monkeypatch.setattr(bundle, "open_view", lambda run, control: [broken])
    run = dlfb_lab.train(Linear(), (X, X[:, 0]), steps=3, store=tmp_path)
    assert run.status == "finished"
    assert (broken.puts, broken.closes) == (1, 1)
    (notice,) = run.record.notices
    assert "A view (Broken) failed" in notice.text
    assert "no screen" in notice.text
    kept = journal.read(run.path)
    assert [e.kind for e in kept].count("notice") == 1, "it is in the journal too"


def test_runs_are_kept_beside_the_notebook_unless_told_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DLFB_STORE", raising=False)
    monkeypatch.chdir(tmp_path)
    run = dlfb_lab.train(Linear(), (X, X[:, 0]), steps=1)
    assert (tmp_path / "dlfb_runs" / run.id / "events.jsonl").exists()
    assert [r.id for r in dlfb_lab.runs()] == [run.id]
    assert dlfb_lab.open_run("Linear").id == run.id
    monkeypatch.setenv("DLFB_STORE", str(tmp_path / "other"))
    dlfb_lab.train(Linear(), (X, X[:, 0]), steps=1)
    assert len(os.listdir(tmp_path / "other")) == 1


def test_a_run_finds_its_folder_after_the_working_folder_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DLFB_STORE", raising=False)
    monkeypatch.chdir(tmp_path)
    run = dlfb_lab.train(Linear(), (X, X[:, 0]), steps=1, test=0.2)
    opened = dlfb_lab.open_run(f"dlfb_runs/{run.id}")
    monkeypatch.chdir("/")
    run.evaluate("test")
    assert len(run.split()["test"]) == len(opened.split()["test"]) == 12
    assert [e.look for e in dlfb_lab.open_run(run.id, tmp_path / "dlfb_runs").record.evaluated("test")] == [1]


def test_a_run_whose_folder_was_deleted_still_scores(tmp_path: Path) -> None:
    run = dlfb_lab.train(Linear(), (X, X[:, 0]), steps=1, test=0.2, store=tmp_path)
    shutil.rmtree(run.path)
    with pytest.warns(UserWarning, match="cannot be added to .*These scores are not kept with the run"):
        assert run.evaluate("test")["loss"] > 0
    with pytest.raises(StoreError, match="No split can be read"):
        run.split()


def test_no_rows_are_kept_on_the_device_after_training(store: Path) -> None:
    run = dlfb_lab.train(Linear(), (X, X[:, 0]), valid=0.3, steps=1, store=store)
    trainer = run._session.trainer
    assert (trainer._data, trainer._rest, trainer.learner.evaluator._on_device) == (None, (None, None, None), {})


def test_the_journal_of_a_run_is_strict_json_and_holds_its_settings(run: Run) -> None:
    lines = [json.loads(line) for line in (run.path / journal.EVENTS).read_text("utf-8").splitlines()]
    settings = lines[0]["settings"]
    assert settings["valid"] == 0.2
    assert settings["scale"] is True
    assert settings["target"] == "kind"
    assert settings["batch_size"] == 10
    assert settings["loss"] == "cross_entropy"


def test_a_run_whose_journal_can_not_go_on_is_over_for_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    put = journal.Journal.put

    def full(self: journal.Journal, event: Any) -> None:
        if isinstance(event, Evaluation):
            raise OSError("no space left on device")
        put(self, event)

    monkeypatch.setattr(journal.Journal, "put", full)
    x = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)
    run = dlfb_lab.train(Linear(), (x, x[:, 0]), valid=0.2, epochs=2, store=tmp_path)
    assert run.status == "finished"
    assert "The journal failed and was let go (OSError: no space left on device)" in capsys.readouterr().out
    assert run.path is not None
    assert run.journal_lost
    assert journal.liveness(run.path) == "gone"
