"""The outcome of a run in words and in a table."""

from __future__ import annotations

import math
from html import escape

from dlfb_lab.cite import ordinal
from dlfb_lab.record import Record
from dlfb_lab.views import svg


def duration(seconds: float) -> str:
    """Returns a duration as people say it: "0.21 s", "12 s", "3 min 20 s", "2 h 5 min"."""
    if seconds < 10:
        return f"{seconds:.2g} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def headline(record: Record, status: str) -> str:
    """Returns name, status, steps, epochs and time in one line."""
    started = record.started
    if started is None:
        return f"run {status}"
    epochs = record.step / started.steps_per_epoch
    reason = record.status.reason if record.ended and record.status else ""
    said = "stopped and kept" if status == "stopped" and "not kept" not in reason else status
    reason = f" ({reason})" if reason else ""
    passes = "epoch" if epochs == 1 else "epochs"
    return (
        f"{started.name}: {said}{reason} · {record.step:,} steps, {epochs:.4g} {passes} in {duration(record.elapsed_s)}"
    )


def line(record: Record, status: str) -> str:
    """Returns a run in one line, as `repr` shows it."""
    scores = "".join(f" · {name} {number(value)}" for name, value in _latest(record).items())
    run_id = record.started.run_id if record.started else "?"
    return f"<Run {run_id} · {status} · {record.step:,} steps{scores}>"


def table(record: Record) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Returns the metric names, and a labelled row of scores for each part and each baseline."""
    rows: list[tuple[str, dict[str, float]]] = []
    if record.blocks:
        rows.append(("train (last step)", {"loss": float(record.blocks[-1].losses[-1])}))
    for split in dict.fromkeys(e.split for e in record.evaluations):
        last = record.evaluated(split)[-1]
        label = f"{split} ({ordinal(last.look)} look)" if last.look else split
        rows.append((label, last.metrics))
    rows += [(f"{b.name} ({b.split})", b.metrics) for b in record.baselines]
    names = list(dict.fromkeys(name for _, metrics in rows for name in metrics))
    return names, [(label, [number(m[n]) if n in m else "" for n in names]) for label, m in rows]


def text(record: Record, status: str) -> str:
    """Returns the outcome as plain text."""
    names, rows = table(record)
    lines = [headline(record, status)]
    if record.started:
        lines.append(record.started.task_sentence)
    widths = [max(len(n), *(len(values[i]) for _, values in rows)) for i, n in enumerate(names)]
    first = max((len(label) for label, _ in rows), default=0)
    lines.append(" " * first + "".join(f"  {n:>{w}}" for n, w in zip(names, widths, strict=True)))
    for label, values in rows:
        lines.append(f"{label:<{first}}" + "".join(f"  {v:>{w}}" for v, w in zip(values, widths, strict=True)))
    if best := _best(record):
        lines.append(best)
    lines += [f"{n.level}: {n.text}" for n in record.notices]
    return "\n".join(lines)


def html(record: Record, status: str) -> str:
    """Returns the outcome as HTML: chart, table, notices."""
    names, rows = table(record)
    head = "".join(f"<th style='text-align:right'>{escape(n.replace('_', ' '))}</th>" for n in names)
    body = "".join(
        f"<tr><td style='text-align:left'>{escape(label)}</td>"
        + "".join(f"<td style='text-align:right'>{escape(v)}</td>" for v in values)
        + "</tr>"
        for label, values in rows
    )
    sentence = f"<div>{escape(record.started.task_sentence)}</div>" if record.started else ""
    best = f"<div>{escape(_best(record))}</div>" if _best(record) else ""
    notices = "".join(f"<div><b>{n.level}</b>: {escape(n.text)}</div>" for n in record.notices)
    return (
        f"<div><b>{escape(headline(record, status))}</b>{sentence}{svg.as_image(svg.draw(record))}"
        f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table>{best}{notices}</div>"
    )


def progress(record: Record) -> str:
    """Returns where a run is, in one line."""
    started = record.started
    if started is None:
        return "starting"
    if not record.blocks:
        return f"{started.name}: compiling"
    parts = [
        f"{started.name}: step {record.step:,} of {started.steps_total:,}",
        f"epoch {record.step / started.steps_per_epoch:.3g}",
        *(f"{name} {number(value)}" for name, value in _latest(record).items()),
        f"{record.steps_per_s:,.0f} steps/s" if record.steps_per_s >= 10 else f"{record.steps_per_s:.2g} steps/s",
    ]
    left = record.time_left_s()
    if left is not None:
        parts.append("left: " + ", ".join(f"{k} {duration(v)}" for k, v in left.items() if v > 0 or k == "train"))
    return " · ".join(parts)


def number(value: float) -> str:
    """Returns four significant digits; rounding's remains around zero as 0."""
    if not math.isfinite(value):
        return str(value)
    return "0" if abs(value) < 1e-12 else f"{value:.4g}"


def _latest(record: Record) -> dict[str, float]:
    latest = {"train/loss": float(record.blocks[-1].losses[-1])} if record.blocks else {}
    for evaluation in record.evaluated("valid")[-1:]:
        latest |= {f"valid/{name}": value for name, value in evaluation.metrics.items()}
    return latest


def _best(record: Record) -> str:
    best = record.best()
    if best is None or record.started is None:
        return ""
    return f"best {record.started.monitor} {number(best[1])} at step {best[0]:,}"
