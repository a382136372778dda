"""How soon JupyterLab shows what happened: a step on the screen, the whole curve after a reload, a stop.

A real JupyterLab and a real Chromium; both clocks are this machine's. A figure on the screen is what a frame has drawn:
the page notes the time of each frame in which the number of steps drawn has changed.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import nbformat
from nbformat.v4 import new_code_cell, new_notebook, new_output
from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
import journals  # noqa: E402

from dlfb_lab import journal, register  # noqa: E402
from tests.browser.server import CHROMIUM_FLAGS, JupyterLab  # noqa: E402

TARGET_S = {"dispatch to pixel": 0.5, "reload": 1.5, "stop": 0.5}
WATCHED_S = 15.0

# As after two hours of training, when losses are reported and written most rarely.
SETUP = """
import json, time
import flax.linen as nn, numpy as np
import dlfb_lab
from dlfb_lab import journal
from dlfb_lab.engine import clock
from dlfb_lab.engine.resident import ResidentTrainer
from dlfb_lab.engine.resident import ResidentTrainer
dlfb_lab.load_ipython_extension(get_ipython())
AGE_S = {age}
class OldClock(clock.Clock):
    def __init__(self, timebox_s):
        super().__init__(timebox_s)
        self._start -= AGE_S
loop.Clock = OldClock
opened = journal.Journal.__init__
def init(self, *arguments):
    opened(self, *arguments)
    self._opened_s -= AGE_S
journal.Journal.__init__ = init
dispatched, dispatch = [], ResidentTrainer.run
def noted(self, count):
    losses = dispatch(self, count)
    dispatched.append((self._step, time.time()))
    return losses
ResidentTrainer.run = noted
rng = np.random.default_rng(0)
x = rng.normal(size=({rows}, {columns})).astype("f4")
y = (x[:, 0] > 0).astype(int)
class MLP(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(nn.relu(nn.Dense({width})(x)))
"""
TRAIN = "run = %dlfb_train MLP() (x, y) --valid 0.2 --steps 1000000000 --eval-every 1000000 --name live"
REPORT = "json.dump({'dispatched': dispatched, 'stopped_s': run.record.status.time_s}, open('report.json', 'w'))"

WATCH = """
(() => {
    window.drawn = [];
    let last = -1;
    const look = () => {
        const root = document.querySelector('.dlfb-dash');
        if (root && last < 0) { window.drawn.push([0, Date.now() / 1000]); last = 0; }
        const steps = Number(root?.dataset.steps ?? 0);
        if (steps > last && root) { last = steps; window.drawn.push([steps, Date.now() / 1000]); }
        const state = root?.querySelector('[data-dlfb=state]')?.textContent;
        if (state === 'stopped' && !window.stoppedAt) window.stoppedAt = Date.now() / 1000;
        requestAnimationFrame(look);
    };
    requestAnimationFrame(look);
    const clicked = (event) => {
        if (event.target.dataset?.dlfb === 'stop') window.clickedAt = Date.now() / 1000;
    };
    document.addEventListener('click', clicked, true);
})();
"""


def measure(repeats: int) -> dict[str, Any]:
    """Measures each; the reloads and stops `repeats` times."""
    found = subprocess.run([ROOT / "scripts" / "chromium"], capture_output=True, text=True, check=True)
    chromium = found.stdout.strip()
    with tempfile.TemporaryDirectory(prefix="dlfb-bench-") as home, sync_playwright() as playwright:
        lab = JupyterLab(Path(home) / "jupyter")
        lab.start()
        browser = playwright.chromium.launch(executable_path=chromium, args=list(CHROMIUM_FLAGS))
        try:
            live = {
                "steps of about 40 µs": _live(browser, lab, "tiny", repeats, rows=2000, columns=2, width=8),
                "steps of about 1.5 ms": _live(browser, lab, "wide", 1, rows=20_000, columns=100, width=2048),
            }
            reloads = {name: _reloads(browser, lab, step_s, repeats) for name, step_s in journals.STEP_S.items()}
        finally:
            browser.close()
            lab.stop()
    return {"live": live, "reload_in_mid_run_of_1e6_steps": reloads, "target_s": TARGET_S}


def _live(browser: Browser, lab: JupyterLab, name: str, repeats: int, **size: int) -> dict[str, Any]:
    latencies, to_state, to_screen = [], [], []
    for repeat in range(repeats):
        notebook = new_notebook(cells=[new_code_cell(s) for s in (SETUP.format(age=7200, **size), TRAIN, REPORT)])
        page = _opened(browser, lab, notebook, f"{name}-{repeat}")
        for cell in (0, 1):
            _run(page, cell, wait=cell == 0)
        page.wait_for_function("window.drawn.length > 3", timeout=60_000)
        time.sleep(WATCHED_S if repeat == 0 else 2.0)
        page.click("[data-dlfb=stop]")
        page.wait_for_function("window.stoppedAt", timeout=60_000)
        _run(page, 2, wait=True)
        drawn, clicked, stopped = page.evaluate("[window.drawn, window.clickedAt, window.stoppedAt]")
        report = json.loads((lab.folder / "report.json").read_text())
        to_state.append(report["stopped_s"] - clicked)
        to_screen.append(stopped - clicked)
        if repeat == 0:
            latencies = _latencies(report["dispatched"], drawn)
        page.context.close()
    cut = quantiles(latencies, n=100)
    return {
        "dispatch_to_pixel_s": {"median": median(latencies), "p95": cut[94], "p99": cut[98], "most": max(latencies)},
        "dispatches": len(latencies),
        "stop_to_state_kept_s": to_state,
        "stop_to_screen_s": to_screen,
    }


def _latencies(dispatched: list[list[float]], drawn: list[list[float]]) -> list[float]:
    """Returns, for each dispatch while the page drew, the time until a frame showed its last step."""
    found, i = [], 0
    for step, at_s in dispatched:
        while i < len(drawn) and drawn[i][0] < step:
            i += 1
        if i == len(drawn):
            break
        if at_s > drawn[1][1]:  # what had happened before the view was there waited for it
            found.append(drawn[i][1] - at_s)
    return found


def _reloads(browser: Browser, lab: JupyterLab, step_s: float, repeats: int) -> dict[str, Any]:
    """A run of this process's, a million steps long and not over."""
    store = lab.folder / "runs"
    path = journals.write(store, step_s)
    file = path / journal.EVENTS
    # Without its last line it is in mid-run: this process, which writes it, lives.
    file.write_bytes(file.read_bytes().rstrip(b"\n").rpartition(b"\n")[0] + b"\n")
    key = register.key(store)
    lab.register.mkdir(exist_ok=True)
    (lab.register / f"{key}.json").write_text(json.dumps({"store": str(store)}))
    reference = {"version": "0.1.0", "store": key, "run": path.name, "name": "million"}
    data = {"application/vnd.dlfb-lab.run+json": reference, "text/plain": "live view"}
    notebook = new_notebook(cells=[new_code_cell("train", outputs=[new_output("display_data", data=data)])])
    page = _opened(browser, lab, notebook, f"reload-{path.name}")
    from_view, from_reload = [], []
    for _ in range(repeats):
        start = time.time()
        page.reload()
        page.wait_for_function("window.drawn?.some(([steps]) => steps >= 1000000)", timeout=60_000)
        drawn = page.evaluate("window.drawn")
        from_view.append(drawn[-1][1] - drawn[0][1])
        from_reload.append(drawn[-1][1] - start)
    page.context.close()
    return {"bytes": file.stat().st_size, "view_to_curve_s": from_view, "reload_to_curve_s": from_reload}


def _opened(browser: Browser, lab: JupyterLab, notebook: Any, name: str) -> Page:
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    nbformat.write(notebook, lab.folder / f"{name}.ipynb")
    page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
    page.add_init_script(WATCH)
    page.goto(f"{lab.url}/lab/tree/{name}.ipynb?token={lab.token}&reset")
    _wait_idle(page)
    return page


def _wait_idle(page: Page) -> None:
    page.wait_for_function(
        "window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'", timeout=60_000
    )


def _run(page: Page, cell: int, *, wait: bool) -> None:
    page.evaluate(
        """async ([index, wait]) => {
            const app = window.jupyterapp;
            app.shell.currentWidget.content.activeCellIndex = index;
            const done = app.commands.execute('notebook:run-cell');
            if (wait) await done;
        }""",
        [cell, wait],
    )
    if wait:
        _wait_idle(page)


def lines(result: dict[str, Any]) -> list[str]:
    """Returns the result as text."""
    said = []
    for name, live in result["live"].items():
        seen, kept = live["dispatch_to_pixel_s"], live["stop_to_state_kept_s"]
        said += [
            f"{name}: a dispatch is on the screen after {seen['median']:.3f} s, 99 % {seen['p99']:.3f}, "
            f"most {seen['most']:.3f} (target {TARGET_S['dispatch to pixel']})",
            f"{name}: after a stop the state is kept in {median(kept):.3f} s, most {max(kept):.3f} "
            f"(target {TARGET_S['stop']}), on the screen in {median(live['stop_to_screen_s']):.3f} s",
        ]
    for name, reload in result["reload_in_mid_run_of_1e6_steps"].items():
        said.append(
            f"{name}, {reload['bytes'] / 1e6:.1f} MB: whole curve {median(reload['view_to_curve_s']):.2f} s after the "
            f"view is there (target {TARGET_S['reload']}), {median(reload['reload_to_curve_s']):.2f} s after the reload"
        )
    return said
