"""The side panel, the tabs of runs, the commands and the status bar, as somebody who trains sees them."""

from __future__ import annotations

import re
import time

import pytest
from nbformat.v4 import new_notebook
from playwright.sync_api import Locator, Page, expect

import dlfb_lab
from dlfb_lab import events, register

from .training import ENDLESS, TRAINED_S, opened, part, wait_for_steps

GIB = 2**30


def open_panel(page: Page) -> Locator:
    execute(page, "dlfb-lab:open-panel")
    panel = page.locator("#dlfb-lab-panel")
    expect(panel).to_be_visible()
    return panel


def row(page: Page, name: str) -> Locator:
    """The newest run of a name."""
    return page.locator(".dlfb-run").filter(has=page.get_by_role("button", name=re.compile(f"^{name},"))).first


def figure(page: Page, name: str) -> Locator:
    return page.locator(f".dlfb-figure[data-dlfb='{name}']")


def execute(page: Page, command: str, **arguments: str) -> None:
    page.evaluate("([command, args]) => jupyterapp.commands.execute(command, args)", [command, arguments])


def test_a_finished_run_is_listed_and_opens_in_one_tab_that_outlives_a_reload(open_notebook) -> None:
    notebook = opened(open_notebook, "run = %dlfb_train model (x, y) --valid 0.2 --epochs 20 --name listed")
    notebook.run_cell(1)
    page = notebook.page
    panel = open_panel(page)
    listed = row(page, "listed")
    expect(part(listed, "state")).to_have_text("finished")
    expect(part(listed, "facts")).to_have_text(re.compile(r"accuracy0\.\d+majority class0\.\d+best loss0\.\d+"))
    expect(part(listed, "pause")).to_be_hidden()
    assert re.match("M.+L", listed.locator(".dlfb-curve-train").get_attribute("d") or "")

    expect(figure(page, "CPU")).to_contain_text(re.compile(r"\d+ %"))
    expect(figure(page, "Disk")).to_contain_text(re.compile(r"[\d.]+ of [\d.]+ [GTP]iB"))
    # Either there are GPUs, or it is said why not.
    expect(panel.locator("[data-dlfb=gpus] section, [data-dlfb=no-gpus]:not(:empty)").first).to_be_visible()

    part(listed, "open").focus()
    page.keyboard.press("Enter")
    tab = page.locator(".dlfb-tab")
    expect(part(tab, "state")).to_have_text("finished")
    assert wait_for_steps(tab.locator(".dlfb-dash"), 999) == 1000
    notebook.screenshot("panel-tab", of=tab.locator(".dlfb-grid"), tolerance=0.15)
    notebook.screenshot("panel-curve", of=listed.locator(".dlfb-curve").first, tolerance=0.25)
    part(listed, "open").click()
    expect(tab).to_have_count(1)
    label = page.locator(".lm-TabBar-tabLabel", has_text=re.compile("^listed$"))
    expect(label).to_have_count(1)

    time.sleep(1.5)  # JupyterLab saves where its tabs are a second after a change
    page.reload()
    label.click()
    expect(part(page.locator(".dlfb-tab"), "progress")).to_contain_text("step 1,000 of 1,000")
    assert notebook.console_errors == []


def test_a_busy_run_is_paused_and_stopped_from_outside_its_notebook(open_notebook) -> None:
    notebook = opened(open_notebook, f"run = %dlfb_train model (x, y) --valid 0.2 {ENDLESS} --name outside")
    notebook.run_cell(1, wait=False)
    page = notebook.page
    status = page.locator("[data-dlfb=status]")
    expect(status).to_contain_text("outside", timeout=TRAINED_S)
    status.click()
    run = row(page, "outside")
    state = part(run, "state")
    expect(state).to_have_text("running", timeout=TRAINED_S)
    expect(part(run, "when")).to_contain_text("of 50M steps")
    part(run, "pause").click()
    expect(state).to_have_text("paused")
    expect(status).to_contain_text("outside paused at 0 %")
    part(run, "resume").click()
    expect(state).to_have_text("running")
    execute(page, "dlfb-lab:pause-run")
    expect(state).to_have_text("paused")
    execute(page, "dlfb-lab:resume-run")
    expect(state).to_have_text("running")
    execute(page, "dlfb-lab:stop-run")
    expect(state).to_have_text("stopped")
    expect(part(run, "reason")).to_have_text("stop was pressed")
    expect(run.locator(".dlfb-icon-button:visible")).to_have_count(0)
    expect(status).to_be_hidden()
    assert page.evaluate("jupyterapp.commands.isEnabled('dlfb-lab:stop-run')") is False
    assert notebook.console_errors == []


def test_a_store_that_is_gone_is_said_and_can_be_forgotten(open_notebook, jupyter_lab, monkeypatch) -> None:
    monkeypatch.setenv("DLFB_REGISTER", str(jupyter_lab.register))
    store = jupyter_lab.folder / "moved away" / "dlfb_runs"
    register.note(store)
    notebook = open_notebook(new_notebook(), kernel=False)
    panel = open_panel(notebook.page)
    expect(panel).to_contain_text("moved away/dlfb_runs")
    panel.get_by_role("button", name="Forget").click()
    expect(panel).not_to_contain_text("moved away")
    assert register.key(store) not in register.stores()
    assert notebook.console_errors == []


def test_a_figure_that_cannot_be_had_says_why(open_notebook) -> None:
    notebook = open_notebook(new_notebook(), kernel=False)
    now_s = time.time()
    whole = {"utilisation_percent": 87.4, "memory_used_bytes": 60 * GIB, "temperature_c": 64, "power_w": 412}
    slice_ = {"utilisation_percent": None, "memory_used_bytes": 2 * GIB, "temperature_c": 41, "power_w": None}
    missing = {"utilisation_percent": "not supported by this GPU", "power_w": "no permission in this MIG slice"}
    gpus = [
        {"index": 0, "name": "NVIDIA H100", "memory_total_bytes": 80 * GIB, "power_limit_w": 700, "missing": {}},
        {"index": 1, "name": "A <b>slice", "memory_total_bytes": 10 * GIB, "power_limit_w": None, "missing": missing},
    ]
    sample = {"cpu_percent": 5, "memory_used_bytes": GIB, "disk_used_bytes": None}

    def busy(i: int) -> dict[str, float]:
        """The same at the end, after a rise and a pause."""
        share = 0.3 if 60 <= i < 70 else min(1.0, 0.2 + i / 40)
        return {name: value * share for name, value in whole.items()}

    answer = {
        "version": dlfb_lab.__version__,
        "schema": events.SCHEMA,
        "host": {"name": "bench", "cpu_count": 16, "disk_path": "/"},
        "interval_s": 1,
        "next": 1,
        "reset": True,
        "samples": [{"time_s": now_s - 5 * (119 - i), **sample, "gpus": [busy(i), slice_]} for i in range(120)],
        "memory_total_bytes": 4 * GIB,
        "disk_total_bytes": None,
        "memory_of": "container",
        "missing": {"disk_used_bytes": "the disk does not answer"},
        "gpus": gpus,
        "no_gpus": "",
    }
    notebook.page.route("**/dlfb-lab/devices*", lambda route: route.fulfill(json=answer))
    panel = open_panel(notebook.page)
    first, second, host = (panel.locator("section.dlfb-device:not([data-dlfb])").nth(i) for i in range(3))
    expect(first).to_contain_text(
        "GPU 0NVIDIA H100Utilisation87 % Memory60.0 of 80.0 GiBTemperature64 °C Power412 of 700 W"
    )
    expect(second).to_contain_text("A <b>slice")
    expect(second).to_contain_text("Utilisation not supported by this GPU")
    expect(second).to_contain_text("Power no permission in this MIG slice")
    expect(host).to_contain_text("Container memory1.0 of 4.0 GiB")
    expect(host).to_contain_text("Disk the disk does not answer")
    notebook.screenshot("panel-gpu", of=first)
    notebook.screenshot("panel-gpu-slice", of=second)
    execute(notebook.page, "apputils:change-theme", theme="JupyterLab Dark")
    expect(panel.locator(".dlfb-panel").first).to_have_attribute("data-dlfb-theme", "dark")
    notebook.screenshot("panel-gpu-dark", of=first)
    assert notebook.console_errors == []


@pytest.mark.parametrize("theme", ["JupyterLab Light", "JupyterLab Dark"])
def test_without_the_server_extension_the_panel_says_what_to_do_and_asks_no_more(open_notebook, theme: str) -> None:
    notebook = open_notebook(new_notebook(), kernel=False)
    page = notebook.page
    execute(page, "apputils:change-theme", theme=theme)
    asked: list[str] = []

    def answer(route) -> None:
        asked.append(route.request.url)
        route.fulfill(status=404, body="<html>Not Found</html>")

    page.route(re.compile(r":\d+/dlfb-lab/"), answer)
    panel = open_panel(page)
    absent = part(panel, "absent")
    expect(absent).to_be_visible()
    expect(absent).to_contain_text("jupyter server extension enable dlfb_lab")
    expect(panel.locator(".dlfb-panel").first).to_have_attribute("data-dlfb-theme", theme.split()[-1].lower())
    asked.clear()
    time.sleep(3)
    assert asked == []
    page.unroute_all()
    panel.get_by_role("button", name="Try again").click()
    expect(absent).to_be_hidden()
    expect(figure(page, "CPU")).to_contain_text("%")
