"""The summary of a run says what its record says, however its events arrive, and does not grow with it."""

from __future__ import annotations

import math
import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlfb_lab.events import Baseline, Compilation, DeviceMemory, Event, Losses, Notice, RunStarted, to_json
from dlfb_lab.record import Record
from dlfb_lab.server.curves import POINTS, MeanCurve, ThinnedCurve
from dlfb_lab.server.digest import Digest

from .runs import STARTED, evaluation, losses, status, story

numbers = st.one_of(
    st.floats(-10, 10), st.sampled_from([0.0, -0.0, 1.0, math.nan, math.inf, -math.inf]), st.floats(allow_nan=False)
)
times = st.floats(1.6e9, 1.7e9)


@st.composite
def runs(draw: st.DrawFn) -> list[Event]:
    """Any events in any order, as no run would have them."""
    told: list[Event] = []
    step = 0
    for kind in draw(st.lists(st.sampled_from("lllleeebnsmcr"), max_size=30)):
        time_s = draw(times)
        match kind:
            case "l":
                values = np.asarray(draw(st.lists(st.floats(width=32), min_size=1, max_size=8)), np.float32)
                first = draw(st.sampled_from([step, step, step + 3]))
                step = first + len(values)
                told.append(Losses(step=step, time_s=time_s, first_step=first, losses=values, duration_s=0.1))
            case "e":
                metrics = draw(st.dictionaries(st.sampled_from(["loss", "r2", "mae"]), numbers, min_size=1))
                split = draw(st.sampled_from(["valid", "valid", "test", "train"]))
                look = draw(st.integers(0, 2)) if split == "test" else 0
                told.append(evaluation(step, split=split, metrics=metrics, look=look, time_s=time_s))
            case "b":
                metrics = {"loss": draw(numbers)}
                split = draw(st.sampled_from(["valid", "test"]))
                told.append(Baseline(step=step, time_s=time_s, name="mean", split=split, metrics=metrics))
            case "n":
                level: Any = draw(st.sampled_from(["info", "warning"]))
                told.append(Notice(step=step, time_s=time_s, level=level, text="look"))
            case "s":
                state = draw(st.sampled_from(["compiling", "running", "paused", "finished", "stopped", "failed"]))
                told.append(status(step, state, time_s=time_s, reason=draw(st.sampled_from(["", "why"]))))
            case "m":
                device = draw(st.sampled_from(["cuda:0", "cuda:1"]))
                told.append(DeviceMemory(step=step, time_s=time_s, device=device, device_kind="", in_use_bytes=1.0))
            case "c":
                given = {"program": "p", "trace_s": 0.1, "lower_s": 0.1, "compile_s": 0.1, "planned": True, "cause": ""}
                told.append(Compilation(step=step, time_s=time_s, **given))  # type: ignore[arg-type]
            case "r":
                monitor = draw(st.sampled_from(["valid/loss", "valid/r2", "test/mae", "", "loss"]))
                mode: Any = draw(st.sampled_from(["min", "max"]))
                told.append(replace(STARTED, time_s=time_s, monitor=monitor, monitor_mode=mode))
    return told


def number(value: Any) -> float:
    return float(value.replace("Infinity", "inf")) if isinstance(value, str) else float(value)


def same(a: float, b: float) -> bool:
    return a == pytest.approx(b, rel=1e-5, nan_ok=True)


@settings(max_examples=300, deadline=None)
@given(told=runs(), cuts=st.lists(st.integers(0, 30), max_size=4))
def test_it_says_what_the_record_says(told: list[Event], cuts: list[int]) -> None:
    record, digest = Record(told), Digest()
    values = [to_json(event) for event in told]
    for first, last in zip([0, *sorted(cuts)], [*sorted(cuts), len(values)], strict=True):
        digest.put(values[first:last])
    said = digest.summary()
    assert said["state"] == digest.state == (record.status.state if record.status else "waiting")
    assert said["reason"] == (record.status.reason if record.status else "")
    assert said["step"] == record.step
    assert said["elapsed_s"] == pytest.approx(record.elapsed_s)
    best = record.best()
    assert (said["best"] is None) == (best is None)
    if best is not None and record.started is not None:
        assert said["best"] == {"column": record.started.monitor, "value": best[1], "step": best[0]}
    latest = {event.split: event.metrics for event in record.evaluations}
    assert set(said["scores"]) == set(latest)
    for split, metrics in latest.items():
        assert set(said["scores"][split]) == set(metrics)
        assert all(same(number(said["scores"][split][name]), value) for name, value in metrics.items())
    assert said["warnings"] == sum(notice.level == "warning" for notice in record.notices)
    assert digest.is_run == (record.started is not None)
    if record.started is not None:
        assert (said["name"], said["model"]) == (record.started.name, record.started.model)
        assert said["started_s"] == record.started.time_s
        assert said["versions_dlfb_lab"] == "0.1.0"
        monitored = [b for b in record.baselines if b.split == record.started.monitor.partition("/")[0]]
        wanted = (monitored or record.baselines or [None])[-1]
        assert (said["baseline"] and said["baseline"]["split"]) == (wanted and wanted.split)
    assert said["updated_s"] == max((event.time_s for event in told), default=0.0)
    assert {memory["device"] for memory in said["memory"]} == {
        event.device for event in told if isinstance(event, DeviceMemory)
    }


@settings(max_examples=100, deadline=None)
@given(
    counts=st.lists(st.integers(1, 60), min_size=1, max_size=40),
    cut=st.integers(0, 40),
    bad=st.sets(st.integers(0, 500), max_size=20),
)
def test_its_curve_is_the_mean_of_equal_spans(counts: list[int], cut: int, bad: set[int]) -> None:
    values = np.random.default_rng(0).random(sum(counts), dtype=np.float32)
    for place in bad:
        if place < len(values):
            values[place] = math.nan
    told, first = [], 0
    for count in counts:
        told.append(to_json(losses(first, values[first : first + count])))
        first += count
    digest = Digest()
    digest.put(told[:cut])
    digest.put(told[cut:])
    curve = digest.summary()["curve"]
    assert len(curve["steps"]) == len(curve["losses"]) <= POINTS
    assert len(curve["steps"]) >= min(len(values), POINTS // 2)
    assert curve["steps"] == sorted(set(curve["steps"]))
    width = 1
    while (len(values) - 1) // width >= POINTS:
        width *= 2
    for step, told_mean in zip(curve["steps"], curve["losses"], strict=True):
        span = values[step // width * width : (step // width + 1) * width]
        finite = span[np.isfinite(span)]
        wanted = finite.mean(dtype=np.float64) if len(finite) else math.nan
        assert same(number(told_mean), float(wanted))


def test_a_run_whose_loss_became_nan_shows_where() -> None:
    digest = Digest()
    digest.put([to_json(losses(0, [1.0] * 300)), to_json(losses(300, [math.nan] * 300))])
    curve = digest.summary()["curve"]
    assert curve["losses"][0] == 1.0 and curve["losses"][-1] == "NaN"
    assert curve["losses"].count("NaN") == pytest.approx(len(curve["losses"]) / 2, abs=2)


def test_steps_far_apart_and_of_a_stride_have_their_places() -> None:
    curve = MeanCurve()
    curve.add(0, 1, np.array([5.0]))
    curve.add(2**52, 2**20, np.array([1.0, 3.0]))
    steps, means = curve.points()
    assert means == [5.0, 2.0]
    assert steps[0] == 0 and abs(steps[1] - 2**52) <= 2**20


def test_infinite_and_huge_values_do_no_harm() -> None:
    curve = MeanCurve()
    curve.add(0, 1, np.array([math.inf, -math.inf, 1e308, 1e308, math.nan, -1e308]))
    curve.add(0, 1, np.array([-math.inf, math.inf, 1e308, -1e308, 2.0, 1e308]))
    steps, means = curve.points()
    assert steps == [0, 1, 2, 3, 4, 5]
    assert math.isnan(means[0]) and math.isnan(means[1]) and means[3:] == [0.0, 2.0, 0.0]


@pytest.mark.parametrize("count", [0, 1, 2, 118, 119, 120, 121, 239, 240, 1000, 12_345])
def test_a_thinned_curve_keeps_the_first_and_the_latest(count: int) -> None:
    curve = ThinnedCurve()
    for step in range(count):
        curve.add(step, step / 2)
        steps, values = curve.points()
        assert len(steps) <= POINTS
        assert steps[0] == 0 and steps[-1] == step
        assert values == [step / 2 for step in steps]
    steps, _ = curve.points()
    assert len(steps) == min(count, len(steps)) and len(steps) >= min(count, POINTS // 2)
    gaps = set(np.diff(steps[:-1]).tolist())
    assert len(gaps) <= 1, "evenly apart, but for the latest"


def test_validation_losses_are_a_curve_of_their_own() -> None:
    digest = Digest()
    digest.put([to_json(evaluation(step, loss=1 / step)) for step in range(1, 6)])
    digest.put([to_json(evaluation(6, split="train")), to_json(evaluation(7, metrics={"r2": 1.0}))])
    digest.put([to_json(evaluation(8, loss=math.nan))])
    valid = digest.summary()["valid"]
    assert valid == {"steps": [1, 2, 3, 4, 5, 8], "values": [1, 0.5, 0.333333, 0.25, 0.2, "NaN"], "metric": "loss"}


def test_what_is_no_event_is_passed_over() -> None:
    digest = Digest()
    digest.put(to_json(event) for event in story())
    before = digest.summary()
    digest.put(
        [
            {"kind": "from_the_future", "time_s": 1.0},
            {"kind": "status"},
            {"kind": "status", "time_s": "soon", "state": "failed"},
            {"kind": "evaluation", "time_s": 1.0, "split": "valid"},
            {"kind": "losses", "time_s": 1.0, "losses": "f4:!", "first_step": 0, "step": 9},
            {"kind": "losses", "time_s": 1.0, "losses": [1.0], "first_step": 0, "step": 9},
            {"kind": "run_started", "time_s": 1.0, "name": "half a plan"},
            {"kind": "notice", "time_s": 1.0},
            {"kind": "device_memory", "time_s": 1.0, "device": ["x"]},
        ]
    )
    assert digest.summary() == before


def test_a_long_run_takes_no_more_memory_than_a_short_one() -> None:
    def size(steps: int) -> int:
        digest = Digest()
        digest.put([to_json(replace(STARTED, source="x" * 100_000))])
        for first in range(0, steps, 500):
            block = losses(first, np.ones(500))
            digest.put([to_json(block), to_json(evaluation(first + 500))])
        assert digest.summary()["step"] == steps
        return len(pickle.dumps(digest))

    assert size(1_000_000) < 1.2 * size(200_000) < 20_000


def test_the_summary_of_a_finished_run_is_small_and_complete() -> None:
    digest = Digest()
    digest.put(to_json(event) for event in story("mlp", 20))
    said = digest.summary()
    assert isinstance(STARTED, RunStarted)
    assert (said["task"], said["device"], said["steps_total"]) == ("regression", "cpu", 100)
    assert said["best"] == {"column": "valid/loss", "value": 0.5, "step": 20}
    assert said["scores"] == {"valid": {"loss": 0.5}}
    assert said["elapsed_s"] == 20.0
    assert said["curve"]["steps"] == list(range(20))
