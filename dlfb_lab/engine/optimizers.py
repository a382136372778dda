"""Optimizers by name, with what can be put around them. Their numbers are arguments of the compiled program."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from dlfb_lab.engine import schedules
from dlfb_lab.engine.decay import Mask, read_mask
from dlfb_lab.errors import OptionError, nearest
from dlfb_lab.models.fingerprint import fingerprint
from dlfb_lab.models.model import hashable

LINE_SEARCHING = ("lbfgs",)
"""These call the loss several times a step, at parameters of their own choice."""
USUAL_RATE = {"sgd": 0.01, "noisy_sgd": 0.01, "lion": 1e-4, "adafactor": 1e-3}

Hyper = dict[str, Any]
Rate = Any
"""A number, an array of shape [], or a function of the number of updates so far."""


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """What turns gradients into updates.

    Attributes:
        key: optimizers with equal keys are the same program, whatever the values of their numbers.
        name: for people.
        hyper: the numbers that are arguments of the program: "lr", the highest rate; "weight_decay"; "clip".
        make: from such numbers to the transformation; called inside the traced program.
        settings: what else was chosen, in JSON's types, for the journal.
    """

    key: Hashable
    name: str
    hyper: dict[str, float]
    make: Callable[[Hyper], optax.GradientTransformationExtraArgs] = field(compare=False)
    settings: dict[str, Any] = field(default_factory=dict, compare=False)

    def describe(self) -> dict[str, Any]:
        """Returns all that was chosen, in JSON's types."""
        return {"optimizer": self.name, **self.hyper, **self.settings}


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


def choose(
    optimizer: Any,
    lr: Any,
    *,
    schedule: Any = None,
    warmup: Any = None,
    weight_decay: Any = None,
    decay_mask: Any = None,
    clip: Any = None,
    accumulate: Any = None,
    steps_total: int | None = None,
) -> Optimizer:
    """Finds the optimizer.

    Weight decay is decoupled (Loshchilov and Hutter, 2019): each update takes rate * decay * parameter off. Adam
    becomes AdamW; an optimizer of optax that has weight decay of its own keeps its way.

    Args:
        optimizer: an optax name or function, an optax object, or None for Adam.
        lr: learning rate, or an optax schedule: a function of the number of updates; None for the usual rate.
        schedule: how the rate falls, see `schedules.SHAPES`; None for a constant rate.
        warmup: steps over which the rate rises, or a fraction of all steps.
        weight_decay: how much decays.
        decay_mask: what decays, see `read_mask`.
        clip: largest norm of a gradient over all parameters; longer ones are scaled down.
        accumulate: steps whose gradients are averaged for one update. Steps in between change no parameter. The
            average takes the memory of the parameters once more.
        steps_total: steps of the run; None or 0 where that is not known.

    Raises:
        OptionError: no optimizer goes by the name, or an option cannot be used, or not with the others.
    """
    every = _count(accumulate, steps_total)
    hyper = {} if clip is None else {"clip": _positive("--clip", clip, "1.0")}
    settings: dict[str, Any] = {} if every == 1 else {"accumulate": every}
    if isinstance(optimizer, optax.MultiSteps):
        optimizer = optax.GradientTransformationExtraArgs(optimizer.init, optimizer.update)
    if isinstance(optimizer, optax.GradientTransformation):
        _refuse_beside_object(lr=lr, schedule=schedule, warmup=warmup, weight_decay=weight_decay, decay_mask=decay_mask)
        return Optimizer(
            key=("given", hashable(optimizer), *sorted(hyper), every),
            name="the given optax optimizer",
            hyper=hyper,
            make=lambda numbers: _around(optimizer, numbers, every),
            settings=settings,
        )
    name = _name(optimizer)
    rate_key: Hashable
    if callable(lr):
        if schedule is not None or warmup is not None:
            option = "--schedule" if schedule is not None else "--warmup"
            raise OptionError(f"{option}: --lr is a schedule already. Leave one out.")
        shape, rate_key = None, (hashable(lr), fingerprint(lr))
        settings["lr"] = "given schedule"
    else:
        shape = schedules.choose(schedule, warmup, steps_total, every)
        rate_key = shape if shape.changes else None
        rate = USUAL_RATE.get(name, 1e-3) if lr is None else _positive("--lr", lr, "1e-3")
        hyper = {"lr": rate, **hyper}
        settings |= {"schedule": shape.name} if shape.name != "constant" else {}
        settings |= {"warmup": shape.warmup * every} if shape.warmup else {}
    if rate_key is not None and not _takes_schedules(name):
        raise OptionError(f"--optimizer {name}: optax lets its rate not change. Leave the schedule out, or take adam.")
    mask = None
    if weight_decay is not None:
        hyper["weight_decay"] = _positive("--weight-decay", weight_decay, "0.01", zero=True)
        mask = read_mask(decay_mask)
        settings["decay_mask"] = mask.name
    elif decay_mask is not None:
        raise OptionError("--decay-mask: nothing decays. Say how much: --weight-decay 0.01.")

    def make(numbers: Hyper) -> optax.GradientTransformationExtraArgs:
        rate = numbers.get("lr", lr) if shape is None or not shape.changes else partial(_scaled, shape, numbers["lr"])
        return _around(_named(name, rate, numbers.get("weight_decay"), mask), numbers, every)

    key = (name, rate_key, "lr" in hyper, mask.key if mask else None, clip is not None, every)
    return Optimizer(key=key, name=name, hyper=hyper, make=make, settings=settings)


def _scaled(shape: schedules.Shape, peak: Any, update: Any) -> Any:
    return peak * shape(update)


def _named(name: str, rate: Rate, decay: Any, mask: Mask | None) -> optax.GradientTransformation:
    """Makes one of optax's optimizers, with weight decay if any."""
    name = f"{name}w" if decay is not None and f"{name}w" in names() else name
    function = getattr(optax, name)
    if decay is None or mask is None:
        return function(rate)
    takes = inspect.signature(function).parameters
    for parameter in ("mask", "weight_decay_mask"):
        if "weight_decay" in takes and parameter in takes:
            return function(rate, weight_decay=decay, **{parameter: mask})
    # Updates come with their sign already, so what decays is subtracted from them.
    lost = (lambda update: -rate(update) * decay) if callable(rate) else -rate * decay
    return optax.chain(function(rate), optax.add_decayed_weights(lost, mask))


def _around(inner: optax.GradientTransformation, numbers: Hyper, every: int) -> optax.GradientTransformationExtraArgs:
    """Puts clipping before an optimizer, and accumulation around both."""
    if "clip" in numbers:
        inner = optax.chain(_clipped(numbers["clip"]), inner)
    if every > 1:
        # MultiSteps' own `gradient_transformation` would keep the loss's value from the optimizer.
        steps = optax.MultiSteps(inner, every, accumulator_dtype=jnp.result_type(float))
        inner = optax.GradientTransformationExtraArgs(steps.init, steps.update)
    return _steady(optax.with_extra_args_support(inner))


def _clipped(most: Any) -> optax.GradientTransformation:
    """Is `optax.clip_by_global_norm` for a norm that is an argument, whatever the gradients' dtype."""

    def clip(updates: Any, params: Any = None) -> Any:
        # Optax's own function for it goes by another name in each version.
        norm = jnp.sqrt(sum(jnp.sum(jnp.abs(u) ** 2) for u in jax.tree.leaves(updates)))
        return jax.tree.map(
            lambda u: jnp.where(norm < most, u, (u / norm.astype(u.dtype)) * jnp.asarray(most, u.dtype)), updates
        )

    return optax.stateless(clip)


def _steady(inner: optax.GradientTransformationExtraArgs) -> optax.GradientTransformationExtraArgs:
    """Keeps the dtypes of updates and state, which a float32 argument would raise for parameters in 16 bits."""

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        return _like(inner.update(updates, state, params, **extra), (updates, state))

    return optax.GradientTransformationExtraArgs(inner.init, update)


def _like(new: Any, old: Any) -> Any:
    return jax.tree.map(
        lambda n, o: n.astype(o.dtype) if getattr(n, "dtype", None) != getattr(o, "dtype", None) else n, new, old
    )


def _name(optimizer: Any) -> str:
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
    return name.lower()


@lru_cache(maxsize=64)
def _takes_schedules(name: str) -> bool:
    try:
        jax.eval_shape(lambda: getattr(optax, name)(lambda update: 0.1 / (1 + update)).init({"w": jnp.zeros(2)}))
    except (TypeError, ValueError):
        return False
    return True


def _refuse_beside_object(**given: Any) -> None:
    for keyword, value in given.items():
        if value is not None:
            option = "--" + keyword.replace("_", "-")
            shown = f" {value:g}" if isinstance(value, float) else ""
            what = "rate" if keyword in ("lr", "schedule", "warmup") else "weight decay"
            raise OptionError(f"{option}{shown}: the optimizer is an object and has its {what} already. Leave one out.")


def _positive(option: str, value: Any, example: str, *, zero: bool = False) -> float:
    """Reads a number of any kind: Python's, NumPy's, or an array of one from JAX."""
    try:
        number = math.nan if isinstance(value, str | bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not (0 < number < math.inf or (zero and number == 0)):
        least = "of at least zero" if zero else "above zero"
        raise OptionError(f"{option} {value!r}: give a number {least}, such as {example}.")
    return number


def _count(accumulate: Any, steps_total: int | None) -> int:
    if accumulate is None:
        return 1
    whole = not isinstance(accumulate, bool | str) and hasattr(accumulate, "__index__")
    if not whole or accumulate < 1:
        raise OptionError(f"--accumulate {accumulate!r}: give a whole number above zero.")
    if steps_total and accumulate > steps_total:
        raise OptionError(
            f"--accumulate {accumulate}: the run has only {steps_total:,} steps, so that no parameter would change. "
            "Accumulate fewer, or train longer."
        )
    return int(accumulate)
