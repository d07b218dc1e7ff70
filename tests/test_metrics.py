from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import literal
from skimage.metrics import structural_similarity

from lightbsr_jax.imaging import metrics


@pytest.fixture(scope="module")
def pair() -> tuple[np.ndarray, np.ndarray]:
    """Two smooth images uint8 [2, 24, 30, 3] and versions with noise."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:24, :30]
    waves = [[np.sin(x / (3 + b + c) + y / 5) for c in range(3)] for b in range(2)]
    a = np.moveaxis(128 + 90 * np.array(waves), 1, -1)
    b = a + rng.normal(scale=12, size=a.shape)
    return tuple(np.rint(image).clip(0, 255).astype(np.uint8) for image in (a, b))


@pytest.mark.parametrize("border", [0, 2, 3, 4])
def test_psnr_is_the_literal_one(
    pair: tuple[np.ndarray, np.ndarray], border: int
) -> None:
    a, b = pair
    expected = [literal.psnr_y(a[i], b[i], border) for i in range(2)]
    ours = metrics.psnr_y(a, b, border=border)
    np.testing.assert_allclose(ours, expected, rtol=1e-12)
    assert ours[0] != ours[1]


def test_psnr_by_hand() -> None:
    black, white = (
        np.zeros((1, 4, 4, 3), np.uint8),
        np.full((1, 4, 4, 3), 255, np.uint8),
    )
    luma = (65.738 + 129.057 + 25.064) / 256
    np.testing.assert_allclose(
        metrics.psnr_y(white, black, border=1), [-20 * np.log10(luma)], rtol=1e-12
    )
    assert metrics.psnr_y(white, white, border=1) == np.inf


@pytest.mark.parametrize("border", [0, 4])
def test_ssim_is_the_literal_one_and_scikit_images(
    pair: tuple[np.ndarray, np.ndarray], border: int
) -> None:
    a, b = pair
    ours = metrics.ssim_y(a, b, border=border)
    expected = [literal.ssim_y(a[i], b[i], border) for i in range(2)]
    np.testing.assert_allclose(ours, expected, rtol=1e-9)

    inside = np.s_[border : 24 - border, border : 30 - border]
    for i in range(2):
        expected = structural_similarity(
            literal.luma(a[i], 255)[inside] + 16,
            literal.luma(b[i], 255)[inside] + 16,
            data_range=255,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        np.testing.assert_allclose(ours[i], expected, atol=1e-6)


@pytest.mark.parametrize("measure", [metrics.psnr_y, metrics.ssim_y])
def test_float64_whatever_comes_in(
    pair: tuple[np.ndarray, np.ndarray], measure: Callable
) -> None:
    expected = measure(*pair, border=4)
    assert expected.dtype == np.float64 and expected.shape == (2,)
    for kind in (jnp.uint8, jnp.float32):
        on_device = [jnp.asarray(image, kind) for image in pair]
        np.testing.assert_array_equal(measure(*on_device, border=4), expected)
    np.testing.assert_array_equal(measure(pair[0], on_device[1], border=4), expected)
    assert not jax.config.jax_enable_x64


@pytest.mark.parametrize("measure", [metrics.psnr_y, metrics.ssim_y])
def test_what_cannot_be_compared(measure: Callable) -> None:
    image = np.zeros((1, 12, 12, 3), np.uint8)
    with pytest.raises(ValueError, match=r"\(1, 12, 12, 3\) and \(1, 12, 11, 3\)"):
        measure(image, image[:, :, :11], border=0)
    with pytest.raises(ValueError, match="border of 6 leaves 0x0"):
        measure(image, image, border=6)


def test_ssim_needs_a_whole_window() -> None:
    image = np.zeros((1, 12, 12, 3), np.uint8)
    with pytest.raises(ValueError, match="leaves 10x10 .* at least 11x11"):
        metrics.ssim_y(image, image, border=1)


def test_quantise_rounds_half_to_even_and_clips() -> None:
    values = jnp.array([-3.0, 0.5, 1.5, 2.5, 2.51, 254.6, 255.4, 300.0])
    expected = [0, 0, 2, 2, 3, 255, 255, 255]
    quantised = metrics.quantise(values)
    np.testing.assert_array_equal(quantised, expected)
    assert quantised.dtype == jnp.float32


def test_reference(goldens: np.lib.npyio.NpzFile) -> None:
    a, b = (np.moveaxis(goldens[f"metric/{name}"], 1, -1) for name in "ab")
    psnr = metrics.psnr_y(a, b, border=4)
    np.testing.assert_allclose(psnr, goldens["metric/psnr_y"], atol=1e-5)  # float32
    ssim = metrics.ssim_y(a, b, border=4)
    np.testing.assert_allclose(ssim, goldens["metric/ssim_y"], atol=1e-12)


def test_no_images_have_no_scores() -> None:
    none = np.empty((0, 32, 32, 3), np.uint8)
    assert metrics.psnr_y(none, none, border=4).shape == (0,)
    assert metrics.ssim_y(none, none, border=4).shape == (0,)


def test_rgb() -> None:
    """PSNR of all samples together; SSIM, the mean of each channel's, as luma's."""
    rng = np.random.default_rng(5)
    a, b = rng.integers(0, 256, (2, 2, 20, 24, 3), dtype=np.uint8)
    error = (a.astype(float) - b)[:, 3:-3, 3:-3]
    expected = 10 * np.log10(255**2 / np.square(error).mean((1, 2, 3)))
    np.testing.assert_allclose(metrics.psnr_rgb(a, b, border=3), expected)
    inside = np.s_[:, 3:-3, 3:-3]
    channels = [
        metrics.ssim(a[inside][..., c].astype(float), b[inside][..., c].astype(float))
        for c in range(3)
    ]
    found = metrics.ssim_rgb(a, b, border=3)
    np.testing.assert_allclose(found, np.mean(channels, axis=0))
