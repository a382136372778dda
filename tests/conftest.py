from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

COMPILED = {
    "JAX_COMPILATION_CACHE_DIR": "",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}


def pytest_configure(config: pytest.Config) -> None:
    """Lets all processes of this test session compile a program once: before JAX is imported, and workers start."""
    if not hasattr(config, "workerinput"):
        COMPILED["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="dlfb-compiled-")
        os.environ.update(COMPILED)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Removes what was compiled."""
    if not hasattr(config, "workerinput"):
        shutil.rmtree(COMPILED["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)


@pytest.fixture(scope="session", autouse=True)
def own_register(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keeps the stores of tests, and of the kernels and servers that they start, out of the user's register."""
    before = os.environ.get("DLFB_REGISTER")
    folder = tmp_path_factory.mktemp("register")
    os.environ["DLFB_REGISTER"] = str(folder)
    yield folder
    del os.environ["DLFB_REGISTER"]
    if before is not None:
        os.environ["DLFB_REGISTER"] = before


@pytest.fixture(scope="session", autouse=True)
def no_checkpoints() -> Iterator[None]:
    """Lets only those tests save states that look at them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DLFB_CHECKPOINT", "off")
        yield


@pytest.fixture(scope="session", autouse=True)
def no_kept_programs() -> Iterator[None]:
    """Keeps tests, and the kernels that they start, from the user's own folder of compiled programs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DLFB_CACHE", "off")
        yield


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip `@pytest.mark.guests("torch", ...)` where one of the named modules is missing."""
    for marker in item.iter_markers("guests"):
        for module in marker.args:
            if importlib.util.find_spec(module) is None:
                pytest.skip(f"{module} is not installed: make test GUESTS=1")
