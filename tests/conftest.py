from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

import pytest


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
    """Lets tests, and the kernels that they start, compile what they test, whatever the user's cache holds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DLFB_CACHE", "off")
        yield


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip `@pytest.mark.guests("torch", ...)` where one of the named modules is missing."""
    for marker in item.iter_markers("guests"):
        for module in marker.args:
            if importlib.util.find_spec(module) is None:
                pytest.skip(f"{module} is not installed: make test GUESTS=1")
