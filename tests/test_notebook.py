"""The notebook runs from its first cell to its last, with tiny networks."""

import os
from pathlib import Path

import pytest
from helpers.machine import quick_to_compile
from helpers.shipped import pack_students

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "notebooks" / "quickstart.ipynb"
# What stands in its cell of parameters; test_pretrained.py has the weights that ship.
SHORT = """
MINUTES = 0.02
NETWORK = (
    "--config.network.groups=1 --config.network.blocks=1 --config.optimizer=adam"
    " --config.data.batch_size=2 --config.data.lr_crop=8"
    " --config.schedule.stage2_epochs=3 --config.schedule.warmup_epochs=1"
    " --config.schedule.cooldown_epochs=1"
)
VALIDATION_IMAGES = 1

from lightbsr_jax.models import packed

packed.FOLDER = Path("weights").resolve()
"""


@pytest.mark.slow
def test_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    )
    monkeypatch.setenv("XLA_FLAGS", quick_to_compile())  # and one device
    notebook = nbformat.read(NOTEBOOK, 4)
    (parameters,) = [
        cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])
    ]
    parameters.source = SHORT
    pack_students(tmp_path / "weights", {"setting2": 2})
    client = nbclient.NotebookClient(
        notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    printed = "".join(
        output.get("text", "")
        for cell in notebook.cells
        for output in cell.get("outputs", [])
    )
    assert "setting2" in printed and "validation_psnr" in printed
    assert (tmp_path / "runs" / "quickstart" / "metrics.jsonl").exists()


def test_notebook_is_stored_without_outputs() -> None:
    nbformat = pytest.importorskip("nbformat")
    notebook = nbformat.read(NOTEBOOK, 4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code
    assert not any(cell.outputs or cell.execution_count for cell in code)
