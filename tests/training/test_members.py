"""Several trained at once, and sweeps: each member is the run that it would have been alone."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest

import dlfb_lab
from dlfb_lab.errors import OptionError
from dlfb_lab.run import Run

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 4)).astype(np.float32)
Y = np.tanh(X @ RNG.normal(size=(4,))).astype(np.float32)
KIND = np.where(Y > 0, "high", "low")


class Net(nn.Module):
    outputs: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        x = nn.BatchNorm(use_running_average=not train)(nn.tanh(nn.Dense(8)(x)))
        return nn.Dense(self.outputs)(nn.Dropout(0.2, deterministic=not train)(x))


class Small(nn.Module):
    outputs: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Dense(self.outputs)(nn.tanh(nn.Dense(4)(x)))


OPTIONS: dict[str, Any] = {"valid": 0.25, "epochs": 6, "batch_size": 16, "lr": 0.02, "plan": "step"}


@pytest.fixture(scope="module")
def seeds() -> Run:
    return dlfb_lab.train(Net(), (X, Y), seeds=3, seed=4, test=0.1, name="three", **OPTIONS)


def test_each_member_is_the_run_of_its_seed_alone(seeds: Run) -> None:
    table = seeds.history
    assert list(table["train/loss"].columns) == ["seed 4", "seed 5", "seed 6"]
    parts = seeds.split()
    for name, seed in (("seed 4", 4), ("seed 6", 6)):
        # The split follows the run's seed, so that the members are compared on the same rows.
        alone = dlfb_lab.train(
            Net(),
            (X[parts["train"]], Y[parts["train"]]),
            seed=seed,
            **{**OPTIONS, "valid": (X[parts["valid"]], Y[parts["valid"]])},
        )
        np.testing.assert_allclose(table["train/loss"][name].dropna(), alone.history["train/loss"].dropna(), rtol=1e-3)
        np.testing.assert_allclose(table["valid/loss"][name].dropna(), alone.history["valid/loss"].dropna(), rtol=1e-3)


def test_the_best_by_the_validation_metric_is_handed_back_and_all_are_kept(seeds: Run) -> None:
    last = seeds.history["valid/loss"].dropna().iloc[-1]
    best = int(np.argmin(last.to_numpy()))
    assert len(seeds.members) == 3
    predicted = [member.predict(X) for member in seeds.members]
    np.testing.assert_array_equal(seeds.predict(X), predicted[best])
    assert not np.array_equal(predicted[0], predicted[1])
    rows = seeds.split()["valid"]
    for member, score in zip(seeds.members, last, strict=True):
        assert member.evaluate("valid")["loss"] == pytest.approx(score, rel=1e-4)
        assert ((member.predict(X[rows]) - Y[rows]) ** 2).mean() == pytest.approx(score, rel=1e-4)
    assert jax.tree.leaves(seeds.params)[0].shape == jax.tree.leaves(seeds.members[0].params)[0].shape
    np.testing.assert_array_equal(jax.tree.leaves(seeds.params)[0], jax.tree.leaves(seeds.members[best].params)[0])
    assert np.isfinite(seeds.evaluate("test")["loss"])


def test_the_journal_shows_the_members_again(seeds: Run) -> None:
    again = dlfb_lab.open_run(seeds.id)
    pd.testing.assert_frame_equal(again.history, seeds.history, check_like=True)
    assert again.record.members == ["seed 4", "seed 5", "seed 6"]
    assert again.record.best_member() == seeds.record.best_member()
    for text in (seeds.cite(), again.cite()):
        assert "3 models (seed 4, seed 5, seed 6) were trained at once" in text
    assert "3" in repr(again)


def test_one_program_serves_all(seeds: Run) -> None:
    names = [c.program for c in seeds.record.compilations]
    assert names.count("train step") == 1
    assert names.count("initialise") <= 1


@pytest.fixture(scope="module")
def rates() -> Run:
    return dlfb_lab.train(Small(), (X, Y), sweep="lr=1e-4,1e-3,3e-2", **{**OPTIONS, "lr": None})


def test_a_sweep_over_rates_trains_a_member_for_each(rates: Run) -> None:
    assert rates.record.members == ["lr 0.0001", "lr 0.001", "lr 0.03"]
    for name, lr in (("lr 0.0001", 1e-4), ("lr 0.03", 3e-2)):
        alone = dlfb_lab.train(Small(), (X, Y), **{**OPTIONS, "lr": lr})
        np.testing.assert_allclose(
            rates.history["train/loss"][name].dropna(), alone.history["train/loss"].dropna(), rtol=1e-3
        )
    assert len({round(float(v), 4) for v in rates.history["train/loss"].iloc[0]}) == 1, "one start for all"
    best = rates.history["valid/loss"].dropna().iloc[-1].idxmin()
    np.testing.assert_array_equal(rates.predict(X), rates.members[rates.record.members.index(best)].predict(X))


def test_another_sweep_compiles_nothing_anew(rates: Run) -> None:
    run = dlfb_lab.train(Small(), (X, Y), sweep="lr=2e-4,2e-3,2e-2", **{**OPTIONS, "lr": None})
    assert not run.record.compilations


def test_seeds_with_a_sweep_train_every_pair() -> None:
    run = dlfb_lab.train(Small(), (X, Y), seeds=2, sweep="weight_decay=0,0.5", **OPTIONS)
    assert run.record.members == [
        "weight_decay 0, seed 0",
        "weight_decay 0, seed 1",
        "weight_decay 0.5, seed 0",
        "weight_decay 0.5, seed 1",
    ]
    assert run.history["valid/loss"].shape[1] == 4
    weights = [np.abs(m.params["Dense_0"]["kernel"]).sum() for m in run.members]
    assert weights[2] < weights[0]
    assert weights[3] < weights[1]
    assert run.history["train/loss"].notna().all(axis=1).sum() == run.record.step


def test_early_stopping_gives_each_member_its_best() -> None:
    run = dlfb_lab.train(Small(2), (X, KIND), seeds=3, early_stop="auc:2", **{**OPTIONS, "epochs": 40, "lr": 0.1})
    scores = run.history["valid/auc"].dropna()
    assert run.record.step < 40 * 3
    for member, column in zip(run.members, scores.columns, strict=True):
        assert member.evaluate("valid")["auc"] == pytest.approx(scores[column].max(), abs=1e-6)
    assert run.evaluate("valid")["auc"] == pytest.approx(scores.max().max(), abs=1e-6)


def test_a_member_that_diverges_leaves_the_others() -> None:
    run = dlfb_lab.train(Small(), (X, Y), sweep="lr=0.01,1e30", optimizer="sgd", **{**OPTIONS, "lr": None, "epochs": 3})
    last = run.history["train/loss"].dropna(how="all").iloc[-1]
    assert np.isfinite(last["lr 0.01"])
    assert np.isfinite(run.predict(X)).all()
    assert run.record.best_member() is not None
    assert run.record.best_member()[0] == 0  # type: ignore[index]


# --- sweeps that change programs: one run after another


def test_a_sweep_over_batch_sizes_is_one_run_after_another() -> None:
    best = dlfb_lab.train(Small(), (X, Y), sweep="batch_size=8,15,full", name="size", valid=0.25, epochs=2, lr=0.02)
    assert [run.name for run in best.sweep] == ["size batch_size 8", "size batch_size 15", "size batch_size full"]
    assert [run.record.step for run in best.sweep] == [12, 6, 2]
    scores = [run.record.best()[1] for run in best.sweep]  # type: ignore[index]
    assert best is best.sweep[int(np.argmin(scores))]
    assert all(run.status == "finished" for run in best.sweep)
    assert len({tuple(run.split()["valid"]) for run in best.sweep}) == 1
    listed = [run.name for run in dlfb_lab.runs()]
    assert set(listed) >= {run.name for run in best.sweep}


def test_a_sweep_over_optimizers() -> None:
    best = dlfb_lab.train(Small(), (X, Y), sweep="optimizer=adam,sgd,rmsprop", **{**OPTIONS, "epochs": 2})
    settings = [run.record.started.settings["optimizer"] for run in best.sweep if run.record.started]
    assert settings == ["adam", "sgd", "rmsprop"]
    first = {float(run.history["train/loss"].iloc[0]) for run in best.sweep}
    assert len(first) == 1, "the same start"


def test_seeds_in_a_sweep_of_shapes_are_members_of_each_run() -> None:
    best = dlfb_lab.train(
        Small(), (X, Y), seeds=2, sweep="batch_size=15,45", **{**OPTIONS, "epochs": 1, "batch_size": None}
    )
    assert [run.record.members for run in best.sweep] == [["seed 0", "seed 1"]] * 2


def test_a_model_that_brings_an_optimizer_is_swept_over_what_it_leaves_open() -> None:
    from flax.training.train_state import TrainState

    model = nn.Dense(1)
    params = model.init(jax.random.key(0), X[:1])["params"]
    state = TrainState.create(apply_fn=model.apply, params=params, tx=optax.sgd(0.1))
    best = dlfb_lab.train(state, (X, Y), sweep="batch_size=20,30", valid=0.25, epochs=1)
    assert len(best.sweep) == 2
    with pytest.raises(OptionError, match="brings its own optimizer"):
        dlfb_lab.train(state, (X, Y), sweep="lr=0.1,0.2", valid=0.25, epochs=1)
    run = dlfb_lab.train(state, (X, Y), seeds=2, valid=0.25, epochs=1)
    assert "members differ in the order of the rows and in dropout alone" in "".join(n.text for n in run.record.notices)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"seeds": 1}, "--seeds 1: that is one model"),
        ({"seeds": 0}, "--seeds 0: give a whole number above zero"),
        ({"seeds": "three"}, "--seeds 'three'"),
        ({"sweep": "lr=0.1"}, r"that is one value only\. Give several, or say --lr 0\.1"),
        ({"sweep": "lr"}, "such as --sweep lr=1e-4,1e-3,1e-2"),
        ({"sweep": "learning=1,2"}, "there is no such option"),
        ({"sweep": "lr=0.1,fast"}, "fast"),
        ({"sweep": "lr=0.1,-1"}, "-1"),
        ({"sweep": "weight_decay=0.1,x"}, "x"),
        ({"sweep": "lr=0.1,0.2", "lr": 0.3}, "--lr"),
        ({"seeds": 2, "lr": "find"}, "--lr find: several members at once"),
        ({"sweep": "clip=1,0"}, "0"),
    ],
)
def test_a_mistake_is_said_before_training(options: dict[str, Any], said: str) -> None:
    before = len(dlfb_lab.runs())
    with pytest.raises(OptionError, match=said):
        dlfb_lab.train(Small(), (X, Y), valid=0.2, epochs=1, **options)
    assert len(dlfb_lab.runs()) == before


def test_members_of_a_module_that_is_changed_in_place() -> None:
    from flax import nnx

    module = nnx.Linear(4, 1, rngs=nnx.Rngs(0))
    start = np.asarray(module.kernel[...])
    run = dlfb_lab.train(module, (X, Y), sweep="lr=1e-3,0.1", valid=0.25, epochs=2)
    states = [member.state for member in run.members]
    assert run.state is module
    best = int(np.argmin(run.history["valid/loss"].dropna().iloc[-1]))
    np.testing.assert_array_equal(module.kernel[...], states[best].kernel[...])
    assert not np.array_equal(states[0].kernel[...], states[1].kernel[...])
    assert not np.array_equal(start, module.kernel[...])

    module = nnx.Linear(4, 1, rngs=nnx.Rngs(0))
    best_run = dlfb_lab.train(module, (X, Y), sweep="batch_size=20,30", valid=0.25, epochs=1)
    assert len({float(r.history["valid/loss"].iloc[0]) for r in best_run.sweep}) == 1, "each from the same start"
    np.testing.assert_array_equal(module.kernel[...], start)
    assert jnp.isfinite(best_run.predict(X)).all()


def test_a_run_of_a_sweep_that_cannot_be_trained_leaves_the_others() -> None:
    with pytest.warns(UserWarning, match=r"batch_size 1000 was not trained: --batch-size 1,000: there are only 60"):
        best = dlfb_lab.train(Small(), (X, Y), sweep="batch_size=20,1000,30", epochs=1)
    assert [run.name for run in best.sweep] == ["batch_size 20", "batch_size 30"]
    with pytest.raises(OptionError, match="--batch-size 1,000"):
        dlfb_lab.train(Small(), (X, Y), sweep="batch_size=1000,20", epochs=1)
