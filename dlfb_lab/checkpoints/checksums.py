"""Checksums of files, several at a time."""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
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
    with ThreadPoolExecutor(THREADS, thread_name_prefix="dlfb-checksums") as threads:
        return dict(zip(names, threads.map(lambda name: _one(folder / name, sync), names), strict=True))


def _one(path: Path, sync: bool) -> Stored:
    digest, size = xxhash.xxh3_64(), 0
    with open(path, "r+b" if sync else "rb", buffering=0) as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
        if sync:
            os.fsync(file.fileno())
    return Stored(bytes=size, xxh3=digest.hexdigest())
