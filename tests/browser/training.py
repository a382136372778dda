"""What the browser tests train, and where they look for it."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

from nbformat.v4 import new_code_cell, new_notebook
from playwright.sync_api import Locator

SETUP = """
%load_ext dlfb_lab
import flax.linen as nn, ipywidgets, numpy as np
class MLP(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(nn.relu(nn.Dense(16)(x)))
rng = np.random.default_rng(0)
x = rng.normal(size=(2000, 2)).astype("f4")
y = np.where((x[:, 0] * x[:, 1] > 0) ^ (rng.random(2000) < 0.1), "same sign", "other sign")
model = MLP()
"""
ENDLESS = "--epochs 1000000 --eval-every 500"
TRAINED_S = 60_000


def opened(open_notebook, *sources: str, **where):
    """A notebook whose first cell, the one that prepares, has run."""
    notebook = open_notebook(new_notebook(cells=[new_code_cell(source) for source in (SETUP, *sources)]), **where)
    notebook.run_cell(0)
    return notebook


def part(root: Locator, name: str) -> Locator:
    return root.locator(f"[data-dlfb={name}]").first


def steps(root: Locator) -> int:
    return int(root.get_attribute("data-steps") or 0)


def wait_for_steps(root: Locator, more_than: int) -> int:
    """Waits until a dashboard has drawn more steps than that; returns how many."""
    handle = root.element_handle(timeout=TRAINED_S)
    root.page.wait_for_function("([e, n]) => Number(e.dataset.steps) > n", arg=[handle, more_than], timeout=TRAINED_S)
    return steps(root)


def latest_run(lab) -> Path:
    return max((lab.folder / "dlfb_runs").iterdir(), key=lambda path: path.stat().st_mtime)


def kill_writer(run: Path) -> None:
    os.kill(json.loads((run / "writer.json").read_text())["pid"], signal.SIGKILL)
