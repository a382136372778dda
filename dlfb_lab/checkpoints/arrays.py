"""The arrays of a checkpoint, written and read by Orbax."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dlfb_lab.checkpoints import checksums, trash
from dlfb_lab.checkpoints.folder import ARRAYS, FOLDER, MANIFEST, Checkpoint, damage_in, folder_of, looked_at
from dlfb_lab.checkpoints.manifest import Leaf, Manifest, dumped
from dlfb_lab.errors import StoreError

Arrays = Mapping[str, np.ndarray[Any, Any]]

MOST_SAID = 200
"""Characters of what Orbax says."""

_OS_ERROR = re.compile(r"os_error_code=\W*(\d+)")

GROUP_BYTES = 1 << 24
"""Of arrays that are read at once, where they need not be held together; a larger one is read alone."""


def save(
    run: Path,
    step: int,
    arrays: Arrays,
    *,
    metrics: Mapping[str, float] | None = None,
    place: Mapping[str, Any] | None = None,
    fingerprints: Mapping[str, str] | None = None,
) -> Checkpoint:
    """Saves a checkpoint; when this returns it is on the disk. One that is there already is left, unless it is damaged.

    Args:
        run: the run's folder.
        step: updates applied.
        arrays: NumPy arrays by name, of any shape and any dtype that JAX knows.
        metrics: the latest scores, by column of the history.
        place: where training stands beside the arrays, as JSON values.
        fingerprints: of model, data, optimizer and code.

    Raises:
        StoreError: it cannot be written. Nothing is left of it, and the checkpoints before it are as they were.
    """
    path = folder_of(run, step)
    if path.exists() and (found := looked_at(path)) is not None:
        if found.state != "damaged":
            return found
        trash.delete(run, found)
    begun = run / FOLDER / f".step-{step}-{secrets.token_hex(4)}"
    try:
        # Not with its parents: a run's folder that was deleted stays so.
        begun.parent.mkdir(exist_ok=True)
        begun.mkdir()
        _write_arrays(begun / ARRAYS, arrays)
        names = [
            (Path(folder) / name).relative_to(begun).as_posix()
            for folder, _, files in os.walk(begun / ARRAYS)
            for name in files
        ]
        manifest = Manifest(
            step=step,
            saved_at_s=time.time(),
            metrics=dict(metrics or {}),
            leaves={
                name: Leaf(shape=array.shape, dtype=array.dtype.name, finite=_finite(array))
                for name, array in arrays.items()
            },
            place=dict(place or {}),
            fingerprints=dict(fingerprints or {}),
            files=checksums.stored(begun, sorted(names), sync=True),
        )
        with open(begun / MANIFEST, "wb") as file:
            file.write(dumped(manifest))
            file.flush()
            os.fsync(file.fileno())
        _sync_folders(begun)
        begun.rename(path)
        _sync_folder(path.parent)
    except Exception as error:
        shutil.rmtree(begun, ignore_errors=True)
        if path.exists() and (found := looked_at(path)) is not None:
            return found  # another was quicker
        raise StoreError(f"The checkpoint of step {step:,} cannot be saved in {run} ({_reason(error)}).") from error
    found = looked_at(path)
    assert found is not None
    return found


def restore(checkpoint: Checkpoint) -> dict[str, np.ndarray[Any, Any]]:
    """Returns a checkpoint's arrays by name, after comparing the checksums of all its files.

    Raises:
        StoreError: it is not whole, or damaged; the message says what is wrong.
    """
    return read_all(checkpoint, whole(checkpoint))


def read_all(checkpoint: Checkpoint, manifest: Manifest) -> dict[str, np.ndarray[Any, Any]]:
    """Returns all arrays of a checkpoint that is `whole`, by name.

    Raises:
        StoreError: one is not as the manifest says.
    """
    return dict(read(checkpoint, manifest.leaves, math.inf))


def whole(checkpoint: Checkpoint) -> Manifest:
    """Returns what a checkpoint holds, after comparing the checksums of all its files.

    Raises:
        StoreError: it is not whole, or damaged; the message says what is wrong.
    """
    checkpoint = looked_at(checkpoint.path) or checkpoint
    if checkpoint.manifest is None or checkpoint.state not in ("complete", "not finite"):
        raise StoreError(f"The checkpoint of step {checkpoint.step:,} is {checkpoint.state}: {checkpoint.why}")
    if why := damage_in(checkpoint):
        raise StoreError(f"The checkpoint of step {checkpoint.step:,} is damaged: {why}")
    return checkpoint.manifest


def read(
    checkpoint: Checkpoint, names: Iterable[str], at_once_bytes: float = GROUP_BYTES
) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    """Yields arrays of a checkpoint that is `whole`, in the order of their names.

    Args:
        checkpoint: the checkpoint.
        names: which of its arrays.
        at_once_bytes: how much is read at once and held until it is yielded; at least one array.

    Raises:
        StoreError: one is not as the manifest says.
    """
    assert checkpoint.manifest is not None
    leaves = {name: checkpoint.manifest.leaves[name] for name in names}
    for group in _groups(leaves, at_once_bytes):
        stored = [name for name in group if _stored(leaves[name].shape)]
        found = _read_arrays(checkpoint.path / ARRAYS, stored) if stored else {}
        for name in group:
            leaf = leaves[name]
            array = found.pop(name, None) if _stored(leaf.shape) else np.zeros(leaf.shape, _dtype(leaf.dtype))
            if array is None or array.shape != leaf.shape or array.dtype.name != leaf.dtype:
                raise StoreError(
                    f"The checkpoint of step {checkpoint.step:,} is damaged: {name} is not as its manifest says."
                )
            yield name, array
            del array


def _groups(leaves: Mapping[str, Leaf], most: float) -> Iterator[list[str]]:
    """Yields names of arrays that are read at once: reading has a cost of its own, whatever their size."""
    group: list[str] = []
    size = 0
    for name, leaf in leaves.items():
        more = math.prod(leaf.shape) * _dtype(leaf.dtype).itemsize
        if group and size + more > most:
            yield group
            group, size = [], 0
        group.append(name)
        size += more
    if group:
        yield group


def _reason(error: Exception) -> str:
    """Returns why something cannot be written: the system's own words for it, where Orbax wraps them in many of its."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    code = _OS_ERROR.search(str(error))
    return os.strerror(int(code[1])) if code else (str(error).splitlines() or [""])[0][:MOST_SAID]


def _write_arrays(path: Path, arrays: Arrays) -> None:
    import orbax.checkpoint as ocp

    # Orbax refuses arrays without elements; the manifest says all there is to know of them.
    full = {name: np.asarray(array) for name, array in arrays.items() if _stored(array.shape)}
    if full:
        with _quiet(), ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            checkpointer.save(path.absolute(), full)


def _read_arrays(path: Path, names: Iterable[str]) -> dict[str, np.ndarray[Any, Any]]:
    import orbax.checkpoint as ocp

    asked = ocp.args.PyTreeRestore(item=dict.fromkeys(names, 0), partial_restore=True)
    with _quiet(), ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        found: dict[str, np.ndarray[Any, Any]] = checkpointer.restore(path.absolute(), args=asked)
    return found


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps Orbax from logging what it raises, in tracebacks of many pages."""
    logger = logging.getLogger("absl")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def _stored(shape: tuple[int, ...]) -> bool:
    return 0 not in shape


def _dtype(name: str) -> np.dtype[Any]:
    import ml_dtypes  # NumPy knows bfloat16 and its like by name once this is imported

    assert ml_dtypes is not None
    return np.dtype(name)


def _finite(array: np.ndarray[Any, Any]) -> bool:
    if array.dtype.kind in "biuSU":
        return True
    with contextlib.suppress(TypeError):
        return bool(np.isfinite(array).all())
    return True


def _sync_folders(path: Path) -> None:
    for folder, _, _ in os.walk(path):
        _sync_folder(Path(folder))


def _sync_folder(path: Path) -> None:
    # Windows opens no folder; there the file system keeps the order by itself.
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
