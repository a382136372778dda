"""Adapters for PyTorch's data sets and loaders."""

from __future__ import annotations

import multiprocessing
import sys
from typing import Any

import numpy as np

from dlfb_lab.data.host import Array, host
from dlfb_lab.data.iterables import length_of
from dlfb_lab.data.stream import Items


def tensors(data: Any) -> tuple[Array, ...] | None:
    """Returns the arrays of a `TensorDataset`, shape [rows, ...] each; those of a whole one share its memory.

    A `Subset` of one, as `random_split` makes it, is a selection of rows.
    """
    utils = _utils()
    if utils is None:
        return None
    if isinstance(data, utils.Subset):
        whole = tensors(data.dataset)
        return None if whole is None else tuple(array[np.asarray(data.indices, np.int64)] for array in whole)
    if type(data) is not utils.TensorDataset:
        return None
    return tuple(host(tensor) for tensor in data.tensors)


def open_loader(data: Any) -> Items | None:
    """Opens a `DataLoader`, or an `IterableDataset`, which decide on the order of what they yield."""
    utils = _utils()
    if utils is None or not isinstance(data, utils.DataLoader | utils.IterableDataset):
        return None
    batched = isinstance(data, utils.DataLoader) and data.batch_sampler is not None
    return Items(
        name=type(data).__name__,
        open=lambda number, seed: iter(data),
        count=length_of(data),
        batched=True if batched else None,
        notice=_of_workers(data),
    )


def _of_workers(loader: Any) -> str:
    workers = getattr(loader, "num_workers", 0)
    context = getattr(loader, "multiprocessing_context", None) or multiprocessing
    # Without `allow_none`, asking would fix the method for the whole process.
    method = context.get_start_method(allow_none=True) or multiprocessing.get_all_start_methods()[0]
    if not workers or method != "fork":
        return ""
    return (
        f"The {workers} worker{'s' if workers > 1 else ''} of the {type(loader).__name__} are forked off this process, "
        'which JAX warns of. Should they hang: DataLoader(…, multiprocessing_context="forkserver").'
    )


def _utils() -> Any:
    return sys.modules.get("torch.utils.data")
