"""What the live view costs: the whole call of a long run of tiny, with the view over without. Both keep a journal."""

from __future__ import annotations

from statistics import median
from typing import Any

from processes import Failed, Kernel
from turns import in_turn

EPOCHS = 1600
LEAST = 0.98

SETUP = """
import peers.dlfb
from timing import timed
from workloads import WORKLOADS
on = peers.dlfb.prepare(WORKLOADS["tiny"])
off = peers.dlfb.prepare(WORKLOADS["tiny"], view=False)
"""


def measure(repeats: int) -> dict[str, Any]:
    """Trains with and without `repeats` times in turn, after one call of each that compiles."""
    kernel = Kernel()
    try:
        kernel.run(SETUP)
        calls = {
            name: lambda n=name: kernel.run(f"_said = timed({n}, {EPOCHS})", "_said").value for name in ("on", "off")
        }
        seen = {name: call()["view"] for name, call in calls.items()}
        if seen["on"] is None or seen["off"] is not None:
            raise Failed(f"the views are not as asked for: {seen}")
        runs = in_turn(calls, repeats)
        kernel.run("peers.dlfb.clean()")
    finally:
        kernel.close()
    medians = {name: median(run["seconds"] for run in said) for name, said in runs.items()}
    return {
        "epochs": EPOCHS,
        "runs": runs,
        "median_s": medians,
        "rate_on_over_off": medians["off"] / medians["on"],
        "rate_on_over_off_least": min(r["seconds"] for r in runs["off"]) / min(r["seconds"] for r in runs["on"]),
        "at_least": LEAST,
    }


def lines(result: dict[str, Any]) -> list[str]:
    """Returns the result as text."""
    seconds = result["median_s"]
    return [
        f"with the view {seconds['on']:.3f} s, without {seconds['off']:.3f} s: {result['rate_on_over_off']:.3f} of the "
        f"speed (by least {result['rate_on_over_off_least']:.3f}; target at least {LEAST})"
    ]
