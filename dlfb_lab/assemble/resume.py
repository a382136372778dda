"""Going on with a run from one of its checkpoints: which, and whether what is given now is what was trained then."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, Literal

import jax
import jax.numpy as jnp
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
from dlfb_lab.models.copies import changes_in_place, copied
from dlfb_lab.models.fingerprint import digest, fingerprint
from dlfb_lab.record import Record
from dlfb_lab.run import Run

SMALLER = 0.5
"""What a learning rate is multiplied with after a run has diverged."""

PLAIN = (str, int, float, type(None))

MOST_DEPTH = 12
"""How far the parts of an optimizer are followed."""

SAMPLE_BYTES = 1 << 24
"""Of an array that are compared; of a larger one, rows at equal distances."""

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
        "code": digest(tuple(_code(r))),
        # What is said in words or numbers stands among the settings, with what was left out filled in.
        "optimizer": digest(tuple(_parts(given) for given in (r.optimizer, r.lr) if not isinstance(given, PLAIN))),
        "arguments": digest((_parts(r.args),)),
    }


def _parts(value: Any, depth: int = 0) -> Hashable:
    """Returns what an object is made of: numbers, names of functions and what they hold, fields; arrays by content."""
    if depth > MOST_DEPTH or isinstance(value, type | ModuleType):
        return getattr(value, "__qualname__", str(type(value)))
    if isinstance(value, str | bool | int | float | type(None)):
        return repr(value)
    if isinstance(value, jax.Array | np.ndarray) and not jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        array = np.asarray(value)
        return str((array.shape, array.dtype)), xxhash.xxh3_64_hexdigest(_sample(array))
    if isinstance(value, partial):
        return tuple(_parts(part, depth + 1) for part in (value.func, value.args, value.keywords))
    if isinstance(value, Mapping):
        return tuple((str(key), _parts(item, depth + 1)) for key, item in value.items())
    if isinstance(value, tuple | list):
        return type(value).__name__, *(_parts(item, depth + 1) for item in value)
    if isinstance(value, FunctionType):
        cells = [_held(cell) for cell in value.__closure__ or ()]
        return value.__qualname__, *(
            _parts(part, depth + 1) for part in (cells, value.__defaults__, value.__kwdefaults__)
        )
    torch, keras = sys.modules.get("torch"), sys.modules.get("keras")
    if torch is not None and isinstance(value, torch.optim.Optimizer):
        groups = [{name: v for name, v in group.items() if name != "params"} for group in value.param_groups]
        return type(value).__qualname__, _parts(groups, depth + 1)
    if keras is not None and isinstance(value, keras.optimizers.Optimizer):
        return type(value).__qualname__, _parts(value.get_config(), depth + 1)
    return type(value).__qualname__


def _held(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return None


MODES = frozenset(("deterministic", "use_running_average", "training"))
"""Attributes of nnx modules that say whether this is training."""


def _architecture(model: Any) -> Hashable:
    """Returns how a module that holds its parameters is built; "" for others, whose fields are a part of the code."""
    torch, keras = sys.modules.get("torch"), sys.modules.get("keras")
    nnx, eqx = sys.modules.get("flax.nnx"), sys.modules.get("equinox")
    if nnx is not None and isinstance(model, nnx.Module):
        return tuple(
            (path, type(node).__qualname__, fingerprint(_static(node)))
            for path, node in nnx.iter_graph(model)
            if isinstance(node, nnx.Pytree)
        )
    if eqx is not None and isinstance(model, eqx.Module):
        return fingerprint(eqx.filter(model, eqx.is_array, inverse=True))
    if torch is not None and isinstance(model, torch.nn.Module):
        return repr(model)
    if keras is not None and isinstance(model, keras.Model):
        try:
            return str(model.to_json())
        except Exception:  # of layers of the user's own
            return ""
    return ""


def _static(node: Any) -> dict[str, Any]:
    """Returns the attributes of an nnx module that are neither its parts nor of Flax, nor say in which mode it is."""
    nnx = sys.modules["flax.nnx"]
    return {
        name: value
        for name, value in vars(node).items()
        if name not in MODES
        and not name.startswith("_pytree__")
        and not any(isinstance(leaf, nnx.Pytree | nnx.Variable | jax.Array) for leaf in _leaves(value))
    }


def _leaves(value: Any) -> list[Any]:
    nnx = sys.modules["flax.nnx"]
    return list(jax.tree.leaves(value, is_leaf=lambda part: isinstance(part, nnx.Pytree | nnx.Variable)))


def _code(r: TrainRequest) -> Iterator[Any]:
    model = r.model
    if isinstance(model, tuple):
        model = model[0]
    elif hasattr(model, "apply_fn"):
        model = getattr(model.apply_fn, "__self__", model.apply_fn)
    # Of an object that holds parameters the class alone: they change.
    plain = dataclasses.is_dataclass(model) and not isinstance(model, type) and jax.tree_util.all_leaves([model])
    yield fingerprint(model if plain or (callable(model) and hasattr(model, "__code__")) else type(model))
    yield _architecture(model)
    for given in (r.step, r.eval_step, r.loss, r.metrics):
        yield fingerprint(given)


def _of_data(experiment: Experiment) -> str:
    found = xxhash.xxh3_64(experiment.split_hash.encode())
    for part in (experiment.train, experiment.valid):
        if isinstance(part, Streamed):
            leaves = jax.tree.leaves(part.stream.first)
            found.update(f"{part.stream.name} {[(a.shape[1:], str(a.dtype)) for a in leaves]}".encode())
        elif isinstance(part, Rows):
            for leaf in jax.tree.leaves(part.tree):
                found.update(f"{np.shape(leaf)} {getattr(leaf, 'dtype', '')}".encode())
                if not is_lazy(leaf):
                    found.update(_sample(np.asarray(leaf)))
    return found.hexdigest()


def _sample(array: np.ndarray[Any, Any]) -> bytes:
    if array.nbytes > SAMPLE_BYTES and array.ndim:
        array = array[:: -(-array.nbytes // SAMPLE_BYTES)]
    return array.tobytes()


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
    for name, what in (("optimizer", "the optimizer's own numbers"), ("arguments", "--args")):
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
