"""PSNR and SSIM under every convention, against scikit-image and literal ones."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import literal
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from lightbsr_jax.commands import psnr
from lightbsr_jax.errors import UserError
from lightbsr_jax.evaluation import conventions
from lightbsr_jax.imaging import metrics

STUDIO = np.array([65.738, 129.057, 25.064]) / 256
FULL = np.array([0.299, 0.587, 0.114])


@pytest.fixture(scope="module")
def pair() -> tuple[np.ndarray, np.ndarray]:
    """A smooth image and a noisy version of it."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:40, :46]
    waves = [np.sin(x / (3 + c) + y / 5) for c in range(3)]
    a = 128 + 90 * np.moveaxis(np.array(waves), 0, -1)
    b = a + rng.normal(scale=12, size=a.shape)
    return tuple(np.rint(image).clip(0, 255).astype(np.uint8) for image in (a, b))


def colours(image: np.ndarray) -> dict[str, np.ndarray]:
    """The planes [H, W] or [H, W, 3] of each convention, written down once more."""
    rgb = image.astype(np.float64)
    return {
        "RGB": rgb,
        "luma, studio range": rgb @ STUDIO + 16,
        "luma, studio range, rounded (MATLAB)": np.round(rgb @ STUDIO + 16),
        "luma, full range": rgb @ FULL,
        "luma, full range, rounded (OpenCV)": np.round(rgb @ FULL),
    }


@pytest.mark.parametrize("border", [0, 4, 10])
def test_against_scikit_image(pair, border: int) -> None:
    assert list(conventions.COLOURS) == list(colours(pair[0]))
    inside = np.s_[border : 40 - border, border : 46 - border]
    for name, colour in conventions.COLOURS.items():
        a, b = (colours(image)[name][inside] for image in pair)
        expected = peak_signal_noise_ratio(a, b, data_range=255)
        psnr = conventions.psnr(*pair, colour, border=border)
        assert psnr == pytest.approx(expected, abs=1e-6), name
        channels = {"data_range": 255, "channel_axis": -1 if a.ndim == 3 else None}
        expected = structural_similarity(
            a, b, gaussian_weights=True, use_sample_covariance=False, **channels
        )
        ssim = conventions.ssim(*pair, colour, border=border)
        assert ssim == pytest.approx(expected, abs=1e-6), name
        expected = structural_similarity(a, b, **channels)
        ssim = conventions.ssim(*pair, colour, border=border, uniform=True)
        assert ssim == pytest.approx(expected, abs=1e-6), name


def test_the_papers_are_among_them(pair) -> None:
    a, b = pair
    paper = conventions.COLOURS["luma, studio range"]
    psnr = conventions.psnr(a, b, paper, border=4)
    assert psnr == pytest.approx(literal.psnr_y(a, b, 4), abs=1e-9)
    paper = conventions.SSIM_COLOURS["luma, studio range, by (..)/255 + 16"]
    ssim = conventions.ssim(a, b, paper, border=4)
    assert ssim == pytest.approx(literal.ssim_y(a, b, 4), abs=1e-9)
    assert len(conventions.SSIM_COLOURS) == len(conventions.COLOURS) + 1


def rows(text: str) -> dict[str, list[str]]:
    lines = [line.strip("|").split("|") for line in text.splitlines() if "|" in line]
    return {cells[0].strip(): [c.strip() for c in cells[1:]] for cells in lines}


def save(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
    return path


def tables_of(a: Path, b: Path, scale: int = 4) -> str:
    """The text that the command prints."""
    return psnr.describe(str(a), str(b), scale, conventions.compare(a, b, scale=scale))


def test_two_images(pair, tmp_path) -> None:
    a, b = save(tmp_path / "a.png", pair[0]), save(tmp_path / "b.png", pair[1])
    text = tables_of(a, b)
    expected = metrics.psnr_y(pair[0][None], pair[1][None], border=4)[0]
    found = text.splitlines()
    assert f"{expected:.3f} *" in text and text.count("*") == 3
    assert found[0] == f"{a} against {b}"
    assert rows(text)["RGB"] != rows(text)["luma, full range"]
    assert "border 0 | border 3 " in tables_of(a, b, scale=3)
    # Cut a little differently: compared where both have pixels.
    cut = save(tmp_path / "cut.png", pair[1][:38, :44])
    text = tables_of(a, cut)
    assert "46x40 and 44x38 pixels" in text
    inside = [image[None, :38, :44] for image in pair]
    assert f"{metrics.psnr_y(*inside, border=4)[0]:.3f} *" in text


def test_folders(pair, tmp_path) -> None:
    a, b = pair
    for name in ("x", "x2", "sub/y"):
        save(tmp_path / "hr" / f"{name}.png", a)
    save(tmp_path / "sr" / "x_x4.png", b)
    save(tmp_path / "sr" / "x2_x4.png", a[::-1])
    save(tmp_path / "sr" / "sub" / "y.png", b[:, ::-1])
    text = tables_of(tmp_path / "sr", tmp_path / "hr")
    values = [
        metrics.psnr_y(image[None], a[None], border=4)[0]
        for image in (b, a[::-1], b[:, ::-1])
    ]
    assert f"{np.mean(values):.3f} *" in text and "means of 3 images" in text
    save(tmp_path / "sr" / "z.png", a)
    with pytest.raises(UserError, match="z.png of .*sr, none of .*hr"):
        conventions.compare(tmp_path / "sr", tmp_path / "hr")
    with pytest.raises(UserError, match="two images or two folders"):
        conventions.compare(tmp_path / "sr", tmp_path / "hr" / "x.png")


def test_pairs_are_of_the_same_image(pair, tmp_path) -> None:
    """Of lists, too; other numbers and equal names are errors."""
    a, b = pair
    for name, image in (("1", a), ("2", b)):
        save(tmp_path / "sr" / f"{name}.png", image)
        save(tmp_path / "hr" / f"{name}.png", a)
    for name in ("sr", "hr"):
        (tmp_path / name / "list.txt").write_text("1.png\n2.png\n")
    lists = [tmp_path / name / "list.txt" for name in ("sr", "hr")]
    assert conventions.compare(*lists).images == 2
    save(tmp_path / "one" / "img_10.png", b)
    save(tmp_path / "other" / "img_1.png", a)
    with pytest.raises(UserError, match=r"img_10\.png of .*one, img_1 of .*other"):
        conventions.compare(tmp_path / "one", tmp_path / "other")
    save(tmp_path / "hr" / "1.bmp", b)
    with pytest.raises(UserError, match=r"1\.bmp and .*1\.png have the same name"):
        conventions.compare(tmp_path / "sr", tmp_path / "hr")


def photograph(height: int, width: int) -> np.ndarray:
    coarse = np.random.default_rng(1).integers(0, 256, (12, 12, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height)))


@pytest.mark.parametrize("name", conventions.BICUBIC)
def test_which_bicubic_made_an_image(name: str, tmp_path) -> None:
    hr = photograph(83, 96)
    lr = conventions.BICUBIC[name](hr[:80], (20, 24))
    a, b = save(tmp_path / "lr.png", lr), save(tmp_path / "hr.png", hr)
    text = tables_of(a, b)
    assert "A is 1/4 of B in size" in text
    shrunk, enlarged = map(rows, text.split("made A;"))
    assert [row for row, cells in shrunk.items() if cells == ["inf", "0"]] == [name]
    sr = conventions.BICUBIC[name](lr, (80, 96))
    expected = metrics.psnr_y(sr[None], hr[None, :80], border=4)[0]
    assert enlarged[name] == [f"{expected:.3f}"]
    scores = conventions.compare(a, b).bicubics
    assert scores[name][:2] == (np.inf, 0) and scores[name].enlarged_psnr == expected


def test_bicubic_with_a_mirrored_border() -> None:
    """Beside an image padded so."""
    hr = photograph(40, 48).astype(np.float32)
    name = "MATLAB: antialiased, border mirrored"
    padded = np.pad(hr, ((16, 16), (16, 16), (0, 0)), mode="symmetric").astype(np.uint8)
    expected = conventions.BICUBIC[name](padded, (18, 20))[4:-4, 4:-4]
    ours = conventions.BICUBIC[name](hr.astype(np.uint8), (10, 12))
    np.testing.assert_array_equal(ours, expected)


def test_bicubic_of_pytorch(torch: Any) -> None:
    hr = photograph(40, 48).astype(np.float32)
    name = "OpenCV, PyTorch: a = -0.75, not antialiased"
    images = torch.from_numpy(np.moveaxis(hr, -1, 0)[None])
    resized = torch.nn.functional.interpolate(images, (10, 12), mode="bicubic")
    expected = np.moveaxis(resized[0].numpy(), 0, -1).round().clip(0, 255)
    ours = conventions.BICUBIC[name](hr.astype(np.uint8), (10, 12))
    assert np.abs(ours - expected).max() <= 1 and (ours != expected).mean() < 0.01


def test_sizes_that_do_not_fit(tmp_path) -> None:
    a = save(tmp_path / "a.png", photograph(30, 40))
    b = save(tmp_path / "b.png", photograph(70, 80))
    with pytest.raises(UserError, match="a.png is 40x30 pixels, .*b.png 80x70"):
        conventions.compare(a, b)
    tiny = save(tmp_path / "tiny.png", photograph(10, 10))
    with pytest.raises(
        UserError, match="tiny.png are too small for SSIM: .* 10 pixels"
    ):
        conventions.compare(tiny, tiny)
