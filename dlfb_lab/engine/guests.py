"""Training by another framework: its own step, one batch at a time, under the same loop."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dlfb_lab.data.prefetch import Late, Prefetch
from dlfb_lab.data.source import Array, Inputs
from dlfb_lab.engine import experiment as experiments
from dlfb_lab.engine.evaluation import Abandoned, Scorer, always, baseline_event, batched_scores, chunk_rows
from dlfb_lab.engine.experiment import Experiment, Plan
from dlfb_lab.engine.feed import START, Batch, EpochEnd, Part, Place, Rows, Streamed
from dlfb_lab.engine.losses import Loss, predictions_look_squashed, refuse_squashed
from dlfb_lab.engine.snapshot import Snapshot
from dlfb_lab.engine.streamed import AHEAD, LATE_S, MOST_STEPS
from dlfb_lab.engine.trainer import Examined, Scores, Trained, check_names
from dlfb_lab.errors import DlfbLabError
from dlfb_lab.events import Event, Notice, PlanChosen
from dlfb_lab.models.model import Guest

SCALES = (1.0, -30.0, 1000.0)
"""Of inputs, at which few outputs stay within 0..1 that are not bounded."""

MOST_ALONE = 64
"""Rows that are each tried alone."""

VARIES = 0.01
"""Outputs that differ less say nothing, as those of parameters that are all zero."""


class GuestTrainer:
    """Runs a guest's own step on batches of the host, in the order that our own programs would take them."""

    def __init__(self, experiment: Experiment, plan: Plan) -> None:
        self.experiment, self.plan = experiment, plan
        self.guest: Guest = experiment.model  # type: ignore[assignment]
        self.names: tuple[str, ...] = ("loss",)
        self.epoch_over = self.exhausted = False
        self.replays = isinstance(experiment.train, Rows) and self.guest.keeps_arrays
        self._step, self._place = 0, START
        self._start: Any = None
        self.least = 1
        self._best: Any = None
        self._batches: Prefetch | None = None
        self._stepped = False
        self._failure: DlfbLabError | None = None
        self._scorer: Scorer | None = None
        if experiment.task is not None and plan.loss is not None:
            self._scorer = _GuestScorer(experiment, plan, self.guest)

    @property
    def state(self) -> dict[str, Array] | None:
        """See `Trainer`: copies on the host."""
        return dict(self.guest.keep()) if self.guest.keeps_arrays else None

    def snapshot(self) -> Snapshot | None:
        """See `Trainer`."""
        if not self.guest.keeps_arrays:
            return None
        arrays = _within("now", self.guest.keep())
        if self._best is not None:
            arrays |= _within("best", self._best)
        return Snapshot(arrays, {"step": self._step, **self._place._asdict()})

    def restart(self, snapshot: Snapshot | None) -> None:
        """See `Replaying`."""
        best, self._failure = self._best, None
        self.epoch_over = self.exhausted = False
        if self._batches is not None:
            self._batches.close()
        if snapshot is not None:
            self._resume(snapshot)
        else:
            self.guest.restore(self._start)
            self._step, self._place = 0, START
        self._best = best
        self._read()

    def held(self) -> Any:
        """See `Replaying`."""
        return self.guest.keep()

    def put_back(self, held: Any, step: int) -> None:
        """See `Replaying`."""
        self.guest.restore(held)
        self._step, self._place = step, Place(*divmod(step, self.plan.steps_per_epoch))

    def examined(self, held: Any, batch: Any, step: int) -> Examined | None:
        """See `Replaying`: the loss of each row in evaluation mode. The guest stands anywhere afterwards."""
        if self._scorer is None or not isinstance(self.experiment.train, Part):
            return None
        self.guest.restore(held)
        x, y = self._pair(batch)
        try:
            outputs = self._outputs(x)
            losses = [self.guest.scores(outputs[i : i + 1], y[i : i + 1])["loss"] for i in range(len(outputs))]
        except DlfbLabError:  # the model or its loss cannot be asked so
            return None
        alone = None
        if np.isfinite(losses).all() and len(losses) <= MOST_ALONE:
            with contextlib.suppress(DlfbLabError):  # such as of a batch norm, which takes no single row
                alone = np.array([self._stays_finite(held, (x, y), i) for i in range(len(losses))])
        return Examined(np.array(losses), [], alone)

    def _stays_finite(self, held: Any, pair: tuple[Inputs, Array], row: int) -> bool:
        self.guest.restore(held)
        x, y = jax.tree.map(lambda a: a[row : row + 1], pair)
        self.guest.step((x, y))
        floats = [array for array in self.guest.keep().values() if jnp.issubdtype(array.dtype, jnp.inexact)]
        return all(np.isfinite(array).all() for array in floats)

    def _resume(self, snapshot: Snapshot) -> None:
        arrays, place = snapshot.arrays, snapshot.place
        self._step, self._place = int(place["step"]), Place(place["epoch"], place["batch"], place.get("state"))
        self._best = _taken("best", arrays) or None
        self.guest.restore(_taken("now", arrays))

    def prepare(self, goes_on: Callable[[], bool], snapshot: Snapshot | None = None) -> Iterator[Event]:
        """See `Trainer`."""
        e = self.experiment
        if self._scorer is not None:
            train, valid = (part if isinstance(part, Part) else None for part in (e.train, e.valid))
            yield from baseline_event(train, valid, self._scorer, self.plan.output_shape)
            if not self._scorer.loss.own:
                yield from self._check_squashed(e.train.sample(e.batch_size)[0], self._scorer.loss)
        who = " and ".join(self.guest.versions) or "code of your own"
        yield PlanChosen(step=0, plan="as it is", reason=f"steps are run by {who}, one at a time")
        if snapshot is not None:
            self._resume(snapshot)
        elif self.replays:
            self._start = self.guest.keep()
        self._read()

    def _read(self) -> None:
        e = self.experiment
        feed = e.train.feed(e.batch_size, experiments.order_key(e.seed), e.seed, e.epochs, False, self._place)
        self._batches = Prefetch(feed, self._ready, AHEAD, e.train.reader)

    def _check_squashed(self, x: Inputs, loss: Loss) -> Iterator[Event]:
        """Looks whether outputs stay within 0..1 however large the inputs are, where the loss takes logits.

        Refuses a softmax, whose outputs sum to one. Others may be within by chance, since a guest's parameters are not
        changed for a test: of them it warns.
        """
        x = jax.tree.map(lambda a: np.asarray(a[:32]), x)
        floats = all(leaf.dtype.kind == "f" for leaf in jax.tree.leaves(x))
        outputs = np.stack(
            [
                self._outputs(jax.tree.map(lambda a, s=scale: a * a.dtype.type(s), x))
                for scale in (SCALES if floats else SCALES[:1])
            ]
        )
        found = {predictions_look_squashed(each, loss.link) for each in outputs}
        if found == {"softmax"}:
            refuse_squashed("softmax", loss.name)
        if found == {"sigmoid"} and floats and np.ptp(outputs) > VARIES:
            text = (
                f"The model's outputs are within 0 to 1 even for very large inputs, but the loss `{loss.name}` takes "
                "logits and applies a sigmoid itself. If the model ends in one, remove it."
            )
            yield Notice(step=0, level="warning", text=text)

    def most(self, step: int) -> int:
        """See `Trainer`."""
        return MOST_STEPS

    def ahead(self, count: int) -> None:
        """See `Trainer`."""

    def run(self, count: int, goes_on: Callable[[], bool]) -> Array:
        """See `Trainer`."""
        assert self._batches is not None
        if self._failure is not None:
            raise self._failure
        self.epoch_over = False
        values: list[list[float]] = []
        while len(values) < count:
            try:
                item = self._batches.get(LATE_S)
                if isinstance(item, EpochEnd):
                    self.epoch_over = True
                    self._place = Place(self._place.epoch + 1, 0)
                    break
                found = self.guest.step(self._batch(item))
                if not self._stepped:
                    self.names, self._stepped = tuple(found), True
                check_names(self.names, found)
            except Late:
                break
            except StopIteration:
                self.exhausted = True
                break
            except DlfbLabError as error:
                if not values:
                    raise
                # The steps before it are told first.
                self._failure = error
                break
            values.append([found[name] for name in self.names])
            self._step += 1
            self._place = self._place.after(item)
        return np.array(values, np.float32).reshape(len(values), len(self.names))

    def _ready(self, item: Batch | EpochEnd) -> Batch | EpochEnd:
        return item if isinstance(item, EpochEnd) else self.experiment.train.ready(item)

    def _batch(self, batch: Batch) -> Any:
        if not isinstance(self.experiment.train, Part) and self.experiment.task is None:
            return batch.tree
        return self._pair(batch.tree)

    def _pair(self, tree: Any) -> tuple[Inputs, Array]:
        x, y = tree
        return x, np.asarray(y).reshape(len(y), *self.plan.target_shape)

    def news(self, step: int) -> Iterator[Event]:
        """See `Trainer`."""
        if self._scorer is not None:
            yield from self._scorer.news(step)

    def scores(self, goes_on: Callable[[], bool]) -> Scores:
        """See `Trainer`."""
        assert self.experiment.valid is not None
        return Scores(self._scores(self.experiment.valid, goes_on), [])

    def _scores(self, part: Part | Rows, goes_on: Callable[[], bool] = always) -> dict[str, float]:
        if self._scorer is None or not isinstance(part, Part):
            size = self.experiment.eval_batch_size or self.experiment.batch_size
            return batched_scores(lambda batch, number: self.guest.evaluate(batch), part, size, goes_on)
        outputs = self._outputs(part.x, goes_on)
        return self._scorer.score_outputs(outputs, part.y)

    def _outputs(self, x: Inputs, goes_on: Callable[[], bool] = always) -> Array:
        return in_chunks(self.guest.outputs, x, goes_on)

    def keep(self, members: Array | None = None) -> None:
        """See `Trainer`."""
        self._best = self.guest.keep()

    def restore(self) -> None:
        """See `Trainer`."""
        self.guest.restore(self._best)

    def trained(self, step: int, best: int) -> Trained:
        """See `Trainer`."""
        link = self._scorer.loss.link if self._scorer is not None else ""
        return Trained(step=step, link=link, finish=self.guest.finish, outputs=self._outputs, scores=self._scores)

    def close(self) -> None:
        """See `Trainer`."""
        if self._batches is not None:
            self._batches.close()
        elif isinstance(self.experiment.train, Streamed):
            self.experiment.train.stream.close()
        self._best = self._start = None


def in_chunks(outputs: Callable[[Inputs], Any], x: Inputs, goes_on: Callable[[], bool] = always) -> Array:
    """Returns raw outputs, shape [rows, ...], computed for as many rows at once as take little memory.

    Raises:
        Abandoned: `goes_on` said no.
    """
    rows = len(jax.tree.leaves(x)[0])
    size = chunk_rows(x, rows)
    pieces = []
    for start in range(0, rows, size):
        if not goes_on():
            raise Abandoned
        pieces.append(np.asarray(outputs(jax.tree.map(lambda a, s=start: a[s : s + size], x))))
    return np.concatenate(pieces)


def _within(place: str, arrays: dict[str, Array]) -> dict[str, Array]:
    return {name if name.startswith("hyper/") else f"{place}/{name}": array for name, array in arrays.items()}


def _taken(place: str, arrays: dict[str, Array]) -> dict[str, Array]:
    found = {name.removeprefix(f"{place}/"): array for name, array in arrays.items() if name.startswith(f"{place}/")}
    hyper = {name: array for name, array in arrays.items() if name.startswith("hyper/")}
    return found | hyper if found else {}


class _GuestScorer(Scorer):
    """Scores outputs by our metrics, and by the loss and metrics of the guest where they are not ours."""

    def __init__(self, experiment: Experiment, plan: Plan, guest: Guest) -> None:
        assert experiment.task is not None and plan.loss is not None
        super().__init__(experiment.task, plan.loss, experiment.metrics, plan.target_shape)
        self._guest = guest

    def loss_of(self, outputs: Array, targets: Array) -> dict[str, float]:
        """See `Scorer`."""
        return self._guest.scores(outputs, targets) if self.loss.own else super().loss_of(outputs, targets)
