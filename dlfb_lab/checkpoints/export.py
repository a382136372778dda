"""Parameters of a checkpoint as a file of safetensors, which other programs read. It is read back before it counts."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import secrets
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from dlfb_lab.checkpoints.selection import Array, Selection
from dlfb_lab.errors import OptionError, StoreError
from dlfb_lab.version import __version__

What = Literal["params", "variables", "state"]

DTYPES = {
    **{"bool": "BOOL", "uint8": "U8", "int8": "I8", "uint16": "U16", "int16": "I16", "uint32": "U32", "int32": "I32"},
    **{"uint64": "U64", "int64": "I64", "float16": "F16", "bfloat16": "BF16", "float32": "F32", "float64": "F64"},
    **{"float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "complex64": "C64"},
}
"""What safetensors calls the dtypes that it has."""


def export(selection: Selection, path: Path, what: What = "params", overwrite: bool = False) -> Path:
    """Writes a state as a file of safetensors: under another name first, which is read back and compared bit by bit.

    Args:
        selection: the state.
        path: the file.
        what: "params", the parameters by their names; "variables", these and the model's other collections, each
            name beginning with its collection's; "state", all of the state.
        overwrite: whether a file of that name is replaced.

    Returns:
        The file's absolute path.

    Raises:
        OptionError: there is no such part of the state, or safetensors has no such dtype.
        StoreError: the file is there already, or cannot be written. Nothing is left of it.
    """
    path = Path(path).expanduser().absolute()
    if path.is_dir():
        raise StoreError(f"export: `{path}` is a folder. Give a file in it, such as `{path / 'model.safetensors'}`.")
    if path.exists() and not overwrite:
        raise StoreError(f"export: `{path}` is there already. Give another name, or say overwrite=True.")
    names = _names(selection, what)
    wrong = [f"{name} is {selection.shapes[name][1]}" for name in names if selection.shapes[name][1] not in DTYPES]
    if wrong:
        more = f" and {len(wrong) - 3:,} more" if len(wrong) > 3 else ""
        raise OptionError(
            f"export: safetensors has no dtype for {', '.join(wrong[:3])}{more}. Convert what "
            "dlfb_lab.restore returns, and save that."
        )
    arrays = {names[name]: np.asarray(array, order="C") for name, array in selection.arrays(names)}
    found = selection.found
    metadata = {
        "run": found.path.name,
        "step": str(selection.source.step),
        "what": what,
        "dlfb_lab": __version__,
    }
    begun = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    try:
        _write(begun, arrays, metadata)
        _compare(begun, arrays, metadata)
        if path.exists() and not overwrite:
            raise FileExistsError(17, "it is there already")
        begun.replace(path)
    except Exception as error:
        reason = getattr(error, "strerror", None) or (str(error).splitlines() or [type(error).__name__])[0]
        raise StoreError(f"export: `{path}` cannot be written ({reason}). Nothing is left of it.") from error
    finally:
        with contextlib.suppress(OSError):
            begun.unlink(missing_ok=True)
    return path


def _names(selection: Selection, what: What) -> dict[str, str]:
    """Returns what each array is called in the file, by its name in the state."""
    if what not in get_args(What):
        raise OptionError(f"export: what={what!r}: there are {', '.join(get_args(What))}.")
    if what == "state":
        return {name: name for name in selection.shapes}
    begin = selection.parameters
    if not begin:
        raise OptionError(
            f"export: which arrays of {selection.found.name} are parameters is not known, since its step is your own. "
            'Say what="state".'
        )
    if what == "params":
        return {name: name.removeprefix(begin) for name in selection.shapes if name.startswith(begin)}
    if not selection.of_model:
        raise OptionError('export: what="variables": only a model has such. Say what="params" or what="state".')
    return {name: name.removeprefix("extra/") for name in selection.shapes if name.startswith((begin, "extra/"))}


def _write(path: Path, arrays: dict[str, Array], metadata: dict[str, str]) -> None:
    from safetensors.numpy import save_file

    with open(path, "xb") as file:
        mode = os.stat(file.fileno()).st_mode
    save_file(arrays, path, metadata)
    # It makes files that the user alone may read; this is to be a file as all others.
    os.chmod(path, mode)
    with open(path, "r+b") as file:
        os.fsync(file.fileno())


def _compare(path: Path, arrays: dict[str, Array], metadata: dict[str, str]) -> None:
    """Reads a file back.

    Raises:
        OSError: it is not what was to be written.
    """
    deserialize: Any = importlib.import_module("safetensors").deserialize
    wrong = OSError(5, "what was read back is not what was written")
    with open(path, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    if header.pop("__metadata__", None) != metadata:
        raise wrong
    with open(path, "rb") as file:
        found = dict(deserialize(file.read()))
    if set(found) != set(arrays):
        raise wrong
    for name, array in arrays.items():
        said = found[name]
        same = said["dtype"] == DTYPES[array.dtype.name] and tuple(said["shape"]) == array.shape
        if not same or said["data"] != array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes():
            raise wrong
