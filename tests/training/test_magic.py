"""What the magic makes of a line reaches the engine as it was meant."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.io import capture_output
from traitlets.config import Config

from dlfb_lab.errors import DlfbLabError

SETUP = """
import numpy as np, jax, jax.numpy as jnp, flax.linen as nn, optax
from flax.training.train_state import TrainState
rng = np.random.default_rng(0)
x = rng.normal(size=(40, 3)).astype("float32")
kind = np.where(x[:, 0] > 0.8, "rare", "common")
y = x[:, 0]
class Net(nn.Module):
    outputs: int = 1
    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.outputs)(x)
model, two = Net(), Net(2)
state = TrainState.create(apply_fn=model.apply, params=model.init(jax.random.key(0), x)["params"], tx=optax.sgd(0.1))
def train_step(state, batch, scale=1.0):
    x, y = batch
    def squared(p):
        return scale * ((state.apply_fn({"params": p}, x)[:, 0] - y) ** 2).mean()
    loss, g = jax.value_and_grad(squared)(state.params)
    return state.apply_gradients(grads=g), (loss, {"scale": scale})
def eval_step(state, batch):
    x, y = batch
    return {"loss": ((state.apply_fn({"params": state.params}, x)[:, 0] - y) ** 2).mean(), "hits@20": (y > 0).mean()}
patience = 4
patient = np.repeat(np.arange(8), 5)
batches = [(x[i:i + 10], y[i:i + 10]) for i in range(0, 40, 10)]
def factory(key):
    yield from batches
"""


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InteractiveShell]:
    config = Config({"HistoryManager": {"enabled": False}})
    shell = InteractiveShell.instance(config=config, ipython_dir=str(tmp_path_factory.mktemp("ipython")))
    shell.run_line_magic("load_ext", "dlfb_lab")
    assert shell.run_cell(SETUP, store_history=False).success
    yield shell
    InteractiveShell.clear_instance()


def trained(shell: InteractiveShell, line: str) -> Any:
    with capture_output() as said:
        result = shell.run_cell(f"run = %dlfb_train {line}", store_history=False)
    assert result.success, said.stdout + said.stderr
    return shell.user_ns["run"]


@pytest.mark.parametrize(
    "line",
    [
        "(x, y) --step train_step --state state",
        "(x, y) --step=train_step --state=state --args dict(scale=2.0)",
        "--step train_step --state state (x, y)",
        "batches --step train_step --state state",
        "factory --step train_step --state state",
        "(x, y) --step train_step --eval-step eval_step --state state --valid 0.25 --early-stop hits@20:3",
        "(x, y) --step train_step --eval-step eval_step --state state --valid (x,y) --eval-batch-size full",
        "(x, y) --step train_step --eval-step eval_step --state state --valid 0.25 --groups patient",
    ],
)
def test_steps_of_ones_own(shell: InteractiveShell, line: str) -> None:
    run = trained(shell, f"{line} --epochs 2")
    assert run.status == "finished"
    assert run.record.started.model == "train_step"
    assert {"train/loss", "train/scale"} <= set(run.history)
    assert ("valid/hits@20" in run.history) == ("--valid" in line)


def settings(run: Any) -> Any:
    return run.record.started.settings


def test_early_stopping(shell: InteractiveShell) -> None:
    for text in ("auc:3", "auc:{patience}", "'auc:3'"):
        run = trained(shell, f"two (x, kind) --valid 0.3 --epochs 1 --early-stop {text.format(patience=3)}")
        assert run.record.started.monitor == "valid/auc"
        assert settings(run)["early_stop"] == "auc:3"
    run = trained(shell, "two (x, kind) --valid 0.3 --epochs 1 --early-stop (f'auc:{patience}')")
    assert settings(run)["early_stop"] == "auc:4"


def test_rates(shell: InteractiveShell) -> None:
    run = trained(shell, "model (x, y) --lr find --epochs 1")
    assert settings(run)["lr"] == "find"
    assert run.record.rate_tests
    run = trained(shell, "model (x, y) --lr optax.linear_schedule(0.1,0,10) --epochs 1")
    assert settings(run)["lr"] == "given schedule"
    run = trained(shell, "model (x, y) --lr 1e-2 --schedule cosine --warmup 0.5 --epochs 2")
    assert (settings(run)["lr"], settings(run)["schedule"]) == (0.01, "cosine")
    shell.user_ns["find"] = 0.5
    assert settings(trained(shell, "model (x, y) --lr find --epochs 1"))["lr"] == "find", "whatever a variable holds"
    del shell.user_ns["find"]


def test_weights_of_classes(shell: InteractiveShell) -> None:
    for text in ("balanced", "{'common':1,'rare':4}", "[1,4]"):
        run = trained(shell, f"two (x, kind) --class-weights {text} --epochs 1")
        assert settings(run)["class_weights"] in ("balanced", "given")


@pytest.mark.parametrize(
    ("line", "members"),
    [
        ("--sweep lr=1e-3,1e-2", ["lr 0.001", "lr 0.01"]),
        ("--sweep=lr=1e-3,1e-2", ["lr 0.001", "lr 0.01"]),
        ("--sweep 'lr=1e-3, 1e-2'", ["lr 0.001", "lr 0.01"]),
        ("--seeds 2", ["seed 0", "seed 1"]),
        ("--seeds 2 --seed 5", ["seed 5", "seed 6"]),
    ],
)
def test_members(shell: InteractiveShell, line: str, members: list[str]) -> None:
    run = trained(shell, f"model (x, y) --epochs 1 --valid 0.2 {line}")
    assert run.record.members == members
    assert "members" not in settings(run)


def test_sweeps_one_after_another(shell: InteractiveShell) -> None:
    run = trained(shell, "model (x, y) --epochs 1 --valid 0.2 --sweep batch-size=8,full --name sizes")
    assert [r.name for r in run.sweep] == ["sizes batch_size 8", "sizes batch_size full"]
    assert all(r.record.started.source.startswith("%dlfb_train model (x, y)") for r in run.sweep)


def test_the_other_options(shell: InteractiveShell) -> None:
    run = trained(
        shell,
        "model (x, y) --epochs 2 --freeze Dense_0/bias --weight-decay 0.1 --decay-mask weights --clip 1 --accumulate 2 "
        "--precision f32 --remat --plan step --devices all --timebox 10m --init-from state.params --metrics r2,mae",
    )
    found = settings(run)
    assert (found["freeze"], found["weight_decay"], found["clip"], found["accumulate"]) == ("Dense_0/bias", 0.1, 1.0, 2)
    assert (found["precision"], found["remat"], found["plan"], found["timebox"]) == ("f32", True, "step", "10m")
    assert np.array_equal(run.params["Dense_0"]["bias"], np.zeros(1))
    for patterns in ("'*/bias'", "*bias,", "(['*bias'])"):
        run = trained(shell, f"model (x, y) --epochs 1 --freeze {patterns} --weight-decay 0.1 --decay-mask */kernel")
        assert np.array_equal(run.params["Dense_0"]["bias"], np.zeros(1))
    run = trained(shell, "nn.Dense(3) x --task reconstruction --epochs 1 --valid 0.2")
    assert run.record.started.task == "reconstruction"
    run = trained(shell, "model batches --epochs 1 --valid (x,y)")
    assert run.record.step == 4


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--step train_step --state state", "With a step of your own the data stand alone; found 0 expressions: none."),
        ("model (x, y) --step train_step --state state", "the data stand alone; found 2 expressions: model, (x, y)"),
        ("model (x, y) --state state", "--state goes with --step"),
        ("(x, y) --step train_step", "state"),
        ("(x, y) --step trainstep --state state", "The name `trainstep` does not exist. Did you mean `train_step`?"),
        ("model (x, y) --early-stop", "--early-stop needs a value: --early-stop METRIC:PATIENCE"),
        ("model (x, y) --early-stop r2:3", "Say --valid 0.2"),
        ("two (x, kind) --class-weights balanecd", "balanecd"),
        ("model (x, y) --class-weights balanced", "--class-weights"),
        ("model (x, y) --sweep lr=1e-3", "one value only"),
        ("model (x, y) --sweep lr=1e-3 1e-2", "found 3: model, (x, y), 1e-2"),
        ("model (x, y) --schedule cosin", "Did you mean `cosine`?"),
        ("model (x, y) --devices 99", "--devices 99"),
        ("model (x, y) --plan fuse", "--plan fuse: there are auto, fused, step."),
        ("model (x, y) --precision half", "--precision half: there is no such precision."),
        ("model batches --valid 0.2", "which cannot be divided"),
        ("model x", "--task reconstruction"),
    ],
)
def test_a_mistake_is_one_short_message(shell: InteractiveShell, line: str, said: str) -> None:
    with capture_output() as captured:
        result = shell.run_cell(f"%dlfb_train {line} --epochs 1", store_history=False)
    printed = captured.stdout + captured.stderr
    assert isinstance(result.error_in_exec, DlfbLabError)
    assert said in printed
    assert "Traceback" not in printed
    assert len(printed.strip().splitlines()) == 1
    assert len(printed) < 420
