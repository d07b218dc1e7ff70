"""Panels, examples and plots."""

import resource

import numpy as np
import pytest

from lightbsr_jax.evaluation import cases, pictures, plots, tables
from lightbsr_jax.evaluation.benchmark import Restored, Score
from lightbsr_jax.evaluation.findings import Findings
from lightbsr_jax.evaluation.restorers import Contender


def noise(seed: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def score(method: str, psnr: float, image: str = "a", benchmark: str = "Set5") -> Score:
    return Score(method, benchmark, image, "sigma 1.2", psnr, 0.5)


def restored(hr: np.ndarray, sr: np.ndarray, scale: int = 4) -> Restored:
    lr = np.ascontiguousarray(hr[::scale, ::scale])
    scores = {name: score(name, 20.0) for name in ("bicubic", "LightBSR")}
    return Restored(
        "Set5", "a", "sigma 1.2", 0, lr, hr, {"bicubic": sr, "LightBSR": hr}, scores
    )


def test_panel_shows_the_images_under_their_names() -> None:
    images = {
        "LR": noise(1, 50, 44),
        "bicubic": noise(2, 200, 176),
        "HR": noise(3, 200, 176),
    }
    panel = pictures.panel(images, {"bicubic": score("bicubic", 27.0)})
    assert panel.dtype == np.uint8
    caption = panel.shape[0] - 200
    assert panel.shape[1] == 3 * 176 + 2 * 4 and 16 <= caption <= 80
    columns = [panel[caption:, i * 180 : i * 180 + 176] for i in range(3)]
    images["LR"] = images["LR"].repeat(4, 0).repeat(4, 1)
    for column, image in zip(columns, images.values(), strict=True):
        np.testing.assert_array_equal(column, image)
    for i in range(3):  # a caption, inside its column
        ink = (panel[:caption, i * 180 : i * 180 + 176] < 128).any(-1)
        assert ink.any() and not ink[:, 0].any()


def test_small_images_are_enlarged() -> None:
    images = {"LR": noise(1, 6, 7), "HR": noise(2, 24, 28)}
    panel = pictures.panel(images, {})
    assert panel.shape[1] == 2 * 6 * 28 + 4


def test_example_shows_where_bicubic_errs() -> None:
    hr = noise(1, 96, 120)
    sr = hr.copy()
    sr[33:62, 70:101] ^= 128  # all errors in one region
    sr[0, 0] ^= 1
    found = pictures.example(restored(hr, sr), crop=32)
    top, left, height, width = found.box
    assert (height, width) == (32 / 96, 32 / 120)
    y, x = round(top * 96), round(left * 120)
    assert y % 4 == x % 4 == 0 and 28 <= y <= 36 and 66 <= x <= 72
    assert all(crop.base is None for crop in found.crops.values())  # no whole images
    assert list(found.crops) == ["LR", "bicubic", "LightBSR", "HR"]
    np.testing.assert_array_equal(found.crops["HR"], hr[y : y + 32, x : x + 32])
    np.testing.assert_array_equal(found.crops["bicubic"], sr[y : y + 32, x : x + 32])
    np.testing.assert_array_equal(
        found.crops["LR"], hr[::4, ::4][y // 4 : y // 4 + 8, x // 4 : x // 4 + 8]
    )


@pytest.mark.parametrize(("height", "width"), [(24, 120), (1200, 40), (20, 20)])
def test_example_of_any_size(height: int, width: int) -> None:
    hr = noise(1, height, width)
    found = pictures.example(restored(hr, noise(2, height, width)), crop=32)
    side = min(32, height, width)
    assert found.crops["HR"].shape == (side, side, 3)
    assert max(found.whole.shape) <= 480
    top, left, high, wide = found.box
    assert top + high <= 1 and left + wide <= 1


def test_spread_goes_from_the_best_to_the_worst() -> None:
    gains = {"a": 1.0, "b": 3.0, "c": 0.0, "d": 2.0, "e": 4.0}
    hr = noise(1, 24, 24)
    example = pictures.example(restored(hr, hr), crop=24)
    examples = [
        example._replace(
            image=image,
            benchmark=benchmark,
            scores={
                "bicubic": score("bicubic", 20.0),
                "ours": score("ours", 20 + gain),
            },
        )
        for benchmark in ("Set5", "Set14")
        for image, gain in gains.items()
    ]
    chosen = pictures.spread(examples, "ours", 3)
    assert [(found.benchmark, found.image) for found in chosen] == [
        (benchmark, image) for benchmark in ("Set5", "Set14") for image in "edc"
    ]
    assert [found.image for found in pictures.spread(examples[:5], "ours", 9)] == list(
        "ebdac"
    )
    assert pictures.spread([], "ours", 3) == []


def test_equal_infinite_psnrs_are_no_gain() -> None:
    hr = noise(1, 24, 24)
    example = pictures.example(restored(hr, hr), crop=24)
    psnrs = {"a": (20.0, 21.0), "b": (np.inf, np.inf), "c": (20.0, 19.0), "d": (20, 24)}
    examples = [
        example._replace(
            image=image,
            scores={"bicubic": score("bicubic", theirs), "ours": score("ours", ours)},
        )
        for image, (theirs, ours) in psnrs.items()
    ]
    chosen = pictures.spread(examples, "ours", 4)
    assert [found.image for found in chosen] == list("dabc")


@pytest.mark.filterwarnings("error")
def test_a_plot_leaves_out_infinite_psnrs() -> None:
    ours, tested = Contender("ours", "lightbsr"), cases.make(1, sigmas=(1.2,))
    contenders = [Contender("bicubic", "bicubic"), ours]
    psnrs = {"a": np.inf, "b": 20.0}
    scores = [score(one.name, x, i) for one in contenders for i, x in psnrs.items()]
    tabled = tables.make(scores, tested, scale=4, contenders=contenders)
    found = Findings(ours, "", scores, tabled, [], {}, {})
    assert plots.draw(found)["Set5"].startswith("<svg")


@pytest.mark.parametrize("in_memory", [1, 1 << 20])
def test_a_shelf_gives_back_what_is_chosen(tmp_path, monkeypatch, in_memory) -> None:
    """From memory, or from a file that is gone afterwards."""
    monkeypatch.setattr(pictures, "_IN_MEMORY", in_memory)
    with pictures.Shelf(str(tmp_path)) as shelf:
        for seed, gain in enumerate((1.0, 3.0, 0.0)):
            hr = noise(seed, 24, 24)
            example = pictures.example(restored(hr, hr), crop=24)
            scores = {
                "bicubic": score("bicubic", 20.0),
                "ours": score("ours", 20 + gain),
            }
            shelf.add(example._replace(scores=scores, image=str(seed)))
        best, worst = shelf.spread("ours", 2)
    assert (best.image, worst.image) == ("1", "2")
    np.testing.assert_array_equal(best.crops["HR"], noise(1, 24, 24))
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_told_with_the_shelfs_folder(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(pictures, "_IN_MEMORY", 1)
    hr = noise(0, 24, 24)
    example = pictures.example(restored(hr, hr), crop=24)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with (
            pytest.raises(OSError, match="File too large") as caught,
            pictures.Shelf(str(tmp_path)) as shelf,
        ):
            for _ in range(99):
                shelf.add(example)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.filename == str(tmp_path)
