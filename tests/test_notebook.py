"""Tests of the notebook: it runs offline, with the embedded model."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "quickstart.ipynb"
PHOTOGRAPH = NOTEBOOK.parents[1] / "images" / "raccoon.png"


def test_every_cell_of_the_notebook_runs(tmp_path, monkeypatch):
    """Run it on a crop of its photograph, which it finds in the working directory."""
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    monkeypatch.setenv("SDCODEC_HOME", str(tmp_path / "models"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert PHOTOGRAPH.exists()
    (tmp_path / "images").mkdir()
    with Image.open(PHOTOGRAPH) as image:
        image.crop((160, 140, 288, 268)).save(tmp_path / "images" / PHOTOGRAPH.name)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    shown = [out for cell in notebook.cells if cell.cell_type == "code" for out in cell.outputs]
    assert sum("image/png" in out.get("data", {}) for out in shown) >= 4
    assert (tmp_path / "models" / "random-sd" / "bundle.json").is_file()


def test_the_notebook_is_committed_without_outputs():
    nbformat = pytest.importorskip("nbformat")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert all(not cell.outputs and cell.execution_count is None for cell in notebook.cells if cell.cell_type == "code")
