"""A methods paragraph about a run, to paste into a manuscript."""

from __future__ import annotations

import numpy as np

from dlfb_lab.events import Evaluation
from dlfb_lab.record import Record, spread


def ordinal(number: int) -> str:
    """Returns a number as a place in an order: "1st", "22nd"."""
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def methods_paragraph(record: Record, status: str) -> str:
    """Returns what was trained, on what, how, with which versions, and how well it did.

    Args:
        record: a run that has begun.
        status: how it ended.
    """
    started = record.started
    if started is None:
        raise ValueError("the record has no beginning")
    s = started.settings
    parts = ", ".join(f"{count:,} {name}" for name, count in started.rows.items())
    held_out = f" (split {started.split_hash}, seed {s.get('seed')})" if len(started.rows) > 1 else ""
    versions = started.versions
    software = ", ".join(f"{name} {versions[key]}" for name, key in _SOFTWARE if key in versions)
    sentences = [
        f"The model {started.model} ({started.parameter_count:,} parameters) was trained for {started.task_sentence}.",
        f"Rows were divided into {parts}{held_out}." if len(started.rows) > 1 else f"All {parts} rows were used.",
    ]
    if s.get("scale"):
        sentences.append("Features were standardised with the mean and standard deviation of the training rows.")
    epochs = f" ({record.step / started.steps_per_epoch:.4g} epochs)" if started.steps_per_epoch else ""
    sentences.append(
        f"Training minimised {_words(s.get('loss'))} with {_optimizer(s.get('optimizer'))}{_rate(record)}, "
        f"batches of {started.batch_size:,} rows, for {record.step:,} updates{epochs}, "
        f"seed {s.get('seed')}, on {started.device}; the run {_ended(status)}."
    )
    if record.members:
        sentences.append(f"{len(record.members)} models ({', '.join(record.members)}) were trained at once.")
    for split, name in (("valid", "validation"), ("test", "test")):
        scored = record.evaluated(split)
        if scored:
            looks = f" (looked at {scored[-1].look} times)" if scored[-1].look > 1 else ""
            sentences.append(f"On the {scored[-1].rows:,} {name} rows{looks} {_scores(record, scored[-1])}.")
    best = record.best_member()
    if best is not None:
        sentences.append(
            f"The best of them by {started.monitor} was {record.members[best[0]]} "
            f"({best[2]:.4g} after {best[1]:,} updates)."
        )
    for baseline in record.baselines:
        scores = ", ".join(f"{_words(k)} {v:.4g}" for k, v in baseline.metrics.items())
        part = {"valid": "validation", "train": "training"}.get(baseline.split, baseline.split)
        sentences.append(f"The {baseline.name} baseline reached {scores} on the {part} rows.")
    sentences.append(f"Software: {software}. Run {started.run_id}.")
    return " ".join(sentences)


_SOFTWARE = (
    ("dlfb_lab", "dlfb-lab"),
    ("JAX", "jax"),
    ("Flax", "flax"),
    ("Optax", "optax"),
    ("PyTorch", "torch"),
    ("Keras", "keras"),
    ("TensorFlow", "tensorflow"),
    ("Equinox", "equinox"),
    ("NumPy", "numpy"),
    ("Python", "python"),
)


def _rate(record: Record) -> str:
    for test in record.rate_tests[-1:]:
        tried = (
            f"{len(test.rates)} rates from {test.rates[0]:.3g} to {test.rates[-1]:.3g}" if len(test.rates) else "some"
        )
        return f" (learning rate {test.chosen:.3g}, chosen by trying {tried})"
    rate = record.started.settings.get("lr") if record.started else None
    return f" (learning rate {rate:g})" if isinstance(rate, int | float) else ""


def _scores(record: Record, scored: Evaluation) -> str:
    if not scored.members:
        return "it reached " + ", ".join(f"{_words(k)} {v:.4g}" for k, v in scored.metrics.items())
    said = []
    for name in scored.metrics:
        (mean,), (deviation,) = spread(np.array([[member.get(name, np.nan)] for member in scored.members]))
        said.append(f"{_words(name)} {mean:.4g} ± {deviation:.4g}")
    return f"they reached {', '.join(said)} (mean ± standard deviation over the {len(scored.members)} models)"


def _optimizer(name: object) -> str:
    return f"{name} (whose settings were not recorded)" if str(name).startswith("the ") else str(name)


def _words(name: object) -> str:
    return str(name).replace("_", " ")


def _ended(status: str) -> str:
    return {"finished": "ran to its end", "stopped": "was stopped early"}.get(status, f"is {status}")
