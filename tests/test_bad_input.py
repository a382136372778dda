"""Every mistake gets one clear message: what is wrong, the value seen, what to do."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest

import dlfb_lab
from dlfb_lab.errors import DataError, DlfbLabError, ModelError, OptionError
from dlfb_lab.events import Notice

X = np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32)
Y = X[:, 0]
BINARY = (Y > 0).astype(int)
THREE = np.arange(20) % 3


class Net(nn.Module):
    width: int = 1
    last: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        out = nn.Dense(self.width)(x)
        return out if self.last is None else self.last(out)


class Flat(nn.Module):
    """Gives shape [rows], where Net gives [rows, 1]."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Dense(1)(x)[:, 0]


class Pair(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> Any:
        return nn.Dense(1)(x), x


class Mean(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Dense(1)(x).mean(axis=0)


class Noise(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Dense(1)(x + jax.random.normal(self.make_rng("noise"), x.shape))


class Sows(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        out = nn.Dense(1)(x)
        self.sow("losses", "size", (out**2).mean())
        self.sow("intermediates", "out", out)
        return out


class TwoFaced(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        out = nn.Dense(1)(x)
        return out if train else out[:, 0]


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DLFB_STORE", str(tmp_path / "runs"))
    return tmp_path / "runs"


def nan_at(*places: tuple[int, int]) -> np.ndarray:
    x = X.copy()
    for place in places:
        x[place] = np.nan
    return x


MISTAKES: dict[str, tuple[type[DlfbLabError], Any, Any, dict[str, Any], list[str]]] = {
    "not a model": (ModelError, "MLP", (X, Y), {}, ["MLP", "is not a model", "Give a module of Flax"]),
    "a class": (ModelError, Net, (X, Y), {}, ["`Net` is a class", "Net(…)"]),
    "a function alone": (ModelError, len, (X, Y), {}, ["function without parameters", "(len, params)"]),
    "not data": (DataError, Net(), 3, {}, ["type int", "Give (x, y)"]),
    "different lengths": (DataError, Net(), (X, Y[:18]), {}, ["x has 20 rows", "y has 18 rows"]),
    "NaN": (DataError, Net(), (nan_at((3, 1), (4, 1)), Y), {}, ["2 values", "NaN", "2 of 20 rows", "column 1", "Drop"]),
    "NaN in a table": (
        DataError,
        Net(),
        pd.DataFrame({"a": nan_at((0, 0))[:, 0], "b": X[:, 1], "t": Y}),
        {"target": "t"},
        ["1 value", "column `a`"],
    ),
    "infinity": (DataError, Net(), (np.where(X > 1, np.inf, X), Y), {}, ["infinity", "rows"]),
    "NaN in targets": (DataError, Net(), (X, np.where(Y > 0, Y, np.nan)), {}, ["y holds", "NaN", "Drop those rows"]),
    "labels from 1": (DataError, Net(3), (X, THREE + 1), {}, ["0 to 2", "1, 2, 3", "Subtract 1"]),
    "labels -1 and 1": (DataError, Net(), (X, 2 * BINARY - 1), {}, ["0 to 1", "-1, 1", "np.unique"]),
    "labels with a gap": (DataError, Net(3), (X, np.where(THREE == 2, 5, THREE)), {}, ["0 to 2", "0, 1, 5"]),
    "one class": (DataError, Net(), (X, np.zeros(20, int)), {}, ["20 targets are", "one class"]),
    "one class name": (DataError, Net(), (X, ["a"] * 20), {}, ["'a'", "one class"]),
    "no rows": (DataError, Net(), (X[:0], Y[:0]), {}, ["0 rows"]),
    "too few outputs": (ModelError, Net(2), (X, THREE), {}, ["[rows, 2]", "3 logits", "Dense(3)"]),
    "too many outputs": (ModelError, Net(4), (X, Y), {}, ["[rows, 4]", "one number a row", "Dense(1)"]),
    "outputs for several targets": (ModelError, Net(1), (X, X), {}, ["[rows, 1]", "2 numbers a row", "Dense(2)"]),
    "outputs for labels": (
        ModelError,
        Net(2),
        (X, np.stack([BINARY, BINARY, 1 - BINARY], 1)),
        {},
        ["[rows, 2]", "3 numbers a row"],
    ),
    "a tuple of outputs": (ModelError, Pair(), (X, Y), {}, ["returned a tuple", "one array"]),
    "no rows in outputs": (ModelError, Mean(), (X, Y), {}, ["shape (1,)", "for 20 rows"]),
    "inputs the model refuses": (
        ModelError,
        (lambda p, x: x @ p, jnp.zeros((5, 1))),
        (X, Y),
        {},
        ["The model failed on inputs of shape (20, 2)", "x @ p"],
    ),
    "random numbers in evaluation": (
        ModelError,
        Noise(),
        (X, Y),
        {"valid": 0.2},
        ["failed in evaluation", "InvalidRngError", "make_rng", "only where its argument `train` is true"],
    ),
    "sown losses": (ModelError, Sows(), (X, Y), {}, ["`losses`", "does not keep its structure", "`intermediates`"]),
    "other outputs in evaluation": (ModelError, TwoFaced(), (X, Y), {}, ["(20, 1) in training", "(20,) in evaluation"]),
    "softmax": (ModelError, Net(3, nn.softmax), (X, THREE), {}, ["softmax", "logits", "Remove the final softmax"]),
    "softmax of two": (ModelError, Net(2, nn.softmax), (X, BINARY), {}, ["softmax", "Remove"]),
    "sigmoid": (ModelError, Net(1, nn.sigmoid), (X, BINARY), {}, ["sigmoid", "logits", "Remove the final sigmoid"]),
    "sigmoid of labels": (
        ModelError,
        Net(2, nn.sigmoid),
        (X, np.stack([BINARY, THREE > 0], 1).astype(int)),
        {"task": "multilabel"},
        ["sigmoid", "Remove"],
    ),
    "a loss that fails": (
        ModelError,
        Net(),
        (X, Y),
        {"loss": lambda y_true, y_pred: y_true @ y_pred},
        ["loss", "failed", "(20, 1)", "y_true @ y_pred"],
    ),
    "a loss of another shape": (
        ModelError,
        Net(2),
        (X, X),
        {"loss": lambda y_true, y_pred: (y_true[:, None] - y_pred).sum(-1)},
        ["returned shape (20, 20)", "one for each output"],
    ),
    "unknown metric": (OptionError, Net(), (X, Y), {"metrics": "rr2"}, ["--metrics rr2", "Did you mean `r2`"]),
    "metric of another task": (OptionError, Net(), (X, Y), {"metrics": ["auc"]}, ["auc", "the task is regression"]),
    "unknown loss": (OptionError, Net(), (X, Y), {"loss": "mseee"}, ["--loss mseee", "Did you mean `mse`"]),
    "loss of another task": (OptionError, Net(3), (X, THREE), {"loss": "mse", "task": "multiclass"}, ["the task is"]),
    "unknown task": (OptionError, Net(), (X, Y), {"task": "regresion"}, ["Did you mean `regression`"]),
    "unknown optimizer": (
        OptionError,
        Net(),
        (X, Y),
        {"optimizer": "adamm"},
        ["--optimizer adamm", "Did you mean `adam"],
    ),
    "an optimizer that searches along a line": (
        OptionError,
        Net(),
        (X, Y),
        {"optimizer": optax.lbfgs()},
        ["The optimizer failed", "value_fn", "such as adam"],
    ),
    "negative epochs": (OptionError, Net(), (X, Y), {"epochs": -3}, ["--epochs -3", "whole number above zero"]),
    "no epochs": (OptionError, Net(), (X, Y), {"epochs": 0}, ["--epochs 0"]),
    "half an epoch": (OptionError, Net(), (X, Y), {"epochs": 0.5}, ["--epochs 0.5"]),
    "negative steps": (OptionError, Net(), (X, Y), {"steps": -1}, ["--steps -1"]),
    "epochs and steps": (OptionError, Net(), (X, Y), {"epochs": 1, "steps": 1}, ["both", "Leave one out"]),
    "batch larger than the data": (
        OptionError,
        Net(),
        (X, Y),
        {"batch_size": 64},
        ["--batch-size 64", "only 20 training rows", "--batch-size full"],
    ),
    "batch of none": (OptionError, Net(), (X, Y), {"batch_size": 0}, ["--batch-size 0"]),
    "batch of words": (OptionError, Net(), (X, Y), {"batch_size": "all"}, ["--batch-size 'all'"]),
    "negative rate": (OptionError, Net(), (X, Y), {"lr": -0.1}, ["--lr -0.1", "above zero"]),
    "negative seed": (OptionError, Net(), (X, Y), {"seed": -1}, ["--seed -1"]),
    "timebox": (OptionError, Net(), (X, Y), {"timebox": "soon"}, ["--timebox soon", "10m"]),
    "fraction": (OptionError, Net(), (X, Y), {"valid": 20}, ["--valid 20", "between 0 and 1"]),
    "nothing left to train": (OptionError, Net(), (X, Y), {"valid": 0.5, "test": 0.5}, ["none is left"]),
    "valid of another width": (DataError, Net(), (X, Y), {"valid": (X[:, :1], Y)}, ["--valid", "(1,)", "(2,)"]),
    "valid of another length": (DataError, Net(), (X, Y), {"valid": (X, Y[:3])}, ["--valid", "y has 3 rows"]),
    "valid with a new class": (
        DataError,
        Net(3),
        (X, THREE),
        {"valid": (X, THREE + 1)},
        ["valid", "class 3", "0, 1, 2"],
    ),
    "a string column": (
        DataError,
        Net(),
        pd.DataFrame({"gene": ["a", "b"] * 10, "t": Y}),
        {"target": "t"},
        ["`gene`", "get_dummies"],
    ),
    "no such column": (
        OptionError,
        Net(),
        pd.DataFrame({"a": Y, "t": Y}),
        {"target": "tt"},
        ["--target tt", "Did you mean `t`"],
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_gets_a_message(mistake: str, store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kind, model, data, options, said = MISTAKES[mistake]
    with pytest.raises(kind) as caught:
        dlfb_lab.train(model, data, **options)
    message = str(caught.value)
    for part in said:
        assert part in message
    assert "\n" not in message
    assert len(message) < 600
    assert re.search(r"\.$|\)$|\?$|`$", message), "it ends as a sentence does"
    (shown,) = caught.value._render_traceback_()
    assert message in shown
    assert type(caught.value).__name__ in shown
    if mistake not in ("softmax", "softmax of two", "sigmoid", "sigmoid of labels"):
        assert not store.exists(), "nothing was begun"


@pytest.mark.parametrize("model", [Net(), Flat()], ids=["[rows, 1]", "[rows]"])
@pytest.mark.parametrize("y", [Y, Y[:, None]], ids=["(n,)", "(n, 1)"])
def test_a_target_column_is_not_broadcast_into_a_wrong_loss(model: Any, y: np.ndarray) -> None:
    run = dlfb_lab.train(model, (X, y), steps=1, batch_size="full", optimizer="sgd", lr=1e-9, scale=False)
    said = run.predict(X).reshape(-1)
    assert run.history["train/loss"][0] == pytest.approx(((said - Y) ** 2).mean(), rel=1e-4)


@pytest.mark.parametrize("model", [Net(), Flat()], ids=["[rows, 1]", "[rows]"])
@pytest.mark.parametrize("y", [BINARY, BINARY[:, None]], ids=["(n,)", "(n, 1)"])
def test_classes_are_not_broadcast_into_a_wrong_loss(model: Any, y: np.ndarray) -> None:
    run = dlfb_lab.train(model, (X, y), steps=1, batch_size="full", optimizer="sgd", lr=1e-9)
    probability = run.predict_proba(X)[np.arange(20), BINARY]
    assert run.history["train/loss"][0] == pytest.approx(-np.log(probability).mean(), rel=1e-4)


def test_a_class_column_is_read_and_said() -> None:
    run = dlfb_lab.train(Net(), (X, BINARY[:, None]), steps=1)
    notices = [n.text for n in run.record.notices]
    assert any("(20, 1)" in text and "(20,)" in text for text in notices)


def test_a_squashed_output_is_right_where_nothing_squashes_it_again() -> None:
    run = dlfb_lab.train(Net(1, nn.sigmoid), (X, np.abs(Y) / 10), steps=1)
    assert run.status == "finished"
    with_own = dlfb_lab.train(
        Net(1, nn.sigmoid), (X, BINARY), steps=1, loss=lambda y_true, y_pred: ((y_true - y_pred) ** 2).mean()
    )
    assert with_own.status == "finished"


def test_logits_that_happen_to_lie_within_0_and_1_are_let_pass() -> None:
    def timid(params: Any, x: jax.Array) -> jax.Array:
        return 0.5 + 0.05 * (x @ params)

    params = jnp.full((2, 1), 0.1)
    assert dlfb_lab.train((timid, params), (X, BINARY), steps=1).status == "finished"
    zeros = jnp.zeros((2, 3))
    assert dlfb_lab.train((lambda p, x: x @ p, zeros), (X, THREE), steps=1).status == "finished"


def test_a_class_missing_from_the_training_rows_is_warned_of() -> None:
    y = np.array(["a", "b"] * 9 + ["rare", "b"])
    groups = np.arange(20)
    for seed in range(20):
        run = dlfb_lab.train(Net(3), (X, y), steps=1, valid=0.4, groups=groups, seed=seed)
        if "rare" not in y[run.split()["train"]]:
            warnings = [n.text for n in run.record.notices if n.level == "warning"]
            assert any("rare" in text for text in warnings)
            return
    pytest.fail("no seed left the rare class out")


def test_a_store_that_cannot_be_written_keeps_nothing_but_trains(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    run = dlfb_lab.train(Net(), (X, Y), steps=2, valid=0.2, store=tmp_path / "file" / "runs", name="mine")
    assert run.status == "finished"
    assert run.path is None
    assert run.predict(X).shape == (20,)
    (notice,) = [n for n in run.record.notices if n.level == "warning"]
    for part in ("file/runs", "cannot be written", "Nothing of this run is kept", "--store"):
        assert part in notice.text
    assert run.evaluate("valid")["loss"] > 0
    assert "mine" in repr(run)
    with pytest.raises(DlfbLabError, match="was not kept"):
        run.split()


def test_a_folder_lost_while_training_is_reported_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from dlfb_lab import journal

    put = journal.Journal.put

    def full(self: journal.Journal, event: Any) -> None:
        if event.kind == "losses":
            raise OSError(28, "No space left on device")
        put(self, event)

    monkeypatch.setattr(journal.Journal, "put", full)
    run = dlfb_lab.train(Net(), (X, Y), steps=3)
    assert run.status == "finished"
    assert len(run.history) == 3
    (notice,) = [e for e in run.record.events if isinstance(e, Notice)]
    assert "The journal failed" in notice.text
    assert "No space left on device" in notice.text
    assert "Training goes on" in notice.text


def test_a_second_run_of_one_name_is_kept_beside_the_first(store: Path) -> None:
    first, second, third = (dlfb_lab.train(Net(), (X, Y), steps=1, name="mine") for _ in range(3))
    assert len({first.id, second.id, third.id}) == 3
    assert first.record.notices == []
    for run, others in ((second, "another run is"), (third, "2 more runs are")):
        (notice,) = run.record.notices
        assert notice.level == "info"
        assert others in notice.text
        assert run.id in notice.text
    assert [r.id for r in dlfb_lab.runs()] == [first.id, second.id, third.id]
    with pytest.raises(DlfbLabError, match="3 runs are named `mine`"):
        dlfb_lab.open_run("mine")
    assert dlfb_lab.open_run(second.id).id == second.id
