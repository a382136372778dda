"""What a run's events say in a few kilobytes: a row of the list of runs, whatever the run's length."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from dlfb_lab.events import ENDED, KINDS
from dlfb_lab.server.curves import MeanCurve, ThinnedCurve
from dlfb_lab.server.lines import Value
from dlfb_lab.server.losses import block, stretches

_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


class Digest:
    """Takes events as they stand in a journal, and keeps no more of them than its summary needs.

    It says what `dlfb_lab.record.Record` says of the same events.
    """

    def __init__(self) -> None:
        self._started: Value | None = None
        self._status: Value | None = None
        self._step = 0
        self._updated_s = 0.0
        self._training_s: float | None = None
        self._idle_s = 0.0
        self._scores: dict[str, dict[str, Any]] = {}
        self._lowest: dict[tuple[str, str], tuple[float, int]] = {}
        self._highest: dict[tuple[str, str], tuple[float, int]] = {}
        self._baselines: dict[str, Value] = {}
        self._warnings = 0
        self._checkpoints = 0
        self._memory: dict[str, Value] = {}
        self._curve = MeanCurve()
        self._valid = ThinnedCurve()

    @property
    def is_run(self) -> bool:
        """Whether there was a plan among the events."""
        return self._started is not None

    @property
    def state(self) -> str:
        """What the journal says last, or "waiting"."""
        return str(self._status["state"]) if self._status else "waiting"

    @property
    def started_s(self) -> float:
        """When the run started, Unix time in seconds."""
        return _float(self._started["time_s"]) if self._started else 0.0

    def put(self, events: Iterable[Value]) -> None:
        """Takes the next events; what is no event of the vocabulary is passed over."""
        blocks = {}
        for place, event in enumerate(events):
            try:
                time_s = _float(event["time_s"])
                if event["kind"] == "losses":
                    if (found := block(event)) is None:
                        continue
                    blocks[place] = found
                    self._step = event["step"]
                else:
                    self._take(event)
            except (AttributeError, KeyError, OverflowError, RecursionError, TypeError, ValueError):
                continue
            self._updated_s = max(self._updated_s, time_s)
            # A look at the test rows comes after training, perhaps days later.
            if event["kind"] in KINDS and not (event["kind"] == "evaluation" and event.get("look", 0)):
                self._training_s = time_s
        for losses in stretches(blocks, whole=False).values():
            self._curve.add(losses.first_step, losses.stride, losses.losses)

    def _take(self, event: Value) -> None:
        match event["kind"]:
            case "run_started":
                # All that a summary says of it; a plan can hold the source of a long cell.
                names = ("name", "model", "task", "device", "monitor", "monitor_mode", "steps_total")
                versions = event.get("versions", {})
                members = event.get("members", [])
                self._started = {
                    "time_s": event["time_s"],
                    "versions_dlfb_lab": str(versions.get("dlfb-lab", "")),
                    "members": len(members) if isinstance(members, list) else 0,
                    "parent": str(event.get("parent", "")),
                    "parent_step": int(event.get("parent_step", 0)),
                    **{name: event[name] for name in names},
                }
            case "status":
                if event["state"] == "compiling" and self._training_s is not None:
                    # Of a run that goes on from a checkpoint: nobody trained it meanwhile.
                    self._idle_s += max(0.0, _float(event["time_s"]) - self._training_s)
                self._status = {"state": event["state"], "time_s": event["time_s"], "reason": event.get("reason", "")}
            case "evaluation":
                self._evaluated(event["split"], event["step"], dict(event["metrics"]))
            case "baseline":
                # The last one comes last.
                self._baselines.pop(event["split"], None)
                self._baselines[event["split"]] = {name: event[name] for name in ("name", "split", "metrics")}
            case "notice":
                self._warnings += event["level"] == "warning"
            case "checkpoint_saved":
                self._checkpoints = len(list(event["kept"]))
            case "device_memory":
                self._memory[event["device"]] = event

    def _evaluated(self, split: str, step: int, metrics: dict[str, Any]) -> None:
        self._scores[split] = metrics
        for metric, told in metrics.items():
            value = _float(told)
            if math.isfinite(value):
                key = (split, metric)
                self._lowest[key] = min(self._lowest.get(key, (math.inf, 0)), (value, step))
                self._highest[key] = min(self._highest.get(key, (math.inf, 0)), (-value, step))
        if split == "valid" and "loss" in metrics:
            self._valid.add(step, _float(metrics["loss"]))

    def summary(self) -> Value:
        """Returns what a row of the list shows, apart from what only the folder tells."""
        plan = self._started or {}
        steps, losses = self._curve.points()
        valid_steps, values = self._valid.points()
        ended_s = _float(self._status["time_s"]) if self._status and self.state in ENDED else None
        until_s = self._training_s if ended_s is None else ended_s
        return {
            **{
                name: str(plan.get(name, ""))
                for name in ("name", "model", "task", "device", "versions_dlfb_lab", "parent")
            },
            "parent_step": plan.get("parent_step", 0),
            "state": self.state,
            "reason": self._status["reason"] if self._status else "",
            "started_s": self.started_s,
            "updated_s": self._updated_s,
            "elapsed_s": until_s - self.started_s - self._idle_s if plan and until_s is not None else 0.0,
            "step": self._step,
            "steps_total": plan.get("steps_total", 0),
            "members": plan.get("members", 0),
            "best": self._best(str(plan.get("monitor", "")), plan.get("monitor_mode") == "min"),
            "scores": self._scores,
            "baseline": self._baseline(str(plan.get("monitor", ""))),
            "curve": {"steps": steps, "losses": [_short(value) for value in losses]},
            "valid": {"steps": valid_steps, "values": [_short(value) for value in values], "metric": "loss"},
            "warnings": self._warnings,
            "checkpoints": self._checkpoints,
            "memory": list(self._memory.values()),
        }

    def _best(self, monitor: str, smallest: bool) -> Value | None:
        split, _, metric = monitor.partition("/")
        found = (self._lowest if smallest else self._highest).get((split, metric))
        if found is None or "/" not in monitor:
            return None
        return {"column": monitor, "value": found[0] if smallest else -found[0], "step": found[1]}

    def _baseline(self, monitor: str) -> Value | None:
        latest = next(reversed(self._baselines.values()), None)
        return self._baselines.get(monitor.partition("/")[0], latest)


def _float(value: Any) -> float:
    return _NON_FINITE[value] if isinstance(value, str) else float(value)


def _short(value: float) -> float | str:
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    # Six digits are more than a small curve can show.
    return float(f"{value:.6g}")
