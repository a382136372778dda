"""What a user gets from pip: built and installed on a PATH without Node, and at work in JupyterLab at once."""

from __future__ import annotations

import email
import json
import os
import re
import shutil
import site
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BUNDLE = {"dlfb_lab/views/static/dashboard.js", "dlfb_lab/views/static/dashboard.css"}
LABEXTENSION = "share/jupyter/labextensions/dlfb-lab"
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
    shutil.rmtree(copy / "dlfb_lab" / "labextension", ignore_errors=True)
    for name in [*BUNDLE, "dlfb_lab/views/static/renamed.js", "dlfb_lab/labextension/static/remoteEntry.old.js"]:
        path = copy / name
        path.parent.mkdir(exist_ok=True, parents=True)
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


def run(command: list[str], *, cwd: Path, environment: dict[str, str], python: str = sys.executable) -> str:
    done = subprocess.run(
        [python, "-m", *command],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout + done.stderr


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
        (data,) = {name.partition("/")[0] for name in names if ".data/" in name}
        shared = {name.removeprefix(f"{data}/data/") for name in names if name.startswith(data)}
        manifest = json.loads(archive.read(f"{data}/data/{LABEXTENSION}/package.json"))
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {"dlfb_lab", data}
    assert not any(name.startswith("dlfb_lab/labextension/") for name in names), "it would be there twice"
    assert shared >= {
        "etc/jupyter/jupyter_server_config.d/dlfb_lab.json",
        f"{LABEXTENSION}/install.json",
        f"{LABEXTENSION}/{manifest['jupyterlab']['_build']['load']}",
    }
    assert not any(name.endswith("remoteEntry.old.js") for name in shared)


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


def test_both_halves_are_enabled_by_the_installation_alone(wheel: Path, tmp_path: Path) -> None:
    run(["venv", "--without-pip", "fresh"], cwd=tmp_path, environment=dict(os.environ))
    python = str(next(tmp_path.glob("fresh/[bS]*/python*")))
    (packages,) = {*tmp_path.glob("fresh/lib/python*/site-packages"), *tmp_path.glob("fresh/Lib/site-packages")}
    (packages / "others.pth").write_text("\n".join(site.getsitepackages()))
    command = ["pip", "--python", python, "install", "--no-deps", "--quiet", str(wheel)]
    run(command, cwd=tmp_path, environment=dict(os.environ))
    elsewhere = {name: str(tmp_path / name) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR")}
    environment = os.environ | elsewhere | {"NO_COLOR": "1"}
    lab = run(["jupyterlab.labextensions", "list"], cwd=tmp_path, environment=environment, python=python)
    assert re.search(r"dlfb-lab v\S+ .*enabled.*OK.*dlfb-lab", lab), lab
    assert str(tmp_path / "fresh" / "share") in lab
    command = ["jupyter_server.extension.serverextension", "list"]
    server = run(command, cwd=tmp_path, environment=environment, python=python)
    assert re.search(r"dlfb_lab .*enabled", server), server
    assert re.search(r"dlfb_lab \S* ?.*OK", server), server


def test_sdist_builds_anywhere(checkout: Path, wheel: Path) -> None:
    """It holds the sources and the bundle. Built after the wheel, with the npm packages that are there."""
    run(["build", "--sdist", "--no-isolation", "--skip-dependency-check"], cwd=checkout, environment=dict(os.environ))
    (built,) = (checkout / "dist").glob("*.tar.gz")
    with tarfile.open(built) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    sources = {"package.json", "package-lock.json", "tsconfig.json", "LICENSE", ".npmrc"}
    assert names >= BUNDLE | sources | {"dlfb_lab/labextension/package.json", "labextension/install.json"}
    assert any(name.startswith("labextension/core/") for name in names)
    assert not any("node_modules" in name for name in names)
