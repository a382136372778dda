from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlfb_lab.errors import OptionError
from dlfb_lab.magics import arguments
from dlfb_lab.magics.train import known_names
from dlfb_lab.options import TRAIN, Option

OPTION = {o.name: o for o in TRAIN}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("model (x, y)", ["model", "(x, y)"]),
        ("  MLP((32, 1))\t(x,  y) ", ["MLP((32, 1))", "(x,  y)"]),
        ("f(a)[0, 1]{'k': 2} b", ["f(a)[0, 1]{'k': 2}", "b"]),
        ("df[\"a column\"] 'two words'", ['df["a column"]', "'two words'"]),
        (r"'it\'s one' x", [r"'it\'s one'", "x"]),
        ("')' (x, ')')", ["')'", "(x, ')')"]),
        ("", []),
        ("   ", []),
        ("a\nb", ["a", "b"]),
        ("[(1, [2, 3]), {4: (5, 6)}]", ["[(1, [2, 3]), {4: (5, 6)}]"]),
        ("m (x, y) --loss=f(a, b) --valid (u, v)", ["m", "(x, y)", "--loss=f(a, b)", "--valid", "(u, v)"]),
    ],
)
def test_a_line_is_split_outside_brackets_and_quotes(line: str, words: list[str]) -> None:
    assert arguments.split(line) == words


@given(st.lists(st.sampled_from(["a", "(b, c)", "'d e'", "[1, 2]", '{"k": ")"}', "--x", "f(g(1), h)"]), max_size=6))
def test_words_joined_by_spaces_come_apart_again(words: list[str]) -> None:
    assert arguments.split("  ".join(words)) == words


def test_a_list_of_names_is_split_at_commas() -> None:
    assert arguments.split("auc,f(a, b),'c,d'", ",") == ["auc", "f(a, b)", "'c,d'"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("model (x, y", r"A bracket is not closed \(missing `\)`\) in: model \(x, y"),
        ("model x)", r"`\)` closes nothing in: model x\)"),
        ("model (x, y]", "`]` closes nothing"),
        ("model 'x", "The quote ' is not closed"),
        ("model 'x\\'", "The quote ' is not closed"),
    ],
)
def test_what_is_left_open_is_refused(line: str, said: str) -> None:
    with pytest.raises(OptionError, match=said):
        arguments.split(line)


def test_options_stand_anywhere_with_a_space_or_an_equals_sign() -> None:
    words, found = arguments.parse("--scale model --valid 0.2 data --batch-size=full --lr -1 --eval_every 3", TRAIN)
    assert words == ["model", "data"]
    assert found == {"scale": True, "valid": "0.2", "batch_size": "full", "lr": "-1", "eval_every": "3"}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("m d --epoch 3", "--epoch: there is no such option. Did you mean `--epochs`"),
        ("m d --batchsize=3", "Did you mean `--batch-size`"),
        ("m d --qqq", r"--qqq: there is no such option\."),
        ("m d --epochs", "--epochs needs a value: --epochs N"),
        ("m d --epochs --scale", "--epochs needs a value"),
        ("m d --scale=1", "--scale takes no value"),
        ("m d --lr 1 --lr 2", "--lr is given twice"),
    ],
)
def test_wrong_options_are_refused(line: str, said: str) -> None:
    with pytest.raises(OptionError, match=said):
        arguments.parse(line, TRAIN)


def test_expressions_are_python_in_the_users_namespace() -> None:
    namespace = {"x": 3, "np": np}
    assert arguments.evaluate("x + 1", namespace) == 4
    assert arguments.evaluate("[x * i for i in range(3)]", namespace) == [0, 3, 6]
    assert arguments.evaluate("np.arange(3).sum()", namespace) == 3
    assert "__builtins__" not in namespace


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("modle", "The name `modle` does not exist. Did you mean `model`"),
        ("zzzz", r"The name `zzzz` does not exist\."),
        ("[zzzz for _ in range(2)]", "The name `zzzz` does not exist"),
        ("1 +", r"`1 \+` is not a Python expression"),
        ("x = 3", "`x = 3` is not a Python expression"),
        ("1 / 0", "`1 / 0` failed: ZeroDivisionError: division by zero"),
        ("model.nothing", "failed: AttributeError"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(text: str, said: str) -> None:
    with pytest.raises(OptionError, match=said):
        arguments.evaluate(text, {"model": 1})


def value(name: str, text: str, namespace: dict[str, Any] | None = None, columns: list[str] | None = None) -> Any:
    def evaluated(expression: str) -> Any:
        return arguments.evaluate(expression, namespace or {})

    return arguments.value_of(OPTION[name], text, evaluated, columns or [], known_names().get(name, ()))


def own(y_true: Any, y_pred: Any) -> float:
    return 0.0


def test_each_kind_of_option_is_read_in_its_way() -> None:
    assert value("target", "diagnosis") == "diagnosis"
    assert value("target", "'two words'") == "two words"
    assert value("epochs", "2 * n", {"n": 3}) == 6
    assert value("valid", "(x, y)", {"x": 1, "y": 2}) == (1, 2)
    assert value("batch-size", "full") == "full"
    assert value("batch-size", "n", {"n": 8}) == 8
    assert value("optimizer", "adam") == "adam"
    assert value("optimizer", "'adam'") == "adam"
    assert value("loss", "own", {"own": own}) is own
    assert value("metrics", "auc,own,'f1'", {"own": own}) == ["auc", own, "f1"]
    assert value("metrics", "(auc, own)".strip("()").replace(" ", ""), {"own": own}) == ["auc", own]
    assert value("groups", "patient", {"patient": 3}, ["patient"]) == "patient"
    assert value("groups", "ids", {"ids": [1, 2]}, ["patient"]) == [1, 2]
    assert value("timebox", "10m") == "10m"


def test_a_variable_that_happens_to_be_called_like_a_metric_does_not_hide_it() -> None:
    scores = {"accuracy": 0.93, "auc": np.float64(0.9), "mse": [0.1], "adam": 3.0, "full": None, "f1": "best"}
    assert value("metrics", "accuracy,auc", scores) == ["accuracy", "auc"]
    assert value("loss", "mse", scores) == "mse"
    assert value("optimizer", "adam", scores) == "adam"
    assert value("batch-size", "full", scores) == "full"


def test_a_function_called_like_a_known_name_is_taken_in_brackets() -> None:
    assert value("metrics", "auc", {"auc": own}) == ["auc"]
    assert value("metrics", "(auc)", {"auc": own}) == [own]
    assert value("batch-size", "full", {"full": np.full}) == "full"


def test_metrics_may_be_a_list_and_minded_case_is_not() -> None:
    assert value("metrics", '["accuracy", own]', {"own": own}) == ["accuracy", own]
    assert value("metrics", "chosen", {"chosen": ["accuracy", "auc"]}) == ["accuracy", "auc"]
    assert value("metrics", '"accuracy, auc"') == ["accuracy", "auc"]
    assert value("metrics", "AUC,MCC") == ["auc", "mcc"]
    assert value("loss", "MSE") == "mse"


def test_a_text_may_be_computed() -> None:
    assert value("name", 'f"w{i}"', {"i": 3}) == "w3"
    assert value("name", "w{i}", {"i": 3}) == "w{i}"


def test_a_comment_ends_the_line() -> None:
    assert arguments.split("model (x, y) --epochs 3  # a comment (with") == ["model", "(x, y)", "--epochs", "3"]
    assert arguments.split("f('#1') d[\"#\"]") == ["f('#1')", 'd["#"]']


def test_an_expression_that_fails_is_no_name() -> None:
    with pytest.raises(OptionError, match="failed: ZeroDivisionError"):
        value("loss", "1/0")
    with pytest.raises(OptionError, match="The name `x` does not exist"):
        value("loss", "x.loss")


def test_options_have_one_name_in_every_face() -> None:
    import inspect

    from dlfb_lab import api
    from dlfb_lab.assemble import TrainRequest

    keywords = {o.keyword for o in TRAIN}
    assert keywords == set(inspect.signature(api.train).parameters) - {"model", "data"}
    assert keywords == set(TrainRequest.__dataclass_fields__) - {"model", "data", "source"}
    for option in TRAIN:
        assert isinstance(option, Option)
        assert option.help
        assert option.takes == "flag" or option.meta
    defaults = inspect.signature(api.train).parameters
    fields = TrainRequest.__dataclass_fields__
    assert all(defaults[k].default == fields[k].default for k in keywords), "both faces have the same defaults"
