"""Finding a checkpoint by what people call it: "RUN" for the latest of a run, "RUN@340" for that of a step."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dlfb_lab import journal
from dlfb_lab.checkpoints import folder, keeping
from dlfb_lab.checkpoints.folder import Checkpoint, State
from dlfb_lab.checkpoints.manifest import Manifest
from dlfb_lab.errors import OptionError, StoreError

USABLE: tuple[State, ...] = ("complete",)


@dataclass(frozen=True, kw_only=True)
class Found:
    """A checkpoint that was asked for.

    Attributes:
        path: the run's folder.
        checkpoint: the one that was chosen.
        named: whether its step was named; else it is the latest that can be used.
        usable: the checkpoints of the run that are whole, the latest first.
        later: the latest one, where it is not whole and a whole one before it was taken; else None.
        who: who asks, which begins each message, such as "--resume".
    """

    path: Path
    checkpoint: Checkpoint
    named: bool
    usable: list[Checkpoint]
    later: Checkpoint | None
    who: str

    @property
    def name(self) -> str:
        """What the checkpoint is called."""
        return f"{self.path.name}@{self.checkpoint.step}"

    @property
    def latest(self) -> bool:
        """Whether there is no later one that is whole."""
        return not self.usable or self.checkpoint.step >= self.usable[0].step

    def verified(self) -> Manifest:
        """Returns what the checkpoint holds, after comparing the checksums of all its files.

        Raises:
            StoreError: it is damaged; says how, and which is the newest good one.
        """
        from dlfb_lab.checkpoints.arrays import whole

        try:
            return whole(self.checkpoint)
        except StoreError as error:
            folder.verify(self.checkpoint)
            others = [checkpoint for checkpoint in self.usable if checkpoint.step != self.checkpoint.step]
            good = next((one for one in others if folder.verify(one).usable), None)
            other = offer(self.path, good, self.who) or " There is no other."
            raise StoreError(f"{error}{other}") from error


def located(asked: Any, store: str | Path | None, who: str) -> tuple[Path, int | None]:
    """Returns the folder of a run, and the step that was named; None for the latest.

    Args:
        asked: a run, its id, name or folder, with "@step" behind it for a checkpoint that is not the latest; or a
            checkpoint.
        store: the folder to look in; None for the usual one.
        who: who asks.

    Raises:
        OptionError: the step is no number.
        StoreError: there is no such run, or nothing of it was kept.
    """
    if isinstance(asked, Checkpoint):
        return asked.path.parent.parent, asked.step
    if hasattr(asked, "record"):
        if asked.path is None:
            raise StoreError(f"{who}: nothing of this run was kept on disk.")
        return asked.path, None
    text = str(asked)
    if (path := _folder(text)) is not None:
        return path, None
    name, at, step = text.rpartition("@")
    if not at:
        return journal.find(journal.store_folder(store), text), None
    if not step.isdecimal():
        raise OptionError(f"{who} {text}: after the @ stands a step, a whole number.")
    return _folder(name) or journal.find(journal.store_folder(store), name), int(step)


def _folder(name: str) -> Path | None:
    path = Path(name).expanduser().absolute()
    return path if (path / journal.EVENTS).exists() else None


def chosen(path: Path, step: int | None, who: str, states: Collection[State] = USABLE) -> Found:
    """Returns the checkpoint of a step, or the latest that can be used.

    Args:
        path: the run's folder.
        step: updates applied; None for the latest.
        who: who asks.
        states: of a checkpoint that can be used.

    Raises:
        StoreError: there is none, or it cannot be used; says which can.
    """
    found = folder.listed(path)
    good = sorted((one for one in found if one.state in states), key=lambda one: -one.step)
    purpose = "from which training can go on" if who == "--resume" else "that is whole"
    if step is None:
        if not good:
            bad = [f" Of step {one.step:,} there is one that is {one.state}: {one.why}" for one in found[-1:]]
            raise StoreError(f"{who}: {path.name} has no checkpoint {purpose}.{''.join(bad)}")
        later = [one for one in found if one.step > good[0].step and one.state != "partial"]
        return _found(path, good[0], found, who, later=later[-1] if later else None)
    at = [one for one in found if one.step == step]
    whole = next((one for one in at if one.state in states), None)
    if whole is not None:
        return _found(path, whole, found, who, named=True)
    if at:
        other = offer(path, good[0] if good else None, who)
        raise StoreError(f"{who}: the checkpoint of step {step:,} is {at[0].state}: {at[0].why}{other}")
    there = ", ".join(f"{one.step:,}" for one in reversed(good))
    known = f"There are those of steps {there}." if there else f"It has none {purpose}."
    raise StoreError(f"{who}: {path.name} has no checkpoint of step {step:,}. {known}")


def _found(
    path: Path,
    checkpoint: Checkpoint,
    found: list[Checkpoint],
    who: str,
    named: bool = False,
    later: Checkpoint | None = None,
) -> Found:
    usable = keeping.usable(found)
    return Found(path=path, checkpoint=checkpoint, named=named, usable=usable, later=later, who=who)


def offer(path: Path, good: Checkpoint | None, who: str) -> str:
    """Returns a sentence that names a checkpoint to take instead; "" for none."""
    option = "--resume " if who == "--resume" else ""
    return f" The newest good one: {option}{path.name}@{good.step}" if good is not None else ""
