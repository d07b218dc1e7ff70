import numpy as np
import pytest
from helpers import literal
from PIL import Image

from lightbsr_jax.imaging import resize

SIZES = [(12, 18, 6, 9), (12, 18, 4, 6), (12, 16, 3, 4), (3, 4, 12, 16), (7, 9, 5, 13)]


@pytest.mark.parametrize(("height", "width", "new_height", "new_width"), SIZES)
def test_bicubic_is_the_literal_sum(
    height: int, width: int, new_height: int, new_width: int
) -> None:
    image = np.random.default_rng(0).uniform(0, 255, (height, width, 3))
    ours = resize.bicubic(image, (new_height, new_width))
    expected = literal.bicubic(image, (new_height, new_width))
    np.testing.assert_allclose(ours, expected, atol=2e-4)


@pytest.mark.parametrize("size_out", [12, 16, 24, 96, 144, 192])
def test_ramps_stay_ramps_off_the_border(size_out: int) -> None:
    matrix = resize.bicubic_matrix(48, size_out).astype(float)
    np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-6)
    centres = (np.arange(size_out) + 0.5) * 48 / size_out - 0.5
    inside = (centres > 8) & (centres < 39)
    ramp = matrix @ np.arange(48)
    np.testing.assert_allclose(ramp[inside], centres[inside], atol=1e-5)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_agrees_with_pillow_off_the_border(scale: int) -> None:
    """Pillow leaves out what lies beyond the border instead of clamping."""
    hr = np.random.default_rng(scale).uniform(0, 255, (36, 48)).astype(np.float32)
    height, width = 36 // scale, 48 // scale
    lr = Image.fromarray(hr).resize((width, height), Image.Resampling.BICUBIC)
    ours = resize.bicubic(hr[..., None], (height, width))[..., 0]
    inside = np.s_[2:-2, 2:-2]
    np.testing.assert_allclose(ours[inside], np.asarray(lr)[inside], atol=1e-3)

    up = lr.resize((48, 36), Image.Resampling.BICUBIC)
    ours = resize.bicubic(np.asarray(lr)[..., None], (36, 48))[..., 0]
    inside = np.s_[2 * scale : -2 * scale, 2 * scale : -2 * scale]
    np.testing.assert_allclose(ours[inside], np.asarray(up)[inside], atol=1e-3)


@pytest.mark.parametrize("size", [(9, 12), (36, 48), (144, 192), (50, 31)])
def test_lanczos_is_pillows_to_the_edge(size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).uniform(0, 255, (36, 48)).astype(np.float32)
    theirs = Image.fromarray(image).resize(size[::-1], Image.Resampling.LANCZOS)
    rows, columns = (
        resize.lanczos_matrix(*n) for n in zip((36, 48), size, strict=True)
    )
    np.testing.assert_allclose(rows @ image @ columns.T, np.asarray(theirs), atol=1e-3)


def test_leading_axes_and_bytes() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 12, 3), np.uint8)
    ours = resize.bicubic(images, (4, 6))
    assert ours.shape == (2, 3, 4, 6, 3) and ours.dtype == np.float32
    expected = literal.bicubic(images[1, 2].astype(float), (4, 6))
    np.testing.assert_allclose(ours[1, 2], expected, atol=2e-4)


def test_matrix_cannot_be_written_to() -> None:
    with pytest.raises(ValueError, match="read-only"):
        resize.bicubic_matrix(8, 4)[0, 0] = 1


def test_reference(goldens: np.lib.npyio.NpzFile) -> None:
    hr = np.moveaxis(goldens["deg/hr"][0, :1], 1, -1)
    down = resize.bicubic(hr, (24, 30))
    expected = np.moveaxis(goldens["deg/bicubic_down_noblur"], 1, -1)
    np.testing.assert_allclose(down, expected, atol=1e-4)

    up = resize.bicubic(hr[:, :33, :41], (132, 164))
    expected = np.moveaxis(goldens["deg/bicubic_up"], 1, -1)
    np.testing.assert_allclose(up, expected, atol=1e-4)
