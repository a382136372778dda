"""Checksums of files, several at a time."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterable
from pathlib import Path

import xxhash

from dlfb_lab.checkpoints.manifest import Stored

CHUNK_BYTES = 1 << 20
THREADS = 4


def stored(folder: Path, names: Iterable[str], *, sync: bool = False) -> dict[str, Stored]:
    """Returns size and checksum of files.

    Args:
        folder: where they lie.
        names: their names within it, with "/" on every system.
        sync: whether each is to be on the disk when this returns.

    Raises:
        OSError: one cannot be read.
    """
    names = list(names)
    left, found, errors = deque(names), dict[str, Stored](), list[Exception]()

    def work() -> None:
        while left and not errors:
            try:
                name = left.popleft()
                found[name] = _one(folder / name, sync)
            except IndexError:
                return  # another thread was quicker
            except Exception as error:
                errors.append(error)

    # Not a pool's, for whose threads the process's end waits, and so for a disk that does not answer.
    threads = [threading.Thread(target=work, name="dlfb-checksums", daemon=True) for _ in names[:THREADS]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return {name: found[name] for name in names}


def _one(path: Path, sync: bool) -> Stored:
    digest, size = xxhash.xxh3_64(), 0
    with open(path, "r+b" if sync else "rb", buffering=0) as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
        if sync:
            os.fsync(file.fileno())
    return Stored(bytes=size, xxh3=digest.hexdigest())
