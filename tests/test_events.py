from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dlfb_lab import events
from dlfb_lab.events import (
    Baseline,
    CheckpointSaved,
    Compilation,
    DeviceMemory,
    Evaluation,
    Event,
    Losses,
    Notice,
    PlanChosen,
    RateTest,
    RunStarted,
    Status,
)

GOLDEN = Path(__file__).parent / "golden" / "run.jsonl"

STARTED = RunStarted(
    step=0,
    time_s=1.5,
    run_id="r-1",
    name="ünïcode <&> run",
    task="binary",
    task_sentence="binary classification: a / b, 10 rows, 50 % b",
    classes=["a", "b"],
    model="MLP",
    model_kind="linen",
    parameter_count=10,
    steps_total=100,
    steps_per_epoch=10,
    batch_size=4,
    evaluations_total=11,
    monitor="valid/loss",
    monitor_mode="min",
    rows={"train": 8, "valid": 2},
    split_hash="00ff",
    settings={"lr": 1e-3, "timebox": None, "scale": True, "optimizer": "adam", "epochs": 3},
    versions={"jax": "1.2"},
    device="cpu",
)
EVERY_KIND: list[Event] = [
    STARTED,
    Baseline(step=0, time_s=2.0, name="mean", split="valid", metrics={"loss": math.inf, "r2": math.nan, "mae": 0.1}),
    Losses(
        step=4,
        time_s=3.0,
        first_step=0,
        losses=np.array([1.0, math.nan, math.inf, -math.inf], np.float32),
        duration_s=0.5,
        dispatches=3,
    ),
    Losses(step=6, time_s=3.5, first_step=4, losses=np.array([0.1, 1e300]), stride=2, duration_s=0.5),
    Evaluation(step=6, time_s=4.0, split="test", metrics={"loss": -math.inf}, rows=2, duration_s=0.1, look=2),
    Compilation(
        step=0, time_s=4.5, program="train step", trace_s=0.1, lower_s=0.2, compile_s=0.3, planned=True, cause="first"
    ),
    Status(step=6, time_s=5.0, state="stopped", reason='told "so"\n'),
    Notice(step=6, time_s=6.0, level="warning", text="The training loss is NaN."),
    PlanChosen(step=0, time_s=2.0, plan="fused", reason="it is faster", step_s=2e-4, fused_step_s=math.nan),
    RateTest(
        step=0,
        time_s=2.0,
        rates=np.array([1e-3, 1e-2]),
        losses=np.array([1.0, math.inf], np.float32),
        chosen=1e-3,
        duration_s=0.1,
    ),
    Losses(
        step=8,
        time_s=3.5,
        first_step=6,
        losses=np.array([0.1, 0.2]),
        duration_s=0.5,
        parts={"kl": np.array([0.1, math.nan], np.float32)},
        members=[np.array([0.0, 0.1]), np.array([0.2, 0.3])],
    ),
    Evaluation(
        step=8,
        time_s=4.0,
        split="valid",
        metrics={"loss": 0.5},
        rows=2,
        duration_s=0.1,
        members=[{"loss": 0.0}, {"loss": math.nan}],
    ),
    CheckpointSaved(step=5, time_s=2.5, bytes=4096, duration_s=0.1, stall_s=0.01, state="complete", kept=[3, 5]),
    DeviceMemory(step=3, time_s=2.5, device="gpu:0", device_kind="GPU", in_use_bytes=1.0, preallocated=True),
]


def strict(values: Any) -> Any:
    """Through text as a browser would read it: no NaN or Infinity literals."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(json.dumps(values, allow_nan=False), parse_constant=refuse)


def same(a: object, b: object) -> bool:
    """Equal, with NaN equal to NaN, and blocks equal bit by bit."""
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.dtype == b.dtype and a.tobytes() == b.tobytes()
    if isinstance(a, float) and isinstance(b, float):
        return a == b or (math.isnan(a) and math.isnan(b))
    if isinstance(a, dict) and isinstance(b, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


def assert_same(a: Event, b: Event | None) -> None:
    assert type(a) is type(b)
    for field in dataclasses.fields(a):
        assert same(getattr(a, field.name), getattr(b, field.name)), field.name


def test_the_list_of_examples_has_every_kind() -> None:
    assert {type(e) for e in EVERY_KIND} == set(events.KINDS.values())


@pytest.mark.parametrize("event", EVERY_KIND, ids=lambda e: e.kind)
def test_every_kind_comes_back_from_strict_json_as_it_was(event: Event) -> None:
    assert_same(event, events.from_json(strict(events.to_json(event))))


@given(hnp.arrays(st.sampled_from([np.float32, np.float64]), st.integers(0, 40)))
def test_a_block_of_losses_keeps_its_bits(block: np.ndarray) -> None:
    event = Losses(step=len(block), time_s=0.0, first_step=0, losses=block, duration_s=0.0)
    assert_same(event, events.from_json(strict(events.to_json(event))))


def test_blocks_that_follow_one_another_are_joined() -> None:
    def block(first: int, count: int, **changed: Any) -> Losses:
        losses = np.arange(first, first + count, dtype=np.float32)
        event = Losses(step=first + count, time_s=float(first), first_step=first, losses=losses, duration_s=0.25)
        return dataclasses.replace(event, **changed)

    expected = block(2, 7, time_s=5.0, duration_s=0.5, dispatches=4)
    both = events.joined(block(2, 3, dispatches=3), block(5, 4))
    assert both is not None
    assert_same(expected, both)
    assert events.joined(block(2, 3), block(6, 4)) is None
    assert events.joined(block(2, 3, stride=2), block(8, 4)) is None
    assert events.joined(block(2, 3), block(5, 1, losses=np.array([1.0]))) is None


def test_blocks_are_joined_with_their_parts_and_members_where_both_have_the_same_ones() -> None:
    def block(first: int, **changed: Any) -> Losses:
        values = np.arange(first, first + 2, dtype=np.float32)
        given = {"parts": {"kl": values + 10}, "members": [values - 1, values + 1]} | changed
        return Losses(step=first + 2, time_s=0.0, first_step=first, losses=values, duration_s=0.1, **given)

    both = events.joined(block(0), block(2))
    assert both is not None
    assert both.parts["kl"].tolist() == [10, 11, 12, 13]
    assert [member.tolist() for member in both.members] == [[-1, 0, 1, 2], [1, 2, 3, 4]]
    for other in ({"parts": {}}, {"parts": {"mse": np.zeros(2, np.float32)}}, {"parts": {"kl": np.zeros(2)}}):
        assert events.joined(block(0), block(2, **other)) is None
    assert events.joined(block(0), block(2, members=[])) is None


@given(st.dictionaries(st.text(), st.floats()), st.text(), st.floats(allow_nan=True))
def test_scores_and_texts_come_back(metrics: dict[str, float], name: str, time_s: float) -> None:
    event = Baseline(step=0, time_s=time_s, name=name, split="valid", metrics=metrics)
    assert_same(event, events.from_json(strict(events.to_json(event))))


def test_numpy_scalars_are_written_as_numbers() -> None:
    event = Evaluation(
        step=np.int64(3),  # type: ignore[arg-type]
        time_s=0.0,
        split="valid",
        metrics={"loss": np.float32(0.5), "auc": np.float64("nan")},  # type: ignore[dict-item]
        rows=np.int32(2),  # type: ignore[arg-type]
        duration_s=0.0,
    )
    values = strict(events.to_json(event))
    assert (values["step"], values["rows"], values["metrics"]) == (3, 2, {"loss": 0.5, "auc": "NaN"})


def test_a_block_is_little_endian_base64() -> None:
    values = events.to_json(Losses(step=1, time_s=0.0, first_step=0, losses=np.array([1.0], ">f4"), duration_s=0.0))
    assert values["losses"] == "f4:AACAPw=="


def test_a_kind_of_a_newer_vocabulary_is_skipped() -> None:
    assert events.from_json({"kind": "hologram", "step": 3, "anything": [1]}) is None


def test_a_field_of_a_newer_vocabulary_is_skipped() -> None:
    event = EVERY_KIND[-1]
    assert_same(event, events.from_json({**events.to_json(event), "mood": "calm"}))


def test_a_field_with_a_default_may_be_missing() -> None:
    values = events.to_json(EVERY_KIND[4])
    del values["look"]
    event = events.from_json(values)
    assert isinstance(event, Evaluation)
    assert event.look == 0


@pytest.mark.parametrize(
    "broken",
    [
        {"step": 1},
        {"kind": "status", "time_s": 0.0},
        {"kind": "status", "step": 0, "time_s": "yesterday", "state": "running"},
        {**events.to_json(EVERY_KIND[2]), "losses": "f4:???"},
        {**events.to_json(EVERY_KIND[2]), "losses": "f2:AAA="},
        {**events.to_json(EVERY_KIND[2]), "losses": "f4:AAA="},
        {**events.to_json(EVERY_KIND[2]), "losses": 7},
        {**events.to_json(EVERY_KIND[1]), "metrics": None},
    ],
)
def test_what_is_not_an_event_raises_one_of_the_errors_that_readers_expect(broken: dict[str, Any]) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        events.from_json(broken)


def test_events_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        EVERY_KIND[0].step = 3  # type: ignore[misc]


def test_the_golden_journal_reads_as_it_was_meant() -> None:
    lines = GOLDEN.read_text(encoding="utf-8").splitlines()
    read = [events.from_json(json.loads(line)) for line in lines]
    assert [e.kind if e else None for e in read] == [
        "run_started",
        "status",
        "baseline",
        "compilation",
        "status",
        "notice",
        None,
        "rate_test",
        "plan_chosen",
        *("losses", "evaluation") * 3,
        "plan_chosen",
        "compilation",
        *("device_memory",) * 2,
        *("checkpoint_saved",) * 3,
        "notice",
        "evaluation",
        "status",
    ]
    blocks = [e for e in read if isinstance(e, Losses)]
    assert [b.losses.dtype.str for b in blocks] == ["<f4", "<f8", "<f4"]
    losses = np.concatenate([b.losses for b in blocks])
    assert np.flatnonzero(~np.isfinite(losses)).tolist() == [50, 51]
    assert math.isnan(losses[50])
    assert losses[51] == math.inf
    clean = np.exp(-np.arange(50) / 30) + 0.01 * np.random.default_rng(0).random(60)[:50]
    np.testing.assert_allclose(losses[:50], clean, rtol=1e-6)
    third = [e for e in read if isinstance(e, Evaluation)][2]
    assert math.isnan(third.metrics["loss"])


@pytest.mark.parametrize("name", ["run.jsonl", "members.jsonl"])
def test_writing_a_golden_journal_again_gives_its_lines(name: str) -> None:
    for line in GOLDEN.with_name(name).read_text(encoding="utf-8").splitlines():
        values = json.loads(line)
        event = events.from_json(values)
        assert event is None or events.to_json(event) == values
