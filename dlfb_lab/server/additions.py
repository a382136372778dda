"""What others than training have added to a run: files of their own, each of a few events."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from dlfb_lab.server.folders import opened
from dlfb_lab.server.lines import Value, parse

NAME = re.compile(r"events-[A-Za-z0-9._-]+\.jsonl")
MOST_BYTES = 1 << 20
"""Of one file; one event is a few hundred."""
LATEST_S = 1e15
"""Unix time; what claims to be later has no time."""


@dataclass(frozen=True)
class Additions:
    """What was added to a run.

    Attributes:
        lines: as they stand in the files, by time.
        events: the same, parsed.
        damaged: lines, or whole files, that say nothing.
    """

    lines: tuple[bytes, ...] = ()
    events: tuple[Value, ...] = ()
    damaged: int = 0


def additions(folder: Path) -> Additions:
    """Returns what was added to a run.

    Raises:
        Refusal: a file of additions is a link or no plain file.
    """
    try:
        with os.scandir(folder) as entries:
            found = [entry for entry in entries if NAME.fullmatch(entry.name)]
            if not found:
                return Additions()
            looks = [(entry.name, entry.stat(follow_symlinks=False)) for entry in found]
    except OSError:
        return Additions()
    return _read(folder, tuple(sorted((name, look.st_size, look.st_mtime_ns, look.st_mode) for name, look in looks)))


@lru_cache(maxsize=64)
def _read(folder: Path, files: tuple[tuple[str, int, int, int], ...]) -> Additions:
    found: list[tuple[float, bytes, Value]] = []
    damaged = 0
    for name, size, _, _ in files:
        try:
            with opened(folder, name) as file:
                text = file.read(min(size, MOST_BYTES))
        except FileNotFoundError:
            continue
        if size > MOST_BYTES:
            damaged += 1
            continue
        for line in filter(None, text.split(b"\n")):
            events, bad = parse([line])
            damaged += bad
            found += [(_time_s(event), line, event) for event in events]
    found.sort(key=lambda item: item[0])
    return Additions(tuple(line for _, line, _ in found), tuple(event for _, _, event in found), damaged)


def _time_s(event: Value) -> float:
    value = event.get("time_s")
    # Compared, not converted: an integer of 400 digits is no float.
    return float(value) if isinstance(value, int | float) and abs(value) <= LATEST_S else 0.0
