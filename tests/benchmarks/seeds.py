"""Eight initialisations of tiny in one program: the time of the whole call over that of one."""

from __future__ import annotations

from statistics import median
from typing import Any

from processes import Kernel
from turns import in_turn

MEMBERS, EPOCHS = 8, 400
MOST = 2.5

SETUP = f"""
import peers.dlfb
from timing import timed
from workloads import WORKLOADS
one = peers.dlfb.prepare(WORKLOADS["tiny"])
eight = peers.dlfb.prepare(WORKLOADS["tiny"], seeds={MEMBERS})
"""


def measure(repeats: int) -> dict[str, Any]:
    """Trains one and all `repeats` times in turn, after one call of each that compiles."""
    kernel = Kernel()
    try:
        kernel.run(SETUP)
        calls = {
            name: lambda n=name: kernel.run(f"_said = timed({n}, {EPOCHS})", "_said").value for name in ("one", "eight")
        }
        first = {name: call() for name, call in calls.items()}
        runs = in_turn(calls, repeats)
        kernel.run("peers.dlfb.clean()")
    finally:
        kernel.close()
    medians = {name: median(run["seconds"] for run in said) for name, said in runs.items()}
    return {
        "members": MEMBERS,
        "epochs": EPOCHS,
        "first_call_s": {name: said["seconds"] for name, said in first.items()},
        "runs": runs,
        "median_s": medians,
        "eight_over_one": medians["eight"] / medians["one"],
        "at_most": MOST,
    }


def lines(result: dict[str, Any]) -> list[str]:
    """Returns the result as text."""
    seconds = result["median_s"]
    return [
        f"one {seconds['one']:.3f} s, {result['members']} at once {seconds['eight']:.3f} s: "
        f"{result['eight_over_one']:.2f} times one (target at most {MOST})"
    ]
