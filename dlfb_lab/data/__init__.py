"""What can be trained on, and how it is divided and scaled."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from dlfb_lab.data import anndata, arrays, iterables, tables, tensorflow, torch
from dlfb_lab.data.batch import inputs_of, pair
from dlfb_lab.data.iterables import Opener
from dlfb_lab.data.source import Examples, InputsReader, Reader, check, check_finite
from dlfb_lab.data.stream import Stream, begin
from dlfb_lab.data.tree import Tree, tree_of
from dlfb_lab.errors import DataError, OptionError

READERS: tuple[Reader, ...] = (tables.read_table, anndata.read_anndata, arrays.read_dict, arrays.read_pair)
INPUTS_READERS: tuple[InputsReader, ...] = (
    tables.read_table_inputs,
    anndata.read_anndata_inputs,
    arrays.read_array_inputs,
)
OPENERS: tuple[Opener, ...] = (
    torch.open_loader,
    tensorflow.open_dataset,
    iterables.open_rows,
    iterables.open_iterable,
    lambda data: iterables.open_factory(data, OPENERS[:-1]),
)


def read(
    data: Any,
    *,
    target: Any = None,
    groups: Any = None,
    batch_size: int | None = None,
    seed: int = 0,
    apart: bool = False,
) -> Examples | Stream:
    """Reads the user's data with the first adapter that knows their kind.

    Args:
        data: `(x, y)`, a dict of arrays, a DataFrame, AnnData; a data set or loader of PyTorch or TensorFlow; any
            iterable of batches or of single examples, or a function that returns one for each epoch.
        target: the column or key to predict.
        groups: a column's name, or what each row belongs to, shape [rows].
        batch_size: rows of a batch that is made of single examples, if the user asked for it.
        seed: of the run.
        apart: whether a stream is read in a thread of its own, as what is trained on.

    Returns:
        Rows, where they can be taken in any order; else a stream, whose batches `batch.pair` takes apart.

    Raises:
        DataError: no adapter knows the data, or they cannot be trained on.
        OptionError: `target` or `groups` do not fit the data.
    """
    # A column may be named by a number.
    target = None if target is None else str(target)
    groups = str(groups) if np.isscalar(groups) else groups
    data = _rows(data, batch_size)
    if not iterables.is_listed(data):
        for reader in READERS:
            examples = reader(data, target, groups)
            if examples is not None:
                return check(examples)
    stream = _stream(data, groups, batch_size, seed, apart)
    check_finite(pair(stream.first, target)[0], [])
    return stream


def read_inputs(
    data: Any, *, groups: Any = None, batch_size: int | None = None, seed: int = 0, apart: bool = False
) -> Examples | Stream:
    """Reads data all of which is inputs, to be reconstructed.

    Args:
        data: one array, a dict of arrays, a DataFrame, AnnData, or what gives batches of these.
        groups: see `read`.
        batch_size: see `read`.
        seed: see `read`.
        apart: see `read`.

    Returns:
        Rows whose `y` is the object `x`; or a stream, whose batches `batch.inputs_of` takes.

    Raises:
        DataError: no adapter knows the data, or they cannot be trained on.
        OptionError: `groups` do not fit the data.
    """
    groups = str(groups) if np.isscalar(groups) else groups
    data = _rows(data, batch_size)
    if not iterables.is_listed(data):
        for reader in INPUTS_READERS:
            examples = reader(data, groups)
            if examples is not None:
                return check(examples)
    stream = _stream(data, groups, batch_size, seed, apart)
    check_finite(inputs_of(stream.first), [])
    return stream


def read_tree(data: Any, *, batch_size: int | None = None, seed: int = 0, apart: bool = False) -> Tree | Stream:
    """Reads data for a step of the user's own: no target is taken out, and the structure stays.

    Args:
        data: a pytree of arrays, or what gives batches, as for `read`.
        batch_size: see `read`.
        seed: see `read`.
        apart: see `read`.

    Raises:
        DataError: they are neither.
    """
    if anndata.is_anndata(data):
        raise DataError("A step of your own takes arrays, and the data are an AnnData. Give dict(x=data.X, …).")
    data = _rows(data, batch_size, whole=True)
    leaf = jax.tree_util.all_leaves([data])
    if iterables.is_listed(data) or (leaf and not tables.is_table(data) and not iterables.is_array(data)):
        return _stream(data, None, batch_size, seed, apart, whole=True)
    return tree_of(data)


def _rows(data: Any, batch_size: int | None, whole: bool = False) -> Any:
    """Returns the arrays of what holds rows in another form: a `TensorDataset`, or a list of examples."""
    found = torch.tensors(data)
    if found is not None:
        return found[0] if len(found) == 1 else found
    examples = iterables.stack_listed(data, batch_size, whole)
    return data if examples is None else examples


def _stream(data: Any, groups: Any, batch_size: int | None, seed: int, apart: bool, whole: bool = False) -> Stream:
    items = next((found for opener in OPENERS if (found := opener(data)) is not None), None)
    if items is None:
        if iterables.is_array(data):
            raise DataError(
                f"One array alone, of shape {tuple(data.shape)}, has no targets. Give (x, y); or say "
                "--task reconstruction, to train a model that gives its inputs back."
            )
        raise DataError(
            f"Data of type {type(data).__name__} cannot be read. Give (x, y), a dict of arrays, a pandas DataFrame or "
            "AnnData with --target NAME, a data set or loader of PyTorch or TensorFlow, or an iterable of batches."
        )
    if groups is not None:
        raise OptionError(f"--groups: the rows of a {items.name} are not divided here. Divide them yourself.")
    return begin(items, batch_size=batch_size, seed=seed, whole=whole, apart=apart)
