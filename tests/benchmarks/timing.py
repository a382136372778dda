"""How one call of a peer is timed, wherever it runs."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Any


def timed(train: Callable[[int], dict[str, Any]], epochs: int) -> dict[str, Any]:
    """Calls a peer once; returns what it says, and the seconds that the whole call took."""
    gc.collect()
    start = time.perf_counter()
    said = train(epochs)
    seconds = time.perf_counter() - start
    return {**said, "seconds": seconds, "epochs": epochs}
