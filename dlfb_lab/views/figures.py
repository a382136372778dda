"""Figures for papers, by matplotlib."""

from __future__ import annotations

from typing import Any

import numpy as np

from dlfb_lab.record import Record


def plot(record: Record) -> Any:
    """Draws the losses and each metric over the steps, with the baselines; returns a matplotlib Figure."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    valid = record.evaluated("valid")
    names = ["loss", *(n for n in (valid[0].metrics if valid else ()) if n != "loss")]
    figure = Figure(figsize=(4.2 * len(names), 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    for i, name in enumerate(names):
        axes = figure.add_subplot(1, len(names), i + 1)
        if name == "loss":
            steps, losses = record.losses()
            axes.plot(steps, losses, lw=1, label="train")
            if len(losses) and (losses > 0).all() and losses.max() > 30 * losses.min():
                axes.set_yscale("log")
        scored = [e for e in valid if name in e.metrics]
        if scored:
            values = np.array([e.metrics[name] for e in scored])
            axes.plot([e.step for e in scored], values, color="C1", marker=".", label="valid")
        for baseline in record.baselines:
            if name in baseline.metrics:
                axes.axhline(baseline.metrics[name], color="0.5", ls="--", lw=1, label=baseline.name)
        axes.set(xlabel="step", ylabel=name.replace("_", " "))
        axes.legend(frameon=False)
    return figure
