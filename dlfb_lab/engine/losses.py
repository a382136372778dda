"""What training minimises.

A loss takes the model's raw outputs (logits, where there are classes) and encoded
targets, and gives one value a row, so that the padding of a ragged last batch can
be masked out. A user's own loss may give one value for the whole batch.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, NoReturn

import jax
import jax.numpy as jnp
import optax

from dlfb_lab.engine.names import name_of, two_arguments
from dlfb_lab.engine.task import Task
from dlfb_lab.errors import ModelError, OptionError, nearest
from dlfb_lab.models.fingerprint import fingerprint
from dlfb_lab.models.model import hashable

Link = Literal["identity", "sigmoid", "softmax", "probability"]
"""What turns raw outputs into predictions."""


@dataclass(frozen=True)
class Loss:
    """A loss that fits a task.

    Attributes:
        name: its name.
        function: (outputs, targets) to values, shape [rows], or [] where not `per_row`.
        link: what turns the outputs into predictions.
        per_row: whether it is known to give one value a row, whatever the other rows are.
        key: the user's own function; two losses around the same one are equal.
    """

    name: str
    function: Callable[[jax.Array, jax.Array], jax.Array] = field(compare=False)
    link: Link
    per_row: bool = True
    key: Hashable = None

    @property
    def own(self) -> bool:
        """Whether it is the user's."""
        return self.key is not None


def _rows(values: jax.Array) -> jax.Array:
    """Averages all but the first axis."""
    return values.reshape(values.shape[0], -1).mean(axis=1)


def squared_error(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Mean of (outputs - targets)**2 over each row."""
    return _rows((outputs - targets) ** 2)


def absolute_error(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Mean of |outputs - targets| over each row."""
    return _rows(jnp.abs(outputs - targets))


def huber(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Huber (1964), delta 1: quadratic near zero, linear beyond."""
    return _rows(optax.losses.huber_loss(outputs, targets, delta=1.0))


def softmax_cross_entropy(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Cross-entropy of logits, shape [rows, classes], with class numbers, shape [rows]."""
    return jnp.asarray(optax.losses.softmax_cross_entropy_with_integer_labels(outputs, targets))


def sigmoid_cross_entropy(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Binary cross-entropy of logits with 0/1 targets of the same shape, averaged over each row."""
    return _rows(optax.losses.sigmoid_binary_cross_entropy(outputs, targets.astype(outputs.dtype)))


def kl_divergence(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """KL(targets || softmax(outputs)), Kullback and Leibler (1951); targets: rows of probabilities."""
    return jnp.asarray(optax.losses.kl_divergence(jax.nn.log_softmax(outputs), targets))


def cosine_similarity(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Minus the cosine of the angle between outputs and targets, as in Keras: -1 is best."""
    return jnp.asarray(-optax.losses.cosine_similarity(outputs, targets, epsilon=1e-7))


REGRESSION: dict[str, tuple[Callable[[jax.Array, jax.Array], jax.Array], Link]] = {
    "mean_squared_error": (squared_error, "identity"),
    "mean_absolute_error": (absolute_error, "identity"),
    "huber": (huber, "identity"),
    "kl_divergence": (kl_divergence, "softmax"),
    "cosine_similarity": (cosine_similarity, "identity"),
}
CROSS_ENTROPY = (
    "cross_entropy",
    "categorical_crossentropy",
    "sparse_categorical_crossentropy",
    "binary_crossentropy",
)
ALIASES = {
    "mse": "mean_squared_error",
    "mae": "mean_absolute_error",
    "kl_div": "kl_divergence",
    "kld": "kl_divergence",
    "log_loss": "cross_entropy",
    "bce": "binary_crossentropy",
}
NAMES = (*REGRESSION, *CROSS_ENTROPY, *ALIASES)


def regression_only(loss: Any) -> bool:
    """Whether a loss given by name is one that only regression takes."""
    return isinstance(loss, str) and ALIASES.get(loss, loss) in REGRESSION


def choose(loss: str | Callable[..., Any] | None, task: Task, output_shape: tuple[int, ...]) -> Loss:
    """Finds the loss for a task.

    Args:
        loss: a name, the user's own function, or None for the task's usual loss.
        task: what is predicted.
        output_shape: shape of the model's outputs for a batch.

    Raises:
        OptionError: no loss goes by that name, or it does not fit the task.
    """
    usual = _usual(task, output_shape)
    if loss is None:
        return usual
    if callable(loss):
        return _own(loss, usual)
    if not isinstance(loss, str):
        raise OptionError(f"--loss {loss!r}: a {type(loss).__name__} is no loss. Give a name, or a function.")
    name = ALIASES.get(loss, loss)
    if name in REGRESSION:
        if task.kind != "regression":
            raise OptionError(
                f"--loss {loss}: the task is {task.kind}. Say --task regression, or --loss cross_entropy."
            )
        function, link = REGRESSION[name]
        return Loss(name, function, link)
    if name in CROSS_ENTROPY:
        if task.kind == "regression":
            raise OptionError(f"--loss {loss}: the task is regression. Say --loss mse, or --task binary or multiclass.")
        if name == "binary_crossentropy" and usual.link == "softmax":
            raise OptionError(
                f"--loss {loss}: the task has {task.outputs} classes, one a row. Say --loss cross_entropy."
            )
        if name.endswith("categorical_crossentropy") and usual.link == "sigmoid":
            raise OptionError(f"--loss {loss}: the model gives one number a label. Say --loss binary_crossentropy.")
        return usual
    raise OptionError(f"--loss {loss}: there is no such loss.{nearest(loss, NAMES)} Known: {', '.join(NAMES)}.")


def _usual(task: Task, output_shape: tuple[int, ...]) -> Loss:
    if task.kind == "regression":
        return Loss("mean_squared_error", squared_error, "identity")
    if task.kind == "multilabel":
        return Loss("binary_crossentropy", sigmoid_cross_entropy, "sigmoid")
    if task.kind == "binary" and (len(output_shape) == 1 or output_shape[-1] == 1):
        return Loss("binary_crossentropy", sigmoid_cross_entropy, "sigmoid")
    return Loss("cross_entropy", softmax_cross_entropy, "softmax")


def _own(function: Callable[..., Any], usual: Loss) -> Loss:
    target_first, _ = two_arguments(function, "loss")
    name = name_of(function)
    call = partial(_call_own, function, target_first)
    return Loss(name, call, usual.link, per_row=False, key=(hashable(function), fingerprint(function)))


def _call_own(function: Callable[..., Any], target_first: bool, outputs: jax.Array, targets: jax.Array) -> jax.Array:
    return jnp.asarray(function(targets, outputs) if target_first else function(outputs, targets))


def target_shape(
    task: Task, link: Link, output_shape: tuple[int, ...], encoded_shape: tuple[int, ...]
) -> tuple[int, ...]:
    """Returns the shape the targets must take beside these outputs, so that nothing is broadcast.

    Args:
        task: what is predicted.
        link: the loss's link.
        output_shape: of the model's outputs for a batch, shape [rows, ...].
        encoded_shape: of the encoded targets of the same rows.

    Raises:
        ModelError: the outputs do not fit the targets.
    """
    per_row = output_shape[1:]
    if task.classifies:
        if link == "softmax" and task.classifies and (len(output_shape) != 2 or output_shape[1] != task.outputs):
            raise ModelError(_misfit(output_shape, f"{task.outputs} logits a row, one a class", task))
        if link == "sigmoid" and per_row not in ((), (1,)):
            raise ModelError(_misfit(output_shape, "one logit a row", task))
        return output_shape if link == "sigmoid" else encoded_shape
    wanted = encoded_shape[1:]
    squeezed = tuple(d for d in wanted if d != 1)
    if tuple(d for d in per_row if d != 1) != squeezed:
        need = f"{task.outputs} numbers a row" if task.outputs > 1 else "one number a row"
        raise ModelError(_misfit(output_shape, need, task))
    return output_shape


def _misfit(output_shape: tuple[int, ...], need: str, task: Task) -> str:
    shape = "[" + ", ".join(["rows", *(str(d) for d in output_shape[1:])]) + "]"
    last = f"Dense({task.outputs})" if task.kind != "binary" else "Dense(1) or Dense(2)"
    return (
        f"The model's outputs have shape {shape}, but the targets ({task.kind}) need {need}. "
        f"Let the model end in {last}."
    )


def refuse_squashed(found: str, loss: str) -> NoReturn:
    """Refuses a model whose outputs have passed an activation that the loss applies itself.

    Args:
        found: the activation, from `predictions_look_squashed`.
        loss: the loss's name.

    Raises:
        ModelError: always.
    """
    raise ModelError(
        f"The model's outputs have passed a {found} (all within 0 to 1 whatever the parameters), but the loss "
        f"`{loss}` takes logits and applies it itself. Remove the final {found} from the model."
    )


def predictions_look_squashed(outputs: Any, link: Link) -> str | None:
    """Names the activation that outputs seem to have passed: "softmax", "sigmoid", or None.

    Args:
        outputs: for several rows and parameters, shape [rows, ...].
        link: what the loss applies itself; "identity" squashes nothing.
    """
    if link == "identity" or outputs.size == 0:
        return None
    within = bool(((outputs >= 0) & (outputs <= 1)).all())
    if not within:
        return None
    sums = outputs.reshape(outputs.shape[0], -1).sum(axis=1)
    return "softmax" if outputs.ndim > 1 and outputs.shape[-1] > 1 and bool((abs(sums - 1) < 1e-3).all()) else "sigmoid"
