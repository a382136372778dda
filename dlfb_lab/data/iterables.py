"""Adapters for whatever yields batches or examples: lists, generators, functions called for each epoch."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from dlfb_lab.data.batch import PLAIN, on_host, stacked
from dlfb_lab.data.items import MOST_ITEMS, tell
from dlfb_lab.data.stream import Items
from dlfb_lab.errors import DataError, one_line

Opener = Callable[[Any], "Items | None"]
"""Tells where items come from, or returns None where the data are of another kind."""

KEY_NAMES = ("key", "rng", "rng_key", "prng_key")


def is_array(data: Any) -> bool:
    """Whether the data are one array or tensor of any framework."""
    return hasattr(data, "shape") and hasattr(data, "dtype")


def open_iterable(data: Any) -> Items | None:
    """Opens anything that can be iterated over: again and again, or once if it is its own iterator."""
    if is_array(data) or isinstance(data, str | bytes | Mapping | tuple | type):
        return None
    name = type(data).__name__
    if not (hasattr(type(data), "__iter__") or hasattr(type(data), "__getitem__")):
        return None
    try:
        iterator = iter(data)
        # Some objects hand out the same iterator each time.
        once = iterator is data or iter(data) is iterator
    except Exception as error:
        raise DataError(f"The {name} cannot be iterated over: {one_line(error)}") from error
    endless = isinstance(data, itertools.cycle | itertools.count)
    return Items(
        name=name,
        open=lambda number, seed: iter(data),
        once=once,
        count=None if once else length_of(data),
        endless=endless,
    )


def open_rows(data: Any) -> Items | None:
    """Opens an object whose items have numbers, such as a map-style data set: they are drawn in the seed's order."""
    kind = type(data)
    if isinstance(data, list | tuple | str | bytes | Mapping | type) or is_array(data):
        return None
    if not (hasattr(kind, "__getitem__") and hasattr(kind, "__len__")):
        return None
    count = len(data)

    def drawn(number: int, seed: int) -> Iterator[Any]:
        for row in np.random.default_rng((seed, number)).permutation(count).tolist():
            yield data[row]

    return Items(name=kind.__name__, open=drawn, drawn=True, count=count)


def open_factory(data: Any, openers: Sequence[Opener]) -> Items | None:
    """Opens a function that is called for each epoch, with a JAX key if it takes an argument.

    Args:
        data: what may be such a function.
        openers: what opens that which the function returns.

    Raises:
        DataError: it takes more than one argument.
    """
    if not callable(data) or isinstance(data, type | Iterable):
        return None
    name = getattr(data, "__name__", None) or type(data).__name__
    takes = _takes(data, name)

    def called(number: int, seed: int) -> Iterator[Any]:
        # Of its own, so that what is drawn here is not what the engine draws.
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 3), number)
        made = data(**{takes: key}) if isinstance(takes, str) else data(key) if takes else data()
        items = next((found for opener in openers if (found := opener(made)) is not None), None)
        if items is None:
            raise DataError(
                f"{name} returned a {type(made).__name__}; it is called for each epoch and must return an iterable of "
                "batches. Yield them, or return a list of them."
            )
        return items.open(number, seed)

    return Items(name=f"function {name}", open=called, drawn=bool(takes))


def _takes(function: Any, name: str) -> bool | str:
    """Whether the function takes a key by position, or its name if it takes one by name alone or by default."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return False
    needed = [p for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if len(needed) > 1:
        names = ", ".join(p.name for p in needed)
        raise DataError(
            f"{name} takes {len(needed)} arguments ({names}). Give a function of a JAX key, or of nothing, such as "
            f"lambda key: {name}(…)."
        )
    if needed:
        return needed[0].name if needed[0].kind == needed[0].KEYWORD_ONLY else True
    return next((p.name for p in parameters if p.name in KEY_NAMES and p.kind != p.POSITIONAL_ONLY), False)


def is_listed(data: Any) -> bool:
    """Whether a list holds batches or examples, rather than being `[x, y]` or an array written as a list."""
    if not isinstance(data, list) or not data or isinstance(data[0], PLAIN):
        return False
    if len(data) == 2 and not all(isinstance(item, Mapping) for item in data):
        if all(isinstance(item, list) and _is_pair(item) for item in data):
            return True
        return all(isinstance(item, tuple) and any(map(_has_rows, item)) for item in data)
    return not isinstance(data[0], list) or any(is_array(part) for part in data[0])


def _is_pair(item: list[Any]) -> bool:
    """Whether a list is inputs and targets of a batch; rows of inputs would all have one shape."""
    if len(item) != 2 or not all(is_array(part) and len(part.shape) for part in item):
        return False
    return tuple(item[0].shape) != tuple(item[1].shape) and item[0].shape[0] == item[1].shape[0]


def _has_rows(part: Any) -> bool:
    return isinstance(part, list) or (is_array(part) and len(part.shape) > 0)


def stack_listed(data: Any, batch_size: int | None, whole: bool) -> Any:
    """Returns a list of single examples as one tree of arrays, shape [rows, ...]; None for anything else.

    Raises:
        DataError: they cannot be stacked.
    """
    if not is_listed(data):
        return None
    items = [on_host(item, f"Item {number} of the list") for number, item in enumerate(data[:MOST_ITEMS])]
    kind = tell(data[:MOST_ITEMS], items, ended=True, batch_size=batch_size, whole=whole)
    if kind is None or kind.batched:
        return None
    return stacked([on_host(item, f"Item {number} of the list") for number, item in enumerate(data)])


def length_of(data: Any) -> int | None:
    """Returns how many items the data say they have, if they do."""
    try:
        return len(data)
    except Exception:
        return None
