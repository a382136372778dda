"""Deep learning in the notebook, honest and fast.

Importing this package imports neither jax nor anything of Jupyter: the names
below are fetched when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from dlfb_lab.version import __version__ as __version__

if TYPE_CHECKING:
    from dlfb_lab.api import diff, export, open_run, restore, runs, train
    from dlfb_lab.errors import DataError, DlfbLabError, ModelError, OptionError, StoreError
    from dlfb_lab.run import Run

__all__ = [
    "DataError",
    "DlfbLabError",
    "ModelError",
    "OptionError",
    "Run",
    "StoreError",
    "diff",
    "export",
    "open_run",
    "restore",
    "runs",
    "train",
]

_HOME = {
    "Run": "dlfb_lab.run",
    **dict.fromkeys(("diff", "export", "open_run", "restore", "runs", "train"), "dlfb_lab.api"),
    **dict.fromkeys(("DataError", "DlfbLabError", "ModelError", "OptionError", "StoreError"), "dlfb_lab.errors"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'dlfb_lab' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


def load_ipython_extension(shell: Any) -> None:
    """Registers the magics; IPython calls this for `%load_ext dlfb_lab`."""
    from dlfb_lab.magics import register

    register(shell)


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    """Tells a Jupyter server where its half is."""
    return [{"module": "dlfb_lab.server"}]


def _jupyter_labextension_paths() -> list[dict[str, str]]:
    """Tells JupyterLab where its half is."""
    return [{"src": "labextension", "dest": "dlfb-lab"}]
