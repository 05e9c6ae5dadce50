"""The notebook of the documentation: what is committed is whole, small and of no machine; and it runs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

FILE = Path(__file__).resolve().parents[2] / "docs" / "notebook.ipynb"


def code_cells() -> list[Any]:
    return [cell for cell in nbformat.read(FILE, as_version=4).cells if cell.cell_type == "code"]


def test_the_committed_notebook_is_whole_small_and_of_no_machine() -> None:
    text = FILE.read_text()
    assert len(text) < 300_000
    assert not re.search(r"/(home|root|tmp|work|Users)/|\\Users", text)
    nbformat.validate(json.loads(text))
    cells = code_cells()
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not any(output.output_type == "error" or output.get("name") == "stderr" for output in outputs)
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) >= 2
    assert "find_spec" in cells[0].source and "pip install" in cells[0].source


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path) -> None:
    notebook = nbformat.read(FILE, as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(cells) == len(code_cells())
    for now, kept in zip(cells, code_cells(), strict=True):
        assert [output.output_type for output in now.outputs] == [output.output_type for output in kept.outputs]
    assert (tmp_path / "results" / "trained" / "results.parquet").is_file()
