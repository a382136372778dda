"""Kills training again and again, at random moments, and goes on with it: is anything lost, or different?

python tests/torture.py            a hundred times; the result is kept in tests/torture.json
python tests/torture.py --kills 10 --seed 3
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import pandas as pd

import dlfb_lab
from dlfb_lab import journal
from dlfb_lab.checkpoints import folder
from dlfb_lab.engine import saving
from dlfb_lab.errors import StoreError
from dlfb_lab.record import Record

HERE = Path(__file__).parent
INTERVAL = 500
LONGEST_S = 300

RNG = np.random.default_rng(0)
X = RNG.normal(size=(100, 4)).astype(np.float32)
Y = (X @ [1.0, -2.0, 0.5, 0.0] + 0.1 * RNG.normal(size=100)).astype(np.float32)
OPTIONS: dict[str, Any] = {
    **{"valid": 0.2, "steps": 60_000, "eval_every": 5_000, "batch_size": 16, "lr": 1e-4, "plan": "fused"},
    **{"checkpoint": f"every={INTERVAL},keep=2", "name": "killed"},
}


class Noisy(nn.Module):
    """A network with dropout."""

    width: int = 6

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        x = nn.relu(nn.Dense(self.width)(x))
        return nn.Dense(1)(nn.Dropout(0.3, deterministic=not train)(x))


@dataclass
class Found:
    """What came of it.

    Attributes:
        kills: processes that were killed while they trained.
        while_saving: of these, how many left a checkpoint unfinished.
        runs: that were begun anew, since there was no checkpoint yet.
        finished: runs that came to their end.
        identical: of these, how many have the losses and scores of an undisturbed run, bit by bit.
        repeated: for each kill the steps that were known before it and had to be trained again.
    """

    kills: int = 0
    while_saving: int = 0
    runs: int = 0
    finished: int = 0
    identical: int = 0
    repeated: list[int] = field(default_factory=list)


def torture(store: Path, kills: int, seed: int) -> Found:
    """Kills training at random moments, goes on with it, and compares what it comes to with an undisturbed run."""
    rng = np.random.default_rng(seed)
    found, resume = Found(), ""
    whole = dlfb_lab.train(Noisy(), (X, Y), store=store / "whole", **{**OPTIONS, "checkpoint": "off"}).history
    while found.kills < kills or resume or not found.finished:
        found.runs += not resume
        command = [sys.executable, str(HERE / "torture.py"), "--child", str(store / "killed"), resume]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "ready"
        if found.kills < kills:
            # One of four may come before training has begun.
            if found.kills % 4:
                _await_progress(store / "killed", process)
            try:
                process.wait(rng.uniform(0.0, 2.0))
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
        process.stdout.close()
        code = process.wait(LONGEST_S)
        if code not in (0, -signal.SIGKILL):
            raise RuntimeError(f"the process ended with {code}")
        found.kills += code != 0
        resume = _look(store / "killed", found, whole, code == 0)
    return found


def _await_progress(store: Path, process: subprocess.Popen[str]) -> None:
    """Waits until the process has trained for a while, or is over."""
    deadline_s = time.monotonic() + LONGEST_S
    path, step = _latest(store) or (None, 0)
    while process.poll() is None and time.monotonic() < deadline_s:
        now = _latest(store)
        if now is not None:
            # It is another run, or goes on from its checkpoint.
            step = min(step, now[1]) if now[0] == path else 0
            path = now[0]
            if now[1] > step + INTERVAL:
                return
        time.sleep(0.05)


def _latest(store: Path) -> tuple[Path, int] | None:
    """Returns the folder of the latest run and its step."""
    paths = sorted(journal.list_runs(store), key=lambda run: run[1].time_s)
    if not paths:
        return None
    with contextlib.suppress(StoreError):
        return paths[-1][0], Record(journal.read(paths[-1][0])).step
    return None


def _look(store: Path, found: Found, whole: pd.DataFrame, ended: bool) -> str:
    """Looks at the run that is trained just now; returns its name if it is to go on."""
    paths = sorted(journal.list_runs(store), key=lambda run: run[1].time_s)
    if not paths:
        return ""
    path = paths[-1][0]
    if ended:
        found.finished += 1
        found.identical += dlfb_lab.open_run(path.name, store).history.equals(whole)
        return ""
    listed = folder.listed(path)
    found.while_saving += any(checkpoint.state == "partial" for checkpoint in listed)
    wrong = [checkpoint for checkpoint in listed if checkpoint.state not in ("complete", "partial")]
    usable = [checkpoint for checkpoint in listed if checkpoint.usable]
    wrong += [checkpoint for checkpoint in usable if not folder.verify(checkpoint).usable]
    if wrong:
        raise RuntimeError(f"a checkpoint is damaged: {wrong[0]}")
    if not usable:
        return ""
    found.repeated.append(max(0, Record(journal.read(path)).step - usable[-1].step))
    return path.name


def child(store: str, resume: str) -> None:
    """Trains in the process that is killed."""
    import orbax.checkpoint  # which takes seconds, so that the first checkpoint would come late

    assert orbax.checkpoint is not None
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    dlfb_lab.train(Noisy(), (X, Y), store=store, **OPTIONS, **({"resume": resume} if resume else {}))
    saving.wait()


def main() -> None:
    """Runs what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", nargs=2, metavar=("STORE", "RUN"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        child(*asked.child)
        return
    sys.path.insert(0, str(HERE / "benchmarks"))
    import machine

    with tempfile.TemporaryDirectory(prefix="dlfb-torture-") as store:
        found = torture(Path(store), asked.kills, asked.seed)
    said = {**machine.describe(), "seed": asked.seed, "interval": INTERVAL, **asdict(found)}
    (HERE / "torture.json").write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")
    most = max(found.repeated, default=0)
    sys.stdout.write(
        f"{found.kills} kills, {found.while_saving} of them while saving; {found.runs} runs begun, {found.finished} "
        f"finished, {found.identical} of them as if undisturbed; at most {most} steps trained again "
        f"(a checkpoint every {INTERVAL}).\n"
    )


if __name__ == "__main__":
    main()
