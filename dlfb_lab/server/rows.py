"""One row of the list of runs: a journal that is read on where it grew, and whether its writer lives."""

from __future__ import annotations

import contextlib
import copy
import os
import stat
from pathlib import Path
from time import monotonic
from typing import BinaryIO, Literal

from dlfb_lab import journal
from dlfb_lab.journal import EVENTS, TAIL
from dlfb_lab.server import lines
from dlfb_lab.server.additions import Additions, additions
from dlfb_lab.server.answers import dumps
from dlfb_lab.server.digest import Digest
from dlfb_lab.server.errors import Refusal
from dlfb_lab.server.folders import is_settled, opened
from dlfb_lab.server.lines import Value
from dlfb_lab.server.losses import Block
from dlfb_lab.server.tail import tail

HEAD = 1 << 14
"""Bytes of a journal that are read at once to know whose it is, whatever else there is to do."""
LOOK_S, LOOK_OVER_S = 1.0, 60.0
"""Between two looks at the process that writes a run, and at that of one that is over."""

Life = Literal["alive", "gone", "elsewhere", "unknown"]


class Pulse:
    """Whether the process that writes a run lives; asking the operating system costs more than an answer does."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: tuple[int, int, int] | None = None
        self._life: Life = "unknown"
        self._looked_s = float("-inf")

    def life(self, every_s: float = LOOK_S) -> Life:
        """Returns what was true at most so many seconds ago."""
        if monotonic() - self._looked_s < every_s:
            return self._life
        self._looked_s = monotonic()
        try:
            look = os.lstat(self._folder / "writer.json")
        except (FileNotFoundError, NotADirectoryError):
            look = None
        except OSError:
            return self._life
        if look is None or not stat.S_ISREG(look.st_mode):
            self._writer, self._life = None, "gone"
            return self._life
        writer = (look.st_ino, look.st_mtime_ns, look.st_size)
        if writer != self._writer:
            self._writer, self._life = writer, "unknown"
        # The dead do not come back, and who writes elsewhere is not seen from here; a new writer shows in the file.
        if self._life in ("alive", "unknown") and (found := journal.liveness(self._folder)) != "unknown":
            self._life = found
        return self._life


class Row:
    """A run's digest, read on where the journal grew since it was last looked at.

    Attributes:
        reading: whether the journal has never been read to its end.
        pulse: of the process that writes the run.
    """

    def __init__(self, folder: Path) -> None:
        self.pulse = Pulse(folder)
        self._folder = folder
        # Kept as text: they are looked at each second, for each run.
        self._journal_path, self._tail_path = str(folder / EVENTS), str(folder / TAIL)
        self._begin()

    def _begin(self) -> None:
        self.reading = True
        self._digest = Digest()
        self._offset = self._mark = 0
        self._seen: tuple[int, int, int] | None = None
        self._folder_ns = 0
        self._tail: Block | None = None
        self._tail_seen: tuple[int, int, int] | None = None
        self._added = Additions()
        self._whole: Digest | None = None
        self._text: tuple[Value, str] | None = None

    @property
    def is_run(self) -> bool:
        """Whether the journal has a plan, as far as it has been read."""
        return self._digest.is_run

    @property
    def digest(self) -> Digest:
        """What the journal and the additions say, as far as they have been read."""
        if self._whole is None:
            self._whole = self._digest
            more = [*([self._tail.event] if self._tail else []), *self._added.events]
            if more:
                self._whole = copy.deepcopy(self._digest)
                self._whole.put(more)
        return self._whole

    def text(self, store: str, run: str, life: Life) -> str:
        """Returns the run's summary as JSON, made again only where it has changed."""
        about: Value = {"store": store, "run": run, "life": life, "reading": self.reading}
        if self._text is None or self._text[0] != about:
            self._text = (about, dumps({**about, **self.digest.summary()}))
        return self._text[1]

    def read(self, deadline_s: float) -> None:
        """Reads what is new, until there is no more or the time has come; the journal's head in any case.

        Raises:
            FileNotFoundError: there is no journal.
            Refusal: it may not be read.
        """
        look = os.lstat(self._journal_path)
        seen = (look.st_ino, look.st_size, look.st_mtime_ns)
        if seen != self._seen:
            with opened(self._folder, EVENTS) as file:
                if look.st_size < self._offset or lines.mark(file, self._offset) != self._mark:
                    # Another journal is in its place.
                    self._begin()
                if self._offset == 0:
                    self._take(file, min(look.st_size, HEAD), float("inf"))
                if self._take(file, look.st_size, deadline_s):
                    self._seen, self.reading = seen, False
                self._mark = lines.mark(file, self._offset)
        if not self.reading:
            self._read_tail()
        self._read_additions()

    def _take(self, file: BinaryIO, size: int, deadline_s: float) -> bool:
        """Reads on; returns whether it came to the end."""
        pieces = lines.read(file, self._offset, size)
        while monotonic() < deadline_s:
            piece = next(pieces, None)
            if piece is None:
                return True
            self._digest.put(piece[0])
            self._offset = piece[2]
            self._whole = self._text = None
        return self._offset == size

    def _read_tail(self) -> None:
        try:
            look = os.lstat(self._tail_path)
        except FileNotFoundError:
            seen = None
        else:
            seen = (look.st_size, look.st_mtime_ns, self._offset)
        if seen != self._tail_seen:
            self._tail_seen, self._tail = seen, None
            # Whoever opens a run with a link in it is told; here it is left out.
            with contextlib.suppress(Refusal):
                self._tail = tail(self._folder, self._offset)
            self._whole = self._text = None

    def _read_additions(self) -> None:
        changed_ns = os.stat(self._folder).st_mtime_ns
        if changed_ns == self._folder_ns and not self._added.events:
            return
        self._folder_ns = changed_ns if is_settled(changed_ns) else 0
        added = Additions()
        with contextlib.suppress(Refusal):
            added = additions(self._folder)
        if added != self._added:
            self._added = added
            self._whole = self._text = None
