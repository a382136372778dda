"""From what the user gave to an experiment that is ready to run: every check, every default."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import fields, replace
from typing import Any

from dlfb_lab import models
from dlfb_lab.assemble import guests, labelled, own
from dlfb_lab.assemble.labelled import Prepared
from dlfb_lab.assemble.request import TrainRequest, batch_of, budget, described, seed_of
from dlfb_lab.assemble.training import (
    choose_metrics,
    early_stop,
    local_devices,
    members,
    on_nan,
    optimizer_of,
    refuse,
    swept,
    weights_of,
    wrapped,
)
from dlfb_lab.data.source import Array
from dlfb_lab.engine import cache, loop, planning, precision, saving, sweeps
from dlfb_lab.engine import experiment as experiments
from dlfb_lab.engine import plan as plans
from dlfb_lab.engine.clock import seconds
from dlfb_lab.engine.control import Control
from dlfb_lab.engine.experiment import Experiment
from dlfb_lab.engine.feed import Rows, Streamed, TrainingData
from dlfb_lab.engine.memory import fits_on_device
from dlfb_lab.errors import OptionError, nearest
from dlfb_lab.models.copies import changes_in_place, copied
from dlfb_lab.models.host import HostStep
from dlfb_lab.models.own import own_step
from dlfb_lab.models.transfer import arrays_in, statistics_in
from dlfb_lab.run import Session

__all__ = ["TrainRequest", "one_after_another", "session"]


def session(request: TrainRequest) -> tuple[Session, dict[str, Array]]:
    """Returns what a run needs in this kernel, and the row numbers of each part.

    Raises:
        DataError, ModelError, OptionError: something that was given cannot be used.
    """
    r = _in_order(request)
    numbers: dict[str, Any] = budget(r)
    seed_of(r.seed)
    timebox_s = seconds(r.timebox)
    if r.plan not in plans.ASKED:
        raise OptionError(f"--plan {r.plan}: there are {', '.join(plans.ASKED)}.")
    cached = cache.enable()
    given = None if r.step is not None else models.adapt(r.model)
    prepared = _data(r, given)
    trained = prepared.train
    with trained.stream.or_closed() if isinstance(trained, Streamed) else nullcontext():
        return _assembled(r, given, prepared, numbers, timebox_s, cached), prepared.rows_of


def _assembled(
    r: TrainRequest,
    given: Any,
    prepared: Prepared,
    numbers: dict[str, Any],
    timebox_s: float | None,
    cached: str | None,
) -> Session:
    trained = prepared.train
    size = _batch(r, trained)
    _check_length(r, trained, numbers)
    steps_total = numbers["steps"] or (numbers["epochs"] or 0) * (trained.batches(size) or 0)
    kind = _family(r, given)
    once = isinstance(trained, Streamed) and trained.stream.once
    if once and r.on_nan == "rollback":
        raise OptionError("--on-nan rollback: the data can be read only once, so there is no going back in them.")
    refuse(r, kind, "the step of your own" if given is None else f"the {given.kind} model")
    model, loss, said, notice = _model(r, given, prepared, size)
    chosen = [optimizer_of(one, model, kind, steps_total) for one in swept(r)]
    optimizer, of_optimizer = chosen[0]
    said |= of_optimizer
    stop = early_stop(r)
    resident = isinstance(trained, Rows) and fits_on_device(trained.tree)
    if isinstance(r.lr, str) and r.lr == "find" and not resident:
        raise OptionError("--lr find: rates are tried on rows that are kept on the device; these are not. Give a rate.")
    experiment = Experiment(
        name=model.name if r.name in (None, "") else str(r.name),
        model=wrapped(r, model, kind),
        optimizer=optimizer,
        task=prepared.task,
        loss=loss,
        weigh=weights_of(r, prepared),
        metrics=choose_metrics(r.metrics, prepared.task, stop),
        train=trained,
        valid=prepared.parts.get("valid"),
        **numbers,
        batch_size=size,
        eval_batch_size=_eval_batch(r, prepared, getattr(given, "accumulates", False)),
        seed=int(r.seed),
        members=members(r, [one for one, _ in chosen]),
        early_stop=stop,
        timebox_s=timebox_s,
        find_rate=r.lr == "find" if isinstance(r.lr, str) else False,
        init_from=arrays_in(r.init_from) if r.init_from is not None else None,
        init_statistics=statistics_in(r.init_from) if r.init_from is not None else {},
        asked_plan=r.plan,  # type: ignore[arg-type]
        resident=resident,
        devices=local_devices(r.devices),
        on_nan=on_nan(r, kind, optimizer),
        row_numbers=prepared.rows_of.get("train"),
        debug=bool(r.debug),
        rows={name: len(part) for name, part in prepared.parts.items()},
        split_hash=prepared.split_hash,
        task_sentence=prepared.task_sentence,
        settings={
            **numbers,
            "batch_size": size,
            **said,
            "seed": int(r.seed),
            **{name: described(getattr(r, name)) for name in RECORDED},
            "timebox": None if r.timebox is None else str(r.timebox),
            "target": None if r.target is None else str(r.target),
        },
        source=r.source,
    )
    plan = planning.plan(experiment)
    notices = list(prepared.notices(experiment, plan.target_shape))
    for text in (notice, precision.notice(r.precision) if r.precision is not None else ""):
        if text:
            notices.append(("info", text))
    if once and r.epochs is None and r.steps is None and r.timebox is None:
        notices.append(("info", "The data can be read only once, so training takes one epoch."))
    if cached is not None:
        notices.append(("info", cached))
    experiment = replace(experiment, notices=tuple(notices))
    return Session(
        experiment=experiment,
        plan=plan,
        trainer=loop.make_trainer(experiment, plan),
        control=Control(),
        parts=prepared.parts,
        read=prepared.read,
        saving=saving.asked(r.checkpoint or os.environ.get("DLFB_CHECKPOINT")),
        scaling=prepared.scaling,
        feature_names=list(prepared.feature_names),
    )


def one_after_another(r: TrainRequest) -> Iterator[TrainRequest] | None:
    """Returns the runs of a sweep that one program cannot train at once; None where it can, or there is no sweep.

    Each starts from the model as it was given. Of a step of the user's own, its further arguments can be swept, too.

    Raises:
        OptionError: the sweep reads otherwise than NAME=A,B, there is no such option, or its runs would start where
            others have ended.
    """
    if r.sweep is None:
        return None
    name, values = sweeps.parse_sweep(r.sweep)
    own = r.step is not None and isinstance(r.args, dict) and name in r.args
    if not own and name not in OPTIONS:
        raise OptionError(f"--sweep {name}: there is no such option.{nearest(name, (*OPTIONS, *(r.args or {})))}")
    r = _in_order(r)
    if not own and getattr(r, name) is not getattr(TrainRequest, name):
        option = name.replace("_", "-")
        raise OptionError(f"--sweep {name}: --{option} is given, too. Leave one of them out.")
    given = None if r.step is not None else models.adapt(r.model)
    kind = _family(r, given)
    if kind == "model" and name in AT_ONCE and getattr(given, "optimizer", None) is None:
        return None
    refuse(r, kind, "the step of your own" if given is None else f"the {given.kind} model")
    if r.resume is not None:
        raise OptionError(f"--sweep {name}: these are several runs, and --resume goes on with one. Leave one out.")
    if r.step is not None and r.state is None:
        raise OptionError(
            f"--sweep {name}: the step keeps its state to itself, so that each run would go on where the last one has "
            "ended. Let it take and return its state (--state), or train one run at a time."
        )
    for part in (r.data, r.valid, r.test):
        if isinstance(part, Iterator):
            raise OptionError(
                f"--sweep {name}: the {type(part).__name__} can be read only once, and each run reads the data anew. "
                "Give a list of batches, or the function that makes it."
            )
    if r.background:
        raise OptionError(f"--sweep {name}: its runs are trained one after another, so not in the background.")
    base = r.name or ""

    def request(value: Any) -> TrainRequest:
        model, optimizer = copied(r.model, r.optimizer) if changes_in_place(given) else (r.model, r.optimizer)
        label = f"{base} {name} {value}".strip()
        change = {"args": {**(r.args or {}), name: value}} if own else {name: value}
        return replace(r, **{"model": model, "optimizer": optimizer, "sweep": None, "name": label, **change})

    return map(request, values)


AT_ONCE = ("lr", "weight_decay", "clip")
"""Numbers of the optimizer, which are arguments of the compiled program."""

OPTIONS = tuple(
    field.name
    for field in fields(TrainRequest)
    if field.name
    not in ("model", "data", "sweep", "source", "store", "background", "name", "seeds", "checkpoint", "resume")
)


RECORDED = (
    "valid",
    "test",
    "groups",
    "scale",
    "debug",
    "background",
    "class_weights",
    "precision",
    "remat",
    "early_stop",
    "init_from",
    "freeze",
    "seeds",
    "sweep",
    "plan",
    "devices",
    "checkpoint",
    "on_nan",
)
"""Options that the journal keeps as they were said."""


def _in_order(r: TrainRequest) -> TrainRequest:
    """With a step of the user's own there is no model, so the first thing given is the data."""
    if r.step is None:
        if r.model is None or r.data is None:
            raise OptionError("What is to be trained, and on what? Give a model and data.")
        for name in ("eval_step", "state", "args"):
            if getattr(r, name) is not None:
                option = name.replace("_", "-")
                raise OptionError(f"--{option} goes with --step, a training step of your own. Give both, or neither.")
        return r
    if r.data is None:
        return replace(r, model=None, data=r.model)
    if r.model is not None:
        raise OptionError("--step: a step of your own needs no model beside it. Give the data alone.")
    return r


def _data(r: TrainRequest, given: Any) -> Prepared:
    if given is None:
        return own.prepare(r)
    if experiments.family(given) == "stepper":
        return own.prepare(r, pairs=True)
    return labelled.prepare(r, lambda x: guests.output_shape(given, x, int(r.seed)), guests.regression_only(r, given))


def _family(r: TrainRequest, given: Any) -> str:
    if given is None:
        return "guest" if r.state is None else "stepper"
    return "guest" if hasattr(given, "make") else experiments.family(given)


def _model(r: TrainRequest, given: Any, prepared: Prepared, size: int) -> tuple[Any, Any, dict[str, Any], str]:
    """Returns what is trained, its loss, what the journal says of a guest's optimizer, and a notice."""
    if hasattr(given, "make"):
        return guests.make(given, r, prepared, size)
    if given is not None:
        return given, r.loss, {}, ""
    if r.state is None:
        return HostStep(r.step, r.eval_step, r.args), None, {}, ""
    valid = prepared.parts.get("valid")
    scored = None if valid is None else valid.sample(_eval_batch(r, prepared, False) or size)
    return own_step(r.step, r.state, prepared.train.sample(size), r.eval_step, r.args, scored), None, {}, ""


def _batch(r: TrainRequest, trained: TrainingData) -> int:
    if trained.rows is not None:
        return batch_of("batch_size", r.batch_size, trained.rows)
    if isinstance(trained, Streamed):
        return trained.stream.rows
    if r.batch_size not in (None, "full"):
        raise OptionError(
            f"--batch-size {r.batch_size}: the data have no rows to divide, since their arrays differ in length; "
            "every step takes them whole. Leave it out."
        )
    return 1


def _eval_batch(r: TrainRequest, prepared: Prepared, accumulates: bool) -> int:
    """Returns the rows of an evaluation batch: all at once where scores of several cannot be averaged."""
    part = prepared.parts.get("valid")
    if part is None:
        return 0
    asked = "full" if r.eval_batch_size is None and accumulates else r.eval_batch_size
    return 0 if asked is None else batch_of("eval_batch_size", asked, len(part))


def _check_length(r: TrainRequest, data: TrainingData, numbers: dict[str, int | None]) -> None:
    """Refuses lengths that a stream cannot give; of one that can be read once there is one epoch."""
    if not isinstance(data, Streamed):
        return
    stream = data.stream
    if stream.endless and not numbers["steps"] and r.timebox is None:
        raise OptionError(f"The data are an endless {stream.name}. Say how long to train: --steps N, or --timebox 10m.")
    if stream.once and (numbers["epochs"] or 1) > 1:
        if r.epochs is not None:
            raise OptionError(
                f"--epochs {r.epochs}: the {stream.name} can be read only once. Give a list of batches, or the "
                "function that makes it (it is called for each epoch); or train for one epoch."
            )
        numbers["epochs"] = 1
