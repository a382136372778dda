"""How one call of a peer is timed, wherever it runs."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Any


def timed(train: Callable[[int], dict[str, Any]], epochs: int) -> dict[str, Any]:
    """Calls a peer once; returns what it says, and the seconds that the whole call took.

    Where it has something to do afterwards, its `settle` waits for that, so that it slows no other.
    """
    gc.collect()
    start = time.perf_counter()
    said = train(epochs)
    seconds = time.perf_counter() - start
    getattr(train, "settle", bool)()
    return {**said, "seconds": seconds, "epochs": epochs}
