"""What must be known of a model to make it again in another kernel, written down as JSON values."""

from __future__ import annotations
import __future__

import ast
import dataclasses
import inspect
import linecache
import sys
import textwrap
from collections.abc import Iterator
from importlib import import_module
from types import CodeType, FunctionType, ModuleType
from typing import Any

import jax

from dlfb_lab.errors import StoreError, one_line
from dlfb_lab.models.fingerprint import digest, fingerprint, globals_used

MOST_SOURCE = 1 << 14
"""Characters of a class's source that are written down."""

_PLAIN = (bool, int, float, str, type(None))
_Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


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
        "source": _source(owner)[1][:MOST_SOURCE],
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
        module = owner(**{field: _frozen(value) for field, value in fields.items()})
    except Exception as error:
        raise StoreError(
            f"To predict, {run} needs its model, but {_call(name, fields)} failed ({one_line(error)}). "
            f"Define `{name}` as it was, or give a model: {give}."
        ) from error
    if definition is not None:
        # Whether a field was a list or a tuple is not written down.
        same = recipe["code"] in (code_of(module), code_of(owner(**fields)))
        may = "" if same else " What it computes may be another: its code, or what that uses, differs from that time."
        print(f"{name} was made from its source, which was kept with {run}.{may}")  # noqa: T201
    return module, definition is not None


def definition_of(owner: Any) -> dict[str, Any] | None:
    """Returns all that defines a class of a notebook, as JSON values; None where something cannot be written down.

    Its source, those of the notebook's other classes and functions that it names, what they import, and plain values.
    """
    found: dict[str, Any] = {"sources": [], "imports": {}, "values": {}}
    return found if _needed(owner, found, set()) else None


def _needed(owner: Any, found: dict[str, Any], seen: set[int]) -> bool:
    if id(owner) in seen:
        return True
    before, source = _source(owner)
    # What is defined in a function may use what is that function's.
    if not source or len(source) > MOST_SOURCE or "<locals>" in owner.__qualname__:
        return False
    seen.add(id(owner))
    known = vars(sys.modules["__main__"])
    names = set(globals_used(_compiled(before + source)))
    for name in sorted(name for name in names & known.keys() - {owner.__name__} if not name.startswith("__")):
        value = known[name]
        if isinstance(value, ModuleType):
            found["imports"][name] = [value.__name__, ""]
        elif _is_plain(value):
            found["values"][name] = value
        elif getattr(value, "__module__", None) == "__main__" and (
            isinstance(value, type) or hasattr(value, "__code__") or hasattr(value, "__wrapped__")
        ):
            if getattr(value, "__name__", "") != name or not _needed(value, found, seen):
                return False
        else:
            place = _imported_from(value)
            if place is None:
                return False
            found["imports"][name] = place
    found["sources"].append(before + source)
    return True


def _imported_from(value: Any) -> list[str] | None:
    """Returns the module and the name that an object can be imported by; None where there are none."""
    module = str(getattr(value, "__module__", None) or "")
    if module == "__main__":
        return None
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
        exec(_compiled(source), names)
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


def _source(owner: Any) -> tuple[str, str]:
    """Returns the source of a class or function of a notebook, with its decorators, and what is to stand before it.

    Both are "" where it is a module's, or where what is found is not certainly what was executed.
    """
    nothing = "", ""
    if getattr(owner, "__module__", "") != "__main__":
        return nothing
    codes = _codes(owner)
    for code in codes:
        lines = linecache.getlines(code.co_filename)
        try:
            tree = ast.parse("".join(lines))
            nodes = [node for name, node in _definitions(tree) if name == owner.__qualname__ and _is_of(node, code)]
            if len(nodes) != 1 or _wrappings(owner) > len(nodes[0].decorator_list):
                continue
            source = textwrap.dedent("".join(lines[_first(nodes[0]) - 1 : nodes[0].end_lineno]))
            before = _before(tree, source, code)
            inside = {_key(part) for part in _parts(_compiled(before + source))}
            alone = len(ast.parse(source).body) == 1
        except (SyntaxError, ValueError, RecursionError):
            continue
        if alone and inside.issuperset(map(_key, codes)):
            return before, source.rstrip("\n")
    return nothing


def _codes(owner: Any) -> list[CodeType]:
    """Returns the code of a function, or that of the methods of a class, without what decorators put around it."""
    parts = [owner]
    if isinstance(owner, type):
        parts = []
        for value in vars(owner).values():
            own = (value.fget, value.fset, value.fdel) if isinstance(value, property) else (value,)
            parts += [getattr(part, "__func__", part) for part in own]
    functions = [inspect.unwrap(part) for part in parts if callable(part)]
    codes = [f.__code__ for f in functions if isinstance(f, FunctionType) and f.__module__ == "__main__"]
    return [code for code in codes if code.co_filename != "<string>"]  # which `dataclasses` generates


def _definitions(node: ast.AST, within: str = "") -> Iterator[tuple[str, _Definition]]:
    """Yields all classes and functions by their qualified names."""
    for child in ast.iter_child_nodes(node):
        inner = within
        if isinstance(child, _Definition):
            yield within + child.name, child
            inner += f"{child.name}." if isinstance(child, ast.ClassDef) else f"{child.name}.<locals>."
        yield from _definitions(child, inner)


def _is_of(node: _Definition, code: CodeType) -> bool:
    """Whether a function has this code, or a class a method that has it."""
    if isinstance(node, ast.ClassDef):
        return _first(node) <= code.co_firstlineno <= (node.end_lineno or 0)
    return _first(node) == code.co_firstlineno


def _first(node: _Definition) -> int:
    return min(part.lineno for part in (node, *node.decorator_list))


def _wrappings(owner: Any) -> int:
    count = 0
    while not isinstance(owner, type) and (inner := getattr(owner, "__wrapped__", None)) is not None:
        owner, count = inner, count + 1
    return count


def _before(tree: ast.Module, source: str, code: CodeType) -> str:
    """Returns what has Python compile a part of a cell to the code that it was in the cell.

    That depends on which names the cell imports: those are called otherwise. The imports are not executed.
    """
    future = "from __future__ import annotations\n" if code.co_flags & __future__.annotations.compiler_flag else ""
    imported = {
        (alias.asname or alias.name).partition(".")[0]
        for node in _outside(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    used = sorted(imported.intersection(globals_used(_compiled(future + source))))
    return f"{future}if False:\n    import {', '.join(used)}\n" if used else future


def _outside(node: ast.AST) -> Iterator[ast.AST]:
    """Yields what is in no class and in no function."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, _Definition):
            yield child
            yield from _outside(child)


def _compiled(source: str) -> CodeType:
    return compile(source, "<notebook>", "exec", dont_inherit=True)


def _parts(code: CodeType) -> Iterator[CodeType]:
    for part in code.co_consts:
        if isinstance(part, CodeType):
            yield part
            yield from _parts(part)


def _key(code: CodeType) -> tuple[Any, ...]:
    """Returns what code does, without where it stands."""
    constants = tuple(_key(part) if isinstance(part, CodeType) else repr(part) for part in code.co_consts)
    return code.co_name, code.co_code, code.co_names, code.co_varnames, constants
