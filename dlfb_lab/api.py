"""The functions behind the public names. They pick the sinks."""

from __future__ import annotations

import contextlib
import math
import shutil
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from html import escape
from pathlib import Path
from time import monotonic
from typing import Any, Literal

from dlfb_lab import assemble, journal, register
from dlfb_lab.assemble import TrainRequest, one_after_another, reopening, restoring, resume
from dlfb_lab.checkpoints.difference import difference, ordered
from dlfb_lab.checkpoints.export import What
from dlfb_lab.checkpoints.selection import Which
from dlfb_lab.data.source import Array
from dlfb_lab.engine import loop, saved, saving
from dlfb_lab.engine.clock import seconds
from dlfb_lab.engine.control import interrupts_stop
from dlfb_lab.engine.saving import Saver
from dlfb_lab.errors import DlfbLabError, OptionError, StoreError
from dlfb_lab.events import Sink
from dlfb_lab.inbox import Inbox
from dlfb_lab.record import Record
from dlfb_lab.run import Run, Session
from dlfb_lab.views import bundle, summary, tables

ROLLBACKS = 5
"""How often a run that diverges is tried again."""


def train(
    model: Any = None,
    data: Any = None,
    *,
    target: str | None = None,
    task: str | None = None,
    loss: str | Callable[..., Any] | None = None,
    metrics: str | Callable[..., Any] | Iterable[str | Callable[..., Any]] | None = None,
    valid: Any = None,
    test: Any = None,
    groups: Any = None,
    scale: bool = False,
    epochs: int | None = None,
    steps: int | None = None,
    batch_size: int | Literal["full"] | None = None,
    eval_batch_size: int | Literal["full"] | None = None,
    optimizer: Any = None,
    lr: Any = None,
    schedule: str | None = None,
    warmup: float | None = None,
    weight_decay: float | None = None,
    decay_mask: Any = None,
    clip: float | None = None,
    accumulate: int | None = None,
    class_weights: Any = None,
    precision: str | None = None,
    remat: bool = False,
    early_stop: str | None = None,
    init_from: Any = None,
    freeze: Any = None,
    seed: int = 0,
    seeds: int | None = None,
    sweep: str | None = None,
    eval_every: int | None = None,
    step: Callable[..., Any] | None = None,
    eval_step: Callable[..., Any] | None = None,
    state: Any = None,
    args: dict[str, Any] | None = None,
    plan: str = "auto",
    devices: int | Literal["all"] = 1,
    name: str | None = None,
    timebox: str | float | None = None,
    checkpoint: str | None = None,
    on_nan: str = "stop",
    resume: Any = None,
    store: str | Path | None = None,
    background: bool = False,
    debug: bool = False,
) -> Run:
    """Trains a model, shows it live, and keeps the run on disk.

    Args:
        model: a Flax linen or nnx module, a Flax `TrainState`, an Equinox module, a Keras model, a PyTorch module, or
            `(apply, params)` for a function `apply(params, x)`. With `step`, the data take its place.
        data: `(x, y)` of arrays, shape [rows, ...]; a dict of arrays; a DataFrame or AnnData with `target`; a
            `tf.data.Dataset`, a PyTorch Dataset or DataLoader; an iterable of batches or of examples, or a function
            that returns one for each epoch.
        target: the column or key to predict.
        task: "binary", "multiclass", "multilabel", "regression" or "reconstruction"; inferred from the targets when
            left out.
        loss: a name or a function of (y_true, y_pred); by default what suits the task.
        metrics: names or functions of (y_true, y_pred); by default what suits the task.
        valid: fraction of the rows to evaluate on while training, or a set like `data`.
        test: fraction of the rows that training never touches, or a set like `data`.
        groups: a column's name or what each row belongs to, shape [rows]; a group is never divided.
        scale: whether to standardise inputs with the training rows' statistics.
        epochs: passes over the training rows; 20 if neither `epochs` nor `steps` is given.
        steps: updates, instead of epochs.
        batch_size: rows per update, or "full"; 32 by default.
        eval_batch_size: rows per call of `eval_step`, or "full"; as `batch_size` by default.
        optimizer: an optax name or object; Adam by default.
        lr: learning rate, 1e-3 by default (0.01 for sgd); an optax schedule; or "find", to try rates first.
        schedule: how the rate falls: "constant", "cosine", "linear" or "exponential".
        warmup: steps over which the rate rises from 0, or a fraction of all steps.
        weight_decay: decoupled weight decay.
        decay_mask: what decays: "weights" (all but biases and norms, the default), "all", a pattern of paths, or a
            pytree of bools.
        clip: largest norm of the gradient over all parameters.
        accumulate: batches whose gradients are averaged for one update.
        class_weights: "balanced", or a weight for each class.
        precision: "bf16" (mixed), "tf32" or "f32".
        remat: whether activations are computed anew for the gradient.
        early_stop: "METRIC:PATIENCE"; goes back to the best parameters at the end.
        init_from: a run or a pytree of parameters to start from, matched by path and shape.
        freeze: patterns of parameter paths that are not trained.
        seed: of the split, the initial parameters, the order of rows, and dropout.
        seeds: how many initialisations to train at once; the best is handed back.
        sweep: "NAME=A,B,…": a member for each value, at once where it is a number of the optimizer.
        eval_every: epochs (steps, if `steps` is given) between evaluations.
        step: a training step of your own, (state, batch[, key]) to (state, loss), (state, (loss, parts)) or
            (state, metrics).
        eval_step: an evaluation step of your own, (state, batch[, key]) to a loss or metrics.
        state: what `step` starts from, any pytree.
        args: further arguments of both, by name; arrays in them are traced, all else is static.
        plan: "auto" measures whether many steps in a dispatch are faster; "fused" and "step" decide.
        devices: local devices that share each batch, or "all".
        name: what to call the run.
        timebox: when to stop in any case: seconds, or text such as "10m".
        checkpoint: how often to save the state and what to keep, such as "every=100,keep=3,best=2" (steps) or
            "every=5m"; "off" for never. By default as often as costs at most 3 % of the time, and always at the end;
            the latest and the best are kept.
        on_nan: what to do where a loss or a parameter becomes NaN or infinite: "stop", and say where it began;
            "rollback", which goes back to the last good checkpoint with half the learning rate, as a run of its own;
            or "warn".
        resume: a run, its id, name or folder, with "@step" behind it for a checkpoint that is not the latest. A run
            that was cut short goes on as if it had not been; with other options, or from an earlier step, another run
            begins there.
        store: folder to keep the run in; `dlfb_runs` in the working folder by default.
        background: whether to return at once and train in a thread.
        debug: whether to run steps without jit.

    Returns:
        The run. An interrupt stops it, and returns it with what it has.

    Raises:
        DataError: the data cannot be trained on as they are.
        ModelError: the model cannot be trained, or does not fit the data.
        OptionError: an option cannot be used.
    """
    return train_request(TrainRequest(**locals()))


def train_request(request: TrainRequest) -> Run:
    """Trains what was asked for; see `train`."""
    requests = one_after_another(request)
    return _train_each(requests) if requests is not None else _train(request)


def _train(request: TrainRequest) -> Run:
    """Trains one run; where it diverges, goes back and tries smaller learning rates, if that was asked for."""
    if request.on_nan != "rollback":
        return _train_one(request)
    rollback, end_s = resume.Rollback(request), monotonic() + (seconds(request.timebox) or math.inf)
    run = _train_one(request)
    for tries in range(ROLLBACKS):
        left_s = end_s - monotonic()
        if not run.diverged or run.told_to_stop or left_s <= 0:
            break
        request = rollback.after(request, run)
        # The last one is saved where it ends.
        last = "stop" if tries == ROLLBACKS - 1 else "rollback"
        request = replace(request, on_nan=last, timebox=left_s if request.timebox is not None else None)
        at, step = str(request.resume or "").rpartition("@")[1:]
        back = f"step {step}" if at else "the start"
        print(f"{run.id} diverged. It is tried again from {back} with --lr {request.lr:g}.")  # noqa: T201
        run = _train_one(request)
    return run


def _train_each(requests: Iterable[TrainRequest]) -> Run:
    """Trains the runs of a sweep, and hands back the best, with all in `sweep`."""
    runs = Runs()
    for request in requests:
        try:
            runs.append(_train(request))
        except DlfbLabError as error:
            if not runs:
                raise
            # What the others have learned is not lost for one that cannot be trained.
            warnings.warn(f"{request.name} was not trained: {error}", stacklevel=4)
            continue
        if runs[-1].status != "finished" and not runs[-1].diverged:
            break
    best = min(runs, key=lambda run: run.rank)
    best.sweep = list(runs)
    return best


def _train_one(request: TrainRequest) -> Run:
    origin = None if request.resume is None else resume.find(request.resume, request.store)
    session, rows_of = assemble.session(request)
    session = replace(session, again=lambda run: train_request(replace(request, resume=run)))
    experiment, control = session.experiment, session.control
    prints = resume.fingerprints(request, experiment)
    snapshot, parent, before = None, "", Record()
    if origin is None:
        kept, notices = _keep(request, session, rows_of)
    else:
        changes = resume.differences(origin, prints, experiment)
        snapshot = origin.snapshot
        if changes or not origin.latest:
            parent, snapshot = origin.path.name, resume.forked(snapshot, changes)
            kept, notices = _keep(request, session, rows_of)
            notices = [resume.said(origin, changes), *resume.nothing_left(origin, session.plan.steps_total), *notices]
        else:
            # Before the run is this process's own.
            notices = [*resume.at_the_end(origin), *resume.elsewhere(origin)]
            kept = journal.rewound(origin.path, origin.checkpoint.step, int(snapshot.place["evaluated_at"]))
            before = Record(journal.read(origin.path))
            # All else was said when it began.
            experiment = replace(experiment, notices=())
        notices = [*notices, *resume.read_again(snapshot, experiment)]
    saver, room = _saver(session, kept, prints)
    run_id = kept.path.name if kept is not None else experiment.name
    run = Run(before, None if kept is None else kept.path, session)
    if kept is not None:
        control.requests = Inbox(kept.path).take
    views = bundle.open_view(run, control.ask if request.background else None)
    sinks: list[Sink] = [*([kept] if kept is not None else []), *views]
    experiment = replace(experiment, notices=(*notices, *room, *experiment.notices))
    for event in before.events:
        for view in views:
            with contextlib.suppress(Exception):  # a view must not end training
                view.put(event)
    events = loop.train(experiment, session.plan, control, session.trainer, run_id, saver, snapshot, parent)

    def train() -> None:
        try:
            run.train(events, sinks)
        except StoreError:
            # A fork that could not take its parent's state has nothing to tell.
            if parent and kept is not None and not run.record.blocks:
                shutil.rmtree(kept.path, ignore_errors=True)
            elif origin is not None and kept is not None and len(run.record.blocks) == len(before.blocks):
                journal.put_back(kept.path)
            raise
        finally:
            if saver is not None:
                saver.close(run.add)
            _note_link(run)

    if not request.background:
        with interrupts_stop(control):
            train()
        return run

    def drive() -> None:
        try:
            train()
        except Exception:
            # Nobody is there to catch it here: the run keeps it, and its view shows it.
            return

    threading.Thread(target=drive, name=f"train {run_id}", daemon=True).start()
    return run


def _note_link(run: Run) -> None:
    """Writes down how outputs are read where only training could tell: beside a loss of the user's own."""
    if run.path is not None and run.link:
        with contextlib.suppress(StoreError, OSError):
            told = journal.read_preparation(run.path)
            if told.get("loss", {}).get("own"):
                journal.write_preparation(run.path, {**told, "loss": {**told["loss"], "link": run.link}})


def _saver(
    session: Session, kept: journal.Journal | None, prints: dict[str, str]
) -> tuple[Saver | None, list[tuple[Literal["info", "warning"], str]]]:
    """Returns what saves the run's state, and what to say of the room for it.

    None where it has no folder, or nothing is to be saved.
    """
    if kept is None or session.saving is None:
        return None, []
    plan = session.plan
    # Parameters, and two more of each for the optimizer, as Adam has them.
    state_bytes = 3 * 4 * plan.parameter_count * max(1, len(session.experiment.members))
    saver = Saver(
        kept.path,
        session.saving,
        plan.monitor,
        plan.monitor_mode,
        fingerprints=prints,
        state_bytes=state_bytes,
    )
    return saver, saving.room(kept.path, session.saving, state_bytes)


def _keep(
    request: TrainRequest, session: Session, rows_of: dict[str, Array]
) -> tuple[journal.Journal | None, list[tuple[Literal["info", "warning"], str]]]:
    """Makes the run's folder; where that fails, training goes on without one."""
    name = session.experiment.name
    store = journal.store_folder(request.store)
    try:
        cut = None if request.resume is not None else resume.interrupted(store, request.source)
        same = sum(started.name == name for _, started in journal.list_runs(store)) if request.name else 0
        kept = journal.create(store, name)
        journal.write_split(kept.path, rows_of)
        journal.write_preparation(kept.path, reopening.preparation(request, session))
    except (StoreError, OSError) as error:
        said = str(error).rstrip(".")
        return None, [("warning", f"{said}. Nothing of this run is kept on disk. Give another folder with --store.")]
    notices: list[tuple[Literal["info", "warning"], str]] = []
    if cut is not None:
        path, step, saved = cut
        text = (
            f"This cell's run {path.name} was cut short at step {step:,}; its checkpoint of step {saved:,} is whole. "
            f"To go on with it instead: add --resume {path.name}"
        )
        notices.append(("info", text))
    try:
        register.note(store)
    except OSError as error:
        text = f"JupyterLab will not find this run: its store could not be noted ({error.strerror or error})."
        notices.append(("info", text))
    if same:
        others = "another run is" if same == 1 else f"{same} more runs are"
        text = f"In this store {others} named `{name}`. All are kept; this one is `{kept.path.name}`."
        notices.append(("info", text))
    return kept, notices


class Runs(list[Run]):
    """Runs, oldest first; shown as a table."""

    def __repr__(self) -> str:
        return "\n".join(repr(run) for run in self) or "no runs"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{escape(run.id)}</td><td>{escape(summary.headline(run.record, run.status))}</td></tr>"
            for run in self
        )
        return f"<table><thead><tr><th>id</th><th>run</th></tr></thead><tbody>{rows}</tbody></table>"


def runs(store: str | Path | None = None) -> Runs:
    """Lists the runs of a store, oldest first.

    Args:
        store: its folder; `dlfb_runs` in the working folder by default.
    """
    return Runs(_opened(journal.store_folder(store)))


def _opened(store: Path) -> Iterator[Run]:
    for path, _ in journal.list_runs(store):
        yield Run.open(path, partial(reopening.reopened, given=reopening.Given()))


def open_run(
    run: str | Path,
    store: str | Path | None = None,
    *,
    model: Any = None,
    loss: Callable[..., Any] | None = None,
    metrics: str | Callable[..., Any] | Iterable[str | Callable[..., Any]] | None = None,
) -> Run:
    """Opens a run that was trained before, in this kernel or another.

    Its history is read at once. When it is asked to predict, its parameters are restored from its checkpoint: those
    that training handed back, or the latest of a run that was cut short.

    Args:
        run: its id, a name that only one run has, or its folder.
        store: the folder to look in; `dlfb_runs` in the working folder by default.
        model: the model, made as for training, of which modules of nnx and Keras are changed in place; by default it is
            made from what was written down, where that is a linen module whose class can be imported or is defined.
        loss: where it was a function of your own, for `evaluate`.
        metrics: as for training, where functions of your own were among them, for `evaluate`.

    Raises:
        StoreError: there is no such run.
    """
    path = Path(run).expanduser().absolute()
    if not (path / journal.EVENTS).exists():
        path = journal.find(journal.store_folder(store), str(run))
    given = reopening.Given(model=model, loss=loss, metrics=metrics)
    return Run.open(path, partial(reopening.reopened, given=given))


def restore(
    run: Any,
    into: Any = None,
    *,
    which: Which | None = None,
    member: int | str | None = None,
    dry_run: bool = False,
    cast: bool = False,
    store: str | Path | None = None,
) -> Any:
    """Takes a state from a run's checkpoint; what was decided on the way is printed.

    Args:
        run: a run, its id, name or folder, with "@step" behind it for a checkpoint that is not the latest.
        into: what the values are put into: parameters, variables, a TrainState, an nnx or Equinox module, a Keras
            model, or the state of a step of your own. Leaves are matched by path and shape. Modules of nnx and Keras
            are changed in place, of all else there is a new one. None for nested dicts of NumPy arrays.
        which: "now" for the state of the checkpoint's step, or "best" for the best until then, where training stops
            early. By default what training handed back, or the state of the step that was named.
        member: number or name of one of several members; the best by default.
        dry_run: whether to change nothing, and return a table of how each leaf fits.
        cast: whether values are converted to the dtypes of `into`; else another dtype is refused.
        store: the folder to look in; `dlfb_runs` in the working folder by default.

    Returns:
        An object like `into` with the saved values; without it the parameters as nested dicts.

    Raises:
        OptionError: a leaf does not fit; names all that do not, and nothing has been changed.
        StoreError: there is no such run or checkpoint, or it cannot be used; says which can.
    """
    restored, state, said = restore_said(run, into, which=which, member=member, dry_run=dry_run, cast=cast, store=store)
    for text in [*said, *([f"{state}."] if "," in state.partition(", step ")[2] else [])]:
        print(text)  # noqa: T201 - what was decided is said aloud
    return restored


def restore_said(
    run: Any,
    into: Any = None,
    *,
    which: Which | None = None,
    member: int | str | None = None,
    dry_run: bool = False,
    cast: bool = False,
    store: str | Path | None = None,
) -> tuple[Any, str, list[str]]:
    """As `restore`; returns which state it is, and what the user should know of it, beside the restored object."""
    if dry_run and into is None:
        raise OptionError("restore: a dry run tells how a state fits. Say what it is to be put into.")
    selection = saved.selected(run, store, "restore", which=which, member=member)
    state, said = f"{selection.found.path.name}, {selection.said}", list(selection.notes)
    if dry_run:
        return tables.of_fit(state, restoring.fit(selection, into)[1]), state, said
    if into is None:
        return restoring.nested(selection), state, said
    restored, converted = restoring.restored(selection, into, cast)
    return restored, state, [*said, *([converted] if converted else [])]


def diff(a: Any, b: Any, *, store: str | Path | None = None) -> tables.LeafTable:
    """Compares the states of two checkpoints: first their structure, then how much each array has changed.

    An array at a time is in memory. Norms are computed in float64, of the numbers that are finite in both. Several
    members are compared as a whole.

    Args:
        a: a run, its id, name or folder, with "@step" behind it for a checkpoint that is not the latest; or one of
            `run.checkpoints`.
        b: another.
        store: the folder to look in; `dlfb_runs` in the working folder by default.

    Returns:
        A table of the arrays, parameters first and the largest changes first; as a DataFrame in `table`.

    Raises:
        OptionError: the step is no number.
        StoreError: there is no such run or checkpoint, or it cannot be read.
    """
    both = [
        saved.selected(one, store, "diff", which="now", member="all", states=("complete", "not finite"))
        for one in (a, b)
    ]
    return tables.of_difference(both[0].found.name, both[1].found.name, ordered(difference(*both)))


def export(
    run: Any,
    path: str | Path,
    what: What = "params",
    *,
    which: Which | None = None,
    member: int | str | None = None,
    overwrite: bool = False,
    store: str | Path | None = None,
) -> Path:
    """Writes parameters from a run's checkpoint as a file of safetensors, which is read back before it counts.

    Args:
        run: see `restore`.
        path: the file.
        what: "params"; "variables", the parameters and the model's other collections; or "state", all there is.
        which: see `restore`.
        member: see `restore`.
        overwrite: whether a file of that name is replaced.
        store: the folder to look in; `dlfb_runs` in the working folder by default.

    Returns:
        The file's absolute path.

    Raises:
        OptionError: there is no such part of the state, or safetensors has no such dtype.
        StoreError: there is no such run or checkpoint, or the file cannot be written. Nothing is left of it.
    """
    return saved.export(run, path, what, which=which, member=member, overwrite=overwrite, store=store)
