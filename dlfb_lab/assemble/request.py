"""What was asked for, and the numbers in it checked."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dlfb_lab.errors import OptionError

DEFAULT_EPOCHS = 20
DEFAULT_BATCH = 32


@dataclass(frozen=True, kw_only=True)
class TrainRequest:
    """What was asked for, by the magic or by `dlfb_lab.train`, whose arguments these are."""

    model: Any = None
    data: Any = None
    target: str | None = None
    task: str | None = None
    loss: str | Callable[..., Any] | None = None
    metrics: str | Callable[..., Any] | Iterable[str | Callable[..., Any]] | None = None
    valid: Any = None
    test: Any = None
    groups: Any = None
    scale: bool = False
    epochs: int | None = None
    steps: int | None = None
    batch_size: int | Literal["full"] | None = None
    eval_batch_size: int | Literal["full"] | None = None
    optimizer: Any = None
    lr: Any = None
    schedule: str | None = None
    warmup: float | None = None
    weight_decay: float | None = None
    decay_mask: Any = None
    clip: float | None = None
    accumulate: int | None = None
    class_weights: Any = None
    precision: str | None = None
    remat: bool = False
    early_stop: str | None = None
    init_from: Any = None
    freeze: Any = None
    seed: int = 0
    seeds: int | None = None
    sweep: str | None = None
    eval_every: int | None = None
    step: Callable[..., Any] | None = None
    eval_step: Callable[..., Any] | None = None
    state: Any = None
    args: dict[str, Any] | None = None
    plan: str = "auto"
    devices: int | Literal["all"] = 1
    name: str | None = None
    timebox: str | float | None = None
    checkpoint: str | None = None
    on_nan: str = "stop"
    resume: Any = None
    store: str | Path | None = None
    background: bool = False
    debug: bool = False
    source: str = ""


def count(keyword: str, value: Any) -> int | None:
    """Reads a whole number above zero, or None.

    Raises:
        OptionError: it is something else.
    """
    if value is None:
        return None
    option = "--" + keyword.replace("_", "-")
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        whole = isinstance(value, float) and value.is_integer()
        if not whole:
            raise OptionError(f"{option} {value!r}: give a whole number above zero.")
    if value < 1:
        raise OptionError(f"{option} {value}: give a whole number above zero.")
    return int(value)


def budget(r: TrainRequest) -> dict[str, int | None]:
    """Returns the epochs or steps to train for, and how often to evaluate.

    Raises:
        OptionError: both are given, or one is no whole number above zero.
    """
    found = {name: count(name, getattr(r, name)) for name in ("epochs", "steps", "eval_every")}
    if found["epochs"] and found["steps"]:
        raise OptionError(f"--epochs {r.epochs} and --steps {r.steps} are both given. Leave one out.")
    if not found["epochs"] and not found["steps"]:
        found["epochs"] = DEFAULT_EPOCHS
    return found


def seed_of(value: Any) -> int:
    """Reads a seed.

    Raises:
        OptionError: it is no whole number from 0 to 2**32 - 1.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not 0 <= value < 2**32:
        raise OptionError(f"--seed {value!r}: give a whole number from 0 to 4294967295.")
    return int(value)


def batch_of(keyword: str, asked: Any, rows: int) -> int:
    """Returns the rows of a batch.

    Raises:
        OptionError: it is neither a whole number above zero nor "full".
    """
    if asked is None:
        return min(DEFAULT_BATCH, rows)
    if asked == "full":
        return rows
    size = count(keyword, asked)
    assert size is not None
    return size


def rows_asked(r: TrainRequest) -> int | None:
    """Returns the batch size that was asked for as a number, for data that come one example at a time."""
    return count("batch_size", r.batch_size) if r.batch_size != "full" else None


def is_fraction(asked: Any) -> bool:
    """Whether a part of the data was asked for as a fraction of the rows."""
    return isinstance(asked, int | float | np.number) and not isinstance(asked, bool)


def described(value: Any) -> Any:
    """Returns an option's value as the journal keeps it."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.number):
        return float(value)
    if isinstance(value, list | tuple) and all(isinstance(part, str) for part in value):
        return ",".join(value)
    # A run tells where parameters come from.
    return f"run {value.id}" if hasattr(value, "record") else "given"
