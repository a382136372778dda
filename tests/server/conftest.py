from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# Fixtures of a Jupyter server in this process. Imported here and not named as a plugin of the whole suite, because
# they give every test an event loop of its own, which others run into.
from pytest_jupyter.jupyter_server import *  # noqa: F403
from tornado.httpclient import HTTPClientError

import dlfb_lab.server
from dlfb_lab import register

from .runs import write

Fetch = Callable[..., Awaitable[Any]]


@pytest.fixture(autouse=True)
def registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The register of this test."""
    monkeypatch.setenv("DLFB_REGISTER", str(tmp_path / "register"))
    return tmp_path / "register"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A registered store."""
    store = tmp_path / "store"
    store.mkdir()
    register.note(store)
    return store


@pytest.fixture
def run(store: Path) -> Path:
    """A run in it that has finished."""
    return write(store)


@pytest.fixture
def jp_server_config() -> dict[str, Any]:
    return {"ServerApp": {"jpserver_extensions": {"dlfb_lab": True}}}


@pytest.fixture
def closings(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Callable[[], None]]]:
    """What the extension leaves to the end of the process, done at the end of the test."""
    left: list[Callable[[], None]] = []
    monkeypatch.setattr(dlfb_lab.server.atexit, "register", left.append)
    yield left
    for close in left:
        close()


@pytest.fixture
def server(closings: list[Callable[[], None]], jp_serverapp: Any) -> Any:
    """A Jupyter server with the extension."""
    return jp_serverapp


class Answer:
    """An HTTP answer."""

    def __init__(self, code: int, body: bytes, headers: Any) -> None:
        self.status = code
        self.body = body
        self.headers = headers

    @property
    def json(self) -> Any:
        return strict(self.body)


def strict(text: bytes | str) -> Any:
    """Parses JSON as a browser does: without NaN and the like."""

    def refuse(token: str) -> None:
        raise AssertionError(f"{token} is not JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.fixture
def ask(server: Any, http_server_client: Any, jp_base_url: str, jp_auth_header: dict[str, str]) -> Fetch:
    """Asks the server for a path below dlfb-lab/, which is taken as it is; an error is an answer too."""

    async def asked(
        path: str, method: str = "GET", body: Any = None, headers: dict[str, str] | None = None, **options: Any
    ) -> Answer:
        text = body if isinstance(body, str | bytes | None) else json.dumps(body)
        try:
            found = await http_server_client.fetch(
                f"{jp_base_url}dlfb-lab/{path}",
                method=method,
                body=text,
                headers=jp_auth_header if headers is None else headers,
                allow_nonstandard_methods=True,
                follow_redirects=False,
                request_timeout=30,
                **options,
            )
        except HTTPClientError as error:
            assert error.response is not None, error
            found = error.response
        return Answer(found.code, found.body or b"", found.headers)

    return asked
