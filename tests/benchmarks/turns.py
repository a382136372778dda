"""Calls that are compared are made in turn, in one run: what slows the machine then slows all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def in_turn(calls: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[Any]]:
    """Makes each call `repeats` times, in an order that turns with each repeat; returns what they said."""
    said: dict[str, list[Any]] = {name: [] for name in calls}
    order = list(calls)
    for repeat in range(repeats):
        turn = repeat % len(order) if order else 0
        for name in order[turn:] + order[:turn]:
            said[name].append(calls[name]())
    return said
