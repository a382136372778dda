"""The memory that training takes beside the data it was given: they should be on the device once.

    python tests/benchmarks/memory.py      answers in JSON, in a process of its own

Allowed are the data, the state, and the temporaries of one step, as XLA states them for a step written by hand. What is
there at most is seen by two witnesses; the worse one counts:

- the device: where its allocator counts, its peak. Else the bytes of all live JAX arrays, looked at all the time from a
  thread, and the temporaries of the largest program that was compiled.
- where the device is the processor, the process: by how much its resident memory rose at most above what it was before
  training, with programs compiled and the data, as NumPy arrays, there. It also shows copies on the host.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROWS, FEATURES, HIDDEN, CLASSES, BATCH, STEPS = 1_000_000, 100, (256, 256), 10, 128, 400
MOST = 1.15


def measure(repeats: int) -> dict[str, Any]:
    """Trains on 400 MB in a process of its own; once, since bytes do not vary as times do."""
    answer = subprocess.run([sys.executable, __file__], capture_output=True, text=True, check=True)
    said: dict[str, Any] = json.loads(answer.stdout.splitlines()[-1])
    allowed = sum(said["allowed_bytes"].values())
    ratios = {name: count / allowed for name, count in said["peak_bytes"].items()}
    return {**said, "peak_over_allowed": ratios, "worst": max(ratios.values()), "at_most": MOST}


def lines(result: dict[str, Any]) -> list[str]:
    """Returns the result as text."""
    parts = ", ".join(f"{name} {count / 1e6:.1f} MB" for name, count in result["allowed_bytes"].items())
    return [f"allowed: {parts}"] + [
        f"peak by the {name}: {count / 1e6:.1f} MB, {result['peak_over_allowed'][name]:.3f} of that (at most {MOST})"
        for name, count in result["peak_bytes"].items()
    ]


def _answer() -> dict[str, Any]:
    import jax
    import numpy as np
    import optax
    from peers.network import MLP

    import dlfb_lab
    from dlfb_lab.engine import saving

    device = jax.local_devices()[0]
    x = np.random.default_rng(0).standard_normal((ROWS, FEATURES), dtype=np.float32)
    y = (np.arange(ROWS) % CLASSES).astype(np.int32)
    model, adam = MLP(HIDDEN, CLASSES), optax.adam(1e-3)

    with tempfile.TemporaryDirectory(prefix="dlfb-bench-") as store, _temporaries() as compiled:

        def train() -> list[str]:
            run = dlfb_lab.train(model, (x, y), steps=STEPS, batch_size=BATCH, optimizer="adam", lr=1e-3, store=store)
            return [e.plan for e in run.record.events if e.kind == "plan_chosen"]

        # A first run, so that what compiling takes is not taken for training's.
        train()
        saving.wait()
        gc.collect()
        before = _resident(reset=True)
        with _live() as live:
            plans = train()
        after = _resident()
        saving.wait()

    def step(params: Any, opt_state: Any, x: Any, y: Any) -> Any:
        def loss(params: Any) -> Any:
            return optax.softmax_cross_entropy_with_integer_labels(model.apply({"params": params}, x), y).mean()

        value, gradients = jax.value_and_grad(loss)(params)
        updates, opt_state = adam.update(gradients, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, value

    params = model.init(jax.random.key(0), x[:1])["params"]
    state = params, adam.init(params)
    by_hand = jax.jit(step, donate_argnums=(0, 1)).lower(*state, x[:BATCH], y[:BATCH]).compile()
    counted = device.memory_stats() or {}
    peaks = {"device": counted.get("peak_bytes_in_use") or live["bytes"] + max(compiled)}
    if device.platform == "cpu" and before is not None and after is not None:
        peaks["process"] = after["peak"] - before["now"]
    return {
        "device": device.platform,
        "plans": plans,
        "allowed_bytes": {
            "data": x.nbytes + y.nbytes,
            "state": sum(leaf.nbytes for leaf in jax.tree.leaves(state)),
            "temporaries": by_hand.memory_analysis().temp_size_in_bytes,
        },
        "peak_bytes": peaks,
        "live_array_bytes": live["bytes"],
        "looks": live["looks"],
        "program_temporaries_bytes": sorted(compiled, reverse=True)[:3],
        "counted_by": "allocator" if counted.get("peak_bytes_in_use") else "live arrays",
    }


@contextmanager
def _temporaries() -> Iterator[list[int]]:
    """Notes the temporaries of every program that is compiled ahead of time."""
    from jax.stages import Lowered

    found: list[int] = []
    usual = Lowered.compile

    def compile(self: Any, *arguments: Any, **options: Any) -> Any:
        program = usual(self, *arguments, **options)
        found.append(program.memory_analysis().temp_size_in_bytes)
        return program

    Lowered.compile = compile
    try:
        yield found
    finally:
        Lowered.compile = usual


@contextmanager
def _live() -> Iterator[dict[str, int]]:
    """Looks from a thread at the bytes of all live arrays; a buffer that two arrays share counts once."""
    import jax

    most, over = {"bytes": 0, "looks": 0}, threading.Event()

    def look() -> None:
        while not over.is_set():
            buffers = {}
            for array in jax.live_arrays():
                try:
                    buffers[array.unsafe_buffer_pointer()] = array.nbytes
                except (RuntimeError, ValueError):  # deleted in the meantime
                    continue
            most["bytes"] = max(most["bytes"], sum(buffers.values()))
            most["looks"] += 1
            time.sleep(0.001)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield most
    finally:
        over.set()
        thread.join()


def _resident(reset: bool = False) -> dict[str, int] | None:
    """Returns this process's resident memory, now and at most, in bytes; None where the system does not tell."""
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        pairs = (line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
        values = {name: value for name, value in pairs}
        return {name: 1024 * int(values[key].split()[0]) for name, key in (("now", "VmRSS"), ("peak", "VmHWM"))}
    except OSError:
        return None


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    print(json.dumps(_answer()), file=answers, flush=True)
