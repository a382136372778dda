"""Restoring saved states into objects of the user's: bit by bit, or not at all."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training.train_state import TrainState

import dlfb_lab
from dlfb_lab import journal
from dlfb_lab.checkpoints import folder
from dlfb_lab.engine import saving
from dlfb_lab.errors import OptionError, StoreError
from dlfb_lab.run import Run
from tests.torture import Noisy, X, Y

OPTIONS: dict[str, Any] = {
    **{"valid": 0.2, "steps": 30, "eval_every": 10, "batch_size": 16, "lr": 0.05},
    "checkpoint": "every=10,keep=9",
}


class Normed(nn.Module):
    """A network with batch statistics."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        return nn.Dense(1)(nn.BatchNorm(use_running_average=not train)(nn.Dense(5)(x)))


class NormedNnx(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.first, self.norm = nnx.Linear(4, 5, rngs=rngs), nnx.BatchNorm(5, rngs=rngs)
        self.drop, self.last = nnx.Dropout(0.1, rngs=rngs), nnx.Linear(5, 1, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.last(self.drop(self.norm(self.first(x))))


def trained(store: Path, model: Any, data: Any = (X, Y), **options: Any) -> Run:
    run = dlfb_lab.train(model, data, store=store, **{**OPTIONS, **options})
    assert saving.wait(60)
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return trained(tmp_path_factory.mktemp("store"), Noisy())


def same(found: Any, expected: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    dtypes = [jnp.result_type(leaf) for leaf in jax.tree.leaves(found)]
    assert dtypes == [jnp.result_type(leaf) for leaf in jax.tree.leaves(expected)]


def test_parameters_come_back_as_the_run_has_them(run: Run) -> None:
    same(dlfb_lab.restore(run), jax.tree.map(np.asarray, run.params))
    zeros = jax.tree.map(jnp.zeros_like, run.params)
    same(dlfb_lab.restore(run, into=zeros), run.params)
    same(dlfb_lab.restore(run.path, into={"params": zeros}), {"params": run.params})
    host = dlfb_lab.restore(run, into=jax.tree.map(np.asarray, zeros))
    assert {type(leaf) for leaf in jax.tree.leaves(host)} == {np.ndarray}
    abstract = jax.eval_shape(lambda: zeros)
    same(dlfb_lab.restore(run, into=abstract), run.params)
    same(dlfb_lab.restore(run, into=run.state._replace(step=0)), run.state)


def test_of_an_earlier_step(run: Run) -> None:
    assert run.path is not None
    early = dlfb_lab.restore(f"{run.id}@10", store=run.path.parent)
    assert not np.array_equal(early["Dense_0"]["kernel"], run.params["Dense_0"]["kernel"])
    shorter = dlfb_lab.train(Noisy(), (X, Y), store=run.path.parent, **{**OPTIONS, "steps": 10, "checkpoint": "off"})
    same(early, jax.tree.map(np.asarray, shorter.params))


def batch_norm_state(seed: int) -> tuple[Any, Any]:
    variables = Normed().init(jax.random.key(seed), X[:1])

    class Own(TrainState):
        batch_stats: Any

    state = Own.create(
        apply_fn=Normed().apply, params=variables["params"], tx=optax.adam(0.01), batch_stats=variables["batch_stats"]
    )
    return state, state


def nnx_module(seed: int) -> tuple[Any, Any]:
    return NormedNnx(nnx.Rngs(seed)), None


def function(seed: int) -> tuple[Any, Any]:
    params = {"w": jax.random.normal(jax.random.key(seed), (4, 1)), "b": [jnp.zeros(1)]}
    return (lambda params, x: x @ params["w"] + params["b"][0], params), params


@pytest.mark.parametrize("make", [batch_norm_state, nnx_module, function])
def test_into_what_was_trained(make: Callable[[int], tuple[Any, Any]], tmp_path: Path) -> None:
    model, _ = make(0)
    run = trained(tmp_path, model, lr=None)
    other, into = make(1)
    restored = dlfb_lab.restore(run, into=other if into is None else into)
    if into is None:
        assert restored is other, "a module of nnx is changed in place"
        kinds = (nnx.Param, nnx.BatchStat)
        same(*(nnx.to_pure_dict(nnx.state(module, kinds)) for module in (restored, run.state)))
        into = nnx.state(make(2)[0], nnx.Param)
        same(nnx.to_pure_dict(dlfb_lab.restore(run, into=into)), nnx.to_pure_dict(nnx.state(run.state, nnx.Param)))
    elif isinstance(into, TrainState):
        same(jax.tree.leaves(restored), jax.tree.leaves(run.state))
        assert restored.step == 30 and restored.tx is into.tx
        variables = {"params": into.params, "batch_stats": into.batch_stats}
        found = dlfb_lab.restore(run, into=variables)
        same(found, {"params": run.state.params, "batch_stats": run.state.batch_stats})
    else:
        same(restored, run.params)


def test_into_an_equinox_module(tmp_path: Path) -> None:
    eqx = pytest.importorskip("equinox")

    def make(seed: int) -> Any:
        return eqx.nn.MLP(4, 1, 5, 1, key=jax.random.key(seed))

    run = trained(tmp_path, make(0))
    restored = dlfb_lab.restore(run, into=make(1))
    same(*(eqx.filter(module, eqx.is_array) for module in (restored, run.state)))
    np.testing.assert_array_equal(jax.vmap(restored)(X), jax.vmap(run.state)(X))


@pytest.mark.guests("torch")
def test_into_a_module_of_pytorch(tmp_path: Path) -> None:
    import torch

    def make(width: int = 5) -> Any:
        return torch.nn.Sequential(torch.nn.Linear(4, width), torch.nn.BatchNorm1d(width), torch.nn.Linear(width, 1))

    run = trained(tmp_path, make())
    other = make()
    assert dlfb_lab.restore(run, into=other) is other, "it is changed in place"
    expected = run.state.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in other.state_dict().items())
    small = make(3)
    before = {name: value.clone() for name, value in small.state_dict().items()}
    with pytest.raises(OptionError, match=r"0.weight has shape \(3, 4\), and \(5, 4\) in the checkpoint"):
        dlfb_lab.restore(run, into=small)
    assert all(torch.equal(value, before[name]) for name, value in small.state_dict().items())
    assert "0.weight" in dlfb_lab.restore(run)
    with pytest.raises(StoreError, match=r"needs its model, of the kind torch. Make it as for training.*model=model"):
        dlfb_lab.open_run(run.path).predict(X)


def step(state: dict[str, Any], batch: Any, key: jax.Array) -> tuple[dict[str, Any], jax.Array]:
    x, y = batch

    def loss(params: Any) -> jax.Array:
        return jnp.mean((x @ params["w"] - y) ** 2)

    value, gradient = jax.value_and_grad(loss)(state["params"])
    params = jax.tree.map(lambda p, g: p - 0.01 * g, state["params"], gradient)
    return {**state, "params": params, "count": state["count"] + 1, "key": jax.random.split(state["key"])[0]}, value


def test_into_a_state_of_the_users_own(tmp_path: Path) -> None:
    def make(seed: int) -> dict[str, Any]:
        return {"params": {"w": jnp.full(4, float(seed))}, "count": 0, "key": jax.random.key(seed), "name": None}

    run = trained(tmp_path, None, (X, Y), step=step, state=make(0), valid=None, eval_every=None, lr=None)
    restored = dlfb_lab.restore(run, into=make(5))
    np.testing.assert_array_equal(restored["params"]["w"], run.state["params"]["w"])
    assert restored["count"] == 30 and jnp.array_equal(
        jax.random.key_data(restored["key"]), jax.random.key_data(run.state["key"])
    )
    same(dlfb_lab.restore(run, into=make(5)["params"]), run.state["params"])
    assert set(dlfb_lab.restore(run)) == {"w"}


def test_of_several_members_the_best_unless_another_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained(tmp_path, Noisy(), seeds=3)
    capsys.readouterr()
    same(dlfb_lab.restore(run), jax.tree.map(np.asarray, run.params))
    best = next(i for i, member in enumerate(run.members) if member.params is run.params)
    assert f"step 30, seed {best}, the best of 3 members." in capsys.readouterr().out
    for i, member in enumerate(run.members):
        for named in (i, f"seed {i}"):
            same(dlfb_lab.restore(run, into=run.params, member=named), member.params)
    with pytest.raises(OptionError, match=r"there is no member 3.* There are seed 0, seed 1, seed 2; or a number"):
        dlfb_lab.restore(run, member=3)


@pytest.mark.parametrize("options", [{}, {"seeds": 3}, {"steps": 57, "eval_every": 10}], ids=["one", "seeds", "cut"])
def test_after_early_stopping_what_the_run_handed_back(
    options: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained(tmp_path, Noisy(), **{"early_stop": "loss:3", "steps": 300, "lr": 0.3, **options})
    capsys.readouterr()
    same(dlfb_lab.restore(run), jax.tree.map(np.asarray, run.params))
    step = run.checkpoints[-1].step
    handed_back = run._finished().step
    if handed_back != step:
        assert f"step {handed_back}, where valid/loss was best" in capsys.readouterr().out
        now = dlfb_lab.restore(f"{run.path}@{step}")
        assert not np.array_equal(now["Dense_0"]["kernel"], run.params["Dense_0"]["kernel"])
        same(dlfb_lab.restore(f"{run.path}@{step}", which="best"), jax.tree.map(np.asarray, run.params))


@pytest.mark.parametrize("options", [{}, {"early_stop": "loss:50"}], ids=["now", "best"])
def test_of_a_run_that_diverged_what_it_handed_back(options: dict[str, Any], tmp_path: Path) -> None:
    run = trained(tmp_path, Noisy(), **{"optimizer": "sgd", "lr": 3.0, "steps": 300, **options})
    assert run.diverged and run.checkpoints[-1].step < run.record.step
    same(dlfb_lab.restore(run), jax.tree.map(np.asarray, run.params))


def test_of_several_members_one_that_diverged_does_not_count_against_the_others(tmp_path: Path) -> None:
    large = (100 * X, 1e4 * X[:, 0])
    run = trained(tmp_path, nn.Dense(1), large, optimizer="sgd", lr=None, sweep="lr=1e-6,1.0", steps=200, valid=0.2)
    assert run.checkpoints[-1].usable and run.checkpoints[-1].manifest.not_finite
    same(dlfb_lab.restore(run), jax.tree.map(np.asarray, run.params))
    np.testing.assert_array_equal(dlfb_lab.open_run(run.id, tmp_path).predict(X), run.predict(X))
    with pytest.raises(StoreError, match=r"lr 1 of 2 members, is not finite: params/bias holds NaN or infinity"):
        dlfb_lab.restore(run, member=1)


def test_what_does_not_fit_is_refused_by_name_and_nothing_is_changed(run: Run) -> None:
    other = Noisy(7).init(jax.random.key(0), X[:1])["params"]
    before = jax.tree.map(np.array, other)
    with pytest.raises(OptionError) as caught:
        dlfb_lab.restore(run, into={**other, "more": np.zeros(2)})
    said = str(caught.value)
    assert f"{run.id}@30 does not fit" in said and "Nothing was changed" in said
    for words in (
        "Dense_0/kernel has shape (4, 7), and (4, 6) in the checkpoint",
        "Dense_0/bias has shape (7,), and (6,)",
        "Dense_1/kernel has shape (7, 1), and (6, 1)",
        "more is not in the checkpoint",
    ):
        assert words in said
    assert "Dense_1/bias" not in said
    same(jax.tree.map(np.asarray, other), before)
    with pytest.raises(OptionError, match="Dense_1/bias is only in the checkpoint; Dense_1/kernel is only"):
        dlfb_lab.restore(run, into={"Dense_0": run.params["Dense_0"]})
    for nothing in (Noisy(), {}, {"a": "text"}):
        with pytest.raises(OptionError, match="holds no arrays"):
            dlfb_lab.restore(run, into=nothing)
    with pytest.raises(OptionError, match="Say what it is to be put into"):
        dlfb_lab.restore(run, dry_run=True)
    with pytest.raises(StoreError, match="keeps no best state"):
        dlfb_lab.restore(run, which="best")
    state = TrainState.create(apply_fn=Noisy().apply, params=run.params, tx=optax.sgd(0.1, momentum=0.9))
    with pytest.raises(
        OptionError, match=r"opt_state/0/trace/Dense_0/bias is not in the checkpoint.*The optimizer is an"
    ):
        dlfb_lab.restore(run, into=state)


def test_another_dtype_is_converted_only_if_that_was_said(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    wide = jax.tree.map(lambda a: np.zeros(a.shape, np.float64), run.params)
    with pytest.raises(OptionError, match=r"Dense_0/bias is float64, and float32 in the checkpoint.*--cast"):
        dlfb_lab.restore(run, into=wide)
    capsys.readouterr()
    found = dlfb_lab.restore(run, into=wide, cast=True)
    assert capsys.readouterr().out == "4 arrays were converted from float32 to float64.\n"
    same(found, jax.tree.map(lambda a: np.asarray(a, np.float64), run.params))
    small = dlfb_lab.restore(run, into=jax.tree.map(lambda a: jnp.zeros(a.shape, jnp.bfloat16), run.params), cast=True)
    same(small, jax.tree.map(lambda a: a.astype(jnp.bfloat16), run.params))


def test_a_dry_run_tells_of_every_leaf(run: Run) -> None:
    into = {
        "Dense_0": {"kernel": np.zeros((4, 7), np.float32), "bias": np.zeros(6)},
        "Dense_1": {"kernel": np.zeros((6, 1), np.float32)},
        "<b>": np.zeros(2),
    }
    found = dlfb_lab.restore(run, into=into, dry_run=True)
    told = dict(zip(found.table["leaf"], found.table["what"], strict=True))
    assert told == {
        "<b>": "missing",
        "Dense_0/kernel": "other shape",
        "Dense_0/bias": "other dtype",
        "Dense_1/bias": "extra",
        "Dense_1/kernel": "restored",
    }
    text = repr(found)
    assert "1 restored, 1 missing, 1 extra, 1 other shape, 1 other dtype. Nothing was changed." in text
    assert "float32 (4, 6)" in text and "&lt;b&gt;" in found._repr_html_() and "<b>" not in found._repr_html_()
    assert into["Dense_0"]["bias"].sum() == 0


def test_many_leaves_are_shown_in_part(run: Run) -> None:
    found = dlfb_lab.restore(run, into={**run.params, **{f"l{i:03d}": np.zeros(1) for i in range(60)}}, dry_run=True)
    assert "and 24 more; all are in .table" in repr(found) and "and 24 more" in found._repr_html_()
    assert len(found.table) == 64
    with pytest.raises(OptionError, match=r"l011 is not in the checkpoint; and 48 more\. Nothing"):
        dlfb_lab.restore(run, into={**run.params, **{f"l{i:03d}": np.zeros(1) for i in range(60)}})


# --- what cannot be restored


def damage(checkpoint: folder.Checkpoint, rng: random.Random) -> str:
    """Damages one file of a checkpoint; returns its name."""
    victim = rng.choice(sorted(p for p in checkpoint.path.rglob("*") if p.is_file() and p.stat().st_size))
    content = victim.read_bytes()
    at, kind = rng.randrange(len(content)), rng.choice(["cut", "flipped", "missing"])
    if kind == "cut":
        victim.write_bytes(content[:at])
    elif kind == "flipped":
        victim.write_bytes(content[:at] + bytes([content[at] ^ (1 << rng.randrange(8))]) + content[at + 1 :])
    else:
        victim.unlink()
    return victim.relative_to(checkpoint.path).as_posix()


def test_fifty_damages_are_found_named_and_another_is_offered(run: Run, tmp_path: Path) -> None:
    assert run.path is not None
    rng = random.Random(50)
    for attempt in range(50):
        copy = tmp_path / f"{attempt}" / run.id
        shutil.copytree(run.path, copy)
        latest = folder.listed(copy)[-1]
        name = damage(latest, rng)
        with pytest.raises(StoreError) as caught:
            dlfb_lab.restore(f"{copy}@30", into=run.params)
        said = str(caught.value)
        assert "step 30 is damaged" in said or "step 30 is newer" in said, said
        assert name in said or "newer" in said, said
        assert said.endswith(f"The newest good one: {run.id}@20"), said
        assert folder.verify(latest).state in ("damaged", "newer")
        assert folder.listed(copy)[-1].state in ("damaged", "newer"), "it is remembered"
        shutil.rmtree(copy)


def test_the_latest_that_is_whole_is_taken_and_that_is_said(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run.path is not None
    copy = tmp_path / run.id
    shutil.copytree(run.path, copy)
    (copy / "checkpoints" / "step-30" / "checkpoint.json").unlink()
    (copy / "checkpoints" / ".step-40-abcd").mkdir()
    capsys.readouterr()
    same(dlfb_lab.restore(copy), dlfb_lab.restore(f"{run.path}@20"))
    said = (
        "The checkpoint of step 30 is damaged: checkpoint.json is missing or cannot be read. This is that of step 20."
    )
    assert said in capsys.readouterr().out
    with pytest.raises(StoreError, match=r"step 40 is partial: It was not saved to its end. The newest .*@20"):
        dlfb_lab.restore(f"{copy}@40")
    with pytest.raises(StoreError, match=r"no checkpoint of step 15. There are those of steps 10, 20."):
        dlfb_lab.restore(f"{copy}@15")


def test_a_newer_manifest_is_said_in_all_ways_in(run: Run, tmp_path: Path) -> None:
    assert run.path is not None
    copy = tmp_path / run.id
    shutil.copytree(run.path, copy)
    for step in (10, 20, 30):
        path = copy / "checkpoints" / f"step-{step}" / "checkpoint.json"
        path.write_text(path.read_text().replace('"version": 1', '"version": 2'))
    ways: list[Callable[[str], Any]] = [
        dlfb_lab.restore,
        lambda run: dlfb_lab.diff(run, run),
        lambda run: dlfb_lab.export(run, tmp_path / "a"),
        lambda run: dlfb_lab.train(Noisy(), (X, Y), store=tmp_path, resume=run, **OPTIONS),
    ]
    for way in ways:
        for name in (str(copy), f"{copy}@30"):
            with pytest.raises(StoreError, match=r"of version 2; this dlfb_lab reads up to 1\. Update dlfb-lab"):
                way(name)


def test_what_is_not_finite_is_refused_and_can_be_compared(run: Run, tmp_path: Path) -> None:
    from dlfb_lab.checkpoints.arrays import restore, save

    assert run.path is not None
    copy = tmp_path / run.id
    shutil.copytree(run.path, copy)
    arrays = restore(folder.listed(copy)[-1])
    arrays["now/state/params/Dense_0/bias"][0] = np.nan
    manifest = folder.listed(copy)[-1].manifest
    assert manifest is not None
    save(copy, 31, arrays, place={**manifest.place, "usable": False})
    with pytest.raises(StoreError, match=r"step 31 is not finite: now/state/params/Dense_0/bias: NaN.*@30"):
        dlfb_lab.restore(f"{copy}@31")
    found = dlfb_lab.diff(f"{copy}@30", f"{copy}@31").table
    row = found[found["leaf"] == "Dense_0/bias"].iloc[0]
    assert (row["not_finite_first"], row["not_finite_second"], row["relative"]) == (0, 1, 0.0)
    assert "1 not finite in the second" in repr(dlfb_lab.diff(f"{copy}@30", f"{copy}@31"))


def test_a_link_in_a_checkpoint_is_not_followed(run: Run, tmp_path: Path) -> None:
    assert run.path is not None
    for what in ("checkpoint.json", "arrays", "arrays/_METADATA"):
        copy = tmp_path / what.replace("/", "-") / run.id
        shutil.copytree(run.path, copy)
        victim = copy / "checkpoints" / "step-30" / what
        outside = tmp_path / f"outside-{what.replace('/', '-')}"
        victim.rename(outside)
        victim.symlink_to(outside)
        with pytest.raises(StoreError, match=rf"step 30 is damaged: {what} is a link, which is not followed.*@20"):
            dlfb_lab.restore(f"{copy}@30")


@pytest.mark.parametrize("name", ["a run", "läuft: 50 %", "走 @ home", "x@7"])
def test_a_copied_folder_of_any_name_restores_and_goes_on(run: Run, tmp_path: Path, name: str) -> None:
    assert run.path is not None
    copy = tmp_path / "über: all" / name
    shutil.copytree(run.path, copy)
    assert dlfb_lab.open_run(copy).history.equals(run.history)
    same(dlfb_lab.restore(copy, into=run.params), run.params)
    same(dlfb_lab.restore(f"{copy}@20"), dlfb_lab.restore(f"{run.path}@20"))
    longer = dlfb_lab.train(Noisy(), (X, Y), store=tmp_path, resume=str(copy), **{**OPTIONS, "steps": 40})
    assert longer.record.step == 40


# --- another number of devices

DEVICES = """
import json, sys
import jax, numpy as np
import dlfb_lab
from dlfb_lab.engine import saving
from tests.torture import Noisy, X, Y
store, devices, resume = sys.argv[1], int(sys.argv[2]), sys.argv[3] or None
assert len(jax.devices()) == int(sys.argv[4])
options = dict(valid=0.2, steps=20, batch_size=16, lr=0.05, checkpoint="every=10,keep=9")
run = dlfb_lab.train(Noisy(), (X, Y), store=store, devices=devices, resume=resume, **options)
assert saving.wait(60)
early = dlfb_lab.restore(f"{resume or run.path}@10", into=run.params)
notices = [n.text for n in run.record.notices]
flat = [np.asarray(a).tolist() for a in jax.tree.leaves(early)]
print(json.dumps([str(run.path), flat, notices, run.record.losses()[0].tolist()]))
"""


def on_devices(store: Path, there: int, used: int, resume: str = "") -> Any:
    environment = {
        **os.environ,
        **{"XLA_FLAGS": f"--xla_force_host_platform_device_count={there}", "JAX_PLATFORMS": "cpu"},
        "PYTHONPATH": os.getcwd(),
    }
    command = [sys.executable, "-c", DEVICES, str(store), str(used), resume, str(there)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_saved_on_four_devices_and_restored_on_one_and_the_other_way(tmp_path: Path) -> None:
    for first, second in ((4, 1), (1, 4)):
        path, early, _, _ = on_devices(tmp_path, first, first)
        again, same_early, notices, steps = on_devices(tmp_path, second, second, path)
        assert again != path and same_early == early
        assert any(f"devices {second} (it was {first})" in text for text in notices), notices
        assert steps == [], "it begins where the other has ended"
        here = dlfb_lab.restore(f"{path}@10")
        assert [np.asarray(a).tolist() for a in jax.tree.leaves(here)] == early
    assert journal.list_runs(tmp_path)


# --- all members at once


@pytest.mark.parametrize("rates", ["0.001,0.3", "0.01,5,0.05"], ids=["best and last", "diverged"])
def test_all_members_are_what_each_of_them_is(rates: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from safetensors.numpy import load_file

    from dlfb_lab.engine import saved

    options = {"optimizer": "sgd", "lr": None, "sweep": f"lr={rates}", "early_stop": "loss:50", "steps": 200}
    run = trained(tmp_path, Noisy(), **options)
    every = saved.selected(run, None, "restore", member="all")
    assert {source.which for source in every.sources} == {"now", "best"}
    together = dlfb_lab.restore(run, member="all")
    path = dlfb_lab.export(run, tmp_path / "all.safetensors", member="all")
    steps = sorted(source.step for source in every.sources)
    assert f"steps {steps[0]} to {steps[-1]}, where valid/loss was best;" in capsys.readouterr().out
    exported = load_file(path)
    not_finite: set[str] = set()
    for i in range(len(run.members)):
        one = dlfb_lab.restore(run, member=i)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(one))
        same(jax.tree.map(lambda array, i=i: array[i], together), one)
        for name in ("Dense_0/kernel", "Dense_1/bias"):
            layer, _, leaf = name.partition("/")
            np.testing.assert_array_equal(exported[name][i], one[layer][leaf])
        selection = saved.selected(run, None, "restore", member=i)
        not_finite |= set(selection.not_finite)
        assert every.shapes == {
            name: ((len(run.members), *shape), dtype) for name, (shape, dtype) in selection.shapes.items()
        }
    assert set(every.not_finite) == not_finite and bool(not_finite) == ("5" in rates.split(","))
