"""The best evaluation so far, and whether there is still hope for a better one."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from dlfb_lab.data.source import Array
from dlfb_lab.engine.experiment import EarlyStop, Plan
from dlfb_lab.engine.trainer import Scores
from dlfb_lab.errors import OptionError, nearest

_VALUES = "best", "last"


class Monitor:
    """Follows the monitored score, of each member where there are several.

    Attributes:
        over: whether no member has become better for as many evaluations as patience allows.
        best: each member's best value so far, shape [members] or [1]; NaN before the first.
        best_step: the step of each.
        last: each member's latest value.
    """

    def __init__(self, plan: Plan, stop: EarlyStop | None) -> None:
        self._metric = plan.monitor.partition("/")[2]
        self._sign = 1.0 if plan.monitor_mode == "min" else -1.0
        self._stop = stop
        self._waited = 0
        self.over = False
        self.best = np.full(1, math.nan)
        self.best_step = np.zeros(1, np.int64)
        self.last = np.full(1, math.nan)

    def look(self, step: int, scores: Scores) -> Array:
        """Takes an evaluation; returns which members have become better, shape [members] or [1], bool.

        Raises:
            OptionError: early stopping is asked for by a metric that is not there.
        """
        each = scores.members or [scores.metrics]
        if self._stop is not None and self._metric not in each[0]:
            raise OptionError(
                f"--early-stop {self._metric}: it is not evaluated.{nearest(self._metric, list(each[0]))} "
                f"There are {', '.join(each[0])}."
            )
        self.last = np.array([one.get(self._metric, math.nan) for one in each], np.float64)
        if len(self.best) != len(each):
            self.best, self.best_step = np.full(len(each), math.nan), np.zeros(len(each), np.int64)
        with np.errstate(invalid="ignore"):
            better = np.isfinite(self.last) & ~(self._sign * self.last >= self._sign * self.best)
        self.best = np.where(better, self.last, self.best)
        self.best_step = np.where(better, step, self.best_step)
        self._waited = 0 if better.any() else self._waited + 1
        self.over = self._stop is not None and self._waited >= self._stop.patience
        return np.asarray(better)

    def place(self) -> dict[str, Any]:
        """Returns where it stands, as JSON values; None for a value that is not finite."""
        values = {name: [float(v) if math.isfinite(v) else None for v in getattr(self, name)] for name in _VALUES}
        return {**values, "best_step": self.best_step.tolist(), "waited": self._waited, "over": self.over}

    def resume(self, place: dict[str, Any]) -> None:
        """Stands where another stood when it said so."""
        for name in _VALUES:
            setattr(self, name, np.array([math.nan if v is None else v for v in place[name]], np.float64))
        self.best_step = np.array(place["best_step"], np.int64)
        self._waited, self.over = int(place["waited"]), bool(place["over"])

    @property
    def reason(self) -> str:
        """Why training is over."""
        assert self._stop is not None
        times = f"{self._stop.patience} evaluations" if self._stop.patience > 1 else "one evaluation"
        return f"valid/{self._metric} has not become better for {times}"

    def best_member(self, restored: bool) -> int | None:
        """Returns the number of the best member: by its best value if that is what was restored, else by its latest."""
        values = self._sign * (self.best if restored else self.last)
        return int(np.nanargmin(values)) if np.isfinite(values).any() else None
