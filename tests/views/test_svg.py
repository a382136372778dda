from __future__ import annotations

import base64
import dataclasses
import math
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlfb_lab import journal
from dlfb_lab.events import Baseline, Evaluation, Losses, RateTest
from dlfb_lab.record import Record
from dlfb_lab.views import panels, svg
from tests import pictures

GOLDEN = Record(journal._read_file(Path(__file__).parents[1] / "golden" / "run.jsonl"))
SVG = "{http://www.w3.org/2000/svg}"


def block(values: list[float], first: int = 0, dtype: type = np.float32) -> Losses:
    with np.errstate(over="ignore"):
        losses = np.array(values, dtype)
    return Losses(step=first + len(values), first_step=first, losses=losses, duration_s=0.1)


def scored(step: int, **metrics: float) -> Evaluation:
    return Evaluation(step=step, split="valid", metrics=metrics, rows=3, duration_s=0.1)


def drawn(record: Record) -> ElementTree.Element:
    """Parses the picture, and holds every point of it to the picture's frame."""
    text = svg.draw(record)
    assert "nan" not in re.sub(r"<text.*?</text>|<title>.*?</title>", "", text)
    root = ElementTree.fromstring(text)
    for line in [*root.iter(f"{SVG}polyline"), *root.iter(f"{SVG}polygon")]:
        points = [tuple(map(float, p.split(","))) for p in line.attrib["points"].split()]
        assert all(-1 <= x <= svg.WIDTH + 1 and -1 <= y <= svg.HEIGHT + 1 for x, y in points), points
    rows = list(root.iter(f"{SVG}g"))
    assert float(root.attrib["height"]) == svg.HEIGHT * len({row.attrib["transform"] for row in rows})
    return root


def texts(root: ElementTree.Element) -> list[str]:
    return ["".join(t.itertext()) for t in root.iter(f"{SVG}text")]


def test_the_golden_run_is_drawn() -> None:
    root = drawn(GOLDEN)
    said = texts(root)
    assert "loss" in str(said)
    assert "accuracy" in said
    assert any("majority class" in str(t) for t in said)
    assert len(list(root.iter(f"{SVG}polyline"))) == 4
    assert "loss at each learning rate" in said
    assert "0.01 was chosen" in said
    title = root.find(f"{SVG}title")
    assert title is not None
    assert title.text == "Loss and metrics of golden <run>", "markup in a name is text"


def test_checkpoints_stand_on_the_axis_and_a_run_that_began_from_one_begins_there() -> None:
    record = Record(pictures.saved())
    (title, *_), *_ = (list(path) for path in drawn(record).iter(f"{SVG}path") if path.get("class") == "checkpoint")
    assert title.text == "checkpoint of step 2,000"
    fork = Record(pictures.saved("base", 4_000))
    assert "loss from base@4000" in texts(drawn(fork))
    lines = [line.attrib["points"] for line in drawn(fork).iter(f"{SVG}polyline")]
    assert lines[0].startswith("44.0,")
    for events in (pictures.saved("base", 4_000)[:5], [*pictures.saved("base", 4_000)[:5], scored(4_000, loss=1.0)]):
        assert "loss from base@4000" in texts(drawn(Record(events)))


RECORDS = {
    "nothing": [],
    "one step": [block([1.0])],
    "one step at zero": [block([0.0])],
    "constant": [block([0.5] * 10)],
    "all NaN": [block([math.nan] * 5)],
    "some NaN": [block([1.0, math.nan, math.inf, -math.inf, 2.0])],
    "from tiny to huge": [block([1e-30, 1e30])],
    "beyond float32": [block([1e-300, 1e77], dtype=np.float64)],
    "negative": [block([-1.0, -2.0, 0.5])],
    "nearly constant": [block([1.0, 1.0 + 2**-23])],
    "scores alone": [scored(0, loss=1.0, accuracy=0.5)],
    "scores of NaN": [block([1.0, 2.0]), scored(0, loss=math.nan, r2=math.nan), scored(2, loss=math.inf, r2=-math.inf)],
    "a baseline of NaN": [Baseline(step=0, name="m", split="valid", metrics={"loss": math.nan}), block([1.0, 2.0])],
    "a missing metric": [scored(0, loss=1.0, f1=0.1), scored(1, loss=1.0)],
}


@pytest.mark.parametrize("name", RECORDS)
def test_whatever_happened_is_drawn_as_well_formed_xml(name: str) -> None:
    drawn(Record(RECORDS[name]))


@given(st.lists(st.floats(width=32), max_size=20), st.lists(st.floats(-1e77, 1e77), max_size=5))
def test_any_numbers_are_drawn_as_well_formed_xml(losses: list[float], scores: list[float]) -> None:
    events = [scored(i, loss=abs(v), m=v) for i, v in enumerate(scores)]
    drawn(Record([block(losses), *events]))


def test_markup_in_names_is_escaped() -> None:
    evil = '</text><script>alert("&")</script>'
    assert GOLDEN.started is not None
    started = dataclasses.replace(GOLDEN.started, name=evil)
    baseline = Baseline(step=0, name=evil, split="valid", metrics={"loss": 1.0, evil: 1.0})
    root = drawn(Record([started, baseline, block([1.0, 2.0]), scored(0, **{"loss": 1.0, evil: 0.5})]))
    assert not list(root.iter(f"{SVG}script"))


def test_a_single_step_is_a_dot() -> None:
    root = drawn(Record([block([1.0])]))
    assert len(list(root.iter(f"{SVG}circle"))) == 1


def test_a_loss_over_decades_is_drawn_on_a_logarithmic_axis() -> None:
    said = texts(drawn(Record([block([1000.0, 1.0, 0.01])])))
    assert "loss (log)" in said
    assert {"0.01", "1", "100"} <= set(said)
    assert "loss" in texts(drawn(Record([block([3.0, 2.0, 1.0])])))


def test_members_are_a_mean_with_a_band() -> None:
    root = drawn(Record(pictures.members()))
    assert "loss mean of 8 ± sd" in texts(root)
    bands = list(root.iter(f"{SVG}polygon"))
    assert len(bands) == 4, "training and validation loss, two metrics"
    assert {band.attrib["fill"] for band in bands} == {panels.TRAIN, panels.VALID}


def test_the_band_is_as_wide_as_the_deviation() -> None:
    members = np.array([[1.0, 4.0, 1.0], [3.0, 4.0, 2.0], [5.0, 7.0, math.nan]])
    places, mean, deviation = panels.member_band(np.arange(3), members)
    assert places.tolist() == [0, 1, 2]
    np.testing.assert_allclose(mean, [3, 5, 1.5])
    np.testing.assert_allclose(deviation, [2, math.sqrt(3), math.sqrt(0.5)])


def test_the_band_of_a_long_run_is_that_of_running_means() -> None:
    noise = np.random.default_rng(0).normal(size=(2, 100_000))
    _, mean, deviation = panels.member_band(np.arange(100_000), noise + np.array([[0.0], [2.0]]))
    assert len(mean) == panels.BAND_POINTS
    np.testing.assert_allclose(mean, 1, atol=0.1)
    np.testing.assert_allclose(deviation, math.sqrt(2), atol=0.15)


def test_parts_are_drawn_beneath_and_scores_among_them_beside_the_validation() -> None:
    said = texts(drawn(Record(pictures.parts())))
    assert {"parts of the loss (log)", "reconstruction_loss", "commitment_loss", "codebook_loss", "kl"} <= set(said)
    assert "codebook usage" in said
    assert "codebook_usage" not in said


def test_of_many_parts_those_without_room_are_counted() -> None:
    values = np.ones(3, np.float32)
    told = dataclasses.replace(
        block([1.0] * 3), parts={f"a rather long name of a part, the loss {i}": values for i in range(8)}
    )
    said = texts(drawn(Record([told])))
    (more,) = (text for text in said if text.startswith("+ "))
    assert sum("rather long" in text for text in said) + int(more[2:]) == 8


def test_a_rate_test_that_cannot_be_drawn_is_left_out() -> None:
    test = RateTest(step=0, rates=np.array([0.0, 1.0]), losses=np.ones(2), chosen=1.0, duration_s=0.1)
    assert drawn(Record([test])).find(f".//{SVG}polyline") is None
    outside = dataclasses.replace(test, rates=np.array([0.1, 1.0]), chosen=7.0)
    assert not [t for t in texts(drawn(Record([outside]))) if "chosen" in t]


@given(st.lists(st.floats(width=32), min_size=2, max_size=20))
def test_any_rate_test_is_drawn_as_well_formed_xml(losses: list[float]) -> None:
    rates = np.geomspace(1e-6, 1, len(losses))
    drawn(Record([RateTest(step=0, rates=rates, losses=np.array(losses), chosen=1e-3, duration_s=0.1)]))


@given(st.integers(401, 3000), st.integers(10, 400), st.integers(0, 99))
def test_thinning_keeps_extremes_and_order(count: int, most: int, seed: int) -> None:
    array = np.random.default_rng(seed).integers(-50, 50, size=count) / 7
    steps, kept = svg.decimate(np.arange(len(array)), array, most)
    assert len(steps) <= most
    assert (np.diff(steps) > 0).all()
    np.testing.assert_array_equal(kept, array[steps])
    assert kept.min() == array.min()
    assert kept.max() == array.max()


def test_few_points_are_all_kept() -> None:
    steps, kept = svg.decimate(np.arange(400), np.arange(400.0))
    assert len(steps) == len(kept) == 400


def test_the_picture_stands_alone_in_an_image() -> None:
    image = svg.as_image(svg.draw(GOLDEN))
    (data,) = re.findall(r"base64,([^\"]+)", image)
    assert ElementTree.fromstring(base64.b64decode(data)).tag.endswith("svg")
