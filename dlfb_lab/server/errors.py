"""What is answered in the place of what was asked for."""

from __future__ import annotations


class Refusal(Exception):
    """A request that is not granted.

    Attributes:
        status: of the HTTP answer.
        code: one word for programs.
        message: for people: what, the value seen, what to do.
    """

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message


def shown(text: str) -> str:
    """Returns what somebody sent in a form that is safe and short enough to repeat."""
    return ascii(text if len(text) <= 60 else f"{text[:57]}...")[1:-1]
