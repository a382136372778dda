from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dlfb_lab import journal
from dlfb_lab.cite import methods_paragraph
from dlfb_lab.events import Evaluation, Losses, Status, from_json
from dlfb_lab.record import MOST_SAVED, MOST_SAVED_IN_ALL, Record, looks_like_loss, saved_events, spread


@pytest.fixture(scope="module")
def golden() -> Record:
    path = Path(__file__).parent / "golden" / "run.jsonl"
    return Record(journal._read_file(path))


@pytest.fixture(scope="module")
def several() -> Record:
    path = Path(__file__).parent / "golden" / "members.jsonl"
    return Record(journal._read_file(path))


def test_the_checkpoints_are_those_that_were_kept(golden: Record) -> None:
    assert [(saved.step, saved.state) for saved in golden.checkpoints] == [(40, "complete"), (60, "not finite")]


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
    assert (record.whole(), record.best_member(), record.members) == (None, None, [])


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


def test_the_history_of_members_has_a_column_for_each(several: Record) -> None:
    history = several.history()
    assert history.columns.names == ["metric", "member"]
    assert list(history["train/loss"].columns) == list(history["valid/accuracy"].columns) == several.members
    assert history["valid/accuracy"].loc[20].tolist() == [0.5, 0.6, 0.4]
    assert math.isnan(history["valid/accuracy"]["seed 2"][60])
    losses = history["train/loss"]["seed 2"]
    assert losses.dtype == np.float32
    assert losses.isna().to_numpy().nonzero()[0].tolist() == list(range(30, 61))
    parts = [name for name in history.columns.get_level_values(0) if name.startswith("train/") and name != "train/loss"]
    assert parts == ["train/reconstruction_loss", "train/kl", "train/accuracy"]
    np.testing.assert_array_equal(history["train/kl"][:60], 0.25 * history["train/loss"]["seed 0"][:60])


def test_where_the_length_of_an_epoch_is_not_known_the_epoch_is_nan(several: Record) -> None:
    assert several.history()["epoch"].isna().all()
    assert several.time_left_s() is None


def test_parts_of_the_loss_are_columns(golden: Record) -> None:
    first = dataclasses.replace(golden.blocks[0], parts={"kl": np.arange(20, dtype=np.float32)})
    history = Record([golden.started, first, golden.blocks[1]]).history()
    assert list(history.columns) == ["epoch", "train/loss", "train/kl"]
    assert history["train/kl"][:20].tolist() == list(range(20))
    assert history["train/kl"][20:].isna().all()


def test_the_history_of_members_that_have_not_begun_has_their_columns(several: Record) -> None:
    alone = dataclasses.replace(several.blocks[0], members=[])
    assert Record([several.started, alone]).history()["train/loss"].isna().to_numpy().all()
    assert list(Record([several.started]).history()["train/loss"].columns) == several.members


def test_the_best_member_has_the_best_score_and_one_without_a_score_has_none(several: Record) -> None:
    assert several.best_member() == (1, 40, 0.75)
    assert several.member_bests() == [(60, 0.72), (40, 0.75), (20, 0.4)]
    assert several.started is not None
    started = dataclasses.replace(several.started, monitor="valid/loss", monitor_mode="min")
    assert Record([started, *several.events[1:]]).best_member() == (1, 40, 0.25)
    nothing = dataclasses.replace(started, monitor="")
    assert Record([nothing, *several.events[1:]]).best_member() is None
    assert Record([started]).best_member() is None


def test_of_equal_members_the_earliest_is_the_best(several: Record) -> None:
    scores = [{"accuracy": 0.9}, {"accuracy": 0.8}]
    told = [
        dataclasses.replace(several.evaluations[0], step=20, members=scores[::-1]),
        dataclasses.replace(several.evaluations[0], step=40, members=scores),
    ]
    assert Record([several.started, *told]).best_member() == (1, 20, 0.9)


def test_the_spread_is_that_of_the_members_that_are_finite() -> None:
    values = np.array([[1.0, 1.0, math.nan], [3.0, math.inf, math.nan], [5.0, 2.0, 7.0]])
    mean, deviation = spread(values)
    assert mean.tolist() == [3.0, 1.5, 7.0]
    np.testing.assert_allclose(deviation, [2.0, np.std([1, 2], ddof=1), math.nan])
    assert np.isnan(spread(np.full((2, 1), math.nan))).all()


def test_scores_of_members_are_their_mean_and_deviation(several: Record, golden: Record) -> None:
    steps, values, deviations = several.scores("valid", "accuracy")
    assert steps.tolist() == [20, 40, 60]
    assert values == pytest.approx([0.5, 0.725, 0.71])
    assert deviations == pytest.approx([0.1, np.std([0.7, 0.75], ddof=1), np.std([0.72, 0.7], ddof=1)])
    _, alone, none = golden.scores("valid", "accuracy")
    assert alone == pytest.approx([0.7, 0.8, 0.9])
    assert np.isnan(none).all()


def test_plans_and_rate_tests_are_kept(golden: Record) -> None:
    assert [(plan.step, plan.plan) for plan in golden.plans] == [(0, "one by one"), (40, "fused")]
    assert [test.chosen for test in golden.rate_tests] == [0.01]


@pytest.mark.parametrize(("parts", "members"), [(0, 0), (2, 0), (4, 0), (0, 8), (3, 200)])
def test_a_shortened_copy_is_bounded_whatever_runs_beside_the_loss(parts: int, members: int) -> None:
    values = np.arange(50_000, dtype=np.float32)
    block = Losses(
        step=len(values),
        first_step=0,
        losses=values,
        duration_s=1.0,
        parts={f"part {i}": values + i for i in range(parts)},
        members=[values - i for i in range(members)],
    )
    (saved,) = map(from_json, saved_events(Record([block])))
    assert isinstance(saved, Losses)
    assert len(saved.losses) <= MOST_SAVED
    assert len(saved.losses) * (1 + parts + members) <= MOST_SAVED_IN_ALL
    assert len(saved.losses) * (1 + parts + members) > MOST_SAVED_IN_ALL / 4, "and not needlessly short"
    assert saved.losses[0] == pytest.approx((saved.stride - 1) / 2)
    for i in range(parts):
        np.testing.assert_allclose(saved.parts[f"part {i}"], saved.losses + i, rtol=1e-5)
    for i in range(members):
        np.testing.assert_allclose(saved.members[i], saved.losses - i, rtol=1e-5)


def test_a_saved_copy_says_the_same(several: Record) -> None:
    again = Record(filter(None, map(from_json, saved_events(several))))
    assert again.history().equals(several.history())
    assert again.best_member() == several.best_member()


@pytest.mark.parametrize(
    ("name", "first", "is_loss"),
    [
        ("commitment_loss", 1e6, True),
        ("Loss", math.nan, True),
        ("kl", 0.01, True),
        ("kl", 1e6, False),
        ("accuracy", 0.5, False),
        ("hits@20", 0.5, False),
        ("grad_norm", 1.0, False),
        ("reconstruction", math.nan, True),
        ("entropy", 0.0, True),
    ],
)
def test_parts_that_look_like_losses_are_told_from_others(name: str, first: float, is_loss: bool) -> None:
    assert looks_like_loss(name, first, 1.0) is is_loss


def test_the_methods_paragraph_of_members_says_mean_and_deviation(several: Record) -> None:
    text = methods_paragraph(several, "stopped")
    for said in (
        "3 models (seed 0, seed 1, seed 2) were trained at once",
        "loss 0.29 ± 0.01414, accuracy 0.71 ± 0.01414 (mean ± standard deviation over the 3 models)",
        "best of them by valid/accuracy was seed 1 (0.75 after 40 updates)",
        "60 updates, seed",
    ):
        assert said in text
    assert "epochs" not in text


def test_the_methods_paragraph_says_that_the_rate_was_chosen(golden: Record) -> None:
    assert "learning rate 0.01, chosen by trying 6 rates from 1e-05 to 1" in methods_paragraph(golden, "stopped")
