from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dlfb_lab import journal
from dlfb_lab.cite import methods_paragraph
from dlfb_lab.events import Evaluation, Losses, Status
from dlfb_lab.record import Record


@pytest.fixture(scope="module")
def golden() -> Record:
    path = Path(__file__).parent / "golden" / "run.jsonl"
    return Record(journal._read_file(path))


def test_a_record_of_nothing_answers_everything() -> None:
    record = Record()
    assert (record.step, record.elapsed_s, record.ended, record.best(), record.time_left_s()) == (
        0,
        0.0,
        False,
        None,
        None,
    )
    assert math.isnan(record.steps_per_s)
    assert record.history().empty


def test_the_history_has_every_step_and_the_scores_where_they_were_taken(golden: Record) -> None:
    history = golden.history()
    assert history.index.name == "step"
    assert list(history.columns) == ["epoch", "train/loss", "valid/loss", "valid/accuracy"]
    assert history.index.tolist() == list(range(61))
    assert history["train/loss"].isna().to_numpy().nonzero()[0].tolist() == [50, 60]
    assert history["train/loss"][51] == math.inf
    assert history["epoch"][25] == 2.5
    assert history["valid/accuracy"].dropna().to_dict() == pytest.approx({20: 0.7, 40: 0.8, 60: 0.9})
    assert history["valid/loss"].dropna().to_dict() == {20: 0.6, 40: 0.4}


def test_losses_that_come_while_they_are_read_do_no_harm(golden: Record) -> None:
    class Growing(list[Losses]):
        """A list that another thread appends to whenever it has been read."""

        def __iter__(self) -> Iterator[Losses]:
            yield from [self[i] for i in range(len(self))]
            self.append(self[-1])

    record = Record(golden.events)
    record.blocks = Growing(golden.blocks)
    assert record.history().equals(golden.history())


def test_the_test_set_is_no_column_of_the_history(golden: Record) -> None:
    assert not [c for c in golden.history().columns if c.startswith("test")]


def test_the_best_score_is_finite_and_the_earliest_of_equals(golden: Record) -> None:
    assert golden.best() == (40, 0.4)
    again = dataclasses.replace(golden.evaluated("valid")[1], step=60)
    assert Record([*golden.events, again]).best() == (40, 0.4)


def test_where_large_is_better_the_best_is_the_largest(golden: Record) -> None:
    assert golden.started is not None
    started = dataclasses.replace(golden.started, monitor="valid/accuracy", monitor_mode="max")
    assert Record([started, *golden.events[1:]]).best() == (60, pytest.approx(0.9))


def test_time_left_is_that_of_the_steps_and_evaluations_to_come(golden: Record) -> None:
    assert golden.steps_per_s == pytest.approx(60 / 1.5)
    assert golden.time_left_s() == pytest.approx({"train": 40 / 40.0, "evaluate": 2 * 0.25})


def test_speed_is_that_of_the_latest_second() -> None:
    slow = Losses(step=10, first_step=0, losses=np.zeros(10, np.float32), duration_s=100.0)
    fast = Losses(step=200, first_step=10, losses=np.zeros(190, np.float32), duration_s=1.9)
    assert Record([slow, fast]).steps_per_s == pytest.approx(100.0)


def test_a_later_look_at_the_test_set_takes_no_training_time(golden: Record) -> None:
    assert golden.elapsed_s == pytest.approx(7.0)
    late = Evaluation(step=60, time_s=2e9, split="test", metrics={}, rows=1, duration_s=1.0, look=2)
    assert Record([*golden.events, late]).elapsed_s == pytest.approx(7.0)


def test_a_shortened_block_keeps_its_place_on_the_step_axis() -> None:
    block = Losses(step=40, first_step=20, losses=np.ones(5, np.float32), stride=4, duration_s=1.0)
    steps, _ = Record([block]).losses()
    assert steps.tolist() == [20, 24, 28, 32, 36]


@pytest.mark.parametrize("state", ["finished", "stopped", "failed", "running", "paused", "compiling"])
def test_only_a_last_state_ends_a_run(state: str) -> None:
    status = Status(step=0, state=state)  # type: ignore[arg-type]
    assert Record([status]).ended is (state in {"finished", "stopped", "failed"})


def test_the_methods_paragraph_says_what_is_needed_to_do_it_again(golden: Record) -> None:
    text = methods_paragraph(golden, "stopped")
    for said in (
        "MLP",
        "1,234 parameters",
        "three classes, one per row",
        "160 train, 40 valid, 40 test",
        "split 0123abcd",
        "adam",
        "batches of 16 rows",
        "60 updates (6 epochs)",
        "was stopped early",
        "On the 40 test rows it reached loss 0.5, accuracy 0.75.",
        "majority class baseline reached loss 1.1, accuracy 0.5",
        "JAX 0.10.2",
        "Run golden-01",
    ):
        assert said in text
    with pytest.raises(ValueError, match="no beginning"):
        methods_paragraph(Record(), "failed")
