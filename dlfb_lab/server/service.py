"""What the routes of the server extension answer, apart from HTTP."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from dlfb_lab import inbox, register
from dlfb_lab.devices.sampler import Sampler
from dlfb_lab.events import ENDED
from dlfb_lab.server import feed
from dlfb_lab.server.answers import answer, items
from dlfb_lab.server.asking import asked
from dlfb_lab.server.checkpoints import Checkpoints
from dlfb_lab.server.errors import Refusal, shown
from dlfb_lab.server.folders import STORE, Stores
from dlfb_lab.server.listing import Listing
from dlfb_lab.server.rows import Pulse
from dlfb_lab.server.threads import Threads


class Service:
    """What is known of runs and devices, shared by all who ask."""

    def __init__(self, disk_path: Path) -> None:
        """Prepares to answer; no thread is started before somebody asks.

        Args:
            disk_path: the folder that the Jupyter server shows; its disk's room is of interest.
        """
        self.stores = Stores()
        self.listing = Listing(self.stores)
        self.sampler = Sampler(disk_path)
        self.threads = Threads()
        self.pulse: Callable[[Path], Pulse] = lru_cache(maxsize=500)(Pulse)
        self.checkpoints = Checkpoints(self.stores, self.pulse, disk_path)

    def runs(self) -> bytes:
        """Answers with the newest runs of all stores."""
        beside, runs = self.listing.answer()
        return answer(beside, runs=runs)

    def events(self, store: str, run: str, after: str, most_bytes: int | None = None) -> bytes:
        """Answers with what happened to a run after a cursor; `feed.Long` is raised where that is more than so much."""
        folder = self.stores.run(store, run)
        # First, so that a run that ends meanwhile is not taken for one that broke off.
        life = self.pulse(folder).life()
        if not after:
            self.checkpoints.tidy(folder)
        read = feed.read(folder, after, most_bytes)
        events = items(read.pop("events"))
        return answer({"run": run, "life": life, **read}, events=events)

    def request(self, store: str, run: str, body: bytes) -> bytes:
        """Leaves a request in a run's folder."""
        action = asked(body).get("action")
        if action not in inbox.ACTIONS:
            known = ", ".join(inbox.ACTIONS)
            raise Refusal(400, "bad_action", f"A run can be asked to {known}, and to nothing else.")
        folder = self.stores.run(store, run)
        life = self.pulse(folder).life()
        if (state := feed.state(folder)) in ENDED:
            how = "it was stopped" if state == "stopped" else f"it has {state}"
            raise Refusal(409, "over", f"The run is over: {how}.")
        if life == "gone":
            raise Refusal(409, "over", "The run is over: its kernel has ended.")
        try:
            inbox.ask(folder, action)
        except OSError as error:
            reason = error.strerror or str(error)
            message = f"The request could not be left in the run's folder {folder} ({reason})."
            raise Refusal(409, "not_written", message) from error
        return answer({"action": action})

    def forget(self, store: str) -> bytes:
        """Takes a store out of the register, if its folder is gone."""
        if not STORE.fullmatch(store):
            raise Refusal(400, "bad_name", f"“{shown(store)}” names no store.")
        path = register.stores().get(store)
        if path is None:
            raise Refusal(404, "no_store", "This folder of runs is not in the list (any more).")
        if os.path.lexists(path):
            raise Refusal(409, "still_there", f"The folder {path} is there, so its runs stay in the list.")
        register.forget(store)
        return answer({"store": store})

    def devices(self, after: str) -> bytes:
        """Answers with what the machine has been doing since a number; waits for nothing."""
        return answer(self.sampler.since(int(after) if re.fullmatch("[0-9]{1,16}", after) else None))

    def close(self) -> None:
        """Ends what would go on by itself."""
        self.sampler.close()
