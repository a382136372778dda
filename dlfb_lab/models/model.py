"""The protocol of what can be trained: each kind of model has one adapter."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax

PyTree = Any


class Apply(Protocol):
    """A model's pure function."""

    def __call__(self, params: PyTree, extra: PyTree, x: PyTree, rng: jax.Array, train: bool) -> tuple[Any, PyTree]:
        """Returns the outputs, shape [rows, ...], and the extra collections afterwards.

        Args:
            params: what is trained.
            extra: other collections, such as batch statistics.
            x: inputs, shape [rows, ...].
            rng: key for dropout and its like.
            train: whether this is a training step. A Python bool.
        """


class Model(Protocol):
    """A model as the training loop sees it: two pure functions over pytrees."""

    @property
    def kind(self) -> str:
        """The adapter's name, for example "linen"."""

    @property
    def name(self) -> str:
        """The model's name, for people."""

    @property
    def key(self) -> Hashable:
        """Models with equal keys run the same compiled programs, and start from parameters of the same shapes."""

    @property
    def optimizer(self) -> optax.GradientTransformation | None:
        """The optimizer the model brings along, if it does."""

    @property
    def given(self) -> bool:
        """Whether `start` returns what the user gave, instead of initialising."""

    def start(self, rng: jax.Array, x: PyTree) -> tuple[PyTree, PyTree, PyTree | None]:
        """Returns params, extra collections, and the optimizer state the model brings along (or None).

        Args:
            rng: key for the initial parameters.
            x: inputs of a few rows, shape [rows, ...].
        """

    @property
    def apply(self) -> Apply:
        """The model's function. It holds no parameters, so that compiled programs keep none alive."""

    def finish(self, params: PyTree, extra: PyTree, opt_state: PyTree, step: int) -> Any:
        """Returns the trained state in the user's own type."""


class Identity:
    """Makes any object hashable by identity, and keeps it alive so that its identity stays its own."""

    def __init__(self, value: object) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Identity) and other.value is self.value

    def __hash__(self) -> int:
        return id(self.value)


def structure(tree: PyTree) -> Hashable:
    """Returns the structure of a pytree of arrays, and the shape and dtype of each leaf."""
    leaves, treedef = jax.tree.flatten(tree)
    return treedef, tuple((jnp.shape(a), str(jnp.result_type(a)), bool(getattr(a, "weak_type", False))) for a in leaves)


def hashable(value: Any) -> Hashable:
    """Returns the value itself where it can be hashed, else its identity."""
    try:
        hash(value)
    except TypeError:
        return Identity(value)
    return value  # type: ignore[no-any-return]
