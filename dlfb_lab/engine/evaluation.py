"""Outputs and scores of a model on one part of the data."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from dlfb_lab.data.source import Array, Inputs
from dlfb_lab.engine.losses import Loss
from dlfb_lab.engine.metrics import Metric, Predictions, score
from dlfb_lab.engine.programs import Compiled, CompileTime, Program, compiled
from dlfb_lab.engine.task import Task
from dlfb_lab.models.model import Apply, PyTree

MOST_ROWS = 1024
MOST_NUMBERS = 2**20
"""Of inputs in one chunk, so that the intermediate values of a wide model fit into memory."""

IN_FLIGHT = 2
"""Chunks that are launched before the results of the first are fetched."""


@dataclass(frozen=True)
class Part:
    """Rows of data as the engine takes them.

    Attributes:
        x: inputs, shape [rows, ...].
        y: encoded targets, shape [rows, ...].
    """

    x: Inputs
    y: Array

    def __len__(self) -> int:
        return len(self.y)


def chunk_rows(x: Inputs, rows: int) -> int:
    """Returns how many rows one forward program takes: a power of two, at most `MOST_ROWS`."""
    numbers = sum(int(np.prod(a.shape[1:])) for a in jax.tree.leaves(x))
    limit = max(1, min(MOST_ROWS, MOST_NUMBERS // max(1, numbers)))
    power = 1
    while power < min(rows, limit):
        power *= 2
    return min(power, MOST_ROWS)


def chunks(x: Inputs, size: int) -> list[Inputs]:
    """Returns the rows in chunks on the device, the last one filled up by repeating rows."""
    rows = len(jax.tree.leaves(x)[0])
    starts = range(0, rows, size)
    indices = [np.minimum(np.arange(s, s + size), rows - 1) for s in starts]
    return [jax.device_put(jax.tree.map(lambda a, i=i: a[i], x)) for i in indices]


class Abandoned(Exception):
    """An evaluation was given up before its end."""


def _always() -> bool:
    return True


class Evaluator:
    """Computes outputs and scores; keeps what stays on the device between evaluations.

    Attributes:
        compile_times: program name and time of each compilation since they were last taken.
        problems: what a user's metric raised, by its name, since they were last taken.
    """

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
    ) -> None:
        def forward(params: PyTree, extra: PyTree, x: PyTree) -> Any:
            return apply(params, extra, x, jax.random.key(0), False)[0]

        def mean_loss(outputs: jax.Array, y: jax.Array) -> jax.Array:
            return loss.function(outputs, y).mean()

        self.task, self.loss, self.metrics = task, loss, tuple(metrics)
        self.compile_times: list[tuple[str, CompileTime]] = []
        self.problems: dict[str, str] = {}
        self._chunk = chunk
        self._target_shape = target_shape
        self._forward = Program("forward pass", (model_key, chunk), forward)
        self._mean_loss = Program("mean loss", loss, mean_loss)
        self._on_device: dict[int, tuple[Inputs, list[Inputs]]] = {}

    def compile(self, params: PyTree, extra: PyTree, x: Inputs) -> None:
        """Compiles what `outputs` will need, and keeps `x` on the device."""
        self._compiled(self._forward, params, extra, self._chunks(x, keep=True)[0])

    def outputs(
        self, params: PyTree, extra: PyTree, x: Inputs, keep: bool = False, goes_on: Callable[[], bool] = _always
    ) -> Array:
        """Returns the model's raw outputs, shape [rows, ...].

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
        pieces = self._chunks(x, keep)
        run = self._compiled(self._forward, params, extra, pieces[0])
        outputs: list[Any] = []
        for i, piece in enumerate(pieces):
            if not goes_on():
                raise Abandoned
            outputs.append(run(params, extra, piece))
            if i >= IN_FLIGHT:
                # Waits, so that what is given up is not still queued on the device.
                outputs[i - IN_FLIGHT] = np.asarray(outputs[i - IN_FLIGHT])
        return np.concatenate([np.asarray(o) for o in outputs])[:rows]

    def scores(
        self, params: PyTree, extra: PyTree, part: Part, keep: bool = False, goes_on: Callable[[], bool] = _always
    ) -> dict[str, float]:
        """Returns the loss and every metric on a part of the data. Raises as `outputs` does."""
        return self.score_outputs(self.outputs(params, extra, part.x, keep, goes_on), part.y)

    def score_outputs(self, outputs: Array, y: Array) -> dict[str, float]:
        """Returns the loss and every metric of outputs beside encoded targets, shape [rows, ...]."""
        targets = np.asarray(y).reshape(len(y), *self._target_shape)
        run = self._compiled(self._mean_loss, outputs, targets)
        predictions = Predictions(y, outputs, self.task, self.loss.link)
        return {"loss": float(run(outputs, targets)), **score(self.metrics, predictions, self.problems)}

    def release(self) -> None:
        """Lets go of what was kept on the device."""
        self._on_device.clear()

    def _compiled(self, program: Program, *arguments: Any) -> Compiled:
        run, took = compiled(program, *arguments)
        if took is not None:
            self.compile_times.append((program.name, took))
        return run

    def _chunks(self, x: Inputs, keep: bool) -> list[Inputs]:
        if not keep:
            return chunks(x, self._chunk)
        if id(x) not in self._on_device:
            # x is kept beside its chunks, so that its id stays its own.
            self._on_device[id(x)] = x, chunks(x, self._chunk)
        return self._on_device[id(x)][1]


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
