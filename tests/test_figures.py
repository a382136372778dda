"""The README's figures are those of the results, and none that was asked for is missing. Speed itself is not tested."""

from __future__ import annotations

import importlib.util
import json
import math
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "tests" / "benchmarks"

# What was asked for: its target, the file, and the place of the figure in it.
ASKED = {
    "tiny/scan": ("at least 0.95", "tiny", "ours_over.scan"),
    "tiny/loop": ("at least 6", "tiny", "ours_over.loop"),
    "tiny/keras": ("at least 12", "tiny", "ours_over.keras"),
    "tiny/torch": ("at least 20", "tiny", "ours_over.torch"),
    "mlp": ("at least 1.0", "mlp", "ours_over_best"),
    "cnn": ("at least 0.97", "cnn", "ours_over_best"),
    "dna": ("at least 0.97", "dna", "ours_over_best"),
    "transformer": ("at least 0.95", "transformer", "ours_over_best"),
    "seeds": ("at most 2.5", "seeds", "eight_over_one"),
    "view": ("at least 0.98", "view", "rate_on_over_off"),
    "cache": ("at most 0.5", "cache", "kept_over_none"),
    "stream": ("at most 1.05", "stream", "trained_over_alone.waiting"),
    "stream/parsing": ("at most 1.05", "stream", "trained_over_alone.parsing"),
    "stream/by hand": ("at most 1.0", "stream", "trained_over_by_hand.parsing"),
    "memory": ("at most 1.15", "memory", "worst"),
    "saving": ("at most 0.03", "checkpoints", "share"),
    "saving/toy": ("at most 0.05", "checkpoints", "toy_added_s"),
    "restore": ("at most 1.3", "checkpoints", "restore_over_bare"),
    "restore/memory": ("at most 1.1", "checkpoints", "memory_over_bare"),
}
# Not measured yet: each leaves this set with its result.
AWAITED: set[str] = set()


@pytest.fixture(scope="module")
def figures() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmark_figures", BENCHMARKS / "figures.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def shown(figures: ModuleType) -> str:
    """The README's tables of figures."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert readme.count(figures.BEGIN) == readme.count(figures.END) == 1
    return readme.partition(figures.BEGIN)[2].partition(figures.END)[0]


def result_of(name: str) -> dict[str, Any]:
    _, file, _ = ASKED[name]
    return dict(json.loads((BENCHMARKS / "results" / f"{file}.json").read_text(encoding="utf-8")))


def rows_of(text: str) -> list[list[str]]:
    """The cells of the first table's rows, without its head."""
    table = text.partition("\nMeasured on")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:] if line]


def test_every_figure_that_was_asked_for_is_known_with_its_target(figures: ModuleType) -> None:
    assert {f.name: (f.target, f.result, ".".join(f.place)) for f in figures.FIGURES} == ASKED


def test_the_readme_shows_every_figure_but_the_awaited_ones(figures: ModuleType, shown: str) -> None:
    texts = {(f.what, f.against, f.target): f.name for f in figures.FIGURES}
    assert len(texts) == len(figures.FIGURES)
    assert [texts[what, against, target] for what, against, target, _, _ in rows_of(shown)] == [
        name for name in ASKED if name not in AWAITED
    ]


@pytest.mark.parametrize("name", [name for name in ASKED if name not in AWAITED])
def test_a_number_in_the_readme_is_that_of_the_results(figures: ModuleType, shown: str, name: str) -> None:
    figure = next(f for f in figures.FIGURES if f.name == name)
    row = next(r for r in rows_of(shown) if (r[0], r[1], r[2]) == (figure.what, figure.against, figure.target))
    value: Any = result_of(name)
    for key in ASKED[name][2].split("."):
        value = value[key]
    decimals = len(row[3].partition(".")[2])
    assert decimals >= 1
    assert math.isclose(float(row[3]), value, rel_tol=0, abs_tol=0.5 * 10**-decimals + 1e-12)
    assert result_of(name)["commit"]["hash"].startswith(row[4].rstrip("+"))
    assert result_of(name)["commit"]["dirty"] == row[4].endswith("+")
    assert re.fullmatch(r"[0-9a-f]{7}[+]?", row[4])


@pytest.mark.parametrize("name", [name for name in ASKED if name not in AWAITED])
def test_a_result_says_where_and_with_what_it_was_measured(shown: str, name: str) -> None:
    result = result_of(name)
    where, versions = result["machine"], result["versions"]
    for word in (where["cpu"], f"{where['cores']} cores", f"jax {versions['jax']}", f"Python {versions['python']}"):
        assert word in shown


def test_no_result_is_left_out_as_awaited(figures: ModuleType) -> None:
    assert {row.figure.name for row in figures.measured()} == set(ASKED) - AWAITED


def test_the_readme_shows_what_further_machines_measured(figures: ModuleType, shown: str) -> None:
    assert shown == figures.text()
