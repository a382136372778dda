"""How a user's own step is called: what its arguments stand for is read from its signature."""

from __future__ import annotations

import inspect
import re
from collections.abc import Collection, Mapping
from functools import partial
from inspect import Parameter
from typing import Any

import jax
import jax.numpy as jnp

from dlfb_lab.errors import ModelError, OptionError, nearest

KEY_NAMES = re.compile(r"(^|.*_)(key|rng|prng|prngkey)s?_?\d*$|^rng_.*", re.IGNORECASE)
"""Arguments that take a key: key, rng, dropout_rng, rng_key, key2, …"""
PLACES = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)


class Call:
    """A user's step and what each of its arguments is: the state, the batch or parts of it, a key, or one by name.

    Attributes:
        function: the user's function.
        who: the option and the function's name, for messages.
        named: arguments that go by name.
        keys: arguments that take a key.
        slots: arguments that a batch has to fill.
    """

    def __init__(self, option: str, function: Any, arguments: Collection[str], takes_state: bool = True) -> None:
        """Reads the signature.

        Raises:
            OptionError: it is no function, or its arguments cannot be filled.
        """
        if not callable(function) or isinstance(function, type):
            raise OptionError(
                f"{option}: {str(function)[:60]!r} is no function. Give one (state, batch) -> (state, loss)."
            )
        self.function = function
        self.name = _name(function)
        self.who = f"{option} `{self.name}`"
        parameters = _parameters(function)
        self.named = [p.name for p in parameters if p.name in arguments]
        keyed = [p.name for p in parameters if KEY_NAMES.match(p.name) and p.name not in self.named]
        self.keys = keyed if takes_state else []
        free = [p for p in parameters if p.name not in (*self.named, *self.keys)]
        self._spread = any(p.kind is Parameter.VAR_POSITIONAL for p in free)
        self._by_name = any(p.kind is Parameter.VAR_KEYWORD for p in free)
        if self._by_name:
            self.named += [name for name in arguments if name not in self.named]
        free = [p for p in free if p.kind not in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)]
        self._state: str | None = None
        self._whole = self._spread and not free and takes_state
        if takes_state and not self._whole:
            if not free or free[0].kind not in PLACES:
                raise OptionError(f"{self.who} takes no state. Give a function (state, batch) -> (state, loss).")
            self._state = free.pop(0).name
        self.slots = [p.name for p in free if p.default is Parameter.empty]
        self._optional = [p.name for p in free if p.default is not Parameter.empty and p.kind in PLACES]
        self._parameters = [p for p in parameters if p.kind not in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)]
        if "batch" in self.slots and len(self.slots) > 1:
            missing = next(name for name in self.slots if name != "batch")
            if not takes_state and missing == next(iter(self.slots)):
                raise OptionError(
                    f"{self.who} takes `{missing}` before the batch. If that is what training changes, "
                    f"give what it starts from: --state {missing}."
                )
            raise OptionError(f"{self.who} takes `{missing}` beside the batch. Say --args dict({missing}=…).")

    def __call__(self, state: Any, batch: Any, rng: Any, arguments: Mapping[str, Any]) -> Any:
        """Calls the function.

        Args:
            state: what stands first, if the function takes a state.
            batch: handed over whole, or in the parts that the function has arguments for.
            rng: a key; several arguments that take one get one each.
            arguments: by name.

        Raises:
            ModelError: the batch does not have the parts that the function takes.
        """
        values = {name: arguments[name] for name in self.named}
        if len(self.keys) == 1:
            values[self.keys[0]] = rng
        elif self.keys:
            values |= dict(zip(self.keys, jax.random.split(rng, len(self.keys)), strict=True))
        if self._whole:
            return self.function(state, batch, **values)
        if self._state is not None:
            values[self._state] = state
        parts, rest = self._divided(batch)
        values |= parts
        positional: list[Any] = []
        by_name: dict[str, Any] = {}
        for p in self._parameters:
            if p.name not in values:
                continue
            # What stands behind an argument that keeps its default can only go by name.
            if p.kind in PLACES and len(positional) == self._parameters.index(p):
                positional.append(values.pop(p.name))
            else:
                by_name[p.name] = values.pop(p.name)
        return self.function(*positional, *rest, **by_name, **values)

    def _divided(self, batch: Any) -> tuple[dict[str, Any], list[Any]]:
        """Returns the batch in parts by the names of arguments, and what goes on the end without a name."""
        slots, optional = self.slots, self._optional
        if not slots:
            if self._spread:
                return {}, list(batch) if isinstance(batch, tuple | list) else [batch]
            if self._by_name and isinstance(batch, Mapping):
                return dict(batch), []
            return ({optional[0]: batch} if optional else {}), []
        if len(slots) == 1 and not (self._by_name and isinstance(batch, Mapping) and slots[0] in batch):
            return {slots[0]: batch}, []
        if isinstance(batch, Mapping) and all(name in batch for name in slots):
            taken = batch if self._by_name else [name for name in (*slots, *optional) if name in batch]
            return {name: batch[name] for name in taken}, []
        if isinstance(batch, tuple | list) and len(slots) <= len(batch) <= len(slots) + len(optional):
            return dict(zip((*slots, *optional), batch, strict=False)), []
        raise ModelError(
            f"{self.who} takes {', '.join(slots)}{' after the state' if self._state else ''}, and a batch is "
            f"{described(batch)}. Let it take the batch whole, give data of these parts, or name others in --args."
        )


def by_name(arguments: Mapping[str, Any] | None) -> dict[str, Any]:
    """Reads the further arguments of steps.

    Raises:
        OptionError: they are no dict by name.
    """
    if arguments is None:
        return {}
    if not isinstance(arguments, Mapping) or not all(isinstance(name, str) for name in arguments):
        raise OptionError(f"--args {str(arguments)[:60]}: give a dict by name, such as dict(graph=graph, k=5).")
    return dict(arguments)


def check_taken(arguments: Mapping[str, Any], *calls: Call | None) -> None:
    """Checks that each further argument is taken by one of the steps.

    Raises:
        OptionError: one is not.
    """
    given = [call for call in calls if call is not None]
    for name in arguments:
        if not any(name in call.named for call in given):
            known = [slot for call in given for slot in call.slots]
            take = "take" if len(given) > 1 else "takes"
            raise OptionError(
                f"--args: {' and '.join(call.who for call in given)} {take} no argument `{name}`.{nearest(name, known)}"
            )


def described(batch: Any) -> str:
    """Returns what a batch is, for messages."""
    if isinstance(batch, Mapping):
        return f"a dict of {', '.join(map(str, batch))}"
    if isinstance(batch, tuple | list):
        return f"a {type(batch).__name__} of {len(batch)}"
    shape = getattr(batch, "shape", None)
    return f"a {type(batch).__name__}" if shape is None else f"one array of shape {tuple(shape)}"


def raw(rng: jax.Array, wanted: bool) -> jax.Array:
    """Returns a key in the old style, as uint32 numbers, or in the new one, whichever it comes in."""
    typed = jnp.issubdtype(rng.dtype, jax.dtypes.prng_key)
    if wanted:
        return jax.random.key_data(rng) if typed else rng
    return rng if typed else jax.random.wrap_key_data(rng)


def _name(function: Any) -> str:
    while isinstance(function, partial):
        function = function.func
    name = getattr(function, "__name__", type(function).__name__)
    return "step" if name == "<lambda>" else str(name)


def _parameters(function: Any) -> list[Parameter]:
    try:
        return list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return [Parameter(name, Parameter.POSITIONAL_ONLY) for name in ("state", "batch")]
