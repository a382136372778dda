"""How to train: the optimizer, what weighs how much, members, and what goes with what."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import product
from typing import Any, get_args

import jax
import numpy as np

from dlfb_lab.assemble.labelled import Prepared
from dlfb_lab.assemble.request import TrainRequest, count, seed_of
from dlfb_lab.engine import metrics as metric_table
from dlfb_lab.engine import optimizers, precision, remat, sweeps, weighting
from dlfb_lab.engine.experiment import EarlyStop, Member, OnNan, mode_of
from dlfb_lab.engine.feed import Part
from dlfb_lab.engine.losses import Loss
from dlfb_lab.engine.optimizers import Optimizer
from dlfb_lab.engine.task import Task
from dlfb_lab.errors import OptionError
from dlfb_lab.models.transfer import freeze

MOST_SEEDS = 10_000

OF_OPTIMIZER = ("schedule", "warmup", "weight_decay", "decay_mask", "clip", "accumulate")

REFUSED: dict[str, tuple[tuple[str, ...], str]] = {
    "guest": (
        (
            *("schedule", "warmup", "weight_decay", "decay_mask", "accumulate", "class_weights"),
            *("precision", "remat", "init_from", "freeze", "debug"),
        ),
        "{kind} runs its own step, and decides that. Leave it out.",
    ),
    "stepper": (
        ("optimizer", "lr", *OF_OPTIMIZER, "class_weights", "precision", "remat", "init_from", "freeze"),
        "{kind} decides that. Leave it out.",
    ),
    "model": ((), ""),
}


def refuse(r: TrainRequest, kind: str, name: str) -> None:
    """Refuses options that what is to be trained cannot follow.

    Args:
        r: what was asked for.
        kind: the family: "model", "stepper" or "guest".
        name: what it is, for people, such as "the torch model".

    Raises:
        OptionError: which option, and what to do.
    """
    if r.eval_batch_size is not None and r.step is None and kind != "stepper":
        raise OptionError("--eval-batch-size goes with --eval-step: a model's scores are those of all rows anyway.")
    if kind == "guest" and isinstance(r.lr, str) and r.lr == "find":
        raise OptionError(f"--lr find: only a step that we compile can be tried; {name} runs its own. Give a rate.")
    if kind == "guest" and r.step is not None and r.checkpoint not in (None, "off"):
        raise OptionError(f"--checkpoint: {name} keeps its state to itself, which is not saved here. Leave it out.")
    options, why = REFUSED[kind]
    for option in options:
        if getattr(r, option) not in (None, False):
            raise OptionError(f"--{option.replace('_', '-')}: {why.format(kind=name)}")
    if kind == "model":
        return
    compiled_only = {"devices": r.devices != 1, "plan": r.plan != "auto" and kind == "guest"}
    for option, asked in compiled_only.items():
        if asked:
            raise OptionError(
                f"--{option}: only a step that we compile can do that; {name} runs its own. Leave it out."
            )
    seeds = count("seeds", r.seeds)
    if seeds is not None:
        if r.step is not None and r.state is None:
            raise OptionError(
                f"--seeds {r.seeds}: the step keeps its state to itself, and goes on where it is. Train one run at a "
                "time, each from a new state."
            )
        values = ",".join(str(int(r.seed) + i) for i in range(min(3, seeds)))
        raise OptionError(
            f"--seeds {r.seeds}: {name} cannot be trained several times at once. "
            f"Say --sweep seed={values}{',…' if seeds > 3 else ''}, which trains one after another, "
            "each from the parameters that the model has now: the seed decides the order of the rows and dropout."
        )


def optimizer_of(r: TrainRequest, model: Any, kind: str, steps_total: int) -> tuple[Optimizer | None, dict[str, Any]]:
    """Returns the optimizer, and what the journal says of it.

    Raises:
        OptionError: it is given twice, or cannot be used.
    """
    if kind != "model":
        return None, {}
    lr = None if isinstance(r.lr, str) and r.lr == "find" else r.lr
    if model.optimizer is not None:
        for option in ("optimizer", "lr", "schedule", "warmup", "weight_decay", "decay_mask"):
            if getattr(r, option) is not None:
                name = option.replace("_", "-")
                raise OptionError(f"--{name}: the {model.kind} brings its own optimizer. Leave --{name} out.")
        chosen = optimizers.choose(model.optimizer, None, clip=r.clip, accumulate=r.accumulate, steps_total=steps_total)
        chosen = replace(chosen, name=f"the {model.kind}'s own optimizer")
    else:
        chosen = optimizers.choose(
            r.optimizer, lr, **{name: getattr(r, name) for name in OF_OPTIMIZER}, steps_total=steps_total or None
        )
    if isinstance(r.lr, str) and r.lr == "find" and "lr" not in chosen.hyper:
        raise OptionError("--lr find: the optimizer has its rate already. Give --optimizer by name.")
    said = {**chosen.describe(), "optimizer": chosen.name}
    if r.sweep is not None:
        # The members have a value each.
        said.pop(sweeps.parse_sweep(r.sweep)[0], None)
    if isinstance(r.lr, str) and r.lr == "find":
        said["lr"] = "find"
    return (chosen if r.freeze is None else _frozen(chosen, r.freeze)), said


def _frozen(optimizer: Optimizer, patterns: Any) -> Optimizer:
    given = (patterns,) if isinstance(patterns, str) else tuple(patterns) if isinstance(patterns, Iterable) else ()
    if not given or not all(isinstance(pattern, str) for pattern in given):
        raise OptionError(f"--freeze {patterns}: give patterns of parameter paths, such as 'encoder/*'.")

    def make(hyper: Any) -> Any:
        return freeze(optimizer.make(hyper), given)

    return replace(optimizer, key=(optimizer.key, "frozen", given), make=make)


def swept(r: TrainRequest) -> list[TrainRequest]:
    """Returns the request with each value of a sweep in its place; the request alone where there is none."""
    if r.sweep is None:
        return [r]
    name, values = sweeps.parse_sweep(r.sweep)
    return [replace(r, **{name: value}) for value in values]


def members(r: TrainRequest, chosen: Sequence[Optimizer | None]) -> tuple[Member, ...]:
    """Returns what is trained at once: every seed with every value of a sweep.

    Args:
        r: what was asked for.
        chosen: the optimizer with each value of the sweep; one alone where there is none.

    Raises:
        OptionError: `seeds` is no number above one.
    """
    seeds = count("seeds", r.seeds)
    name = sweeps.parse_sweep(r.sweep)[0] if r.sweep is not None else ""
    if seeds is None and not name:
        return ()
    if seeds is not None and seeds > MOST_SEEDS:
        raise OptionError(f"--seeds {seeds:,}: at most {MOST_SEEDS:,} are trained at once.")
    if seeds == 1 and not name:
        raise OptionError("--seeds 1: that is one model, as without --seeds. Give 2 or more.")
    if any(isinstance(one.lr, str) and one.lr == "find" for one in swept(r)):
        raise OptionError(
            "--lr find: several members at once need a rate that is known. Leave --seeds and --sweep out."
        )
    found = []
    for optimizer, i in product(chosen, range(seeds or 1)):
        assert optimizer is not None
        hyper = {name: optimizer.hyper[name]} if name else {}
        seed = seed_of(int(r.seed) + i)
        words = [f"{name} {hyper[name]:g}"] if name else []
        words += [f"seed {seed}"] if seeds else []
        found.append(Member(name=", ".join(words), seed=seed, hyper=hyper))
    return tuple(found)


def weights_of(r: TrainRequest, prepared: Prepared) -> Callable[[Loss], Loss]:
    """Returns what makes of a loss one that weighs the classes.

    Raises:
        OptionError: the weights do not fit the task.
    """
    if r.class_weights is None or prepared.task is None:
        return _as_it_is
    targets = prepared.train.y if isinstance(prepared.train, Part) else None
    if targets is None and isinstance(r.class_weights, str):
        raise OptionError("--class-weights balanced: the classes of a stream are not counted beforehand. Give numbers.")
    task = prepared.task
    weights = weighting.class_weights(r.class_weights, task, targets if targets is not None else np.zeros(0, np.int32))

    if weights is None:
        return _as_it_is

    def weigh(loss: Loss) -> Loss:
        return weighting.weighted(loss, weights, task)

    return weigh


def _as_it_is(loss: Loss) -> Loss:
    return loss


def wrapped(r: TrainRequest, model: Any, kind: str) -> Any:
    """Returns a model that computes in another precision, or keeps fewer activations, if that was asked for."""
    if kind != "model":
        return model
    if r.precision is not None:
        model = precision.with_precision(model, r.precision)
    return remat.with_remat(model) if r.remat else model


def early_stop(r: TrainRequest) -> EarlyStop | None:
    """Reads METRIC:PATIENCE.

    Raises:
        OptionError: it reads otherwise, or there are no rows to evaluate on.
    """
    if r.early_stop is None:
        return None
    metric, colon, patience = str(r.early_stop).rpartition(":")
    if not colon:
        metric, patience = ("loss", patience) if patience.isdigit() else (patience, "5")
    if not metric or not patience.isdigit() or int(patience) < 1:
        raise OptionError(f"--early-stop {r.early_stop}: say METRIC:PATIENCE, for example loss:5 or auc:10.")
    if r.valid is None:
        raise OptionError(f"--early-stop {r.early_stop}: there are no rows to evaluate on. Say --valid 0.2.")
    metric = metric.removeprefix("valid/").strip()
    return EarlyStop(metric=metric, patience=int(patience), mode=mode_of(metric))


def on_nan(r: TrainRequest, kind: str, optimizer: Optimizer | None) -> OnNan:
    """Reads `--on-nan`.

    Raises:
        OptionError: there is no such reaction, or no learning rate to make smaller.
    """
    known = get_args(OnNan)
    if r.on_nan not in known:
        raise OptionError(f"--on-nan {r.on_nan}: there are {', '.join(known)}.")
    if r.on_nan == "rollback":
        why = ""
        if kind != "model":
            why = "the model runs its own step, whose learning rate is not ours to change. Leave it out"
        elif optimizer is None or "lr" not in optimizer.hyper:
            why = "the learning rate cannot be made smaller from here. Give --optimizer by name, or --on-nan stop"
        elif r.sweep is not None and r.sweep.startswith("lr"):
            why = "the members of a sweep over lr have a rate each. Leave one out"
        elif r.background:
            why = "what goes on is another run, which a cell waits for. Leave --background out"
        if why:
            raise OptionError(f"--on-nan rollback: {why}.")
    return r.on_nan  # type: ignore[return-value]


def local_devices(asked: Any) -> int:
    """Returns how many devices share each batch.

    Raises:
        OptionError: there are not so many.
    """
    there = len(jax.local_devices())
    wanted = there if asked == "all" else count("devices", asked) or 1
    if wanted > there:
        raise OptionError(f"--devices {asked}: there {'is' if there == 1 else 'are'} {there}. Say --devices all.")
    return wanted


def choose_metrics(asked: Any, task: Task | None, stop: EarlyStop | None) -> tuple[metric_table.Metric, ...]:
    """Returns what is computed at evaluations: what was asked for, and what decides when to stop."""
    if task is None:
        return ()
    if isinstance(asked, str):
        asked = [name.strip() for name in asked.split(",") if name.strip()]
    elif callable(asked):
        asked = [asked]
    chosen = metric_table.choose(asked, task)
    wanted = stop.metric if stop is not None else "loss"
    if wanted in (metric.name for metric in chosen) or wanted not in (*metric_table.METRICS, *metric_table.ALIASES):
        return chosen
    same = metric_table.ALIASES.get(wanted) if asked is None else None
    return *(metric for metric in chosen if metric.name != same), *metric_table.choose([wanted], task)
