"""Adapter for a step of the user's own that keeps its state to itself: by TensorFlow, PyTorch, or anything else."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from dlfb_lab.errors import FAILURES, DlfbLabError, ModelError, OptionError, one_line
from dlfb_lab.models.calls import Call, by_name, check_taken
from dlfb_lab.models.holders import Holder, holders
from dlfb_lab.models.model import PyTree
from dlfb_lab.models.returns import losses, number, scores


class HostStep:
    """A function of a batch that updates what it knows, and returns the loss. See `Guest`.

    Args:
        step: (batch) or (x, y) to a loss, (loss, parts) or a dict of metrics.
        eval_step: the same to a loss, a dict of metrics, or (loss, metrics); changes nothing.
        arguments: further arguments of both, by name.

    Raises:
        OptionError: an argument cannot be filled.

    Attributes:
        evaluates: whether `evaluate` can be called.
        held: what was found of the state, by name: variables, modules and optimizers that the step's code names.
    """

    kind = "own step"
    keeps_arrays = False

    def __init__(self, step: Any, eval_step: Any = None, arguments: Mapping[str, Any] | None = None) -> None:
        self._arguments = by_name(arguments)
        self._step = Call("--step", step, self._arguments, takes_state=False)
        self._evaluation: Call | None = None
        if eval_step is not None:
            self._evaluation = Call("--eval-step", eval_step, self._arguments, takes_state=False)
        check_taken(self._arguments, self._step, self._evaluation)
        self.name = self._step.name
        self.evaluates = eval_step is not None
        self.held: dict[str, Holder] = holders(step, self._arguments)
        self._takes_tensors: dict[str, bool] = {}

    @property
    def parameter_count(self) -> int:
        """Scalars in the parameters that were found; 0 where none were."""
        found = {id(p): p for holder in self.held.values() for p in holder.trained}
        return sum(int(np.prod(tuple(p.shape))) for p in found.values())

    @property
    def versions(self) -> dict[str, str]:
        """See `Guest.versions`."""
        frameworks = sorted({holder.framework for holder in self.held.values()})
        return {name: str(sys.modules[name].__version__) for name in frameworks}

    def step(self, batch: PyTree) -> dict[str, float]:
        """See `Guest.step`.

        Raises:
            ModelError: it fails, or returns something else than a loss, (loss, parts) or metrics.
        """
        values = losses(self._called(self._step, batch), self._step.who)
        return {name: number(value) for name, value in values.items()}

    def evaluate(self, batch: PyTree) -> dict[str, float]:
        """Returns the scores of one batch, "loss" first if it has one.

        Raises:
            OptionError: there is no evaluation step.
            ModelError: it fails, or returns no scalars.
        """
        if self._evaluation is None:
            raise OptionError(f"The step `{self.name}` came without an evaluation step. Say --eval-step.")
        values = scores(self._called(self._evaluation, batch), self._evaluation.who)
        return {name: number(value) for name, value in values.items()}

    def outputs(self, x: PyTree) -> Any:
        """Refuses.

        Raises:
            OptionError: always: a step says how to train, not how to predict.
        """
        raise OptionError(f"The step `{self.name}` says how to train and not how to predict. Call your model itself.")

    def keep(self) -> Any:
        """See `Guest.keep`. Keeps what was found of the state.

        Raises:
            OptionError: nothing was found.
        """
        if not self.held:
            raise OptionError(
                f"The state of {self._step.who} cannot be kept to come back to: its code names no torch module or "
                "optimizer and no tf.Variable. Give them by name in --args, or let the step take and return its state "
                "(--state)."
            )
        return {name: holder.keep() for name, holder in self.held.items()}

    def restore(self, kept: Any) -> None:
        """See `Guest.restore`."""
        for name, value in kept.items():
            self.held[name].restore(value)

    def finish(self) -> Any:
        """Returns what was found of the state, by name; the object itself where it is one; else the step."""
        values = {name: holder.value for name, holder in self.held.items()}
        return next(iter(values.values())) if len(values) == 1 else values or self._step.function

    def _called(self, call: Call, batch: PyTree) -> Any:
        """Calls with NumPy arrays; or with PyTorch's tensors, should a step of PyTorch's not take the former."""
        try:
            if self._takes_tensors.get(call.who):
                return call(None, _tensors(batch), None, self._arguments)
            try:
                returned = call(None, batch, None, self._arguments)
                self._takes_tensors[call.who] = False
            except (TypeError, AttributeError):
                # The first call only: it failed before it could change anything.
                if "torch" not in sys.modules or call.who in self._takes_tensors:
                    raise
                returned = call(None, _tensors(batch), None, self._arguments)
                self._takes_tensors[call.who] = True
            return returned
        except DlfbLabError:
            raise
        except FAILURES as error:
            filled = ""
            if len(call.slots) > 1 and call.who not in self._takes_tensors:
                filled = f" No --state was given, so that {' and '.join(call.slots)} were filled from the batch."
            raise ModelError(f"{call.who} failed. {one_line(error)}.{filled}") from error


def _tensors(batch: PyTree) -> PyTree:
    torch: Any = sys.modules["torch"]
    return jax.tree.map(lambda leaf: torch.tensor(leaf) if isinstance(leaf, np.ndarray) else leaf, batch)
