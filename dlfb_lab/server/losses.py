"""Blocks of losses as they stand in a journal: read, cut, put together, and shortened."""

from __future__ import annotations

import binascii
from dataclasses import dataclass
from typing import Any

import numpy as np

from dlfb_lab.events import Losses
from dlfb_lab.record import MOST_SAVED, Record, saved_events

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
        share = count / self.count
        event = {
            **self.event,
            "first_step": first_step,
            "losses": self.code + binascii.b2a_base64(raw, newline=False).decode("ascii"),
            "duration_s": _number(self.event.get("duration_s")) * share,
            "dispatches": max(1, round(_number(self.event.get("dispatches")) * share)),
        }
        return Block(event, self.code, raw, count, first_step, self.stride, self.end)


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


def stretches(blocks: dict[int, Block]) -> dict[int, Losses]:
    """Puts together the blocks that follow each other without a gap.

    Args:
        blocks: by their places among the events.

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
    return {row[0]: _together([blocks[place] for place in row]) for row in rows}


def _together(row: list[Block]) -> Losses:
    return Losses(
        step=row[-1].event["step"],
        time_s=_number(row[-1].event.get("time_s")),
        first_step=row[0].first_step,
        losses=np.frombuffer(b"".join(found.raw for found in row), TYPES[row[0].code]),
        stride=row[0].stride,
        duration_s=sum(_number(found.event.get("duration_s")) for found in row),
        dispatches=int(sum(_number(found.event.get("dispatches")) for found in row)),
    )


def shortened(events: list[dict[str, Any]], blocks: dict[int, Block]) -> list[dict[str, Any]]:
    """Returns the events with their losses averaged, if there are many.

    Args:
        events: as they stand in a journal.
        blocks: the losses among them, by their places in the list.
    """
    if sum(found.count for found in blocks.values()) <= MOST_SAVED:
        return events
    # Each stretch by itself: what is missing between two must not shift the second.
    short = {place: saved_events(Record([losses]))[0] for place, losses in stretches(blocks).items()}
    return [short.get(place, event) for place, event in enumerate(events) if place in short or place not in blocks]


def _number(value: Any) -> float:
    # Compared, not converted: an integer of 400 digits is no float.
    return float(value) if isinstance(value, int | float) and -FARTHEST <= value <= FARTHEST else 0.0
