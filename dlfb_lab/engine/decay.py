"""Which parameters weight decay takes hold of."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dlfb_lab.errors import OptionError
from dlfb_lab.models.fingerprint import fingerprint
from dlfb_lab.models.model import PyTree, hashable
from dlfb_lab.models.paths import named_leaves, shown


@dataclass(frozen=True)
class Mask:
    """Says of each parameter whether it decays. Equal masks are the same program.

    Attributes:
        name: for people.
        key: what tells masks apart.
    """

    name: str
    key: Hashable
    _choose: Callable[[PyTree], PyTree] = field(compare=False)

    def __call__(self, params: PyTree) -> PyTree:
        """Returns a pytree of bools in the structure of `params`."""
        return self._choose(params)


def read_mask(asked: Any) -> Mask:
    """Reads `--decay-mask`.

    Args:
        asked: "weights" (and None), what has two axes or more, which leaves out biases and the scales of norms; "all";
            patterns of paths, separated by commas, such as "*/kernel"; a pytree of bools; or a function from
            parameters to one.

    Raises:
        OptionError: it is none of these; or, when called with parameters, it does not fit them.
    """
    if asked is None or asked == "weights":
        return Mask("weights", "weights", lambda params: jax.tree.map(lambda leaf: jnp.ndim(leaf) > 1, params))
    if isinstance(asked, str):
        if asked == "all":
            return Mask("all", "all", lambda params: jax.tree.map(lambda leaf: True, params))
        patterns = tuple(pattern.strip() for pattern in asked.split(","))
        return Mask(asked, ("patterns", patterns), lambda params: _matching(patterns, params))
    if callable(asked):
        return Mask("given function", (hashable(asked), fingerprint(asked)), asked)
    leaves = jax.tree.leaves(asked)
    if not leaves or not all(isinstance(leaf, bool | np.bool_) for leaf in leaves):
        raise OptionError(
            "--decay-mask: give all, weights, a pattern of paths such as */kernel, a pytree of True and False in the "
            "structure of the parameters, or a function that returns one."
        )
    named = {name: bool(leaf) for name, leaf in named_leaves(asked)}
    return Mask("given", ("given", tuple(named.items())), lambda params: _looked_up(named, params))


def _matching(patterns: tuple[str, ...], params: PyTree) -> PyTree:
    names = [name for name, _ in named_leaves(params)]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise OptionError(f"--decay-mask {pattern}: no parameter is called so; there are {shown(names)}.")
    chosen = [any(fnmatchcase(name, pattern) for pattern in patterns) for name in names]
    return jax.tree.unflatten(jax.tree.structure(params), chosen)


def _looked_up(named: dict[str, bool], params: PyTree) -> PyTree:
    # By name, for frozen parameters are left out of what an optimizer sees.
    names = [name for name, _ in named_leaves(params)]
    missing = [name for name in names if name not in named]
    if missing:
        raise OptionError(f"--decay-mask: it says nothing of {shown(missing)}. Give True or False for each parameter.")
    return jax.tree.unflatten(jax.tree.structure(params), [named[name] for name in names])
