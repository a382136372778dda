from __future__ import annotations

from typing import Any

import pytest

from dlfb_lab.engine.sweeps import parse_sweep
from dlfb_lab.errors import OptionError


@pytest.mark.parametrize(
    ("text", "name", "values"),
    [
        ("lr=1e-4,1e-3,1e-2", "lr", (1e-4, 1e-3, 1e-2)),
        ("batch-size=16, 32", "batch_size", (16, 32)),
        ("--weight-decay = 0,0.1", "weight_decay", (0, 0.1)),
        ("optimizer=adam,sgd", "optimizer", ("adam", "sgd")),
        ("freeze=encoder/*,'a,b'", "freeze", ("encoder/*", "a,b")),
        ("layers=(32,),(64, 32),[]", "layers", ((32,), (64, 32), [])),
        ("remat=True,False", "remat", (True, False)),
        ("class_weights=None,{'a': 1, 'b': 2}", "class_weights", (None, {"a": 1, "b": 2})),
    ],
)
def test_a_sweep_is_a_name_and_values(text: str, name: str, values: tuple[Any, ...]) -> None:
    assert parse_sweep(text) == (name, values)
    assert [type(value) for value in parse_sweep(text)[1]] == [type(value) for value in values]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lr", "--sweep 'lr': say what and which values, such as --sweep lr=1e-4"),
        (3, "--sweep 3: say what"),
        ("=1,2", "'' is no option's name"),
        ("2lr=1,2", "'2lr' is no option's name"),
        ("lr=", "a value is missing"),
        ("lr=1,,2", "a value is missing"),
        ("batch-size=16", "one value only. Give several, or say --batch-size 16"),
        ("lr=0.1,1e-1", "0.1 stands there twice"),
        ("lr=1e-3 1e-2,3", "'1e-3 1e-2' is neither a number"),
        ("lr=f(1),3", "'f\\(1\\)' is neither a number"),
        ("layers=(1,2", "'\\(1,2' is neither"),
    ],
)
def test_what_is_no_sweep_is_refused(text: Any, said: str) -> None:
    with pytest.raises(OptionError, match=said):
        parse_sweep(text)
