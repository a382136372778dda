"""The live view as a Jupyter widget: the same events over the comm, drawn in the browser."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

import anywidget
import traitlets

from dlfb_lab.events import Event, Status, to_json
from dlfb_lab.record import Record, saved_events

STATIC = Path(__file__).parent / "static"


class Dashboard(anywidget.AnyWidget):
    """Live losses, metrics and timings of one run, to be shown as it is or inside a box or a tab.

    Attributes:
        snapshot: the run's events as JSON, for views that open late and notebooks opened without a kernel.
        controls: which buttons have a channel to the engine.
        title: the run's name.
    """

    _esm = STATIC / "dashboard.js"
    _css = STATIC / "dashboard.css"
    snapshot: Any = traitlets.List().tag(sync=True)
    controls: Any = traitlets.List().tag(sync=True)
    title = traitlets.Unicode().tag(sync=True)


class WidgetView:
    """Feeds a dashboard.

    Attributes:
        dashboard: the widget; it outlives the run.
    """

    def __init__(self, title: str, control: Callable[[str], None] | None = None) -> None:
        """Makes the dashboard.

        Args:
            title: the run's name.
            control: takes "pause", "resume" or "stop"; None where no message can arrive while training goes on.
        """
        self.dashboard = Dashboard(title=title, controls=["pause", "resume", "stop"] if control else [])
        self.dashboard.on_msg(self._received)
        self._control = control
        self._waiting: list[Event] = []
        self._sent = 0
        self._record = Record()
        self._budget = Budget(per_s=20, burst=4)

    def put(self, event: Event) -> None:
        """Takes one event, and sends it on with others unless one was sent a moment ago."""
        self._waiting.append(event)
        if self._budget.take() or isinstance(event, Status):
            self._flush()

    def close(self) -> None:
        """Sends what is left, and leaves a copy in the widget's state."""
        self._flush()
        self.dashboard.controls = []
        self.dashboard.snapshot = saved_events(self._record)

    def _flush(self) -> None:
        if self._waiting:
            events = [to_json(event) for event in self._waiting]
            self.dashboard.send({"type": "events", "first": self._sent, "events": events})
            self._sent += len(events)
            for event in self._waiting:
                self._record.put(event)
            self._waiting.clear()

    def _received(self, _widget: Any, content: dict[str, Any], _buffers: Any) -> None:
        if content.get("type") == "snapshot":
            self.dashboard.send({"type": "snapshot", "events": saved_events(self._record), "next": self._sent})
        if content.get("type") == "control" and self._control is not None:
            self._control(str(content.get("action")))


class Budget:
    """Allows so many messages a second, and a few at once."""

    def __init__(self, per_s: float, burst: int) -> None:
        self._per_s, self._burst = per_s, float(burst)
        self._left = float(burst)
        self._at_s = monotonic()

    def take(self) -> bool:
        """Whether a message may be sent now."""
        now = monotonic()
        self._left = min(self._burst, self._left + (now - self._at_s) * self._per_s)
        self._at_s = now
        if self._left < 1:
            return False
        self._left -= 1
        return True
