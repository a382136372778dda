"""Runs one peer: `worker.py PEER WORKLOAD` reads a number of epochs a line, and answers in JSON."""

from __future__ import annotations

import json
import os
import sys
from importlib import import_module

from timing import timed
from workloads import WORKLOADS

if __name__ == "__main__":
    # Whatever a library prints goes to standard error, so that answers stay readable.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    train = import_module(f"peers.{sys.argv[1]}").prepare(WORKLOADS[sys.argv[2]])
    for line in sys.stdin:
        print(json.dumps(timed(train, int(line))), file=answers)
