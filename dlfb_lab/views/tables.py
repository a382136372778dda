"""Tables of the leaves of states: how two differ, and how one fits another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from dlfb_lab.checkpoints.difference import Change, relative
from dlfb_lab.checkpoints.fit import Leaf

if TYPE_CHECKING:
    import pandas as pd

MOST_ROWS = 40
"""Of a table that is shown; `.table` has all."""


class LeafTable:
    """A sentence and a row for each leaf; shown as text or HTML, whole as a DataFrame in `table`.

    Attributes:
        sentences: what the table comes to.
        heads: names of the columns.
        rows: values in words, in the order of `heads`.
        table: the same values as they are.
    """

    def __init__(
        self, sentences: Sequence[str], heads: Sequence[str], rows: Sequence[Sequence[str]], table: pd.DataFrame
    ) -> None:
        self.sentences, self.heads, self.rows, self.table = list(sentences), list(heads), list(rows), table

    @property
    def _more(self) -> str:
        left = len(self.rows) - MOST_ROWS
        return f"and {left:,} more; all are in .table" if left > 0 else ""

    def __repr__(self) -> str:
        shown = [self.heads, *self.rows[:MOST_ROWS]] if self.rows else []
        widths = [max(len(row[i]) for row in shown) for i in range(len(self.heads))] if shown else []
        lines = ["  ".join(f"{word:<{width}}" for word, width in zip(row, widths, strict=True)) for row in shown]
        return "\n".join([*self.sentences, *(line.rstrip() for line in lines), *filter(None, [self._more])])

    def _repr_html_(self) -> str:
        said = "".join(f"<div>{escape(sentence)}</div>" for sentence in self.sentences)
        if not self.rows:
            return said
        head = "".join(f"<th>{escape(name)}</th>" for name in self.heads)
        body = "".join(
            f"<tr>{''.join(f'<td>{escape(word)}</td>' for word in row)}</tr>" for row in self.rows[:MOST_ROWS]
        )
        return (
            f"{said}<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
            f"{f'<div>{self._more}</div>' if self._more else ''}"
        )


def of_fit(said: str, leaves: Sequence[Leaf]) -> LeafTable:
    """Returns how a saved state fits an object of the user's.

    Args:
        said: which state it is.
        leaves: how each leaf fits.
    """
    import pandas as pd

    words = {"": "restored", "missing": "missing", "extra": "extra", "shape": "other shape", "dtype": "other dtype"}
    counts = {problem: sum(leaf.problem == problem for leaf in leaves) for problem in words}
    told = [f"{counts[problem]:,} {word}" for problem, word in words.items() if counts[problem] or not problem]
    first = sorted(leaves, key=lambda leaf: not leaf.problem)
    columns = ("leaf", "what", "saved shape", "saved dtype", "own shape", "own dtype")
    values = [(leaf.name, words[leaf.problem], *(leaf.saved or ("", "")), *(leaf.given or ("", ""))) for leaf in first]
    return LeafTable(
        [f"{said}: {', '.join(told)}. Nothing was changed."],
        ("leaf", "what", "saved", "own"),
        [(leaf.name, words[leaf.problem], _typed(leaf.saved), _typed(leaf.given)) for leaf in first],
        pd.DataFrame(values, columns=list(columns)),
    )


def of_difference(first: str, second: str, changes: Sequence[Change]) -> LeafTable:
    """Returns how two states differ.

    Args:
        first: what the first is called.
        second: what the second is called.
        changes: what differs, in the order of the rows.
    """
    import pandas as pd

    sentences = [_summary(first, second, changes)]
    different = [change for change in changes if change.structure or not change.equal]
    for group in dict.fromkeys(change.group for change in different):
        mine = [change for change in changes if change.group == group]
        changed, before = (sum(change.squares[i] for change in mine) for i in range(2))
        sentences.append(f"{group}: {len(mine):,} arrays, relative change {_number(relative(changed, before))} in all")
    columns = ("group", "leaf", "shape", "structure", "relative", "largest", "not_finite_first", "not_finite_second")
    values = [
        (c.group, c.name, c.shape, c.structure, c.relative, c.largest, c.not_finite[0], c.not_finite[1])
        for c in changes
    ]
    return LeafTable(
        sentences,
        ("group", "leaf", "shape", "relative", "largest", ""),
        [
            (c.group, c.name, str(c.shape), _relative(c), _number(c.largest), _remark(c))
            for c in (changes if different else ())
        ],
        pd.DataFrame(values, columns=list(columns)),
    )


def _summary(first: str, second: str, changes: Sequence[Change]) -> str:
    structure = sum(bool(change.structure) for change in changes)
    changed = sum(not change.equal and not change.structure for change in changes)
    if not structure and not changed:
        return f"{first} and {second} are equal: all {len(changes):,} arrays have the same numbers."
    said = f"{first} → {second}: {changed:,} of {len(changes):,} arrays have changed"
    return f"{said}; {structure:,} differ in structure." if structure else f"{said}."


def _relative(change: Change) -> str:
    if change.structure.startswith(("only", "shape")):
        return ""
    return "equal" if change.equal else _number(change.relative)


def _remark(change: Change) -> str:
    said = [change.structure] if change.structure else []
    for count, where in zip(change.not_finite, ("first", "second"), strict=True):
        if count:
            said.append(f"{count:,} not finite in the {where}")
    return ", ".join(said)


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.3g}"


def _typed(found: tuple[tuple[int, ...], str] | None) -> str:
    return "" if found is None else f"{found[1]} {found[0]}"
