"""The numbers that `benchmarks.realworld` takes of LR images, and records of runs."""

import io

import numpy as np
import pytest
from helpers.pictures import picture
from PIL import Image

from benchmarks import realworld, training_curves


def test_blocks_are_told_wherever_they_lie() -> None:
    noise = np.random.default_rng(0).normal(0, 6, (64, 64, 3))
    smooth = (picture(0, 64, 64) + noise).clip(0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(smooth).save(buffer, "JPEG", quality=8)
    blocks = np.asarray(Image.open(buffer))
    found = realworld.statistics([smooth, blocks, blocks[3:, 5:]])[:, 3]
    assert found[0] < 1.3 and (found[1:] > 1.8).all()
    assert found[2] == pytest.approx(found[1], rel=0.1)


def test_the_other_numbers() -> None:
    grey = np.full((16, 16, 3), 100, np.uint8)
    checked = grey.copy()
    checked[::2, ::2] = checked[1::2, 1::2] = 120
    flat, fine = realworld.statistics([grey, checked])
    assert flat[:3] == pytest.approx([100, 0, 0], abs=1e-9)
    assert fine[:2] == pytest.approx([110, 10]) and 9 < fine[2] <= 10


def test_table_has_a_distance_of_two_programs() -> None:
    rng = np.random.default_rng(1)
    values = rng.uniform(size=(50, 4))
    text = realworld.table(
        {"ours": values, "published": values + np.array([0, 0, 0, 9])}
    )
    lines = text.splitlines()
    assert lines[0].endswith("| distance | p |") and len(lines) == 6
    assert "0.000 | 1.00" in lines[2] and "1.000 | 0.00" in lines[5]


def test_crops_lie_beside_each_other(tmp_path) -> None:
    image = np.zeros((410, 1210, 3), np.uint8)
    image[5:405, 5:405], image[5:405, 405:805], image[5:405, 805:1205] = 1, 2, 3
    Image.fromarray(image).save(tmp_path / "a.png")
    crops = realworld.take_crops(str(tmp_path), 3)
    assert all(crop.base is None for crop in crops)  # none keeps its whole image
    assert [crop.min() for crop in crops] == [1, 2, 3]
    repeated = realworld.take_crops(str(tmp_path), 5)
    assert [crop.min() for crop in repeated] == [1, 2, 3, 1, 2]


def test_images_that_are_too_small_are_an_error(tmp_path) -> None:
    Image.fromarray(picture(0, 390, 500)).save(tmp_path / "a.png")
    with pytest.raises(SystemExit, match="no image of 400 x 400 pixels"):
        realworld.take_crops(str(tmp_path), 1)


def test_runs_of_one_name_are_told_apart(tmp_path) -> None:
    workdirs = [tmp_path / place / "student" for place in "ab"]
    for step, workdir in enumerate(workdirs, 1):
        workdir.mkdir(parents=True)
        (workdir / "metrics.jsonl").write_text(f'{{"step": {step}}}\n')
    found = training_curves.read(workdirs)
    assert found == {str(w): [{"step": s}] for s, w in enumerate(workdirs, 1)}
    assert list(training_curves.read(workdirs[:1])) == ["student"]
    (workdirs[0] / "metrics.jsonl").write_text("")
    with pytest.raises(ValueError, match="student has no records yet"):
        training_curves.read(workdirs[:1])
