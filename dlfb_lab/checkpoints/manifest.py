"""What a checkpoint holds, as its manifest says: read without JAX, and without unpickling anything."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import xxhash

from dlfb_lab.errors import StoreError

VERSION = 1
"""Of the manifest's form. A newer one is refused, not guessed at."""

_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


@dataclass(frozen=True, kw_only=True)
class Leaf:
    """One array.

    Attributes:
        shape: its shape.
        dtype: its dtype's name, such as "float32" or "bfloat16".
        finite: whether it has neither NaN nor infinity.
    """

    shape: tuple[int, ...]
    dtype: str
    finite: bool = True


@dataclass(frozen=True, kw_only=True)
class Stored:
    """One file.

    Attributes:
        bytes: its size.
        xxh3: its checksum, XXH3 of 64 bits in hexadecimal digits.
    """

    bytes: int
    xxh3: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a checkpoint holds.

    Attributes:
        step: updates applied before it was saved.
        saved_at_s: when, seconds since 1970.
        metrics: the latest scores by column of the history, such as "valid/loss".
        leaves: its arrays by name.
        place: where training stood beside the arrays, as JSON values.
        fingerprints: of model, data, optimizer and code, by these names.
        files: what it consists of, by name within its folder, with "/" on every system.
    """

    step: int
    saved_at_s: float
    metrics: dict[str, float] = field(default_factory=dict)
    leaves: dict[str, Leaf] = field(default_factory=dict)
    place: dict[str, Any] = field(default_factory=dict)
    fingerprints: dict[str, str] = field(default_factory=dict)
    files: dict[str, Stored] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """What its files take on disk."""
        return sum(file.bytes for file in self.files.values())

    @property
    def not_finite(self) -> list[str]:
        """Names of the arrays that have a NaN or an infinity."""
        return [name for name, leaf in self.leaves.items() if not leaf.finite]


def dumped(manifest: Manifest) -> bytes:
    """Returns the manifest as JSON that every strict parser reads."""
    values = dataclasses.asdict(manifest)
    values["metrics"] = {name: _number(value) for name, value in manifest.metrics.items()}
    text = json.dumps(values, allow_nan=False, sort_keys=True, separators=(",", ":"))
    whole = {"version": VERSION, "xxh3": xxhash.xxh3_64_hexdigest(text.encode()), "manifest": json.loads(text)}
    return _text(whole)


def parsed(text: bytes) -> Manifest:
    """Returns the manifest that `dumped` wrote.

    Raises:
        StoreError: it is of a newer version.
        ValueError: it is no manifest, or not as it was written.
    """
    try:
        whole = json.loads(text)
        version, values = whole["version"], whole["manifest"]
        if isinstance(version, int) and version > VERSION:
            raise StoreError(
                f"The checkpoint's manifest is of version {version}; this dlfb_lab reads up to {VERSION}. "
                "Update dlfb-lab to read it."
            )
        if type(version) is not int or version < 1:
            raise ValueError(f"there is no version {version!r}")
        same = json.dumps(values, allow_nan=False, sort_keys=True, separators=(",", ":")).encode()
        if whole["xxh3"] != xxhash.xxh3_64_hexdigest(same):
            raise ValueError("its checksum differs")
        if _text(whole) != text:
            raise ValueError("it is written in another way")
        for name in values["files"]:
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name or "\0" in name:
                raise ValueError(f"{name!r} is not within the checkpoint")
        return Manifest(
            step=int(values["step"]),
            saved_at_s=float(values["saved_at_s"]),
            metrics={name: float(_NOT_FINITE.get(value, value)) for name, value in values["metrics"].items()},
            leaves={
                name: Leaf(shape=tuple(map(int, leaf["shape"])), dtype=str(leaf["dtype"]), finite=bool(leaf["finite"]))
                for name, leaf in values["leaves"].items()
            },
            place=dict(values["place"]),
            fingerprints={name: str(value) for name, value in values["fingerprints"].items()},
            files={
                name: Stored(bytes=int(file["bytes"]), xxh3=str(file["xxh3"])) for name, file in values["files"].items()
            },
        )
    except StoreError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, OverflowError) as error:
        raise ValueError(f"no manifest: {error}") from error


def _text(whole: dict[str, Any]) -> bytes:
    return json.dumps(whole, indent=1).encode() + b"\n"


def _number(value: float) -> float | str:
    if math.isfinite(value):
        return float(value)
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
