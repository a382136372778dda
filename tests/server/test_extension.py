"""That a Jupyter server takes the extension up, and what that costs it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import dlfb_lab

from .runs import checkpoint

ROOT = Path(__file__).parents[2]
HEAVY = {"jax", "jaxlib", "flax", "optax", "orbax", "pandas", "sklearn", "matplotlib", "scipy"}
UNNEEDED = {"IPython", "ipywidgets", "anywidget", "pynvml"}


def test_a_server_that_finds_the_configuration_enables_the_extension(tmp_path: Path) -> None:
    place = tmp_path / "jupyter_server_config.d"
    place.mkdir()
    text = (ROOT / "jupyter-config" / "server-config" / "dlfb_lab.json").read_text()
    (place / "dlfb_lab.json").write_text(text)
    environment = os.environ | {"JUPYTER_CONFIG_DIR": str(tmp_path), "JUPYTER_NO_CONFIG": "", "NO_COLOR": "1"}
    code = "from jupyter_server.extension.serverextension import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "list"], env=environment, capture_output=True, text=True, check=True
    )
    said = done.stdout + done.stderr
    # An installed copy may stand in another folder of configuration.
    ours = said.partition(f"Config dir: {tmp_path}\n")[2].partition("Config dir:")[0]
    assert "dlfb_lab \x1b[32menabled" in ours or "dlfb_lab enabled" in ours, said
    assert f"dlfb_lab {dlfb_lab.__version__}" in ours and "OK" in ours, said


def test_loading_it_imports_nothing_heavy_and_starts_no_thread() -> None:
    code = """
import json, sys, threading
import dlfb_lab
(point,) = dlfb_lab._jupyter_server_extension_points()
module = __import__(point["module"], fromlist=["_load_jupyter_server_extension"])
assert not [name for name in sys.modules if name.startswith("jupyter_server")], "only a server needs it"

class Server:
    root_dir, base_url, said = ".", "/", []
    class web_app:
        added = []
        @classmethod
        def add_handlers(cls, host, routes):
            cls.added += routes
    class log:
        @staticmethod
        def info(text):
            Server.said.append(text)

module._load_jupyter_server_extension(Server)
print(json.dumps({
    "modules": sorted({name.partition(".")[0] for name in sys.modules}),
    "routes": len(Server.web_app.added),
    "said": Server.said,
    "threads": threading.active_count(),
}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    told = json.loads(done.stdout)
    assert set(told["modules"]) & (HEAVY | UNNEEDED) == set()
    assert told["routes"] >= 5
    assert told["threads"] == 1
    (said,) = told["said"]
    assert dlfb_lab.__version__ in said


async def test_answering_imports_nothing_heavy_either(tmp_path: Path, run: Path) -> None:
    checkpoint(run, 10, 0.9)
    checkpoint(run, 20)
    code = """
import json, sys
from pathlib import Path
from dlfb_lab.server.service import Service
service = Service(Path("."))
runs = json.loads(service.runs())["runs"]
(row,) = runs
service.events(row["store"], row["run"], "")
service.devices("")
service.checkpoints.told(row["store"], row["run"])
for action in ("verify", "pin", "unpin", "delete"):
    body = {"action": action, "name": "step-10"}
    told = json.loads(service.checkpoints.change(row["store"], row["run"], json.dumps(body).encode()))
body = {"action": "undo", "name": told["trash"][0]["name"]}
told = json.loads(service.checkpoints.change(row["store"], row["run"], json.dumps(body).encode()))
assert len(told["checkpoints"]) == 2
service.close()
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(json.loads(done.stdout)) & (HEAVY | UNNEEDED - {"pynvml"}) == set()


def test_jupyterlab_is_told_where_its_half_is() -> None:
    assert dlfb_lab._jupyter_labextension_paths() == [{"src": "labextension", "dest": "dlfb-lab"}]


async def test_when_the_server_stops_so_do_the_threads(ask: Any, closings: list[Callable[[], None]], run: Path) -> None:
    await ask("devices")
    await ask("runs")
    assert any(thread.name == "dlfb-devices" for thread in threading.enumerate())
    (close,) = closings
    close()
    left = [thread for thread in threading.enumerate() if thread.name.startswith("dlfb-")]
    for thread in left:
        thread.join(5)
    assert not any(thread.is_alive() for thread in left)


def test_a_disk_that_hangs_does_not_keep_the_process() -> None:
    code = """
import asyncio, threading
from dlfb_lab.server import threads

async def ask():
    asyncio.ensure_future(threads.Threads().call(threading.Event().wait, threads.LISTS))
    await asyncio.sleep(0.1)

asyncio.run(ask())
print("ended")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=20)
    assert done.stdout == "ended\n" and done.stderr == ""


@pytest.mark.slow
def test_a_server_of_its_own_process_starts_and_ends_cleanly(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    places = {name: str(tmp_path / name) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR")}
    command = [
        *(sys.executable, "-m", "jupyter_server", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}"),
        *("--IdentityProvider.token=t", "--ServerApp.jpserver_extensions=dlfb_lab=True"),
        f"--ServerApp.root_dir={tmp_path}",
    ]
    with subprocess.Popen(command, env=os.environ | places, stderr=subprocess.PIPE, text=True) as process:
        end = time.monotonic() + 60
        for _ in range(2):
            while True:
                request = urllib.request.Request(f"http://127.0.0.1:{port}/dlfb-lab/devices")
                request.add_header("Authorization", "token t")
                try:
                    with urllib.request.urlopen(request, timeout=10) as answer:
                        assert json.loads(answer.read())["version"] == dlfb_lab.__version__
                        break
                except OSError:
                    assert time.monotonic() < end
                    time.sleep(0.2)
            time.sleep(1.0)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 0
    assert f"dlfb_lab {dlfb_lab.__version__} shows the runs" in said
    assert "Traceback" not in said and "Error" not in said
