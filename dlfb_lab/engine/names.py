"""Which argument of a user's function is the target and which the prediction."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from dlfb_lab.errors import OptionError

TARGET_NAMES = {"y_true", "true", "truth", "y", "target", "targets", "label", "labels", "actual", "expected"}
OUTPUT_NAMES = {"outputs", "output", "logits", "logit", "raw"}
SCORE_NAMES = {"y_score", "y_prob", "y_proba", "prob", "probs", "probabilities", "scores", "score"}
PREDICTION_NAMES = {"y_pred", "y_hat", "yhat", "pred", "preds", "prediction", "predictions", "predicted"}


def name_of(function: Callable[..., Any]) -> str:
    """Returns what to call a user's function; a partial by the function it holds."""
    while isinstance(function, partial):
        function = function.func
    return str(getattr(function, "__name__", type(function).__name__))


def two_arguments(function: Callable[..., Any], option: str) -> tuple[bool, str]:
    """Reads the names of a function's first two arguments.

    Returns:
        Whether the target comes first, and the name of the other argument.

    Raises:
        OptionError: it does not take two arguments, or their names do not tell which is which.
    """
    label = name_of(function)
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)][:2]
    if len(names) < 2:
        raise OptionError(f"--{option} {label}: the function must take two arguments, for example (y_true, y_pred).")
    first, second = (n.lower() for n in names)
    others = OUTPUT_NAMES | SCORE_NAMES | PREDICTION_NAMES
    if (first in TARGET_NAMES) != (second in TARGET_NAMES):
        return first in TARGET_NAMES, second if first in TARGET_NAMES else first
    if (first in others) != (second in others):
        return second in others, second if second in others else first
    raise OptionError(
        f"--{option} {label}({names[0]}, {names[1]}): which argument is the target cannot be told. "
        "Name them y_true and y_pred."
    )
