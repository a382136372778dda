"""A model with something around its function."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from dlfb_lab.models.model import Apply, Model


class WrappedModel:
    """A model whose function is another; everything else is the model's own.

    Attributes:
        model: the model inside.
        apply: the function to use in its place.
    """

    def __init__(self, model: Model, mark: Hashable, apply: Apply) -> None:
        self.model = model
        self.apply = apply
        self._mark = mark

    @property
    def key(self) -> Hashable:
        """Tells the model apart from the one inside."""
        return (self._mark, self.model.key)

    def __getattr__(self, name: str) -> Any:
        if name == "model":  # asked for while copying, before there is one
            raise AttributeError(name)
        return getattr(self.model, name)
