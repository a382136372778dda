"""The routes of the server extension. Whatever may wait for a disk does so in a thread."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial
from typing import Any

from jupyter_server.auth.decorator import authorized
from jupyter_server.base.handlers import APIHandler
from tornado import web

from dlfb_lab.server import feed, threads
from dlfb_lab.server.errors import Refusal
from dlfb_lab.server.service import Service
from dlfb_lab.server.threads import Place


class Route(APIHandler):
    """What all routes have in common: who may ask, where the work is done, and how errors are told."""

    auth_resource = "dlfb_lab"
    # A panel that asks each second must not keep a server alive that is else idle.
    _track_activity = False
    absence_is_an_answer = False

    def initialize(self, service: Service) -> None:
        """Takes what the routes share."""
        self.service = service

    async def prepare(self) -> None:  # type: ignore[override]
        """Lets nobody in who is not known, whatever the method."""
        await super().prepare()
        if not self.current_user and self.request.method != "OPTIONS":
            raise web.HTTPError(403)

    def compute_etag(self) -> None:
        """Makes none: answers are not kept."""

    async def send(self, make: Callable[[], bytes], places: tuple[Place, ...], patience_s: float | None = None) -> None:
        """Answers with what a function returns, which is called in a thread."""
        try:
            text = await self.service.threads.call(make, places, patience_s)
        except Refusal as refusal:
            if refusal.status != 404 or not self.absence_is_an_answer:
                raise web.HTTPError(refusal.status) from refusal
            text = told(refusal.message, refusal.code)
        self.finish(text)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Answers with a message for people and a word for programs."""
        error = kwargs.get("exc_info", (None, None))[1]
        refusal = error.__cause__ if error is not None else None
        if isinstance(refusal, Refusal):
            code, message = refusal.code, refusal.message
        else:
            code, message = ERRORS.get(status_code, ERRORS[400 if status_code < 500 else 500])
        self.finish(told(message, code))


def told(message: str, code: str) -> bytes:
    """Returns the body of what is answered instead."""
    return json.dumps({"message": message, "code": code}).encode()


ERRORS = {
    400: ("bad_request", "The Jupyter server could not make sense of the request."),
    401: ("forbidden", "You are not logged in to the Jupyter server. Reload the page."),
    403: (
        "forbidden",
        "The Jupyter server does not allow it. Reload the page, and log in again if that does not help.",
    ),
    404: ("not_found", "There is nothing at this address."),
    405: ("not_allowed", "This address does not take such a request."),
    500: ("internal", "Something went wrong in the Jupyter server; its log says what."),
}


class Runs(Route):
    """The newest runs of all stores."""

    @web.authenticated
    @authorized
    async def get(self) -> None:
        """Lists them."""
        await self.send(self.service.runs, threads.LISTS)


class Events(Route):
    """The events of one run.

    Notebooks from elsewhere name runs that are not here. That is no failure, and no line in the browser's console.
    """

    absence_is_an_answer = True

    @web.authenticated
    @authorized
    async def get(self, store: str, run: str) -> None:
        """Hands out those after a cursor."""
        after = self.get_query_argument("after", "")
        make = partial(self.service.events, store, run, after)
        try:
            await self.send(partial(make, feed.LONG), threads.reads(store))
        except feed.Long:
            await self.send(make, threads.long_reads(store), threads.LONG_PATIENCE_S)


class Requests(Route):
    """What is asked of one run."""

    _track_activity = True

    @web.authenticated
    @authorized
    async def post(self, store: str, run: str) -> None:
        """Passes a request on."""
        await self.send(partial(self.service.request, store, run, self.request.body), threads.requests(store))


class Checkpoints(Route):
    """The checkpoints of one run."""

    absence_is_an_answer = True

    @web.authenticated
    @authorized
    async def get(self, store: str, run: str) -> None:
        """Lists them, and what is in the trash."""
        await self.send(partial(self.service.checkpoints.told, store, run), threads.reads(store))

    @web.authenticated
    @authorized
    async def post(self, store: str, run: str) -> None:
        """Verifies, pins, deletes, or takes back."""
        make = partial(self.service.checkpoints.change, store, run, self.request.body)
        await self.send(make, threads.changes(store))


class Store(Route):
    """One store."""

    _track_activity = True

    @web.authenticated
    @authorized
    async def delete(self, store: str) -> None:
        """Takes it out of the register."""
        await self.send(partial(self.service.forget, store), threads.requests(store))


class Devices(Route):
    """What the machine is doing."""

    @web.authenticated
    @authorized
    async def get(self) -> None:
        """Hands out the samples after a number; nothing here waits, so it needs no thread."""
        self.finish(self.service.devices(self.get_query_argument("after", "")))


class Nowhere(Route):
    """Every other address."""

    @web.authenticated
    @authorized
    async def get(self) -> None:
        """Says so."""
        raise web.HTTPError(404)


def routes(base_url: str, service: Service) -> list[tuple[str, type[Route], dict[str, Service]]]:
    """Returns the addresses, and what answers there."""
    name = "([^/]+)"
    found: dict[str, type[Route]] = {
        "runs": Runs,
        f"runs/{name}/{name}": Events,
        f"runs/{name}/{name}/requests": Requests,
        f"runs/{name}/{name}/checkpoints": Checkpoints,
        f"stores/{name}": Store,
        "devices": Devices,
        ".*": Nowhere,
    }
    base = re.escape(base_url if base_url.endswith("/") else f"{base_url}/")
    return [(f"{base}dlfb-lab/{pattern}", route, {"service": service}) for pattern, route in found.items()]
