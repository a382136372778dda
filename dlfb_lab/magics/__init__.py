"""The magics: syntax, and nothing but syntax."""

from __future__ import annotations

from typing import Any


def register(shell: Any) -> None:
    """Registers all magics with an IPython shell."""
    from dlfb_lab.magics.restore import RestoreMagic
    from dlfb_lab.magics.train import TrainMagic

    shell.register_magics(TrainMagic, RestoreMagic)
