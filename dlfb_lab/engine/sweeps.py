"""Reading `--sweep lr=1e-4,1e-3,1e-2`."""

from __future__ import annotations

import ast
import re
from typing import Any

from dlfb_lab.errors import OptionError

_WORD = re.compile(r"[^\W\d][\w.*/-]*")
_OPENING, _CLOSING, _QUOTES = "([{", ")]}", "'\""


def parse_sweep(text: Any) -> tuple[str, tuple[Any, ...]]:
    """Reads what to sweep over.

    Args:
        text: `NAME=A,B,…`: an option, with or without dashes, and Python literals or plain words.

    Returns:
        The option as a keyword, such as "batch_size", and at least two different values.

    Raises:
        OptionError: it is not of this form.
    """
    if not isinstance(text, str) or "=" not in text:
        raise OptionError(f"--sweep {text!r}: say what and which values, such as --sweep lr=1e-4,1e-3,1e-2.")
    name, _, listed = text.partition("=")
    keyword = name.strip().removeprefix("--").replace("-", "_")
    if not keyword.isidentifier():
        raise OptionError(f"--sweep {text}: {name.strip()!r} is no option's name. Say lr=1e-4,1e-3, for example.")
    values = tuple(_value(part.strip(), text) for part in _parts(listed))
    option = "--" + keyword.replace("_", "-")
    if len(values) == 1:
        raise OptionError(f"--sweep {text}: that is one value only. Give several, or say {option} {values[0]}.")
    for i, value in enumerate(values):
        if value in values[:i]:
            raise OptionError(f"--sweep {text}: {value!r} stands there twice. Give each value once.")
    return keyword, values


def _parts(listed: str) -> list[str]:
    """Splits at the commas that stand in no bracket and no quotes."""
    parts, depth, quote = [""], 0, ""
    for letter in listed:
        if letter == "," and depth == 0 and not quote:
            parts.append("")
            continue
        if quote:
            quote = "" if letter == quote else quote
        elif letter in _QUOTES:
            quote = letter
        else:
            depth += (letter in _OPENING) - (letter in _CLOSING)
        parts[-1] += letter
    return parts


def _value(part: str, text: str) -> Any:
    if not part:
        raise OptionError(f"--sweep {text}: a value is missing. Separate values by single commas: lr=1e-4,1e-3.")
    try:
        return ast.literal_eval(part)
    except (ValueError, SyntaxError):
        if _WORD.fullmatch(part):
            return part
    raise OptionError(f"--sweep {text}: {part!r} is neither a number nor a plain word nor another Python literal.")
