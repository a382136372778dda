"""How the leaves of an object of the user's fit the arrays of a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Problem = Literal["", "missing", "extra", "shape", "dtype"]


@dataclass(frozen=True, kw_only=True)
class Leaf:
    """How one leaf fits.

    Attributes:
        name: its name in the user's object, or where that has none, in the checkpoint.
        problem: "" for none; "missing", it is not in the checkpoint; "extra", it is there alone; "shape" or "dtype",
            it has another one there.
        saved: its shape and dtype in the checkpoint; None where it is not there.
        given: its shape and dtype in the user's object; None where it is not there.
    """

    name: str
    problem: Problem
    saved: tuple[tuple[int, ...], str] | None
    given: tuple[tuple[int, ...], str] | None

    @property
    def said(self) -> str:
        """What does not fit, in a few words."""
        if self.problem == "missing":
            return f"{self.name} is not in the checkpoint"
        if self.problem == "extra":
            return f"{self.name} is only in the checkpoint"
        assert self.saved is not None and self.given is not None
        if self.problem == "shape":
            return f"{self.name} has shape {self.given[0]}, and {self.saved[0]} in the checkpoint"
        return f"{self.name} is {self.given[1]}, and {self.saved[1]} in the checkpoint"
