"""JupyterLab, a kernel and Chromium work together here."""

from __future__ import annotations

from nbformat.v4 import new_code_cell, new_notebook


def test_a_cell_runs_through_a_kernel(open_notebook) -> None:
    notebook = open_notebook(new_notebook(cells=[new_code_cell("print(1 + 1)"), new_code_cell("6 * 7")]))
    notebook.run_cell(0)
    notebook.run_cell(1)
    assert notebook.output_text(0) == "2"
    assert notebook.output_text(1).endswith("42")
    assert notebook.console_errors == []
    notebook.screenshot("smoke-output", of=notebook.output(0))
