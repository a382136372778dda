"""Adapter for TensorFlow's `tf.data.Dataset`."""

from __future__ import annotations

import sys
from typing import Any

from dlfb_lab.data.stream import Items
from dlfb_lab.errors import DataError

INFINITE, UNKNOWN = -1, -2
"""What `cardinality()` answers where it is not a count."""


def open_dataset(data: Any) -> Items | None:
    """Opens a `tf.data.Dataset`, which decides on the order of what it yields.

    Raises:
        DataError: its elements are ragged or sparse.
    """
    tf: Any = sys.modules.get("tensorflow")
    if tf is None or not isinstance(data, tf.data.Dataset):
        return None
    specs = tf.nest.flatten(data.element_spec)
    for spec in specs:
        if not isinstance(spec, tf.TensorSpec):
            raise DataError(
                f"The tf.data.Dataset has elements of {type(spec).__name__}, shape {spec.shape}; arrays are needed. "
                "Use .padded_batch(…), or .map(lambda t: t.to_tensor())."
            )
    count = int(data.cardinality())
    return Items(
        name="tf.data.Dataset",
        open=lambda number, seed: data.as_numpy_iterator(),
        count=None if count in (INFINITE, UNKNOWN) else count,
        endless=count == INFINITE,
        batched=_batched([spec.shape for spec in specs]),
    )


def _batched(shapes: list[Any]) -> bool | None:
    if any(shape.rank is None for shape in shapes):
        return None
    if any(shape.rank == 0 for shape in shapes):
        return False
    # Only what comes out of batch() has no length of its own; of several, all of them have none.
    return True if len(shapes) > 1 and all(shape[0] is None for shape in shapes) else None
