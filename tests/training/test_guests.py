"""Models of other frameworks under our loop: parts, scores, early stopping, the journal, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, log_loss

import dlfb_lab
from dlfb_lab.errors import ModelError, OptionError
from dlfb_lab.events import Evaluation
from dlfb_lab.run import Run

pytestmark = pytest.mark.guests("torch")
torch: Any = pytest.importorskip("torch")

RNG = np.random.default_rng(0)
X = RNG.normal(size=(90, 3)).astype(np.float32)
KIND = np.array(["b cell", "monocyte", "t cell"])[np.argmax(X + 0.3 * RNG.normal(size=X.shape), axis=1)]
TABLE = pd.DataFrame(X, columns=["cd19", "cd14", "cd3"]).assign(kind=KIND)


def net(seed: int = 0, dropout: float = 0.0) -> Any:
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Dropout(dropout), torch.nn.Linear(8, 3))


@pytest.fixture(scope="module")
def run() -> Run:
    return dlfb_lab.train(
        net(dropout=0.2),
        TABLE,
        target="kind",
        valid=0.2,
        test=0.2,
        scale=True,
        epochs=12,
        lr=0.03,
        metrics="accuracy,f1",
        class_weights=None,
        name="cells",
    )


def test_a_run_of_a_guest_is_a_run(run: Run) -> None:
    assert run.status == "finished"
    started = run.record.started
    assert started is not None
    assert (started.model, started.model_kind, started.task) == ("Sequential", "torch", "multiclass")
    assert started.classes == ["b cell", "monocyte", "t cell"]
    assert started.parameter_count == 3 * 8 + 8 + 8 * 3 + 3
    assert started.versions["torch"] == torch.__version__
    assert started.settings["optimizer"] == "adam" and started.settings["lr"] == 0.03
    assert started.settings["loss"] == "cross_entropy"
    assert list(run.history.columns) == ["epoch", "train/loss", "valid/loss", "valid/accuracy", "valid/f1"]
    assert run.record.step == 12 * 2
    assert run.history["train/loss"].dropna().iloc[-1] < run.history["train/loss"].iloc[0]
    assert run.record.baselines and run.record.plans[-1].plan == "as it is"


def test_scores_are_scikit_learns_of_the_modules_own_outputs(run: Run) -> None:
    rows = run.split()["test"]
    found = run.evaluate("test")
    predicted = run.predict(TABLE.iloc[rows])
    truth = KIND[rows]
    assert found["accuracy"] == pytest.approx(accuracy_score(truth, predicted))
    shares = run.predict_proba(TABLE.iloc[rows])
    np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-5)
    assert found["loss"] == pytest.approx(log_loss(truth, shares, labels=run.classes), abs=1e-5)
    looks = [e for e in run.record.events if isinstance(e, Evaluation) and e.split == "test"]
    assert looks[-1].look == len(looks)
    assert run.state.training is False
    with pytest.raises(OptionError, match=r"run\.state"):
        _ = run.params


def test_its_journal_is_opened_again(run: Run) -> None:
    again = dlfb_lab.open_run(run.id)
    pd.testing.assert_frame_equal(again.history.dropna(how="all"), run.history.dropna(how="all"))
    assert again.record.started is not None and again.record.started.model_kind == "torch"
    assert "PyTorch" in again.cite()


def test_the_seed_decides_and_the_order_of_rows_is_ours() -> None:
    runs = [
        dlfb_lab.train(net(dropout=0.5), (X, KIND), epochs=2, seed=seed, optimizer="sgd", lr=0.1) for seed in (0, 0, 1)
    ]
    losses = [r.history["train/loss"].tolist() for r in runs]
    assert losses[0] == losses[1] != losses[2]


def test_early_stopping_goes_back_to_the_best_weights() -> None:
    model = net()
    run = dlfb_lab.train(
        model, (X, KIND), valid=(X[::-1], np.roll(KIND, 1)), epochs=30, lr=0.3, early_stop="loss:2", batch_size="full"
    )
    scores = run.history["valid/loss"].dropna()
    assert run.record.step == scores.idxmin() + 2 < 30
    assert run.evaluate("valid")["loss"] == pytest.approx(scores.min(), abs=1e-6)
    assert run.state is model
    assert "The parameters are those of step" in run.record.notices[-1].text


def test_a_timebox_and_a_stop_keep_what_was_learned() -> None:
    run = dlfb_lab.train(net(), (X, KIND), epochs=1_000_000, timebox=2, valid=0.2)
    assert run.status == "finished"
    assert run.record.status is not None
    assert "timebox" in run.record.status.reason
    assert run.history["valid/loss"].dropna().index[-1] == run.record.step > 0


def test_a_torch_loader_and_a_map_style_data_set() -> None:
    codes = torch.from_numpy(np.unique(KIND, return_inverse=True)[1])
    data = torch.utils.data.TensorDataset(torch.from_numpy(X), codes)
    loader = torch.utils.data.DataLoader(data, batch_size=30, shuffle=False)
    run = dlfb_lab.train(net(), loader, epochs=3, valid=(X, codes.numpy()), optimizer="sgd", lr=0.1)
    assert run.record.step == 9

    model, optimizer = (m := net()), torch.optim.SGD(m.parameters(), lr=0.1)
    expected = []
    for _ in range(3):
        for x, y in loader:
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            expected.append(loss.item())
    np.testing.assert_allclose(run.history["train/loss"].dropna(), expected, rtol=1e-5)
    assert run.history["valid/accuracy"].notna().sum() == 4
    rows = dlfb_lab.train(net(), data, epochs=1, batch_size=30, valid=0.5)
    assert rows.record.step == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"seeds": 3},
            r"--seeds 3: the torch model cannot be trained several times at once\. Say --sweep seed=0,1,2, which",
        ),
        ({"seeds": 8, "seed": 5}, r"--sweep seed=5,6,7,…"),
        ({"precision": "bf16"}, "--precision: the torch model runs its own step"),
        ({"remat": True}, "--remat"),
        ({"schedule": "cosine"}, "--schedule"),
        ({"weight_decay": 0.1}, "--weight-decay"),
        ({"accumulate": 2}, "--accumulate"),
        ({"class_weights": "balanced"}, "--class-weights"),
        ({"freeze": "0"}, "--freeze"),
        ({"init_from": {"w": X}}, "--init-from"),
        ({"devices": 2}, "--devices"),
        ({"plan": "fused"}, "--plan"),
        ({"debug": True}, "--debug"),
        ({"lr": "find"}, "--lr find"),
        ({"sweep": "lr=0.1,0.1"}, "0.1 stands there twice"),
        ({"sweep": "rate=0.1,0.2"}, r"--sweep rate: there is no such option"),
        ({"seeds": 3, "sweep": "lr=0.1,0.2"}, "--seeds 3"),
    ],
)
def test_what_only_a_compiled_step_can_do_is_refused(options: dict[str, Any], said: str) -> None:
    before = len(dlfb_lab.runs())
    with pytest.raises(OptionError, match=said):
        dlfb_lab.train(net(), (X, KIND), epochs=1, **options)
    assert len(dlfb_lab.runs()) == before


def test_the_sweep_that_is_offered_trains_one_after_another() -> None:
    best = dlfb_lab.train(net(dropout=0.5), (X, KIND), epochs=2, valid=(X, KIND), sweep="seed=0,1,2", lr=0.02)
    assert [r.record.started.settings["seed"] for r in best.sweep if r.record.started] == [0, 1, 2]
    last = [r.history["valid/loss"].dropna().iloc[-1] for r in best.sweep]
    assert best is best.sweep[int(np.argmin([r.history["valid/loss"].min() for r in best.sweep]))]
    assert len(set(last)) == 3


def test_each_run_of_a_sweep_starts_from_the_model_as_it_was_given() -> None:
    model = net()
    before = [p.detach().clone() for p in model.parameters()]
    best = dlfb_lab.train(model, (X, KIND), epochs=2, batch_size="full", sweep="lr=0.1,0.01,0.001", optimizer="sgd")
    first = [r.history["train/loss"].iloc[0] for r in best.sweep]
    assert len(set(first)) == 1, "none goes on where another ended"
    assert best is best.sweep[0]
    states = [r.state for r in best.sweep]
    assert len({id(s) for s in states}) == 3, "and each keeps its own parameters"
    assert any(not torch.equal(a, b) for a, b in zip(before, best.state.parameters(), strict=True))
    assert not torch.equal(states[0][0].weight, states[2][0].weight)


def test_a_step_of_ones_own_with_scores_early_stopping_and_its_state() -> None:
    model = net()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.3)
    codes = np.unique(KIND, return_inverse=True)[1]

    def step(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(x), y.long())
        loss.backward()
        optimizer.step()
        return loss, {"norm": model[0].weight.norm()}

    seen = []

    def evaluation(x: Any, y: Any) -> Any:
        seen.append(len(x))
        with torch.no_grad():
            outputs = model(torch.as_tensor(x))
        return {
            "loss": torch.nn.functional.cross_entropy(outputs, torch.as_tensor(y).long()),
            "right": (outputs.argmax(1).numpy() == np.asarray(y)).mean(),
        }

    run = dlfb_lab.train(
        (X, codes.astype(np.int32)),
        step=step,
        eval_step=evaluation,
        valid=0.2,
        epochs=40,
        early_stop="right:3",
        eval_batch_size=9,
    )
    assert set(seen) == {9}, "the 18 rows in two batches"
    scores = run.history["valid/right"].dropna()
    assert run.record.step < 40 * 3
    assert run.evaluate("valid")["right"] == pytest.approx(scores.max())
    assert run.history["train/norm"].notna().sum() == run.record.step
    assert run.state == {"model": model, "optimizer": optimizer}
    with pytest.raises(OptionError, match="not how to predict"):
        run.predict(X)


@pytest.mark.parametrize(
    ("model", "data", "said"),
    [
        (lambda: torch.nn.Linear(4, 3), (X, KIND), r"failed on inputs of shape \(32, 3\)"),
        (lambda: torch.nn.Linear(3, 2), (X, KIND), "2"),
        (lambda: torch.nn.Linear, (X, KIND), "class"),
        (lambda: torch.nn.LSTM(3, 3), (X, KIND), "must return one tensor"),
    ],
)
def test_a_model_that_does_not_fit_is_told_before_training(model: Any, data: Any, said: str) -> None:
    before = len(dlfb_lab.runs())
    with pytest.raises((ModelError, OptionError), match=said):
        dlfb_lab.train(model(), data, epochs=1)
    assert len(dlfb_lab.runs()) == before


def test_a_reconstruction() -> None:
    torch.manual_seed(0)
    run = dlfb_lab.train(torch.nn.Linear(3, 3), X, task="reconstruction", epochs=5, valid=0.2, lr=0.05)
    losses = run.history["valid/loss"].dropna()
    assert losses.iloc[-1] < losses.iloc[0]
    assert run.predict(X[:4]).shape == (4, 3)


SQUASHED_X = np.random.default_rng(0).normal(size=(64, 5)).astype(np.float32)


def test_a_module_that_ends_in_a_softmax_is_refused() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(5, 3), torch.nn.Softmax(-1))
    with pytest.raises(ModelError, match=r"have passed a softmax .* Remove the final softmax"):
        dlfb_lab.train(module, (SQUASHED_X, SQUASHED_X[:, :3].argmax(1)), epochs=1)


@pytest.mark.parametrize(("end", "warned"), [([torch.nn.Sigmoid()], True), ([], False)])
def test_a_module_that_ends_in_a_sigmoid_is_warned_of(end: list[Any], warned: bool) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(5, 1), *end)
    run = dlfb_lab.train(module, (SQUASHED_X, (SQUASHED_X[:, 0] > 0).astype(int)), epochs=1)
    assert any("applies a sigmoid itself" in notice.text for notice in run.record.notices) is warned


def test_parameters_of_zero_are_no_sigmoid() -> None:
    module = torch.nn.Linear(5, 1)
    torch.nn.init.zeros_(module.weight)
    torch.nn.init.constant_(module.bias, 0.5)
    run = dlfb_lab.train(module, (SQUASHED_X, (SQUASHED_X[:, 0] > 0).astype(int)), epochs=1)
    assert not [notice for notice in run.record.notices if "sigmoid" in notice.text]


def warned(run: Run) -> list[str]:
    return [event.text for event in run.record.events if event.kind == "notice" and event.level == "warning"]


def finite(module: Any) -> bool:
    return all(bool(torch.isfinite(value).all()) for value in module.state_dict().values())


def test_the_first_bad_step_of_a_guest_and_its_row_are_named(tmp_path: Path) -> None:
    x = RNG.normal(size=(500, 8)).astype(np.float32)
    y = x[:, 0].copy()
    x[77] = 1e30
    run = dlfb_lab.train(torch.nn.Linear(8, 1), (x, y), task="regression", optimizer="sgd", epochs=20, store=tmp_path)
    assert run.diverged and run.status == "stopped" and finite(run.state)
    assert re.search(r"the first bad step is \d+, batch \d+ of epoch 1", warned(run)[-1])
    assert re.search(r"row 77\b", warned(run)[-1]) and "1e+30" in warned(run)[-1]


def test_arrays_of_a_guest_that_become_nan_end_training(tmp_path: Path) -> None:
    class Rooted(torch.nn.Module):  # type: ignore[misc]
        """Has no gradient where its hidden values are zero."""

        def __init__(self) -> None:
            super().__init__()
            self.inner, self.outer = torch.nn.Linear(3, 4, bias=False), torch.nn.Linear(4, 1)

        def forward(self, x: Any) -> Any:
            return self.outer(torch.sqrt(torch.abs(self.inner(x))))

    x = X.copy()
    x[33] = 0
    run = dlfb_lab.train(Rooted(), (x, X[:, 0]), task="regression", lr=1e-3, epochs=20, batch_size=16, store=tmp_path)
    assert run.diverged and finite(run.state)
    losses = run.history["train/loss"].to_numpy()
    last = int(np.flatnonzero(np.isfinite(losses))[-1])
    assert f"the first bad step is {last}," in warned(run)[-1] and "inner.weight" in warned(run)[-1]
    assert "because of row 33." in warned(run)[-1]
