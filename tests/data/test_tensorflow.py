"""TensorFlow's data sets."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from dlfb_lab import data
from dlfb_lab.data.stream import Stream, read_all
from dlfb_lab.errors import DataError

tf = pytest.importorskip("tensorflow")

pytestmark = pytest.mark.guests("tensorflow")

X, Y = np.arange(30.0).reshape(10, 3), np.arange(10)


def dataset() -> Any:
    return tf.data.Dataset.from_tensor_slices((X, Y))


def stream(given: Any, **options: Any) -> Stream:
    found = data.read(given, **options)
    assert isinstance(found, Stream)
    assert found.name == "tf.data.Dataset"
    return found


def rows_of(found: Stream, number: int = 0) -> list[list[int]]:
    return [batch[1].tolist() for batch in found.epoch(number, 0)]


@pytest.mark.parametrize("drop", [True, False])
def test_batches_come_as_they_are(drop: bool) -> None:
    found = stream(dataset().batch(4, drop_remainder=drop))
    whole = [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert rows_of(found) == rows_of(found, 1) == (whole if drop else [*whole, [8, 9]])
    assert (found.batches, found.rows, found.endless, found.once) == (2 if drop else 3, 4, False, False)
    assert [leaf.dtype for leaf in found.first] == [np.float32, np.int32]
    assert not found.notices


def test_the_books_first_batch() -> None:
    features = tf.data.Dataset.from_tensor_slices({"feature": [1, 2, 3, 4, 5], "label": [0, 1, 0, 1, 0]})
    batch = stream(features.batch(2)).first
    assert (batch["feature"].tolist(), batch["label"].tolist()) == ([1, 2], [0, 1])


def test_single_examples_are_batched() -> None:
    found = stream(dataset(), batch_size=4)
    assert found.batches == 3
    assert rows_of(found) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_what_has_no_end_is_known() -> None:
    found = stream(dataset().batch(4).repeat())
    assert found.endless
    assert found.batches is None
    assert len(list(itertools.islice(found.epoch(0, 0), 20))) == 20
    with pytest.raises(DataError, match=r"tf\.data\.Dataset has no end"):
        read_all(found)
    unknown = stream(dataset().filter(lambda x, y: y < 6).batch(4))
    assert (unknown.batches, unknown.endless) == (None, False)
    assert rows_of(unknown) == [[0, 1, 2, 3], [4, 5]]


def test_a_generators_shapes_are_told_from_its_items() -> None:
    def examples() -> Any:
        yield from zip(X, Y, strict=True)

    signature = (tf.TensorSpec(None, tf.float32), tf.TensorSpec(None, tf.int32))
    made = tf.data.Dataset.from_generator(examples, output_signature=signature)
    assert stream(made, batch_size=5).first[0].shape == (5, 3)
    assert stream(made.batch(5)).first[0].shape == (5, 3)


def test_a_function_may_return_one() -> None:
    found = data.read(lambda: dataset().batch(5))
    assert isinstance(found, Stream)
    assert rows_of(found) == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]


def test_inputs_alone() -> None:
    found = data.read_inputs(dataset().map(lambda x, y: x).batch(4))
    assert isinstance(found, Stream)
    assert found.first.shape == (4, 3)


def test_ragged_elements_are_refused() -> None:
    ragged = tf.data.Dataset.from_tensor_slices((tf.ragged.constant([[1], [1, 2]]), [0, 1]))
    with pytest.raises(DataError, match=r"elements of RaggedTensorSpec.*padded_batch"):
        data.read(ragged)
    varying = tf.data.Dataset.from_generator(
        lambda: iter([([1.0], 0), ([1.0, 2.0], 1)]),
        output_signature=(tf.TensorSpec([None], tf.float32), tf.TensorSpec([], tf.int32)),
    )
    with pytest.raises(DataError, match=r"example 1 has shape \(2,\) at \[0\], example 0 has \(1,\). Pad"):
        data.read(varying)
