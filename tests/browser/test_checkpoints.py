"""Checkpoints in the panel and on the charts, as somebody who looks for one to go on from sees them."""

from __future__ import annotations

import ast
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from nbformat.v4 import new_code_cell, new_notebook
from playwright.sync_api import Locator, Page, expect

from dlfb_lab import journal, register
from dlfb_lab.checkpoints.folder import FOLDER, looked_at, pin
from dlfb_lab.events import RunStarted
from tests import pictures
from tests.server.runs import checkpoint

from .test_panel import execute, open_panel, row
from .training import part, wait_for_steps

SIZE = 3 << 20


@pytest.fixture
def kept(jupyter_lab, monkeypatch) -> Iterator:
    """A function that keeps events as a run of a store, with the checkpoints that `pictures.saved` speaks of."""
    monkeypatch.setenv("DLFB_REGISTER", str(jupyter_lab.register))
    made: list[Path] = []

    def keep(name: str, told, steps=tuple(pictures.SAVED), store: str = "dlfb_runs") -> Path:
        place = jupyter_lab.folder / store
        run = journal.create(place, name)
        register.note(place)
        shift_s = time.time() - 100 - pictures.START_S
        for event in told:
            event = replace(event, time_s=event.time_s + shift_s)
            run.put(replace(event, run_id=run.path.name, name=name) if isinstance(event, RunStarted) else event)
        run.close()
        for step in steps:
            checkpoint(run.path, step, pictures.SAVED[step], size=SIZE, saved_s=time.time() - 90)
        made.append(run.path)
        return run.path

    yield keep


def checkpoints(page: Page, name: str) -> Locator:
    """The opened list of a run's checkpoints."""
    listed = row(page, name)
    part(listed, "checkpoints").click()
    found = part(listed, "checkpoint-list")
    expect(part(found, "total")).to_contain_text("checkpoint")
    return found


def of_step(found: Locator, step: int) -> Locator:
    return found.locator(f".dlfb-checkpoint[data-step='{step}']")


def sources(page: Page) -> list[str]:
    cells = "jupyterapp.shell.currentWidget.content.widgets.map((cell) => cell.model.sharedModel.getSource())"
    found: list[str] = page.evaluate(cells)
    return found


def test_a_run_opens_to_its_checkpoints_and_one_is_deleted_and_taken_back(open_notebook, kept) -> None:
    run = kept("opens", pictures.saved())
    notebook = open_notebook(new_notebook(cells=[new_code_cell("1")]), kernel=False)
    page = notebook.page
    open_panel(page)
    found = checkpoints(page, "opens")
    expect(part(found, "total")).to_have_text("3 checkpoints, 9.0 MiB")
    names = found.locator(".dlfb-checkpoint-name")
    expect(names).to_have_text(["step 6,000", "step 4,000", "step 2,000"])
    expect(part(of_step(found, 6000), "kept")).to_have_text("kept as the latest")
    best = of_step(found, 4000)
    expect(part(best, "kept")).to_have_text("kept as the best by valid/loss")
    expect(part(best, "main")).to_have_text("valid/loss 0.27")

    names.nth(1).focus()
    page.keyboard.press("Enter")
    expect(names.nth(1)).to_have_attribute("aria-expanded", "true")
    delete = part(best, "delete")
    expect(delete).to_have_text("Delete (3.0 MiB)")
    expect(delete).to_have_attribute("aria-disabled", "true")
    delete.click(force=True)
    expect(part(found, "said")).to_contain_text("It cannot be deleted: it is the best by valid/loss.")

    names.nth(2).click()
    old = of_step(found, 2000)
    part(old, "pin").click()
    expect(part(old, "pinned")).to_be_visible()
    expect(part(old, "delete")).to_have_attribute("title", re.compile("it is pinned; unpin it first"))
    part(old, "pin").click()
    expect(part(old, "delete")).to_have_attribute("aria-disabled", "false")
    part(old, "delete").click()
    expect(part(found, "said")).to_contain_text("Step 2,000 is in the trash: 3.0 MiB are freed in 7 days.")
    expect(names).to_have_count(2)
    expect(part(found, "trash")).to_contain_text("In the trash: 1 checkpoint, 3.0 MiB")
    assert not (run / FOLDER / "step-2000").exists()
    part(part(found, "said"), "undo").click()
    expect(names).to_have_count(3)
    expect(part(found, "trash")).to_be_hidden()

    data = run / FOLDER / "step-2000" / "arrays" / "d" / "data"
    data.write_bytes(b"x" + data.read_bytes()[1:])
    part(found, "verify-all").click()
    expect(part(found, "said")).to_contain_text("Damaged: step 2,000.")
    expect(part(of_step(found, 2000), "health")).to_contain_text(
        "damaged: arrays/d/data is not as it was written: its checksum differs."
    )
    assert notebook.console_errors == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_checkpoints_and_forks_are_marked_on_the_charts(open_notebook, kept, theme: str) -> None:
    parent = kept(f"parent-{theme}", pictures.saved())
    pin(looked_at(parent / FOLDER / "step-2000"))
    cut = checkpoint(parent, 3000, 0.3, size=SIZE, saved_s=time.time() - 90)
    (cut / "arrays" / "d" / "data").write_bytes(b"cut")
    kept(f"child-{theme}", pictures.saved(parent.name, 4000), steps=())
    notebook = open_notebook(new_notebook(), kernel=False)
    page = notebook.page
    execute(page, "apputils:change-theme", theme=f"JupyterLab {theme.title()}")
    panel = open_panel(page)
    expect(panel.locator(".dlfb-panel").first).to_have_attribute("data-dlfb-theme", theme)
    panel.get_by_title("Devices").click()  # folded in, it leaves room for the list
    found = checkpoints(page, f"parent-{theme}")
    of_step(found, 2000).locator(".dlfb-checkpoint-name").click()
    child = part(of_step(found, 4000), "child")
    expect(child).to_have_text(f"child-{theme}")
    page.mouse.move(800, 500)
    notebook.screenshot(f"checkpoints-{theme}", of=found, tolerance=0.15)

    child.click()
    tab = page.locator(".dlfb-tab:visible")
    assert wait_for_steps(tab.locator(".dlfb-dash"), 4999) == 5000
    expect(part(tab, "origin")).to_have_text(f"from {parent.name}@4000")
    notebook.screenshot(f"fork-{theme}", of=tab.locator(".dlfb-loss"), tolerance=0.15)
    tab.locator(".dlfb-loss .u-over").hover(position={"x": 26, "y": 60})
    expect(tab.locator(".dlfb-loss .dlfb-tip")).to_contain_text(f"began here, from {parent.name}@4000")

    part(row(page, f"parent-{theme}"), "checkpoints").click()
    expect(found).to_have_count(0)
    part(tab, "open-origin").click()
    expect(part(row(page, f"parent-{theme}"), "open")).to_be_focused()
    expect(part(found, "total")).to_have_text("4 checkpoints, 9.0 MiB")
    page.keyboard.press("Enter")
    expect(part(tab, "name")).to_have_text(f"parent-{theme}")
    assert wait_for_steps(tab.locator(".dlfb-dash"), 5999) == 6000
    notebook.screenshot(f"marks-{theme}", of=tab.locator(".dlfb-loss"), tolerance=0.15)
    plot = tab.locator(".dlfb-loss .u-over")
    width = plot.bounding_box()["width"]
    plot.hover(position={"x": 2 * width / 3, "y": 60})
    expect(tab.locator(".dlfb-loss .dlfb-tip")).to_contain_text(
        re.compile(r"checkpoint \(step 4,000\)12\.4 MiB · loss 0\.27 · accuracy 0\.\d+")
    )
    assert notebook.console_errors == []


def test_cells_go_on_from_a_checkpoint_wherever_it_lies(open_notebook, kept) -> None:
    told = pictures.saved(source="%dlfb_train model (x, y) --valid 0.2")
    near, far = kept("near", told).name, kept("far", told, store='it\'s "far"\n%magic')
    notebook = open_notebook(new_notebook(cells=[new_code_cell("1"), new_code_cell("2")]), kernel=False)
    page = notebook.page
    open_panel(page)

    def put(name: str, *doings: str) -> Locator:
        found = checkpoints(page, name)
        of_step(found, 4000).locator(".dlfb-checkpoint-name").click()
        for doing in doings:
            part(of_step(found, 4000), doing).click()
            expect(part(found, "said")).to_contain_text(f"A cell was put into {notebook.path.name}.")
        return found

    found = put("near", "restore", "resume", "diff", "export")
    assert sources(page) == [
        "1",
        f"%dlfb_restore {near}@4000 --into state",
        f"run = %dlfb_train --resume {near}@4000 model (x, y) --valid 0.2",
        f'import dlfb_lab\n\ndlfb_lab.diff("{near}@2000", "{near}@4000")',
        f'import dlfb_lab\n\ndlfb_lab.export("{near}@4000", "{near}-4000.safetensors")',
        "2",
    ]
    put("far", "restore")
    restored = sources(page)[5]
    assert restored.count("\n") == 2
    assert ast.literal_eval(restored[restored.index("(") + 1 : restored.index(", into=")]) == f"{far}@4000"

    # JupyterLab itself may complain when a notebook goes whose kernel is still starting.
    assert notebook.console_errors == []
    page.evaluate("jupyterapp.shell.currentWidget.context.save().then(() => jupyterapp.shell.currentWidget.dispose())")
    expect(page.locator(".jp-NotebookPanel")).to_have_count(0)
    part(of_step(found, 4000), "restore").click()
    expect(part(found, "said")).to_have_text(re.compile("^No notebook is open. Open one"))
