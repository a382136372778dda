"""The toy regression as a notebook cell: from sending the cell to hearing that the kernel is idle."""

from __future__ import annotations

import tempfile
from statistics import median
from typing import Any

from processes import Kernel, Reply

TARGET_S = 0.3

IMPORTS = """
%load_ext dlfb_lab
import jax, optax
import flax.linen as nn
from flax.training.train_state import TrainState

class Line(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(1)(x)
"""
DATA_AND_STATE = """
rng, data, noise = jax.random.split(jax.random.PRNGKey(42), 3)
x = jax.random.uniform(data, (100, 1))
y = 2 * x + 1 + 0.1 * jax.random.normal(noise, (100, 1))
model = Line()
params = model.init(jax.random.PRNGKey(42), jax.numpy.ones([1, 1]))["params"]
state = TrainState.create(apply_fn=model.apply, params=params, tx=optax.adam(1.0))
"""
FACTS = "[[float(v) for v in run.history['train/loss'][::10]], run.dashboard is not None, len(run.record.compilations)]"


def measure(repeats: int) -> dict[str, Any]:
    """Runs the cell once in a new kernel, then `repeats` times more; then with the state made anew in the cell."""
    with tempfile.TemporaryDirectory(prefix="dlfb-bench-") as store:
        # Shown as well as kept: what a cell that ends in a run has to do.
        train = f"run = %dlfb_train state (x, y) --batch-size full --epochs 150 --store {store}\nrun"
        kernel = Kernel()
        try:
            kernel.run(IMPORTS)
            kernel.run(DATA_AND_STATE)
            replies = [_timed(kernel, train) for _ in range(repeats + 1)]
            anew = [_timed(kernel, DATA_AND_STATE + train) for _ in range(repeats)]
        finally:
            kernel.close()
    again = [r.seconds for r in replies[1:]]
    losses, view, compilations = replies[-1].value
    return {
        "losses_every_10_epochs": [round(v, 4) for v in losses],
        "view_is_on": view,
        "compilations": {
            "first": replies[0].value[2],
            "again": compilations,
            "state_made_anew": anew[-1].value[2],
        },
        "messages": replies[-1].messages,
        "message_bytes": replies[-1].message_bytes,
        "first_s": replies[0].seconds,
        "second_s": again[0],
        "again_s": again,
        "again_median_s": median(again),
        "state_made_anew_s": [r.seconds for r in anew],
        "state_made_anew_median_s": median(r.seconds for r in anew),
        "target_s": TARGET_S,
    }


def _timed(kernel: Kernel, cell: str) -> Reply:
    """Runs a cell; the facts are asked for afterwards, so that they cost it nothing."""
    reply = kernel.run(cell)
    reply.value = kernel.run("from dlfb_lab.engine import saving; saving.wait()", FACTS).value
    return reply


def lines(result: dict[str, Any]) -> list[str]:
    """Returns the result as text."""
    anew = result["state_made_anew_median_s"]
    return [
        f"first time                        {result['first_s']:7.3f} s, {result['compilations']['first']} compilations",
        f"second time                       {result['second_s']:7.3f} s (target {TARGET_S} s)",
        f"later times, median               {result['again_median_s']:7.3f} s, "
        f"{result['compilations']['again']} compilations",
        f"state and optimizer made anew     {anew:7.3f} s, {result['compilations']['state_made_anew']} compilations",
        f"live view: {'on' if result['view_is_on'] else 'OFF'}; losses {result['losses_every_10_epochs']}",
    ]
