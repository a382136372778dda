"""What somebody asks, in a body that can be anything."""

from __future__ import annotations

import json
from typing import Any

MOST_BYTES = 10_000


def asked(body: bytes) -> dict[str, Any]:
    """Returns the JSON object that a request holds; an empty one where it holds none."""
    try:
        found = json.loads(body) if len(body) <= MOST_BYTES else None
    except (ValueError, RecursionError):
        found = None
    return found if isinstance(found, dict) else {}
