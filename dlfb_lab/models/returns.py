"""What a user's own step returns, read as scalars by name: the loss, its parts, and metrics of any name."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import dropwhile
from typing import Any

import jax
import jax.numpy as jnp

from dlfb_lab.errors import ModelError
from dlfb_lab.models.paths import named_leaves, shown

FORMS = "Return (state, loss), (state, (loss, parts)) or (state, metrics)"
EVALUATION_FORMS = "Return a loss, a dict of metrics, or (loss, metrics)"


def losses(returned: Any, who: str) -> dict[str, Any]:
    """Reads what stands beside the state.

    Args:
        returned: a loss; a loss and what belongs to it; or metrics, the loss among them.
        who: the option and the function's name.

    Returns:
        Scalars by name, "loss" first.

    Raises:
        ModelError: there is no loss, or no telling which it is.
    """
    values = _read(returned, who, FORMS)
    if "loss" in values:
        return {"loss": values.pop("loss"), **values}
    names = [name for name in values if name.lower().endswith("loss")]
    chosen = names if len(names) == 1 else [name for name in names if name.lower() == "total_loss"]
    if len(chosen) != 1:
        have = shown(sorted(values), 6) or "no scalars"
        what = f"{len(names)} of them end in loss" if names else "none of them is a loss"
        raise ModelError(f"{who} returned {have}; {what}. Call the one that is minimised `loss`.")
    return {"loss": values.pop(chosen[0]), **values}


def scores(returned: Any, who: str) -> dict[str, Any]:
    """Reads what an evaluation step returned: scalars by name, "loss" first if there is one.

    Raises:
        ModelError: there are no scalars.
    """
    values = _read(returned, who, EVALUATION_FORMS)
    names = [name for name in values if name.lower().endswith("loss")]
    if "loss" not in values and len(names) == 1:
        values = {"loss": values.pop(names[0]), **values}
    if not values:
        raise ModelError(f"{who} returned {kind(returned)} without any scalar in it. {EVALUATION_FORMS}.")
    return {"loss": values.pop("loss"), **values} if "loss" in values else values


def scalars(tree: Any) -> dict[str, Any]:
    """Returns the scalars of a pytree by name, nested names joined by "/"; arrays and all else are left out.

    Of `(parts, outputs)` the parts go by their own names, where these are not in doubt.
    """
    found = [(name.split("/") if name else [], leaf) for name, leaf in named_leaves(tree) if is_scalar(leaf)]
    plain = ["/".join(dropwhile(str.isdigit, parts)) for parts, _ in found]
    return {
        short if short and plain.count(short) == 1 else "/".join(["aux", *parts]): leaf
        for (parts, leaf), short in zip(found, plain, strict=True)
    }


def is_scalar(leaf: Any) -> bool:
    """Whether it is one number: Python's, NumPy's, or an array of any framework without axes."""
    if isinstance(leaf, bool | int | float):
        return True
    dtype, shape = getattr(leaf, "dtype", None), getattr(leaf, "shape", None)
    if dtype is None or shape is None or tuple(shape) != ():
        return False
    if not isinstance(leaf, jax.Array):
        return not any(word in str(dtype) for word in ("complex", "string", "object", "<U"))
    return any(jnp.issubdtype(dtype, kinds) for kinds in (jnp.floating, jnp.integer, jnp.bool_))


def number(leaf: Any) -> float:
    """Returns a scalar of any framework as Python's."""
    return float(leaf.detach() if hasattr(leaf, "detach") else leaf)


def kind(value: Any) -> str:
    """Returns what a value is, for messages."""
    shape = getattr(value, "shape", None)
    if shape is not None:
        return f"an array of shape {tuple(shape)}"
    if isinstance(value, Mapping):
        return f"a dict of {shown([str(k) for k in value], 6) or 'nothing'}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, bool | int | float):
        return f"the number {value}"
    return "nothing" if value is None else f"a {type(value).__name__}"


def _read(returned: Any, who: str, forms: str) -> dict[str, Any]:
    if is_scalar(returned):
        return {"loss": returned}
    if callable(getattr(returned, "compute", None)):
        raise ModelError(
            f"{who} returned metrics as a {type(returned).__name__}, which is to be computed first. "
            "Return metrics.compute(), a dict of scalars."
        )
    if isinstance(returned, tuple | list) and not hasattr(returned, "_fields"):
        if not returned or not is_scalar(returned[0]):
            what = kind(returned[0]) if returned else "nothing"
            raise ModelError(f"{who} returned {what} where the loss belongs, a scalar. {forms}.")
        aux = returned[1] if len(returned) == 2 else tuple(returned[1:])
        return {"loss": returned[0], **{name: leaf for name, leaf in scalars(aux).items() if name != "loss"}}
    if getattr(returned, "shape", None) is not None:
        raise ModelError(f"{who} returned {kind(returned)} where the loss belongs, a scalar. Return its mean.")
    values = scalars(returned)
    if not values:
        raise ModelError(f"{who} returned {kind(returned)}, without any scalar in it. {forms}.")
    return values
