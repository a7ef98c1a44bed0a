"""Both notebooks run from the first cell to the last at a tiny setting; cells that install are skipped."""

import os
import pathlib

import pytest

NOTEBOOKS = pathlib.Path(__file__).resolve().parents[2] / "notebooks"
TINY = [
    ("model.width", 32), ("model.num_heads", 2), ("model.depth", 2), ("model.decoder_depth", 1),
    ("model.patch_size", 8),
    ("batch_size", 8), ("log_every_steps", 2), ("measure_every_steps", 2), ("optimizer.warmup_steps", 1),
    ("data.train_split", "train[:128]"), ("data.validation_split", "test[:64]"),
]  # fmt: skip


@pytest.mark.parametrize("name", ["quickstart", "white_box_tour"])
def test_runs_from_the_first_cell_to_the_last(name, tmp_path, monkeypatch):
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    cells = [cell for cell in notebook.cells if "install" not in cell.metadata.get("tags", [])]
    assert len(cells) == len(notebook.cells) - 1
    (place,) = (number for number, cell in enumerate(cells) if "parameters" in cell.metadata.get("tags", []))
    tiny = f"STEPS, WORKDIR, OVERRIDES = 4, {str(tmp_path / 'run')!r}, {TINY!r}"
    cells.insert(place + 1, nbformat.v4.new_code_cell(tiny))
    notebook.cells = cells
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(NOTEBOOKS.parent), os.environ.get("PYTHONPATH", "")]))
    nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3").execute(cwd=str(tmp_path))
    code = [cell for cell in cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code)
    pictures = sum("image/png" in output.get("data", {}) for cell in code for output in cell.outputs)
    assert pictures >= (3 if name == "quickstart" else 13)
