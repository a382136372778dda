"""Programs kept from one process to the next. Each process here is a kernel: it compiles a few small programs."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import pytest

from dlfb_lab.engine import cache

KERNEL = """
import collections, resource, sys
import jax, jax.numpy as jnp
from dlfb_lab.engine import cache
from dlfb_lab.engine.programs import Program, compiled

counts = collections.Counter()
jax.monitoring.register_event_listener(lambda name, **_: counts.update([name.split("/")[-1]]))
jax.jit(lambda x: x + 1)(1.0).block_until_ready()  # JAX has looked at its settings by now
SETUP
print(cache.enable())
print(cache.enable())
x = jnp.arange(64.0)
program = Program("step", "key", lambda x: jnp.tanh(x @ jnp.outer(x, x)) * x, donate=(0,))
run, took = compiled(program, x)
print(took is not None, float(run(x).sum()))
print(counts["cache_hits"], counts["cache_misses"])
"""


def kernel(folder: Path | str, setup: str = "", **environment: str) -> tuple[list[str], str]:
    """Returns the lines that a fresh kernel prints, in which a warning is an error, and what it says on stderr."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "XLA_", "DLFB_"))}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", KERNEL.replace("SETUP", setup)],
        env={**kept, "JAX_PLATFORMS": "cpu", "DLFB_CACHE": str(folder), **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines(), done.stderr


def entries(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_the_second_kernel_loads_what_the_first_has_compiled_and_survives_what_is_broken(tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    first, said = kernel(folder)
    assert said == ""
    assert first[0].startswith(f"Compiled programs are kept in {folder}, at most 1 GB; DLFB_CACHE=off")
    assert first[1] == "None", "said once"
    hits, misses = map(int, first[3].split())
    assert hits == 0
    assert misses == len(entries(folder)) > 1
    second, said = kernel(folder)
    assert said == ""
    assert second[2] == first[2], "compiled ahead of time too, and the same number"
    assert second[3] == f"{misses} 0"

    for path in entries(folder):
        path.write_bytes(b"garbage")
    broken, said = kernel(folder)
    assert said == ""
    assert broken[2] == first[2]
    assert broken[3].startswith("0 ")


def test_a_disk_that_is_full_ends_no_run(tmp_path: Path) -> None:
    # As on a full disk, a write fails after the file has been begun.
    full = "resource.setrlimit(resource.RLIMIT_FSIZE, (512, 512))"
    lines, said = kernel(tmp_path, full)
    assert said == ""
    assert lines[2].startswith("True ")
    assert all(path.stat().st_size <= 512 for path in entries(tmp_path))


def test_a_folder_that_cannot_be_written_ends_no_run(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    lines, said = kernel(tmp_path / "file")
    assert said == ""
    assert lines[0].startswith(f"Compiled programs cannot be kept in {tmp_path / 'file'} (")
    assert lines[0].endswith("DLFB_CACHE names another folder.")
    assert lines[1:] == ["None", lines[2], "0 0"]


def test_a_folder_that_the_user_gave_up_is_not_gone_on_with(tmp_path: Path) -> None:
    setup = f"""
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_compilation_cache_dir", {str(tmp_path / "given")!r})
jax.jit(lambda x: x + 2)(1.0)
jax.config.update("jax_compilation_cache_dir", None)
"""
    kernel(tmp_path / "kept", setup)
    assert len(entries(tmp_path / "given")) == 1
    assert len(entries(tmp_path / "kept")) > 1


@pytest.fixture
def untouched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Fails if a test changes JAX's settings."""
    monkeypatch.setattr(cache, "_folder", None)
    monkeypatch.setenv("DLFB_CACHE", str(tmp_path))
    config: Any = jax.config
    before = config.jax_compilation_cache_dir
    yield
    assert config.jax_compilation_cache_dir == before
    assert not entries(tmp_path)


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("word", ["off", "OFF"])
def test_it_can_be_switched_off(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DLFB_CACHE", word)
    assert cache.enable() is None


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize(
    ("name", "value"), [("jax_compilation_cache_dir", "given"), ("jax_enable_compilation_cache", False)]
)
def test_a_setting_of_the_users_own_wins(name: str, value: Any, tmp_path: Path) -> None:
    config: Any = jax.config
    before = getattr(config, name)
    jax.config.update(name, str(tmp_path / value) if isinstance(value, str) else value)
    try:
        assert cache.enable() is None
    finally:
        jax.config.update(name, before)


@pytest.mark.usefixtures("untouched")
def test_a_version_that_loads_programs_with_errors_does_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "__version_info__", (0, 10, 1))
    assert cache.enable() is None


def test_what_was_used_least_recently_goes_first(tmp_path: Path) -> None:
    now = time.time()
    for age, name in enumerate(["newest", "used", "oldest"]):
        path = tmp_path / "processor" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes(100))
        os.utime(path, (now - 3600 * (1 if name == "used" else 10 * (age + 1)), now - 36000 * (age + 1)))
    cache.prune(tmp_path, most_bytes=300)
    assert len(entries(tmp_path)) == 3
    cache.prune(tmp_path, most_bytes=250)
    assert {path.name for path in entries(tmp_path)} == {"newest", "used"}
    cache.prune(tmp_path, most_bytes=100)
    assert {path.name for path in entries(tmp_path)} == {"used"}
    cache.prune(tmp_path / "missing")


@pytest.mark.parametrize("size", [0, cache.BLOCK, 3 * cache.BLOCK])
def test_what_a_full_disk_cut_off_goes(size: int, tmp_path: Path) -> None:
    for name, length, age in (("cut", size, 120), ("being written", size, 0), ("whole", size + 1, 120)):
        (tmp_path / name).write_bytes(bytes(length))
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    cache.prune(tmp_path)
    assert {path.name for path in entries(tmp_path)} == {"being written", "whole"}


def test_pruning_goes_on_in_a_thread_and_not_at_every_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pruned = []
    done = threading.Event()
    monkeypatch.setattr(cache, "prune", lambda root: (pruned.append(root), done.set()))
    monkeypatch.setattr(cache, "_pruned_at", -cache.PRUNE_AFTER_S)
    for _ in range(3):
        cache._prune_in_background(tmp_path)
    assert done.wait(60)
    assert pruned == [tmp_path]


def test_each_kind_of_processor_has_a_folder_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    here = cache._processor()
    assert here == cache._processor()
    monkeypatch.setattr(cache.platform, "processor", lambda: "another")
    assert cache._processor() != here
