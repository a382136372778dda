"""Runs to look at: what several members, parts of a loss and a test of learning rates look like in real training.

The numbers are made up, and always the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from dlfb_lab.events import (
    Baseline,
    CheckpointSaved,
    Compilation,
    Evaluation,
    Event,
    Losses,
    Notice,
    PlanChosen,
    RateTest,
    RunStarted,
    Status,
)

START_S = 1_700_000_000.0


def started(name: str, steps: int, members: list[str] | None = None, **changed: object) -> RunStarted:
    """Returns the plan of a run of so many steps."""
    fields = {
        "task_sentence": "binary classification: peptide / other, 20,000 rows, 31 % peptide",
        "model": "MLP",
        "steps_total": steps,
        "steps_per_epoch": 500,
        "evaluations_total": 21,
        "settings": {"optimizer": "adam", "lr": 1e-3, "seed": 0, "loss": "cross_entropy"},
    } | changed
    return RunStarted(
        step=0,
        time_s=START_S,
        run_id=name.replace(" ", "-"),
        name=name,
        task="binary",
        classes=["other", "peptide"],
        model_kind="linen",
        parameter_count=8_514,
        batch_size=32,
        monitor="valid/loss",
        monitor_mode="min",
        rows={"train": 16_000, "valid": 4_000},
        split_hash="0123abcd",
        versions={"python": "3.12.0", "jax": "0.11.0"},
        device="cpu",
        members=members or [],
        **fields,  # type: ignore[arg-type]
    )


def members(steps: int = 10_000, count: int = 8, ended: bool = True) -> list[Event]:
    """Returns a run of several seeds, the last of which learns late."""
    rng = np.random.default_rng(0)
    at = np.arange(steps)
    falls = rng.uniform(0.8, 1.2, (count, 1)) * steps / 8
    floors = rng.uniform(0.18, 0.3, (count, 1))
    clean = floors + (0.75 - floors) * np.exp(-at / falls)
    clean[-1] = floors[-1] + (0.7 - floors[-1]) / (1 + np.exp((at - steps / 3) / (steps / 30)))
    losses = (clean * np.exp(0.18 * rng.standard_normal((count, steps)))).astype(np.float32)
    scores = [
        [{"loss": c + 0.02, "accuracy": 1 - 0.6 * c, "auc": 1 - 0.35 * c} for c in clean[:, min(at_step, steps - 1)]]
        for at_step in range(0, steps + 1, steps // 20)
    ]
    names = [f"seed {i}" for i in range(count)]
    plan = [
        PlanChosen(step=0, time_s=START_S + 2, plan="one by one", reason="it is ready first"),
        PlanChosen(
            step=steps // 20,
            time_s=START_S + 3,
            plan="fused",
            reason="it is faster, and its numbers are the same bit by bit",
            step_s=2.5e-4,
            fused_step_s=4e-5,
        ),
    ]
    told = [*_beginning(started("eight seeds", steps, names)), plan[0]]
    for index, at_step in enumerate(range(0, steps + 1, steps // 20)):
        time_s = START_S + 3 + index / 10
        told.append(_scored(at_step, time_s, scores[index]))
        if index == 1:
            told.append(plan[1])
        if at_step < steps:
            block = losses[:, at_step : at_step + steps // 20]
            told.append(
                Losses(
                    step=at_step + block.shape[1],
                    time_s=time_s + 0.1,
                    first_step=at_step,
                    losses=block.mean(0),
                    duration_s=0.1,
                    members=list(block),
                )
            )
    return [*told, Status(step=steps, time_s=START_S + 6, state="finished")] if ended else told


def parts(steps: int = 6_000, ended: bool = True) -> list[Event]:
    """Returns a run whose loss has four parts, beside a fraction that is none."""
    rng = np.random.default_rng(1)
    at = np.arange(steps)

    def noisy(values: np.ndarray, by: float = 0.15) -> np.ndarray:
        return np.asarray(values * np.exp(by * rng.standard_normal(steps)), np.float32)

    pieces = {
        "reconstruction_loss": noisy(0.2 + 0.9 * np.exp(-at / 800)),
        "commitment_loss": noisy(0.06 + 0.25 * np.exp(-(((at - 900) / 900) ** 2))),
        "codebook_loss": noisy(0.24 * np.exp(-at / 3000)),
        "kl": noisy(0.02 + 0.1 * (1 - np.exp(-at / 2000))),
    }
    usage = np.clip(noisy(0.9 - 0.7 * np.exp(-at / 1200), 0.05), 0, 1)
    loss = np.sum(list(pieces.values()), axis=0, dtype=np.float32)
    given = {"task_sentence": "reconstruction of 64 × 64 × 3 images, 20,000 rows", "model": "VQVAE"}
    told = _beginning(started("vq-vae", steps, evaluations_total=13, **given))
    for index, first in enumerate(range(0, steps + 1, 500)):
        time_s = START_S + 3 + index
        mean = {name: float(values[max(0, first - 200) : first + 200].mean()) for name, values in pieces.items()}
        metrics = {"loss": 1.03 * sum(mean.values()), "codebook_usage": float(usage[max(0, first - 1)])}
        told.append(Evaluation(step=first, time_s=time_s, split="valid", metrics=metrics, rows=4000, duration_s=0.2))
        if first < steps:
            cut = slice(first, first + 500)
            told.append(
                Losses(
                    step=first + 500,
                    time_s=time_s + 0.9,
                    first_step=first,
                    losses=loss[cut],
                    duration_s=0.9,
                    parts={**{name: values[cut] for name, values in pieces.items()}, "codebook_usage": usage[cut]},
                )
            )
    return [*told, Status(step=steps, time_s=START_S + 18, state="finished")] if ended else told


def rate_test(ended: bool = True) -> list[Event]:
    """Returns a run that tried learning rates first."""
    rates = np.geomspace(1e-6, 1, 100)
    falls = 0.7 - 0.4 / (1 + np.exp(-(np.log10(rates) + 3) * 3))
    losses = (falls + 5 * np.clip(np.log10(rates) + 1.2, 0, None) ** 2).astype(np.float32)
    losses[97:] = math.nan
    test = RateTest(step=0, time_s=START_S + 2.8, rates=rates, losses=losses, chosen=3.2e-3, duration_s=0.8)
    plan = started("rate found", 2_000, settings={"optimizer": "adam", "lr": "find", "seed": 0}, evaluations_total=5)
    before = [*_beginning(plan), test]
    if not ended:
        return before
    rng = np.random.default_rng(2)
    loss = ((0.2 + 0.5 * np.exp(-np.arange(2000) / 300)) * np.exp(0.15 * rng.standard_normal(2000))).astype(np.float32)
    scored = [
        Evaluation(
            step=step,
            time_s=START_S + 4,
            split="valid",
            metrics={"loss": 0.22 + 0.5 * math.exp(-step / 300), "accuracy": 0.92 - 0.3 * math.exp(-step / 300)},
            rows=4000,
            duration_s=0.1,
        )
        for step in range(0, 2001, 500)
    ]
    trained = Losses(step=2000, time_s=START_S + 4, first_step=0, losses=loss, duration_s=0.4)
    return [*before, trained, *scored, Status(step=2000, time_s=START_S + 5, state="finished")]


SAVED = {2_000: 0.31, 4_000: 0.27, 6_000: 0.29}
"""The steps of the checkpoints of `saved`, with the validation loss at each."""


def saved(parent: str = "", parent_step: int = 0, **changed: object) -> list[Event]:
    """Returns a run of 6,000 steps with checkpoints, or one that began from another's and was stopped at step 5,000."""
    end = 5_000 if parent else 6_000
    plan = started("saved", 6_000, parent=parent, parent_step=parent_step, evaluations_total=7, **changed)
    told = _beginning(plan)
    rng = np.random.default_rng(3)
    for first in range(parent_step, end, 500):
        at = np.arange(first, first + 500)
        time_s = START_S + 3 + first / 1000
        loss = ((0.25 + 0.45 * np.exp(-at / 900)) * np.exp(0.15 * rng.standard_normal(500))).astype(np.float32)
        told.append(Losses(step=first + 500, time_s=time_s, first_step=first, losses=loss, duration_s=0.1))
        score = 0.27 + 0.4 * math.exp(-(first + 500) / 900) + (0.01 * (first - 3_500) / 1000 if first > 3_500 else 0)
        metrics = {"loss": SAVED.get(first + 500, score), "accuracy": 0.93 - 0.4 * score}
        told.append(
            Evaluation(step=first + 500, time_s=time_s, split="valid", metrics=metrics, rows=4000, duration_s=0.05)
        )
        kept = [step for step in SAVED if parent_step < step <= first + 500]
        if first + 500 in SAVED:
            told.append(
                CheckpointSaved(
                    step=first + 500,
                    time_s=time_s + 0.1,
                    bytes=13_000_000,
                    duration_s=0.3,
                    stall_s=0.002,
                    state="complete",
                    kept=kept,
                )
            )
    return [*told, Status(step=end, time_s=START_S + 12, state="stopped" if parent else "finished")]


def endless() -> Iterator[Event]:
    """Yields a run on a stream whose length nobody knows, as it goes on."""
    yield from _beginning(started("endless stream", 0, steps_per_epoch=0, evaluations_total=0))
    yield PlanChosen(step=0, time_s=START_S + 2, plan="streamed", reason="the batches come from a generator")
    losses = np.exp(-np.arange(300) / 200).astype(np.float32)
    yield Losses(step=300, time_s=START_S + 4, first_step=0, losses=losses, duration_s=1.5)


def _beginning(plan: RunStarted) -> list[Event]:
    compiled = {"program": "train step", "trace_s": 0.2, "lower_s": 0.1, "compile_s": 0.9, "planned": True}
    return [
        plan,
        Status(step=0, time_s=START_S, state="compiling"),
        Baseline(
            step=0, time_s=START_S + 1, name="majority class", split="valid", metrics={"loss": 0.62, "accuracy": 0.69}
        )
        if "classification" in plan.task_sentence
        else Notice(step=0, time_s=START_S + 1, level="info", text="There are no targets: the inputs are rebuilt."),
        Compilation(step=0, time_s=START_S + 2, cause="first call", **compiled),  # type: ignore[arg-type]
        Status(step=0, time_s=START_S + 2, state="running"),
    ]


def _scored(step: int, time_s: float, scores: list[dict[str, float]]) -> Evaluation:
    metrics = {name: float(np.mean([member[name] for member in scores])) for name in scores[0]}
    return Evaluation(
        step=step, time_s=time_s, split="valid", metrics=metrics, rows=4000, duration_s=0.05, members=scores
    )
