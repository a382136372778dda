"""Times training against other ways to train, and what else has a target in seconds.

    python tests/benchmarks/run.py                          everything
    python tests/benchmarks/run.py tiny mlp --peers dlfb scan --repeats 9

Each result is kept in tests/benchmarks/results/<workload>.json with the raw times, the machine and the versions.
Nothing fails on a time: a figure is to be read beside the machine's load, which is kept with it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import caching
import checkpoints
import figures
import importing
import journals
import live
import machine
import memory
import seeds
import server
import streaming
import throughput
import toy
import viewing
from peers import PEERS
from processes import Failed
from workloads import WORKLOADS

OTHERS: dict[str, tuple[Callable[[int], dict[str, Any]], Callable[[dict[str, Any]], list[str]]]] = {
    "seeds": (seeds.measure, seeds.lines),
    "view": (viewing.measure, viewing.lines),
    "cache": (caching.measure, caching.lines),
    "stream": (streaming.measure, streaming.lines),
    "memory": (memory.measure, memory.lines),
    "checkpoints": (checkpoints.measure, checkpoints.lines),
    "toy": (toy.measure, toy.lines),
    "import": (importing.measure, importing.lines),
    "journal": (journals.measure, journals.lines),
    "live": (live.measure, live.lines),
    "server": (server.measure, server.lines),
}


def main() -> None:
    """Runs what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [*WORKLOADS, *OTHERS]
    parser.add_argument("workloads", nargs="*", metavar="WORKLOAD", help=f"of {', '.join(names)}; all by default")
    parser.add_argument("--peers", nargs="+", choices=list(PEERS), default=list(PEERS), help="all by default")
    parser.add_argument("--repeats", type=int, default=10, help="timed calls of each peer, in turn")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results", help="folder for the JSON")
    asked = parser.parse_args()
    if unknown := set(asked.workloads) - set(names):
        parser.error(f"there is no workload {', '.join(sorted(unknown))}; known: {', '.join(names)}")

    # Several processes use JAX at once: none may take most of a GPU's memory for itself.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # with it, every kernel would compile what it imports
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    about = machine.describe()
    where = about["machine"]
    print(f"{where['device']}; {where['cpu']}, {where['cores']} cores, {where['memory_gib']} GiB, {where['os']}")
    print(", ".join(f"{name} {number}" for name, number in about["versions"].items()))
    failed = []
    for name in asked.workloads or names:
        load = machine.load()
        print(f"\n{name}  (load {load})", flush=True)
        try:
            if name in WORKLOADS:
                result = throughput.measure(WORKLOADS[name], asked.peers, asked.repeats)
                said = throughput.lines(result)
            else:
                measure, lines = OTHERS[name]
                result = measure(asked.repeats)
                said = lines(result)
        except (Failed, subprocess.CalledProcessError) as error:
            failed.append(name)
            print(
                f"{error}\n{getattr(error, 'stderr', None) or ''}No result: what there was before is kept.", flush=True
            )
            continue
        print("\n".join(said), flush=True)
        kept = {"workload": name, **about, "load_before": load, "load_after": machine.load(), **result}
        asked.results.mkdir(parents=True, exist_ok=True)
        (asked.results / f"{name}.json").write_text(json.dumps(kept, indent=1, allow_nan=False) + "\n")
    if measured := figures.measured(asked.results):
        print("\n" + "\n".join(figures.table(measured)))
    if failed:
        sys.exit(f"\nfailed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
