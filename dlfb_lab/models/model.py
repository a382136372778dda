"""The protocol of what can be trained: each kind of model has one adapter."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax

PyTree = Any
Values = dict[str, jax.Array]
"""Scalars by name."""


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


class Stepper(Protocol):
    """Something that brings a training step of its own: a user's `train_step`, or a compiled Keras model.

    Its state is opaque: any pytree of arrays.
    """

    @property
    def kind(self) -> str:
        """The adapter's name, for example "own step"."""

    @property
    def name(self) -> str:
        """What it is called, for people."""

    @property
    def key(self) -> Hashable:
        """Steppers with equal keys and states of equal shapes run the same compiled programs."""

    @property
    def traces(self) -> bool:
        """Whether `step` can be compiled; else it is called as it is, one step at a time."""

    @property
    def evaluates(self) -> bool:
        """Whether `evaluate` can be called."""

    @property
    def evaluation_traces(self) -> bool:
        """Whether `evaluate` can be compiled; else it is called as it is."""

    def start(self, rng: jax.Array, batch: PyTree) -> PyTree:
        """Returns the state before the first step, in arrays that nobody else holds: training reuses their memory.

        Args:
            rng: key, for what has to be initialised.
            batch: one batch.
        """

    def step(self, state: PyTree, batch: PyTree, rng: jax.Array, epoch_begins: jax.Array) -> tuple[PyTree, Values]:
        """Applies one update. Holds no arrays itself.

        Args:
            state: as `start` or the last step returned it.
            batch: in the user's own structure.
            rng: a key for this step alone.
            epoch_begins: whether this is the first step of an epoch, shape [], bool.

        Returns:
            The state afterwards, of the same structure, shapes and dtypes, and scalars by name, "loss" first.
        """

    def evaluate(self, state: PyTree, batch: PyTree, rng: jax.Array) -> Values:
        """Returns the scores of one batch: scalars by name, "loss" among them if it has one."""

    def outputs(self, state: PyTree, x: PyTree) -> Any:
        """Returns predictions, shape [rows, ...].

        Raises:
            OptionError: it cannot predict.
        """

    def parameter_count(self, state: PyTree) -> int:
        """Returns how many scalar parameters are trained, as far as can be told."""

    def finish(self, state: PyTree, step: int) -> Any:
        """Returns the trained state in the user's own type; what the user gave may be brought up to date."""


class Guest(Protocol):
    """A model that another framework trains, one step at a time, on the host's arrays."""

    @property
    def kind(self) -> str:
        """The adapter's name, for example "torch"."""

    @property
    def name(self) -> str:
        """The model's name, for people."""

    @property
    def parameter_count(self) -> int:
        """Scalar parameters."""

    @property
    def versions(self) -> dict[str, str]:
        """Version of the framework, by its name."""

    def step(self, batch: PyTree) -> dict[str, float]:
        """Applies one update and returns scalars by name, "loss" first.

        Args:
            batch: `(x, y)` of NumPy arrays, targets encoded; for a step of the user's own, as the user gave it.
        """

    def outputs(self, x: PyTree) -> Any:
        """Returns the raw outputs in evaluation mode as a NumPy array, shape [rows, ...].

        Raises:
            OptionError: it cannot predict.
        """

    def scores(self, outputs: Any, y: Any) -> dict[str, float]:
        """Returns the loss of outputs beside encoded targets, and the metrics that the model brings along, by name."""

    def evaluate(self, batch: PyTree) -> dict[str, float]:
        """Returns the scores of one batch in evaluation mode: scalars by name.

        Raises:
            OptionError: it cannot evaluate.
        """

    def keep(self) -> Any:
        """Returns a copy of all that training changes, to come back to.

        NumPy arrays by name where another guest of the same kind can come to it too: "hyper/<name>" for numbers that
        the user chooses, such as a rate.
        """

    def restore(self, kept: Any) -> None:
        """Goes back to what `keep` returned; to one without "hyper/" but for these.

        Raises:
            StoreError: it is that of another model or optimizer; says what differs.
        """

    @property
    def keeps_arrays(self) -> bool:
        """Whether `keep` returns arrays."""

    def finish(self) -> Any:
        """Returns the trained model in the user's own type."""


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
