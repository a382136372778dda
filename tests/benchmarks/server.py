"""What the server extension costs a Jupyter server while a panel or a dashboard is open, and how soon a run is there.

python tests/benchmarks/server.py --seconds 10          a quick look at the cost
"""

from __future__ import annotations

import argparse
import gzip
import http.client
import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median
from typing import Any

import journals
import numpy as np
import psutil

from dlfb_lab import journal, register
from dlfb_lab.events import Evaluation, Event, Losses, Status, to_json

SECONDS = 60.0
"""Of each kind of traffic."""
SETTLE_S = 5.0
RUNS = 20
STEPS = 1_000_000
TARGETS = {"visible": 0.02, "hidden": 0.002}
"""Of one core, beyond what the idle server takes."""
READS = {"1,000,000 steps, dense": (8192, 0.15), "1,000,000 steps, 50,000 lines": (20, 1.0)}
"""Losses in a line, and the seconds in which the whole run should be there."""


class Server:
    """A Jupyter server with nothing but this extension, in a process of its own."""

    def __init__(self, home: Path) -> None:
        self.token = secrets.token_hex(16)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        places = {"JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data", "JUPYTER_RUNTIME_DIR": "runtime"}
        command = [
            *(sys.executable, "-m", "jupyter_server", "--no-browser", "--allow-root", "--ip=127.0.0.1"),
            *(f"--port={self.port}", f"--IdentityProvider.token={self.token}", f"--ServerApp.root_dir={home}"),
            "--ServerApp.jpserver_extensions=dlfb_lab=True",
        ]
        environment = os.environ | {name: str(home / place) for name, place in places.items()}
        self._process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
        self._usage = psutil.Process(self._process.pid)
        self._connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        end = time.monotonic() + 60
        while True:
            try:
                self.get("runs")
                return
            except OSError:
                self._connection.close()
                if time.monotonic() > end:
                    raise
                time.sleep(0.2)

    def get(self, path: str) -> bytes:
        """Asks as a browser does, on one connection that stays open."""
        headers = {"Authorization": f"token {self.token}", "Accept-Encoding": "gzip"}
        self._connection.request("GET", f"/dlfb-lab/{path}", headers=headers)
        answer = self._connection.getresponse()
        text = answer.read()
        assert answer.status == 200, text
        if answer.headers.get("Content-Encoding") == "gzip":
            return gzip.decompress(text)
        return text

    def cpu_s(self) -> float:
        """Seconds of CPU that the process has taken."""
        times = self._usage.cpu_times()
        return float(times.user + times.system)

    def stop(self) -> None:
        """Ends the process."""
        self._process.terminate()
        self._process.wait(30)


def measure(repeats: int, seconds: float = SECONDS) -> dict[str, Any]:
    """Plays each kind of traffic, and reads whole runs `repeats` times."""
    with tempfile.TemporaryDirectory(prefix="dlfb-bench-") as home:
        before = os.environ.get("DLFB_REGISTER")
        os.environ["DLFB_REGISTER"] = str(Path(home) / "register")
        try:
            return _measure(Path(home), repeats, seconds)
        finally:
            del os.environ["DLFB_REGISTER"]
            if before is not None:
                os.environ["DLFB_REGISTER"] = before


def _measure(home: Path, repeats: int, seconds: float) -> dict[str, Any]:
    store = home / "store"
    for number in range(RUNS - 1):
        _write(store, _finished(f"run {number}"))
    register.note(store)
    live = Live(store)
    server = Server(home)
    try:
        key = register.key(store)
        cpu = _costs(server, key, live.path.name, seconds)
        live.stop()
        reads = {name: _reads(server, home / str(block), block, repeats) for name, (block, _) in READS.items()}
    finally:
        live.stop()
        server.stop()
    return {"seconds": seconds, "runs": RUNS, "cpu": cpu, "cpu_targets": TARGETS, "reads": reads}


def _costs(server: Server, key: str, run: str, seconds: float) -> dict[str, Any]:
    after = {"devices": "", "run": ""}

    def runs() -> int:
        return len(server.get("runs"))

    def devices() -> int:
        text = server.get(f"devices?after={after['devices']}")
        after["devices"] = str(json.loads(text)["next"])
        return len(text)

    def events() -> int:
        text = server.get(f"runs/{key}/{run}?after={after['run']}")
        after["run"] = json.loads(text)["next"]
        return len(text)

    kinds: dict[str, list[tuple[float, Callable[[], int]]]] = {
        "idle": [],
        "hidden": [(5.0, runs)],
        "visible": [(1.0, runs), (1.0, devices)],
        "dashboard": [(0.2, events)],
    }
    # The first answers read all journals; idle comes before anybody has asked for devices.
    runs(), events()
    time.sleep(SETTLE_S)
    found: dict[str, Any] = {}
    for name, asked in kinds.items():
        cpu_s, start = server.cpu_s(), time.monotonic()
        due = [start + every for every, _ in asked]
        answers_s: list[float] = []
        sent = 0
        while (now := time.monotonic()) < start + seconds:
            for place, (every, ask) in enumerate(asked):
                if now >= due[place]:
                    due[place] += every
                    began = time.perf_counter()
                    sent += ask()
                    answers_s.append(time.perf_counter() - began)
            time.sleep(0.01)
        share = (server.cpu_s() - cpu_s) / (time.monotonic() - start)
        found[name] = {
            "share_of_a_core": share,
            "beyond_idle": share - found["idle"]["share_of_a_core"] if found else 0.0,
            "answers": len(answers_s),
            "answer_median_s": median(answers_s) if answers_s else None,
            "bytes": sent,
        }
    return found


def _reads(server: Server, store: Path, block: int, repeats: int) -> dict[str, Any]:
    path = _write(store, _long(block))
    register.note(store)
    seconds, cpu_s, sizes = [], [], []
    for _ in range(repeats):
        start, cpu = time.perf_counter(), server.cpu_s()
        sizes.append(len(server.get(f"runs/{register.key(store)}/{path.name}")))
        seconds.append(time.perf_counter() - start)
        cpu_s.append(server.cpu_s() - cpu)
    return {
        "bytes": (path / journal.EVENTS).stat().st_size,
        "answer_bytes": sizes[0],
        "read_s": seconds,
        "read_median_s": median(seconds),
        "cpu_s": cpu_s,
        "cpu_median_s": median(cpu_s),
    }


class Live:
    """A run that goes on while the traffic is played, writing as training does."""

    def __init__(self, store: Path) -> None:
        self._kept = journal.create(store, "live")
        self.path = self._kept.path
        self._kept.put(journals.started("live", 10_000_000))
        self._kept.put(Status(step=0, state="running"))
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._train, daemon=True)
        self._thread.start()

    def _train(self) -> None:
        step = 0
        while not self._stopping.wait(0.15):
            step += 150
            losses = np.full(150, 1 / step, np.float32)
            self._kept.put(Losses(step=step, first_step=step - 150, losses=losses, duration_s=0.15))
            if step % 3000 == 0:
                metrics = {"loss": 1 / step, "accuracy": 0.5}
                self._kept.put(Evaluation(step=step, split="valid", metrics=metrics, rows=100, duration_s=0.01))

    def stop(self) -> None:
        """Ends it, as if it were killed."""
        self._stopping.set()
        self._thread.join()


def _write(store: Path, events: Iterable[Event]) -> Path:
    kept = journal.create(store, "run")
    kept.close()
    with open(kept.path / journal.EVENTS, "wb") as file:
        for event in events:
            file.write(json.dumps(to_json(event), separators=(",", ":")).encode() + b"\n")
    return kept.path


def _finished(name: str) -> Iterable[Event]:
    rng = np.random.default_rng(0)
    yield journals.started(name, 2000)
    for step in range(40, 2001, 40):
        yield Losses(step=step, first_step=step - 40, losses=rng.random(40, np.float32), duration_s=0.05)
        yield Evaluation(step=step, split="valid", metrics={"loss": rng.random()}, rows=100, duration_s=0.01)
    yield Status(step=2000, state="finished")


def _long(block: int) -> Iterable[Event]:
    rng = np.random.default_rng(0)
    yield journals.started("long", STEPS)
    for first in range(0, STEPS, block):
        values = rng.random(min(block, STEPS - first), np.float32)
        yield Losses(step=first + len(values), first_step=first, losses=values, duration_s=0.0123456789)
    yield Status(step=STEPS, state="finished")


def lines(result: dict[str, Any]) -> list[str]:
    """Returns the result as text."""
    cpu = [
        f"{name:10} {100 * told['share_of_a_core']:6.2f} % of a core, {100 * told['beyond_idle']:+6.2f} % beyond idle"
        + (f" (target {100 * TARGETS[name]:g} %)" if name in TARGETS else "")
        + (f", {told['answers']} answers in {1e3 * told['answer_median_s']:.1f} ms" if told["answers"] else "")
        for name, told in result["cpu"].items()
    ]
    reads = [
        f"{name}: {told['bytes'] / 1e6:.1f} MB read and sent in {told['read_median_s']:.3f} s"
        f" (target {READS[name][1]:g} s), {told['cpu_median_s']:.3f} s of CPU"
        for name, told in result["reads"].items()
    ]
    return cpu + reads


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each kind of traffic")
    parser.add_argument("--repeats", type=int, default=7, help="whole runs read")
    asked = parser.parse_args()
    print("\n".join(lines(measure(asked.repeats, asked.seconds))))
