"""A cell's output: one bundle that names the run's journal, and holds the live widget, the static outcome, and text.

JupyterLab draws the run from its journal, Colab and VS Code show the widget, and everything else the static outcome.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from dlfb_lab import register
from dlfb_lab.events import Sink
from dlfb_lab.record import Record
from dlfb_lab.run import Run, presenters
from dlfb_lab.version import __version__
from dlfb_lab.views import figures, summary, svg
from dlfb_lab.views.console import ConsoleView, OutputView

RUN = "application/vnd.dlfb-lab.run+json"
WIDGET = "application/vnd.jupyter.widget-view+json"


def outcome(record: Record, status: str) -> dict[str, Any]:
    """Returns a run's outcome as HTML with its chart, as SVG, and as text."""
    picture = svg.draw(record)
    return {
        "text/plain": summary.text(record, status),
        "text/html": summary.html(record, status, picture),
        "image/svg+xml": picture,
    }


def reference(run: Run) -> dict[str, Any]:
    """Returns what JupyterLab needs to find a run's journal through the server; empty where none is being kept."""
    if run.path is None or run.journal_lost:
        return {}
    return {
        RUN: {
            "version": __version__,
            "store": register.key(run.path.parent),
            "run": run.path.name,
            "name": run.name,
        }
    }


def open_view(run: Run, control: Callable[[str], None] | None) -> list[Sink]:
    """Shows a run that is about to start, as well as the place allows.

    Args:
        run: the run; it gets a `dashboard` where there are widgets.
        control: what the buttons call; None where no message can arrive while training goes on.

    Returns:
        The sinks that keep the view up to date.
    """
    shell = _shell()
    if not _has_output(shell):
        return [ConsoleView()]
    from IPython.display import display

    widget = _widget_view(run, control) if _has_widgets(shell) else None
    live: dict[str, Any] = {"text/plain": "starting"}
    metadata: dict[str, Any] = {}
    if widget is not None:
        # anywidget's own reference, because Colab needs its metadata to find the widget.
        shown, metadata = widget.dashboard._repr_mimebundle_()
        live = {WIDGET: shown[WIDGET], "text/plain": f"{run.name}: live view"}
    handle: Any = display(  # type: ignore[no-untyped-call]
        {**reference(run), **live}, metadata=metadata, raw=True, display_id=True
    )
    if handle is None:
        return [ConsoleView()]

    def update(data: dict[str, Any]) -> None:
        handle.update({**reference(run), **live, **data}, metadata=metadata, raw=True)

    run.shown_in = shell.execution_count
    if widget is None:
        return [OutputView(update), _Outcome(run, update)]
    run.dashboard = widget.dashboard
    return [widget, _Outcome(run, update)]


class _Outcome:
    """Puts the static outcome into the cell's output when the run is over. It is a sink."""

    def __init__(self, run: Run, update: Callable[[dict[str, Any]], None]) -> None:
        self._run, self._update = run, update
        self._record = Record()
        self._journal_lost = False

    def put(self, event: Any) -> None:
        self._record.put(event)
        if self._run.journal_lost and not self._journal_lost:
            # JupyterLab draws the run from its journal, which now stands still: let it show the widget.
            self._journal_lost = True
            self._update({})

    def close(self) -> None:
        state = self._record.status.state if self._record.status else "failed"
        self._update(outcome(self._record, state))


def _widget_view(run: Run, control: Callable[[str], None] | None) -> Any:
    from dlfb_lab.views.widget import WidgetView

    return WidgetView(run.name, control)


def _shell() -> Any:
    import sys

    ipython = sys.modules.get("IPython")
    return ipython.get_ipython() if ipython is not None else None


def _has_output(shell: Any) -> bool:
    """Whether there is a cell whose output can be rewritten: a kernel's, not a terminal's."""
    return shell is not None and getattr(shell, "kernel", None) is not None


def _has_widgets(shell: Any) -> bool:
    """Whether somebody looks at the output: nbconvert and its like, alone, take no input either."""
    from importlib.util import find_spec

    return getattr(shell.kernel, "_allow_stdin", True) and find_spec("anywidget") is not None and widget_built()


def widget_built() -> bool:
    """Whether the browser's half of the widget is there: without it, `dlfb_lab.views.widget` cannot be imported."""
    return (Path(__file__).parent / "static" / "dashboard.js").exists()


def _run_bundle(run: Run) -> dict[str, Any]:
    """What a run shows of itself: one line in the cell that has its live view, the outcome elsewhere."""
    shell = _shell()
    line = summary.line(run.record, run.status)
    if shell is not None and run.shown_in == shell.execution_count:
        return {"text/plain": line}
    return {**reference(run), **outcome(run.record, run.status), "text/plain": line}


presenters.update(plot=figures.plot, line=summary.line, bundle=_run_bundle)
