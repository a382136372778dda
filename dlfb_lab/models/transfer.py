"""Starting from other parameters, and leaving some as they are: transfer learning."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dlfb_lab.errors import OptionError, nearest
from dlfb_lab.models.model import PyTree
from dlfb_lab.models.paths import named_leaves, shown

PREFIX = "params/"
"""What linen puts before the names of all parameters when they come with their collection."""


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """Which parameters were taken over, by name.

    Attributes:
        taken: found in both, with equal shapes.
        missing: not found in what was given; they keep their own initial values.
        extra: given, but the model has no such parameter.
        other_shape: found in both with different shapes, `(given, here)`; they keep their own initial values.
        text: the same in one or two sentences, for people.
    """

    taken: tuple[str, ...]
    missing: tuple[str, ...]
    extra: tuple[str, ...]
    other_shape: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
    text: str


def transfer(given: Any, params: PyTree) -> tuple[PyTree, Transfer]:
    """Takes over the parameters whose name and shape agree.

    Args:
        given: a pytree of arrays, or what holds one: a run, a TrainState, linen variables, an nnx or Equinox module.
        params: the parameters to start from, a pytree of arrays.

    Returns:
        The parameters, in the structure and dtypes of `params`, in arrays of their own; and what was taken.

    Raises:
        OptionError: nothing agrees.
    """
    theirs = _arrays(_unwrapped(given))
    mine = _arrays(params)
    taken, missing, other = [], [], {}
    for name, leaf in mine.items():
        if name not in theirs:
            missing.append(name)
        elif jnp.shape(theirs[name]) != jnp.shape(leaf):
            other[name] = (jnp.shape(theirs[name]), jnp.shape(leaf))
        else:
            taken.append(name)
    extra = [name for name in theirs if name not in mine]
    if not taken:
        raise OptionError(
            f"--init-from: none of its parameters fits. It has {_described(theirs)}; the model has {_described(mine)}. "
            "Names and shapes must agree; rename with a dict if the layers are the same."
        )
    fits = {name: theirs[name] for name in taken}
    new = [
        jnp.array(fits[plain], jnp.result_type(leaf), copy=True) if (plain := _plain(name, mine)) in fits else leaf
        for name, leaf in named_leaves(params)
    ]
    moved = Transfer(
        taken=tuple(taken),
        missing=tuple(missing),
        extra=tuple(extra),
        other_shape=other,
        text=_text(taken, missing, extra, other, len(mine)),
    )
    return jax.tree.unflatten(jax.tree.structure(params), new), moved


def arrays_in(given: Any) -> dict[str, Any]:
    """Returns the arrays of what parameters are taken from, by name; `transfer` takes them in its place."""
    return _arrays(_unwrapped(given))


def statistics_in(given: Any) -> dict[str, Any]:
    """Returns the floating arrays beside the parameters of what parameters are taken from, by name.

    Those are a model's running statistics: the further collections of a run or of linen variables, and the
    `batch_stats` of a TrainState.
    """
    if isinstance(given, Mapping):
        rest = {name: tree for name, tree in given.items() if name != "params"} if "params" in given else {}
    else:
        found = getattr(given, "batch_stats", None)
        rest = getattr(given, "extra", None) or ({"batch_stats": found} if found is not None else {})
    return {name: leaf for name, leaf in named_leaves(rest) if _is_numeric(leaf) and _floats(leaf)}


def with_statistics(given: Mapping[str, Any], extra: PyTree) -> tuple[PyTree, str]:
    """Takes over the running statistics whose name and shape agree.

    Args:
        given: arrays by name, from `statistics_in`.
        extra: a model's collections beside its parameters, a pytree of arrays.

    Returns:
        The collections, in arrays of their own; and what was taken in a sentence, "" where there are none.
    """
    new, taken, total = [], 0, 0
    for name, leaf in named_leaves(extra):
        floats = _is_numeric(leaf) and _floats(leaf)
        fits = floats and name in given and jnp.shape(given[name]) == jnp.shape(leaf)
        new.append(jnp.array(given[name], jnp.result_type(leaf), copy=True) if fits else leaf)
        taken, total = taken + fits, total + floats
    text = f"So do {taken:,} of {total:,} arrays of running statistics." if total else ""
    return jax.tree.unflatten(jax.tree.structure(extra), new), text


def _floats(leaf: Any) -> bool:
    return bool(jnp.issubdtype(jnp.result_type(leaf), jnp.floating))


def frozen_labels(params: PyTree, patterns: str | Iterable[str]) -> PyTree:
    """Returns a pytree of bools in the structure of `params`: whether a parameter is left as it is.

    Args:
        params: a pytree of arrays.
        patterns: of names, as in a shell: "encoder/*" is everything below encoder, and so is "encoder".

    Raises:
        OptionError: a pattern matches nothing, or nothing is left to train.
    """
    asked = _split(patterns)
    mine = _arrays(params)
    frozen: set[str] = set()
    for pattern in asked:
        matched = {name for name in mine if _matches(name, pattern.removeprefix(PREFIX).rstrip("/"))}
        if not matched:
            known = {"/".join(name.split("/")[:depth]) for name in mine for depth in range(1, name.count("/") + 2)}
            raise OptionError(
                f"--freeze {pattern}: no parameter is called so; there are {_described(mine)}."
                f"{nearest(pattern.rstrip('/*'), sorted(known))}"
            )
        frozen |= matched
    if len(frozen) == len(mine):
        raise OptionError(f"--freeze {','.join(asked)}: that is every parameter; nothing is left to train.")
    labels = [_plain(name, mine) in frozen for name, _ in named_leaves(params)]
    return jax.tree.unflatten(jax.tree.structure(params), labels)


def freeze(
    optimizer: optax.GradientTransformation, patterns: str | Iterable[str]
) -> optax.GradientTransformationExtraArgs:
    """Leaves some parameters as they are: their updates are exactly zero, and the optimizer keeps nothing for them.

    Args:
        optimizer: trains the others. It does not see the frozen ones, so neither weight decay nor a gradient's norm
            counts them.
        patterns: see `frozen_labels`; looked up in the parameters when the optimizer's state is made.

    Raises:
        OptionError: in `init`, see `frozen_labels`.
    """
    asked = tuple(_split(patterns))
    parts = {False: optimizer, True: optax.set_to_zero()}
    return optax.multi_transform(parts, lambda params: frozen_labels(params, asked))


def _split(patterns: str | Iterable[str]) -> list[str]:
    return [p.strip() for p in (patterns.split(",") if isinstance(patterns, str) else patterns)]


def _unwrapped(given: Any) -> PyTree:
    nnx: Any = sys.modules.get("flax.nnx")
    if nnx is not None and isinstance(given, nnx.Module):
        return nnx.state(given, nnx.Param)
    if isinstance(given, Mapping) or not hasattr(given, "params"):
        return given
    return given.params


def _arrays(tree: PyTree) -> dict[str, Any]:
    """Returns the arrays of a pytree by name. Of linen variables, those of the collection "params"."""
    found = {name: leaf for name, leaf in named_leaves(tree) if _is_numeric(leaf)}
    if isinstance(tree, Mapping) and "params" in tree:
        return {name.removeprefix(PREFIX): leaf for name, leaf in found.items() if name.startswith(PREFIX)}
    return found


def _plain(name: str, mine: dict[str, Any]) -> str:
    return name if name in mine else name.removeprefix(PREFIX)


def _is_numeric(leaf: Any) -> bool:
    dtype = getattr(leaf, "dtype", None)
    if dtype is None:
        return isinstance(leaf, float) and not isinstance(leaf, bool)
    return hasattr(leaf, "shape") and (jnp.issubdtype(dtype, jnp.number) or jnp.issubdtype(dtype, np.bool_))


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}/*")


def _described(arrays: dict[str, Any]) -> str:
    return shown([f"{name} {jnp.shape(leaf)}" for name, leaf in arrays.items()]) or "no arrays"


def _text(
    taken: list[str],
    missing: list[str],
    extra: list[str],
    other: dict[str, tuple[tuple[int, ...], tuple[int, ...]]],
    total: int,
) -> str:
    notes = [
        *(
            [f"{shown([f'{n} ({a} there, {b} here)' for n, (a, b) in other.items()])} have other shapes"]
            if other
            else []
        ),
        *([f"{shown(missing)} are not there"] if missing else []),
        *([f"{shown(extra)} are not used"] if extra else []),
    ]
    first = f"{len(taken):,} of {total:,} parameter arrays start from the given values."
    return f"{first} Of the rest, {'; '.join(notes)}." if notes else first
