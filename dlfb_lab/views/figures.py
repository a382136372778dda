"""Figures for papers, by matplotlib."""

from __future__ import annotations

from typing import Any

import numpy as np

from dlfb_lab.record import Record
from dlfb_lab.views.panels import TRAIN, VALID, Panel, panels

_OURS = {TRAIN: "C0", VALID: "C1"}
"""Matplotlib's own colours, which follow the user's style."""


def plot(record: Record) -> Any:
    """Draws the losses and each metric over the steps, with the baselines; returns a matplotlib Figure.

    Several members are drawn as their mean with a band of one standard deviation. Parts of the loss and the test of
    learning rates have charts of their own.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    charts = [panel for row in panels(record, most_metrics=None) for panel in row]
    figure = Figure(figsize=(4.2 * len(charts), 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    for i, panel in enumerate(charts):
        _draw(figure.add_subplot(1, len(charts), i + 1), panel)
    return figure


def _draw(axes: Any, panel: Panel) -> None:
    for label, colour, steps, curve in panel.curves:
        scored = {"marker": "."} if colour == VALID else {}
        axes.plot(
            steps, curve, color=_OURS.get(colour, colour), lw=1 if len(curve) > 100 else 1.5, label=label, **scored
        )
    for colour, steps, lower, upper in panel.bands:
        axes.fill_between(steps, lower, upper, color=_OURS.get(colour, colour), alpha=0.2, lw=0)
    every = np.concatenate([curve for *_, curve in panel.curves] or [np.zeros(0)])
    if panel.is_loss and len(every) and (every > 0).all() and every.max() > 30 * every.min():
        axes.set_yscale("log")
    if panel.log_x:
        axes.set_xscale("log")
    for label, value in panel.lines:
        axes.axhline(value, color="0.5", ls="--", lw=1, label=label)
    for label, place in panel.uprights:
        axes.axvline(place, color="C1", ls=":", lw=1, label=label)
    axes.set(xlabel=panel.x_title, ylabel=panel.title)
    if panel.note:
        axes.set_title(panel.note, fontsize="small", loc="left")
    axes.legend(frameon=False)
