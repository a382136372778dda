"""What a user gets from pip: built and installed on a PATH without Node."""

from __future__ import annotations

import email
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BUNDLE = {"dlfb_lab/views/static/dashboard.js", "dlfb_lab/views/static/dashboard.css"}
STALE = "left over from an older build"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tree with the npm packages already there and a stale bundle."""
    copy = tmp_path_factory.mktemp("packaging") / "checkout"
    ignored = shutil.ignore_patterns("node_modules", ".*", "build", "dist", "__pycache__", "dlfb_runs")
    shutil.copytree(ROOT, copy, ignore=ignored)
    for name in (".npmrc", ".gitignore"):
        shutil.copy(ROOT / name, copy)
    shutil.copytree(ROOT / "node_modules", copy / "node_modules", symlinks=True, copy_function=os.link)
    for name in [*BUNDLE, "dlfb_lab/views/static/renamed.js"]:
        path = copy / name
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_text(STALE)
    return copy


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """This process's environment with a shell on PATH and no Node."""
    tools = tmp_path_factory.mktemp("bin")
    for name in ("sh", "env"):
        (tools / name).symlink_to(str(shutil.which(name)))
    assert shutil.which("node", path=str(tools)) is None
    environment = os.environ | {"PATH": str(tools)}
    environment.pop("HATCH_JUPYTER_BUILDER_SKIP_NPM", None)
    return environment


def run(command: list[str], *, cwd: Path, environment: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]


@pytest.fixture(scope="module")
def wheel(checkout: Path, environment: dict[str, str]) -> Path:
    """The wheel, built in isolation: Node comes from the build requirements."""
    run(["pip", "wheel", "--no-deps", "--wheel-dir=dist", "."], cwd=checkout, environment=environment)
    (built,) = (checkout / "dist").glob("*.whl")
    return built


def test_wheel_holds_the_bundle_made_anew(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        assert {name for name in names if name.startswith("dlfb_lab/views/static/")} == BUNDLE
        for name in BUNDLE:
            assert STALE not in archive.read(name).decode()
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {"dlfb_lab"}


def test_base_requirements_bring_no_jupyterlab(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        required = email.message_from_bytes(archive.read(metadata)).get_all("Requires-Dist", [])
    base = [line for line in required if "extra ==" not in line]
    assert any(line.startswith("jax") for line in base)
    assert [line for line in base if line.startswith(("jupyterlab", "jupyter_server", "jupyter-server"))] == []
    assert any(line.startswith("jupyterlab") and "extra == 'lab'" in line for line in required)


def test_wheel_installs_without_node(wheel: Path, environment: dict[str, str], tmp_path: Path) -> None:
    run(["pip", "install", "--no-deps", "--target=site", str(wheel)], cwd=tmp_path, environment=environment)
    assert all((tmp_path / "site" / name).is_file() for name in BUNDLE)


def test_sdist_builds_anywhere(checkout: Path, wheel: Path) -> None:
    """It holds the sources and the bundle. Built after the wheel, with the npm packages that are there."""
    run(["build", "--sdist", "--no-isolation", "--skip-dependency-check"], cwd=checkout, environment=dict(os.environ))
    (built,) = (checkout / "dist").glob("*.tar.gz")
    with tarfile.open(built) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    sources = {"package.json", "package-lock.json", "tsconfig.json", "LICENSE", ".npmrc"}
    assert names >= BUNDLE | sources
    assert any(name.startswith("labextension/core/") for name in names)
    assert not any("node_modules" in name for name in names)
