"""What must be known of a model to make it again in another kernel, written down as JSON values."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import linecache
import sys
from importlib import import_module
from typing import Any

import jax

from dlfb_lab.errors import StoreError, one_line
from dlfb_lab.models.fingerprint import digest, fingerprint

MOST_SOURCE = 1 << 14
"""Characters of a class's source that are written down."""

_PLAIN = (bool, int, float, str, type(None))


def described(model: Any, kind: str) -> dict[str, Any]:
    """Returns the class of a model, of a linen module its fields, and its source where that is no module's.

    Args:
        model: as the user gave it.
        kind: its adapter's name.
    """
    first = model[0] if isinstance(model, tuple) and model else model
    owner = first if isinstance(first, type) or hasattr(first, "__code__") else type(first)
    fields = _fields(first) if kind == "linen" else None
    return {
        "kind": kind,
        "module": str(getattr(owner, "__module__", "")),
        "qualname": str(getattr(owner, "__qualname__", "")),
        "fields": fields,
        "source": _source(owner),
        "code": code_of(first),
    }


def code_of(model: Any) -> str:
    """Returns what tells whether a model's code is the same, in hexadecimal digits."""
    plain = dataclasses.is_dataclass(model) and not isinstance(model, type) and jax.tree_util.all_leaves([model])
    return digest((fingerprint(model if plain or hasattr(model, "__code__") else type(model)),))


def made(recipe: dict[str, Any], run: str) -> Any:
    """Makes a linen module whose class can be imported by name, or is defined in the notebook.

    Nothing that was written down is executed.

    Raises:
        StoreError: it cannot be made; says what to define or to give.
    """
    name, module, fields = recipe["qualname"], recipe["module"], recipe["fields"]
    give = f"dlfb_lab.open_run({run!r}, model={_call(name, fields) if recipe['kind'] == 'linen' else 'model'})"
    if recipe["kind"] != "linen":
        raise StoreError(
            f"To predict, {run} needs its model, of {_kind(recipe['kind'])}. Make it as for training, and give it: "
            f"{give}."
        )
    owner, why = _class(module, name)
    if owner is None:
        source = f" It was:\n\n{recipe['source']}" if recipe["source"] else ""
        raise StoreError(f"To predict, {run} needs its model `{name}`, {why}, or give a model: {give}.{source}")
    if fields is None:
        raise StoreError(
            f"To predict, {run} needs its model `{name}`, whose fields were no plain values. Make it as for training, "
            f"and give it: {give}."
        )
    try:
        return owner(**{field: _frozen(value) for field, value in fields.items()})
    except Exception as error:
        raise StoreError(
            f"To predict, {run} needs its model, but {_call(name, fields)} failed ({one_line(error)}). "
            f"Define `{name}` as it was, or give a model: {give}."
        ) from error


def _class(module: str, name: str) -> tuple[Any, str]:
    """Returns the class; or None, and why it cannot be had and what to do."""
    linen: Any = import_module("flax.linen")
    if module == "__main__" or "<locals>" in name:
        found, why = sys.modules.get("__main__"), "which is not defined in this kernel. Define it as it was"
    else:
        try:
            found, why = import_module(module), f"which is no more in the module `{module}`. Put it there"
        except Exception as error:
            why = f"whose module `{module}` cannot be imported ({one_line(error)}). Make that possible"
            return None, why
    owner: Any = found
    for part in name.split("."):
        owner = getattr(owner, part, None)
    return (owner if isinstance(owner, type) and issubclass(owner, linen.Module) else None), why


def _fields(module: Any) -> dict[str, Any] | None:
    """Returns the fields of a linen module that differ from their defaults; None where one is no plain value."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(module):
        value = getattr(module, field.name, None)
        if field.name == "parent" or (field.default is not dataclasses.MISSING and value is field.default):
            continue
        if field.name == "name" and value is None:
            continue
        if not _is_plain(value):
            return None
        found[field.name] = value
    return found


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return type(value) in _PLAIN and value == value and value not in (float("inf"), float("-inf"))


def _frozen(value: Any) -> Any:
    """Returns lists as tuples, which linen modules need for being compared."""
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def _call(name: str, fields: dict[str, Any] | None) -> str:
    said = "…" if fields is None else ", ".join(f"{field}={_frozen(value)!r}" for field, value in fields.items())
    return f"{name.rpartition('.')[2]}({said})"


def _kind(kind: str) -> str:
    return {"function": "a function and its parameters", "train state": "a TrainState"}.get(kind, f"the kind {kind}")


def _source(owner: Any) -> str:
    """Returns the source of a class or function of a notebook; "" where it is a module's, or not known."""
    if getattr(owner, "__module__", "") != "__main__":
        return ""
    codes = [
        getattr(inspect.unwrap(part), "__code__", None) for part in (*vars(owner).values(), owner) if callable(part)
    ]
    for code in filter(None, codes):
        text = "".join(linecache.getlines(code.co_filename))
        try:
            nodes = list(ast.walk(ast.parse(text)))
        except (SyntaxError, ValueError, RecursionError):
            continue
        for node in nodes:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == owner.__name__:
                return (ast.get_source_segment(text, node) or "")[:MOST_SOURCE]
    return ""
