"""Comparing checkpoints with their checksums, which takes as long as reading them: beside all else, by store."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from time import time

from dlfb_lab.checkpoints import folder
from dlfb_lab.checkpoints.folder import Checkpoint


@dataclass(frozen=True)
class Verdict:
    """What came of verifying a checkpoint.

    Attributes:
        at_s: when, seconds since 1970.
        why: what is wrong with it; "" where nothing is.
    """

    at_s: float
    why: str


class Verifier:
    """Verifies in daemon threads: one for each store with something to do, so that no disk waits for another."""

    def __init__(self, is_own: Callable[[Path], bool]) -> None:
        """Prepares; no thread is started before there is something to verify.

        Args:
            is_own: whether a checkpoint's folder holds plain files only, so that it may be read.
        """
        self._is_own = is_own
        self._lock = threading.Lock()
        self._left: dict[Path, list[Path]] = {}
        self._verdicts: dict[tuple[Path, float], Verdict] = {}

    def put(self, checkpoints: Iterable[Checkpoint]) -> None:
        """Has checkpoints of one run verified, each that is not waiting for it already."""
        for path in (checkpoint.path for checkpoint in checkpoints):
            store = path.parents[2]
            with self._lock:
                if store in self._left:
                    if path not in self._left[store]:
                        self._left[store].append(path)
                    continue
                self._left[store] = [path]
            threading.Thread(target=self._work, args=(store,), name="dlfb-verifying", daemon=True).start()

    def is_busy_with(self, checkpoint: Checkpoint) -> bool:
        """Whether a checkpoint is being verified, or will be."""
        with self._lock:
            return checkpoint.path in self._left.get(checkpoint.path.parents[2], ())

    def verdict(self, checkpoint: Checkpoint) -> Verdict | None:
        """Returns what came of verifying a checkpoint last, unless another was saved in its place."""
        return self._verdicts.get(_key(checkpoint))

    def judged(self, checkpoint: Checkpoint) -> Checkpoint:
        """Returns a checkpoint with the damage that was found, also where that could not be noted on the disk."""
        verdict = self.verdict(checkpoint)
        if verdict is None or not verdict.why or checkpoint.state not in ("complete", "not finite"):
            return checkpoint
        return replace(checkpoint, state="damaged", why=verdict.why)

    def _work(self, store: Path) -> None:
        path: Path | None = self._left[store][0]
        while path is not None:
            with contextlib.suppress(Exception):
                self._verify(path)
            with self._lock:
                self._left[store].pop(0)
                path = next(iter(self._left[store]), None)
                if path is None:
                    del self._left[store]

    def _verify(self, path: Path) -> None:
        if not self._is_own(path) or (before := folder.looked_at(path)) is None:
            return
        found = folder.verify(before)
        # One that was deleted meanwhile is gone, not damaged.
        if path.exists():
            self._verdicts[_key(before)] = Verdict(time(), found.why if found.state == "damaged" else "")


def _key(checkpoint: Checkpoint) -> tuple[Path, float]:
    return checkpoint.path, checkpoint.manifest.saved_at_s if checkpoint.manifest is not None else 0.0
