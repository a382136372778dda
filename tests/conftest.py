from __future__ import annotations

import importlib.util

import pytest


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip `@pytest.mark.guests("torch", ...)` where one of the named modules is missing."""
    for marker in item.iter_markers("guests"):
        for module in marker.args:
            if importlib.util.find_spec(module) is None:
                pytest.skip(f"{module} is not installed: make test GUESTS=1")
