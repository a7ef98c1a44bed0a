"""Both notebooks run from the first cell to the last at a tiny setting; what is stored in them is whole."""

import os
import pathlib
import re

import pytest

NOTEBOOKS = pathlib.Path(__file__).resolve().parents[2] / "notebooks"
NAMES = ["quickstart", "white_box_tour"]
STEPS = 4  # below the warm-up of the config
TINY = [
    ("model.width", 32), ("model.num_heads", 2), ("model.depth", 1), ("model.decoder_depth", 1),
    ("model.patch_size", 8), ("batch_size", 8), ("log_every_steps", 2), ("measure_every_steps", 2),
    ("data.train_split", "train[:64]"), ("data.validation_split", "test[:32]"),  # too few for the few-shot probes
]  # fmt: skip


def read(name):
    """A notebook of this folder."""
    nbformat = pytest.importorskip("nbformat")
    return nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)


def pictures(cells):
    """How many pictures the cells' outputs hold."""
    outputs = [output for cell in cells if cell.cell_type == "code" for output in cell.outputs]
    return sum("image/png" in output.get("data", {}) for output in outputs)


@pytest.mark.parametrize("name", NAMES)
def test_runs_from_the_first_cell_to_the_last(name, tmp_path, monkeypatch):
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    notebook = read(name)
    (place,) = (n for n, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", []))
    tiny = f"STEPS, WORKDIR, OVERRIDES = {STEPS}, {str(tmp_path / 'run')!r}, {TINY!r}"
    notebook.cells.insert(place + 1, nbformat.v4.new_code_cell(tiny))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(NOTEBOOKS.parent), os.environ.get("PYTHONPATH", "")]))
    nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3").execute(cwd=str(tmp_path))
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code)
    assert pictures(code) >= (4 if name == "quickstart" else 13)
    said = "".join(output.get("text", "") for cell in code for output in cell.outputs)
    assert f"{STEPS}/{STEPS}" in said and "TqdmWarning" not in said  # the bar, which needs no ipywidgets
    assert "pip install" not in said and "Installing" not in said  # the package was there


@pytest.mark.parametrize("name", NAMES)
def test_installs_only_where_the_package_is_missing(name):
    (cell,) = (cell for cell in read(name).cells if "install" in cell.metadata.get("tags", []))
    checked, _, installs = cell.source.partition("%pip install")
    assert 'find_spec("crate_jax") is None' in checked and installs.startswith(" -q {SOURCE}")
    assert not any("OWNER" in cell.source for cell in read(name).cells)


@pytest.mark.parametrize(("name", "count"), [("quickstart", 4), ("white_box_tour", 13)])
def test_outputs_are_stored(name, count):
    code = [cell for cell in read(name).cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code)
    assert pictures(code) >= count and (NOTEBOOKS / f"{name}.ipynb").stat().st_size < 1e6
    outputs = [output for cell in code for output in cell.outputs]
    said = "".join(output.get("text", "") for output in outputs)
    assert not any(output.output_type == "error" for output in outputs)
    assert "\r" not in said and "site-packages" not in said  # the bar as it ends; nobody's folders
    if name == "white_box_tour":
        assert not any(output.get("name") == "stderr" for output in outputs)
    else:
        (steps,) = (match[1] for cell in code if (match := re.match(r"STEPS = (\d+)", cell.source)))
        assert f"{steps}/{steps}" in said
