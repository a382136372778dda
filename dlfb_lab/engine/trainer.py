"""The protocol between the training loop and whatever runs the steps."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from dlfb_lab.data.source import Array, Inputs
from dlfb_lab.engine.feed import Part, Rows
from dlfb_lab.engine.snapshot import Snapshot
from dlfb_lab.errors import ModelError
from dlfb_lab.events import Event
from dlfb_lab.models.model import PyTree


class Scores(NamedTuple):
    """What an evaluation found.

    Attributes:
        metrics: scores by name; with members, their mean.
        members: the scores of each member; empty for one model.
    """

    metrics: dict[str, float]
    members: list[dict[str, float]]

    @classmethod
    def of(cls, each: list[dict[str, float]], members: int) -> Scores:
        """Returns the scores of one model, or of several and their mean."""
        if not members:
            return cls(each[0], [])
        return cls({name: float(np.mean([scores[name] for scores in each])) for name in each[0]}, each)


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What training leaves behind.

    Attributes:
        step: updates applied.
        params: the trained parameters; None where they cannot be told from the rest of the state.
        extra: other collections.
        opt_state: the optimizer's state.
        link: what turns outputs into predictions; empty where that is not known.
        finish: returns the trained state in the user's own type.
        outputs: raw outputs for inputs, shape [rows, ...]. Raises OptionError where it cannot predict.
        scores: scores by name on rows of data.
        members: what each member came to; empty for one model.
        diverged: whether training ended because numbers were no longer finite.
    """

    step: int
    params: PyTree = None
    extra: PyTree = None
    opt_state: PyTree = None
    link: str = ""
    finish: Callable[[], Any]
    outputs: Callable[[Inputs], Array]
    scores: Callable[[Part | Rows], dict[str, float]]
    members: tuple[Trained, ...] = ()
    diverged: bool = False


def check_names(names: Collection[str], found: Collection[str]) -> None:
    """Refuses a step that gives other scalars than those before it.

    Raises:
        ModelError: which were given before, and which now.
    """
    if set(found) != set(names):
        raise ModelError(
            f"The step returned {', '.join(found)}; the steps before it returned {', '.join(names)}. "
            "Return the same scalars from every step, NaN where there is nothing to say."
        )


class Examined(NamedTuple):
    """What a step that went wrong looks like.

    Attributes:
        losses: of each row of its batch, shape [rows]; None where rows have none of their own.
        gradients: names of the parameters whose gradient is not finite.
        alone: whether the gradient of each row by itself, or the state after a step with it, is finite, shape [rows],
            bool; None where that was not tried.
    """

    losses: Array | None
    gradients: list[str]
    alone: Array | None = None


class Trainer(Protocol):
    """Runs steps. The loop decides how many, and when to evaluate, to stop and to report.

    Attributes:
        names: of the scalars of each step, "loss" first; known when `prepare` is over.
        epoch_over: whether the last dispatch ended an epoch whose length was not known before.
        exhausted: whether there are no more batches.
    """

    names: tuple[str, ...]
    epoch_over: bool
    exhausted: bool

    @property
    def state(self) -> PyTree:
        """The arrays that are trained, as they are between two dispatches; None where they cannot be had."""

    def prepare(self, goes_on: Callable[[], bool], snapshot: Snapshot | None = None) -> Iterator[Event]:
        """Initialises, and compiles what is needed.

        Args:
            goes_on: asked between programs.
            snapshot: where training is to go on from; None for its start.

        Raises:
            StoreError: the snapshot is of another model or optimizer.
        """

    def snapshot(self) -> Snapshot | None:
        """Returns where training stands between two dispatches; None where that cannot be had as arrays."""

    def most(self, step: int) -> int:
        """Returns the most steps that one dispatch may take from here."""

    @property
    def least(self) -> int:
        """How many steps a dispatch should take, however long it lasts."""

    def ahead(self, count: int) -> None:
        """Begins the next `count` updates where they can go on while the host does something else; `run` ends them."""

    def run(self, count: int, goes_on: Callable[[], bool]) -> Array:
        """Applies up to `count` updates.

        Args:
            count: how many.
            goes_on: asked in a long dispatch, which ends early when it says no.

        Returns:
            The scalars of each step, shape [steps, names] or [steps, members, names]. Fewer than asked for where the
            data ended, an epoch is over, or batches are late; then others may have come by the next call.
        """

    def news(self, step: int) -> Iterator[Event]:
        """Yields what happened beside the steps since it was last asked: compilations, another plan."""

    def scores(self, goes_on: Callable[[], bool]) -> Scores:
        """Evaluates on the validation rows.

        Raises:
            Abandoned: `goes_on` said no.
        """

    def keep(self, members: Array | None = None) -> None:
        """Keeps a copy of the state to come back to; of those members only that are true, shape [members], bool."""

    def restore(self) -> None:
        """Goes back to what was kept."""

    def trained(self, step: int, best: int) -> Trained:
        """Returns what training came to: of several members, the one of that number, with all beside it."""

    def close(self) -> None:
        """Lets go of data, threads and memory that only training needs."""


@runtime_checkable
class Replaying(Trainer, Protocol):
    """A trainer that can go back and take its steps once more.

    Attributes:
        replays: whether its data can be read again.
    """

    replays: bool

    def restart(self, snapshot: Snapshot | None) -> None:
        """Goes back to a snapshot, or to the start; what was kept stays so."""

    def held(self) -> Any:
        """Returns a copy of where it stands."""

    def put_back(self, held: Any, step: int) -> None:
        """Goes back to a copy, that of a step."""

    def examined(self, held: Any, batch: PyTree, step: int) -> Examined | None:
        """Returns what happens at a step, from the copy of the state before it; None where that cannot be told."""
