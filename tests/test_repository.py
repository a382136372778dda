"""What no tracked file may hold, and what two files must agree on."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

import dlfb_lab

ROOT = Path(__file__).parents[1]

# Spelled so that this file does not match itself.
REGISTRY_HOST = re.compile(r"(pypi|pythonhosted|npmjs|yarnpkg|debian)[.](org|com)", re.IGNORECASE)
MACHINE_PATH = re.compile(r"(?<![\w.])/(home|root|work|Users)[/]\w")


def tracked_texts() -> dict[str, str]:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    names = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split("\0")
    texts = {}
    for name in filter(None, names):
        path = ROOT / name
        if path.is_file() and path.suffix != ".png":
            texts[name] = path.read_text(encoding="utf-8")
    return texts


@pytest.mark.parametrize("pattern", [REGISTRY_HOST, MACHINE_PATH], ids=["registry host", "machine path"])
def test_no_file_names_one_machine_or_registry(pattern: re.Pattern[str]) -> None:
    found = [
        f"{name}:{number}: {line.strip()[:100]}"
        for name, text in tracked_texts().items()
        for number, line in enumerate(text.splitlines(), 1)
        if pattern.search(line)
    ]
    assert found == []


def test_lock_files_hold_no_addresses() -> None:
    locks = {name: text for name, text in tracked_texts().items() if "lock" in Path(name).name}
    assert "package-lock.json" in locks
    assert [name for name, text in locks.items() if '"resolved"' in text] == []


def test_both_packages_have_one_version_and_license() -> None:
    assert dlfb_lab.__version__ == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    python = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    node = json.loads((ROOT / "package.json").read_text())
    assert (node["name"], node["version"], node["license"]) == (
        python["name"],
        python["version"],
        python["license"],
    )
