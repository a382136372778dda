"""The static chart that stands in a cell's output when the run is over.

Written by hand because matplotlib takes 0.2 s for it, as long as a whole small run.
Its colours are mid-tones, readable on a light and on a dark page.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Sequence
from html import escape
from itertools import pairwise

import numpy as np

from dlfb_lab.data.source import Array
from dlfb_lab.record import Record
from dlfb_lab.views.panels import BASELINE, INK, VALID, Panel, panels

WIDTH, HEIGHT, GAP = 760, 230, 24
"""Of the picture, of each row of charts, and between two charts of a row."""
MOST_POINTS = 400
NOISY = 300
"""A curve with more points than this is drawn faintly, with its running mean over it."""

Scale = Callable[[float], float]


def draw(record: Record) -> str:
    """Returns an SVG document: losses and first metrics of a run, beneath them its loss's parts and its rate test."""
    rows = panels(record)
    parts = []
    for number, row in enumerate(rows):
        shares = [1.0 if i else 1.3 for i in range(len(row))] if number == 0 and len(row) > 1 else [1.0] * len(row)
        room, left = WIDTH - GAP * (len(row) - 1), 0.0
        for panel, share in zip(row, shares, strict=True):
            width = room * (share / sum(shares) if len(row) > 1 or not panel.log_x else 0.55)
            parts.append(f'<g transform="translate(0 {HEIGHT * number})">{_panel(panel, left, width)}</g>')
            left += width + GAP
    height = HEIGHT * len(rows)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'font-family="system-ui, sans-serif" font-size="11" fill="{INK}" role="img">'
        f"<title>{escape(_title(record))}</title>{''.join(parts)}</svg>"
    )


def as_image(svg: str) -> str:
    """Returns an `<img>` of an SVG document: notebooks show it even where they trust nothing."""
    data = base64.b64encode(svg.encode()).decode("ascii")
    return f'<img alt="loss and metric curves" style="max-width:100%" src="data:image/svg+xml;base64,{data}">'


def decimate(steps: Array, values: Array, most: int = MOST_POINTS) -> tuple[Array, Array]:
    """Keeps the lowest and the highest value of each of `most` / 2 stretches, so that no spike is lost.

    Args:
        steps: shape [n].
        values: shape [n], finite.
        most: points to keep.
    """
    if len(values) <= most:
        return steps, values
    edges = np.linspace(0, len(values), most // 2 + 1).astype(int)
    kept = [
        i for a, b in pairwise(edges) for i in sorted({a + int(values[a:b].argmin()), a + int(values[a:b].argmax())})
    ]
    return steps[kept], values[kept]


def _title(record: Record) -> str:
    return f"Loss and metrics of {record.started.name}" if record.started else "Loss and metrics"


def _panel(panel: Panel, left: float, width: float) -> str:
    values = np.concatenate([v[np.isfinite(v)] for *_, v in panel.curves] or [np.zeros(0)])
    lines = [(label, v) for label, v in panel.lines if math.isfinite(v)]
    every = np.concatenate([values, [v for _, v in lines]])
    if not len(every):
        return f'<text x="{left + 8:.0f}" y="40">no finite {escape(panel.title)}</text>'
    # Of a diverging run the quotient of two losses may be too large for a float, their logarithms are not.
    logarithmic = panel.is_loss and every.min() > 0 and math.log(every.max()) - math.log(every.min()) > 3.4
    around = [edge[np.isfinite(edge) & ((edge > 0) | (not logarithmic))] for band in panel.bands for edge in band[2:]]
    low, high = _range(np.concatenate([every, *around]), logarithmic)
    every_x = np.concatenate([s for _, _, s, _ in panel.curves] or [np.zeros(0)])
    first, last = panel.from_x, float(every_x.max()) if len(every_x) else 0.0
    if not panel.log_x:
        last = max(last, first + 1)
    x0, x1, y0, y1 = left + 44, left + width - 18, 26.0, HEIGHT - 34.0

    def px(x: float) -> float:
        if panel.log_x:
            return x0 + (x1 - x0) * (math.log(x) - math.log(first)) / ((math.log(last) - math.log(first)) or 1)
        return x0 + (x1 - x0) * (x - first) / ((last - first) or 1)

    def py(value: float) -> float:
        a, b, v = map(math.log, (low, high, max(value, low))) if logarithmic else (low, high, value)
        return y1 - (y1 - y0) * (v - a) / (b - a)

    title, note = escape(panel.title) + (" (log)" if logarithmic else ""), escape(panel.note)
    out = [f'<text x="{x0:.0f}" y="14" font-weight="600">{title}</text>']
    if note:
        out = [f'<text x="{x0:.0f}" y="14"><tspan font-weight="600">{title}</tspan> {note}</text>']
    for tick in _log_ticks(low, high) if logarithmic else _ticks(low, high, 5):
        y = py(tick)
        out.append(f'<path d="M{x0:.1f} {y:.1f}H{x1:.1f}" stroke="{INK}" stroke-opacity=".22"/>')
        out.append(f'<text x="{x0 - 5:.1f}" y="{y + 4:.1f}" text-anchor="end">{tick:.3g}</text>')
    if panel.log_x:
        marked = [(tick, f"{tick:g}") for tick in _log_ticks(first, last)] if last > first else []
    else:
        marked = [(t, f"{int(t):,}") for t in _ticks(first, last, max(3, int(width / 80))) if t == int(t)]
    for tick, label in marked:
        out.append(f'<text x="{px(tick):.1f}" y="{y1 + 16:.1f}" text-anchor="middle">{label}</text>')
    out.append(f'<text x="{x1:.1f}" y="{HEIGHT - 4}" text-anchor="end">{escape(panel.x_title)}</text>')
    for label, value in lines:
        y = py(value)
        above = y - 4 if y > y0 + 12 else y + 12
        out.append(f'<path d="M{x0:.1f} {y:.1f}H{x1:.1f}" stroke="{BASELINE}" stroke-dasharray="5 4"/>')
        out.append(f'<text x="{x1:.1f}" y="{above:.1f}" text-anchor="end">{escape(label)} {value:.3g}</text>')
    for label, x in panel.uprights:
        side, at = ("end", px(x) - 4) if px(x) > (x0 + x1) / 2 else ("start", px(x) + 4)
        out.append(f'<path d="M{px(x):.1f} {y0:.1f}V{y1:.1f}" stroke="{VALID}" stroke-dasharray="3 3"/>')
        out.append(f'<text x="{at:.1f}" y="{y0 + 9:.1f}" text-anchor="{side}">{escape(label)}</text>')
    for step in panel.ticks:
        if first <= step <= last:
            said = f"<title>checkpoint of step {step:,}</title>"
            out.append(f'<path d="M{px(step) - 3.5:.1f} {y1:.1f}h7l-3.5 -6z" class="checkpoint">{said}</path>')
    for colour, steps, lower, upper in panel.bands:
        out.append(_band(steps, lower, upper, colour, px, py))
    for _, colour, steps, curve in panel.curves:
        noisy = len(curve) > NOISY
        if not panel.smooth or not noisy:
            out.append(_path(steps, curve, colour, px, py, opacity=0.35 if noisy else 1))
        if noisy:
            out.append(_path(*means(steps, curve), colour, px, py))
    for step, value in panel.marks:
        if math.isfinite(value):
            out.append(f'<circle cx="{px(step):.1f}" cy="{py(value):.1f}" r="4" fill="none" stroke="{VALID}"/>')
    out.append(_legend([(label, colour) for label, colour, *_ in panel.curves], x0, x1 - 8 * len(panel.x_title)))
    return "".join(out)


def _legend(entries: Sequence[tuple[str, str]], left: float, right: float) -> str:
    out, y = [], HEIGHT - 8
    for i, (label, colour) in enumerate(entries):
        if i and left + 26 + 6 * len(label) > right:
            out.append(f'<text x="{left:.0f}" y="{y + 4}">+ {len(entries) - i}</text>')
            break
        if label:
            out.append(f'<path d="M{left:.0f} {y}h14" stroke="{colour}" stroke-width="2"/>')
            out.append(f'<text x="{left + 18:.0f}" y="{y + 4}">{escape(label)}</text>')
            left += 34 + 6 * len(label)
    return "".join(out)


def means(steps: Array, curve: Array, count: int = 80) -> tuple[Array, Array]:
    """Averages the finite values of each of `count` stretches."""
    finite = np.isfinite(curve)
    steps, curve = steps[finite], curve[finite].astype(np.float64)
    edges = np.unique(np.linspace(0, len(curve), count + 1).astype(int))
    pairs = [(steps[a:b].mean(), curve[a:b].mean()) for a, b in pairwise(edges)]
    return np.array([s for s, _ in pairs]), np.array([v for _, v in pairs])


def _band(steps: Array, lower: Array, upper: Array, colour: str, px: Scale, py: Scale) -> str:
    finite = np.isfinite(lower) & np.isfinite(upper)
    if finite.sum() < 2:
        return ""
    there = [f"{px(s):.1f},{py(v):.1f}" for s, v in zip(steps[finite].tolist(), upper[finite].tolist(), strict=True)]
    back = [f"{px(s):.1f},{py(v):.1f}" for s, v in zip(steps[finite].tolist(), lower[finite].tolist(), strict=True)]
    return f'<polygon points="{" ".join([*there, *back[::-1]])}" fill="{colour}" fill-opacity=".2"/>'


def _path(steps: Array, curve: Array, colour: str, px: Scale, py: Scale, opacity: float = 1) -> str:
    finite = np.isfinite(curve)
    steps, curve = decimate(steps[finite], curve[finite])
    if not len(steps):
        return ""
    points = " ".join(f"{px(s):.1f},{py(v):.1f}" for s, v in zip(steps.tolist(), curve.tolist(), strict=True))
    if len(steps) == 1:
        x, _, y = points.partition(",")
        return f'<circle cx="{x}" cy="{y}" r="2.5" fill="{colour}"/>'
    style = f'fill="none" stroke="{colour}" stroke-opacity="{opacity}" stroke-linejoin="round"'
    return f'<polyline points="{points}" {style} stroke-width="{1.6 if opacity == 1 else 1}"/>'


def _range(values: Array, logarithmic: bool) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    if logarithmic:
        return low / 1.2, high * 1.2
    margin = 0.05 * (high - low) or abs(high) * 0.1 or 1.0
    return low - margin, high + margin


def _ticks(low: float, high: float, count: int) -> Sequence[float]:
    raw = (high - low) / count
    size = 10 ** math.floor(math.log10(raw))
    step = next(m * size for m in (1, 2, 5, 10) if m * size >= raw)
    first = math.ceil(low / step)
    return [round(i * step, 12) for i in range(first, math.floor(high / step) + 1)]


def _log_ticks(low: float, high: float) -> Sequence[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    every = max(1, len(decades) // 6)
    ticks = [10.0**d for d in decades if d % every == 0]
    if len([t for t in ticks if low <= t <= high]) < 3:
        ticks = [m * 10.0**d for d in decades for m in (1, 2, 5)]
    return [t for t in ticks if low <= t <= high]
