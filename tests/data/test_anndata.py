"""AnnData: cells by genes, dense, sparse and in files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import psutil
import pytest
import scipy.sparse

from dlfb_lab import data
from dlfb_lab.data.source import examples_are_lazy
from dlfb_lab.errors import DataError, OptionError

MATRIX = scipy.sparse.random(12, 4, 0.5, format="csr", dtype=np.float32, rng=0)


def cells(matrix: Any = MATRIX) -> anndata.AnnData:
    obs = pd.DataFrame(
        {
            "cell_type": pd.Categorical(["T", "B", "B"] * 4, categories=["T", "NK", "B"]),
            "donor": [f"d{i // 3}" for i in range(12)],
            "age": np.arange(12.0),
        },
        index=[f"cell{i}" for i in range(12)],
    )
    return anndata.AnnData(matrix, obs=obs, var=pd.DataFrame(index=["CD3", "CD19", "CD4", "CD8"]))


@pytest.mark.parametrize(
    "matrix",
    [
        MATRIX,
        MATRIX.tocsc(),
        MATRIX.toarray(),
        scipy.sparse.csr_array(MATRIX),
        MATRIX.toarray().astype(np.float64),
    ],
    ids=["csr", "csc", "dense", "array", "float64"],
)
def test_genes_are_features_and_a_column_of_obs_is_the_target(matrix: Any) -> None:
    examples = data.read(cells(matrix), target="cell_type", groups="donor")
    np.testing.assert_array_equal(examples.x, MATRIX.toarray())
    assert examples.features == ["CD3", "CD19", "CD4", "CD8"]
    assert examples.y.tolist() == ["T", "B", "B"] * 4
    assert examples.categories == ("T", "B"), "in the user's order, and only those in use"
    assert examples.groups is not None
    assert examples.groups.tolist() == [f"d{i // 3}" for i in range(12)]


def test_counts_and_numbers_as_targets() -> None:
    examples = data.read(cells((MATRIX * 10).astype(np.int64)), target="age")
    assert examples.x.dtype == np.int32
    assert examples.y.tolist() == list(range(12))
    assert examples.categories is None


def test_a_view_is_read_as_what_it_shows() -> None:
    for matrix in (MATRIX, MATRIX.toarray()):
        view = cells(matrix)[[3, 1], ["CD8", "CD3"]]
        examples = data.read(view, target="cell_type")
        np.testing.assert_array_equal(examples.x, MATRIX.toarray()[[3, 1]][:, [3, 0]])
        assert examples.features == ["CD8", "CD3"]
        assert examples.y.tolist() == ["T", "B"]


def test_groups_may_be_a_series_of_their_own_order() -> None:
    groups = pd.Series(np.arange(12), index=[f"cell{i}" for i in range(12)])[::-1]
    examples = data.read(cells(), target="age", groups=groups)
    assert examples.groups is not None
    assert examples.groups.tolist() == list(range(12))
    assert len(examples.notices) == 1


def test_a_sparse_matrix_too_large_for_memory_is_read_by_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("", (), {"available": 300}))
    examples = data.read(cells(), target="cell_type")
    assert examples_are_lazy(examples.x)
    assert "rows are read as they are needed" in examples.notices[0]
    np.testing.assert_array_equal(examples.take(np.array([5, 2])).x[:], MATRIX.toarray()[[5, 2]])


@pytest.mark.parametrize("dense", [True, False])
def test_a_file_is_not_read_as_a_whole(dense: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells(MATRIX.toarray() if dense else MATRIX).write_h5ad(tmp_path / "cells.h5ad")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("", (), {"available": 300}))
    backed = anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    examples = data.read(backed, target="cell_type")
    assert examples_are_lazy(examples.x)
    np.testing.assert_array_equal(examples.take(np.array([5, 2, 5])).x[:], MATRIX.toarray()[[5, 2, 5]])
    backed.file.close()


def test_columns_of_a_sparse_file_are_refused(tmp_path: Path) -> None:
    cells(MATRIX.tocsc()).write_h5ad(tmp_path / "cells.h5ad")
    backed = anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    with pytest.raises(DataError, match=r"X is a CSC matrix in a file.*to_memory\(\)"):
        data.read(backed, target="cell_type")
    backed.file.close()


def test_all_of_x_may_be_reconstructed() -> None:
    examples = data.read_inputs(cells(), groups="donor")
    assert isinstance(examples, data.Examples)
    assert examples.y is examples.x
    assert examples.groups is not None
    assert examples.features[0] == "CD3"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "Which column of obs.*cell_type, donor, age"),
        ({"target": "celltype"}, "--target celltype: obs has no such column. Did you mean `cell_type`"),
        ({"target": "zzz"}, "--target zzz: obs has no such column. obs has: cell_type, donor, age"),
        ({"target": "age", "groups": "doner"}, "--groups doner: obs has no such column. Did you mean `donor`"),
    ],
)
def test_a_wrong_column_is_refused(options: dict[str, str], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        data.read(cells(), **options)


def test_what_cannot_be_learned_from_is_refused() -> None:
    table = cells()
    table.obs.loc["cell3", "cell_type"] = None
    with pytest.raises(DataError, match="1 of 12 rows have no target"):
        data.read(table, target="cell_type")
    with pytest.raises(DataError, match="no X to learn from"):
        data.read(anndata.AnnData(obs=cells().obs), target="age")
    twice = cells()
    twice.var_names = ["a", "a", "b", "c"]
    with pytest.raises(DataError, match=r"var_names_make_unique\(\)"):
        data.read(twice, target="age")
    gaps = MATRIX.toarray()
    gaps[2, 1] = np.nan
    with pytest.raises(DataError, match="NaN: 1 value in 1 of 12 rows, in column `CD19`"):
        data.read(cells(gaps), target="age")
