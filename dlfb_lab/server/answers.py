"""Answers as strict JSON, whatever a journal holds."""

from __future__ import annotations

import json
import math
from typing import Any

from dlfb_lab.events import SCHEMA
from dlfb_lab.version import __version__

DEEPEST = 64
"""Levels of a value that are passed on; no event has as many."""
AT_ONCE = 1000
"""Items that are encoded in one go; meanwhile the server's other threads stand still."""


def dumps(value: Any) -> str:
    """Returns JSON that every parser reads: what is not finite becomes a string, as in events."""
    try:
        return json.dumps(value, allow_nan=False, separators=(",", ":"))
    except (ValueError, RecursionError):
        return json.dumps(_strict(value, DEEPEST), allow_nan=False, separators=(",", ":"))


def answer(values: dict[str, Any], **lists: list[str]) -> bytes:
    """Returns an answer with the server's versions.

    Args:
        values: to be encoded.
        lists: more values by name, the items of which are JSON already.
    """
    text = dumps({"version": __version__, "schema": SCHEMA, **values})
    more = "".join(f',"{name}":[{",".join(items)}]' for name, items in lists.items())
    return f"{text[:-1]}{more}}}".encode("ascii")


def items(values: list[Any]) -> list[str]:
    """Returns the items of a long list as JSON, many in a string."""
    return [dumps(values[first : first + AT_ONCE])[1:-1] for first in range(0, len(values), AT_ONCE)]


def _strict(value: Any, levels: int) -> Any:
    if levels == 0:
        return None
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, dict):
        return {key: _strict(item, levels - 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(item, levels - 1) for item in value]
    return value
