"""What a state of the user's own is made of: arrays, which training changes, and the rest, which stays."""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dlfb_lab.errors import ModelError
from dlfb_lab.models.fingerprint import fingerprint
from dlfb_lab.models.model import PyTree, hashable
from dlfb_lab.models.paths import named_leaves, shown

ARRAY = object()
"""Stands among the leaves of a form for an array."""


def is_array(leaf: Any) -> bool:
    """Whether it is an array that a program can take."""
    return isinstance(leaf, jax.Array) or (isinstance(leaf, np.ndarray) and leaf.dtype.kind in "biufcV")


def is_number(leaf: Any) -> bool:
    """Whether it is an array, or a number that training may change, such as a count of steps."""
    return is_array(leaf) or isinstance(leaf, bool | int | float | complex | np.generic)


class Form:
    """The structure of a pytree, and those of its leaves that are no arrays.

    Args:
        tree: any pytree.
        varies: which leaves count as arrays.
        weak: whether Python's numbers take part in arithmetic as such: their dtype gives way to that of arrays.
    """

    def __init__(self, tree: PyTree, varies: Callable[[Any], bool]) -> None:
        leaves, treedef = jax.tree.flatten(tree)
        self.treedef: Any = treedef  # JAX names no type for it that has `flatten_up_to`
        self.names = [name or "the state" for name, _ in named_leaves(tree)]
        self.fixed = tuple(ARRAY if varies(leaf) else leaf for leaf in leaves)
        self._thawed: Any = jax.tree.structure(_thawed(tree))

    @property
    def key(self) -> Hashable:
        """Equal for trees that the same program can take. Holds no arrays."""
        return hashable(self.treedef), tuple(fingerprint(leaf) for leaf in self.fixed if leaf is not ARRAY)

    def arrays(self, tree: PyTree) -> PyTree:
        """Returns the tree with None in the place of all that is no array."""
        leaves = self.treedef.flatten_up_to(tree)
        kept = [leaf if at is ARRAY else None for leaf, at in zip(leaves, self.fixed, strict=True)]
        return jax.tree.unflatten(self.treedef, kept)

    def whole(self, arrays: PyTree) -> PyTree:
        """Returns the tree that `arrays` came from, with these arrays."""
        leaves = self.treedef.flatten_up_to(arrays)
        return jax.tree.unflatten(
            self.treedef, [leaf if at is ARRAY else at for leaf, at in zip(leaves, self.fixed, strict=True)]
        )

    def fits(self, tree: PyTree) -> bool:
        """Whether a tree has this structure. Flax's frozen dicts count as dicts."""
        return bool(self.treedef == jax.tree.structure(tree) or self._thawed == jax.tree.structure(_thawed(tree)))

    def follow(self, before: PyTree, after: PyTree, who: str) -> PyTree:
        """Returns the arrays of a state after a step, in the form they had before.

        Args:
            before: the arrays that the step was given.
            after: the whole state it returned.
            who: the option and the function's name.

        Raises:
            ModelError: the structure, a shape, a dtype or what is no array has changed.
        """
        if not self.fits(after):
            raise ModelError(f"{who} returned a state of another structure: {self._difference(after)}. {ADVICE}")
        leaves: list[Any] = []
        old = self.treedef.flatten_up_to(before)
        for name, was, at, leaf in zip(self.names, old, self.fixed, jax.tree.leaves(after), strict=True):
            if at is not ARRAY:
                if not _same(at, leaf):
                    raise ModelError(f"{who} changed `{name}` from {_said(at)} to {_said(leaf)}. {ADVICE}")
                leaves.append(None)
                continue
            if not is_number(leaf):
                raise ModelError(f"{who} changed `{name}` from {_said(was)} to {_said(leaf)}. {ADVICE}")
            new = _like(was, leaf)
            if was.shape != new.shape or was.dtype != new.dtype:
                raise ModelError(f"{who} changed `{name}` from {_said(was)} to {_said(new)}. {ADVICE}")
            leaves.append(strong(new) if not is_weak(was) and is_weak(new) else new)
        return jax.tree.unflatten(self.treedef, leaves)

    def _difference(self, after: PyTree) -> str:
        now = [name for name, _ in named_leaves(after)]
        lost = [name for name in self.names if name not in now]
        new = [name for name in now if name not in self.names]
        said = [
            *([f"it lacks {shown(lost)}"] if lost else []),
            *([f"it has {shown([n or 'one leaf' for n in new])} besides"] if new else []),
        ]
        if said:
            return " and ".join(said)
        top = f"a {type(after).__name__}"
        return f"its leaves have the same names, but their containers (now {top}) or what these hold has changed"


ADVICE = "A step returns a state of the structure, shapes and dtypes it was given."


def settled(leaf: Any) -> Any:
    """Returns an array or number as NumPy's: numbers keep working as Python's, and have a shape and a dtype."""
    if isinstance(leaf, jax.Array | np.ndarray | np.generic):
        return leaf
    return np.asarray(leaf)[()]


def is_weak(array: Any) -> bool:
    """Whether its dtype gives way to that of others in arithmetic, as Python's numbers do."""
    return bool(getattr(array, "weak_type", False))


def strong(array: Any) -> Any:
    """Returns the array with a dtype that does not give way."""
    return jax.lax.convert_element_type(array, array.dtype)


def _like(was: Any, leaf: Any) -> Any:
    """Returns a leaf after a step as the kind of array it was: JAX's, NumPy's, or one of NumPy's numbers."""
    if isinstance(was, np.generic):
        number = np.asarray(leaf)
        # On the host a count goes through jitted functions, too, and comes back narrower.
        return number.astype(was.dtype)[()] if number.shape == () and number.dtype.kind == was.dtype.kind else number
    return settled(leaf) if isinstance(was, np.ndarray) else jnp.asarray(leaf)


def _thawed(tree: PyTree) -> PyTree:
    core: Any = sys.modules.get("flax.core")
    if core is None:
        return tree

    def frozen(node: Any) -> bool:
        return isinstance(node, core.FrozenDict)

    return jax.tree.map(lambda node: node.unfreeze() if frozen(node) else node, tree, is_leaf=frozen)


def _same(a: Any, b: Any) -> bool:
    if a is b:
        return True
    try:
        return bool(a == b)
    except Exception:  # what cannot be compared is another object
        return False


def _said(leaf: Any) -> str:
    shape, dtype = getattr(leaf, "shape", None), getattr(leaf, "dtype", None)
    return f"{dtype}{list(shape)}" if shape is not None and dtype is not None else f"{leaf!r:.40}"
