"""How the learning rate goes over a run: a shape by name, which scales the rate.

The shape is part of the compiled program; the rate it scales is an argument.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dlfb_lab.errors import OptionError, nearest

SHAPES: dict[str, Callable[[jax.Array], Any]] = {
    "constant": jnp.ones_like,
    "cosine": lambda progress: 0.5 * (1 + jnp.cos(math.pi * progress)),
    "linear": lambda progress: 1 - progress,
    "exponential": lambda progress: 0.01**progress,
}
"""What is left of the rate, by the part of the run that is over (0 to 1). Exponential ends at a hundredth.

Cosine is Loshchilov and Hutter's (2017), without restarts.
"""


@dataclass(frozen=True)
class Shape:
    """A factor for each update. Equal shapes compile to the same program.

    Attributes:
        name: one of `SHAPES`.
        warmup: updates over which the factor rises in equal parts, to 1 at the last of them.
        total: updates of the run; 0 where that is not known.
    """

    name: str
    warmup: int
    total: int

    @property
    def changes(self) -> bool:
        """Whether the factor is ever other than 1."""
        return self.name != "constant" or self.warmup > 1

    def __call__(self, update: Any) -> Any:
        """Returns the factor of an update, counted from 0; shape as given, float."""
        update = jnp.asarray(update, float)
        over = jnp.clip((update - self.warmup) / max(1, self.total - self.warmup), 0, 1)
        fallen = SHAPES[self.name](over)
        return jnp.where(update < self.warmup, (update + 1) / self.warmup, fallen) if self.warmup else fallen


def choose(schedule: Any, warmup: Any, steps_total: int | None, accumulate: int = 1) -> Shape:
    """Reads `--schedule` and `--warmup`.

    Args:
        schedule: a name, or None for a constant rate.
        warmup: steps, or a fraction of all steps, or None.
        steps_total: steps of the run; None or 0 where that is not known.
        accumulate: steps for each update.

    Raises:
        OptionError: there is no such schedule, the warm-up is no such number, or the number of steps must be known.
    """
    name = "constant" if schedule is None else schedule
    if not isinstance(name, str) or name.lower() not in SHAPES:
        shown = name if isinstance(name, str) else f"a {type(name).__name__}"
        hint = nearest(name.lower(), SHAPES) if isinstance(name, str) else " An optax schedule goes to --lr."
        raise OptionError(f"--schedule {shown}: there is no such schedule.{hint} Known: {', '.join(SHAPES)}.")
    name = name.lower()
    if name != "constant" and not steps_total:
        raise OptionError(f"--schedule {name}: how fast to fall depends on the number of steps. Say it: --steps 10000.")
    steps = _warmup(warmup, steps_total or 0)
    return Shape(name, math.ceil(steps / accumulate), (steps_total or 0) // accumulate)


def _warmup(asked: Any, steps_total: int) -> int:
    if asked is None:
        return 0
    valid = isinstance(asked, int | float | np.number) and not isinstance(asked, bool) and 0 <= asked < math.inf
    if not valid or (asked > 1 and asked != int(asked)):
        raise OptionError(f"--warmup {asked!r}: give a number of steps, or a fraction of all steps, such as 0.1.")
    if 0 < asked < 1 and not steps_total:
        raise OptionError(f"--warmup {asked}: a fraction of how many steps? Say --steps, or the warm-up in steps.")
    steps = math.ceil(asked * steps_total) if asked < 1 else int(asked)
    if steps_total and steps >= steps_total:
        raise OptionError(f"--warmup {asked}: the run has only {steps_total:,} steps. Give fewer, or a fraction.")
    return steps
