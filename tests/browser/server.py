"""A real JupyterLab server, for tests and benchmarks."""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

CHROMIUM_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--force-color-profile=srgb",
    "--font-render-hinting=none",
)

# Cells outside the window stay in the page, so that a test can read them; nothing asks the network for news.
SETTINGS = {
    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False},
    "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"},
}


class JupyterLab:
    """A JupyterLab server with a home of its own, which can be stopped and started again at the same address.

    Attributes:
        url: where it listens, without a slash at the end.
        token: what it asks every visitor for.
        folder: the folder that it shows.
        settings: where it keeps what a user changed, the theme for example.
        register: where its kernels note their stores.
    """

    def __init__(self, home: Path, *options: str) -> None:
        self.folder, self.settings, self.register = home / "notebooks", home / "settings", home / "register"
        self.token = secrets.token_hex(16)
        self._log = home / "server.log"
        self._server: subprocess.Popen[bytes] | None = None
        overrides = home / "config" / "labconfig" / "default_setting_overrides.json"
        overrides.parent.mkdir(parents=True)
        overrides.write_text(json.dumps(SETTINGS))
        self.folder.mkdir()
        places = {
            "JUPYTER_CONFIG_DIR": "config",
            "JUPYTER_DATA_DIR": "data",
            "JUPYTER_RUNTIME_DIR": "runtime",
            "JUPYTERLAB_SETTINGS_DIR": "settings",
            "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
            "IPYTHONDIR": "ipython",
            "MPLCONFIGDIR": "matplotlib",
            "DLFB_REGISTER": "register",
        }
        self.environment = os.environ | {name: str(home / place) for name, place in places.items()}
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self._command = [
            *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1"),
            *(f"--port={port}", "--ServerApp.port_retries=0", f"--IdentityProvider.token={self.token}"),
            *("--LabApp.expose_app_in_browser=True", f"--ServerApp.root_dir={self.folder}", *options),
        ]

    def start(self, limit_s: float = 60) -> None:
        with self._log.open("a") as out:
            self._server = subprocess.Popen(
                self._command, cwd=self.folder, env=self.environment, stdout=out, stderr=out
            )
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline and self._server.poll() is None:
            try:
                self.request("GET", "api/status")
            except OSError:
                time.sleep(0.1)
            else:
                return
        self.stop()
        raise RuntimeError(f"JupyterLab did not start:\n{self._log.read_text()[-4000:]}")

    def stop(self) -> None:
        if self._server is not None:
            self._server.terminate()
            try:
                self._server.wait(timeout=15)
            except subprocess.TimeoutExpired:
                # Its loop has ended, but a thread of anyio's that waits for work does not let the process go.
                self._server.kill()
                self._server.wait(timeout=15)
            self._server = None

    def request(self, method: str, path: str) -> bytes:
        """Ask the server for something, as whoever holds its token."""
        headers = {"Authorization": f"token {self.token}"}
        with urllib.request.urlopen(
            urllib.request.Request(f"{self.url}/{path}", method=method, headers=headers), timeout=30
        ) as answer:
            return bytes(answer.read())
