"""The outcome of a run in words and in a table."""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape

import numpy as np

from dlfb_lab.cite import ordinal
from dlfb_lab.events import Evaluation, Losses, PlanChosen
from dlfb_lab.record import Record, spread
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
    reason = record.status.reason if record.ended and record.status else ""
    said = "stopped and kept" if status == "stopped" and "not kept" not in reason else status
    reason = f" ({reason})" if reason else ""
    epochs = record.step / started.steps_per_epoch if started.steps_per_epoch else 0
    passes = f", {epochs:.4g} {'epoch' if epochs == 1 else 'epochs'}" if started.steps_per_epoch else ""
    several = f" · {len(started.members)} members at once" if started.members else ""
    return f"{started.name}: {said}{reason} · {record.step:,} steps{passes} in {duration(record.elapsed_s)}{several}"


def line(record: Record, status: str) -> str:
    """Returns a run in one line, as `repr` shows it."""
    scores = "".join(f" · {name} {value}" for name, value in _latest(record).items())
    run_id = record.started.run_id if record.started else "?"
    return f"<Run {run_id} · {status} · {record.step:,} steps{scores}>"


def table(record: Record) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Returns the metric names, and a labelled row of scores for each part of the data and each baseline.

    The scores of several members are their means and standard deviations.
    """
    rows: list[tuple[str, dict[str, str]]] = []
    if record.blocks:
        rows.append(("train (last step)", _last_losses(record.blocks[-1])))
    for split in dict.fromkeys(e.split for e in record.evaluations):
        last = record.evaluated(split)[-1]
        label = f"{split} ({ordinal(last.look)} look)" if last.look else split
        rows.append((label, _scores(last)))
    rows += [(f"{b.name} ({b.split})", _numbers(b.metrics)) for b in record.baselines]
    names = list(dict.fromkeys(name for _, metrics in rows for name in metrics))
    return names, [(label, [m.get(n, "") for n in names]) for label, m in rows]


def members_table(record: Record) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Returns the heads, and a row for each member: its best monitored score, the step of it, and its last scores."""
    if not record.members or record.started is None:
        return [], []
    best = record.best_member()
    scored = [e for e in record.evaluated("valid") if e.members]
    last = scored[-1].members if scored else []
    names = list(dict.fromkeys(name for scores in last for name in scores))
    monitored = [f"best {record.started.monitor}", "at step"] if best is not None else []
    losses = record.blocks[-1].members if record.blocks else []
    rows = []
    for i, (name, own) in enumerate(zip(record.members, record.member_bests(), strict=True)):
        values = ([number(own[1]), f"{own[0]:,}"] if own else ["", ""]) if best is not None else []
        values.append(number(float(losses[i][-1])) if i < len(losses) else "")
        values += [number(last[i][n]) if i < len(last) and n in last[i] else "" for n in names]
        rows.append((f"{name} (best)" if best is not None and best[0] == i else name, values))
    return [*monitored, "train/loss", *(f"valid/{n}" for n in names)], rows


def _aligned(names: list[str], rows: list[tuple[str, list[str]]]) -> list[str]:
    widths = [max(len(n), *(len(values[i]) for _, values in rows)) for i, n in enumerate(names)]
    first = max((len(label) for label, _ in rows), default=0)
    lines = [" " * first + "".join(f"  {n:>{w}}" for n, w in zip(names, widths, strict=True))]
    for label, values in rows:
        lines.append(f"{label:<{first}}" + "".join(f"  {v:>{w}}" for v, w in zip(values, widths, strict=True)))
    return lines


def text(record: Record, status: str) -> str:
    """Returns the outcome as plain text."""
    lines = [headline(record, status)]
    if record.started:
        lines.append(record.started.task_sentence)
    lines += _aligned(*table(record))
    if record.members:
        lines += ["", *_aligned(*members_table(record)), ""]
    lines += remarks(record)
    lines += [f"{n.level}: {n.text}" for n in record.notices]
    return "\n".join(lines)


def html(record: Record, status: str, picture: str) -> str:
    """Returns the outcome as HTML: the chart, an SVG document, then tables and notices."""
    sentence = f"<div>{escape(record.started.task_sentence)}</div>" if record.started else ""
    several = _html_table(*members_table(record)) if record.members else ""
    said = "".join(f"<div>{escape(remark)}</div>" for remark in remarks(record))
    notices = "".join(f"<div><b>{n.level}</b>: {escape(n.text)}</div>" for n in record.notices)
    return (
        f"<div><b>{escape(headline(record, status))}</b>{sentence}{svg.as_image(picture)}"
        f"{_html_table(*table(record))}{several}{said}{notices}</div>"
    )


def _html_table(names: list[str], rows: list[tuple[str, list[str]]]) -> str:
    head = "".join(f"<th>{escape(n)}</th>" for n in names)
    body = "".join(
        f"<tr><th>{escape(label)}</th>{''.join(f'<td>{escape(v)}</td>' for v in values)}</tr>" for label, values in rows
    )
    return f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table>"


def remarks(record: Record) -> list[str]:
    """Returns what is worth a line of its own: the best score, the rate that was chosen, how the steps were run."""
    said = [_best(record)]
    for test in record.rate_tests[-1:]:
        tried = (
            f" from {len(test.rates)} between {test.rates[0]:.3g} and {test.rates[-1]:.3g}" if len(test.rates) else ""
        )
        said.append(f"learning rate {test.chosen:.3g}, chosen{tried} in {duration(test.duration_s)}")
    said += [plan_text(plan) for plan in record.plans[-1:]]
    return [remark for remark in said if remark]


def plan_text(plan: PlanChosen) -> str:
    """Returns how steps are run, and what was measured: "fused: 0.04 ms a step against 0.25 ms one by one"."""
    own, other = (plan.fused_step_s, plan.step_s) if plan.plan == "fused" else (plan.step_s, plan.fused_step_s)
    if not math.isfinite(own):
        return f"{plan.plan}: {plan.reason}"
    against = " against " + _ms(other) + (" one by one" if plan.plan == "fused" else " fused")
    return f"{plan.plan}: {_ms(own)} a step{against if math.isfinite(other) else ''}"


def _ms(seconds: float) -> str:
    amount, unit = (seconds * 1e3, "ms") if seconds < 1 else (seconds, "s")
    return f"{amount:.2g} {unit}" if amount < 10 else f"{amount:.0f} {unit}"


def progress(record: Record) -> str:
    """Returns where a run is, in one line."""
    started = record.started
    if started is None:
        return "starting"
    if not record.blocks:
        return f"{started.name}: compiling"
    total = f" of {started.steps_total:,}" if started.steps_total else ""
    parts = [f"{started.name}: step {record.step:,}{total}"]
    if started.steps_per_epoch:
        parts.append(f"epoch {record.step / started.steps_per_epoch:.3g}")
    parts += [
        *(f"{name} {value}" for name, value in _latest(record).items()),
        f"{record.steps_per_s:,.0f} steps/s" if record.steps_per_s >= 10 else f"{record.steps_per_s:.2g} steps/s",
    ]
    left = record.time_left_s()
    if left is not None:
        parts.append("left: " + ", ".join(f"{k} {duration(v)}" for k, v in left.items() if v > 0 or k == "train"))
    else:
        parts.append(f"elapsed {duration(record.elapsed_s)}")
    return " · ".join(parts)


def number(value: float) -> str:
    """Returns four significant digits; rounding's remains around zero as 0."""
    if not math.isfinite(value):
        return str(value)
    return "0" if abs(value) < 1e-12 else f"{value:.4g}"


def _latest(record: Record) -> dict[str, str]:
    latest = (
        {f"train/{name}": value for name, value in _last_losses(record.blocks[-1]).items()} if record.blocks else {}
    )
    for evaluation in record.evaluated("valid")[-1:]:
        latest |= {f"valid/{name}": value for name, value in _scores(evaluation).items()}
    return latest


def _last_losses(block: Losses) -> dict[str, str]:
    ends = [float(losses[-1]) for losses in block.members]
    parts = {name: float(values[-1]) for name, values in block.parts.items() if name != "loss"}
    return {"loss": _mean(ends) if ends else number(float(block.losses[-1])), **_numbers(parts)}


def _scores(evaluation: Evaluation) -> dict[str, str]:
    if not evaluation.members:
        return _numbers(evaluation.metrics)
    return {name: _mean([m.get(name, math.nan) for m in evaluation.members]) for name in evaluation.metrics}


def _numbers(metrics: Mapping[str, float]) -> dict[str, str]:
    return {name: number(value) for name, value in metrics.items()}


def _mean(values: list[float]) -> str:
    """Returns the mean of the members' values, and their standard deviation."""
    (mean,), (deviation,) = spread(np.array(values)[:, None])
    return f"{number(mean)} ± {deviation:.2g}" if math.isfinite(deviation) else number(mean)


def _best(record: Record) -> str:
    best, member = record.best(), record.best_member()
    if record.started is None:
        return ""
    monitor = record.started.monitor
    if member is not None:
        mean = f"; best mean {number(best[1])} at step {best[0]:,}" if best is not None else ""
        return f"best {monitor} {number(member[2])} at step {member[1]:,} by {record.members[member[0]]}{mean}"
    return f"best {monitor} {number(best[1])} at step {best[0]:,}" if best is not None else ""
