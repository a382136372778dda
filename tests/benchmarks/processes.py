"""Where peers run: a real notebook kernel with somebody listening, or a process of their own."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty
from typing import Any

from jupyter_client import KernelManager

HERE = Path(__file__).parent
LONGEST_S = 900.0


class Failed(Exception):
    """A cell or a worker failed; says how."""


@dataclass
class Reply:
    """What came of one cell.

    Attributes:
        seconds: from sending the request to hearing that the kernel is idle.
        value: of the expression asked for.
        messages: how many of each type the kernel published.
        message_bytes: their size, all together.
    """

    seconds: float
    value: Any = None
    messages: dict[str, int] = field(default_factory=dict)
    message_bytes: int = 0


class Kernel:
    """A kernel, and a client that behaves as a notebook front end: it takes input, and reads all output at once.

    Args:
        environment: variables that it gets beside this process's.
    """

    def __init__(self, **environment: str) -> None:
        self._manager = KernelManager(kernel_name="python3")
        self._manager.start_kernel(
            cwd=str(HERE), extra_arguments=["--log-level=ERROR"], env={**os.environ, **environment}
        )
        self._client = self._manager.client()
        self._client.start_channels()
        self._client.wait_for_ready(timeout=60)
        prefix = self.run("import sys", "sys.prefix").value
        if prefix != sys.prefix:
            raise Failed(f"the kernel's Python is that of {prefix}, not of {sys.prefix}")
        self.run(f"sys.path.insert(0, {str(HERE)!r})")

    def run(self, code: str, expression: str = "None") -> Reply:
        """Executes a cell, and evaluates an expression after it.

        Raises:
            Failed: the cell raised.
        """
        client = self._client
        start = time.perf_counter()
        sent = client.execute(
            code, allow_stdin=True, user_expressions={"value": f"__import__('json').dumps({expression})"}
        )
        reply = Reply(0.0)
        while True:
            try:
                message = client.get_iopub_msg(timeout=LONGEST_S)
            except Empty:
                raise Failed(f"the kernel said nothing for {LONGEST_S:.0f} s") from None
            heard = time.perf_counter()
            if message["parent_header"].get("msg_id") != sent:
                continue
            kind = message["msg_type"]
            reply.messages[kind] = reply.messages.get(kind, 0) + 1
            reply.message_bytes += len(json.dumps(message["content"])) + sum(map(len, message["buffers"]))
            if kind == "stream" and message["content"]["name"] == "stderr":
                print(message["content"]["text"], file=sys.stderr, end="")
            if kind == "status" and message["content"]["execution_state"] == "idle":
                break
        reply.seconds = heard - start
        while (message := client.get_shell_msg(timeout=LONGEST_S))["parent_header"].get("msg_id") != sent:
            continue
        answer = message["content"]
        if answer["status"] != "ok":
            raise Failed("\n".join(answer.get("traceback") or [str(answer)]))
        value = answer["user_expressions"]["value"]
        if value["status"] != "ok":
            raise Failed(f"{value['ename']}: {value['evalue']}")
        reply.value = json.loads(ast.literal_eval(value["data"]["text/plain"]))
        return reply

    def close(self) -> None:
        """Ends the kernel."""
        self._client.stop_channels()
        self._manager.shutdown_kernel(now=True)


class Worker:
    """A process that runs one peer, and waits between calls so that others can be timed in turn."""

    def __init__(self, peer: str, workload: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "worker.py"), peer, workload],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def call(self, epochs: int) -> dict[str, Any]:
        """Trains once; returns what the peer says and its seconds.

        Raises:
            Failed: the process ended.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(f"{epochs}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise Failed("its process ended") from None
        line = self._process.stdout.readline()
        if not line:
            raise Failed("its process ended")
        return dict(json.loads(line))

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.wait()
