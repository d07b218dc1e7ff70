"""The comparison of recipes, with the smallest network."""

import json
from pathlib import Path

import pytest

from benchmarks import recipes

pytestmark = pytest.mark.slow


def test_a_candidate_is_trained_and_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = tmp_path / "results.jsonl"
    small = {
        "network.groups": 1,
        "network.blocks": 1,
        "data.lr_crop": 8,
        "data.threads": 0,
    }
    options = {
        "--data": "scikit-image",
        "--images": "1",
        "--minutes": "0.001",
        "--json": str(written),
    }
    flags = [word for option in options.items() for word in option]
    flags += ["--only", "4-crops"]
    flags += ["--set", *(f"{name}={value}" for name, value in small.items())]
    monkeypatch.setattr("sys.argv", ["recipes", *flags])
    recipes.main()
    (result,) = (json.loads(line) for line in written.read_text().splitlines())
    assert result["candidate"] == "4-crops"
    assert result["steps"] == recipes.EPOCHS
    psnrs = list(result["psnr"].values())
    assert psnrs[-1] != psnrs[0]  # it learns
    assert 15 < psnrs[0] < 40  # it starts from bicubic interpolation
    assert len(result["losses"]) == recipes.MEASURED
