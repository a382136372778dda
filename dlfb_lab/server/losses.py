"""Blocks of losses as they stand in a journal: read, cut, put together, and shortened."""

from __future__ import annotations

import binascii
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dlfb_lab.events import FloatBlock, Losses
from dlfb_lab.record import Record, Series, most_saved, saved_events

TYPES: dict[str, np.dtype[np.floating[Any]]] = {"f4:": np.dtype("<f4"), "f8:": np.dtype("<f8")}
FARTHEST = 2**53
"""Steps beyond this are not told apart in the browser."""


@dataclass(slots=True)
class Block:
    """The losses of one event.

    Attributes:
        event: as it stands in the journal.
        code: how each value is kept; a key of `TYPES`.
        raw: the values.
        count: how many there are.
        first_step: step of the first value.
        stride: steps for which each value stands.
        end: the step after the last one that it stands for.
    """

    event: dict[str, Any]
    code: str
    raw: bytes
    count: int
    first_step: int
    stride: int
    end: int

    def after(self, step: int) -> Block | None:
        """Returns what stands for this step and later ones; None where nothing does."""
        done = -(-(step - self.first_step) // self.stride)
        if done <= 0:
            return self
        if done >= self.count:
            return None
        first_step, count = self.first_step + self.stride * done, self.count - done
        raw = self.raw[done * TYPES[self.code].itemsize :]
        parts, members = self.beside()
        share = count / self.count
        event = {
            **self.event,
            "first_step": first_step,
            "losses": self.code + binascii.b2a_base64(raw, newline=False).decode("ascii"),
            "parts": {name: _encoded(values[done:]) for name, values in parts.items()},
            "members": [_encoded(values[done:]) for values in members],
            "duration_s": _number(self.event.get("duration_s")) * share,
            "dispatches": max(1, round(_number(self.event.get("dispatches")) * share)),
        }
        return Block(event, self.code, raw, count, first_step, self.stride, self.end)

    @property
    def series(self) -> int:
        """How many series of parts and members it has, as far as it says."""
        return sum(len(given) for given in map(self.event.get, ("parts", "members")) if isinstance(given, dict | list))

    def beside(self) -> tuple[dict[str, FloatBlock], list[FloatBlock]]:
        """Returns the parts and the members that can be read; all of the members, or none."""
        given, losses = self.event.get("parts"), self.event.get("members")
        parts = {str(name): self._values(text) for name, text in given.items()} if isinstance(given, dict) else {}
        members = [self._values(text) for text in losses] if isinstance(losses, list) else []
        found = [values for values in members if values is not None]
        return (
            {name: values for name, values in parts.items() if values is not None},
            found if len(found) == len(members) else [],
        )

    def _values(self, text: Any) -> FloatBlock | None:
        try:
            values = np.frombuffer(binascii.a2b_base64(text[3:], strict_mode=True), TYPES[text[:3]])
        except (KeyError, TypeError, ValueError):
            return None
        return values if len(values) == self.count else None


def _encoded(values: FloatBlock) -> str:
    code = "f8:" if values.dtype.itemsize > 4 else "f4:"
    return code + binascii.b2a_base64(values.astype(TYPES[code]).tobytes(), newline=False).decode("ascii")


def block(event: dict[str, Any]) -> Block | None:
    """Returns the losses of an event; None where they are kept in a way that is not known here.

    Raises:
        ValueError: they are damaged.
    """
    text, first_step, stride = event.get("losses"), event.get("first_step"), event.get("stride", 1)
    if not isinstance(text, str) or (code := text[:3]) not in TYPES:
        return None
    step = event.get("step")
    if type(first_step) is not int or type(stride) is not int or type(step) is not int:
        raise ValueError("losses without a place")
    raw = binascii.a2b_base64(text[3:], strict_mode=True)
    count, torn = divmod(len(raw), TYPES[code].itemsize)
    end = first_step + stride * count
    if torn or first_step < 0 or stride < 1 or max(step, end) > FARTHEST or step < 0:
        raise ValueError("losses cut off or out of place")
    return Block(event, code, raw, count, first_step, stride, end)


def stretches(blocks: dict[int, Block], whole: bool = True) -> dict[int, Losses]:
    """Puts together the blocks that follow each other without a gap.

    Args:
        blocks: by their places among the events.
        whole: with their parts and members.

    Returns:
        One event for each stretch, by the place of its first block.
    """
    rows: list[list[int]] = []
    last = None
    for place, found in blocks.items():
        if last and (last.end, last.stride, last.code) == (found.first_step, found.stride, found.code):
            rows[-1].append(place)
        else:
            rows.append([place])
        last = found
    return {row[0]: _together([blocks[place] for place in row], whole) for row in rows}


def _together(row: list[Block], whole: bool) -> Losses:
    both = Losses(
        step=row[-1].event["step"],
        time_s=_number(row[-1].event.get("time_s")),
        first_step=row[0].first_step,
        losses=np.frombuffer(b"".join(found.raw for found in row), TYPES[row[0].code]),
        stride=row[0].stride,
        duration_s=sum(_number(found.event.get("duration_s")) for found in row),
        dispatches=int(sum(_number(found.event.get("dispatches")) for found in row)),
    )
    if not whole or not any(found.series for found in row):
        return both
    pieces, place = [], 0
    for found in row:
        losses = both.losses[place : place + found.count]
        place += found.count
        parts, members = found.beside()
        pieces.append(
            replace(both, first_step=found.first_step, losses=losses, parts=parts, members=members, duration_s=0.0)
        )
    series = Series.of(pieces)
    return replace(both, parts=series.parts, members=series.members)


def shortened(events: list[dict[str, Any]], blocks: dict[int, Block]) -> list[dict[str, Any]]:
    """Returns the events with their losses averaged, if there are many.

    Args:
        events: as they stand in a journal.
        blocks: the losses among them, by their places in the list.
    """
    most = most_saved(max((found.series for found in blocks.values()), default=0))
    if sum(found.count for found in blocks.values()) <= most:
        return events
    # Each stretch by itself: what is missing between two must not shift the second.
    short = {place: saved_events(Record([losses]))[0] for place, losses in stretches(blocks).items()}
    return [short.get(place, event) for place, event in enumerate(events) if place in short or place not in blocks]


def _number(value: Any) -> float:
    # Compared, not converted: an integer of 400 digits is no float.
    return float(value) if isinstance(value, int | float) and -FARTHEST <= value <= FARTHEST else 0.0
