"""What must be known of a model to make it again in another kernel, written down as JSON values."""

from __future__ import annotations

import ast
import dataclasses
import dis
import inspect
import linecache
import sys
from importlib import import_module
from types import CodeType, ModuleType
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
        "definition": definition_of(owner),
        "code": code_of(first),
    }


def code_of(model: Any) -> str:
    """Returns what tells whether a model's code is the same, in hexadecimal digits."""
    plain = dataclasses.is_dataclass(model) and not isinstance(model, type) and jax.tree_util.all_leaves([model])
    return digest((fingerprint(model if plain or hasattr(model, "__code__") else type(model)),))


def made(recipe: dict[str, Any], run: str, ours: bool) -> tuple[Any, bool]:
    """Makes a linen module whose class can be imported by name, is defined in the notebook, or was written down.

    Args:
        recipe: what `described` returned.
        run: the run's name.
        ours: whether what was written down may be executed, since this user's own kernel has written it here.

    Returns:
        The module, and whether it was made of what was written down.

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
    definition = recipe.get("definition") if owner is None and ours else None
    if definition is not None:
        try:
            owner = defined(definition, name)
            print(f"{name} was made from its source, which was kept with {run}.")  # noqa: T201
        except Exception as error:
            why = f"whose source, which was kept with it, fails here ({one_line(error)}). Define it as it was"
    if owner is None:
        source = f" It was:\n\n{recipe['source']}" if recipe["source"] else ""
        raise StoreError(f"To predict, {run} needs its model `{name}`, {why}, or give a model: {give}.{source}")
    if fields is None:
        raise StoreError(
            f"To predict, {run} needs its model `{name}`, whose fields were no plain values. Make it as for training, "
            f"and give it: {give}."
        )
    try:
        return owner(**{field: _frozen(value) for field, value in fields.items()}), definition is not None
    except Exception as error:
        raise StoreError(
            f"To predict, {run} needs its model, but {_call(name, fields)} failed ({one_line(error)}). "
            f"Define `{name}` as it was, or give a model: {give}."
        ) from error


def definition_of(owner: Any) -> dict[str, Any] | None:
    """Returns all that defines a class of a notebook, as JSON values; None where something cannot be written down.

    Its source, those of the notebook's other classes and functions that it names, what they import, and plain values.
    """
    found: dict[str, Any] = {"sources": [], "imports": {}, "values": {}}
    return found if _needed(owner, found, set()) else None


def _needed(owner: Any, found: dict[str, Any], seen: set[int]) -> bool:
    source = _source(owner)
    if not source or id(owner) in seen:
        return id(owner) in seen
    seen.add(id(owner))
    known = vars(sys.modules["__main__"])
    try:
        names = _looked_up(compile(source, "<notebook>", "exec", dont_inherit=True))
    except (SyntaxError, ValueError, RecursionError):
        return False
    for name in sorted(name for name in names & known.keys() - {owner.__name__} if not name.startswith("__")):
        value = known[name]
        if isinstance(value, ModuleType):
            found["imports"][name] = [value.__name__, ""]
        elif _is_plain(value):
            found["values"][name] = value
        elif getattr(value, "__module__", None) == "__main__" and (
            isinstance(value, type) or hasattr(value, "__code__")
        ):
            if getattr(value, "__name__", "") != name or not _needed(value, found, seen):
                return False
        else:
            place = _imported_from(value)
            if place is None:
                return False
            found["imports"][name] = place
    found["sources"].append(source)
    return True


def _looked_up(code: CodeType) -> set[str]:
    """Returns the names that code looks up among globals, functions and classes inside it included."""
    own = {i.argval for i in dis.get_instructions(code) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    return own.union(*(_looked_up(part) for part in code.co_consts if isinstance(part, CodeType)))


def _imported_from(value: Any) -> list[str] | None:
    """Returns the module and the name that an object can be imported by; None where there are none."""
    module = str(getattr(value, "__module__", None) or "")
    for attribute in ("__qualname__", "__name__", "_name"):
        name = getattr(value, attribute, None)
        if isinstance(name, str) and getattr(sys.modules.get(module), name, None) is value:
            return [module, name]
    return None


def defined(definition: dict[str, Any], name: str) -> Any:
    """Returns the class that was written down, by executing its source with what it needs."""
    names: dict[str, Any] = {"__name__": "__main__", **definition["values"]}
    for alias, (module, attribute) in definition["imports"].items():
        names[alias] = getattr(import_module(module), attribute) if attribute else import_module(module)
    for source in definition["sources"]:
        exec(source, names)
    return names[name]


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
