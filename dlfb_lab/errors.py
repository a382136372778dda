"""The errors that a user is meant to read.

Each message says what is wrong, the value seen, and what to do. In a notebook
IPython shows the message alone, without a traceback.
"""

from __future__ import annotations

import difflib
import os
import traceback
from collections.abc import Iterable

FAILURES = (Exception, SystemExit)
"""What the user's own code may raise and does not mean for us: all but an interrupt."""


class DlfbLabError(Exception):
    """Base of all errors of this package."""

    def _render_traceback_(self) -> list[str]:
        """What IPython prints instead of a traceback."""
        return [f"\x1b[31m{type(self).__name__}\x1b[0m: {self}"]


class DataError(DlfbLabError, ValueError):
    """The data cannot be trained on as they are."""


class ModelError(DlfbLabError, ValueError):
    """The model cannot be trained as it is, or does not fit the data."""


class OptionError(DlfbLabError, ValueError):
    """An option is unknown, or its value cannot be used."""


class StoreError(DlfbLabError, OSError):
    """A run cannot be found, read or written."""


def nearest(word: str, known: Iterable[str]) -> str:
    """Returns ' Did you mean …?' for the known word most like `word`, or ''."""
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" Did you mean `{found[0]}`?" if found else ""


def one_line(error: BaseException) -> str:
    """Returns an error of the user's own code in one line: kind, message, and their line of code."""
    lines = str(error).strip().splitlines() or [""]
    message = f"{type(error).__name__}: {lines[0][:300]}"
    if lines[0].startswith("Caught ") and any(line.startswith("Original Traceback") for line in lines):
        # A worker process of PyTorch's DataLoader hands a whole traceback on; the error is its last line.
        message = lines[-1][:300]
    ours = os.sep + "site-packages" + os.sep, os.path.dirname(__file__) + os.sep
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not any(part in f.filename for part in ours)]
    frames = [f for f in frames if not f.filename.startswith("<frozen")]
    where = f" (at `{frames[-1].line}`, line {frames[-1].lineno})" if frames and frames[-1].line else ""
    return f"{message}{where}"
