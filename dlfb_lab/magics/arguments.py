"""Turns a magic's line into arguments. Knows no shell.

The line is split at white space outside brackets and quotes, so `model (x, y)` is
two Python expressions. Options stand anywhere: `--name value`, `--name=value`.
"""

from __future__ import annotations

import builtins
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from dlfb_lab.errors import DlfbLabError, OptionError, nearest
from dlfb_lab.options import Option

_OPEN, _CLOSE = "([{", ")]}"


def split(line: str, at: str = "") -> list[str]:
    """Splits a line outside brackets and quotes: at white space, or at the one character given.

    Raises:
        OptionError: a bracket or a quote is not closed.
    """
    words: list[str] = []
    word, quote, i = "", "", 0
    depth: list[str] = []
    while i < len(line):
        character = line[i]
        if quote:
            word += character
            if character == "\\" and i + 1 < len(line):
                i += 1
                word += line[i]
            elif character == quote:
                quote = ""
        elif character == "#" and not depth and not at and not word:
            break  # a comment
        elif (not depth) and (character == at if at else character.isspace()):
            words.append(word)
            word = ""
        else:
            word += character
            if character in "\"'":
                quote = character
            elif character in _OPEN:
                depth.append(_CLOSE[_OPEN.index(character)])
            elif character in _CLOSE and (not depth or depth.pop() != character):
                raise OptionError(f"`{character}` closes nothing in: {line.strip()}")
        i += 1
    if quote:
        raise OptionError(f"The quote {quote} is not closed in: {line.strip()}")
    if depth:
        raise OptionError(f"A bracket is not closed (missing `{depth[-1]}`) in: {line.strip()}")
    return [w for w in [*words, word] if w]


def parse(line: str, options: Sequence[Option], magic: str = "%dlfb_train") -> tuple[list[str], dict[str, str | bool]]:
    """Splits a line into positional words and options.

    Args:
        line: what stands behind the magic.
        options: that it knows.
        magic: its name, for messages.

    Returns:
        The words that belong to no option, and each option's text by keyword; True for a flag.

    Raises:
        OptionError: an option is unknown, given twice, or lacks its value.
    """
    known = {o.name: o for o in options}
    positional: list[str] = []
    found: dict[str, str | bool] = {}
    words = split(line)
    i = 0
    while i < len(words):
        word = words[i]
        i += 1
        if not word.startswith("--"):
            positional.append(word)
            continue
        name, equals, value = word[2:].partition("=")
        option = known.get(name.replace("_", "-"))
        if option is None:
            hint = nearest(f"--{name}", [f"--{o}" for o in known])
            raise OptionError(f"--{name}: there is no such option.{hint} Help: {magic}?")
        if option.keyword in found:
            raise OptionError(f"--{name} is given twice.")
        if option.takes == "flag":
            if equals:
                raise OptionError(f"--{name} takes no value.")
            found[option.keyword] = True
            continue
        if not equals:
            if i >= len(words) or words[i].startswith("--"):
                raise OptionError(f"--{name} needs a value: --{name} {option.meta}")
            value = words[i]
            i += 1
        found[option.keyword] = value
    return positional, found


def evaluate(text: str, namespace: Mapping[str, Any]) -> Any:
    """Evaluates a Python expression in the user's namespace.

    Raises:
        OptionError: it is not an expression, a name does not exist, or evaluating it fails.
    """
    try:
        code = compile(text, "<expression>", "eval")
    except SyntaxError:
        raise OptionError(f"`{text}` is not a Python expression.") from None
    try:
        return eval(code, {"__builtins__": builtins.__dict__, **namespace})
    except NameError as error:
        name = getattr(error, "name", None) or str(error)
        hint = nearest(name, [n for n in namespace if not n.startswith("_")])
        raise OptionError(f"The name `{name}` does not exist.{hint}") from None
    except DlfbLabError:
        raise
    except Exception as error:
        raise OptionError(f"`{text}` failed: {type(error).__name__}: {error}") from error


def value_of(
    option: Option,
    text: str,
    evaluated: Callable[[str], Any],
    columns: Collection[str] = (),
    known: Collection[str] = (),
) -> Any:
    """Returns an option's value from its text.

    Args:
        option: which option.
        text: as it stood in the line.
        evaluated: evaluates an expression.
        columns: names of the data's columns or keys.
        known: names that the option knows. One of them is that name, whatever a variable of that name holds: in a
            notebook `accuracy = 0.93` or `from sklearn.metrics import auc` must not change a metric. In brackets it
            is an expression.

    Raises:
        OptionError: it is neither a known name nor an expression.
    """
    if option.takes == "text":
        is_expression = text[:1] in "([" or text[:2] in ("f'", 'f"')
        return str(evaluated(text)) if is_expression else unquoted(text)
    if option.takes == "patterns":
        return evaluated(text) if text[:1] in "([" else [word.strip() for word in split(unquoted(text), ",")]
    if option.takes == "column" and unquoted(text) in columns:
        return unquoted(text)
    if option.takes == "names":
        return [value for word in split(unquoted(text), ",") for value in _listed(word.strip(), evaluated, known)]
    if option.takes == "choice":
        return _name_or_value(text, evaluated, known)
    return evaluated(text)


def _listed(word: str, evaluated: Callable[[str], Any], known: Collection[str]) -> list[Any]:
    value = _name_or_value(word, evaluated, known)
    return list(value) if isinstance(value, list | tuple) else [value]


def _name_or_value(text: str, evaluated: Callable[[str], Any], known: Collection[str]) -> Any:
    """A word that is neither known nor in the namespace is left as it is, for a message that suggests a known one."""
    text = unquoted(text) if unquoted(text).isidentifier() else text
    if text.lower() in known:
        return text.lower()
    try:
        return evaluated(text)
    except OptionError:
        if text.isidentifier() or _PATH.fullmatch(text):
            return text
        raise


_PATH = re.compile(r"[*A-Za-z_][\w.*?-]*/[\w.*?/-]+")
"""A pattern of parameters' paths, such as encoder/*; where its parts are names, it was a quotient."""


def unquoted(text: str) -> str:
    """Returns a word without the quotes around it."""
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" else text
