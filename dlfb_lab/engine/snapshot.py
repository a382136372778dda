"""Where training stands, in arrays of the host: what a checkpoint saves, and what training goes on from."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from dlfb_lab.data.source import Array
from dlfb_lab.errors import StoreError
from dlfb_lab.events import Event
from dlfb_lab.models.model import PyTree
from dlfb_lab.models.paths import named_leaves, shown, unique_names


class Snapshot(NamedTuple):
    """Where training stands.

    Attributes:
        arrays: NumPy arrays of their own, by name.
        place: what stands beside them, as JSON values.
        metrics: the scores of this state, by column of the history; empty where it has not been evaluated.
        took_s: wall time for which training waited for it.
    """

    arrays: dict[str, Array]
    place: dict[str, Any]
    metrics: Mapping[str, float] = {}
    took_s: float = 0.0


class Checkpointer(Protocol):
    """Whoever keeps snapshots of a run."""

    def due(self, step: int, ending: bool, better: bool = False) -> bool:
        """Returns whether a snapshot is wanted.

        Args:
            step: updates applied.
            ending: whether training is over, so that this is the last.
            better: whether the state has just been found to be the best so far.
        """

    def steps_until(self, step: int) -> int:
        """Returns how many updates may be applied before it wants to be asked again."""

    def save(self, snapshot: Snapshot) -> None:
        """Takes a snapshot, and keeps it without having training wait."""

    def news(self) -> Iterator[Event]:
        """Yields what there is to tell since it was last asked."""

    def last(self) -> Snapshot | None:
        """Returns the latest snapshot that training can go on from; None where there is none."""


class Never:
    """Keeps nothing."""

    def due(self, step: int, ending: bool, better: bool = False) -> bool:
        """See `Checkpointer`."""
        return False

    def steps_until(self, step: int) -> int:
        """See `Checkpointer`."""
        return sys.maxsize

    def save(self, snapshot: Snapshot) -> None:
        """See `Checkpointer`."""

    def news(self) -> Iterator[Event]:
        """See `Checkpointer`."""
        yield from ()

    def last(self) -> None:
        """See `Checkpointer`."""


def arrays_of(tree: PyTree, within: str) -> dict[str, Array]:
    """Returns copies of a pytree's leaves on the host, by name.

    Args:
        tree: arrays and keys; keys are given as the numbers they consist of.
        within: what all names begin with.
    """
    leaves = [leaf for _, leaf in named_leaves(tree)]
    found = jax.device_get([jax.random.key_data(leaf) if _is_key(leaf) else leaf for leaf in leaves])
    # On a CPU what is fetched may be the very memory that the next step reuses.
    return {name: np.array(leaf, copy=True) for name, leaf in zip(_names(tree, within), found, strict=True)}


def into(template: PyTree, arrays: Mapping[str, Array], within: str) -> PyTree:
    """Returns a pytree like another, with the arrays that `arrays_of` made of one like it.

    Raises:
        StoreError: an array is missing, or there is one more, or one has another shape or dtype; says which.
    """
    names = _names(template, within)
    wrong = differences(template, arrays, within)
    if wrong:
        raise StoreError(f"The model or its optimizer is not the one that was saved: {shown(wrong)}.")
    leaves = [
        jax.random.wrap_key_data(jnp.asarray(arrays[name]), impl=jax.random.key_impl(leaf))
        if _is_key(leaf)
        else jnp.array(arrays[name])  # a copy: training reuses its memory
        for name, (_, leaf) in zip(names, named_leaves(template), strict=True)
    ]
    return jax.tree.unflatten(jax.tree.structure(template), leaves)


def differences(template: PyTree, arrays: Mapping[str, Array], within: str) -> list[str]:
    """Returns how arrays differ from what a pytree needs, leaf by leaf: missing, extra, of another shape or dtype."""
    found = []
    names = _names(template, within)
    for name, (_, leaf) in zip(names, named_leaves(template), strict=True):
        if name not in arrays:
            found.append(f"{name} is missing")
            continue
        expected = jax.eval_shape(jax.random.key_data, leaf) if _is_key(leaf) else leaf
        array, shape, dtype = arrays[name], tuple(np.shape(expected)), jnp.result_type(expected)
        if array.shape != shape:
            found.append(f"{name} has shape {array.shape}, not {shape}")
        elif array.dtype != dtype:
            found.append(f"{name} is {array.dtype.name}, not {dtype.name}")
    extra = sorted(name for name in arrays if name.startswith(f"{within}/") and name not in set(names))
    return found + [f"{name} is not needed" for name in extra]


def _names(tree: PyTree, within: str) -> list[str]:
    return [f"{within}/{name}" for name in unique_names(tree)]


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
