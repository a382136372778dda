"""What the user gave, as NumPy takes it."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from dlfb_lab.errors import DataError

Array = np.ndarray[Any, Any]


def host(values: Any) -> Any:
    """Returns a PyTorch tensor as a NumPy array, without a copy where it lies in host memory; else what was given."""
    torch: Any = sys.modules.get("torch")
    if torch is None or not isinstance(values, torch.Tensor):
        return values
    values = values.detach().cpu()
    if values.dtype == torch.bfloat16:
        # NumPy has no such numbers.
        values = values.float()
    return values.numpy()


def as_array(values: Any, what: str) -> Array:
    """Returns a NumPy array of what the user gave.

    Raises:
        DataError: it is ragged, sparse or not an array at all.
    """
    if type(values).__module__.startswith("scipy.sparse"):
        raise DataError(f"{what} is a sparse {type(values).__name__}, shape {values.shape}. Call .toarray() on it.")
    if isinstance(values, np.ma.MaskedArray):
        # A masked entry is a gap, and is then refused or dropped as any other gap.
        number = values.dtype.kind in "biuf"
        values = values.astype(np.result_type(values.dtype, np.float32) if number else object)
        values = values.filled(np.nan if number else None)
    try:
        array = np.asarray(host(values))
    except Exception as error:
        raise DataError(f"{what} cannot be made into an array: {error}") from error
    if array.dtype == object and array.ndim == 1 and any(isinstance(v, list | tuple | np.ndarray) for v in array[:50]):
        raise DataError(f"{what} has rows of different lengths. Pad them to one length first.")
    # JAX takes numbers in the machine's byte order only; files often hold the other.
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def refuse_kind(array: Any, what: str) -> None:
    """Refuses complex numbers and dates, which would be turned into other numbers without a word.

    Raises:
        DataError: what to give instead.
    """
    if array.dtype.kind == "c":
        raise DataError(f"{what} holds complex numbers ({array.dtype}). Give real numbers, such as their .real part.")
    if array.dtype.kind in "mM":
        raise DataError(
            f"{what} holds dates or times ({array.dtype}), not numbers. Give numbers, such as days since the first: "
            "(t - t.min()) / np.timedelta64(1, 'D')."
        )
