"""Predicting with a run that another kernel trained: the same numbers bit by bit, or a sentence on what to do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest
from flax import nnx
from flax.training.train_state import TrainState

import dlfb_lab
from dlfb_lab import journal
from dlfb_lab.engine import saving
from dlfb_lab.errors import ModelError, OptionError, StoreError
from dlfb_lab.models import recipe
from dlfb_lab.run import Run
from tests.torture import Noisy, X, Y
from tests.training.test_restore import Normed, NormedNnx, batch_norm_state

KINDS = np.array(["a", "b", "c"])[(Y > 0).astype(int) + (Y > 1)]
OPTIONS: dict[str, Any] = {
    **{"valid": 0.2, "steps": 30, "eval_every": 10, "batch_size": 16},
    "checkpoint": "every=10,keep=9",
}


def trained(store: Path, model: Any, data: Any = (X, Y), **options: Any) -> Run:
    run = dlfb_lab.train(model, data, store=store, **{**OPTIONS, **options})
    assert saving.wait(60)
    return run


def same(run: Run, again: Run, x: Any = X) -> None:
    np.testing.assert_array_equal(run.predict(x), again.predict(x))
    for one, other in ((run.params, again.params), (run.extra, again.extra)):
        jax.tree.map(np.testing.assert_array_equal, one, other)
    states = jax.tree.leaves(run.state), jax.tree.leaves(again.state)
    assert type(run.state) is type(again.state)
    for one, other in zip(*states, strict=True):
        np.testing.assert_array_equal(one, other)


class Wide(nn.Module):
    """A network with fields of several kinds."""

    widths: tuple[int, ...] = (4,)
    act: Any = nn.relu
    scale: float = 1.0
    out: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for width in self.widths:
            x = self.act(nn.Dense(width)(x))
        return self.scale * nn.Dense(self.out)(x)


@pytest.mark.parametrize(
    ("model", "data", "options"),
    [
        (Noisy(), (X, Y), {"early_stop": "loss:2", "lr": 0.3, "steps": 300}),
        (Wide((5, 6), out=3), (X, KINDS), {"scale": True, "schedule": "cosine", "weight_decay": 0.1, "clip": 1.0}),
        (Normed(), (X, (Y > 0).astype(int)), {"metrics": "auc,f1", "precision": "bf16"}),
        (Wide(out=2), (X, np.stack([Y > 0, Y > 1], 1).astype(int)), {"loss": "binary_crossentropy"}),
        (Wide(out=4), X, {"task": "reconstruction", "scale": True, "freeze": "Dense_0"}),
        (Wide(), lambda: ((X[i : i + 16], Y[i : i + 16]) for i in range(0, 96, 16)), {"valid": (X[:20], Y[:20])}),
    ],
    ids=["early stop", "classes", "statistics", "labels", "reconstruction", "stream"],
)
def test_a_linen_module_is_made_from_what_was_written_down(
    model: Any, data: Any, options: dict[str, Any], tmp_path: Path
) -> None:
    run = trained(tmp_path, model, data, **options)
    again = dlfb_lab.open_run(run.id, tmp_path)
    same(run, again)
    if run.classes:
        np.testing.assert_array_equal(run.predict_proba(X), again.predict_proba(X))
    scored = X if options.get("task") else data if isinstance(data, tuple) else (X, Y)
    before = run.evaluate(scored)
    assert again.evaluate(scored) == before
    assert dlfb_lab.open_run(run.id, tmp_path).record.evaluations[-1].metrics == before
    with pytest.raises(OptionError, match="rows of the part `valid` were in the kernel that trained"):
        again.evaluate("valid")
    assert (
        next(one for one in dlfb_lab.runs(tmp_path) if one.id == run.id).predict(X).tolist() == run.predict(X).tolist()
    )


def test_a_table_goes_by_its_columns(tmp_path: Path) -> None:
    table = pd.DataFrame(X, columns=list("abcd")).assign(kind=KINDS)
    run = trained(tmp_path, Wide(out=3), table, target="kind", scale=True, seeds=2)
    again = dlfb_lab.open_run(run.id, tmp_path)
    same(run, again, table[["d", "kind", "b", "a", "c"]])
    assert again.evaluate(table) == run.evaluate(table)
    for one, other in zip(run.members, again.members, strict=True):
        np.testing.assert_array_equal(one.predict_proba(X), other.predict_proba(X))
    with pytest.raises(dlfb_lab.DataError, match="no column `b`"):
        again.predict(table[["a"]])


def test_other_models_are_given_again(tmp_path: Path) -> None:
    state = batch_norm_state(0)[0]
    run = trained(tmp_path, state)
    with pytest.raises(
        StoreError, match=r"needs its model, of a TrainState. Make it as for training, and give it: dlfb"
    ):
        dlfb_lab.open_run(run.id, tmp_path).predict(X)
    again = dlfb_lab.open_run(run.id, tmp_path, model=batch_norm_state(5)[0])
    np.testing.assert_array_equal(run.predict(X), again.predict(X))
    assert again.state.step == 30
    with pytest.raises(ModelError, match=r"is of the kind linen; .* trained one of train state"):
        dlfb_lab.open_run(run.id, tmp_path, model=Noisy()).predict(X)

    module = trained(tmp_path, NormedNnx(nnx.Rngs(0)))
    other = NormedNnx(nnx.Rngs(1))
    np.testing.assert_array_equal(module.predict(X), dlfb_lab.open_run(module.id, tmp_path, model=other).predict(X))

    def apply(params: Any, x: jax.Array) -> jax.Array:
        return x @ params["w"]

    function = trained(tmp_path, (apply, {"w": jnp.ones((4, 1))}), optimizer=optax.sgd(0.01, momentum=0.5))
    again = dlfb_lab.open_run(function.id, tmp_path, model=(apply, {"w": jnp.zeros((4, 1))}))
    np.testing.assert_array_equal(function.predict(X), again.predict(X))
    assert set(again.state.opt_state) == {"opt_state/0/trace/w"}, "of an optimizer that is not known, arrays by name"


def test_an_equinox_module_is_given_again(tmp_path: Path) -> None:
    eqx = pytest.importorskip("equinox")
    run = trained(tmp_path, eqx.nn.MLP(4, 1, 5, 1, key=jax.random.key(0)))
    again = dlfb_lab.open_run(run.id, tmp_path, model=eqx.nn.MLP(4, 1, 5, 1, key=jax.random.key(1)))
    np.testing.assert_array_equal(run.predict(X), again.predict(X))


def test_a_loss_and_metrics_of_the_users_own(tmp_path: Path) -> None:
    def own_loss(y_true: jax.Array, y_pred: jax.Array) -> jax.Array:
        return jnp.mean(jnp.abs(y_true - y_pred))

    def own_metric(y_true: np.ndarray[Any, Any], y_pred: np.ndarray[Any, Any]) -> float:
        return float(np.abs(y_true - y_pred).max())

    run = trained(tmp_path, Wide(), loss=own_loss, metrics=["mae", own_metric])
    again = dlfb_lab.open_run(run.id, tmp_path)
    same(run, again)
    with pytest.raises(OptionError, match=r"open_run\(…, loss=own_loss, metrics=\[own_metric\]\)"):
        again.evaluate((X, Y))
    again = dlfb_lab.open_run(run.id, tmp_path, loss=own_loss, metrics=["mae", own_metric])
    assert again.evaluate((X, Y)) == run.evaluate((X, Y))


def test_what_a_model_needs_is_said(tmp_path: Path) -> None:
    class Local(nn.Module):
        width: int = 3

        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            return nn.Dense(1)(nn.Dense(self.width)(x))

    run = trained(tmp_path, Local(5))
    with pytest.raises(
        StoreError, match=r"Local`, which is not defined in this kernel.*open_run\('.*', model=Local\(w"
    ):
        dlfb_lab.open_run(run.id, tmp_path).predict(X)
    again = dlfb_lab.open_run(run.id, tmp_path, model=Local(5))
    same(run, again)
    with pytest.raises(
        ModelError, match=r"not the one that .* trained: .*; params/Dense_1/bias has shape \(5,\), not \(3,\)"
    ):
        dlfb_lab.open_run(run.id, tmp_path, model=Local()).predict(X)
    own = trained(tmp_path, Wide(act=lambda x: x))
    with pytest.raises(StoreError, match=r"whose fields were no plain values. .*model=Wide\(…\)"):
        dlfb_lab.open_run(own.id, tmp_path).predict(X)
    assert run.path is not None
    told = journal.read_preparation(run.path)
    for change, said in (
        ({"module": "no.such.module", "qualname": "Net"}, "whose module `no.such.module` cannot be imported"),
        ({"module": "os", "qualname": "system"}, "which is no more in the module `os`"),
        ({"module": "flax.linen", "qualname": "Dense", "fields": {"widht": 3}}, r"Dense\(widht=3\) failed \(TypeError"),
    ):
        journal.write_preparation(run.path, {**told, "model": {**told["model"], **change}})
        with pytest.raises(StoreError, match=said):
            dlfb_lab.open_run(run.id, tmp_path).predict(X)
    (run.path / "preparation.json").write_text("{")
    with pytest.raises(StoreError, match=r"How the data of .* were prepared cannot be read"):
        dlfb_lab.open_run(run.id, tmp_path).predict(X)


def test_a_step_of_the_users_own_has_no_model(tmp_path: Path) -> None:
    def step(state: Any, batch: Any) -> Any:
        return state, jnp.sum(batch[0]) * state

    run = trained(tmp_path, None, (X, Y), step=step, state=jnp.ones(()), valid=None, eval_every=None)
    with pytest.raises(
        StoreError, match=r"step \(own step\), cannot predict from its folder alone.*dlfb_lab.restore\(.*into=…\)"
    ):
        dlfb_lab.open_run(run.id, tmp_path).state  # noqa: B018


def test_a_run_that_was_cut_short_gives_its_latest_checkpoint_and_says_so_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained(tmp_path, Noisy())
    assert run.path is not None
    events = run.path / "events.jsonl"
    lines = [line for line in events.read_text().splitlines() if '"finished"' not in line]
    events.write_text("\n".join(lines) + "\n")
    (run.path / "writer.json").unlink()
    again = dlfb_lab.open_run(run.id, tmp_path)
    capsys.readouterr()
    again.predict(X)
    again.predict(X)
    said = f"{run.id}: this is its latest checkpoint, of step 30; it has not come to its end.\n"
    assert capsys.readouterr().out == said


CHILD = """
import sys
from typing import Callable
import numpy as np
import flax.linen as nn
import jax.numpy as jnp
import dlfb_lab

SCALE = 0.5

def squashed(a):
    return jnp.tanh(SCALE * a)

class Part(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x):
        return squashed(nn.Dense(self.width)(x))

class Net(nn.Module):
    width: int = 4
    act: Callable = None

    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(Part(self.width)(x))

store, out, what, run = sys.argv[1:]
rng = np.random.default_rng(0)
x = rng.normal(size=(60, 4)); y = np.array(["a", "b", "c"])[(x[:, 0] > 0).astype(int) + (x[:, 1] > 0)]
if what == "train":
    found = dlfb_lab.train(Net(7), (x, y), valid=0.2, scale=True, steps=40, store=store, checkpoint="every=10")
else:
    if what == "undefined":
        del Net, Part, squashed, SCALE, nn, jnp, Callable
    found = dlfb_lab.open_run(run, store)
new = rng.normal(size=(33, 4))
try:
    proba = found.predict_proba(new)
except dlfb_lab.StoreError as error:
    print(error)
    sys.exit()
np.savez(out, proba=proba, kernel=found.params["Part_0"]["Dense_0"]["kernel"], said=found.predict(new),
         scores=sorted(found.evaluate((x, y)).items()))
print(found.id)
"""


def in_process(*arguments: object) -> list[str]:
    environment = {**os.environ, "PYTHONPATH": os.getcwd(), "JAX_PLATFORMS": "cpu"}
    script = Path(str(arguments[0])) / "notebook.py"
    script.write_text(CHILD)
    command = [sys.executable, str(script), *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_in_a_fresh_kernel_the_numbers_are_the_same_bit_by_bit(tmp_path: Path) -> None:
    first, second = tmp_path / "first.npz", tmp_path / "second.npz"
    run = in_process(tmp_path, first, "train", "")[-1]
    assert in_process(tmp_path, second, "open", run)[-1] == run
    with np.load(first) as one, np.load(second) as other:
        for name in one.files:
            np.testing.assert_array_equal(one[name], other[name])
    said = in_process(tmp_path, second, "undefined", run)
    assert said == [f"Net was made from its source, which was kept with {run}.", run]
    with np.load(first) as one, np.load(second) as other:
        np.testing.assert_array_equal(one["proba"], other["proba"])
    writer = tmp_path / run / "writer.json"
    writer.write_text(json.dumps({**json.loads(writer.read_text()), "host": "another machine"}))
    said = in_process(tmp_path, second, "undefined", run)
    assert "needs its model `Net`, which is not defined in this kernel. Define it as it was" in said[0]
    assert f"dlfb_lab.open_run('{run}', model=Net(width=7)). It was:" in said[0]
    assert said[2] == "class Net(nn.Module):", "the source of a class of the notebook"
    assert json.loads((tmp_path / run / "preparation.json").read_text())["model"]["fields"] == {"width": 7}


def test_a_state_of_flax_is_one(tmp_path: Path) -> None:
    state = TrainState.create(
        apply_fn=Noisy().apply, params=Noisy().init(jax.random.key(0), X)["params"], tx=optax.adam(1e-3)
    )
    run = trained(tmp_path, state)
    again = dlfb_lab.open_run(run.id, tmp_path, model=state)
    same(run, again)


@pytest.mark.guests("torch")
def test_a_module_of_pytorch_is_given_again(tmp_path: Path) -> None:
    import torch

    def make() -> Any:
        return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 3))

    table = pd.DataFrame(X, columns=list("abcd")).assign(kind=KINDS)
    run = trained(tmp_path, make(), table, target="kind", scale=True)
    again = dlfb_lab.open_run(run.path, model=make())
    new = table.drop(columns="kind")
    np.testing.assert_array_equal(run.predict(new), again.predict(new))
    assert again.evaluate(table) == pytest.approx(run.evaluate(table), rel=1e-6)
    with pytest.raises(ModelError, match=r"2.weight has shape \(2, 8\)"):
        dlfb_lab.open_run(run.path, model=torch.nn.Sequential(*make()[:2], torch.nn.Linear(8, 2))).predict(new)
    with pytest.raises(ModelError, match="of the kind linen"):
        dlfb_lab.open_run(run.path, model=nn.Dense(3)).predict(new)


CELLS = """
import functools, json, os
import numpy as np
import jax
import flax.linen as nn
from dlfb_lab.models import recipe

def doubled(f):
    @functools.wraps(f)
    def g(x):
        return 2 * f(x)
    return g

@doubled
def act(x):
    return nn.relu(x)

if os.environ.get("UNSET"):
    def act2(x):
        return nn.gelu(x)
else:
    def act2(x):
        return nn.tanh(x)

def act3(x):
    return nn.gelu(x)

def act3(x):
    return x * nn.sigmoid(x)

class Other:
    def act4(self, x):
        return x

@jax.jit
def act4(x):
    return nn.softplus(x)

def act5(x):
    return nn.relu(x)

act5 = doubled(act5)

def net(act):
    class Local(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(1)(act(x))
    return Local

class A(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(1)(act(nn.Dense(8)(x)))

class B(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(1)(act2(nn.Dense(8)(x)))

class C(nn.Module):
    def __call__(self, x):
        return x

class C(nn.Module):
    widths: tuple = (8,)

    @nn.compact
    def __call__(self, x):
        return nn.Dense(1)(act3(nn.Dense(self.widths[0])(x)))

class D(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(1)(act4(nn.Dense(8)(x)))

class Patched(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(1)(act5(nn.Dense(8)(x)))

x = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
told = {}
for model in (A(), B(), C((5,)), D(), Patched(), net(act)()):
    outputs = model.init_with_output(jax.random.key(0), x)[0]
    told[type(model).__name__] = [recipe.described(model, "linen"), outputs.tolist()]
print(json.dumps(told))
"""

AGAIN = """
import json, sys
import jax
import numpy as np
from dlfb_lab.errors import StoreError
from dlfb_lab.models import recipe

x = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
for name, (described, outputs) in json.loads(sys.argv[1]).items():
    try:
        model = recipe.made(described, "a run", True)[0]
        same = model.init_with_output(jax.random.key(0), x)[0].tolist() == outputs
        print(name, "the same" if same else "ANOTHER")
    except StoreError as error:
        print(name, "is to be defined" if "not defined in this kernel" in str(error) else error)
"""


def test_what_is_made_from_its_source_is_what_was_trained_or_is_not_made(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.getcwd(), "JAX_PLATFORMS": "cpu"}
    said: list[str] = []
    for name, code in (("cells.py", CELLS), ("again.py", AGAIN)):
        (tmp_path / name).write_text(code)
        command = [sys.executable, str(tmp_path / name), *said]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        said = done.stdout.splitlines()
    assert "differs from that time" not in "\n".join(said), said
    found = [line for line in said if "was made from" not in line]
    assert found == [
        *(f"{name} the same" for name in "ABCD"),
        *(f"{name} is to be defined" for name in ("Patched", "Local")),
    ], said


def test_of_code_that_differs_it_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    definition = {
        "sources": ["class Remade(nn.Module):\n    pass"],
        "imports": {"nn": ["flax.linen", ""]},
        "values": {},
    }
    told = {"kind": "linen", "module": "__main__", "qualname": "Remade", "fields": {}, "source": ""}
    remade, written = recipe.made({**told, "definition": definition, "code": "0"}, "a run", True)
    assert written and type(remade).__name__ == "Remade"
    assert "What it computes may be another" in capsys.readouterr().out
    recipe.made({**told, "definition": definition, "code": recipe.code_of(remade)}, "a run", True)
    assert capsys.readouterr().out == "Remade was made from its source, which was kept with a run.\n"
