"""Every example runs from its first cell to its last."""

from __future__ import annotations

import re
import shutil
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
import pytest
from nbclient import NotebookClient

EXAMPLES = Path(__file__).parents[2] / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))
TOY = "5.2768 0.9498 0.1091 0.0845 0.0283 0.0258 0.0106 0.0105 0.0106 0.0102 0.0101 0.0100 0.0100 0.0100 0.0100"


@cache
def executed(path: Path) -> nbformat.NotebookNode:
    """Run a copy of a notebook in a folder of its own; a cell that fails raises with its traceback."""
    with TemporaryDirectory() as folder:
        notebook = nbformat.read(shutil.copy(path, folder), as_version=4)
        NotebookClient(notebook, timeout=240, resources={"metadata": {"path": folder}}).execute()
    return notebook


def test_there_are_examples() -> None:
    assert "quickstart" in {path.stem for path in NOTEBOOKS}


@pytest.mark.notebook
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_example_runs(path: Path) -> None:
    notebook = executed(path)
    code = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    outputs = [output for cell in code for output in cell.outputs]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert outputs
    warned = [output.text for output in outputs if output.get("name") == "stderr"]
    assert warned == []


@pytest.mark.notebook
def test_the_quickstart_reaches_its_figures() -> None:
    outputs = [o for c in executed(EXAMPLES / "quickstart.ipynb").cells for o in c.get("outputs", [])]
    text = "\n".join(o.get("text") or o.get("data", {}).get("text/plain", "") for o in outputs)
    scores = re.search(r"'auc': ([0-9.]+)", text)
    assert scores is not None
    assert float(scores[1]) >= 0.98
    assert "test set: 1st look" in text
    assert "always 'benign'" in text
    assert TOY in text


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_example_is_kept_without_outputs(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert [cell.outputs for cell in notebook.cells if cell.cell_type == "code" and cell.outputs] == []
