from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlfb_lab.data import splits
from dlfb_lab.errors import DataError, OptionError

HALVES = {"valid": 0.2, "test": 0.3}


@given(
    rows=st.integers(20, 300),
    seed=st.integers(0, 5),
    classes=st.integers(1, 4),
    fraction=st.floats(0.1, 0.4),
)
def test_parts_are_disjoint_complete_and_of_the_asked_size(rows: int, seed: int, classes: int, fraction: float) -> None:
    labels = np.random.default_rng(seed).integers(classes, size=rows)
    parts = splits.divide(rows, fractions={"valid": fraction, "test": 0.3}, seed=seed, classes=labels)
    assert list(parts) == ["train", "valid", "test"]
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(rows))
    assert len(parts["valid"]) == round(fraction * rows)
    assert len(parts["test"]) == round(0.3 * rows)
    for members in parts.values():
        assert (np.diff(members) > 0).all()


@given(st.lists(st.integers(5, 200), min_size=2, max_size=5), st.integers(0, 5))
def test_every_part_has_every_class_in_proportion(counts: list[int], seed: int) -> None:
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    parts = splits.divide(len(labels), fractions=HALVES, seed=seed, classes=labels)
    for name, fraction in {"train": 0.5, **HALVES}.items():
        for number, count in enumerate(counts):
            found = int((labels[parts[name]] == number).sum())
            # One row for each of the two borders of a part.
            assert abs(found - fraction * count) <= 2, (name, number)


@given(st.lists(st.integers(1, 12), min_size=6, max_size=40), st.integers(0, 5))
def test_a_group_is_never_divided(sizes: list[int], seed: int) -> None:
    groups = np.random.default_rng(seed).permutation(np.repeat([f"g{i}" for i in range(len(sizes))], sizes))
    try:
        parts = splits.divide(len(groups), fractions=HALVES, seed=seed, groups=groups)
    except OptionError as error:
        # A few large groups may leave nothing for a part.
        assert "would have no rows" in str(error)
        return
    members = [set(groups[rows]) for rows in parts.values()]
    assert sum(map(len, members)) == len(sizes)
    splits.check_groups({name: groups[rows] for name, rows in parts.items()})
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(len(groups)))


def test_a_group_larger_than_the_part_stays_in_training() -> None:
    groups = np.repeat(np.arange(11), [900, *[10] * 10])
    for seed in range(30):
        parts = splits.divide(1000, fractions={"valid": 0.05, "test": 0.04}, seed=seed, groups=groups)
        assert {name: len(rows) for name, rows in parts.items()} == {"train": 910, "valid": 50, "test": 40}


def test_with_groups_of_one_row_the_parts_have_their_size() -> None:
    parts = splits.divide(100, fractions=HALVES, seed=0, groups=np.arange(100))
    assert {name: len(rows) for name, rows in parts.items()} == {"train": 50, "valid": 20, "test": 30}


def test_the_seed_alone_decides() -> None:
    labels = np.arange(200) % 3
    groups = np.arange(200) // 4

    def rows(seed: int, **how: np.ndarray) -> list[int]:
        return splits.divide(200, fractions=HALVES, seed=seed, **how)["valid"].tolist()

    for how in ({}, {"classes": labels}, {"groups": groups}):
        assert rows(1, **how) == rows(1, **how)
        assert rows(1, **how) != rows(2, **how)


def test_a_part_is_drawn_at_random_not_taken_from_an_end() -> None:
    valid = splits.divide(1000, fractions={"valid": 0.2}, seed=0)["valid"]
    assert 400 < valid.mean() < 600


def test_a_rare_class_is_not_lost_from_training() -> None:
    labels = np.array([0] * 195 + [1] * 5)
    for seed in range(20):
        parts = splits.divide(200, fractions=HALVES, seed=seed, classes=labels)
        assert (labels[parts["train"]] == 1).sum() >= 1


@pytest.mark.parametrize(
    ("fractions", "said"),
    [
        ({"valid": 0.0}, "--valid 0: give a fraction between 0 and 1"),
        ({"test": 1.0}, "--test 1: give a fraction"),
        ({"test": -0.2}, "--test -0.2: give a fraction"),
        ({"test": 20.0}, "--test 20: give a fraction"),
        ({"valid": float("nan")}, "--valid nan: give a fraction"),
        ({"valid": 0.5, "test": 0.5}, "take 100 ?% of the rows; none is left to train"),
        ({"valid": 0.01}, "The valid part would have no rows: 10 rows are too few"),
    ],
)
def test_impossible_fractions_are_refused(fractions: dict[str, float], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        splits.divide(10, fractions=fractions, seed=0)


def test_too_few_groups_are_refused() -> None:
    with pytest.raises(OptionError, match="would have no rows: 2 groups are too few"):
        splits.divide(10, fractions=HALVES, seed=0, groups=np.arange(10) // 5)


def test_a_group_in_two_given_parts_is_named() -> None:
    with pytest.raises(DataError, match="group 'p2' is in the train part and in the test part"):
        splits.check_groups({"train": np.array(["p1", "p2"]), "valid": None, "test": np.array(["p2"])})


def test_the_hash_tells_rows_and_targets_apart_and_stays_the_same() -> None:
    rows = {"train": np.array([0, 2]), "valid": np.array([1])}
    targets = {"train": np.array([0, 1], np.int32), "valid": np.array([1], np.int32)}
    here = splits.fingerprint(rows, targets)
    assert here == "0ec85749f5a5d31a", "it is written down with runs: it must not change with a version"
    assert here == splits.fingerprint(dict(reversed(rows.items())), targets)
    assert here != splits.fingerprint({**rows, "train": np.array([0, 3])}, targets)
    assert here != splits.fingerprint(rows, {**targets, "valid": np.array([0], np.int32)})
    assert here != splits.fingerprint(
        {"train": rows["train"], "test": rows["valid"]}, {**targets, "test": targets["valid"]}
    )
