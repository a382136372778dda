"""Steps per second of a whole training call, ours and others', in turn and in one run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from statistics import median
from typing import Any

import numpy as np
from peers import PEERS
from processes import Failed, Kernel, Worker
from turns import in_turn
from workloads import Workload

OURS = "dlfb"
ROUNDS = 5


def measure(workload: Workload, peers: Sequence[str], repeats: int) -> dict[str, Any]:
    """Times each peer `repeats` times, in `ROUNDS` of new processes; the order turns with each repeat.

    Where a process lies in memory makes it faster or slower by up to a quarter, as long as it lives: one process of
    each peer would compare their luck. The first call in each, which compiles, is not timed.
    """
    skipped: dict[str, str] = {name: "not asked for" for name in workload.peers if name not in peers}
    first: dict[str, dict[str, Any]] = {}
    runs: dict[str, list[dict[str, Any]]] = {}
    repeats = min(repeats, workload.repeats)
    for count in (len(part) for part in np.array_split(range(repeats), min(ROUNDS, repeats))):
        _round(workload, count, skipped, first, runs)
    results = {name: _summary(workload, name, first[name], runs[name]) for name in runs if name not in skipped}
    ratios = _ratios(results)
    best = min(ratios, key=ratios.__getitem__) if ratios and not skipped else None
    return {
        "peers": results,
        "rounds": min(ROUNDS, repeats),
        "skipped": skipped,
        "ours_over": ratios,
        "ours_over_least": _ratios(results, min),
        # Only where every peer was there: the best of some is not the best.
        "best_peer": best,
        "ours_over_best": ratios[best] if best else None,
    }


def _round(
    workload: Workload,
    repeats: int,
    skipped: dict[str, str],
    first: dict[str, dict[str, Any]],
    runs: dict[str, list[dict[str, Any]]],
) -> None:
    """Times each peer in a new process, and adds to what is known."""
    kernel = Kernel()
    workers: list[Worker] = []
    calls: dict[str, Callable[[int], dict[str, Any]]] = {}
    try:
        kernel.run("from timing import timed\nfrom workloads import WORKLOADS")
        for name in workload.peers:
            peer = PEERS[name]
            if name in skipped:
                continue
            if find_spec(peer.needs) is None:
                skipped[name] = f"{peer.needs} is not installed"
                continue
            if peer.in_kernel:
                kernel.run(f"import peers.{name}\n{name} = peers.{name}.prepare(WORKLOADS[{workload.name!r}])")
                calls[name] = _in_kernel(kernel, name)
            else:
                workers.append(Worker(name, workload.name))
                calls[name] = workers[-1].call
        for name in list(calls):
            try:
                said = calls[name](workload.epochs_of(name))
            except Failed as error:
                skipped[name] = str(error)
                del calls[name]
                continue
            first.setdefault(name, said)
            ours = first.get(OURS, first[name])["device"]
            if first[name]["device"] != ours:
                skipped[name] = f"it runs on the {first[name]['device']}, ours on the {ours}"
                del calls[name]
        timed = in_turn({name: partial(call, workload.epochs_of(name)) for name, call in calls.items()}, repeats)
        for name, each in timed.items():
            runs.setdefault(name, []).extend(each)
        if OURS in calls:
            kernel.run("peers.dlfb.clean()")
    finally:
        for worker in workers:
            worker.close()
        kernel.close()


def _in_kernel(kernel: Kernel, name: str) -> Callable[[int], dict[str, Any]]:
    def call(epochs: int) -> dict[str, Any]:
        reply = kernel.run(f"_said = timed({name}, {epochs})", "_said")
        published = {"messages": reply.messages, "message_bytes": reply.message_bytes, "cell_s": reply.seconds}
        return {**reply.value, **(published if name == OURS else {})}

    return call


def _summary(workload: Workload, name: str, first: dict[str, Any], runs: list[dict[str, Any]]) -> dict[str, Any]:
    seconds = [run["seconds"] for run in runs]
    last = runs[-1] if runs else first
    result = {
        "title": PEERS[name].title,
        "device": last["device"],
        "epochs": workload.epochs_of(name),
        "steps": last["steps"],
        "last_loss": last["last_loss"],
        "first_call_s": first["seconds"],
        "seconds": seconds,
        "median_s": median(seconds) if seconds else None,
        "steps_per_s": last["steps"] / median(seconds) if seconds else None,
    }
    if name == OURS:
        result["view"] = last["view"]
        result["runs"] = [first, *runs]
    return result


def _ratios(results: dict[str, Any], of: Callable[[list[float]], float] = median) -> dict[str, float]:
    """Our steps per second over each other's: ratios of medians, or of what suffers least from a busy machine."""

    def rate(name: str) -> float:
        seconds = results.get(name, {}).get("seconds")
        return results[name]["steps"] / of(seconds) if seconds else 0.0

    return {name: rate(OURS) / rate(name) for name in results if rate(OURS) and name != OURS and rate(name)}


def lines(result: dict[str, Any]) -> list[str]:
    """Returns the result as a table."""
    out = [f"{'':54} {'median s':>9} {'least':>8} {'most':>8} {'steps/s':>9} {'ours is':>8} {'by least':>9}"]
    for name, r in result["peers"].items():
        if r["seconds"]:
            ratio = "".join(
                f"{ratios[name]:8.2f}x" for ratios in (result["ours_over"], result["ours_over_least"]) if name in ratios
            )
            low, high = min(r["seconds"]), max(r["seconds"])
            out.append(f"{r['title']:54} {r['median_s']:9.3f} {low:8.3f} {high:8.3f} {r['steps_per_s']:9,.1f} {ratio}")
    ours = result["peers"].get(OURS)
    if ours:
        out.append(f"our live view: {ours['view'] or 'OFF'}; our first call {ours['first_call_s']:.2f} s")
        out += [f"our plan: {plan}" for plan in dict.fromkeys(p for run in ours["runs"] for p in run["plans"])]
    return out + [f"skipped {PEERS[name].title}: {why}" for name, why in result["skipped"].items()]
