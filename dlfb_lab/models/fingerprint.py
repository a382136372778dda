"""What the user's code computes, as far as Python can tell: to know when a kept program has become stale.

A program reads Python once, when it is traced. When a helper is defined anew in another cell, or a global gets
another value, the function that uses it is the same object still. Its fingerprint is not.
"""

from __future__ import annotations

import dataclasses
import dis
import functools
import inspect
import sys
import sysconfig
from collections.abc import Hashable
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

from dlfb_lab.models.model import Identity, hashable

_LIBRARIES = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})
_PLAIN = (type(None), bool, int, float, complex, str, bytes, type(Ellipsis))
_READS_GLOBAL = ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS")
LARGEST_ARRAY = 1 << 20
"""Bytes of an array that are compared by value; larger ones count by identity."""


def fingerprint(value: Any) -> Hashable:
    """Returns a key that changes when what the value computes changes.

    Follows functions of the user's into the globals, defaults and closures they use, classes into their methods, and
    objects into their attributes. What comes from an installed package counts by identity.
    """
    return _of(value, {})


def _of(value: Any, seen: dict[int, int]) -> Hashable:
    if isinstance(value, _PLAIN):
        return type(value).__name__, value
    if isinstance(value, ModuleType | BuiltinFunctionType):
        return Identity(value)
    if id(value) in seen:
        return "seen", seen[id(value)]
    seen[id(value)] = len(seen)
    if isinstance(value, list | tuple):
        return type(value).__name__, *(_of(item, seen) for item in value)
    if isinstance(value, dict):
        return "dict", *((repr(key), _of(item, seen)) for key, item in value.items())
    if isinstance(value, np.ndarray):
        small = value.nbytes <= LARGEST_ARRAY and not value.dtype.hasobject
        return ("array", value.shape, str(value.dtype), value.tobytes()) if small else Identity(value)
    if isinstance(value, functools.partial):
        return "partial", *(_of(item, seen) for item in (value.func, value.args, value.keywords))
    if isinstance(value, MethodType):
        return "method", _of(value.__self__, seen), _of(value.__func__, seen)
    wrapped = inspect.unwrap(value) if callable(value) and hasattr(value, "__wrapped__") else value
    if wrapped is not value:
        return "wrapped", _of(wrapped, seen)
    if is_installed(value) and (isinstance(value, type) or not dataclasses.is_dataclass(value)):
        return hashable(value)
    if isinstance(value, FunctionType):
        return _of_function(value, seen)
    if isinstance(value, type):
        return "class", value.__qualname__, *((k, _of(v, seen)) for k, v in own_members(value))
    return _of_object(value, seen)


def _of_function(function: FunctionType, seen: dict[int, int]) -> Hashable:
    names = globals_used(function.__code__)
    used = [(name, function.__globals__[name]) for name in names if name in function.__globals__]
    cells = [held(cell) for cell in function.__closure__ or ()]
    return (
        "function",
        code_key(function.__code__),
        *(_of(item, seen) for item in (function.__defaults__, function.__kwdefaults__, cells)),
        *((name, _of(item, seen)) for name, item in used),
    )


def _of_object(value: Any, seen: dict[int, int]) -> Hashable:
    if dataclasses.is_dataclass(value):
        # Of a linen module the fields alone: the rest of its attributes belongs to Flax.
        fields = {f.name: getattr(value, f.name, None) for f in dataclasses.fields(value) if f.name != "parent"}
    elif hasattr(value, "__dict__"):
        fields = vars(value)
    else:
        return Identity(value)
    return "object", _of(type(value), seen), *((name, _of(item, seen)) for name, item in fields.items())


def own_members(cls: type) -> list[tuple[str, Any]]:
    """Returns functions and constants of a class and of those of its bases that are the user's."""
    members: list[tuple[str, Any]] = []
    for base in cls.__mro__:
        if is_installed(base):
            continue
        for name, member in vars(base).items():
            function = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
            # A method under jax.jit, nnx.jit or eqx.filter_jit is an object with the function in it.
            function = inspect.unwrap(function) if callable(function) and not isinstance(function, type) else function
            if name == "__call__" or (isinstance(function, (FunctionType, *_PLAIN)) and not name.startswith("__")):
                members.append((name, function))
    return members


def code_key(code: CodeType) -> Hashable:
    """Returns what code does, without where it stands."""
    constants = tuple(code_key(c) if isinstance(c, CodeType) else _constant(c) for c in code.co_consts)
    return code.co_code, code.co_names, code.co_varnames, constants


def _constant(value: object) -> tuple[str, str]:
    # The order of a set is another in every process.
    shown = sorted(map(repr, value)) if isinstance(value, frozenset) else value
    return type(value).__name__, repr(shown)


@functools.lru_cache(4096)
def globals_used(code: CodeType) -> tuple[str, ...]:
    """Returns the sorted names of globals that code reads, functions inside it included."""
    own = {step.argval for step in dis.get_instructions(code) if step.opname in _READS_GLOBAL}
    return tuple(sorted(own.union(*(globals_used(c) for c in code.co_consts if isinstance(c, CodeType)))))


def held(cell: Any) -> Any:
    """Returns what a cell of a closure holds, or None."""
    try:
        return cell.cell_contents
    except ValueError:
        return None


def is_installed(value: Any, module: str | None = None) -> bool:
    """Whether a function, a class or an object's class comes from an installed package, not from the user.

    Args:
        value: what is asked about.
        module: the name of the module that it comes from; None for that of the function or class.
    """
    owner = value if isinstance(value, type | FunctionType) else type(value)
    name = module or getattr(owner, "__module__", None) or ""
    path = getattr(sys.modules.get(name), "__file__", None)
    if name == "__main__" or path is None:
        return name == "builtins"
    return str(path).startswith(_LIBRARIES)


def digest(key: Hashable) -> str:
    """Returns a fingerprint in 16 hexadecimal digits that are the same in another process.

    What counts by identity counts by its content here.
    """
    # Which follows functions and classes as is done here.
    from dlfb_lab.models import content

    return content.digest(key)
