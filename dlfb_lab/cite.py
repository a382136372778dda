"""A methods paragraph about a run, to paste into a manuscript."""

from __future__ import annotations

from dlfb_lab.record import Record


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
    epochs = record.step / started.steps_per_epoch
    sentences.append(
        f"Training minimised {_words(s.get('loss'))} with {_optimizer(s.get('optimizer'))}"
        + (f" (learning rate {s['lr']:g})" if isinstance(s.get("lr"), int | float) else "")
        + f", batches of {started.batch_size:,} rows, for {record.step:,} updates ({epochs:.4g} epochs), "
        f"seed {s.get('seed')}, on {started.device}; the run {_ended(status)}."
    )
    for split, name in (("valid", "validation"), ("test", "test")):
        scored = record.evaluated(split)
        if scored:
            scores = ", ".join(f"{_words(k)} {v:.4g}" for k, v in scored[-1].metrics.items())
            looks = f" (looked at {scored[-1].look} times)" if scored[-1].look > 1 else ""
            sentences.append(f"On the {scored[-1].rows:,} {name} rows{looks} it reached {scores}.")
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
    ("NumPy", "numpy"),
    ("Python", "python"),
)


def _optimizer(name: object) -> str:
    return f"{name} (whose settings were not recorded)" if str(name).startswith("the ") else str(name)


def _words(name: object) -> str:
    return str(name).replace("_", " ")


def _ended(status: str) -> str:
    return {"finished": "ran to its end", "stopped": "was stopped early"}.get(status, f"is {status}")
