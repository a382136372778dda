"""What `import dlfb_lab` and `%load_ext dlfb_lab` take beyond IPython itself, in new interpreters."""

from __future__ import annotations

import json
import subprocess
import sys
from statistics import median
from typing import Any

TARGET_S = 0.3

CODE = """
from time import perf_counter
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
start = perf_counter()
import dlfb_lab
imported = perf_counter()
shell.run_line_magic("load_ext", "dlfb_lab")
loaded = perf_counter()
import sys
assert "jax" not in sys.modules
import json
print(json.dumps([imported - start, loaded - imported]))
"""


def measure(repeats: int) -> dict[str, Any]:
    """Times both in `repeats` new interpreters, after one that warms the file cache."""
    pairs = []
    for _ in range(repeats + 1):
        done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
        pairs.append(json.loads(done.stdout))
    seconds = [sum(pair) for pair in pairs[1:]]
    return {
        "import_s": [pair[0] for pair in pairs[1:]],
        "load_ext_s": [pair[1] for pair in pairs[1:]],
        "seconds": seconds,
        "median_s": median(seconds),
        "target_s": TARGET_S,
    }


def lines(result: dict[str, Any]) -> list[str]:
    """Returns the result as text."""
    parts = f"import {median(result['import_s']):.3f} s, load_ext {median(result['load_ext_s']):.3f} s"
    return [f"beyond IPython, median {result['median_s']:.3f} s ({parts}; target {TARGET_S} s)"]
