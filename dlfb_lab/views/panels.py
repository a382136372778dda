"""What the static charts of a run show, whoever draws them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from dlfb_lab.data.source import Array
from dlfb_lab.events import RateTest
from dlfb_lab.record import Record, Series, divided_parts, spread

TRAIN, VALID, BASELINE, INK = "#4c8fd9", "#e08a2c", "#8f8f8f", "#808080"
PARTS = ("#2a9d8f", "#9b6dd0", "#d05a9b", "#8a8f2c", "#b5763a", "#4aa3c7", "#c75146", "#6b7fd1")
MOST_METRICS = 2
BAND_POINTS = 100

Curve = tuple[str, str, Array, Array]


@dataclass
class Panel:
    """One chart: curves over steps or rates, and horizontal lines.

    Attributes:
        title: what is on the vertical axis.
        note: what the curves are of, beside the title.
        curves: label, colour, places and values of each, the latter two of shape [n].
        bands: colour, places, lower and upper edge of each, the latter three of shape [n]; NaN where there is none.
        lines: label and value of each horizontal line.
        marks: points as (place, value).
        uprights: label and place of each vertical line.
        ticks: steps of the checkpoints.
        is_loss: whether the vertical axis may be logarithmic.
        x_title: what is on the horizontal axis.
        log_x: whether the horizontal axis is logarithmic.
        from_x: where the horizontal axis begins.
        smooth: whether only the running means of long curves are drawn.
    """

    title: str
    note: str = ""
    curves: list[Curve] = field(default_factory=list)
    bands: list[tuple[str, Array, Array, Array]] = field(default_factory=list)
    lines: list[tuple[str, float]] = field(default_factory=list)
    marks: list[tuple[int, float]] = field(default_factory=list)
    uprights: list[tuple[str, float]] = field(default_factory=list)
    ticks: list[int] = field(default_factory=list)
    is_loss: bool = False
    x_title: str = "step"
    log_x: bool = False
    from_x: float = 0
    smooth: bool = False


def panels(record: Record, most_metrics: int | None = MOST_METRICS) -> list[list[Panel]]:
    """Returns rows of charts: the loss and the first metrics; beneath them the loss's parts and the rate test."""
    whole = record.whole() or Series(np.zeros(0, np.int64), np.zeros(0, np.float32), {}, [])
    losses, others = divided_parts(whole)
    beneath = [_parts_panel(record, whole.steps, losses)] if losses else []
    beneath += [rate_panel(test) for test in record.rate_tests[-1:] if is_drawable(test)]
    above = [_loss_panel(record, whole), *_metric_panels(record, whole.steps, others)[:most_metrics]]
    return [above, beneath] if beneath else [above]


def _loss_panel(record: Record, whole: Series) -> Panel:
    panel = Panel("loss", _note(record), is_loss=True, from_x=_beginning(record))
    panel.ticks = [saved.step for saved in record.checkpoints]
    if record.started is not None and record.started.parent:
        origin = f"from {record.started.parent}@{record.started.parent_step}"
        panel.note = ", ".join(filter(None, [panel.note, origin]))
        panel.uprights.append(("", record.started.parent_step))
    if whole.members:
        places, average, deviation = member_band(whole.steps, np.stack(whole.members))
        panel.curves.append(("train", TRAIN, places, average))
        panel.bands.append((TRAIN, places, average - deviation, average + deviation))
    else:
        panel.curves.append(("train", TRAIN, whole.steps, whole.losses))
    if record.evaluated("valid"):
        _add_scores(panel, record, "loss")
    panel.lines = [(b.name, b.metrics["loss"]) for b in record.baselines if "loss" in b.metrics]
    best = record.best()
    if best is not None and record.started is not None and record.started.monitor.endswith("/loss"):
        panel.marks.append(best)
    return panel


def _metric_panels(record: Record, steps: Array, parts: dict[str, Array]) -> list[Panel]:
    valid = record.evaluated("valid")
    scored = [n for n in valid[0].metrics if n != "loss"] if valid else []
    found = []
    for name in dict.fromkeys([*scored, *parts]):
        panel = Panel(name.replace("_", " "), _note(record), smooth=True, from_x=_beginning(record))
        if name in parts:
            panel.curves.append(("train", TRAIN, steps, parts[name]))
        if name in scored:
            _add_scores(panel, record, name)
        panel.lines = [(b.name, b.metrics[name]) for b in record.baselines if name in b.metrics]
        found.append(panel)
    return found


def _parts_panel(record: Record, steps: Array, parts: dict[str, Array]) -> Panel:
    curves = [(name, PARTS[i % len(PARTS)], steps, values) for i, (name, values) in enumerate(parts.items())]
    return Panel("parts of the loss", "", curves, is_loss=True, smooth=True, from_x=_beginning(record))


def rate_panel(test: RateTest) -> Panel:
    """Returns the chart of a rate test: losses over learning rates, with the chosen one."""
    return Panel(
        "loss at each learning rate",
        "",
        [("loss", TRAIN, test.rates, _until_it_breaks(test.losses))],
        uprights=[(f"{test.chosen:.3g} was chosen", test.chosen)] if is_within(test) else [],
        x_title="learning rate",
        log_x=True,
        from_x=float(test.rates[0]),
    )


def _until_it_breaks(losses: Array) -> Array:
    """Cuts the curve where the loss has risen far above its beginning, or what is of interest would be flat."""
    finite = losses[np.isfinite(losses)]
    if not len(finite):
        return losses
    limit = finite[0] + max(finite[0] - finite.min(), 0.1 * abs(finite[0]))
    beyond = np.flatnonzero(~(losses <= limit) & (np.arange(len(losses)) > int(np.nanargmin(losses))))
    end = int(beyond[0]) if len(beyond) else len(losses)
    return np.concatenate(
        [losses[:end], np.minimum(losses[end : end + 1], limit), np.full_like(losses[end + 1 :], np.nan)]
    )


def _beginning(record: Record) -> int:
    """Returns the step of the checkpoint that the run began from; 0 where it began anew."""
    return record.started.parent_step if record.started is not None and record.started.parent else 0


def _note(record: Record) -> str:
    return f"mean of {len(record.members)} ± sd" if record.members else ""


def is_drawable(test: RateTest) -> bool:
    """Whether a rate test's rates can be on a logarithmic axis."""
    return len(test.rates) > 1 and len(test.rates) == len(test.losses) and bool(np.all(test.rates > 0))


def is_within(test: RateTest) -> bool:
    """Whether the chosen rate is one of those that were tried, or between them."""
    return bool(test.rates[0] <= test.chosen <= test.rates[-1])


def _add_scores(panel: Panel, record: Record, metric: str) -> None:
    steps, values, deviations = record.scores("valid", metric)
    panel.curves.append(("valid", VALID, steps, values))
    if np.isfinite(deviations).any():
        panel.bands.append((VALID, steps, values - deviations, values + deviations))


def member_band(steps: Array, members: Array) -> tuple[Array, Array, Array]:
    """Returns the mean over members and their standard deviation; of a long run, of running means.

    Args:
        steps: shape [n].
        members: shape [members, n].

    Returns:
        Places, means and deviations, of at most 100 points each.
    """
    edges = np.unique(np.linspace(0, len(steps), min(len(steps), BAND_POINTS) + 1).astype(int))
    if len(edges) < 2:
        return steps[:0], np.zeros(0), np.zeros(0)
    counts = np.diff(edges)
    # A member that breaks down within a stretch has no mean there.
    with np.errstate(all="ignore"):
        sums = np.add.reduceat(members.astype(np.float64), edges[:-1], axis=1) / counts
    places = np.add.reduceat(steps.astype(np.float64), edges[:-1]) / counts
    average, deviation = spread(sums)
    return places, average, deviation
