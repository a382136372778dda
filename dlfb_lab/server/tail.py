"""The losses that a run's journal has no line for yet."""

from __future__ import annotations

import os
from pathlib import Path

from dlfb_lab.journal import TAIL, parse_tail
from dlfb_lab.server.folders import opened
from dlfb_lab.server.losses import Block, block

MOST_BYTES = 64 << 20


def tail(folder: Path, offset: int) -> Block | None:
    """Returns the losses that follow the journal's last line, which ends at `offset`; None where there are none.

    Raises:
        Refusal: the tail is a link or no plain file.
    """
    try:
        with opened(folder, TAIL) as file:
            if os.fstat(file.fileno()).st_size > MOST_BYTES:
                return None
            found = parse_tail(file.read())
        # A tail that follows another place was overtaken by a line with the same losses, or belongs to a newer one.
        return block(found[1]) if found is not None and found[0] == offset else None
    except (FileNotFoundError, ValueError):
        return None
