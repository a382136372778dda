"""Memory that the C library's allocator keeps for the next dispatch."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import numpy as np
from dlfb_lab.engine.allocator import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        several = [np.ones(3 * 2**20) for _ in range(4)]  # 24 MiB each
        del several
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="settings of glibc")
def test_freed_memory_is_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)

    def faults(how: str) -> int:
        done = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True)
        return int(done.stdout)

    assert faults("kept") < 1000 < 10_000 < faults("not kept")


@pytest.mark.parametrize(("name", "value"), [("MALLOC_TOP_PAD_", "1"), ("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")])
def test_the_users_own_settings_win(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from dlfb_lab.engine.allocator import keep_freed_memory

    monkeypatch.setenv(name, value)
    keep_freed_memory.cache_clear()
    try:
        assert keep_freed_memory() is False
    finally:
        keep_freed_memory.cache_clear()
