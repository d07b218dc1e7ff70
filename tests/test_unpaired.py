"""Pictures without HR images: what is measured, written and refused."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from helpers.pictures import picture, save
from PIL import Image

from configs.benchmark import get_config
from lightbsr_jax.errors import UserError
from lightbsr_jax.evaluation import run, unpaired
from lightbsr_jax.evaluation.niqe import niqe
from lightbsr_jax.imaging import resize
from lightbsr_jax.imaging.errors import ImageError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "phone"
    noise = np.random.default_rng(0).normal(0, 12, (30, 54, 3))
    for name, seed in (("a.png", 0), ("b/c&d.png", 1)):
        pixels = (picture(seed, 30, 54) + noise).clip(0, 255).astype(np.uint8)
        save(folder / name, pixels)
    save(folder / "tiny.png", picture(2, 12, 12))  # too small for NIQE
    return folder


def measure(folder: Path, **options: object) -> str:
    said: list[str] = []
    config = options.pop("config", None) or get_config("unpaired")
    run.run(config, folders=[str(folder)], say=said.append, **options)
    return "\n".join(said)


def test_interpolations_are_the_known_ones() -> None:
    lr = picture(3, 9, 14)
    methods = unpaired._methods({}, 4)
    bicubic = np.asarray(resize.bicubic(lr, (36, 56)))
    assert abs(methods["bicubic"](lr) - bicubic.clip(0, 255)).max() <= 0.51
    rows, columns = (resize.lanczos_matrix(n, 4 * n) for n in lr.shape[:2])
    lanczos = np.einsum("hH,HWC,wW->hwC", rows, lr, columns)
    assert abs(methods["Lanczos"](lr) - lanczos.clip(0, 255)).max() <= 0.51


def test_looks_keep_no_whole_pictures() -> None:
    lr = picture(3, 40, 60)
    sr = {"bicubic": unpaired._methods({}, 4)["bicubic"](lr)}
    look = unpaired._look(lr, sr, 16)
    assert look.crops["bicubic"].shape == (64, 64, 3)
    assert all(crop.base is None for crop in look.crops.values())


def test_a_report_without_a_network(folder: Path, tmp_path: Path) -> None:
    report, sr = tmp_path / "report", tmp_path / "sr"
    text = measure(folder, report_folder=str(report), dump_sr=str(sr))
    assert "phone (2)" in text and "**Lanczos**" in text and "PSNR" not in text
    with (report / "images.csv").open(newline="") as file:
        rows = {(row["method"], row["image"]): row for row in csv.DictReader(file)}
    assert len(rows) == 6 and rows["bicubic", "tiny.png"]["niqe"] == ""
    found = sorted(p.relative_to(sr).as_posix() for p in sr.rglob("*.png"))
    names = ("a", "b/c&d", "tiny")
    assert found == sorted(
        f"phone/{m}/{n}.png" for m in ("bicubic", "Lanczos") for n in names
    )
    for method in ("bicubic", "Lanczos"):
        pixels = np.asarray(Image.open(sr / "phone" / method / "a.png"))
        assert pixels.shape == (120, 216, 3)
        expected = float(rows[method, "a.png"]["niqe"])
        assert niqe(pixels, border=4) == pytest.approx(expected, abs=1e-5)
    page = (report / "report.html").read_text()
    assert page.count("<figure") == 3 * 4  # whole, LR, bicubic, Lanczos
    assert "b/c&amp;d.png" in page and "<script" not in page
    results = json.loads((report / "results.json").read_text())
    assert results["model"] is None
    assert [one["size"] for one in results["pictures"]] == [
        [30, 54],
        [30, 54],
        [12, 12],
    ]
    assert len(list((report / "panels").iterdir())) == 3
    mine = report / "panels" / "mine.png"
    mine.write_bytes(b"mine")
    measure(folder, report_folder=str(report))
    assert mine.read_bytes() == b"mine"  # not of a report
    assert len(list((report / "panels").iterdir())) == 4
    mine.unlink()
    markdown = (report / "report.md").read_text()
    assert all(f"({p.relative_to(report)})" in markdown for p in report.rglob("*.png"))


def test_what_takes_hr_images_is_refused(folder: Path) -> None:
    for flag, given in {"dump-lr": "dump_lr", "lr-dir": "lr_folder"}.items():
        with pytest.raises(UserError, match=f"--{flag} needs HR images"):
            measure(folder, **{given: "x"})
    config = get_config("unpaired")
    config.niqe = False
    with pytest.raises(UserError, match=r"benchmark\.py:unpaired, without"):
        measure(folder, config=config)
    for given in (
        {"dump_sr": str(folder.parent)},
        {"dump_sr": str(folder / "sr")},
        {"report_folder": str(folder / "report")},
    ):
        with pytest.raises(UserError, match="which is measured: name another folder"):
            measure(folder, **given)
    assert not (folder / "report").exists()


def test_pictures_of_one_name_in_two_formats_are_measured(tmp_path: Path) -> None:
    """But their SR images would have one file."""
    for name in ("a.png", "a.jpg"):
        save(tmp_path / "twice" / name, picture(0, 30, 54))
    report = tmp_path / "report"
    measure(tmp_path / "twice", report_folder=str(report))
    with (report / "images.csv").open(newline="") as file:
        found = [row["image"] for row in csv.DictReader(file)]
    assert found == 2 * ["a.jpg", "a.png"]
    assert len(list((report / "panels").iterdir())) == 2
    with pytest.raises(
        UserError, match=r"a\.jpg and a\.png of twice would have the sam"
    ):
        measure(tmp_path / "twice", dump_sr=str(tmp_path / "sr"))
    assert not (tmp_path / "sr").exists()
    (tmp_path / "some.txt").write_text("twice/a.png\ntwice/a.png")
    with pytest.raises(UserError, match=r"some\.txt names twice/a\.png twice: remove"):
        measure(tmp_path / "some.txt")


def test_a_damaged_picture_is_named_first(tmp_path: Path) -> None:
    save(tmp_path / "phone" / "a.png", picture(0))
    content = (tmp_path / "phone" / "a.png").read_bytes()
    (tmp_path / "phone" / "z.png").write_bytes(content[:-100])
    with pytest.raises(ImageError, match=r"z\.png: corrupt or truncated"):
        measure(tmp_path / "phone", dump_sr=str(tmp_path / "sr"))
    assert not (tmp_path / "sr").exists()


def test_two_folders_of_one_name_are_refused(tmp_path: Path) -> None:
    """Their pictures would be averaged together."""
    save(tmp_path / "a" / "phone" / "1.png", picture(0))
    save(tmp_path / "b" / "phone" / "2.png", picture(1))
    folders = [str(tmp_path / name / "phone") for name in "ab"]
    with pytest.raises(UserError, match="are both called phone"):
        unpaired.find(folders)
    (tmp_path / "some.txt").write_text("a/phone/1.png")
    found = unpaired.find([str(tmp_path / "some.txt"), folders[0]])
    assert [image.benchmark for image in found] == ["some", "phone"]


@pytest.mark.slow
def test_a_network_restores_as_the_upscaler_does(folder: Path, tmp_path: Path) -> None:
    from lightbsr_jax.inference.upscaler import Upscaler

    report = tmp_path / "report"
    text = measure(
        folder,
        sources=["setting2"],
        dump_sr=str(tmp_path),
        report_folder=str(report),
    )
    assert "**LightBSR**" in text
    results = json.loads((report / "results.json").read_text())
    assert results["model"]["source"] == "setting2"
    written = np.asarray(Image.open(tmp_path / "phone" / "LightBSR" / "a.png"))
    lr = np.asarray(Image.open(folder / "a.png"))
    np.testing.assert_array_equal(written, Upscaler.load("setting2")(lr))
