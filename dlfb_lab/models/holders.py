"""What a step changes without handing it over: the variables, modules and optimizers that its code names."""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from types import FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

from dlfb_lab.models.fingerprint import globals_used, is_installed

DEPTH = 6
"""How far names are followed: through functions, containers and attributes."""


@dataclass(frozen=True)
class Holder:
    """An object of another framework that training changes.

    Attributes:
        value: the object.
        framework: name of the module it comes from.
        keep: returns a copy of what it holds.
        restore: puts such a copy back.
        trained: its parameters that are trained; none for an optimizer.
    """

    value: Any
    framework: str
    keep: Callable[[], Any]
    restore: Callable[[Any], None]
    trained: tuple[Any, ...]


def holders(function: Any, arguments: Mapping[str, Any]) -> dict[str, Holder]:
    """Returns what a function can change, by the name it goes by: in globals, closures, attributes and arguments."""
    found: dict[str, Holder] = {}
    seen: set[int] = set()
    level = [*arguments.items(), ("", function)]
    for _ in range(DEPTH):
        below: list[tuple[str, Any]] = []
        for name, value in level:
            if id(value) in seen or isinstance(value, ModuleType | type | str | np.ndarray):
                continue
            seen.add(id(value))
            holder = _holder(value)
            if holder is None:
                below += _within(name, value)
            else:
                found[name or type(value).__name__] = holder
        level = below
    return found


def _holder(value: Any) -> Holder | None:
    for adapt in (_of_keras, _of_torch, _of_tensorflow):
        holder = adapt(value)
        if holder is not None:
            return holder
    return None


def _of_torch(value: Any) -> Holder | None:
    torch: Any = sys.modules.get("torch")
    if torch is None:
        return None
    if isinstance(value, torch.Tensor):
        if not (value.requires_grad and value.is_leaf):
            return None

        def put_back(kept: Any) -> None:
            with torch.no_grad():
                value.copy_(kept)

        return Holder(value, "torch", lambda: value.detach().clone(), put_back, (value,))
    if isinstance(value, torch.nn.Module | torch.optim.Optimizer | torch.optim.lr_scheduler.LRScheduler):
        parameters = value.parameters() if isinstance(value, torch.nn.Module) else ()
        return Holder(
            value,
            "torch",
            lambda: copy.deepcopy(value.state_dict()),
            # A copy again: an optimizer goes on with the very tensors that it is given.
            lambda kept: value.load_state_dict(copy.deepcopy(kept)),
            tuple(p for p in parameters if p.requires_grad),
        )
    return None


def _of_tensorflow(value: Any) -> Holder | None:
    tensorflow: Any = sys.modules.get("tensorflow")
    if tensorflow is None:
        return None
    if isinstance(value, tensorflow.Variable):
        return _of_variables(value, "tensorflow", lambda: [value], (value,) if value.trainable else ())
    if isinstance(value, tensorflow.Module):
        return _of_variables(value, "tensorflow", lambda: list(value.variables), tuple(value.trainable_variables))
    return None


def _of_keras(value: Any) -> Holder | None:
    keras: Any = sys.modules.get("keras")
    if keras is None or not isinstance(value, keras.Layer | keras.optimizers.Optimizer | keras.Variable):
        return None
    if isinstance(value, keras.Variable):
        return _of_variables(value, "keras", lambda: [value], (value,) if value.trainable else ())
    trained = tuple(value.trainable_variables) if isinstance(value, keras.Layer) else ()
    return _of_variables(value, "keras", lambda: list(value.variables), trained)


def _of_variables(value: Any, framework: str, variables: Callable[[], list[Any]], trained: tuple[Any, ...]) -> Holder:
    def put_back(kept: list[Any]) -> None:
        # Some optimizers make variables at their first step: those that came later stay as they are.
        for variable, array in zip(variables(), kept, strict=False):
            variable.assign(array)

    return Holder(value, framework, lambda: [np.array(v.numpy()) for v in variables()], put_back, trained)


def _within(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yields what a value names: a function's globals and closure, the entries of a container, an object's fields."""
    if isinstance(value, partial):
        yield name, value.func
        yield from ((name, item) for item in value.args)
        yield from value.keywords.items()
    elif isinstance(value, MethodType):
        yield name, value.__self__
        yield name, value.__func__
    elif isinstance(value, FunctionType):
        wrapped = inspect.unwrap(value)
        if wrapped is not value:
            yield name, wrapped
        closure = zip(value.__code__.co_freevars, value.__closure__ or (), strict=True)
        yield from ((free, cell.cell_contents) for free, cell in closure if _is_filled(cell))
        yield from zip(_last_names(value), value.__defaults__ or (), strict=False)
        yield from (value.__kwdefaults__ or {}).items()
        if not is_installed(value):
            named = globals_used(value.__code__)
            yield from ((key, value.__globals__[key]) for key in named if key in value.__globals__)
    elif isinstance(value, Mapping):
        yield from ((str(key), item) for key, item in value.items())
    elif isinstance(value, list | tuple):
        yield from ((f"{name}/{i}", item) for i, item in enumerate(value))
    elif hasattr(value, "__wrapped__"):
        yield name, value.__wrapped__
    elif not is_installed(value) and hasattr(value, "__dict__"):
        yield from vars(value).items()
        if callable(value):
            yield name, type(value).__call__


def _last_names(function: FunctionType) -> tuple[str, ...]:
    names = function.__code__.co_varnames[: function.__code__.co_argcount]
    return names[len(names) - len(function.__defaults__ or ()) :]


def _is_filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False
