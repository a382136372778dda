"""Rows that stay in their file until they are asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import jax
import numpy as np
import psutil
import pytest
import scipy.sparse

from dlfb_lab import data
from dlfb_lab.data import lazy
from dlfb_lab.data.lazy import ArrayRows
from dlfb_lab.data.scaling import Scaling, device_inputs, flattened
from dlfb_lab.data.source import examples_are_lazy, inputs_array, is_lazy, select_features
from dlfb_lab.errors import DataError

RNG = np.random.default_rng(0)


@pytest.fixture
def mapped(tmp_path: Path) -> Callable[[np.ndarray], np.memmap]:
    """Writes an array to a file and maps it."""

    def write(array: np.ndarray) -> np.memmap:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.npy"
        np.save(path, array)
        return np.load(path, mmap_mode="r")

    return write


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Notes how many rows each reading takes."""
    counts: list[int] = []
    whole = ArrayRows.__getitem__

    def noted(self: ArrayRows, index: Any) -> Any:
        found = whole(self, index)
        counts.append(len(found) if found.ndim else 1)
        return found

    monkeypatch.setattr(ArrayRows, "__getitem__", noted)
    monkeypatch.setattr(lazy, "BLOCK_BYTES", 256)
    return counts


def test_indexing_is_numpys(mapped: Any) -> None:
    array = RNG.normal(size=(10, 3))
    rows = lazy.lazy(mapped(array))
    assert rows is not None
    assert (rows.shape, rows.ndim, rows.dtype, rows.nbytes, len(rows)) == ((10, 3), 2, np.float64, 240, 10)
    mask = np.arange(10) % 3 == 0
    for index in (2, -1, np.int64(3), slice(2, 5), slice(None), [3, -1, 3], np.array([], int), mask):
        np.testing.assert_array_equal(rows[index], array[index])
        assert isinstance(rows[index], np.ndarray)
    some = rows.take([5, 1, -1, 5])
    np.testing.assert_array_equal(some[:], array[[5, 1, 9, 5]])
    np.testing.assert_array_equal(some.take(np.array([False, True, True, False]))[:], array[[1, 9]])
    np.testing.assert_array_equal(some[1:3], array[[1, 9]])
    np.testing.assert_array_equal(np.asarray(some), array[[5, 1, 9, 5]])
    assert jax.tree.leaves({"x": rows}) == [rows]
    for wrong in (10, [-11], [True]):
        with pytest.raises(IndexError):
            rows[wrong]


def test_what_is_read_is_no_longer_in_the_file(mapped: Any) -> None:
    rows = lazy.lazy(mapped(np.zeros(4)))
    assert rows is not None
    assert lazy.lazy(rows[1:3]) is None
    assert rows[1:3].flags.writeable


def test_only_arrays_in_files_are_left_there(mapped: Any, tmp_path: Path) -> None:
    array = mapped(np.zeros((4, 3)))
    for there in (array, np.asarray(array), array[1:], array.reshape(2, 6), np.frombuffer(array._mmap, np.uint8)):
        assert is_lazy(lazy.lazy(there))
    for here in (array[[0, 1]], array + 1, np.zeros(3), [1.0], 3):
        assert lazy.lazy(here) is None
    with h5py.File(tmp_path / "a.h5", "w") as file:
        assert is_lazy(lazy.lazy(file.create_dataset("x", data=np.zeros((2, 2)))))


def test_rows_of_hdf5_may_be_asked_for_in_any_order(tmp_path: Path) -> None:
    array = RNG.normal(size=(6, 2))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        examples = data.read((file.create_dataset("x", data=array), np.arange(6)))
        assert examples_are_lazy(examples.x)
        np.testing.assert_array_equal(examples.take(np.array([4, 0, 4])).x[:], array[[4, 0, 4]])


def test_a_sparse_matrix_is_made_dense_by_rows() -> None:
    matrix = scipy.sparse.random(8, 5, 0.4, format="csr", rng=0)
    rows = lazy.sparse(matrix)
    np.testing.assert_array_equal(rows[[7, 1, 7]], matrix.toarray()[[7, 1, 7]])
    np.testing.assert_array_equal(rows[2:4], matrix.toarray()[2:4])


@pytest.mark.parametrize("form", ["pair", "dict", "inputs of a dict"])
def test_examples_never_hold_the_whole_file(form: str, mapped: Any, reads: list[int]) -> None:
    array = RNG.normal(size=(100, 4)).astype(np.float32)
    x, y = mapped(array), np.arange(100)
    given: dict[str, Any] = {"pair": (x, y), "dict": {"x": x, "y": y}, "inputs of a dict": ({"a": x, "b": y}, y)}
    examples = data.read(given[form])
    assert examples_are_lazy(examples.x)
    assert max(reads) <= 16, "it is looked through in blocks"
    reads.clear()
    some = examples.take(np.array([7, 3]))
    assert not reads, "taking rows reads none"
    rows = some.x["a"] if isinstance(some.x, dict) else some.x
    assert len(some) == 2
    np.testing.assert_array_equal(rows[:], array[[7, 3]])
    assert some.y.tolist() == [7, 3]


@pytest.mark.parametrize(
    ("dtype", "as_what"),
    [
        (np.float32, np.float32),
        (np.float16, np.float16),
        (np.float64, np.float64),
        (bool, np.float32),
        (np.uint8, np.uint8),
        (np.int64, np.int32),
        (">i2", np.int16),
        (">f4", np.float32),
        (">i8", np.int32),
    ],
)
def test_numbers_are_converted_as_they_are_read(dtype: Any, as_what: Any, mapped: Any) -> None:
    array = RNG.integers(0, 2, (50, 3)).astype(dtype)
    rows, held = inputs_array(mapped(array), "x"), inputs_array(array, "x")
    assert is_lazy(rows)
    assert rows.dtype == rows[:2].dtype == held.dtype == as_what
    assert rows[:2].dtype.isnative
    np.testing.assert_array_equal(rows[:], held)


def test_large_whole_numbers_are_found_wherever_they_are(mapped: Any, reads: list[int]) -> None:
    array = np.arange(200)
    array[150] = 2**40
    rows = inputs_array(mapped(array), "x")
    assert rows.dtype == np.float64
    assert rows[150] == 2**40


def test_gaps_are_found_in_blocks_and_counted_together(mapped: Any, reads: list[int]) -> None:
    array = np.ones((100, 4), np.float32)
    array[[3, 70, 70], [1, 1, 2]] = np.nan
    array[99, 3] = np.inf
    with pytest.raises(DataError, match="x holds NaN or infinity: 4 values in 3 of 100 rows, in columns 1, 2, 3"):
        data.read((mapped(array), np.arange(100)))
    assert len(reads) > 1


def test_strings_in_a_file_are_refused_as_elsewhere(mapped: Any) -> None:
    with pytest.raises(DataError, match=r"x holds <U1 values, not numbers.*'a'"):
        data.read((mapped(np.array([["a"], ["b"]])), [0, 1]))


def test_targets_that_do_not_fit_into_memory_are_refused(mapped: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    y = mapped(np.zeros((100, 3)))
    assert data.read((np.zeros(100), y)).y.shape == (100, 3)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("", (), {"available": 1000}))
    with pytest.raises(DataError, match=r"y lies in a file and takes 2.4e-06 GB.*iterable of batches"):
        data.read((np.zeros(100), y))


@pytest.mark.parametrize("shape", [(60, 4), (60,), (30, 5, 2)])
def test_scaling_is_that_of_an_array_in_memory(shape: tuple[int, ...], mapped: Any, reads: list[int]) -> None:
    array = 1e6 + RNG.normal(size=shape)
    rows = inputs_array(mapped(array), "x")
    scaling, held = Scaling.fit(rows), Scaling.fit(array)
    np.testing.assert_allclose(scaling.mean[""], held.mean[""], rtol=1e-12)
    np.testing.assert_allclose(scaling.std[""], held.std[""], rtol=1e-6)
    ready = device_inputs(rows, held)
    assert is_lazy(ready)
    assert ready.dtype == np.float32
    np.testing.assert_array_equal(ready[:], device_inputs(array, held))
    assert max(reads[:-1]) < len(array)


def test_the_device_gets_float32_as_rows_are_read(mapped: Any) -> None:
    array = RNG.normal(size=(20, 2))
    array[13, 0] = 1e39
    ready = device_inputs({"a": inputs_array(mapped(array), "x"), "b": np.ones(20)}, None)
    assert isinstance(ready, dict)
    assert ready["a"].dtype == ready["a"][:5].dtype == ready["b"].dtype == np.float32
    with pytest.raises(DataError, match=r"a holds 1e\+39, too large"):
        ready["a"][10:]


def test_columns_that_rounding_flattens_are_found_in_files(mapped: Any, reads: list[int]) -> None:
    x = np.stack([1e9 + RNG.normal(size=90), RNG.normal(size=90), np.ones(90)], axis=1)
    ((name, lost),) = flattened(inputs_array(mapped(x), "x"))
    assert (name, lost.tolist()) == ("", [0])


@pytest.mark.parametrize("there", [True, False])
def test_features_are_put_in_another_order(there: bool, mapped: Any) -> None:
    array = RNG.normal(size=(5, 3))
    examples = data.read_inputs(mapped(array) if there else array)
    assert isinstance(examples, data.Examples)
    named = data.Examples(x=examples.x, y=examples.y, features=["a", "b", "c"])
    picked = select_features(named, ["c", "a"])
    assert picked.features == ["c", "a"]
    assert picked.y is picked.x
    assert picked.x.shape == (5, 2)
    np.testing.assert_array_equal(picked.x[:], array[:, [2, 0]])
