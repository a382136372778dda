"""Where an iterator stands, where it can tell: as JSON, so that another of the same kind can be entered there."""

from __future__ import annotations

import base64
import json
from typing import Any

NAMES = (("get_state", "set_state"), ("state_dict", "load_state_dict"))
"""As iterators of Grain and of torchdata call it."""

_BYTES = "bytes in base64"


def of(iterator: Any) -> str | None:
    """Returns where an iterator stands, as JSON; None where it cannot tell, or only in what JSON cannot hold."""
    for get, enter_there in NAMES:
        if hasattr(iterator, get) and hasattr(iterator, enter_there):
            try:
                state = getattr(iterator, get)()
                if isinstance(state, bytes):
                    state = {_BYTES: base64.b64encode(state).decode("ascii")}
                text = json.dumps(state, allow_nan=False)
                # What JSON changes, such as a tuple, would not be what the iterator has given.
                return text if json.loads(text) == state else None
            except Exception:  # of the iterator's own: what cannot tell can be trained on all the same
                return None
    return None


def enter(iterator: Any, state: str) -> None:
    """Puts an iterator where another stood.

    Args:
        iterator: of the same kind.
        state: what `of` returned.

    Raises:
        ValueError: it has no such place to enter.
    """
    value = json.loads(state)
    if isinstance(value, dict) and set(value) == {_BYTES}:
        value = base64.b64decode(value[_BYTES])
    for get, enter_there in NAMES:
        if hasattr(iterator, get) and hasattr(iterator, enter_there):
            getattr(iterator, enter_there)(value)
            return
    raise ValueError("it cannot be entered where it stood")
