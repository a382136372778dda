"""Time within a run."""

from __future__ import annotations

import re
import sys
from time import monotonic

from dlfb_lab.errors import OptionError

_UNIT_S = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


def seconds(text: str | float | None) -> float | None:
    """Reads `--timebox`; see `duration`."""
    return None if text is None else duration(text, "--timebox")


def duration(text: str | float, option: str) -> float:
    """Reads a duration such as "90", "30s", "10m" or "1.5h"; returns seconds.

    Raises:
        OptionError: it is not a duration above zero.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*(s|m|min|h|)\s*", str(text))
    if not found or float(found[1]) <= 0:
        raise OptionError(f"{option} {text}: give a duration above zero, such as 30s, 10m or 1.5h.")
    return float(found[1]) * _UNIT_S[found[2]]


class Clock:
    """Counts the time since a run began.

    Attributes:
        timebox_s: when it shall be over, seconds; None for never.
    """

    def __init__(self, timebox_s: float | None) -> None:
        self.timebox_s = timebox_s
        self._start = monotonic()

    @property
    def elapsed_s(self) -> float:
        """Wall time since the run began."""
        return monotonic() - self._start

    def over(self, reserve_s: float = 0.0) -> bool:
        """Whether the box is used up but for a reserve."""
        return self.timebox_s is not None and self.elapsed_s + reserve_s >= self.timebox_s


class Pace:
    """Chooses how many steps one dispatch takes, so that it lasts about 50 ms.

    Short enough for a stop to be quick, long enough for launching it to cost nothing.
    """

    TARGET_S = 0.05
    LARGEST_GROWTH = 16

    def __init__(self, most: int | None = None) -> None:
        self._most = sys.maxsize if most is None else most
        self.count = 1

    def update(self, count: int, duration_s: float) -> None:
        """Learns from one dispatch of `count` steps."""
        wanted = int(count * self.TARGET_S / max(duration_s, 1e-6))
        self.count = max(1, min(wanted, count * self.LARGEST_GROWTH, self._most))


class Reporter:
    """Says when losses are due to be reported: every 100 ms at first, soon every 150 ms.

    Whoever watches sees a step within half a second, whatever way it takes to the screen.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._last_s = 0.0

    def due(self) -> bool:
        """Whether enough time has gone by since the last report; if so, this is one."""
        now = self._clock.elapsed_s
        if now - self._last_s < (0.1 if now < 1 else 0.15):
            return False
        self._last_s = now
        return True
