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
    versions = started.versions
    software = ", ".join(f"{name} {versions[key]}" for name, key in _SOFTWARE if key in versions)
    trained_for = f"for {started.task_sentence}"
    if started.task == "own":
        trained_for = f"by {started.task_sentence.replace('of your own', 'of our own')}"
    sentences = [
        f"{started.model} ({started.parameter_count:,} parameters) was trained {trained_for}.",
        _rows(record),
    ]
    if s.get("scale"):
        sentences.append("Features were standardised with the mean and standard deviation of the training rows.")
    epochs = f" ({record.step / started.steps_per_epoch:.4g} epochs)" if started.steps_per_epoch else ""
    sentences.append(
        f"Training {_way(record)} "
        f"batches of {started.batch_size:,} rows, for {record.step:,} updates{epochs}, "
        f"seed {s.get('seed')}, on {started.device}; the run {_ended(status)}."
    )
    further = [said.format(s[name]) for name, said in _FURTHER if s.get(name) not in (None, False)]
    if further:
        sentences.append(f"Further settings: {', '.join(further)}.")
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


_FURTHER = (
    ("schedule", "{} schedule of the learning rate"),
    ("warmup", "warm-up over {:g} steps"),
    ("weight_decay", "weight decay {:g}"),
    ("clip", "gradients clipped at norm {:g}"),
    ("accumulate", "gradients averaged over {:g} batches"),
    ("class_weights", "class weights {}"),
    ("freeze", "parameters {} frozen"),
    ("init_from", "initial parameters from {}"),
    ("precision", "precision {}"),
    ("early_stop", "early stopping on {} (metric:patience), the best parameters restored"),
)


def _rows(record: Record) -> str:
    started = record.started
    assert started is not None
    parts = ", ".join(f"{count:,} {name}" for name, count in started.rows.items())
    if "train" not in started.rows:
        return "Batches were read from a stream" + (f", and {parts} rows beside it." if parts else ".")
    if len(started.rows) == 1:
        return f"All {parts} rows were used."
    return f"Rows were divided into {parts} (split {started.split_hash}, seed {started.settings.get('seed')})."


def _way(record: Record) -> str:
    s = record.started.settings if record.started else {}
    if s.get("loss") is None and s.get("optimizer") is None:
        return "took"
    return f"minimised {_words(s.get('loss'))} with {_optimizer(s.get('optimizer'))}{_rate(record)},"


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
