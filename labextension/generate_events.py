"""Writes `labextension/core/events.ts` from `dlfb_lab/events.py`, so that both sides speak one vocabulary.

Usage: python labextension/generate_events.py [--check]

With `--check` nothing is written, and the exit status is 1 when the committed file differs.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
import typing
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "labextension" / "core" / "events.ts"

sys.path.insert(0, str(ROOT))
from dlfb_lab import events  # noqa: E402

HEADER = """\
// Generated from dlfb_lab/events.py by labextension/generate_events.py: do not edit.

/** A float as JSON holds it: the codec writes what JSON cannot say as a string. */
export type JsonFloat = number | "NaN" | "Infinity" | "-Infinity";

/** Raw little-endian bits of losses: "f4:" or "f8:", then base64. */
export type FloatBlock = string;

export type JsonValue = null | boolean | number | string | JsonValue[] | { [key: string]: JsonValue };
"""


def generate() -> str:
    """Returns the TypeScript source, as prettier formats it at 120 columns."""
    kinds = list(events.KINDS.values())
    kind_lines = "".join(f"  {_quote(cls.kind)},\n" for cls in kinds)
    names = [cls.__name__ for cls in kinds]
    parts = [
        HEADER,
        f"export const SCHEMA = {events.SCHEMA};\n",
        f"export type State = {_type(events.State, '')};\n",
        f"export const ENDED: readonly State[] = [{', '.join(_quote(s) for s in events.ENDED)}];\n",
        _interface(events.Event),
        *(_interface(cls) for cls in kinds),
        "export type RunEvent =\n" + "\n".join(f"  | {name}" for name in names) + ";\n",
        f'export const KINDS: readonly RunEvent["kind"][] = [\n{kind_lines}];\n',
    ]
    return "\n".join(parts)


def _interface(cls: type[events.Event]) -> str:
    doc = inspect.cleandoc(cls.__doc__ or "")
    summary, _, attributes = doc.partition("\n\nAttributes:\n")
    texts = _attribute_texts(attributes)
    hints = typing.get_type_hints(cls)
    inherited = set() if cls is events.Event else {f.name for f in dataclasses.fields(events.Event)}
    own = [f.name for f in dataclasses.fields(cls) if f.name not in inherited]
    head = f"export interface {cls.__name__} extends Event" if inherited else "export interface Event"
    lines = [f"/** {' '.join(summary.split())} */", head + " {"]
    if inherited:
        lines.append(f"  kind: {_quote(cls.kind)};")
    for name in own:
        if name in texts:
            lines.append(f"  /** {texts[name]} */")
        lines.append(f"  {name}: {_type(hints[name], name)};")
    return "\n".join([*lines, "}", ""])


def _attribute_texts(text: str) -> dict[str, str]:
    texts: dict[str, str] = {}
    name = ""
    for line in text.splitlines():
        match = re.match(r" {4}(\w+): (.*)", line)
        if match:
            name = match[1]
            texts[name] = match[2]
        elif name and line.strip():
            texts[name] += " " + line.strip()
    return texts


def _type(hint: object, field: str) -> str:
    if field and hint == events.State:
        return "State"
    if hint == events.FloatBlock:
        return "FloatBlock"
    simple = {int: "number", float: "JsonFloat", str: "string", bool: "boolean", typing.Any: "JsonValue"}
    if hint in simple:
        return simple[hint]
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return " | ".join(_quote(value) for value in args)
    if origin is list:
        return f"{_type(args[0], field)}[]"
    if origin is dict:
        return f"Record<string, {_type(args[1], field)}>"
    raise TypeError(f"no TypeScript type is known for {hint!r} (field {field!r}): add it to {Path(__file__).name}")


def _quote(text: str) -> str:
    return f'"{text}"'


def main(arguments: list[str]) -> int:
    """Writes or checks the file; returns the exit status."""
    source = generate()
    if arguments == ["--check"]:
        if TARGET.exists() and TARGET.read_text(encoding="utf-8") == source:
            return 0
        print(
            f"{TARGET.relative_to(ROOT)} is out of date: run python labextension/generate_events.py",
            file=sys.stderr,
        )
        return 1
    TARGET.write_text(source, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
