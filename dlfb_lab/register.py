"""Which stores a user's kernels have written to: what lets the server find every run, and read nothing else.

One small file a store, in a folder of the user's own. Kernels add to it, and the server reads it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import tempfile
from pathlib import Path


def folder() -> Path:
    """Returns where the register is: `DLFB_REGISTER`, else the platform's place for a user's state."""
    given = os.environ.get("DLFB_REGISTER")
    if given:
        return Path(os.path.expanduser(given)).absolute()
    import platformdirs

    return platformdirs.user_state_path("dlfb-lab") / "stores"


def key(store: Path) -> str:
    """Returns the name by which addresses speak of a store: 16 hexadecimal digits made from its path."""
    return hashlib.sha256(os.fsencode(store)).hexdigest()[:16]


def note(store: Path) -> None:
    """Adds a store, given by its absolute path.

    Raises:
        OSError: the register cannot be written.
    """
    place = folder()
    if not place.is_absolute():
        raise OSError(errno.ENOENT, "this user has no home folder")
    target = place / f"{key(store)}.json"
    if _noted(target) == store:
        return
    place.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle, temporary = tempfile.mkstemp(dir=place)
    with open(handle, "w", encoding="utf-8") as file:
        json.dump({"store": str(store)}, file)
    os.replace(temporary, target)


def forget(store_key: str) -> None:
    """Takes a store out of the register; its folder is not touched."""
    file = folder() / f"{store_key}.json"
    if _noted(file) is not None:
        file.unlink(missing_ok=True)


def stores() -> dict[str, Path]:
    """Returns the noted stores by key, whether or not their folders are there; what is damaged is left out."""
    found = {file.stem: _noted(file) for file in sorted(folder().glob("*.json"))}
    return {name: store for name, store in found.items() if store is not None}


def _noted(file: Path) -> Path | None:
    """Returns the store that a file of the register is about; None where the file is damaged or gone."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        store = Path(json.loads(file.read_text(encoding="utf-8"))["store"])
        if store.is_absolute() and key(store) == file.stem:
            return store
    return None
