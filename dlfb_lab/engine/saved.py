"""States that were saved, by what people call them: found, compared with their checksums, chosen, exported."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from dlfb_lab import journal
from dlfb_lab.checkpoints import export as exporting
from dlfb_lab.checkpoints import finding
from dlfb_lab.checkpoints.folder import State
from dlfb_lab.checkpoints.selection import Selection, Which, select
from dlfb_lab.engine import saving
from dlfb_lab.errors import StoreError
from dlfb_lab.record import Record


def selected(
    asked: Any,
    store: str | Path | None,
    who: str,
    *,
    which: Which | None = None,
    member: int | str | None = None,
    states: Collection[State] = finding.USABLE,
) -> Selection:
    """Returns a state that was saved, after comparing the checksums of all its files.

    Args:
        asked: see `finding.located`.
        store: the folder to look in; None for the usual one.
        who: who asks, which begins each message.
        which: see `selection.select`.
        member: see `selection.select`.
        states: of a checkpoint that can be used.

    Raises:
        OptionError: the step is no number, or there is no such member.
        StoreError: there is no such run or checkpoint, or it cannot be used; says which can.
    """
    path, step = finding.located(asked, store, who)
    record = Record(journal.read(path))
    # The last state of a run of this process may be on its way to the disk.
    saving.wait()
    # Of several members one that has diverged does not count against the others.
    apart = bool(record.members) and member != "all"
    found = finding.chosen(path, step, who, (*states, "not finite") if apart else states)
    found.verified()
    selection = select(found, record, which, member)
    if found.checkpoint.state not in states or (apart and "not finite" not in states):
        _refuse_not_finite(selection)
    return selection


def _refuse_not_finite(selection: Selection) -> None:
    for name, array in selection.arrays(selection.not_finite):
        if not np.isfinite(array).all():
            found = selection.found
            raise StoreError(
                f"{found.who}: {found.name}, {selection.said}, is not finite: {name} holds NaN or infinity."
                f"{finding.offer(found.path, found.usable[0] if found.usable else None, found.who)}"
            )


def export(
    asked: Any,
    path: str | Path,
    what: exporting.What = "params",
    *,
    which: Which | None = None,
    member: int | str | None = None,
    overwrite: bool = False,
    store: str | Path | None = None,
) -> Path:
    """Writes a state that was saved as a file of safetensors, and says so; see `checkpoints.export.export`."""
    selection = selected(asked, store, "export", which=which, member=member)
    say(selection)
    found = exporting.export(selection, Path(path), what, overwrite)
    said = f"{what} of {selection.found.path.name}, {selection.said}; {found.stat().st_size:,} bytes"
    print(f"{found}: {said}, read back and compared.")  # noqa: T201 - it is done only now
    return found


def say(selection: Selection) -> None:
    """Says what the user should know of a state that was chosen."""
    for note in selection.notes:
        print(note)  # noqa: T201 - no run is shown here that could say it
