"""The widget's half in Python: what is sent, and what is left in a saved notebook."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dlfb_lab import __version__, journal, register
from dlfb_lab import events as vocabulary
from dlfb_lab.events import Losses, Status
from dlfb_lab.record import MOST_SAVED, Record, saved_events
from dlfb_lab.views import bundle

if not bundle.widget_built():
    pytest.skip("the widget's half in the browser was not built: make build", allow_module_level=True)

from dlfb_lab.views import widget

GOLDEN = Record(journal._read_file(Path(__file__).parents[1] / "golden" / "run.jsonl"))


def decoded(saved: list[dict[str, Any]]) -> Record:
    text = json.dumps(saved, allow_nan=False)
    return Record(e for values in json.loads(text) if (e := vocabulary.from_json(values)) is not None)


def long_record(steps: int) -> Record:
    losses = np.random.default_rng(0).random(steps).astype(np.float32)
    blocks = [
        Losses(step=min(a + 7000, steps), first_step=a, losses=losses[a : a + 7000], duration_s=0.5, dispatches=2)
        for a in range(0, steps, 7000)
    ]
    return Record([*GOLDEN.events[:5], *blocks, *GOLDEN.evaluations, Status(step=steps, state="finished")])


def test_a_short_run_is_saved_whole_in_one_block() -> None:
    again = decoded(saved_events(GOLDEN))
    assert len(again.blocks) == 1
    for ours, theirs in zip(again.losses(), GOLDEN.losses(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert again.blocks[0].duration_s == 1.5
    assert again.blocks[0].dispatches == 6
    assert again.step == 60
    others = [e.kind for e in GOLDEN.events if e.kind != "losses"]
    assert [e.kind for e in again.events if e.kind != "losses"] == others
    assert math.isnan(again.evaluated("valid")[-1].metrics["loss"])


@pytest.mark.parametrize("steps", [20_000, 20_001, 65_537, 1_000_000])
def test_a_long_run_is_saved_as_means(steps: int) -> None:
    record = long_record(steps)
    saved = saved_events(record)
    again = decoded(saved)
    (block,) = again.blocks
    assert len(block.losses) <= MOST_SAVED
    assert block.stride == math.ceil(steps / MOST_SAVED)
    assert (block.first_step, block.step, again.step) == (0, steps, steps)
    _, losses = record.losses()
    np.testing.assert_allclose(block.losses[0], losses[: block.stride].mean(dtype=float), rtol=1e-6)
    tail = len(losses) % block.stride or block.stride
    np.testing.assert_allclose(block.losses[-1], losses[-tail:].mean(dtype=float), rtol=1e-6)
    assert len(json.dumps(saved)) < 300_000
    assert block.dispatches == sum(b.dispatches for b in record.blocks)


def test_a_run_without_a_step_is_saved_as_it_is() -> None:
    assert saved_events(Record(GOLDEN.events[:5])) == [vocabulary.to_json(e) for e in GOLDEN.events[:5]]
    assert saved_events(Record()) == []


def test_a_budget_allows_a_burst_and_then_a_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(widget, "monotonic", lambda: now[0])
    budget = widget.Budget(per_s=10, burst=3)
    assert [budget.take() for _ in range(5)] == [True, True, True, False, False]
    now[0] = 0.1
    assert [budget.take() for _ in range(2)] == [True, False]
    now[0] = 100.0
    assert [budget.take() for _ in range(5)] == [True, True, True, False, False]


class Sent(list[dict[str, Any]]):
    """What a dashboard would have sent to the browser."""

    def __call__(self, content: dict[str, Any]) -> None:
        json.dumps(content, allow_nan=False)
        self.append(content)


def view_and_sent(monkeypatch: pytest.MonkeyPatch, control: Any = None) -> tuple[widget.WidgetView, Sent]:
    view, sent = widget.WidgetView("mine", control), Sent()
    monkeypatch.setattr(view.dashboard, "send", sent)
    return view, sent


def test_every_event_is_sent_once_and_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    view, sent = view_and_sent(monkeypatch)
    for event in GOLDEN.events * 3:
        view.put(event)
    view.close()
    assert [m["first"] for m in sent] == np.cumsum([0, *(len(m["events"]) for m in sent)])[:-1].tolist()
    told = [e for m in sent for e in m["events"]]
    assert told == [vocabulary.to_json(e) for e in GOLDEN.events * 3]
    assert len(sent) < len(told), "events that come at once go together"
    assert view.dashboard.snapshot == saved_events(Record(GOLDEN.events * 3))
    assert view.dashboard.title == "mine"


def test_a_view_that_opens_late_gets_a_snapshot_and_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    view, sent = view_and_sent(monkeypatch)
    for event in GOLDEN.events:
        view.put(event)
    count = sum(len(m["events"]) for m in sent)
    sent.clear()
    view._received(view.dashboard, {"type": "snapshot"}, [])
    (answer,) = sent
    assert answer["type"] == "snapshot"
    assert answer["next"] == count
    assert answer["events"] == saved_events(Record(GOLDEN.events[:count]))


def test_buttons_are_there_only_where_somebody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    deaf, _ = view_and_sent(monkeypatch)
    assert deaf.dashboard.controls == []
    deaf._received(deaf.dashboard, {"type": "control", "action": "stop"}, [])
    asked: list[str] = []
    view, _ = view_and_sent(monkeypatch, asked.append)
    assert view.dashboard.controls == ["pause", "resume", "stop"]
    view._received(view.dashboard, {"type": "control", "action": "pause"}, [])
    assert asked == ["pause"]
    view.close()
    assert view.dashboard.controls == [], "a run that is over cannot be stopped"


def test_the_outcome_has_every_form() -> None:
    found = bundle.outcome(GOLDEN, "failed")
    assert set(found) == {"text/plain", "text/html", "image/svg+xml"}
    assert found["image/svg+xml"].startswith("<svg")


def test_the_static_outcome_joins_the_live_view_at_the_end() -> None:
    told: list[dict[str, Any]] = []
    run = SimpleNamespace(journal_lost=False)
    sink = bundle._Outcome(run, told.append)  # type: ignore[arg-type]
    for event in GOLDEN.events:
        sink.put(event)
    assert told == []
    sink.close()
    (data,) = told
    assert set(data) == {"text/plain", "text/html", "image/svg+xml"}


def test_an_output_whose_journal_is_lost_is_handed_to_the_widget() -> None:
    told: list[dict[str, Any]] = []
    run = SimpleNamespace(journal_lost=False)
    sink = bundle._Outcome(run, told.append)  # type: ignore[arg-type]
    sink.put(GOLDEN.events[0])
    run.journal_lost = True
    for event in GOLDEN.events[1:]:
        sink.put(event)
    assert told == [{}], "the reference to the journal is left out once"
    assert bundle.reference(SimpleNamespace(path=Path("store/run"), journal_lost=True)) == {}  # type: ignore[arg-type]


class Kernel:
    """What of a shell the views look at."""

    def __init__(self, stdin: bool) -> None:
        self.kernel = type("kernel", (), {"_allow_stdin": stdin})()
        self.execution_count = 3


class Handle:
    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []

    def update(self, data: dict[str, Any], **how: Any) -> None:
        self.told.append(data)


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize(("stdin", "built"), [(True, True), (False, True), (True, False)])
def test_a_notebook_gets_a_widget_and_nbconvert_text(
    stdin: bool, built: bool, kept: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive = stdin and built
    handle, shown = Handle(), []

    def display(data: dict[str, Any], **how: Any) -> Handle:
        shown.append(data)
        return handle

    monkeypatch.setattr(bundle, "_shell", lambda: Kernel(stdin))
    monkeypatch.setattr(bundle, "widget_built", lambda: built)
    monkeypatch.setattr("IPython.display.display", display)
    path = tmp_path / "mine-1" if kept else None
    run = SimpleNamespace(name="mine", dashboard=None, shown_in=None, path=path, journal_lost=False)
    sinks = bundle.open_view(run, None)
    for event in GOLDEN.events:
        for sink in sinks:
            sink.put(event)
    for sink in sinks:
        sink.close()
    assert run.shown_in == 3
    assert (run.dashboard is not None) is alive
    assert (bundle.WIDGET in shown[0]) is alive
    assert "text/plain" in shown[0]
    assert (bundle.WIDGET in handle.told[-1]) is alive
    assert {"text/plain", "text/html", "image/svg+xml"} <= set(handle.told[-1])
    named = {"version": __version__, "store": register.key(tmp_path), "run": "mine-1", "name": "mine"}
    assert [data.get(bundle.RUN) for data in (*shown, *handle.told)] == [named if kept else None] * len(
        [*shown, *handle.told]
    )


def test_a_plain_script_gets_the_console(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "_shell", lambda: None)
    (sink,) = bundle.open_view(None, None)  # type: ignore[arg-type]
    assert type(sink).__name__ == "ConsoleView"
