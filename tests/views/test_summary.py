from __future__ import annotations

import dataclasses
import io
import math
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dlfb_lab import journal
from dlfb_lab.events import Event, Losses, Notice, PlanChosen, Status
from dlfb_lab.record import Record
from dlfb_lab.views import console, figures, summary, svg
from tests import pictures

GOLDEN = Record(journal._read_file(Path(__file__).parents[1] / "golden" / "run.jsonl"))


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.213, "0.21 s"),
        (9.96, "10 s"),
        (12.3, "12 s"),
        (59.4, "59 s"),
        (200, "3 min 20 s"),
        (3599, "59 min 59 s"),
        (7500, "2 h 5 min"),
    ],
)
def test_a_duration_is_said_as_people_do(seconds: float, said: str) -> None:
    assert summary.duration(seconds) == said


def test_the_outcome_in_words() -> None:
    lines = summary.text(GOLDEN, "failed").splitlines()
    assert lines[0] == "golden <run>: failed (the loss is NaN) · 60 steps, 6 epochs in 7 s"
    assert lines[1] == "three classes, one per row"
    assert lines[2].split() == ["loss", "accuracy"]
    table = {line.rsplit(None, 2)[0].strip(): line.split()[-2:] for line in lines[4:7]}
    assert table == {
        "valid": ["nan", "0.9"],
        "test (1st look)": ["0.5", "0.75"],
        "majority class (valid)": ["1.1", "0.5"],
    }
    assert "best valid/loss 0.4 at step 40" in lines
    assert "warning: The loss is NaN at step 50." in lines


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("interrupted", "stopped and kept (interrupted)"),
        (
            "interrupted twice; the parameters were not kept",
            "stopped (interrupted twice; the parameters were not kept)",
        ),
    ],
)
def test_a_stopped_run_says_whether_it_was_kept(reason: str, said: str) -> None:
    record = Record([GOLDEN.started, Status(step=0, state="stopped", reason=reason)])
    assert f": {said} ·" in summary.headline(record, "stopped")


def test_the_columns_of_the_table_are_aligned() -> None:
    lines = summary.text(GOLDEN, "failed").splitlines()[2:7]
    assert len({len(line.rstrip()) for line in lines if "train" not in line}) == 1


@pytest.mark.parametrize("events", [[], [GOLDEN.started], GOLDEN.events[:5]])
def test_a_run_that_hardly_began_has_an_outcome_too(events: list[Event]) -> None:
    record = Record(events)
    assert "failed" in summary.text(record, "failed")
    assert "failed" in summary.html(record, "failed", "")
    assert summary.line(record, "failed").startswith("<Run ")
    assert summary.progress(record)


class Balanced(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.seen.add(tag)
        if tag != "img":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_outcome_in_html_is_balanced_and_escaped() -> None:
    evil = "<script>alert(1)</script>&"
    assert GOLDEN.started is not None
    started = dataclasses.replace(GOLDEN.started, name=evil, task_sentence=evil)
    notice = Notice(step=0, level="warning", text=evil)
    baseline = dataclasses.replace(GOLDEN.baselines[0], name=evil, metrics={evil: 1.0})
    parser = Balanced()
    record = Record([started, *GOLDEN.events[1:], notice, baseline])
    parser.feed(summary.html(record, "failed", svg.draw(record)))
    parser.close()
    assert parser.open == []
    assert {"img", "table"} <= parser.seen
    assert "script" not in parser.seen


def test_progress_is_one_line() -> None:
    line = summary.progress(GOLDEN)
    assert "\n" not in line
    for said in ("golden <run>", "step 60 of 100", "epoch 6", "valid/accuracy 0.9", "40 steps/s", "left: train 1 s"):
        assert said in line


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_file_gets_the_outcome_alone() -> None:
    out = io.StringIO()
    view = console.ConsoleView(out)
    for event in GOLDEN.events:
        view.put(event)
    assert out.getvalue() == ""
    view.close()
    assert out.getvalue() == summary.text(GOLDEN, "failed") + "\n"


def test_a_terminal_gets_one_line_rewritten_and_wiped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "EVERY_S", 0.0)
    out = Terminal()
    view = console.ConsoleView(out)
    for event in GOLDEN.events:
        view.put(event)
    assert "\n" not in out.getvalue()
    assert out.getvalue().count("\r") == len(GOLDEN.events)
    view.close()
    before, last, after = out.getvalue().rpartition("\r")
    assert last
    assert before.rpartition("\r")[2].strip() == "", "the line is wiped"
    assert after == summary.text(GOLDEN, "failed") + "\n"


def test_where_nothing_was_trained_the_error_says_all() -> None:
    out = io.StringIO()
    view = console.ConsoleView(out)
    view.put(GOLDEN.events[0])
    view.put(Status(step=0, state="failed", reason="no"))
    view.close()
    assert out.getvalue() == ""


def test_an_output_is_rewritten_with_the_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "EVERY_S", 0.0)
    told: list[dict[str, str]] = []
    view = console.OutputView(told.append)
    for event in GOLDEN.events:
        view.put(event)
    view.close()
    assert "step 60 of 100" in told[-1]["text/plain"]
    assert len(told) == sum(not isinstance(e, Status) for e in GOLDEN.events)


def test_a_figure_has_a_panel_for_each_metric() -> None:
    figure = figures.plot(GOLDEN)
    assert [axes.get_ylabel() for axes in figure.axes] == ["loss", "accuracy", "loss at each learning rate"]
    loss, accuracy, _ = figure.axes
    assert [t.get_text() for t in loss.get_legend().get_texts()] == ["train", "valid", "majority class"]
    np.testing.assert_array_equal(accuracy.lines[0].get_ydata(), [0.7, 0.7 + 0.1, 0.7 + 0.2])
    figure.canvas.draw()
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


@pytest.mark.parametrize("values", [[], [1.0], [math.nan, math.nan], [1e-6, 1e6], [0.0, 5.0]])
def test_a_figure_of_few_or_wild_losses_is_drawn(values: list[float]) -> None:
    events = [Losses(step=len(values), first_step=0, losses=np.array(values), duration_s=0.1)] if values else []
    figure = figures.plot(Record(events))
    figure.canvas.draw()
    (axes,) = figure.axes
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), np.array(values, float))


def test_members_have_a_table_of_their_own_with_the_best_one_marked() -> None:
    record = Record(pictures.members())
    names, rows = summary.members_table(record)
    assert names == ["best valid/loss", "at step", "train/loss", "valid/loss", "valid/accuracy", "valid/auc"]
    assert len(rows) == 8
    marked = [label for label, _ in rows if "(best)" in label]
    best = record.best_member()
    assert best is not None
    assert marked == [f"{record.members[best[0]]} (best)"]
    assert rows[best[0]][1][:2] == [summary.number(best[2]), f"{best[1]:,}"]
    text = summary.text(record, "finished")
    assert f"by {record.members[best[0]]}; best mean" in text
    assert " ± " in next(line for line in text.splitlines() if line.startswith("valid "))
    assert "8 members at once" in summary.headline(record, "finished")
    assert "seed 7" in summary.html(record, "finished", "")


def test_a_member_that_broke_down_has_the_scores_that_it_had() -> None:
    record = Record(journal._read_file(Path(__file__).parents[1] / "golden" / "members.jsonl"))
    _, rows = summary.members_table(record)
    assert rows[2][1] == ["0.4", "20", "nan", "nan", "nan"]
    assert "± 0.014" in summary.text(record, "stopped"), "of the others"


def test_parts_of_the_loss_are_columns_of_the_table() -> None:
    names, rows = summary.table(Record(pictures.parts()))
    assert names == ["loss", "reconstruction_loss", "commitment_loss", "codebook_loss", "kl", "codebook_usage"]
    assert all(rows[0][1])


def test_where_the_length_is_not_known_there_is_no_share_of_it() -> None:
    record = Record(pictures.endless())
    line = summary.progress(record)
    assert "step 300 ·" in line
    assert "epoch" not in line
    assert "elapsed 4 s" in line
    assert "epoch" not in summary.headline(record, "running")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"plan": "fused", "step_s": 2.5e-4, "fused_step_s": 4e-5}, "fused: 0.04 ms a step against 0.25 ms one by one"),
        ({"plan": "one by one", "step_s": 0.012}, "one by one: 12 ms a step"),
        ({"plan": "one by one", "step_s": 0.1, "fused_step_s": 1.5}, "one by one: 100 ms a step against 1.5 s fused"),
        ({"plan": "streamed"}, "streamed: it had to be"),
    ],
)
def test_a_plan_is_said_with_what_was_measured(given: dict[str, Any], said: str) -> None:
    assert summary.plan_text(PlanChosen(step=0, reason="it had to be", **given)) == said


def test_a_figure_has_bands_parts_and_the_rate_test() -> None:
    several = figures.plot(Record(pictures.members()))
    assert [len(axes.collections) for axes in several.axes] == [2, 1, 1]
    parts = figures.plot(Record(pictures.parts()))
    assert [axes.get_ylabel() for axes in parts.axes] == ["loss", "codebook usage", "parts of the loss"]
    rates = figures.plot(Record(pictures.rate_test())).axes[-1]
    assert (rates.get_xlabel(), rates.get_xscale()) == ("learning rate", "log")
    for figure in (several, parts):
        figure.canvas.draw()
