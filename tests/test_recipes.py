"""The comparison of recipes, with the smallest network."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import recipes

pytestmark = pytest.mark.slow


class Halves:
    """A source of one image: flat on the left, noise on the right."""

    names = ("halves",)
    sizes = np.array([[40, 200]])

    def __init__(self) -> None:
        noise = np.random.default_rng(0).integers(0, 256, (40, 100, 3), dtype=np.uint8)
        self.pixels = np.concatenate([np.zeros_like(noise), noise], 1)

    def __len__(self) -> int:
        return 1

    def crops(self, image, tops, lefts, size) -> np.ndarray:
        places = zip(tops, lefts, strict=True)
        return np.stack([self.pixels[y : y + size, x : x + size] for y, x in places])


def test_crops_with_the_most_detail() -> None:
    source = recipes.Detailed(Halves(), 8)
    assert len(source) == 1 and source.names == ("halves",)
    flat = np.zeros(2, int)
    found = source.crops(0, flat, flat, 16)
    assert found.shape == (2, 16, 16, 3)
    assert (found.std((1, 2, 3)) > 50).all()
    np.testing.assert_array_equal(found, source.crops(0, flat, flat, 16))
    noisy = np.full(2, 180)
    one = recipes.Detailed(Halves(), 1).crops(0, flat, noisy, 16)
    np.testing.assert_array_equal(one, Halves().crops(0, flat, noisy, 16))


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
