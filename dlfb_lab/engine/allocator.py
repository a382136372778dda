"""The C library's allocator, from which XLA takes a CPU program's temporary memory anew for each dispatch.

By default glibc may hand memory back to the system each time it is freed. The next dispatch then meets a page fault
for every 4 KiB, which takes up to half of a step's time.
"""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import suppress
from functools import cache

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""From malloc.h."""

LARGEST = 32 * 2**20
"""Bytes of an allocation that the allocator may keep when it is freed; glibc takes no larger number."""

KEPT = 256 * 2**20
"""Bytes that it may keep at the end of a heap."""


@cache
def keep_freed_memory() -> bool:
    """Lets the allocator of this process keep freed memory for the next dispatch; returns whether it does.

    Settings of the user's own win.
    """
    if not sys.platform.startswith("linux") or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    if "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    with suppress(AttributeError, OSError):
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018 - raises where the C library is another
        return bool(library.mallopt(M_MMAP_THRESHOLD, LARGEST) and library.mallopt(M_TRIM_THRESHOLD, KEPT))
    return False
