"""Whether what an iterable yields is a batch or a single example."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

from dlfb_lab.data.batch import described, leaves_of, rows_of
from dlfb_lab.errors import DataError

MOST_ITEMS = 3
"""That are looked at."""


class Kind(NamedTuple):
    """What items are.

    Attributes:
        batched: whether each is a batch.
        notice: what was assumed, where it could not be told; or "".
    """

    batched: bool
    notice: str = ""


def tell(raw: Sequence[Any], items: Sequence[Any], *, ended: bool, batch_size: int | None, whole: bool) -> Kind | None:
    """Tells batches from single examples.

    Args:
        raw: the first items as the user gave them.
        items: the same with NumPy arrays for leaves.
        ended: whether there are no more.
        batch_size: the rows per batch that the user asked for, if any.
        whole: whether an item may be anything: a graph, for a step of the user's own.

    Returns:
        The answer, or None where another item is needed; never that when `ended`, or from `MOST_ITEMS` on.

    Raises:
        DataError: an item holds no array.
    """
    leaves = jax.tree.leaves(items[0])
    if not leaves:
        raise DataError(f"The first item of the data is {described(items[0])}, which holds no array.")
    if any(leaf.ndim == 0 for leaf in leaves):
        return Kind(False)
    rows = rows_of(items[0])
    if rows is None:
        # An image beside a one-hot class, for example.
        return _of_different_lengths(raw, items, ended, batch_size) if whole else Kind(False)
    lone = len(leaves) == 1
    if lone and leaves[0].ndim == 1:
        return Kind(False)
    common = min(leaf.ndim for leaf in leaves)
    flat = all(leaf.ndim == 1 for leaf in leaves)
    alike = common > 1 and len({leaf.shape[1] for leaf in leaves}) == 1
    if not (lone or flat or alike) or any(rows_of(item) != rows for item in items):
        return Kind(True)
    if batch_size is not None:
        return Kind(rows == batch_size)
    return Kind(
        True,
        f"Each item of the data ({described(items[0])}) was read as a batch of {rows:,} rows. If it is a single "
        "example, say how many make a batch: --batch-size N.",
    )


def _of_different_lengths(raw: Sequence[Any], items: Sequence[Any], ended: bool, batch_size: int | None) -> Kind | None:
    if len(items) == 1:
        # Nothing to stack it with.
        return Kind(True) if ended else None
    given = [leaves_of(item) for item in raw]
    columns = [jax.tree.leaves(item) for item in items]
    if len({len(column) for column in columns}) > 1:
        return Kind(True)
    # What stands in every item as one and the same object, such as a graph beside the batches, has rows of its own.
    moving = [i for i in range(len(columns[0])) if any(other[i] is not given[0][i] for other in given)]
    shared = len(moving) < len(columns[0])
    if shared and len({columns[0][i].shape[0] for i in moving}) <= 1:
        return Kind(True)
    same = all(column[i].shape == columns[0][i].shape for column in columns for i in moving)
    if same and len(items) < MOST_ITEMS and not ended:
        return None
    if not same or batch_size is not None:
        return Kind(not same)
    return Kind(
        True,
        f"Each item of the data ({described(items[0])}) was read as a batch. If it is a single example, say how many "
        "make a batch: --batch-size N.",
    )
