"""Adapter for AnnData: cells by genes."""

from __future__ import annotations

import sys
from typing import Any

import psutil

from dlfb_lab.data import tables
from dlfb_lab.data.host import Array, as_array
from dlfb_lab.data.lazy import sparse
from dlfb_lab.data.source import Examples, inputs_array
from dlfb_lab.errors import DataError, OptionError, nearest


def read_anndata(data: Any, target: str | None, groups: Any) -> Examples | None:
    """Reads `X` as inputs and a column of `obs` as targets.

    Raises:
        OptionError: the target or the groups are not a column of `obs`.
        DataError: there is no `X`, its variables' names are not unique, or the target has gaps.
    """
    if not is_anndata(data):
        return None
    columns = [str(c) for c in data.obs.columns]
    if target is None:
        raise OptionError(f"Which column of obs is to be predicted? Say --target NAME, one of: {', '.join(columns)}.")
    column = data.obs[_column(target, columns, "target")]
    y, categories = tables.target_array(column), tables.categories(column)
    return _examples(data, groups, y, categories)


def read_anndata_inputs(data: Any, groups: Any) -> Examples | None:
    """Reads `X` as inputs alone. Raises as `read_anndata`."""
    return _examples(data, groups, None, None) if is_anndata(data) else None


def is_anndata(data: Any) -> bool:
    """Whether the data are an AnnData object."""
    module: Any = sys.modules.get("anndata")
    return module is not None and isinstance(data, module.AnnData)


def _examples(data: Any, groups: Any, y: Array | None, categories: tuple[object, ...] | None) -> Examples:
    if data.X is None:
        raise DataError("The AnnData object has no X to learn from. Set adata.X, for example to one of adata.layers.")
    features = [str(name) for name in data.var_names]
    if len(set(features)) < len(features):
        raise DataError("Several variables have one name. Call adata.var_names_make_unique() first.")
    notices = []
    group_values = None
    if isinstance(groups, str):
        group_values = as_array(data.obs[_column(groups, list(data.obs.columns), "groups")], "groups")
    elif groups is not None:
        groups, notice = tables.aligned(groups, "groups", data.obs)
        group_values = as_array(groups, "groups")
        notices += [notice] if notice else []
    x, notice = _matrix(data.X)
    notices += [notice] if notice else []
    return Examples(
        x=x,
        y=x if y is None else y,
        features=features,
        groups=group_values,
        categories=categories,
        notices=tuple(notices),
    )


def _matrix(matrix: Any) -> tuple[Array, str]:
    """Returns the matrix as inputs, shape [cells, genes], and what to say about it."""
    kind = getattr(matrix, "format", None)
    if kind is None:
        return inputs_array(matrix, "X"), ""
    if kind != "csr":
        if not hasattr(matrix, "tocsr"):
            raise DataError(f"X is a {kind.upper()} matrix in a file, which has no quick rows. Call adata.to_memory().")
        matrix = matrix.tocsr()
    rows = sparse(matrix)
    # Half of what is free: the rest of the run takes memory too.
    if rows.nbytes <= psutil.virtual_memory().available // 2:
        return inputs_array(rows[:], "X"), ""
    said = f"X is sparse and would take {rows.nbytes / 1e9:.3g} GB as a whole, so its rows are read as they are needed."
    return inputs_array(rows, "X"), said


def _column(name: str, columns: list[str], option: str) -> str:
    if name not in columns:
        has = f" obs has: {', '.join(columns)}."
        raise OptionError(f"--{option} {name}: obs has no such column.{nearest(name, columns) or has}")
    return name
