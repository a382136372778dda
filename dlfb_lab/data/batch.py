"""One batch, or one example, in whatever structure the user gives it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from dlfb_lab.data.host import Array, as_array, refuse_kind
from dlfb_lab.data.source import Inputs, target_key
from dlfb_lab.errors import DataError, OptionError

PLAIN = (int, float, str, bytes, np.generic)
"""What a list may hold and be one array."""

READY = frozenset(map(np.dtype, (np.float16, np.float32, np.int8, np.int16, np.int32, np.uint8, np.uint32, bool)))
"""Of numbers that JAX takes as they are, in the machine's byte order."""


def on_host(tree: Any, what: str) -> Any:
    """Returns the tree with NumPy arrays for leaves: tensors of any framework, numbers and lists of numbers.

    64-bit numbers become those that JAX takes. Strings stay, for they may be targets.

    Args:
        tree: tuples, lists, dicts and other pytrees of arrays.
        what: how to call it in a message.

    Raises:
        DataError: a leaf is no array, or too large for 32 bits.
    """
    parts = tree.values() if type(tree) is dict else tree if type(tree) in (tuple, list) else [tree]
    if all(map(_is_ready, parts)):
        # The usual batch, which costs next to nothing here.
        return tree
    leaves, structure = jax.tree.flatten(tree, is_leaf=is_values)
    arrays = [leaf if _is_ready(leaf) else _array(leaf, what + leaf_name(tree, i)) for i, leaf in enumerate(leaves)]
    return jax.tree.unflatten(structure, arrays)


def leaves_of(tree: Any) -> list[Any]:
    """Returns the leaves of a tree as the user gave it, in the order of `on_host`."""
    return list(jax.tree.leaves(tree, is_leaf=is_values))


def _is_ready(leaf: Any) -> bool:
    return type(leaf) is np.ndarray and leaf.dtype in READY


def is_values(node: Any) -> bool:
    """Whether a node of the user's tree is an array written as a list; `[x, y]` is not."""
    if type(node) is not list or not node:
        return False
    return all(isinstance(v, PLAIN) for v in node) or all(is_values(v) for v in node)


def leaf_name(tree: Any, leaf: int) -> str:
    """Returns how to index the tree for the leaf of that number, such as `['x'][0]`; "" for the tree itself."""
    path = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_values)[0][leaf][0]
    return jax.tree_util.keystr(path)


def _array(value: Any, what: str) -> Array:
    array = as_array(value, what)
    refuse_kind(array, what)
    if array.dtype.kind == "O" and not all(isinstance(v, str | bytes) for v in array.reshape(-1).tolist()):
        try:
            array = array.astype(np.float64)
        except (TypeError, ValueError):
            seen = f"{type(value).__name__} ({str(value)[:40]!r})"
            raise DataError(f"{what} is a {seen}, not an array or a number.") from None
    if array.dtype.kind == "V":
        # bfloat16 and its like, which NumPy knows by name only.
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise DataError(f"{what} holds {array.dtype} values, not numbers. Give its fields one by one.")
        return array.astype(np.float32)
    return narrow(array, what)


def narrow(array: Array, what: str) -> Array:
    """Returns numbers of 64 bits as JAX takes them, which is 32 bits unless it was told otherwise.

    Raises:
        DataError: a number is too large for that.
    """
    if array.dtype.kind not in "iuf" or array.dtype.itemsize < 8:
        return array
    dtype = jax.dtypes.canonicalize_dtype(array.dtype)
    if dtype == array.dtype:
        return array
    with np.errstate(over="ignore"):
        narrowed = array.astype(dtype)
    wrong = (np.isfinite(array) & ~np.isfinite(narrowed)) if dtype.kind == "f" else narrowed != array
    if wrong.any():
        raise DataError(
            f"{what} holds {array[wrong].reshape(-1)[0]:.6g}, too large for {dtype}, which is what a model takes. "
            "Divide it by a constant, or number what it stands for anew from 0."
        )
    return cast(Array, narrowed)


def stacked(examples: Sequence[Any], first: int = 0) -> Any:
    """Returns a batch of examples, whose leaves are arrays: shape [examples, ...].

    Args:
        examples: trees of one structure.
        first: the number of the first of them, for messages.

    Raises:
        DataError: they differ in structure or shape.
    """
    structure: Any = jax.tree.structure(examples[0])
    columns: list[list[Array]] = [[] for _ in range(structure.num_leaves)]
    for number, example in enumerate(examples, start=first):
        leaves, same = jax.tree.flatten(example)
        if same != structure:
            raise DataError(
                f"Example {number} is {described(example)}; example {first} is {described(examples[0])}. "
                "Give every example one structure."
            )
        for i, leaf in enumerate(leaves):
            if columns[i] and leaf.shape != columns[i][0].shape:
                where = leaf_name(example, i)
                raise DataError(
                    f"Examples of differing shapes cannot be stacked: example {number} has shape {leaf.shape}"
                    f"{f' at {where}' if where else ''}, example {first} has {columns[i][0].shape}. "
                    "Pad them to one shape, or give batches."
                )
            columns[i].append(leaf)
    # Numbers of several kinds may have become wider ones.
    return jax.tree.unflatten(structure, [narrow(np.stack(column), "A batch") for column in columns])


def described(tree: Any) -> str:
    """Returns the structure and the shapes of a tree in a few words."""
    if isinstance(tree, Mapping):
        return "a dict of " + _listed(f"{k}: {described(v)}" for k, v in tree.items())
    if isinstance(tree, tuple | list):
        return f"a {type(tree).__name__} of " + _listed(map(described, tree))
    if tree is None:
        return "None"
    return f"shape {tuple(tree.shape)}" if hasattr(tree, "shape") else f"a {type(tree).__name__}"


def _listed(parts: Any) -> str:
    shown = list(parts)
    return "(" + ", ".join(shown[:6]) + (", …" if len(shown) > 6 else "") + ")"


def rows_of(batch: Any) -> int | None:
    """Returns the leading dimension that all leaves share; None where they do not."""
    lengths = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(batch)}
    return int(next(iter(lengths))[0]) if len(lengths) == 1 and () not in lengths else None


def pair(batch: Any, target: str | None = None) -> tuple[Inputs, Array]:
    """Returns inputs and targets of a batch.

    Args:
        batch: `(x, y)`, or a dict of which one is the target. Leaves are NumPy arrays, shape [rows, ...].
        target: the target's key; None for a key such as "y" or "label".

    Returns:
        One array or several by name, as `inputs_array` makes them but never of 64 bits; and the targets as given.

    Raises:
        DataError: it is neither, or the parts have different numbers of rows.
        OptionError: `target` is not a key, or the batch has none.
    """
    if isinstance(batch, Mapping):
        named = {str(k): v for k, v in batch.items()}
        key = target_key(list(named), target)
        y: Any = named.pop(key)
        x: Any = next(iter(named.values())) if len(named) == 1 else named
        if not named:
            raise DataError(f"A batch holds the target `{key}` and no inputs.")
    elif isinstance(batch, tuple | list) and len(batch) == 2:
        if target is not None:
            raise OptionError(f"--target {target}: batches are pairs (x, y), whose second part is the target already.")
        x, y = batch
    else:
        raise DataError(f"A batch is {described(batch)}. Give pairs (x, y), or dicts of arrays with --target NAME.")
    if not isinstance(y, np.ndarray):
        raise DataError(f"The targets of a batch are {described(y)}; give one array.")
    x = inputs_of(x)
    lengths = {"y": len(y)} if y.ndim else {}
    lengths |= {k: len(v) for k, v in (x.items() if isinstance(x, dict) else [("x", x)])}
    if not y.ndim or len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name} has {length:,} rows" for name, length in sorted(lengths.items()))
        raise DataError(f"A batch has parts of different lengths: {listed or 'y is a single value'}.")
    return x, y


def inputs_of(batch: Any) -> Inputs:
    """Returns the inputs of a batch all of which is inputs: one array, or several by name.

    Raises:
        DataError: it is anything else.
    """
    if isinstance(batch, tuple | list) and len(batch) == 1:
        batch = batch[0]
    if isinstance(batch, Mapping) and batch:
        return {str(k): _numbers(v, f"x[{k!r}]") for k, v in batch.items()}
    return _numbers(batch, "x")


def _numbers(array: Any, what: str) -> Array:
    if not isinstance(array, np.ndarray):
        raise DataError(f"{what} is {described(array)} in a batch; give one array, or a dict of arrays.")
    if array.ndim == 0 or array.dtype.kind not in "biuf":
        seen = f"a single number ({array})" if array.ndim == 0 else f"{array.dtype} values (such as {array.flat[0]!r})"
        raise DataError(f"{what} is {seen} in a batch; give numbers, one row per example.")
    if array.dtype == bool or array.dtype == np.float64:
        return array.astype(np.float32)
    return array.astype(np.int32) if array.dtype == np.int64 else array
