"""A cell's output in JupyterLab, drawn from the run's journal, whatever happens to page, kernel and server."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import textwrap

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output
from playwright.sync_api import expect

from dlfb_lab import register

from .training import (
    ENDLESS,
    TRAINED_S,
    kill_writer,
    latest_run,
    opened,
    part,
    steps,
    wait_for_steps,
)

RUN = "application/vnd.dlfb-lab.run+json"
ENDLESS_RUN = f"run = %dlfb_train model (x, y) --valid 0.2 {ENDLESS} --name endless"


def dismiss_dialog(notebook) -> None:
    """Closes what JupyterLab itself says when its server was away, whenever that comes."""
    page = notebook.page
    page.add_locator_handler(page.locator(".jp-Dialog"), lambda dialog: dialog.locator("button").first.click())


def drawn(notebook, cell: int = 1):
    """The dashboard that JupyterLab's half drew in a cell's output."""
    return notebook.output(cell).locator(".dlfb-output .dlfb-dash")


def test_buttons_work_while_the_cell_is_busy(open_notebook) -> None:
    notebook = opened(open_notebook, ENDLESS_RUN, "run.status, run.params is None, len(run.history) > 100")
    notebook.run_cell(1, wait=False)
    root = drawn(notebook)
    before = wait_for_steps(root, 0)
    expect(part(root, "state")).to_have_text("running")
    part(root, "pause").click()
    expect(part(root, "state")).to_have_text("paused")
    part(root, "resume").click()
    expect(part(root, "state")).to_have_text("running")
    wait_for_steps(root, before)
    part(root, "stop").click()
    expect(part(root, "state")).to_have_text("stopped")
    expect(part(root, "reason")).to_have_text("stop was pressed")
    notebook.wait_idle()
    notebook.run_cell(2)
    assert notebook.output_text(2).endswith("('stopped', False, True)")
    assert notebook.console_errors == []


def test_a_page_reloaded_in_mid_run_is_live_again_with_the_whole_curve(open_notebook, jupyter_lab) -> None:
    notebook = opened(open_notebook, ENDLESS_RUN)
    notebook.run_cell(1, wait=False)
    before = wait_for_steps(drawn(notebook), 1000)
    notebook.save()
    notebook.reload()
    root = drawn(notebook)
    assert wait_for_steps(root, before) > before
    expect(part(root, "state")).to_have_text("running")
    part(root, "stop").click()
    expect(part(root, "state")).to_have_text("stopped")
    lines = (latest_run(jupyter_lab) / "events.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["step"] == steps(root)
    assert notebook.console_errors == []


def test_a_closed_tab_is_live_again_when_opened_and_two_tabs_agree(open_notebook) -> None:
    notebook = opened(open_notebook, ENDLESS_RUN)
    notebook.run_cell(1, wait=False)
    before = wait_for_steps(drawn(notebook), 0)
    notebook.save()
    notebook.page.close()
    first, second = (open_notebook(notebook.path, kernel=False) for _ in range(2))
    for page in (first, second):
        page.page.bring_to_front()
        wait_for_steps(drawn(page), before)
    part(drawn(second), "stop").click()
    expect(part(drawn(second), "state")).to_have_text("stopped")
    first.page.bring_to_front()
    expect(part(drawn(first), "state")).to_have_text("stopped")
    ended = str(steps(drawn(first)))
    # Its last frame is not drawn while it is hidden.
    second.page.bring_to_front()
    expect(drawn(second)).to_have_attribute("data-steps", ended)
    assert first.console_errors == second.console_errors == []


def test_a_killed_kernel_leaves_an_interrupted_run(open_notebook, jupyter_lab) -> None:
    notebook = opened(open_notebook, ENDLESS_RUN)
    notebook.run_cell(1, wait=False)
    root = drawn(notebook)
    before = wait_for_steps(root, 0)
    notebook.save()
    kill_writer(latest_run(jupyter_lab))
    expect(part(root, "state")).to_have_text("interrupted")
    expect(part(root, "reason")).to_contain_text("its kernel ended before the run did")
    expect(part(root, "stop")).to_be_hidden()
    assert steps(root) >= before
    again = open_notebook(notebook.path, kernel=False)
    expect(part(drawn(again), "state")).to_have_text("interrupted")
    assert steps(drawn(again)) == steps(root)
    again.screenshot("output-interrupted", of=drawn(again).locator(".dlfb-top"), tolerance=0.15)


def test_a_finished_notebook_is_drawn_without_a_kernel(open_notebook, jupyter_lab) -> None:
    notebook = opened(open_notebook, "run = %dlfb_train model (x, y) --valid 0.2 --epochs 20 --name kept", "run")
    notebook.run_cell(1)
    notebook.run_cell(2)
    expect(part(drawn(notebook), "state")).to_have_text("finished")
    expect(part(drawn(notebook, 2), "state")).to_have_text("finished")
    notebook.save()
    (session,) = json.loads(jupyter_lab.request("GET", "api/sessions"))
    jupyter_lab.request("DELETE", f"api/sessions/{session['id']}")
    again = open_notebook(notebook.path, kernel=False)
    root = drawn(again)
    expect(part(root, "state")).to_have_text("finished")
    expect(part(root, "progress")).to_contain_text("step 1,000 of 1,000")
    assert steps(root) == 1000
    root.scroll_into_view_if_needed()
    again.screenshot("output-without-kernel", of=root.locator(".dlfb-grid"), tolerance=0.15)
    assert again.console_errors == []


BY_ITSELF = """
    import flax.linen as nn, numpy as np
    import dlfb_lab
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 2)).astype("f4")
    y = np.where(x[:, 0] > 0, "a", "b")
    dlfb_lab.train(nn.Dense(2), (x, y), valid=0.2, steps=10**9, name="by-itself")
"""


def test_the_server_may_be_restarted_while_a_run_goes_on(open_notebook, own_lab) -> None:
    lab = own_lab()
    script = [sys.executable, "-c", textwrap.dedent(BY_ITSELF)]
    with subprocess.Popen(script, cwd=lab.folder, env=lab.environment, stdout=subprocess.DEVNULL) as training:
        try:
            notebook = opened(
                open_notebook,
                "import time, dlfb_lab\n"
                "while not (dlfb_lab.runs() and dlfb_lab.runs()[0].record.blocks): time.sleep(0.1)\n"
                "dlfb_lab.open_run('by-itself')",
                lab=lab,
            )
            notebook.run_cell(1)
            root = drawn(notebook)
            wait_for_steps(root, 0)
            dismiss_dialog(notebook)
            lab.stop()
            expect(part(root, "notes")).to_contain_text("cannot be reached", timeout=20_000)
            before = steps(root)
            assert before > 0
            lab.start()
            wait_for_steps(root, before)
            expect(part(root, "notes")).not_to_contain_text("cannot be reached")
            expect(part(root, "state")).to_have_text("running")
            part(root, "stop").click()
            expect(part(root, "state")).to_have_text("stopped")
            assert training.wait(timeout=30) == 0
        finally:
            training.kill()


def test_a_run_of_a_server_that_was_restarted_is_over(open_notebook, own_lab) -> None:
    lab = own_lab()
    notebook = opened(open_notebook, ENDLESS_RUN, lab=lab)
    notebook.run_cell(1, wait=False)
    before = wait_for_steps(drawn(notebook), 0)
    notebook.save()
    lab.stop()
    lab.start()
    # A server that ends in order interrupts its kernels first, and a run that is interrupted keeps itself.
    expect(part(drawn(notebook), "state")).to_have_text("stopped", timeout=30_000)
    assert steps(drawn(notebook)) >= before


def test_a_run_that_the_server_cannot_see_is_drawn_by_the_widget(open_notebook, jupyter_lab) -> None:
    notebook = opened(
        open_notebook,
        "import os; os.environ['DLFB_REGISTER'] = 'elsewhere'",
        "run = %dlfb_train model (x, y) --valid 0.2 --epochs 20 --name far --store elsewhere/runs",
    )
    notebook.run_cell(1)
    notebook.run_cell(2)
    output = notebook.output(2)
    given = output.locator(".dlfb-hand-over .dlfb-dash")
    expect(given).to_be_visible(timeout=TRAINED_S)
    expect(part(given, "state")).to_have_text("finished")
    notebook.save()
    (session,) = json.loads(jupyter_lab.request("GET", "api/sessions"))
    jupyter_lab.request("DELETE", f"api/sessions/{session['id']}")
    again = open_notebook(notebook.path, kernel=False)
    picture = again.output(2).locator("img[alt='loss and metric curves']")
    expect(picture).to_be_visible()
    expect(again.output(2)).not_to_contain_text("Loading widget")
    expect(again.output(2)).not_to_contain_text("Error displaying widget")
    assert again.console_errors == []


def test_the_widget_is_live_while_its_cell_is_busy(open_notebook) -> None:
    notebook = opened(
        open_notebook,
        "import os; os.environ['DLFB_REGISTER'] = 'elsewhere'",
        f"run = %dlfb_train model (x, y) --valid 0.2 {ENDLESS} --name far --store elsewhere/runs",
    )
    notebook.run_cell(1)
    notebook.run_cell(2, wait=False)
    given = notebook.output(2).locator(".dlfb-hand-over .dlfb-dash")
    expect(given).to_be_visible(timeout=20_000)
    wait_for_steps(given, wait_for_steps(given, 0))
    expect(part(given, "state")).to_have_text("running")
    notebook.page.evaluate("jupyterapp.shell.currentWidget.sessionContext.session.kernel.interrupt()")
    expect(part(given, "state")).to_have_text("stopped")
    assert notebook.console_errors == []


def test_without_the_server_extension_the_widget_is_shown_and_the_remedy_said(open_notebook, own_lab) -> None:
    lab = own_lab("--ServerApp.jpserver_extensions={'dlfb_lab': False}")
    notebook = opened(open_notebook, "run = %dlfb_train model (x, y) --valid 0.2 --epochs 20", lab=lab)
    notebook.run_cell(1)
    output = notebook.output(1)
    given = output.locator(".dlfb-hand-over .dlfb-dash")
    expect(given).to_be_visible(timeout=TRAINED_S)
    expect(part(given, "state")).to_have_text("finished")
    expect(output).to_contain_text("jupyter server extension enable dlfb_lab")
    output.scroll_into_view_if_needed()
    notebook.screenshot("output-without-extension", of=part(output, "why"), tolerance=0.15)


def saved_notebook(lab, name: str, *bundles: dict) -> object:
    """A notebook as somebody else left it: outputs, and no kernel."""
    cells = [
        new_code_cell("train", outputs=[new_output("display_data", data={"text/plain": "as text", **data})])
        for data in bundles
    ]
    notebook = new_notebook(cells=cells)
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    path = lab.folder / f"{name}.ipynb"
    nbformat.write(notebook, path)
    return path


KEPT = """
    import flax.linen as nn, numpy as np
    import dlfb_lab
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2000, 2)).astype("f4")
    y = np.where(x[:, 0] > 0, "a", "b")
    dlfb_lab.train(nn.Dense(2), (x, y), valid=0.2, epochs=20, name="<b>kept</b>")
"""


@pytest.fixture(scope="session")
def kept_run(jupyter_lab):
    """The folder of a finished run, and what an output says of it."""
    script = [sys.executable, "-c", textwrap.dedent(KEPT)]
    subprocess.run(script, cwd=jupyter_lab.folder, env=jupyter_lab.environment, stdout=subprocess.DEVNULL, check=True)
    path = latest_run(jupyter_lab)
    reference = {
        "version": "0.1.0",
        "store": register.key(path.parent),
        "run": path.name,
        "name": "<b>kept</b>",
    }
    return path, reference


def test_an_untrusted_notebook_only_draws(open_notebook, jupyter_lab, kept_run) -> None:
    _, reference = kept_run
    script = "<script>window.evil = true</script><style onload='window.evil = true'></style>"
    evil = {"text/html": f"<b>static</b>{script}"}
    path = saved_notebook(
        jupyter_lab, "untrusted", {RUN: reference, **evil}, {RUN: {**reference, "run": "another"}, **evil}
    )
    notebook = open_notebook(path, kernel=False)
    root = drawn(notebook, 0)
    expect(part(root, "state")).to_have_text("finished")
    expect(part(root, "name")).to_have_text("<b>kept</b>")
    expect(notebook.output(1)).to_contain_text("static")
    assert notebook.page.evaluate("window.evil") is None
    assert notebook.console_errors == []


def test_an_untrusted_notebook_has_no_buttons(open_notebook, jupyter_lab) -> None:
    training = opened(open_notebook, ENDLESS_RUN)
    training.run_cell(1, wait=False)
    wait_for_steps(drawn(training), 0)
    run = latest_run(jupyter_lab)
    reference = {"version": "0.1.0", "store": register.key(run.parent), "run": run.name, "name": "endless"}
    notebook = open_notebook(saved_notebook(jupyter_lab, "no-buttons", {RUN: reference}), kernel=False)
    root = drawn(notebook, 0)
    wait_for_steps(root, 0)
    expect(part(root, "state")).to_have_text("running")
    for button in ("stop", "pause", "resume"):
        expect(part(root, button)).to_be_hidden()


@pytest.mark.parametrize(
    "changed",
    [
        {"run": "../../etc"},
        {"run": ""},
        {"run": 7},
        {"store": "<img src=x>"},
        {"run": "no-such-run", "name": "<img src=x onerror='window.evil=true'>"},
        {"version": None},
    ],
    ids=str,
)
def test_a_reference_that_is_wrong_shows_the_static_part(open_notebook, jupyter_lab, kept_run, changed) -> None:
    _, reference = kept_run
    wrong = {RUN: {**reference, **changed}, "text/html": "<p>the static part</p>"}
    notebook = open_notebook(saved_notebook(jupyter_lab, "wrong", wrong), kernel=False)
    shown = notebook.output(0).locator(".dlfb-output")
    if changed == {"version": None}:
        expect(shown.locator(".dlfb-dash [data-dlfb=state]")).to_have_text("finished")
    else:
        expect(shown).to_contain_text("the static part")
    assert notebook.page.evaluate("window.evil") is None
    assert notebook.console_errors == []


def test_a_journal_that_is_damaged_or_newer_is_drawn_with_a_word(open_notebook, jupyter_lab, kept_run) -> None:
    path, reference = kept_run
    journals = {}
    for name in ("cut", "newer", "deleted"):
        journals[name] = path.with_name(f"{path.name}-{name}")
        shutil.copytree(path, journals[name])
    file = journals["cut"] / "events.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    file = journals["newer"] / "events.jsonl"
    started, *others = file.read_text().splitlines()
    newer = {**json.loads(started), "version": 99, "added": "later"}
    unknown = {"kind": "from_the_future", "step": 1, "time_s": 1.0}
    file.write_text("\n".join([json.dumps(newer), json.dumps(unknown), *others]) + "\n")
    bundles = [{RUN: {**reference, "run": journal.name}} for journal in journals.values()]
    notebook = open_notebook(saved_notebook(jupyter_lab, "damaged", *bundles), kernel=False)
    cut, newer_root, deleted = (drawn(notebook, i) for i in range(3))
    expect(part(cut, "state")).to_have_text("interrupted")
    assert 0 < steps(cut) < 1000
    newer_root.scroll_into_view_if_needed()
    expect(part(newer_root, "state")).to_have_text("finished")
    expect(part(newer_root, "notes")).to_contain_text("newer than this view")
    deleted.scroll_into_view_if_needed()
    expect(part(deleted, "state")).to_have_text("finished")
    shutil.rmtree(journals["deleted"])
    expect(part(deleted, "notes")).to_contain_text("was deleted", timeout=20_000)
    assert steps(deleted) == 1000, "what was drawn stays"
