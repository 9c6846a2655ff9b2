"""The notebook of the documents runs from its first cell to its last."""

from __future__ import annotations

from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parent.parent / "docs" / "first_steps.ipynb"
nbclient = pytest.importorskip("nbclient", reason="needs the extra `notebook`")
nbformat = pytest.importorskip("nbformat", reason="needs the extra `notebook`")
pytest.importorskip("ipykernel", reason="needs the extra `notebook`")
pytest.importorskip("segmentation_models_pytorch", reason="needs the extra `notebook`")


@pytest.mark.slow
def test_the_notebook_runs(tmp_path):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "commit it without outputs"
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=600, resources=resources).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 3
    assert any("last.pt" in output.get("data", {}).get("text/plain", "") for output in outputs)
    losses = [line for output in outputs for line in output.get("text", "").splitlines()]
    values = [float(line.split()[-1]) for line in losses if line.startswith("step ")]
    assert values[-1] < values[0]
