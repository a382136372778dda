"""Outputs and scores of a model on one part of the data."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from dlfb_lab.data.lazy import examples_are_lazy
from dlfb_lab.data.source import Array, Inputs
from dlfb_lab.engine import ending
from dlfb_lab.engine.feed import Part, Rows
from dlfb_lab.engine.losses import Loss
from dlfb_lab.engine.metrics import Metric, Predictions, score
from dlfb_lab.engine.programs import Compiled, CompileTime, Program, compilation, compiled, jaxpr
from dlfb_lab.engine.task import Task
from dlfb_lab.events import Baseline, Event, Notice
from dlfb_lab.models.model import Apply, PyTree

MOST_ROWS = 1024
MOST_NUMBERS = 2**20
"""Of inputs in one chunk, so that the intermediate values of a wide model fit into memory."""

IN_FLIGHT = 2
"""Chunks that are launched before the results of the first are fetched."""


def chunk_rows(x: Inputs, rows: int) -> int:
    """Returns how many rows one forward program takes: a power of two, at most `MOST_ROWS`."""
    numbers = sum(int(np.prod(a.shape[1:])) for a in jax.tree.leaves(x))
    limit = max(1, min(MOST_ROWS, MOST_NUMBERS // max(1, numbers)))
    power = 1
    while power < min(rows, limit):
        power *= 2
    return min(power, MOST_ROWS)


def chunks(x: Inputs, size: int) -> Iterator[Inputs]:
    """Yields the rows in chunks on the device, the last one filled up by repeating rows."""
    rows = len(jax.tree.leaves(x)[0])
    for start in range(0, rows, size):
        chosen = np.minimum(np.arange(start, start + size), rows - 1)
        yield jax.device_put(jax.tree.map(lambda a, chosen=chosen: a[chosen], x))


class Abandoned(Exception):
    """An evaluation was given up before its end."""


def always() -> bool:
    """Lets an evaluation go on to its end."""
    return True


def batched_scores(
    evaluate: Callable[[PyTree, int], dict[str, Any]], part: Rows, size: int, goes_on: Callable[[], bool]
) -> dict[str, float]:
    """Returns the mean of the scores of batches, weighted by their rows.

    Args:
        evaluate: of a batch and its number, scores by name.
        part: what is scored.
        size: rows of a batch.
        goes_on: asked before each batch.

    Raises:
        Abandoned: `goes_on` said no.
    """
    whole = part.rows is None or size >= part.rows
    sums: dict[str, float] = {}
    for number, start in enumerate([0] if whole else range(0, len(part), size)):
        if not goes_on():
            raise Abandoned
        batch = part.tree if whole else jax.tree.map(lambda a, s=start: a[s : s + size], part.tree)
        count = len(part) if whole else min(size, len(part) - start)
        for name, value in evaluate(batch, number).items():
            sums[name] = sums.get(name, 0.0) + count * float(value)
    return {name: value / len(part) for name, value in sums.items()}


class Scorer:
    """Scores outputs beside targets.

    Attributes:
        compile_times: program name and time of each compilation since they were last taken.
        problems: what a user's metric raised, by its name, since they were last taken.
    """

    def __init__(self, task: Task, loss: Loss, metrics: Sequence[Metric], target_shape: tuple[int, ...]) -> None:
        def mean_loss(outputs: jax.Array, y: jax.Array) -> jax.Array:
            return loss.function(outputs, y).mean()

        self.task, self.loss, self.metrics = task, loss, tuple(metrics)
        self.compile_times: list[tuple[str, CompileTime]] = []
        self.problems: dict[str, str] = {}
        self._failed: set[str] = set()
        self._target_shape = target_shape
        self._mean_loss = Program("mean loss", loss, mean_loss)

    def score_outputs(self, outputs: Array, y: Array) -> dict[str, float]:
        """Returns the loss and every metric of outputs beside encoded targets, shape [rows, ...]."""
        targets = np.asarray(y).reshape(len(y), *self._target_shape)
        predictions = Predictions(y, outputs, self.task, self.loss.link)
        return {**self.loss_of(outputs, targets), **score(self.metrics, predictions, self.problems)}

    def loss_of(self, outputs: Array, targets: Array) -> dict[str, float]:
        """Returns the loss of outputs beside targets in the shape that it takes."""
        return {"loss": float(self._compiled(self._mean_loss, outputs, targets)(outputs, targets))}

    def news(self, step: int) -> Iterator[Event]:
        """Yields what was compiled, and which metrics failed for the first time, since it was last asked."""
        for name, took in self.compile_times:
            yield from compilation(name, took, "first evaluation", step)
        self.compile_times.clear()
        for metric, problem in self.problems.items():
            if metric not in self._failed:
                self._failed.add(metric)
                text = f"The metric `{metric}` failed, and is NaN where it did: {problem}"
                yield Notice(step=step, level="warning", text=text)
        self.problems.clear()

    def _compiled(self, program: Program, *arguments: Any) -> Compiled:
        run, took = compiled(program, *arguments)
        if took is not None:
            self.compile_times.append((program.name, took))
        return run


class Evaluator(Scorer):
    """Computes outputs and scores of a model; keeps what stays on the device between evaluations."""

    def __init__(
        self,
        model_key: Hashable,
        apply: Apply,
        loss: Loss,
        metrics: Sequence[Metric],
        task: Task,
        *,
        chunk: int,
        target_shape: tuple[int, ...],
        members: int = 0,
    ) -> None:
        def one(params: PyTree, extra: PyTree, x: PyTree) -> Any:
            return apply(params, extra, x, jax.random.key(0), False)[0]

        super().__init__(task, loss, metrics, target_shape)
        forward = jax.vmap(one, in_axes=(0, 0, None)) if members else one
        self.members = members
        self._chunk = chunk
        self._forward = Program("forward pass", (model_key, chunk, members), forward)
        self._on_device: dict[int, tuple[Inputs, list[Inputs]]] = {}

    def compile(self, params: PyTree, extra: PyTree, x: Inputs) -> None:
        """Compiles what `outputs` will need, and keeps `x` on the device."""
        self._compiled(self._forward, params, extra, next(iter(self._chunks(x, keep=True))))

    def outputs_are_free(self, params: PyTree, extra: PyTree, x: Inputs) -> bool:
        """Returns whether the model's program alone shows that its outputs can be any number; see `ending.is_free`."""
        return ending.is_free(jaxpr(self._forward, params, extra, x), len(jax.tree.leaves(params)))

    def outputs(
        self, params: PyTree, extra: PyTree, x: Inputs, keep: bool = False, goes_on: Callable[[], bool] = always
    ) -> Array:
        """Returns the model's raw outputs, shape [rows, ...], or [members, rows, ...].

        Args:
            params: the parameters.
            extra: other collections.
            x: inputs, shape [rows, ...].
            keep: whether to keep `x` on the device for the next time.
            goes_on: asked before each chunk of rows.

        Raises:
            Abandoned: `goes_on` said no.
        """
        rows = len(jax.tree.leaves(x)[0])
        run: Compiled | None = None
        outputs: list[Any] = []
        for i, piece in enumerate(self._chunks(x, keep)):
            if not goes_on():
                raise Abandoned
            run = run or self._compiled(self._forward, params, extra, piece)
            outputs.append(run(params, extra, piece))
            if i >= IN_FLIGHT:
                # Waits, so that what is given up is not still queued on the device.
                outputs[i - IN_FLIGHT] = np.asarray(outputs[i - IN_FLIGHT])
        arrays = [np.asarray(o) for o in outputs]
        return np.concatenate(arrays, axis=1)[:, :rows] if self.members else np.concatenate(arrays)[:rows]

    def scores(
        self, params: PyTree, extra: PyTree, part: Part, keep: bool = False, goes_on: Callable[[], bool] = always
    ) -> list[dict[str, float]]:
        """Returns the loss and every metric on a part of the data, of each member. Raises as `outputs` does."""
        outputs = self.outputs(params, extra, part.x, keep, goes_on)
        return [self.score_outputs(each, part.y) for each in (outputs if self.members else [outputs])]

    def release(self) -> None:
        """Lets go of what was kept on the device."""
        self._on_device.clear()

    def _chunks(self, x: Inputs, keep: bool) -> Iterable[Inputs]:
        if not keep or examples_are_lazy(x):
            return chunks(x, self._chunk)
        if id(x) not in self._on_device:
            # x is kept beside its chunks, so that its id stays its own.
            self._on_device[id(x)] = x, list(chunks(x, self._chunk))
        return self._on_device[id(x)][1]


BASELINES = {"regression": "mean", "multilabel": "class frequency"}


def baseline_event(
    train: Part | None, valid: Part | None, scorer: Scorer, output_shape: tuple[int, ...]
) -> Iterator[Event]:
    """Yields the scores of the obvious baseline on the validation rows, or else on the training rows.

    Args:
        train: rows to learn from; None for a stream, of which the validation rows are all that is known beforehand.
        valid: rows to evaluate on.
        scorer: scores outputs.
        output_shape: of the model's outputs for one row.
    """
    part, known = valid or train, train or valid
    if part is None or known is None:
        return
    constant = baseline_outputs(scorer.task, scorer.loss.link, known.y, len(part), output_shape)
    name = BASELINES.get(scorer.task.kind, "majority class")
    metrics = scorer.score_outputs(constant, part.y)
    yield Baseline(step=0, name=name, split="train" if valid is None else "valid", metrics=metrics)
    yield from scorer.news(0)


def baseline_outputs(task: Task, link: str, train_targets: Array, rows: int, output_shape: tuple[int, ...]) -> Array:
    """Returns the outputs of the obvious baseline: the training rows' class frequencies, or their mean.

    Args:
        task: what is predicted.
        link: the loss's link; the outputs are what it turns into the frequencies.
        train_targets: encoded targets of the training rows, shape [rows, ...].
        rows: how many rows to predict.
        output_shape: of the model's outputs for one row.

    Returns:
        Shape [rows, *output_shape], float32; the same row each time.
    """
    if task.kind == "regression":
        mean = train_targets.reshape(len(train_targets), *output_shape).mean(axis=0, dtype=np.float64)
        constant = np.log(np.clip(mean, 1e-7, None)) if link == "softmax" else mean
    elif task.classifies:
        share = np.bincount(train_targets, minlength=task.outputs) / len(train_targets)
        share = np.clip(share, 1e-7, 1)
        if math.prod(output_shape) == 1:
            constant = share[1] if link == "probability" else np.log(share[1] / share[0])
        else:
            constant = share if link == "probability" else np.log(share)
    else:
        share = np.clip(train_targets.mean(axis=0, dtype=np.float64), 1e-7, 1 - 1e-7)
        constant = share if link == "probability" else np.log(share / (1 - share))
    return np.broadcast_to(np.asarray(constant, np.float32).reshape(output_shape), (rows, *output_shape))
