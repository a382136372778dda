"""What saving costs a run of a minute and a toy run, and how long restoring takes beside Orbax alone."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from processes import HERE, Kernel
from turns import in_turn

RUN_S, TOY_EPOCHS = 60.0, 20
TURNS, TOY_TURNS, RESTORE_TURNS = 3, 15, 11
MOST_SHARE, MOST_ADDED_S, MOST_RESTORE, MOST_MEMORY = 0.03, 0.05, 1.3, 1.1
STATE_BYTES, ARRAYS = 768 << 20, 24

SETUP = """
import peers.dlfb
from timing import timed
from workloads import WORKLOADS
mlp_off = peers.dlfb.prepare(WORKLOADS["mlp"], checkpoint="off")
mlp_on = peers.dlfb.prepare(WORKLOADS["mlp"])
toy_off = peers.dlfb.prepare(WORKLOADS["tiny"], checkpoint="off")
toy_on = peers.dlfb.prepare(WORKLOADS["tiny"])
"""


def measure(repeats: int) -> dict[str, Any]:
    """Trains with and without saving in turn, then restores a large state in processes of their own."""
    kernel = Kernel()
    try:
        kernel.run(SETUP)

        def call(name: str, epochs: int) -> Any:
            return kernel.run(f"_said = timed({name}, {epochs})", "_said").value

        for name in ("mlp_on", "mlp_off", "toy_on", "toy_off"):
            call(name, TOY_EPOCHS)
        toy = in_turn({n: lambda n=n: call(n, TOY_EPOCHS) for n in ("toy_on", "toy_off")}, min(repeats * 2, TOY_TURNS))
        tried = call("mlp_off", 200)
        epochs = max(1, round(200 * RUN_S / tried["seconds"]))
        mlp = in_turn({n: lambda n=n: call(n, epochs) for n in ("mlp_on", "mlp_off")}, min(repeats, TURNS))
        kernel.run("peers.dlfb.clean()")
    finally:
        kernel.close()
    seconds = {name: [run["seconds"] for run in said] for name, said in {**toy, **mlp}.items()}
    with tempfile.TemporaryDirectory(prefix="dlfb-bench-") as folder:
        _answer("save", folder)
        restored = in_turn(
            {how: lambda how=how: _answer(how, folder) for how in ("ours", "bare")}, min(repeats + 1, RESTORE_TURNS)
        )
    times = {how: median(said["seconds"] for said in each) for how, each in restored.items()}
    peaks = {how: median(said["peak_bytes"] for said in each) for how, each in restored.items()}
    return {
        "epochs": epochs,
        "seconds": seconds,
        "share": median(run["lost_to_saving_s"] / run["seconds"] for run in mlp["mlp_on"]),
        "share_by_whole_runs": median(on / off - 1 for on, off in zip(*(seconds[n] for n in mlp), strict=True)),
        "toy_added_s": median(seconds["toy_on"]) - median(seconds["toy_off"]),
        "restored": restored,
        "restore_over_bare": times["ours"] / times["bare"],
        "memory_over_bare": peaks["ours"] / peaks["bare"],
    }


def lines(result: dict[str, Any]) -> list[str]:
    """Returns the result as text."""
    return [
        f"saving costs {result['share']:.2%} of a run of {median(result['seconds']['mlp_off']):.0f} s of mlp (at most "
        f"{MOST_SHARE:.0%}; {result['share_by_whole_runs']:.2%} by whole runs with and without), and "
        f"{1000 * result['toy_added_s']:.0f} ms of a toy run (at most {1000 * MOST_ADDED_S:.0f} ms)",
        f"restoring {STATE_BYTES / 2**20:.0f} MiB takes {result['restore_over_bare']:.2f} of Orbax's own time (at most "
        f"{MOST_RESTORE}) and {result['memory_over_bare']:.2f} of its memory (at most {MOST_MEMORY})",
    ]


def _answer(how: str, folder: str) -> dict[str, Any]:
    command = [sys.executable, str(Path(__file__)), how, folder]
    said = subprocess.run(command, capture_output=True, text=True, check=True, cwd=HERE).stdout
    found: dict[str, Any] = json.loads(said.splitlines()[-1])
    return found


def main(how: str, folder: str) -> None:
    """Saves a large state, or restores it in one of two ways; says how long that took, and the most memory."""
    import resource
    import time

    import numpy as np
    import orbax.checkpoint as ocp

    from dlfb_lab.checkpoints import arrays
    from dlfb_lab.checkpoints.folder import listed

    run = Path(folder)
    if how == "save":
        rng = np.random.default_rng(0)
        size = STATE_BYTES // ARRAYS // 4
        arrays.save(run, 1, {f"now/{i}": rng.standard_normal(size, dtype=np.float32) for i in range(ARRAYS)})
        sys.stdout.write("{}\n")
        return
    checkpoint = listed(run)[0]
    start = time.perf_counter()
    if how == "ours":
        found = arrays.restore(checkpoint)
    else:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            found = checkpointer.restore((checkpoint.path / "arrays").absolute())
    seconds = time.perf_counter() - start
    assert sum(array.nbytes for array in found.values()) == STATE_BYTES
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    sys.stdout.write(json.dumps({"seconds": seconds, "peak_bytes": peak}) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
