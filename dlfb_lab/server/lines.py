"""Journals as JSON values: in pieces, so that the server goes on meanwhile, and within bounds, whatever their size."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, BinaryIO
from zlib import crc32

BEGINNING = 1 << 20
END = 64 << 20
"""Bytes that are read of a journal which is longer than both together."""
PIECE = 1 << 20
"""Bytes that are read and parsed at once; meanwhile the server's other threads stand still."""

Value = dict[str, Any]


def is_too_long(size: int) -> bool:
    """Whether so many bytes are more than is read at once."""
    return size > BEGINNING + END


def read(file: BinaryIO, start: int, size: int) -> Iterator[tuple[list[Value], int, int]]:
    """Yields events, some at a time: the whole lines of a file from `start` on, or their beginning and their end.

    Yields:
        The events as they stand in the file, how many lines beside them are damaged, and the place after them.
    """
    if not is_too_long(size - start):
        for lines, place in _pieces(file, start, size):
            yield *parse(lines), place
        return
    if start < BEGINNING:
        for lines, place in _pieces(file, start, BEGINNING):
            yield *parse(lines), place
    for lines, place in _pieces(file, size - END, size, torn=True):
        yield *parse(lines), place


def mark(file: BinaryIO, offset: int) -> int:
    """Returns a number that another file in the place of this one, read up to there, hardly ever has."""
    file.seek(0)
    found = crc32(file.read(min(offset, 256)))
    if offset:
        file.seek(offset - 1)
        found = crc32(file.read(1), found)
    return found


def _pieces(file: BinaryIO, start: int, end: int, torn: bool = False) -> Iterator[tuple[list[bytes], int]]:
    """Yields whole lines and the place after them, for each piece; a torn line at the start is passed over."""
    file.seek(start)
    place = reached = start
    rest: list[bytes] = []
    while reached < end:
        data = file.read(min(PIECE, end - reached))
        if not data:
            return
        reached += len(data)
        whole, line_break, after = data.rpartition(b"\n")
        if line_break:
            found = b"".join([*rest, whole]).split(b"\n")[torn:]
            place, rest, torn = reached - len(after), [after], False
            yield [line for line in found if line], place
        else:
            # A torn line has nothing to come back for, however long it is.
            place, rest = (reached, []) if torn else (place, [*rest, data])
            yield [], place


def parse(lines: list[bytes]) -> tuple[list[Value], int]:
    """Returns the events among some lines as they are, and how many lines are none."""
    try:
        # All at once, which takes half the time.
        values = json.loads(b"[" + b",".join(lines) + b"]")
    except (ValueError, RecursionError):
        values = []
    if len(values) != len(lines):
        values = [_parsed(line) for line in lines]
    events = [value for value in values if isinstance(value, dict) and isinstance(value.get("kind"), str)]
    return events, len(lines) - len(events)


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None
