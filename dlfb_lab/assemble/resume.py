"""Going on with a run from one of its checkpoints: which, and whether what is given now is what was trained then."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from operator import attrgetter
from pathlib import Path
from types import FunctionType, MethodType
from typing import Any, Literal

import jax
import numpy as np
import xxhash

from dlfb_lab import journal, models
from dlfb_lab.assemble.request import TrainRequest
from dlfb_lab.checkpoints import finding, folder, keeping
from dlfb_lab.checkpoints.arrays import read_all
from dlfb_lab.checkpoints.folder import Checkpoint
from dlfb_lab.data.lazy import is_lazy
from dlfb_lab.engine import saving
from dlfb_lab.engine.experiment import Experiment
from dlfb_lab.engine.feed import Rows, Streamed
from dlfb_lab.engine.snapshot import Snapshot
from dlfb_lab.errors import StoreError
from dlfb_lab.events import RunStarted
from dlfb_lab.models import keras_key
from dlfb_lab.models.content import digest, sampled
from dlfb_lab.models.copies import changes_in_place, copied
from dlfb_lab.models.forms import is_number
from dlfb_lab.record import Record
from dlfb_lab.run import Run

SMALLER = 0.5
"""What a learning rate is multiplied with after a run has diverged."""

PLAIN = (str, int, float, np.generic, type(None))

LAZY_ROWS, LAZY_BYTES = 16, 1 << 22
"""Of an array that is not in memory, which are read to be compared."""

UNIMPORTANT = frozenset(("plan", "timebox", "background", "debug", "checkpoint", "on_nan"))
"""Settings with which the numbers are the same."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What training goes on from.

    Attributes:
        path: the run's folder.
        started: its plan.
        checkpoint: the one that was chosen.
        snapshot: what is in it.
        latest: whether there is no later one.
        ended: whether the run came to its planned end, and this is it.
        over: whether its training has come to any end.
    """

    path: Path
    started: RunStarted
    checkpoint: Checkpoint
    snapshot: Snapshot
    latest: bool
    ended: bool
    over: bool


def find(asked: Any, store: str | Path | None) -> Origin:
    """Reads the checkpoint that is asked for.

    Args:
        asked: a run, its id, name or folder; with "@step" behind it for one that is not the latest.
        store: the folder to look in.

    Raises:
        OptionError: the step is no number.
        StoreError: there is no such run or checkpoint, it is damaged, or the run is being trained.
    """
    path, step = finding.located(asked, store, "--resume")
    record = Record(journal.read(path))
    if record.started is None:
        raise StoreError(f"--resume: `{path}` holds no run: its journal has no beginning.")
    journal.refuse_trained(path)
    # The last state of a run of this process may be on its way to the disk.
    saving.wait()
    found = finding.chosen(path, step, "--resume")
    manifest = found.verified()
    return Origin(
        path=path,
        started=record.started,
        checkpoint=found.checkpoint,
        snapshot=Snapshot(read_all(found.checkpoint, manifest), manifest.place, manifest.metrics),
        latest=found.latest,
        ended=record.status is not None and record.status.state == "finished" and found.checkpoint.step >= record.step,
        over=record.ended,
    )


def fingerprints(r: TrainRequest, experiment: Experiment) -> dict[str, str]:
    """Returns what tells whether a run is trained on as it was begun: of its data, optimizer and code."""
    return {
        "data": _of_data(experiment),
        "reading": digest(_reading(r)) if isinstance(experiment.train, Streamed) else "",
        "code": digest(*_code(r)),
        # What is said in words or numbers stands among the settings, with what was left out filled in.
        "optimizer": digest(
            *(given for given in (r.optimizer, r.lr) if not isinstance(given, PLAIN)),
            r.decay_mask if callable(r.decay_mask) else None,
            _own_optimizer(r.model, "lr" in experiment.settings),
        ),
        "arguments": digest(r.args),
    }


def _reading(r: TrainRequest) -> Any:
    """Returns the function of the user's that opens the data, if there is one: what it reads is not read again."""
    data = r.model if r.data is None else r.data
    return data if isinstance(data, FunctionType | MethodType | partial) else None


def _own_optimizer(model: Any, rate_is_said: bool) -> Any:
    """Returns the optimizer that a model brings along, or None."""
    if hasattr(model, "apply_fn"):
        return getattr(model, "tx", None)
    keras = sys.modules.get("keras")
    if keras is None or not isinstance(model, keras.Model) or not model.compiled:
        return None
    return keras_key.configured(model.optimizer, with_rate=not rate_is_said)


def _code(r: TrainRequest) -> Iterator[Any]:
    model, eqx = r.model, sys.modules.get("equinox")
    if isinstance(model, tuple):
        model = model[0]
    elif hasattr(model, "apply_fn"):
        model = getattr(model.apply_fn, "__self__", model.apply_fn)
    yield type(model)
    if eqx is not None and isinstance(model, eqx.Module):
        yield _fixed(model, eqx.is_array)
    elif _counts_whole(model):
        yield model
    yield from (r.step, r.eval_step, r.loss, r.metrics)
    yield _fixed(r.state, is_number)


def _counts_whole(model: Any) -> bool:
    """Whether what is looked at of an object does not change when it is trained; else its class alone counts."""
    if callable(model) and (hasattr(model, "__code__") or hasattr(model, "__wrapped__")):
        return True
    if dataclasses.is_dataclass(model) and not isinstance(model, type) and jax.tree_util.all_leaves([model]):
        return True
    holders = (("torch", "nn.Module"), ("keras", "layers.Layer"), ("flax.nnx", "Pytree"))
    known = [attrgetter(path)(sys.modules[name]) for name, path in holders if name in sys.modules]
    return isinstance(model, (partial, *known))


def _fixed(tree: Any, is_value: Callable[[Any], bool]) -> Any:
    """Returns a pytree without the leaves that are trained: a train state's functions, a module's static fields."""
    nnx = sys.modules.get("flax.nnx")
    try:
        leaves, form = jax.tree.flatten(tree, is_leaf=lambda part: nnx is not None and isinstance(part, nnx.Pytree))
        return jax.tree.unflatten(form, [None if is_value(leaf) else leaf for leaf in leaves])
    except Exception:  # of a class that cannot be without values
        return type(tree)


def _of_data(experiment: Experiment) -> str:
    found = xxhash.xxh3_64(experiment.split_hash.encode())
    for part in (experiment.train, experiment.valid):
        if isinstance(part, Streamed):
            leaves = jax.tree.leaves(part.stream.first)
            found.update(f"{part.stream.name} {[(a.shape[1:], str(a.dtype)) for a in leaves]}".encode())
        elif isinstance(part, Rows):
            for leaf in jax.tree.leaves(part.tree):
                found.update(f"{np.shape(leaf)} {getattr(leaf, 'dtype', '')}".encode())
                found.update(sampled(np.asarray(_few(leaf) if is_lazy(leaf) else leaf)))
    return found.hexdigest()


def _few(rows: Any) -> Any:
    """Returns some rows of an array that is not in memory, at equal distances."""
    count = max(1, min(LAZY_ROWS, len(rows), LAZY_BYTES * len(rows) // max(1, rows.nbytes)))
    try:
        return rows[np.linspace(0, len(rows) - 1, count).astype(np.int64)]
    except Exception:  # of what reads them: training says it
        return ()


def differences(origin: Origin, now: dict[str, str], experiment: Experiment) -> list[str]:
    """Returns how what is asked for now differs from the run, in words; empty where it is the same.

    Raises:
        StoreError: the data are others, so that there is no place in them to go on from.
    """
    manifest = origin.checkpoint.manifest
    assert manifest is not None
    then = manifest.fingerprints
    name = origin.path.name
    if then.get("data", now["data"]) != now["data"]:
        raise StoreError(
            f"--resume: the data are not those that {name} was trained on. "
            f"To begin anew with its parameters: --init-from dlfb_lab.open_run({name!r})."
        )
    old, new = origin.started.settings, experiment.settings
    said = [
        f"{key.replace('_', '-')} {_shown(new.get(key))} (it was {_shown(old.get(key))})"
        for key in sorted({*old, *new} - UNIMPORTANT - {"loss", "resume"})
        if old.get(key) != new.get(key)
    ]
    if then.get("code", now["code"]) != now["code"]:
        said.append("the code of the model, its step, loss or metrics")
    for name, what in (
        ("optimizer", "the optimizer's own numbers"),
        ("arguments", "--args"),
        ("reading", "the function that the data come from"),
    ):
        if then.get(name, now[name]) != now[name]:
            said.append(what)
    return said


def forked(snapshot: Snapshot, changes: list[str]) -> Snapshot:
    """Returns what another run begins with: where something was changed, the optimizer's numbers are those of now."""
    if not changes:
        return snapshot
    return snapshot._replace(arrays={k: v for k, v in snapshot.arrays.items() if not k.startswith("hyper/")})


def elsewhere(origin: Origin) -> list[tuple[Literal["info", "warning"], str]]:
    """Returns a warning where a run may still be trained on another machine, which cannot be looked at from here."""
    if origin.over or journal.liveness(origin.path) != "elsewhere":
        return []
    return [("warning", "This run was trained on another machine. If it still is, both write into the same folder.")]


class Rollback:
    """Where to begin again when a run has diverged: further back each time, with a smaller learning rate."""

    def __init__(self, request: TrainRequest) -> None:
        self._first, self._places, self._far = request.resume, list[str](), 1
        # What training changes in place would begin where the run before has ended.
        self._model = request.model if request.step is not None else _pristine(request.model)

    def after(self, request: TrainRequest, run: Run) -> TrainRequest:
        """Returns what to train after a run that diverged.

        It begins from the run's last good checkpoint; where it has none of its own, from an earlier one of the run
        before, for a state can be finite and yet be lost; and where there is none, from where all began.
        """
        rate, started = run.learning_rate, run.record.started
        assert rate is not None and started is not None
        usable = [] if run.path is None else keeping.usable(folder.listed(run.path))
        own = [f"{run.path}@{one.step}" for one in usable if one.step > started.parent_step]
        if own:
            self._places, self._far = own + self._places, 1
        else:
            self._places, self._far = self._places[self._far :], 2 * self._far
        begun = self._places[0] if self._places else self._first
        model = request.model if begun else _pristine(self._model)
        return replace(request, lr=rate * SMALLER, resume=begun, model=model)


def _pristine(model: Any) -> Any:
    return copied(model)[0] if changes_in_place(models.adapt(model)) else model


def nothing_left(origin: Origin, steps: int) -> list[tuple[Literal["info", "warning"], str]]:
    """Returns what the user should know of another run that ends where it begins.

    Args:
        origin: where it begins.
        steps: its last step; 0 where there is none.
    """
    begun = origin.checkpoint.step
    if not steps or steps > begun:
        return []
    text = f"Nothing is left to train: this run begins at step {begun:,} and was to end at step {steps:,}. "
    return [("warning", f"{text}To train further ask for more --epochs or --steps, or begin at an earlier checkpoint.")]


def at_the_end(origin: Origin) -> list[tuple[Literal["info", "warning"], str]]:
    """Returns what the user should know of a run that goes on where there is nothing left to train."""
    if not origin.ended:
        return []
    return [
        (
            "info",
            f"Nothing is left to train: this is its state at step {origin.checkpoint.step:,}. "
            "To train further ask for more --epochs or --steps.",
        )
    ]


def read_again(snapshot: Snapshot, experiment: Experiment) -> list[tuple[Literal["info", "warning"], str]]:
    """Returns what the user should know where only reading leads to the place in the data."""
    count = int(snapshot.place.get("batch", 0))
    if not count or snapshot.place.get("state") or not isinstance(experiment.train, Streamed):
        return []
    name = experiment.train.stream.name
    return [("info", f"The {name} cannot be entered in the middle: its first {count:,} batches are read again.")]


def said(origin: Origin, changes: list[str]) -> tuple[Literal["info", "warning"], str]:
    """Returns what the user should know of a run that begins from another's checkpoint."""
    why = f" Changed: {'; '.join(changes)}." if changes else ""
    return "info", f"A new run, which begins from step {origin.checkpoint.step:,} of {origin.path.name}.{why}"


def _shown(value: Any) -> str:
    return "nothing" if value is None else str(value)


def interrupted(store: Path, source: str) -> tuple[Path, int, int] | None:
    """Returns the latest run that the same cell began if its kernel died: folder, last step, step to go on from."""
    if not source:
        return None
    for path, started in reversed(journal.list_runs(store)):
        if started.source == source:
            record = Record(journal.read(path))
            usable = keeping.usable(folder.listed(path))
            if record.ended or not usable or journal.liveness(path) != "gone":
                return None
            return path, record.step, usable[0].step
    return None
