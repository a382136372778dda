"""JAX's persistent compilation cache: what one kernel has compiled, the next one loads.

On by default, in a folder of the user's own. The user's settings win, and nothing that goes wrong here ends a run.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import tempfile
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache

MOST_BYTES = 10**9
"""What is kept at most, over all kinds of machines that share a home folder."""
LOADS_SAFELY = (0, 10, 2)
"""Older versions of JAX print errors while loading programs on many processors, and crash on some Macs."""
PRUNE_AFTER_S = 3600.0
BLOCK = 4096

_folder: str | None = None
_pruned_at = -PRUNE_AFTER_S


def enable() -> str | None:
    """Switches the cache on, unless it is on already or the user has decided otherwise. Call it before compiling.

    `DLFB_CACHE` names another folder, or is "off".

    Returns:
        A sentence to tell the user, once in a process; else None.
    """
    global _folder
    config: Any = jax.config
    asked = os.environ.get("DLFB_CACHE", "")
    mine = config.jax_compilation_cache_dir == _folder
    if asked.lower() == "off" or not mine or not config.jax_enable_compilation_cache:
        return None
    if jax.__version_info__ < LOADS_SAFELY:
        return None
    root = Path(os.path.expanduser(asked)).absolute() if asked else _usual_root()
    first = _folder is None
    if first:
        place = root / _processor()
        try:
            place.mkdir(parents=True, exist_ok=True, mode=0o700)
            with tempfile.TemporaryFile(dir=place) as file:
                file.write(b"?")
        except OSError as error:
            _folder = ""
            reason = error.strerror or type(error).__name__
            return (
                f"Compiled programs cannot be kept in {root} ({reason}), so each kernel compiles anew; "
                "DLFB_CACHE names another folder."
            )
        _folder = str(place)
        config.update("jax_compilation_cache_dir", _folder)
        if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
            config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        # JAX makes its cache only once: an earlier folder of the user's would be gone on with.
        compilation_cache.reset_cache()
    # Said anew each time, for a test or a notebook may have put other filters in place since. JAX compiles the
    # program itself where an entry cannot be read, and goes on where one cannot be written.
    warnings.filterwarnings("ignore", r"Error (reading|writing) persistent compilation cache entry", UserWarning)
    _prune_in_background(root)
    return f"Compiled programs are kept in {root}, at most 1 GB; DLFB_CACHE=off switches this off." if first else None


def _usual_root() -> Path:
    import platformdirs

    return platformdirs.user_cache_path("dlfb-lab") / "programs"


def _processor() -> str:
    """Returns a name for this kind of processor.

    A program may use every instruction of the processor it was compiled on. JAX's own key does not tell processors
    apart, so in a home folder that several machines share, one would load what it cannot execute.
    """
    about = platform.processor()
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        about += next((line for line in file if line.startswith(("flags", "Features"))), "")
    return f"{platform.machine()}-{hashlib.sha256(about.encode()).hexdigest()[:8]}"


def _prune_in_background(root: Path) -> None:
    global _pruned_at
    if time.monotonic() - _pruned_at >= PRUNE_AFTER_S:
        _pruned_at = time.monotonic()
        threading.Thread(target=prune, args=(root,), name="dlfb-cache", daemon=True).start()


def prune(root: Path, most_bytes: int = MOST_BYTES) -> None:
    """Deletes what was least recently used, until the folder is within its size; and what a full disk cut off.

    JAX's own bound reads two files for every entry each time it writes one, which takes seconds where there are many.

    Args:
        root: the folder, with one folder inside for each kind of processor.
        most_bytes: what may stay.
    """
    found: list[tuple[float, int, str]] = []
    for folder, _, names in os.walk(root):
        for name in names:
            path = os.path.join(folder, name)
            with contextlib.suppress(OSError):
                about = os.stat(path)
                # A file that a full disk cut off ends with a block. JAX would neither read it nor write it anew.
                cut_off = about.st_size % BLOCK == 0 and time.time() - about.st_mtime > 60
                used = 0.0 if cut_off else max(about.st_mtime, about.st_atime)
                found.append((used, about.st_size, path))
    total = sum(size for _, size, _ in found)
    for used, size, path in sorted(found):
        if used and total <= most_bytes:
            break
        with contextlib.suppress(OSError):
            os.unlink(path)
        total -= size
