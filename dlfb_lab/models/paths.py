"""Names of the leaves of a pytree, such as "encoder/Dense_0/kernel"."""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any

import jax

from dlfb_lab.models.model import PyTree


def joined(path: tuple[Any, ...]) -> str:
    """Returns JAX's path of a leaf as one name; the same for an attribute and for a dict's entry."""
    return "/".join(_word(part) for part in path)


def named_leaves(tree: PyTree) -> list[tuple[str, Any]]:
    """Returns every leaf with its name, in the order of `jax.tree.leaves`.

    A variable of Flax nnx goes by its own name, without the attribute that holds its array.
    """
    nnx: Any = sys.modules.get("flax.nnx")
    boxed = (lambda node: isinstance(node, nnx.Variable)) if nnx is not None else None
    return [
        (joined(path), leaf)
        for path, node in jax.tree_util.tree_flatten_with_path(tree, is_leaf=boxed)[0]
        for leaf in (jax.tree.leaves(node) if boxed is not None and boxed(node) else [node])
    ]


def unique_names(tree: PyTree) -> list[str]:
    """Returns the leaves' names, in the order of `jax.tree.leaves`; one that occurs again has a number behind it."""
    seen: Counter[str] = Counter()
    names = []
    for name, _ in named_leaves(tree):
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return names


def shown(names: list[str], most: int = 3) -> str:
    """Returns the first few names for people: "a, b, c and 4 more"."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest:,} more" if rest > 0 else "")


def _word(part: Any) -> str:
    for attribute in ("key", "name", "idx"):
        if hasattr(part, attribute):
            return str(getattr(part, attribute))
    return str(part)
