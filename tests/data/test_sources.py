"""Tables, dicts and pairs: what is read, and what is refused."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import scipy.sparse

from dlfb_lab import data
from dlfb_lab.errors import DataError, OptionError


@pytest.fixture
def cells() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "radius": [1.0, 2.0, 3.0, 4.0],
            "count": [1, 2, 3, 4],
            "alive": [True, False, True, False],
            "patient": ["p1", "p1", "p2", "p3"],
            "label": pd.Categorical(["benign", "malignant", "benign", "benign"]),
        }
    )


def test_a_table_gives_features_target_and_groups(cells: pd.DataFrame) -> None:
    examples = data.read(cells, target="label", groups="patient")
    assert examples.features == ["radius", "count", "alive"]
    assert examples.x.dtype == np.float64
    np.testing.assert_array_equal(examples.x, [[1, 1, 1], [2, 2, 0], [3, 3, 1], [4, 4, 0]])
    assert examples.y.tolist() == ["benign", "malignant", "benign", "benign"]
    assert examples.groups is not None
    assert examples.groups.tolist() == ["p1", "p1", "p2", "p3"]


def test_the_users_table_is_left_as_it_was(cells: pd.DataFrame) -> None:
    before = cells.copy(deep=True)
    data.read(cells, target="label", groups="patient")
    pd.testing.assert_frame_equal(cells, before)


def test_a_string_column_is_named_with_its_remedy(cells: pd.DataFrame) -> None:
    with pytest.raises(DataError) as caught:
        data.read(cells, target="label")
    said = str(caught.value)
    assert "`patient`" in said
    assert "'p1'" in said
    assert "pandas.get_dummies(df, columns=['patient'])" in said
    remedied = pd.get_dummies(cells, columns=["patient"])
    assert data.read(remedied, target="label").features[-1] == "patient_p3"


def test_a_gap_in_a_column_is_counted_and_named(cells: pd.DataFrame) -> None:
    cells["count"] = pd.array([1, None, 3, None], dtype="Int64")
    cells.loc[1, "radius"] = np.nan
    with pytest.raises(DataError, match=r"NaN: 3 values in 2 of 4 rows, in columns `radius`, `count`"):
        data.read(cells, target="label", groups="patient")


def test_a_missing_target_is_counted(cells: pd.DataFrame) -> None:
    cells.loc[2, "label"] = None
    with pytest.raises(DataError, match=r"1 of 4 rows have no target.*dropna"):
        data.read(cells, target="label", groups="patient")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "Which column is to be predicted.*radius, count, alive, patient, label"),
        ({"target": "lable"}, "--target lable: there is no such column. Did you mean `label`"),
        ({"target": "zzz"}, "there is no such column. The table has: radius"),
        ({"target": "label", "groups": "patien"}, "--groups patien: there is no such column. Did you mean `patient`"),
    ],
)
def test_a_wrong_column_is_refused(cells: pd.DataFrame, options: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        data.read(cells, **options)


def test_a_table_of_nothing_but_the_target_is_refused(cells: pd.DataFrame) -> None:
    with pytest.raises(DataError, match="no column beside label and patient"):
        data.read(cells[["label", "patient"]], target="label", groups="patient")


def test_two_columns_of_one_name_are_refused(cells: pd.DataFrame) -> None:
    twice = pd.concat([cells[["radius", "label"]], cells[["radius"]]], axis="columns")
    with pytest.raises(DataError, match="2 columns named `radius`"):
        data.read(twice, target="label")


def test_columns_may_be_numbers() -> None:
    examples = data.read(pd.DataFrame(np.eye(3)), target="2")
    assert examples.features == ["0", "1"]


def test_a_dict_finds_its_target_by_name_or_by_custom() -> None:
    arrays = {"image": np.ones((3, 2, 2)), "age": np.ones(3), "label": [0, 1, 0]}
    by_custom = data.read(arrays)
    assert isinstance(by_custom.x, dict)
    assert list(by_custom.x) == ["image", "age"]
    assert by_custom.y.tolist() == [0, 1, 0]
    by_name = data.read(arrays, target="age", groups="label")
    assert isinstance(by_name.x, np.ndarray), "one input alone is an array, not a dict of one"
    assert by_name.groups is not None


@pytest.mark.parametrize(
    ("arrays", "target", "error", "said"),
    [
        ({"a": [1.0], "b": [2.0]}, None, OptionError, "Which of the arrays a, b is the target"),
        ({"x": [1.0], "y": [2.0], "label": [1]}, None, OptionError, "Which of the arrays x, y, label"),
        ({"x": [1.0], "y": [2.0]}, "z", OptionError, "--target z: the dict has the keys x, y"),
        ({"y": [2.0]}, None, DataError, "holds the target `y` and no inputs"),
    ],
)
def test_a_dict_without_a_clear_target_is_refused(
    arrays: dict[str, Any], target: str | None, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        data.read(arrays, target=target)


def test_a_pair_takes_jax_arrays_lists_and_pandas() -> None:
    x, y = np.arange(6.0).reshape(3, 2), np.array([1.5, 2.5, 3.5])
    for pair in (
        (x, y),
        (jnp.asarray(x), jnp.asarray(y)),
        [x.tolist(), y.tolist()],
        (pd.DataFrame(x), pd.Series(y)),
    ):
        examples = data.read(pair)
        assert examples.x.dtype == (np.float32 if isinstance(pair[0], jnp.ndarray) else np.float64)
        np.testing.assert_array_equal(examples.x, x)
        np.testing.assert_array_equal(examples.y, y)


def test_a_pair_of_table_and_series_keeps_names_and_takes_its_groups(cells: pd.DataFrame) -> None:
    examples = data.read((cells[["radius", "patient"]], cells["label"]), groups="patient")
    assert examples.features == ["radius"]
    assert examples.groups is not None
    with pytest.raises(OptionError, match="--groups site: the data have no column of that name"):
        data.read((cells[["radius"]], cells["label"]), groups="site")


def test_a_pair_has_its_target_already() -> None:
    with pytest.raises(OptionError, match=r"--target y: the data are a pair \(x, y\)"):
        data.read(([[1.0]], [1.0]), target="y")


def test_inputs_become_numbers_of_few_kinds() -> None:
    def read(x: Any) -> Any:
        return data.read((x, [0, 1])).x

    assert read(np.array([1.0, 2.0])).dtype == np.float64, "scaling needs its digits"
    assert read(np.array([1.0, 2.0], np.float16)).dtype == np.float16
    assert read(np.array([True, False])).dtype == np.float32
    assert read(np.array([1, 2])).dtype == np.int32
    for large in (np.int64(2**40), np.uint64(2**63), np.uint32(2**32 - 1)):
        assert read(np.array([1, large], large.dtype)).tolist() == [1.0, float(large)]
    assert read(np.array([1, 2], np.uint32)).dtype == np.int32
    assert read(np.array([1, 2], np.uint8)).dtype == np.uint8
    assert read(np.array([1, 2.5], object)).dtype == np.float64


def test_a_masked_entry_is_a_gap() -> None:
    for values in ([1, 2, 3], [1.0, 2.0, 3.0]):
        x = np.ma.masked_array(np.array(values)[:, None], mask=[[False], [True], [False]])
        with pytest.raises(DataError, match="x holds NaN: 1 value in 1 of 3 rows"):
            data.read((x, [0, 1, 0]))


@pytest.mark.parametrize(
    ("pair", "said"),
    [
        (([[1.0], [2.0]], [1.0]), "x has 2 rows, y has 1 rows"),
        (({"a": [1.0], "b": [1.0, 2.0]}, [1.0]), "a has 1 rows, b has 2 rows, y has 1 rows"),
        ((np.zeros((0, 3)), np.zeros(0)), "The data have 0 rows"),
        (
            ([[1.0, np.nan], [np.inf, np.nan]], [0, 1]),
            "NaN or infinity: 3 values in 2 of 2 rows.*columns 0, 1",
        ),
        (([[1.0], [np.inf]], [0, 1]), "infinity: 1 value in 1 of 2 rows, in column 0"),
        (([["a"], ["b"]], [0, 1]), "x holds <U1 values, not numbers.*'a'"),
        (([[1.0], [1.0, 2.0]], [0, 1]), "x cannot be made into an array"),
        ((3.0, [0, 1]), r"x is a single number \(3.0\)"),
        (([[1.0], [2.0]], 3), r"y is a single value \(3\)"),
        (([[1j], [2.0]], [0, 1]), r"x holds complex numbers \(complex128\).*\.real"),
        (([[1.0], [2.0]], [1j, 2.0]), "y holds complex numbers"),
        ((np.array([["2020-01-01"], ["2021-01-01"]], "M8[D]"), [0, 1]), r"x holds dates or times.*days since"),
        ((pd.DataFrame({"born": pd.to_datetime(["2020-01-01"] * 2)}), [0, 1]), "column `born` holds dates or times"),
        (
            (pd.DataFrame({"t": pd.to_datetime(["2020-01-01"] * 2, utc=True)}), [0, 1]),
            "column `t` holds dates or times",
        ),
        (({}, [0, 1]), "x is a dict without any array"),
        ((scipy.sparse.eye(2), [0, 1]), r"x is a sparse .*shape \(2, 2\). Call .toarray\(\)"),
    ],
)
def test_bad_arrays_are_refused(pair: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        data.read(pair)


def test_groups_of_another_length_are_refused() -> None:
    with pytest.raises(DataError, match="groups has 3 rows"):
        data.read(([[1.0], [2.0]], [0, 1]), groups=[1, 2, 3])


def test_the_columns_of_many_gaps_are_not_all_listed() -> None:
    with pytest.raises(DataError, match="in columns 0, 1, 2, 3, 4 and 5 more"):
        data.read((np.full((2, 10), np.nan), [0, 1]))


def test_one_array_has_no_targets() -> None:
    with pytest.raises(DataError, match=r"One array alone, of shape \(3,\), has no targets. Give \(x, y\)"):
        data.read(np.ones(3))


@pytest.mark.parametrize("thing", [3, "x, y", (np.ones(2), np.ones(2), np.ones(2)), None])
def test_other_things_are_refused_with_what_can_be_given(thing: Any) -> None:
    with pytest.raises(DataError, match=rf"type {type(thing).__name__} cannot be read. Give \(x, y\)"):
        data.read(thing)


def test_row_labels_decide_which_target_is_whose() -> None:
    x = pd.DataFrame({"a": [1.0, 2.0, 3.0]}, index=["p", "q", "r"])
    y, groups = pd.Series([30, 10, 20], index=["r", "p", "q"]), pd.Series([3, 1, 2], index=["r", "p", "q"])
    for given in ((x, y), {"x": x["a"], "y": y}):
        examples = data.read(given, groups=groups)
        assert examples.y.tolist() == [10, 20, 30]
        assert examples.groups is not None
        assert examples.groups.tolist() == [1, 2, 3]
        assert len(examples.notices) == 2
    table = data.read(x.assign(y=[10, 20, 30]), target="y", groups=groups)
    assert table.groups is not None
    assert table.groups.tolist() == [1, 2, 3]
    assert not data.read((x, y.loc[x.index])).notices
    assert data.read((x.to_numpy(), y)).y.tolist() == [30, 10, 20], "an array has no labels"


@pytest.mark.parametrize(
    ("index", "said"), [(["p", "q", "z"], "only y has 'z'.*y.loc"), (["p", "q", "q"], "some occur twice.*reset_index")]
)
def test_row_labels_that_cannot_be_matched_are_refused(index: list[str], said: str) -> None:
    x = pd.DataFrame({"a": [1.0, 2.0, 3.0]}, index=["p", "q", "r"])
    with pytest.raises(DataError, match=said):
        data.read((x, pd.Series([1, 2, 3], index=index)))


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        (["p1", None], r"1 of 2 rows have no group"),
        (pd.Series(["p1", np.nan]), r"1 of 2 rows have no group"),
        (pd.Series(["p1", pd.NA]), r"1 of 2 rows have no group"),
        ([1.0, np.nan], r"1 of 2 rows have no group"),
        (np.array(["p1", 1], object), r"groups holds int and str values.*astype\(str\)"),
        ([[1, 2], [3, 4]], r"groups has shape \(2, 2\)"),
    ],
)
def test_groups_that_are_not_one_a_row_are_refused(groups: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        data.read(([[1.0], [2.0]], [0, 1]), groups=groups)


def test_a_pair_with_two_columns_of_one_name_is_refused() -> None:
    with pytest.raises(DataError, match="2 columns named `a`"):
        data.read((pd.DataFrame(np.eye(2), columns=["a", "a"]), [0, 1]))
