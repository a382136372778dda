"""Who may ask for what."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from jupyter_server.auth import Authorizer
from tornado.httputil import parse_cookie
from traitlets.config import Config

from dlfb_lab import inbox, register
from dlfb_lab.server.handlers import Route, routes

from .runs import checkpoint

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")


def addresses(run: Path) -> list[str]:
    """One address for each route that there is, below dlfb-lab/."""
    key = register.key(run.parent)
    found = []
    for pattern, _, _ in routes("/", None):  # type: ignore[arg-type]
        path = pattern.removeprefix("/dlfb-lab/").replace(".*", "elsewhere/than/that")
        found.append(path.replace("([^/]+)", key, 1).replace("([^/]+)", run.name, 1))
    assert len(found) == len(set(found)) >= 6
    assert not any(set("()[]") & set(path) for path in found), found
    return found


def listing(run: Path) -> dict[str, bytes]:
    files = {path.name: path.read_bytes() for path in run.iterdir()}
    return files | {path.name: path.read_bytes() for path in register.folder().iterdir()}


@pytest.mark.parametrize("headers", [{}, {"Authorization": "token wrong"}, {"Cookie": "username-localhost=x"}])
async def test_no_route_answers_who_is_not_known(ask: Any, run: Path, headers: dict[str, str]) -> None:
    before = listing(run)
    for path in addresses(run):
        for method in METHODS:
            body = json.dumps({"action": "stop"}) if method in ("POST", "PUT", "PATCH") else None
            answer = await ask(path, method, body, headers=headers)
            assert answer.status in (401, 403), (method, path)
            assert run.name.encode() not in answer.body
            if method != "HEAD":
                assert set(answer.json) == {"message", "code"}
    assert listing(run) == before


async def test_asking_what_is_allowed_says_nothing_else(ask: Any, run: Path) -> None:
    """A browser asks so before it sends a request to another origin, and never says who it is."""
    for path in addresses(run):
        answer = await ask(path, "OPTIONS", headers={})
        assert answer.body == b"" and answer.status in (200, 204)


async def test_every_other_method_is_refused_who_is_known(ask: Any, run: Path) -> None:
    allowed = {"runs": {"GET"}, "requests": {"POST"}, "checkpoints": {"GET", "POST"}, "devices": {"GET"}}
    for path in addresses(run):
        if path.startswith("stores/"):
            good = {"DELETE"}
        elif path.startswith("elsewhere"):
            good = {"GET"}
        else:
            good = allowed.get(path.rpartition("/")[2], {"GET"})
        for method in set(METHODS) - good:
            answer = await ask(path, method, "{}" if method in ("POST", "PUT", "PATCH") else None)
            assert answer.status == 405, (method, path)


async def logged_in(client: Any, base_url: str, token: str) -> dict[str, str]:
    """Returns the cookies of a browser in which somebody logged in with a token."""
    cookies: dict[str, str] = {}
    for address in (f"login?token={token}", "login"):
        answer = await client.fetch(f"{base_url}{address}", raise_error=False, follow_redirects=False)
        for line in answer.headers.get_list("Set-Cookie"):
            cookies |= {name: value for name, value in parse_cookie(line.partition(";")[0]).items() if value}
    assert "_xsrf" in cookies and len(cookies) >= 2, cookies
    return cookies


def sent(cookies: dict[str, str]) -> str:
    return "; ".join(f"{name}={value}" for name, value in cookies.items())


async def test_a_browser_without_the_xsrf_token_changes_nothing(
    ask: Any, run: Path, http_server_client: Any, jp_base_url: str, server: Any
) -> None:
    saved = checkpoint(run, 1)
    cookies = await logged_in(http_server_client, jp_base_url, server.identity_provider.token)
    known = {"Cookie": sent(cookies)}
    assert (await ask("runs", headers=known)).status == 200, "it may read"
    key = register.key(run.parent)
    for path, method, body in [
        (f"runs/{key}/{run.name}/requests", "POST", '{"action": "stop"}'),
        (f"runs/{key}/{run.name}/checkpoints", "POST", '{"action": "pin", "name": "step-1"}'),
        (f"stores/{key}", "DELETE", None),
    ]:
        for headers in (known, known | {"X-XSRFToken": "guessed"}, {**known, "Origin": "http://evil.example"}):
            answer = await ask(path, method, body, headers=headers)
            assert answer.status in (403, 404), (method, headers)
            assert answer.json["code"] in ("forbidden", "not_found")
    assert not (run / inbox.FILE).exists() and not (saved / "pinned").exists()
    assert len(register.stores()) == 1


async def test_a_browser_with_the_xsrf_token_is_served(
    ask: Any, run: Path, http_server_client: Any, jp_base_url: str, server: Any
) -> None:
    cookies = await logged_in(http_server_client, jp_base_url, server.identity_provider.token)
    headers = {"Cookie": sent(cookies), "X-XSRFToken": cookies["_xsrf"]}
    key = register.key(run.parent)
    answer = await ask(f"runs/{key}/{run.name}/requests", "POST", {"action": "stop"}, headers=headers)
    assert (answer.status, answer.json["code"]) == (409, "over")
    assert (await ask("runs", headers=headers)).status == 200


class Denies(Authorizer):
    asked: ClassVar[list[tuple[str, str]]] = []

    def is_authorized(self, handler: Any, user: Any, action: str, resource: str) -> bool:
        if isinstance(handler, Route):
            Denies.asked.append((action, resource))
            return False
        return True


class TestDenied:
    @pytest.fixture
    def jp_server_config(self) -> Config:
        extensions = {"dlfb_lab": True}
        return Config({"ServerApp": {"jpserver_extensions": extensions, "authorizer_class": Denies}})

    @pytest.fixture(autouse=True)
    def clean(self) -> Iterator[None]:
        Denies.asked.clear()
        yield

    async def test_what_an_authorizer_denies_is_refused(self, ask: Any, run: Path) -> None:
        good = {"requests": "POST", "checkpoints": "POST"}
        for path in addresses(run):
            method = "DELETE" if path.startswith("stores/") else good.get(path.rpartition("/")[2], "GET")
            answer = await ask(path, method, {"action": "stop"} if method == "POST" else None)
            assert answer.status == 403, path
            assert answer.json["code"] == "forbidden"
        assert {resource for _, resource in Denies.asked} == {"dlfb_lab"}
        assert {action for action, _ in Denies.asked} == {"read", "write"}
        assert not (run / inbox.FILE).exists()


@pytest.mark.parametrize("jp_base_url", ["/", "/user/a+b.c/", "/a%40b/lab/"])
async def test_it_answers_below_the_servers_base_url(ask: Any, run: Path, jp_base_url: str) -> None:
    assert (await ask("runs")).json["runs"][0]["run"] == run.name
    assert (await ask(f"runs/{register.key(run.parent)}/{run.name}")).json["reset"] is True


async def test_asking_does_not_keep_an_idle_server_alive(ask: Any, run: Path, server: Any) -> None:
    before = server.web_app.settings.get("api_last_activity")
    for path in ("runs", "devices", f"runs/{register.key(run.parent)}/{run.name}"):
        assert (await ask(path)).status == 200
    assert server.web_app.settings.get("api_last_activity") == before
