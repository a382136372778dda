"""Where a run happens: the versions and the device that decide its numbers."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from platform import python_version

import jax

from dlfb_lab.version import __version__

VERSIONS_OF = ("jax", "jaxlib", "flax", "optax", "numpy")

_versions: dict[str, str] = {}


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that decide the numbers."""
    if not _versions:
        _versions["python"] = python_version()
        _versions["dlfb-lab"] = __version__
        for package in VERSIONS_OF:
            try:
                _versions[package] = version(package)
            except PackageNotFoundError:
                continue
    return dict(_versions)


def device() -> str:
    """Returns what programs run on, for people."""
    devices = jax.devices()
    return f"{devices[0].device_kind} ({devices[0].platform})"
