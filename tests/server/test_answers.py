from __future__ import annotations

import json
import math
from typing import Any

import pytest

from dlfb_lab import __version__
from dlfb_lab.events import SCHEMA
from dlfb_lab.server import answers
from dlfb_lab.server.answers import answer, dumps, items
from dlfb_lab.server.errors import shown

from .conftest import strict


def test_every_answer_names_the_servers_versions() -> None:
    assert strict(answer({"a": 1})) == {"version": __version__, "schema": SCHEMA, "a": 1}


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_lists_are_put_together_from_pieces(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "AT_ONCE", 3)
    values = [{"n": n} for n in range(count)]
    told = strict(answer({"x": True}, events=items(values), others=[]))
    assert told["events"] == values and told["others"] == [] and told["x"] is True


def test_what_is_not_finite_is_said_as_in_events() -> None:
    value = {"a": [math.nan, {"b": (math.inf, -math.inf, 1.5)}], "c": "NaN", "d": None, "e": True}
    assert strict(dumps(value)) == {
        "a": ["NaN", {"b": ["Infinity", "-Infinity", 1.5]}],
        "c": "NaN",
        "d": None,
        "e": True,
    }


def test_what_is_nested_without_end_is_cut_off() -> None:
    deep: Any = "bottom"
    for _ in range(100_000):
        deep = [deep]
    assert "bottom" not in dumps({"deep": deep, "other": math.nan})
    assert strict(dumps({"deep": deep, "other": math.nan}))["other"] == "NaN"


def test_text_stays_text() -> None:
    text = "名前 \u2028 </script> \ud800 \0 \x7f"
    assert json.loads(dumps([text])) == [text]
    assert dumps([text]).isascii()


def test_what_somebody_sent_is_repeated_short_and_plain() -> None:
    assert shown("a") == "a"
    assert shown("a\n\x1b[31m\u202e") == "a\\n\\x1b[31m\\u202e"
    assert len(shown("x" * 10_000)) <= 60
