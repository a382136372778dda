"""The figures with a target, out of the results, as the table of the README.

python tests/benchmarks/figures.py      writes the table into the README
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "results"
README = HERE.parents[1] / "README.md"
BEGIN, END = "<!-- figures: begin -->\n", "<!-- figures: end -->\n"


@dataclass(frozen=True)
class Figure:
    """A figure with a target.

    Attributes:
        name: in the test.
        what: what is measured, for people.
        against: what with.
        target: as the table says it: "at least" or "at most", and a number.
        result: file of the results, without ".json".
        place: where in it the figure stands.
    """

    name: str
    what: str
    against: str
    target: str
    result: str
    place: tuple[str, ...]

    @property
    def decimals(self) -> int:
        """Digits after the point: one more than would hide whether the target is met."""
        return 2 if float(self.target.split()[-1]) >= 2.5 else 3


FIGURES = (
    Figure(
        "tiny/scan",
        "tiny MLP, live view on: speed",
        "a hand-written fused scan",
        "at least 0.95",
        "tiny",
        ("ours_over", "scan"),
    ),
    Figure("tiny/loop", "tiny MLP: speed", "the reference loop", "at least 6", "tiny", ("ours_over", "loop")),
    Figure("tiny/keras", "tiny MLP: speed", "Keras on JAX, `fit`", "at least 12", "tiny", ("ours_over", "keras")),
    Figure("tiny/torch", "tiny MLP: speed", "a PyTorch loop", "at least 20", "tiny", ("ours_over", "torch")),
    Figure("mlp", "MLP 100-256-256-10: speed", "the best of all peers", "at least 1.0", "mlp", ("ours_over_best",)),
    Figure(
        "cnn", "CNN on 64×64×3 images: speed", "one jitted step in a loop", "at least 0.97", "cnn", ("ours_over_best",)
    ),
    Figure(
        "dna",
        "convolutions on 200 bp of DNA: speed",
        "one jitted step in a loop",
        "at least 0.97",
        "dna",
        ("ours_over_best",),
    ),
    Figure(
        "transformer",
        "small transformer: speed",
        "the better of step loop and scan",
        "at least 0.95",
        "transformer",
        ("ours_over_best",),
    ),
    Figure("seeds", "8 seeds of tiny at once: time", "one seed", "at most 2.5", "seeds", ("eight_over_one",)),
    Figure("view", "live view on: speed", "live view off", "at least 0.98", "view", ("rate_on_over_off",)),
    Figure(
        "cache",
        "first loss in a fresh kernel, second time: time",
        "no compilation cache",
        "at most 0.5",
        "cache",
        ("kept_over_none",),
    ),
    Figure(
        "stream",
        "a generator slower than the device, which waits: time",
        "the generator alone",
        "at most 1.05",
        "stream",
        ("trained_over_alone", "waiting"),
    ),
    Figure(
        "stream/parsing",
        "the same, which computes in Python: time",
        "the generator alone",
        "at most 1.05",
        "stream",
        ("trained_over_alone", "parsing"),
    ),
    Figure(
        "stream/by hand",
        "the same, which computes in Python: time",
        "a hand-written loop over it",
        "at most 1.0",
        "stream",
        ("trained_over_by_hand", "parsing"),
    ),
    Figure(
        "memory",
        "memory at its peak",
        "data + state + one step's temporaries",
        "at most 1.15",
        "memory",
        ("worst",),
    ),
    Figure(
        "saving",
        "a minute of the MLP: time lost to checkpoints",
        "its whole time",
        "at most 0.03",
        "checkpoints",
        ("share",),
    ),
    Figure(
        "saving/toy",
        "a toy run: seconds that checkpoints add before its cell returns",
        "none",
        "at most 0.05",
        "checkpoints",
        ("toy_added_s",),
    ),
    Figure(
        "restore",
        "restoring 768 MiB, checksums compared: time",
        "Orbax's own restore",
        "at most 1.3",
        "checkpoints",
        ("restore_over_bare",),
    ),
    Figure(
        "restore/memory",
        "the same: memory at its peak",
        "Orbax's own restore",
        "at most 1.1",
        "checkpoints",
        ("memory_over_bare",),
    ),
)


@dataclass(frozen=True)
class Measured:
    """A figure as it was measured.

    Attributes:
        figure: which.
        value: the ratio.
        result: the whole result it stands in.
    """

    figure: Figure
    value: float
    result: dict[str, Any]


def measured(folder: Path = RESULTS) -> list[Measured]:
    """Returns the figures that a folder of results holds, in the table's order."""
    found = []
    for figure in FIGURES:
        file = folder / f"{figure.result}.json"
        if not file.exists():
            continue
        result = json.loads(file.read_text())
        value: Any = result
        for key in figure.place:
            value = value.get(key) if isinstance(value, dict) else None
        if value is not None:
            found.append(Measured(figure, value, result))
    return found


def table(rows: list[Measured]) -> list[str]:
    """Returns the figures as lines of Markdown, and where they were measured."""
    lines = ["| what | against | target | measured | commit |", "|---|---|---|---|---|"]
    for row in rows:
        f, commit = row.figure, row.result["commit"]
        # A plus: with changes that were not committed.
        code = (commit["hash"] or "unknown")[:7] + ("+" if commit["dirty"] else "")
        lines.append(f"| {f.what} | {f.against} | {f.target} | {row.value:.{f.decimals}f} | {code} |")
    places = dict.fromkeys(place(row.result) for row in rows)
    return [*lines, "", f"Measured on: {'; '.join(places)}."]


def place(result: dict[str, Any]) -> str:
    """Returns where a result was measured, and with what."""
    where, versions = result["machine"], result["versions"]
    device = where.get("device", "cpu")
    beside = f"{device}, " if device != "cpu" else ""
    return (
        f"{beside}{where['cpu']}, {where['cores']} cores, Python {versions['python']}, jax {versions['jax']}, "
        f"flax {versions['flax']}"
    )


def folders() -> list[Path]:
    """Returns the folders of results: the usual one, then one for each further machine."""
    return [RESULTS, *sorted(p for p in RESULTS.iterdir() if p.is_dir())]


def text() -> str:
    """Returns all tables, one below the other."""
    return "\n".join("\n".join(table(rows)) + "\n" for rows in map(measured, folders()) if rows)


def main() -> None:
    """Writes the tables into the README."""
    before, _, rest = README.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    README.write_text(f"{before}{BEGIN}{text()}{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
