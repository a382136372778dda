"""What happened to a run since a reader last asked. The reader keeps the place; nothing is kept here."""

from __future__ import annotations

import os
import re
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, BinaryIO
from zlib import crc32

from dlfb_lab.journal import EVENTS
from dlfb_lab.record import most_saved
from dlfb_lab.server import lines
from dlfb_lab.server.additions import Additions, additions
from dlfb_lab.server.errors import Refusal
from dlfb_lab.server.folders import opened
from dlfb_lab.server.lines import Value
from dlfb_lab.server.losses import Block, block, shortened
from dlfb_lab.server.tail import tail

LONG = 16 << 20
"""Bytes from which on a journal waits for others that are read."""
STATE_BYTES = 1 << 16
"""Of a journal's end, where to look whether the run is over."""


class Long(Exception):
    """There is more to read than was asked for."""


@dataclass(frozen=True)
class Cursor:
    """How much of a run a reader has, as it is handed to the reader and back.

    Attributes:
        offset: bytes of the journal, all of whole lines.
        ahead: step up to which it has losses from the tail, while the journal has no line with them; else 0.
        later: events that others added.
        check: of what it has, to notice another journal in the same place.
        damaged: lines of the journal that were left out.
        cut_bytes: size of the journal when the reader got its beginning and its end; 0 where it has all.
    """

    offset: int = 0
    ahead: int = 0
    later: int = 0
    check: int = 0
    damaged: int = 0
    cut_bytes: int = 0

    def __str__(self) -> str:
        return ".".join(map(str, astuple(self)))


def cursor(text: str) -> Cursor | None:
    """Returns the cursor that `str` wrote, or None for anything else."""
    return Cursor(*map(int, text.split("."))) if re.fullmatch(r"\d{1,16}(\.\d{1,16}){5}", text, re.ASCII) else None


def read(folder: Path, after: str, most_bytes: int | None = None) -> dict[str, Any]:
    """Returns the events after a cursor, or the whole run where it is none of this journal.

    Args:
        folder: of the run.
        after: the `next` of an earlier answer; may be empty.
        most_bytes: of the journal, to be read at once; any number if not given.

    Returns:
        `reset`: whether it is the whole run; `events`; `next`, the cursor to go on from; `note`, for people.

    Raises:
        Refusal: there is no journal, or it may not be read.
        Long: there is more to read than `most_bytes`.
    """
    try:
        file = opened(folder, EVENTS)
    except FileNotFoundError:
        raise Refusal(
            404, "no_journal", f"The run {folder.name} has no journal (any more) in {folder.parent}."
        ) from None
    with file:
        size = os.fstat(file.fileno()).st_size
        added = additions(folder)
        given = cursor(after)
        known = given if given is not None and _fits(given, file, size, added) else None
        start = known or Cursor(cut_bytes=size if lines.is_too_long(size) else 0)
        if most_bytes is not None and size - start.offset > most_bytes:
            raise Long
        events, blocks, offset, ahead, damaged = _since(start, file, size, folder)
        events = shortened(events, blocks)
        check = _check(file, offset, added.lines)
    end = Cursor(offset, ahead, len(added.events), check, start.damaged + damaged, start.cut_bytes)
    return {
        "reset": known is None,
        "next": str(end),
        "note": _note(end.damaged + added.damaged, end.cut_bytes),
        "events": [*events, *added.events[start.later :]],
    }


def _fits(given: Cursor, file: BinaryIO, size: int, added: Additions) -> bool:
    """Whether a reader can go on from there."""
    return (
        given.offset <= size
        and not lines.is_too_long(size - given.offset)
        and given.later <= len(added.events)
        and given.check == _check(file, given.offset, added.lines[: given.later])
    )


def _check(file: BinaryIO, offset: int, added: tuple[bytes, ...]) -> int:
    check = lines.mark(file, offset)
    for line in added:
        check = crc32(line, check)
    return check


def _since(
    start: Cursor, file: BinaryIO, size: int, folder: Path
) -> tuple[list[Value], dict[int, Block], int, int, int]:
    """Returns the events, the losses among them by place, and the new offset, ahead and count of damaged lines."""
    events: list[Value] = []
    blocks: dict[int, Block] = {}
    offset, ahead = start.offset, start.ahead
    damaged = count = 0
    for piece, bad, place in lines.read(file, start.offset, size):
        offset, damaged = place, damaged + bad
        for event in piece:
            found = None
            if event["kind"] == "losses":
                try:
                    found = block(event)
                except ValueError:
                    damaged += 1
                    continue
            if found is None:
                events.append(event)
            elif (rest := found.after(ahead)) is not None:
                blocks[len(events)] = rest
                events.append(rest.event)
                count += rest.count
                if count > most_saved(rest.series):
                    # They will be shortened, and a long run need not be kept twice until then.
                    rest.event["losses"] = ""
            if found is not None and found.end >= ahead:
                ahead = 0
    newest = tail(folder, offset)
    if newest is not None and (rest := newest.after(ahead)) is not None:
        ahead = newest.end
        blocks[len(events)] = rest
        events.append(rest.event)
    return events, blocks, offset, ahead, damaged


def _note(damaged: int, cut_bytes: int) -> str:
    said = []
    if cut_bytes:
        size = f"{cut_bytes / 1e9:.1f} GB" if cut_bytes >= 1e9 else f"{cut_bytes / 1e6:.0f} MB"
        said.append(
            f"This run's journal is {size}: only its beginning and its latest {lines.END / 1e6:.0f} MB are drawn."
        )
    if damaged:
        verb = "line of this run's journal is damaged and was" if damaged == 1 else "lines are damaged and were"
        said.append(f"{damaged} {verb} left out.")
    return " ".join(said)


def state(folder: Path) -> str:
    """Returns the state that a run's journal says last, if it does so near its end, where a run that is over has it.

    Raises:
        Refusal: the journal may not be read.
    """
    try:
        file = opened(folder, EVENTS)
    except FileNotFoundError:
        return ""
    with file:
        start = max(0, os.fstat(file.fileno()).st_size - STATE_BYTES)
        file.seek(start)
        events, _ = lines.parse(file.read(STATE_BYTES).split(b"\n")[start > 0 : -1])
    return next((str(event.get("state", "")) for event in reversed(events) if event["kind"] == "status"), "")
