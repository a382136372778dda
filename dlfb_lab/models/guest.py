"""What the adapters of other frameworks have in common: the protocol of their factories, and optimizers by name."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Collection, Mapping
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import optax

from dlfb_lab.errors import OptionError, nearest
from dlfb_lab.models.model import Guest, PyTree

Array = np.ndarray[Any, Any]
Link = Literal["identity", "sigmoid", "softmax", "probability"]
OwnLoss = Callable[[Any, Any], Any]
"""A loss of the user's own: (outputs, targets), tensors of the other framework, to one tensor."""

USUAL_RATE = {"sgd": 0.01, "lion": 1e-4}
"""Learning rates where none is given, as for optax; 1e-3 elsewhere."""


class Chosen(NamedTuple):
    """An optimizer, as far as it is known before training.

    Attributes:
        name: for people.
        lr: learning rate, where it is known.
        notice: how it differs from optax's of the same name, or "".
    """

    name: str
    lr: float | None
    notice: str = ""


class GuestFactory(Protocol):
    """A model of another framework, before the data are read and the loss is chosen."""

    @property
    def kind(self) -> str:
        """The adapter's name, for example "torch"."""

    @property
    def name(self) -> str:
        """The model's name, for people."""

    @property
    def parameter_count(self) -> int | None:
        """Scalar parameters that are trained; None where the model finds their shapes at its first call."""

    @property
    def versions(self) -> dict[str, str]:
        """Version of the framework, by its name."""

    @property
    def loss(self) -> str | None:
        """Name of the loss that the model brings along, one of ours where one is the same; None if it brings none."""

    @property
    def link(self) -> Link | None:
        """What turns outputs into predictions beside the loss that the model brings along, where that is known."""

    def optimizer(self, optimizer: Any, lr: float | None) -> Chosen:
        """Finds out which optimizer `make` will use, without making it.

        Args:
            optimizer: an object, a class or a name; None for the model's own, or else Adam.
            lr: learning rate; None for the usual one.

        Raises:
            OptionError: there is no such optimizer here, or its rate is given twice.
        """

    def outputs(self, x: PyTree, seed: int) -> Array:
        """Returns the raw outputs in evaluation mode, shape [rows, ...]. A model without parameters yet gets them.

        Args:
            x: inputs of a few rows, NumPy arrays of shape [rows, ...].
            seed: of the parameters that the model finds at its first call, where the framework lets us choose.

        Raises:
            ModelError: the model fails on the data, or returns something else than one array with one row each.
        """

    def arrays(self) -> dict[str, Array]:
        """Returns copies of all parameters and other variables, by the names that `Guest.keep` gives them.

        Raises:
            ModelError: the model finds them at its first call.
        """

    def load(self, arrays: Mapping[str, Array]) -> None:
        """Puts what `arrays` returned into the model.

        Raises:
            StoreError: it is that of another model; says what differs.
        """

    def make(
        self,
        *,
        loss: str | OwnLoss | None,
        optimizer: Any,
        lr: float | None,
        seed: int,
        sample: tuple[PyTree, Array],
        clip: float | None = None,
    ) -> Guest:
        """Returns the model ready to be trained from where it is.

        Args:
            loss: the name of one of our losses, or a function of the user's own; None where the model brings one.
            optimizer: as in `optimizer`.
            lr: as in `optimizer`.
            seed: of dropout and its like.
            sample: inputs and encoded targets of the first batch, targets in the shape that the loss takes.
            clip: largest global norm of the gradients; None for no limit.

        Raises:
            ModelError: the model has nothing to train, or does not fit the targets.
            OptionError: the loss or the optimizer cannot be used.
        """


def optimizer_name(optimizer: Any, known: Collection[str], framework: str, example: str) -> str:
    """Reads the name of an optimizer, given as text or as optax's function.

    Args:
        optimizer: what the user gave; None for Adam.
        known: names that the framework shares with optax.
        framework: its name, for people.
        example: an optimizer object of the framework, as one would write it.

    Raises:
        OptionError: it is something else, or the framework has no such optimizer.
    """
    name: Any = "adam" if optimizer is None else optimizer
    called = str(getattr(name, "__name__", ""))
    if inspect.isfunction(name) and getattr(optax, called, None) is name:
        name = called
    if isinstance(name, optax.GradientTransformation):
        raise OptionError(
            f"--optimizer: an optax optimizer updates JAX arrays, but this model is trained by {framework}. "
            f"Give a name ({', '.join(known)}), or {example}."
        )
    if not isinstance(name, str):
        raise OptionError(
            f"--optimizer: a {type(name).__name__} is no optimizer of {framework}. "
            f"Give a name ({', '.join(known)}), or {example}."
        )
    if name.lower() not in known:
        raise OptionError(
            f"--optimizer {name}: {framework} has no optimizer that optax calls so.{nearest(name.lower(), known)} "
            f"Give one of {', '.join(known)}, or {example}."
        )
    return name.lower()


def rate(lr: Any) -> float:
    """Reads a learning rate: a number above zero of any kind.

    Raises:
        OptionError: it is not.
    """
    try:
        number = math.nan if isinstance(lr, str | bool) else float(lr)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 < number < math.inf:
        raise OptionError(f"--lr {lr!r}: give a number above zero, such as 1e-3.")
    return number


def rate_once(lr: float | None, what: str) -> None:
    """Refuses a learning rate beside an optimizer that has one.

    Raises:
        OptionError: a rate is given.
    """
    if lr is not None:
        raise OptionError(f"--lr {lr:g}: {what} has its rate already. Leave one out.")


def writable(array: Any, dtype: Any = None) -> Array:
    """Returns an array that may be written to, C-contiguous; the same one where it is that already.

    PyTorch warns of memory that is read-only.
    """
    a = np.asarray(array)
    if a.flags.writeable and a.flags.c_contiguous and (dtype is None or a.dtype == dtype):
        return a
    return np.array(a, dtype=dtype, order="C")
