"""A run that was trained in another kernel, made ready to predict: from what its folder says, and its model."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dlfb_lab import journal, models
from dlfb_lab.assemble import labelled, restoring
from dlfb_lab.assemble.request import TrainRequest
from dlfb_lab.assemble.training import optimizer_of, wrapped
from dlfb_lab.checkpoints.selection import Selection
from dlfb_lab.data.scaling import Scaling
from dlfb_lab.data.source import Array, Examples
from dlfb_lab.engine import losses, optimizers, saved
from dlfb_lab.engine import metrics as metric_table
from dlfb_lab.engine.evaluation import Scorer
from dlfb_lab.engine.experiment import Experiment, Member, Plan
from dlfb_lab.engine.feed import Part
from dlfb_lab.engine.guests import in_chunks
from dlfb_lab.engine.learner import LEARNERS, ModelLearner
from dlfb_lab.engine.losses import Loss
from dlfb_lab.engine.snapshot import differences, into
from dlfb_lab.engine.step import ModelState
from dlfb_lab.engine.task import Task
from dlfb_lab.engine.trainer import Trained
from dlfb_lab.errors import DlfbLabError, ModelError, OptionError, StoreError
from dlfb_lab.events import RunStarted
from dlfb_lab.models import recipe
from dlfb_lab.models.model import PyTree
from dlfb_lab.run import Inference, Run, Session

PLAIN = (str, bool, int, float)

KINDS = ("linen", "nnx", "train state", "function", "equinox", "keras")
"""Of models that are pure functions of what was saved."""

GUESTS = ("torch", "keras on torch", "keras on tensorflow")
"""Of models that another framework runs."""


@dataclass(frozen=True, kw_only=True)
class Given:
    """What the user gives again, since a folder cannot hold it.

    Attributes:
        model: as for training; None to make it from what was written down.
        loss: a function of the user's own.
        metrics: with functions of the user's own among them.
    """

    model: Any = None
    loss: Callable[..., Any] | None = None
    metrics: str | Callable[..., Any] | Iterable[str | Callable[..., Any]] | None = None


def preparation(r: TrainRequest, session: Session) -> dict[str, Any]:
    """Returns what whoever predicts elsewhere must know, as JSON values."""
    experiment, plan, task = session.experiment, session.plan, session.experiment.task
    found: dict[str, Any] = {
        "features": session.feature_names,
        "classes": list(task.classes) if task is not None else [],
        "scaling": session.scaling.to_json() if session.scaling is not None else None,
        "model": recipe.described(r.model, experiment.model.kind) if r.step is None else None,
    }
    if task is None or plan.scored_loss is None:
        return found
    x, y = session.like
    known = all(isinstance(value, PLAIN) for value in task.values)
    loss = plan.scored_loss
    metrics = experiment.metrics
    return found | {
        "inputs": {name: _shaped(array) for name, array in (x if isinstance(x, dict) else {"": x}).items()},
        "targets": _shaped(y),
        "task": {
            **{"kind": task.kind, "classes": list(task.classes), "one_hot": task.one_hot, "outputs": task.outputs},
            **{"values": list(task.values) if known else [], "reconstructs": task.reconstructs},
        },
        "labels": _labels(task),
        "groups": r.groups if isinstance(r.groups, str) else None,
        "loss": {"name": loss.name, "own": loss.own, "link": None if loss.own else loss.link},
        "metrics": [[m.name, metric_table.METRICS.get(m.name) is None] for m in metrics],
        "output_shape": list(plan.output_shape),
        "target_shape": list(plan.target_shape),
    }


def _labels(task: Task) -> list[str]:
    """Returns the names of the targets' columns; empty where they have none."""
    columns = list(task.classes) if task.kind == "multilabel" or task.one_hot else []
    return [] if columns == [str(i) for i in range(len(columns))] else columns


def _shaped(array: Any) -> dict[str, Any]:
    array = np.asarray(array)
    return {"shape": list(array.shape[1:]), "dtype": array.dtype.name}


def reopened(run: Run, given: Given) -> tuple[Trained, Inference]:
    """Restores a run's parameters into its model.

    Raises:
        StoreError: nothing was saved, or the model cannot be made; says what to define or to give.
        ModelError: the model that was given is another.
    """
    if run.path is None or run.record.started is None:
        raise StoreError("predict: nothing of this run was kept on disk.")
    started, path = run.record.started, run.path
    told = journal.read_preparation(path)
    if started.model_kind not in (*KINDS, *GUESTS) or "task" not in told:
        raise StoreError(
            f"What {path.name} trained, {started.model} ({started.model_kind}), cannot predict from its folder alone. "
            f"To have its values: dlfb_lab.restore({path.name!r}, into=…), with a state or a model of yours; to go on "
            "with it: --resume."
        )
    selection = saved.selected(run, None, "predict")
    model, written = given.model, False
    if model is None:
        model, written = recipe.made(told["model"], path.name, journal.is_ours(path))
    adapted: Any = models.adapt(model)
    if adapted.kind != started.model_kind:
        raise ModelError(
            f"The model that was given is of the kind {adapted.kind}; {path.name} trained one of {started.model_kind}."
        )
    saved.say(selection)
    if not written and recipe.code_of(model[0] if isinstance(model, tuple) else model) != told["model"]["code"]:
        print(f"The code of {adapted.name} is not that which {path.name} was trained with.")  # noqa: T201
    return _restored(_request(started, told), started, told, adapted, model, selection, given)


def _request(started: RunStarted, told: dict[str, Any]) -> TrainRequest:
    settings = started.settings
    return TrainRequest(
        target=settings.get("target"),
        task="reconstruction" if told["task"]["reconstructs"] else None,
        groups=told["groups"],
        loss=told["loss"]["name"],
        precision=settings.get("precision"),
        remat=bool(settings.get("remat")),
    )


def _restored(
    r: TrainRequest,
    started: RunStarted,
    told: dict[str, Any],
    adapted: Any,
    model: Any,
    selection: Selection,
    given: Given,
) -> tuple[Trained, Inference]:
    task = Task(
        **{
            **told["task"],
            "classes": tuple(told["task"]["classes"]),
            "values": tuple(told["task"]["values"]),
        }
    )
    # As many rows as were evaluated at once, which take no memory: they decide how rows are divided among programs.
    rows = started.rows.get("valid") or started.rows.get("train") or started.batch_size
    inputs = {name: _zeros(rows, shape) for name, shape in told["inputs"].items()}
    x: Any = inputs if set(inputs) != {""} else inputs[""]
    part = Part(x, _zeros(rows, told["targets"]))
    guest = started.model_kind in GUESTS
    loss, metrics, refusal = _scoring(told, task, replace(given, loss=None) if guest else given)
    if guest and told["loss"]["own"]:
        refusal = f"the loss `{told['loss']['name']}` belongs to the model's framework, which computes it in training"
    if guest:
        trained = _guest(adapted, model, part, selection, Scorer(task, loss, metrics, tuple(told["target_shape"])))
    else:
        trained = _model(r, started, told, adapted, part, task, loss, metrics, selection)
    if refusal:
        trained = replace(trained, scores=_refusing(refusal))
    scaling = Scaling.from_json(told["scaling"]) if told["scaling"] is not None else None
    like = Examples(x=x, y=part.y, features=told["features"], labels=told["labels"])
    return trained, Inference(
        task=task,
        like=part.sample(1),
        parts={},
        read=labelled.reader(r, like, task, scaling),
        scaling=scaling,
        feature_names=told["features"],
    )


def _guest(factory: Any, model: Any, part: Part, selection: Selection, scorer: Scorer) -> Trained:
    """Puts what was saved into a model of another framework."""
    # Some find the shapes of their parameters at the first call.
    factory.outputs(jax.tree.map(np.array, part.sample(2)[0]), 0)
    try:
        restoring.restored(selection, model, cast=False)
    except OptionError as error:
        raise ModelError(str(error).removeprefix("restore: ")) from error

    def outputs(x: Any) -> Array:
        return in_chunks(lambda rows: factory.outputs(rows, 0), x)

    return Trained(
        step=selection.source.step,
        link=scorer.loss.link,
        finish=lambda: model,
        outputs=outputs,
        scores=lambda rows: scorer.score_outputs(outputs(rows.x), rows.y),  # type: ignore[union-attr]
    )


def _model(
    r: TrainRequest,
    started: RunStarted,
    told: dict[str, Any],
    adapted: Any,
    part: Part,
    task: Task,
    loss: Loss,
    metrics: tuple[metric_table.Metric, ...],
    selection: Selection,
) -> Trained:
    """Puts what was saved into a model that is a function of it."""
    optimizer, _ = _optimizer(started, adapted)
    experiment = Experiment(
        name=started.name,
        model=wrapped(r, adapted, "model"),
        optimizer=optimizer or optimizers.choose("sgd", None),
        task=task,
        loss=None,
        metrics=metrics,
        train=part,
        valid=None,
        epochs=None,
        steps=started.steps_total,
        batch_size=started.batch_size,
        eval_every=None,
        seed=int(started.settings.get("seed", 0)),
        members=tuple(Member(name=name, seed=0) for name in started.members),
        early_stop=None,
        timebox_s=None,
        debug=False,
        rows=started.rows,
        split_hash=started.split_hash,
        task_sentence=started.task_sentence,
        settings=started.settings,
    )
    plan = Plan(
        loss=loss,
        scored_loss=loss,
        output_shape=tuple(told["output_shape"]),
        target_shape=tuple(told["target_shape"]),
        parameter_count=started.parameter_count,
        steps_total=started.steps_total,
        steps_per_epoch=started.steps_per_epoch,
        eval_steps=0,
        monitor=started.monitor,
        monitor_mode=started.monitor_mode,
    )
    learner: Any = LEARNERS["model"](experiment, plan)
    assert isinstance(learner, ModelLearner)
    state = _state(selection, adapted, part, optimizer)
    trained: Trained = learner.trained(state, selection.source.step, selection.member or 0)
    return trained


def _zeros(rows: int, shaped: dict[str, Any]) -> Array:
    return np.broadcast_to(np.zeros((), shaped["dtype"]), (rows, *shaped["shape"]))


def _scoring(told: dict[str, Any], task: Task, given: Given) -> tuple[Loss, tuple[metric_table.Metric, ...], str]:
    """Returns the loss, the metrics, and why nothing can be scored: "" where it can."""
    missing = []
    name, link = told["loss"]["name"], told["loss"]["link"]
    shape = (1, *told["output_shape"])
    if not told["loss"]["own"]:
        loss = losses.choose(name, task, shape)
    elif link is None:
        raise StoreError(
            f"How the outputs are to be read was not written down, since the loss `{name}` is your own and training "
            "did not come to its end. Go on with the run (--resume), or take its parameters: dlfb_lab.restore."
        )
    elif given.loss is None:
        missing.append(f"loss={name}")
        loss = replace(losses.choose(None, task, shape), link=link)
    else:
        loss = replace(losses.choose(given.loss, task, shape), link=link)
    own = [metric for metric, own in told["metrics"] if own]
    if given.metrics is not None:
        chosen = [given.metrics] if isinstance(given.metrics, str) or callable(given.metrics) else list(given.metrics)
        metrics = metric_table.choose(chosen, task)
    else:
        metrics = metric_table.choose([metric for metric, own in told["metrics"] if not own], task)
        missing += [f"metrics=[{', '.join(own)}]"] if own else []
    if not missing:
        return loss, metrics, ""
    return (
        loss,
        metrics,
        f"functions of yours, which scores need, are not here. Give them: open_run(…, {', '.join(missing)})",
    )


def _refusing(why: str) -> Callable[[Any], dict[str, float]]:
    def scores(part: Any) -> dict[str, float]:
        raise OptionError(f"evaluate: {why}.")

    return scores


def _optimizer(started: RunStarted, adapted: Any) -> tuple[Any, dict[str, Any]]:
    """Returns the optimizer, as far as what was written down tells."""
    s = started.settings
    if adapted.optimizer is not None:
        r = TrainRequest(clip=s.get("clip"), accumulate=s.get("accumulate"))
    else:
        names = ("optimizer", "lr", "schedule", "warmup", "weight_decay", "decay_mask", "clip", "accumulate", "freeze")
        said: dict[str, Any] = {name: s.get(name) for name in names}
        r = TrainRequest(**said)
    try:
        return optimizer_of(r, adapted, "model", started.steps_total)
    except DlfbLabError:
        return None, {}


def _state(selection: Selection, adapted: Any, part: Part, optimizer: Any) -> ModelState:
    """Returns the state that was saved, with the axis of members, in arrays of its own."""
    members = len(selection.sources) if selection.member is not None else 0

    def start(x: PyTree) -> Any:
        params, extra, opt_state = adapted.start(jax.random.key(0), x)
        if opt_state is None and optimizer is not None:
            opt_state = optimizer.make(dict(optimizer.hyper)).init(params)
        return ModelState(params, extra, opt_state)

    one = jax.eval_shape(start, jax.tree.map(jnp.asarray, part.sample(1)[0]))
    template = jax.tree.map(lambda a: jax.ShapeDtypeStruct((members, *a.shape), a.dtype), one) if members else one
    arrays = dict(selection.all_members())
    wrong = [*differences(template.params, arrays, "params"), *differences(template.extra, arrays, "extra")]
    if wrong:
        more = f"; and {len(wrong) - 3:,} more" if len(wrong) > 3 else ""
        raise ModelError(
            f"The model is not the one that {selection.found.path.name} trained: {'; '.join(wrong[:3])}{more}. "
            "Make it as it was."
        )
    if template.opt_state is None or differences(template.opt_state, arrays, "opt_state"):
        # Of an optimizer that is not known its arrays by name.
        opt_state = {name: array for name, array in arrays.items() if name.startswith("opt_state/")}
    else:
        opt_state = into(template.opt_state, arrays, "opt_state")
    return ModelState(into(template.params, arrays, "params"), into(template.extra, arrays, "extra"), opt_state)
