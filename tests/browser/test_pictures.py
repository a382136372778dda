"""Several members at once, the parts of a loss, and a test of learning rates, as JupyterLab draws them."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output
from playwright.sync_api import expect

from dlfb_lab import journal, register
from dlfb_lab.events import RunStarted
from tests import pictures

from .training import part, wait_for_steps

RUN = "application/vnd.dlfb-lab.run+json"
THEMES = {"light": "JupyterLab Light", "dark": "JupyterLab Dark"}


@pytest.fixture
def shown(open_notebook, jupyter_lab, monkeypatch):
    """A function that keeps events as a run, and opens a notebook whose output is that run."""
    monkeypatch.setenv("DLFB_REGISTER", str(jupyter_lab.register))
    store = jupyter_lab.folder / "pictures"
    register.note(store)

    def show(told, theme="light"):
        kept = journal.create(store, "picture")
        for event in told:
            kept.put(replace(event, run_id=kept.path.name) if isinstance(event, RunStarted) else event)
        kept.close()
        reference = {"version": "0.1.0", "store": register.key(store), "run": kept.path.name, "name": "picture"}
        output = new_output("display_data", {RUN: reference, "text/plain": "picture"})
        notebook = open_notebook(new_notebook(cells=[new_code_cell("0", outputs=[output])]), kernel=False)
        notebook.page.evaluate(
            "(theme) => jupyterapp.commands.execute('apputils:change-theme', {theme})", THEMES[theme]
        )
        root = notebook.output(0).locator(".dlfb-output .dlfb-dash")
        expect(root).to_have_attribute("data-dlfb-theme", theme)
        return notebook, root

    return show


@pytest.mark.parametrize("theme", THEMES)
def test_members_are_a_mean_with_its_band(shown, theme: str) -> None:
    notebook, root = shown(pictures.members(), theme)
    assert wait_for_steps(root, 9_999) == 10_000
    expect(part(root, "best")).to_have_text(re.compile(r"^best valid/loss 0\.\d+ at step 10,000 by seed 3; best mean"))
    expect(part(root, "plan")).to_have_text("fused: 40 µs a step against 250 µs one by one")
    expect(root.locator(".dlfb-loss .dlfb-chart-head")).to_contain_text("mean of 8 ± sd")
    expect(root.locator(".dlfb-loss .dlfb-legend").first).to_have_attribute(
        "title", re.compile(r"seed 0: 0\.\d+\nseed 1")
    )
    best = root.locator("[data-dlfb=members] .dlfb-best-member")
    expect(best).to_have_count(1)
    expect(best).to_contain_text("seed 3")
    expect(part(root, "final")).to_contain_text(re.compile(r"0\.\d+ ± 0\.\d+"))
    notebook.screenshot(f"members-{theme}", of=root.locator(".dlfb-grid"))
    plot = root.locator(".dlfb-loss .u-over")
    plot.hover(position={"x": 100, "y": 60})
    expect(root.locator(".dlfb-loss .dlfb-tip")).to_contain_text("sd of 8± 0.")
    assert notebook.console_errors == []


@pytest.mark.parametrize("theme", THEMES)
def test_parts_of_the_loss_have_a_chart_and_scores_another(shown, theme: str) -> None:
    notebook, root = shown(pictures.parts(), theme)
    assert wait_for_steps(root, 5_999) == 6_000
    parts = root.locator(".dlfb-parts")
    expect(parts.locator(".dlfb-legend")).to_have_count(4)
    expect(parts).to_contain_text("commitment_loss")
    scores = root.locator(".dlfb-metrics .dlfb-chart")
    expect(scores).to_have_count(1)
    expect(scores).to_contain_text(re.compile(r"codebook_usagetraining0\.\d+valid0\.\d+"))
    notebook.screenshot(f"parts-{theme}", of=root.locator(".dlfb-grid"))
    parts.locator(".u-over").hover(position={"x": 100, "y": 40})
    expect(parts.locator(".dlfb-tip")).to_contain_text(re.compile(r"reconstruction_loss0\.\d+"))
    assert notebook.console_errors == []


@pytest.mark.parametrize("theme", THEMES)
def test_a_test_of_learning_rates_is_shown_until_training_begins(shown, theme: str) -> None:
    notebook, root = shown(pictures.rate_test(ended=False), theme)
    expect(part(root, "trial").locator("svg")).to_have_attribute("aria-label", re.compile("0.0032 was chosen"))
    expect(part(root, "rates")).to_be_hidden()
    notebook.screenshot(f"rates-{theme}", of=root.locator(".dlfb-loss"))
    assert notebook.console_errors == []


def test_a_test_of_learning_rates_is_folded_away_afterwards(shown) -> None:
    notebook, root = shown(pictures.rate_test())
    assert wait_for_steps(root, 1_999) == 2_000
    expect(part(root, "trial")).to_be_hidden()
    fold = part(root, "rates")
    expect(fold.locator("summary")).to_have_text("Learning rate 0.0032 was chosen")
    fold.locator("summary").click()
    expect(fold.locator("svg .dlfb-rates-line")).to_be_visible()
    expect(fold).to_contain_text("100 rates tried in 800 ms.")
    assert notebook.console_errors == []


def test_a_run_of_unknown_length_has_steps_and_time_and_no_share(shown) -> None:
    notebook, root = shown(pictures.endless())
    wait_for_steps(root, 299)
    expect(part(root, "progress")).to_have_text("step 300 · 200 steps/s")
    expect(part(root, "time")).to_contain_text("elapsed")
    expect(part(root, "time")).not_to_contain_text("left")
    expect(part(root, "plan")).to_have_text("streamed: the batches come from a generator")
    assert notebook.console_errors == []
