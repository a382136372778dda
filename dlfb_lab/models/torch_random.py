"""PyTorch's random numbers of a run, kept apart from the user's."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Randomness:
    """Random numbers that follow a seed, whatever else draws from PyTorch's.

    Attributes:
        states: what the next random numbers of training come from, one state a generator.
    """

    def __init__(self, device: Any, seed: int) -> None:
        """Begins at the seed.

        Args:
            device: that random numbers are drawn on, beside the host.
            seed: whole number from 0 to 2**64 - 1.
        """
        torch: Any = sys.modules["torch"]
        self._generators = [torch.default_generator]
        if device.type == "cuda":
            current = torch.cuda.current_device() if device.index is None else device.index
            self._generators.append(torch.cuda.default_generators[current])
        self._first = [torch.Generator(g.device).manual_seed(seed).get_state() for g in self._generators]
        self.states = list(self._first)

    @contextmanager
    def training(self) -> Iterator[None]:
        """Draws on from where the last step ended, and leaves the user's own random numbers where they were."""
        before = [generator.get_state() for generator in self._generators]
        self._set(self.states)
        try:
            yield
        finally:
            self.states = [generator.get_state() for generator in self._generators]
            self._set(before)

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        """Draws the same numbers each time, and leaves the user's own and those of training where they were."""
        before = [generator.get_state() for generator in self._generators]
        self._set(self._first)
        try:
            yield
        finally:
            self._set(before)

    def _set(self, states: list[Any]) -> None:
        for generator, state in zip(self._generators, states, strict=True):
            generator.set_state(state)
