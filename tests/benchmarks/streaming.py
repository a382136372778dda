"""Training on a generator that is slower than the device: the whole call over the generator's own time.

Two generators: one waits, as for a disk or a network; one computes in Python, as a parser of text does, and so
competes for the interpreter's lock and for the cores. Both are trained on by a hand-written loop too: launching a step
takes the processor from a generator that computes, whoever launches it.

The processor's speed changes from one second to the next by more than what is looked for, so each ratio is the median
of those of the turns.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import numpy as np
from processes import Kernel
from turns import in_turn

BATCHES, ROWS, FEATURES = 1000, 256, 64
WAIT_S = 0.01
MOST = 1.05

Batch = tuple[np.ndarray, np.ndarray]

SETUP = """
import tempfile
import dlfb_lab, streaming
from peers.network import MLP
from timing import timed
streaming_store = tempfile.TemporaryDirectory(prefix="dlfb-bench-")
def alone(kind):
    return lambda batches: streaming.alone(kind, batches)
def by_hand(kind):
    step, state = streaming.hand_written(MLP((64,), 2))
    return lambda batches: streaming.loop(kind, batches, step, state)
def trained(kind):
    def train(batches):
        run = dlfb_lab.train(
            MLP((64,), 2), streaming.KINDS[kind](batches), task="binary", steps=batches, store=streaming_store.name
        )
        return {"steps": run.record.step, "plans": [e.plan for e in run.record.events if e.kind == "plan_chosen"]}
    return train
"""


def waiting(batches: int) -> Iterator[Batch]:
    """Yields batches, 10 ms after one another."""
    x, y = _rows()
    for _ in range(batches):
        time.sleep(WAIT_S)
        yield x, y


def parsing(batches: int) -> Iterator[Batch]:
    """Yields batches that it reads from text."""
    x, y = _rows()
    text = [json.dumps([int(label), *map(float, row)]) for row, label in zip(x, y, strict=True)]
    for _ in range(batches):
        table = np.asarray([json.loads(line) for line in text], np.float32)
        yield table[:, 1:], table[:, 0].astype(np.int32)


TIMED = (
    ("alone", "waiting"),
    ("by_hand", "waiting"),
    ("trained", "waiting"),
    ("alone", "parsing"),
    ("by_hand", "parsing"),
    ("trained", "parsing"),
)

KINDS: dict[str, Callable[[int], Iterator[Batch]]] = {"waiting": waiting, "parsing": parsing}


def alone(kind: str, batches: int) -> dict[str, Any]:
    """Runs a generator to its end, and does nothing with what it yields."""
    return {"steps": sum(1 for _ in KINDS[kind](batches))}


def hand_written(model: Any) -> tuple[Any, Any]:
    """Returns a jitted step that has its state donated, and what makes a state."""
    import jax
    import optax

    adam = optax.adam(1e-3)

    def step(state: Any, x: Any, y: Any) -> tuple[Any, Any]:
        params, opt_state = state

        def mean_loss(params: Any) -> Any:
            return optax.softmax_cross_entropy_with_integer_labels(model.apply(params, x), y).mean()

        loss, gradients = jax.value_and_grad(mean_loss)(params)
        updates, opt_state = adam.update(gradients, opt_state)
        return (optax.apply_updates(params, updates), opt_state), loss

    @jax.jit
    def state() -> Any:
        params = model.init(jax.random.key(0), _rows()[0])
        return params, adam.init(params)

    return jax.jit(step, donate_argnums=0), state


def loop(kind: str, batches: int, step: Any, make_state: Any) -> dict[str, Any]:
    """Trains with a hand-written step, and fetches the losses at the end."""
    import jax

    state, losses = make_state(), []
    for x, y in KINDS[kind](batches):
        state, loss = step(state, x, y)
        losses.append(loss)
    return {"steps": len(jax.device_get(losses))}


def _rows() -> Batch:
    x = np.random.default_rng(0).standard_normal((ROWS, FEATURES), dtype=np.float32)
    return x, (x[:, 0] * x[:, 1] > 0).astype(np.int32)


def measure(repeats: int) -> dict[str, Any]:
    """Runs each generator alone and under training, in turn, after a short training that compiles."""
    kernel = Kernel()
    try:
        kernel.run(SETUP)

        def call(how: str, kind: str, batches: int = BATCHES) -> Any:
            return kernel.run(f"_said = timed({how}({kind!r}), {batches})", "_said").value

        for how, kind in TIMED:
            call(how, kind, 20)
        runs = in_turn(
            {f"{how} {kind}": lambda how=how, kind=kind: call(how, kind) for how, kind in TIMED},
            repeats,
        )
    finally:
        kernel.close()
    seconds = {name: [run["seconds"] for run in said] for name, said in runs.items()}

    def ratio(kind: str, other: str) -> float:
        return median(a / b for a, b in zip(seconds[f"trained {kind}"], seconds[f"{other} {kind}"], strict=True))

    return {
        "batches": BATCHES,
        "runs": runs,
        "median_s": {name: median(each) for name, each in seconds.items()},
        "trained_over_alone": {kind: ratio(kind, "alone") for kind in KINDS},
        "trained_over_by_hand": {kind: ratio(kind, "by_hand") for kind in KINDS},
        "at_most": MOST,
    }


def lines(result: dict[str, Any]) -> list[str]:
    """Returns the result as text."""
    seconds, by_hand = result["median_s"], result["trained_over_by_hand"]
    return [
        f"a generator {kind}: alone {seconds[f'alone {kind}']:.3f} s, trained on {seconds[f'trained {kind}']:.3f} s: "
        f"{ratio:.3f} (target at most {MOST}); a hand-written loop {seconds[f'by_hand {kind}']:.3f} s: "
        f"{by_hand[kind]:.3f} of it"
        for kind, ratio in result["trained_over_alone"].items()
    ]
