"""Optimizers by name."""

from __future__ import annotations

import inspect
import math
from functools import lru_cache
from typing import Any

import optax

from dlfb_lab.errors import OptionError, nearest

LINE_SEARCHING = ("lbfgs",)
"""These call the loss several times a step, at parameters of their own choice."""
USUAL_RATE = {"sgd": 0.01, "noisy_sgd": 0.01, "lion": 1e-4, "adafactor": 1e-3}


@lru_cache(maxsize=1)
def names() -> tuple[str, ...]:
    """Returns the names of optax's optimizers: its functions that take a learning rate first, building blocks apart."""
    found = []
    for name in dir(optax):
        function = getattr(optax, name)
        if inspect.isfunction(function) and not name.startswith(("_", "scale_by_")) and name not in LINE_SEARCHING:
            first = next(iter(inspect.signature(function).parameters), "")
            if first == "learning_rate":
                found.append(name)
    return tuple(found)


def choose(optimizer: Any, lr: float | None) -> tuple[optax.GradientTransformation, str, float | None]:
    """Finds the optimizer.

    Args:
        optimizer: an optax name, an optax object, or None for Adam.
        lr: learning rate; None for the usual one.

    Returns:
        The optimizer, its name, and its learning rate where that is known.

    Raises:
        OptionError: no optimizer goes by the name, or the rate is not a number above zero or is given twice.
    """
    if isinstance(optimizer, optax.GradientTransformation):
        if lr is not None:
            raise OptionError(f"--lr {lr:g}: the optimizer is an object and has its rate already. Leave one out.")
        return optimizer, "the given optax optimizer", None
    name: Any = optimizer or "adam"
    if inspect.isfunction(name):
        called = str(name.__name__)
        name = called if getattr(optax, called, None) is name else name
    if not isinstance(name, str):
        raise OptionError(f"--optimizer: a {type(name).__name__} is no optimizer. Give an optax name or object.")
    if name.lower() in LINE_SEARCHING:
        raise OptionError(
            f"--optimizer {name}: it searches along a line, calling the loss several times a step, which training here "
            "does not do. Take another, such as adam."
        )
    if name.lower() not in names():
        raise OptionError(f"--optimizer {name}: optax has no such optimizer.{nearest(name.lower(), names())}")
    name = name.lower()
    rate = USUAL_RATE.get(name, 1e-3) if lr is None else _rate(lr)
    return _made(name, rate), name, rate


def _rate(lr: Any) -> float:
    """Reads a number of any kind: Python's, NumPy's, or an array of one from JAX."""
    try:
        rate = math.nan if isinstance(lr, str | bool) else float(lr)
    except (TypeError, ValueError):
        rate = math.nan
    if not 0 < rate < math.inf:
        raise OptionError(f"--lr {lr!r}: give a number above zero, such as 1e-3.")
    return rate


@lru_cache(maxsize=64)
def _made(name: str, rate: float) -> Any:
    """Keeps the object, so that the next run finds its compiled programs."""
    return getattr(optax, name)(rate)
