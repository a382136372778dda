"""Batches and examples in structures of the user's own."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlfb_lab.data.batch import described, inputs_of, on_host, pair, rows_of, stacked
from dlfb_lab.errors import DataError, OptionError


class Graph(NamedTuple):
    nodes: Any
    edges: Any


@pytest.mark.parametrize(
    ("given", "dtype", "shape"),
    [
        (np.ones(3), np.float32, (3,)),
        (np.ones(3, np.float16), np.float16, (3,)),
        (np.arange(3), np.int32, (3,)),
        (np.arange(3, dtype=np.uint64), np.uint32, (3,)),
        (np.arange(3, dtype=np.int8), np.int8, (3,)),
        (np.arange(3, dtype=">i8"), np.int32, (3,)),
        (np.ones(3, ">f4"), np.float32, (3,)),
        (np.ones((2, 2), bool), bool, (2, 2)),
        (jnp.ones(3, jnp.bfloat16), np.float32, (3,)),
        (jnp.ones(3), np.float32, (3,)),
        (np.float64(1), np.float32, ()),
        (3, np.int32, ()),
        (0.5, np.float32, ()),
        (True, bool, ()),
        ([1, 2.5], np.float32, (2,)),
        ([[1, 2], [3, 4]], np.int32, (2, 2)),
        ([np.float64(1), 2], np.float32, (2,)),
        (np.array([1, 2.5], object), np.float32, (2,)),
        ("B", np.dtype("<U1"), ()),
        (["T", "NK"], np.dtype("<U2"), (2,)),
    ],
)
def test_leaves_become_arrays_that_jax_takes(given: Any, dtype: Any, shape: tuple[int, ...]) -> None:
    array = on_host(given, "it")
    assert type(array) is np.ndarray
    assert (array.dtype, array.shape) == (np.dtype(dtype), shape)
    assert array.dtype.isnative


def test_the_structure_stays() -> None:
    given = {"graph": Graph(np.ones((3, 2)), [[0, 1], [1, 2]]), "rest": [np.ones(2), (1, None)]}
    ready = on_host(given, "it")
    assert isinstance(ready["graph"], Graph)
    assert ready["graph"].edges.shape == (2, 2), "a list of numbers is an array"
    assert isinstance(ready["rest"], list)
    assert ready["rest"][1] == (1, None)


def test_an_array_that_is_ready_is_not_copied() -> None:
    given = np.ones(3, np.float32)
    assert on_host((given,), "it")[0] is given


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"x": object()}, r"it\['x'\] is a object .*not an array or a number"),
        ((np.ones(2), {1, 2}), r"it\[1\] is a set"),
        ([[1.0], [1.0, 2.0]], r"it cannot be made into an array"),
        (np.ones(2, complex), "it holds complex numbers"),
        (np.array(["2020-01-01"], "M8[D]"), "it holds dates"),
        (np.array([1, 2**40]), "it holds 1.09951e.12, too large for int32"),
        (np.array([1.0, 1e39]), r"it holds 1e\+39, too large for float32"),
        (np.zeros(2, [("a", "f4")]), "Give its fields one by one"),
    ],
)
def test_what_is_no_array_is_named_with_its_place(given: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        on_host(given, "it")


def test_gaps_and_infinity_are_not_too_large() -> None:
    assert np.isnan(on_host(np.array([np.nan, np.inf]), "it")[0])


def test_examples_are_stacked_leaf_by_leaf() -> None:
    examples = [{"x": np.full((2, 3), i, np.float32), "y": np.array(i, np.int32)} for i in range(4)]
    batch = stacked(examples)
    assert batch["x"].shape == (4, 2, 3)
    assert batch["y"].tolist() == [0, 1, 2, 3]
    mixed = stacked([np.array(1, np.int32), np.array(0.5, np.float32)])
    assert mixed.dtype == np.float32, "not the float64 that NumPy makes of both"


def test_examples_that_cannot_be_stacked_are_named() -> None:
    short, long = {"x": np.zeros(5)}, {"x": np.zeros(7)}
    with pytest.raises(DataError, match=r"example 12 has shape \(7,\) at \['x'\], example 10 has \(5,\)\. Pad them"):
        stacked([short, short, long], first=10)
    with pytest.raises(DataError, match=r"Example 1 is a dict of \(x: shape \(5,\), y: shape \(2,\)\); example 0 is"):
        stacked([short, {"x": np.zeros(5), "y": np.zeros(2)}])


def test_rows_are_what_all_leaves_share() -> None:
    assert rows_of((np.zeros((4, 2)), {"a": np.zeros(4)})) == 4
    assert rows_of((np.zeros((4, 2)), np.zeros(3))) is None
    assert rows_of((np.zeros(4), np.zeros(()))) is None


def test_a_pair_is_inputs_and_targets() -> None:
    x, y = np.ones((3, 2), np.float32), np.arange(3)
    for batch, target in (((x, y), None), ([x, y], None), ({"z": x, "label": y}, None), ({"a": x, "b": y}, "b")):
        inputs, targets = pair(batch, target)
        assert inputs is x
        assert targets is y
    several, _ = pair({"a": x, "b": np.ones(3, bool), "y": y})
    assert isinstance(several, dict)
    assert {k: v.dtype for k, v in several.items()} == {"a": np.float32, "b": np.float32}
    assert pair((np.arange(3, dtype=np.int64), y))[0].dtype == np.int32
    assert pair((np.ones(3), y))[0].dtype == np.float32
    assert pair((x, np.array(["a", "b", "c"])))[1].tolist() == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("batch", "target", "error", "said"),
    [
        ((np.ones(3), np.ones(3)), "y", OptionError, "--target y: batches are pairs"),
        ({"a": np.ones(3), "b": np.ones(3)}, None, OptionError, "Which of the arrays a, b is the target"),
        ({"a": np.ones(3), "b": np.ones(3)}, "c", OptionError, "--target c: the dict has the keys a, b"),
        ({"y": np.ones(3)}, None, DataError, "holds the target `y` and no inputs"),
        ((np.ones(3),) * 3, None, DataError, r"A batch is a tuple of \(shape \(3,\), .*Give pairs"),
        (np.ones(3), None, DataError, r"A batch is shape \(3,\). Give pairs"),
        ((np.ones(3), None), None, DataError, "targets of a batch are None"),
        ((np.ones(3), (np.ones(3),)), None, DataError, r"targets of a batch are a tuple of \(shape"),
        ((np.ones(3), np.ones(2)), None, DataError, "different lengths: x has 3 rows, y has 2 rows"),
        (({"a": np.ones(3), "b": np.ones(2)}, np.ones(3)), None, DataError, "a has 3 rows, b has 2 rows, y has 3"),
        ((np.ones(3), np.array(1)), None, DataError, "different lengths"),
        (((np.ones(3), np.ones(3)), np.ones(3)), None, DataError, "x is a tuple .*dict of arrays"),
        ((np.array(["a"]), np.ones(1)), None, DataError, "x is <U1 values .such as .*give numbers"),
        (({"a": np.array(1.0)}, np.ones(1)), None, DataError, r"x\['a'\] is a single number \(1.0\)"),
    ],
)
def test_other_batches_are_refused(batch: Any, target: str | None, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        pair(batch, target)


def test_inputs_may_be_all_there_is() -> None:
    x = np.ones((3, 2), np.float32)
    for batch in (x, (x,), [x]):
        assert inputs_of(batch) is x
    assert list(inputs_of({"a": x, "b": x})) == ["a", "b"]
    with pytest.raises(DataError, match=r"x is a tuple of \(shape \(3, 2\), shape \(3, 2\)\) in a batch; give one"):
        inputs_of((x, x))


def test_a_description_is_short() -> None:
    many = {str(i): np.zeros(2) for i in range(20)}
    assert described(many).endswith("5: shape (2,), …)")
    assert described((jax.ShapeDtypeStruct((2, 3), jnp.float32), None, "a")) == "a tuple of (shape (2, 3), None, a str)"
