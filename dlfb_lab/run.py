"""What the user holds in a hand after training."""

from __future__ import annotations

import contextlib
import math
import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dlfb_lab import journal
from dlfb_lab.checkpoints import folder, keeping
from dlfb_lab.checkpoints.folder import Checkpoint
from dlfb_lab.cite import methods_paragraph, ordinal
from dlfb_lab.data.scaling import Scaling, device_inputs
from dlfb_lab.data.source import Array, Inputs, check_finite, inputs_array
from dlfb_lab.data.tables import features, is_table
from dlfb_lab.errors import DataError, DlfbLabError, ModelError, OptionError, StoreError
from dlfb_lab.events import ENDED, Evaluation, Event, Notice, RateTest, Sink, Status
from dlfb_lab.record import Record

if TYPE_CHECKING:
    import pandas as pd

    from dlfb_lab.checkpoints.export import What
    from dlfb_lab.engine.control import Control
    from dlfb_lab.engine.experiment import Experiment, Plan
    from dlfb_lab.engine.feed import Part, Rows
    from dlfb_lab.engine.saving import Asked
    from dlfb_lab.engine.task import Task
    from dlfb_lab.engine.trainer import Trained, Trainer

LOST = "interrupted twice; the parameters were not kept"

presenters: dict[str, Callable[..., Any]] = {}
"""How a run is drawn, by name. The views put themselves here, since a run knows none of them."""


@dataclass(frozen=True, kw_only=True)
class Inference:
    """What predicting and scoring need beside a trained model.

    Attributes:
        task: what is predicted; None where a step of the user's own decides that.
        like: a batch of the training data, on the host: `(x, y)`, or what a step of the user's own takes.
        parts: rows by part name, encoded and scaled; empty in another kernel than the one that trained.
        read: reads new data in the form the user gave the training data in.
        scaling: what inputs are standardised with, if they are.
        feature_names: the columns a table of new inputs must have; empty where there are none.
    """

    task: Task | None
    like: Any
    parts: dict[str, Part | Rows]
    read: Callable[[Any], Part | Rows]
    scaling: Scaling | None
    feature_names: list[str]


@dataclass(frozen=True, kw_only=True)
class Session:
    """What a run needs in the kernel that trains it, beyond its journal.

    Attributes:
        experiment: what was asked for.
        plan: how it runs.
        trainer: runs the steps.
        control: how it is told to stop.
        parts: rows by part name, encoded and scaled.
        read: reads new data in the form the user gave the training data in.
        saving: how often to save the state; None for never.
        again: trains on from a run's latest checkpoint, as was asked for here.
        scaling: what inputs are standardised with, if they are.
        feature_names: the columns a table of new inputs must have; empty where there are none.
    """

    experiment: Experiment
    plan: Plan
    trainer: Trainer
    control: Control
    parts: dict[str, Part | Rows]
    read: Callable[[Any], Part | Rows]
    saving: Asked | None
    scaling: Scaling | None
    feature_names: list[str]
    again: Callable[[Run], Run] | None = None

    @cached_property
    def like(self) -> Any:
        """A batch of the training data, on the host: `(x, y)`, or what a step of the user's own takes."""
        return self.experiment.train.sample(1)

    @cached_property
    def inference(self) -> Inference:
        """What predicting and scoring need."""
        return Inference(
            task=self.experiment.task,
            like=self.like,
            parts=self.parts,
            read=self.read,
            scaling=self.scaling,
            feature_names=self.feature_names,
        )


class Run:
    """A training run: its history, its trained parameters, and what can be asked of them.

    Attributes:
        record: what its events say.
        path: its folder; None where it could not be kept.
        dashboard: the live view as a widget; None where there is none.
        shown_in: number of the cell whose output has the live view; None where there is none.
        sweep: all runs of the sweep whose best this is, in order; empty without one.
        journal_lost: whether the journal could not be written any more, so that it does not tell of this run's end.
    """

    def __init__(
        self,
        record: Record,
        path: Path | None,
        session: Session | None = None,
        reopen: Callable[[Run], tuple[Trained, Inference]] | None = None,
    ) -> None:
        self.record = record
        self.path = path
        self.dashboard: Any = None
        self._session = session
        self._reopen = reopen
        self._inference: Inference | None = None
        self._trained: Trained | None = None
        self._error: BaseException | None = None
        self._over = threading.Event()
        self._sinks: list[Sink] = []
        self.shown_in: int | None = None
        self.sweep: list[Run] = []
        self.journal_lost = False
        if session is None:
            self._over.set()

    @classmethod
    def open(cls, path: Path, reopen: Callable[[Run], tuple[Trained, Inference]] | None = None) -> Run:
        """Reads a run from its folder.

        Args:
            path: the folder.
            reopen: restores what was trained from its checkpoint, when that is asked for.

        Raises:
            StoreError: there is no run in it.
        """
        record = Record(journal.read(path))
        if record.started is None:
            raise StoreError(f"`{path}` holds no run: its journal has no beginning.")
        return cls(record, path, reopen=reopen)

    def train(self, events: Any, sinks: Sequence[Sink]) -> None:
        """Pulls events from a training generator and hands each to the sinks.

        Raises:
            DlfbLabError: training could not go on.
            KeyboardInterrupt: the user interrupted twice.
        """
        self._sinks = [self.record, *sinks]
        try:
            while True:
                self._put(next(events))
        except StopIteration as end:
            self._trained = end.value
        except BaseException as error:
            self._error = error
            if not self.record.ended:
                # A second interrupt can land here, while an event is handed on, where the generator does not see it.
                self._put(Status(step=self.record.step, state="stopped", reason=LOST))
            raise
        finally:
            self._over.set()
            for sink in list(self._sinks):
                self._guarded(sink, sink.close)

    def _put(self, event: Event) -> None:
        for sink in list(self._sinks):
            self._guarded(sink, sink.put, event)

    def _guarded(self, sink: Sink, call: Callable[..., None], *arguments: Any) -> None:
        try:
            call(*arguments)
        except Exception as error:  # a view or a full disk must not end training
            if sink in self._sinks:
                self._sinks.remove(sink)
                with contextlib.suppress(Exception):
                    sink.close()
            what = f"A view ({type(sink).__name__})"
            if isinstance(sink, journal.Journal):
                what, self.journal_lost = "The journal", True
                journal.abandon(sink.path)
            text = f"{what} failed and was let go ({type(error).__name__}: {error}). Training goes on."
            self._put(Notice(step=self.record.step, level="warning", text=text))

    @property
    def id(self) -> str:
        """The run's name in its store, unique there."""
        return self.record.started.run_id if self.record.started else ""

    @property
    def name(self) -> str:
        """The name the user gave it."""
        return (
            self._session.experiment.name if self._session else self.record.started.name if self.record.started else ""
        )

    @property
    def status(self) -> str:
        """compiling, running, paused, finished, stopped or failed; interrupted where its kernel died."""
        state = self.record.status.state if self.record.status else "compiling"
        here = self._session is not None or (self.path is not None and journal.liveness(self.path) == "alive")
        if state in ENDED or here:
            return state
        return "interrupted"

    @property
    def diverged(self) -> bool:
        """Whether training ended here because losses or arrays had become NaN or infinite."""
        return self._trained is not None and self._trained.diverged

    @property
    def told_to_stop(self) -> bool:
        """Whether training here was told to stop."""
        return self._session is not None and self._session.control.stop_reason is not None

    @property
    def link(self) -> str:
        """What turns the trained model's outputs into predictions; "" where that is not known."""
        return self._trained.link if self._trained is not None else ""

    @property
    def learning_rate(self) -> float | None:
        """The rate that this kernel began to train with, at its highest; None where a rate is not known."""
        if self._session is None or self._session.experiment.optimizer is None:
            return None
        found = [event.chosen for event in self.record.events if isinstance(event, RateTest)]
        return found[-1] if found else self._session.experiment.optimizer.hyper.get("lr")

    @property
    def history(self) -> pd.DataFrame:
        """A table indexed by step: `epoch`, `train/loss` of every step, `valid/loss`, `valid/<metric>`.

        Other scalars of a step of the user's own are `train/<name>`. With several members the columns have a second
        level, so that `history["valid/loss"]` is a table with a column for each. The training loss at step s was
        computed with s updates applied.
        """
        return self.record.history()

    @property
    def params(self) -> Any:
        """The trained parameters, a pytree; of several members, those of the best.

        Raises:
            OptionError: what was trained keeps them in an object of its own.
        """
        params = self._finished().params
        if params is None:
            raise OptionError("What was trained keeps its parameters in an object of its own. Use run.state.")
        return params

    @property
    def extra(self) -> Any:
        """The model's other collections, such as batch statistics, a pytree; of several members, those of the best."""
        return self._finished().extra

    @property
    def state(self) -> Any:
        """The trained state in the model's own type: for a `TrainState`, one with the new values in it."""
        return self._finished().finish()

    @property
    def members(self) -> list[Run]:
        """What was trained at once, each as a run of its own with the same history; empty for one model."""
        each = []
        for trained in self._finished().members:
            member = Run(self.record, None, self._session, self._reopen)
            member._trained, member._inference = trained, self._inference
            member._over.set()
            each.append(member)
        return each

    @property
    def rank(self) -> tuple[bool, float]:
        """What runs of a sweep are ordered by: the best monitored score, or else the last training loss."""
        best, started = self.record.best(), self.record.started
        if best is not None and started is not None:
            return False, best[1] if started.monitor_mode == "min" else -best[1]
        losses = self.record.losses()[1]
        last = float(losses[-1]) if len(losses) else math.nan
        return True, last if math.isfinite(last) else math.inf

    @property
    def keras_history(self) -> dict[str, list[float]]:
        """Losses and metrics by name, a list with a value for each epoch, as Keras's `History.history`.

        Raises:
            OptionError: the data were a stream whose epochs are not known.
        """
        from dlfb_lab.models.keras import keras_history

        per_epoch = self.record.started.steps_per_epoch if self.record.started else 0
        if not per_epoch:
            raise OptionError("The epochs of this run are not known, since its data were a stream. Use run.history.")
        return keras_history(self.record, per_epoch)

    def predict(self, x: Any) -> Array:
        """Predicts new rows, scaled as the training rows were.

        Args:
            x: inputs, shape [rows, ...], or a DataFrame with the feature columns.

        Returns:
            Class names, shape [rows]; or 0/1 labels or values, in the shape of the training targets.

        Raises:
            StoreError: this kernel does not have the run's parameters.
            DataError: the inputs do not fit.
            ModelError: the model has diverged.
        """
        task = self._known().task
        if task is None:
            return self._finished().outputs(x)
        said = self._predictions(x)
        if task.classifies:
            values: Array = np.asarray(task.values if task.values else range(task.outputs))
            return np.asarray(values[said.predicted])
        return np.asarray(said.predicted if task.kind == "multilabel" else said.scores)

    def predict_proba(self, x: Any) -> Array:
        """Predicts probabilities: shape [rows, classes], columns as in `classes`; or [rows, labels].

        Raises:
            OptionError: the task is regression.
            StoreError: this kernel does not have the run's parameters.
        """
        task = self._known().task
        if task is None:
            raise OptionError("What the outputs mean, the step of your own decides. Use predict.")
        if task.kind == "regression":
            raise OptionError("A regression has no probabilities. Use predict.")
        return np.asarray(self._predictions(x).scores)

    @property
    def classes(self) -> list[str]:
        """Names of the classes or labels; empty for regression."""
        return list(self.record.started.classes) if self.record.started else []

    def _predictions(self, x: Any) -> Any:
        from dlfb_lab.engine.metrics import Predictions

        trained, known = self._finished(), self._known()
        task = known.task
        assert task is not None
        inputs = _inputs(x, known)
        outputs = trained.outputs(inputs)
        bad = np.asarray(~np.isfinite(outputs.reshape(len(outputs), -1)).all(axis=1))
        if bad.any():
            raise ModelError(
                f"The model's outputs are NaN or infinity for {bad.sum():,} of {len(bad):,} rows: it has diverged. "
                "Train it again with a smaller --lr."
            )
        like = known.like[1]
        unknown = np.zeros((len(outputs), *like.shape[1:]), like.dtype)
        return Predictions(unknown, outputs, task, trained.link)

    def evaluate(self, data: Any) -> dict[str, float]:
        """Scores the trained model, and keeps the scores with the run.

        Args:
            data: "train", "valid", "test", or other data in the form the training data had.

        Returns:
            The loss and every metric, by name.

        Raises:
            OptionError: the run has no such part.
            StoreError: this kernel does not have the run's parameters.
        """
        from time import perf_counter

        trained, known = self._finished(), self._known()
        if isinstance(data, str):
            if data not in known.parts and self._session is None:
                raise OptionError(
                    f"The rows of the part `{data}` were in the kernel that trained. Give rows, such as (x, y); "
                    "run.split() says which they were."
                )
            if data not in known.parts:
                there = ", ".join(known.parts)
                raise OptionError(f"The run has no part `{data}`; it has {there}. Say --{data} 0.2 when training.")
            split, part = data, known.parts[data]
        else:
            split, part = "data", known.read(data)
            if known.task is not None:
                _check_shapes(part.tree[0], known.like[0])
        start = perf_counter()
        scores = trained.scores(part)
        look = self._looks() + 1 if split == "test" else 0
        event = Evaluation(
            step=trained.step,
            split=split,
            metrics=scores,
            rows=len(part),
            duration_s=perf_counter() - start,
            look=look,
        )
        try:
            self.add(event)
        except StoreError as error:
            warnings.warn(f"{error} These scores are not kept with the run.", stacklevel=2)
        if look:
            print(f"test set: {ordinal(look)} look")  # noqa: T201 - a look is said aloud
        return scores

    def add(self, event: Event) -> None:
        """Adds what came after training.

        Raises:
            StoreError: the run's folder cannot be written; the event is known here alone.
        """
        self.record.put(event)
        if self.path is not None:
            journal.append_later(self.path, event)

    @property
    def checkpoints(self) -> list[Checkpoint]:
        """What was saved of the run's states, oldest step first; one that is being saved is "partial"."""
        return [] if self.path is None else folder.listed(self.path)

    def export(self, path: str | Path, what: What = "params", *, overwrite: bool = False) -> Path:
        """Writes the parameters that were saved last as a file of safetensors; see `dlfb_lab.export`.

        Raises:
            OptionError: there is no such part of the state, or safetensors has no such dtype.
            StoreError: nothing was saved, or the file cannot be written. Nothing is left of it.
        """
        from dlfb_lab.engine import saved

        return saved.export(self, path, what, overwrite=overwrite)

    def _looks(self) -> int:
        events = self.record.events
        if self.path is not None:
            with contextlib.suppress(StoreError):
                events = journal.read(self.path)
        return sum(1 for e in events if isinstance(e, Evaluation) and e.split == "test")

    def stop(self) -> None:
        """Stops a run in the background after its current dispatch, and keeps what it has."""
        self._live().control.stop("stopped by run.stop()")

    def pause(self) -> None:
        """Holds a run in the background."""
        self._live().control.pause()

    def resume(self) -> Run:
        """Lets a paused run go on; of one that was stopped, trains on from its latest checkpoint.

        Raises:
            StoreError: it was trained in another kernel, or has no checkpoint.
        """
        session = self._live()
        if not self._over.is_set():
            session.control.resume()
            return self
        assert session.again is not None
        return session.again(self)

    def wait(self, timeout_s: float | None = None) -> Run:
        """Waits until a run in the background is over, or the time is up, and returns the run."""
        self._over.wait(timeout_s)
        return self

    def plot(self) -> Any:
        """Draws losses and metrics; returns a matplotlib Figure."""
        return presenters["plot"](self.record)

    def cite(self) -> str:
        """Returns a methods paragraph to paste: model, data, split, settings, versions and scores."""
        if self.record.started is None:
            raise StoreError("The run has no beginning yet.")
        return methods_paragraph(self.record, self.status)

    def split(self) -> dict[str, Array]:
        """Returns the row numbers of each part, int64, as they were written down.

        Raises:
            StoreError: they were not kept, or the run's folder is gone.
        """
        if self.path is None:
            raise StoreError("The run was not kept, so its split was not written down.")
        return journal.read_split(self.path)

    def _live(self) -> Session:
        if self._session is None:
            saved = [] if self.path is None else keeping.usable(folder.listed(self.path))
            if saved:
                raise StoreError(
                    f"The parameters of `{self.id}` are in its checkpoints; model and data were in another kernel. "
                    f"Give them again, and its latest state, of step {saved[0].step:,}, is restored: "
                    f"dlfb_lab.train(model, data, resume={self.id!r}) with the options it was trained with."
                )
            raise StoreError(
                f"The parameters of `{self.id}` were not saved, and it was trained in another kernel. "
                "Its history and scores are here; to predict, train it again."
            )
        return self._session

    def _known(self) -> Inference:
        """Returns what predicting and scoring need: of this kernel's training, or read from the run's folder."""
        if self._session is not None:
            return self._session.inference
        self._restore()
        assert self._inference is not None
        return self._inference

    def _restore(self) -> None:
        if self._inference is None:
            from dlfb_lab.engine import saving

            saving.wait()
            if self._reopen is None or not self.checkpoints:
                self._live()
            assert self._reopen is not None
            self._trained, self._inference = self._reopen(self)

    def _finished(self) -> Trained:
        if self._session is None:
            self._restore()
        if not self._over.is_set():
            raise DlfbLabError(f"The run is still {self.status}. Wait for it with run.wait(), or run.stop() it.")
        if self._trained is None:
            why = f": {self._error}" if self._error is not None else ""
            raise DlfbLabError(f"The run has {self.status} and left no parameters{why}.")
        return self._trained

    def __repr__(self) -> str:
        return str(presenters["line"](self.record, self.status)) if presenters else f"<Run {self.id} {self.status}>"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return dict(presenters["bundle"](self))


def _inputs(x: Any, known: Inference) -> Inputs:
    """Reads new rows as the training rows were read.

    Raises:
        DataError: they do not fit what the model was trained on, or hold NaN or infinity.
    """
    like, names = known.like[0], known.feature_names
    if is_table(x):
        x = x.set_axis([str(c) for c in x.columns], axis="columns")
        missing = [n for n in names if n not in x.columns]
        if missing:
            raise DataError(f"The table has no column `{missing[0]}`, which the model was trained on.")
        inputs: Inputs = features(x[names] if names else x)
    elif isinstance(x, dict):
        inputs = {str(k): inputs_array(v, f"x[{k!r}]") for k, v in x.items()}
    else:
        inputs = inputs_array(x, "x")
    _check_shapes(inputs, like)
    # A class would be said of rows with NaN as of any other.
    check_finite(inputs, names)
    inputs = device_inputs(inputs, known.scaling)
    if isinstance(inputs, dict) and isinstance(like, dict):
        return {name: _as_trained(array, like[name].dtype, name) for name, array in inputs.items()}
    return _as_trained(np.asarray(inputs), np.asarray(like).dtype, "x")


def _as_trained(array: Array, dtype: np.dtype[Any], name: str) -> Array:
    """Returns inputs in the dtype of the training rows; whole numbers stay whole."""
    converted = array.astype(dtype)
    if dtype.kind in "iu" and not np.array_equal(converted, array):
        wrong = array[converted != array].flat[0]
        raise DataError(
            f"{name} holds {wrong}; the model was trained on whole numbers of type {dtype}, as this is not."
        )
    return converted


def _check_shapes(x: Inputs, like: Inputs) -> None:
    given = x if isinstance(x, dict) else {"x": x}
    wanted = like if isinstance(like, dict) else {"x": like}
    if set(given) != set(wanted):
        raise DataError(f"The inputs are {', '.join(given)}; the model was trained on {', '.join(wanted)}.")
    lengths = {name: len(array) for name, array in given.items()}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name} has {length:,} rows" for name, length in lengths.items())
        raise DataError(f"The inputs have different lengths: {listed}.")
    if 0 in lengths.values():
        raise DataError("The inputs have 0 rows.")
    for name, array in wanted.items():
        if given[name].shape[1:] != array.shape[1:]:
            raise DataError(
                f"{name} has shape {given[name].shape}; the model was trained on rows of shape {array.shape[1:]}."
                + (f" For a single row give {name}[None]." if given[name].shape == array.shape[1:] else "")
            )
