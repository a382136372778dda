"""Copies of what training changes in place: PyTorch's and Keras's models, and those of Flax nnx."""

from __future__ import annotations

import copy
import sys
import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from dlfb_lab.errors import OptionError, one_line


def changes_in_place(adapted: Any) -> bool:
    """Whether training changes the user's own object: an adapter of such a kind says `in_place = True`."""
    return bool(getattr(adapted, "in_place", False))


def copied(model: Any, *beside: Any) -> tuple[Any, ...]:
    """Returns a model with what belongs to it, such as an optimizer of its parameters, in a copy of their own.

    Args:
        model: as the user gave it.
        beside: what may hold parts of the model.

    Raises:
        OptionError: it cannot be copied.
    """
    try:
        with warnings.catch_warnings(), _classes_known(model):
            # Keras warns of an optimizer that is not built yet.
            warnings.simplefilter("ignore")
            copies = copy.deepcopy((model, *beside))
        if getattr(model, "compiled", None) != getattr(copies[0], "compiled", None):
            raise TypeError("what it was compiled with is lost")
    except Exception as error:
        raise OptionError(
            f"The model {type(model).__name__} cannot be copied ({one_line(error)}), so that one run would go on where "
            "another has ended. Make it anew for each run, and train one at a time."
        ) from error
    return copies


def _classes_known(model: Any) -> AbstractContextManager[Any]:
    """Lets Keras find the classes of a notebook, which it copies by way of their configuration.

    Raises:
        TypeError: a class does not tell its configuration.
    """
    keras: Any = sys.modules.get("keras")
    if keras is None or not isinstance(model, keras.Model):
        return nullcontext()
    own = {type(layer) for layer in model._flatten_layers() if not type(layer).__module__.startswith("keras.")}
    for kind in own:
        if kind.get_config in (keras.Model.get_config, keras.Layer.get_config):
            # Keras would call it without its arguments, and say nothing.
            raise TypeError(f"{kind.__name__} has no get_config")
    known: dict[str, Any] = {kind.__name__: kind for kind in own}
    loss: Any = getattr(model, "loss", None)
    if hasattr(loss, "__name__"):
        known[loss.__name__] = loss
    scope: AbstractContextManager[Any] = keras.saving.custom_object_scope(known)
    return scope
