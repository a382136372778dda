"""The live view as a widget alone, as somebody who trains in Colab or VS Code sees it."""

from __future__ import annotations

from functools import partial

import pytest
from playwright.sync_api import expect

from .training import ENDLESS, TRAINED_S, opened, part, wait_for_steps


@pytest.fixture
def open_widgets(open_notebook, widget_lab):
    return partial(open_notebook, lab=widget_lab)


def test_a_finished_run(open_widgets) -> None:
    notebook = opened(open_widgets, "run = %dlfb_train model (x, y) --valid 0.2 --epochs 20 --name xor", "run")
    notebook.run_cell(1)
    expect(part(notebook.output(1), "state")).to_have_text("finished", timeout=TRAINED_S)
    expect(part(notebook.output(1), "progress")).to_contain_text("step 1,000 of 1,000")
    expect(part(notebook.output(1), "best")).to_contain_text("best valid/loss")
    expect(part(notebook.output(1), "final")).to_contain_text("majority class")
    expect(part(notebook.output(1), "stop")).to_be_hidden()
    expect(part(notebook.output(1), "hint")).to_be_hidden()
    part(notebook.output(1), "jit").locator("summary").click()
    expect(part(notebook.output(1), "jit")).to_contain_text("train step")
    part(notebook.output(1), "jit").locator("summary").click()
    notebook.output(1).scroll_into_view_if_needed()
    notebook.screenshot("dashboard-finished", of=notebook.output(1).locator(".dlfb-grid"), tolerance=0.15)

    notebook.run_cell(2)
    picture = notebook.output(2).locator("img[alt='loss and metric curves']")
    expect(picture).to_be_visible()
    notebook.screenshot("outcome-static", of=picture, tolerance=0.15)
    assert notebook.console_errors == []


def test_a_dark_page(open_widgets) -> None:
    notebook = opened(open_widgets, "run = %dlfb_train model (x, y) --valid 0.2 --epochs 20 --name xor")
    notebook.page.evaluate("jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Dark'})")
    notebook.run_cell(1)
    expect(part(notebook.output(1), "state")).to_have_text("finished", timeout=TRAINED_S)
    notebook.output(1).scroll_into_view_if_needed()
    notebook.screenshot("dashboard-dark", of=notebook.output(1).locator(".dlfb-grid"), tolerance=0.15)
    assert notebook.console_errors == []


def test_a_busy_cell_is_live_and_an_interrupt_keeps_the_run(open_widgets) -> None:
    notebook = opened(
        open_widgets, f"run = %dlfb_train model (x, y) --valid 0.2 {ENDLESS}", "run.status, run.params is None"
    )
    notebook.run_cell(1, wait=False)
    first = wait_for_steps(notebook.output(1).locator(".dlfb-dash").first, 0)
    wait_for_steps(notebook.output(1).locator(".dlfb-dash").first, first)
    expect(part(notebook.output(1), "state")).to_have_text("running")
    expect(part(notebook.output(1), "hint")).to_have_text("interrupt the cell to stop and keep")
    expect(part(notebook.output(1), "stop")).to_be_hidden()
    notebook.page.evaluate("jupyterapp.commands.execute('notebook:interrupt-kernel')")
    expect(part(notebook.output(1), "state")).to_have_text("stopped", timeout=TRAINED_S)
    notebook.wait_idle()
    notebook.run_cell(2)
    assert notebook.output_text(2).endswith("('stopped', False)")
    assert notebook.console_errors == []


def test_buttons_of_a_run_in_the_background(open_widgets) -> None:
    notebook = opened(
        open_widgets,
        f"run = %dlfb_train model (x, y) --valid 0.2 {ENDLESS} --background",
        "run.wait(30).status, len(run.history) > 100",
    )
    notebook.run_cell(1)
    before = wait_for_steps(notebook.output(1).locator(".dlfb-dash").first, 0)
    expect(part(notebook.output(1), "hint")).to_be_hidden()
    part(notebook.output(1), "pause").click()
    expect(part(notebook.output(1), "state")).to_have_text("paused")
    expect(part(notebook.output(1), "pause")).to_be_hidden()
    part(notebook.output(1), "resume").click()
    expect(part(notebook.output(1), "state")).to_have_text("running")
    wait_for_steps(notebook.output(1).locator(".dlfb-dash").first, before)
    part(notebook.output(1), "stop").click()
    expect(part(notebook.output(1), "state")).to_have_text("stopped")
    expect(part(notebook.output(1), "stop")).to_be_hidden()
    notebook.run_cell(2)
    assert notebook.output_text(2).endswith("('stopped', True)")
    assert notebook.console_errors == []


def test_the_dashboard_in_boxes_and_tabs(open_widgets) -> None:
    notebook = opened(
        open_widgets,
        "a = %dlfb_train model (x, y) --valid 0.2 --epochs 5 --name first\n"
        "b = %dlfb_train model (x, y) --epochs 5 --name second",
        "ipywidgets.HBox([a.dashboard, b.dashboard])",
        "ipywidgets.Tab([ipywidgets.Label('nothing'), a.dashboard], titles=['empty', 'run'])",
    )
    for cell in (1, 2, 3):
        notebook.run_cell(cell)
    boxes = notebook.output(2).locator(".dlfb-dash")
    expect(boxes).to_have_count(2)
    for box in (boxes.nth(0), boxes.nth(1)):
        expect(box.locator("[data-dlfb=state]")).to_have_text("finished")
        box.scroll_into_view_if_needed()  # what nobody can see is not drawn
        expect(box.locator("canvas").first).to_be_visible()
        assert box.bounding_box()["width"] > 300
    tab = notebook.output(3)
    tab.get_by_role("tab", name="run").click()
    tab.locator(".dlfb-dash").scroll_into_view_if_needed()
    expect(tab.locator(".dlfb-dash canvas").first).to_be_visible()
    assert notebook.console_errors == []


def test_bad_input_is_one_short_message(open_widgets) -> None:
    notebook = opened(open_widgets, "%dlfb_train modell (x, y)", "1 + 1")
    notebook.run_cell(1)
    text = notebook.output_text(1)
    assert "The name `modell` does not exist. Did you mean `model`?" in text
    assert "Traceback" not in text and len(text.splitlines()) <= 2
    notebook.run_cell(2)
    assert notebook.output_text(2).endswith("2")
