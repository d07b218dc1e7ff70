from pathlib import Path

import jax
import numpy as np
import pytest
from helpers import literal
from PIL import Image

from lightbsr_jax import target
from lightbsr_jax.imaging import degradation, kernels, metrics, resize
from lightbsr_jax.imaging.degradation import Degradation
from lightbsr_jax.imaging.settings import SETTINGS

KEYS = jax.random.split(jax.random.key(7), 512)


def channels_last(images: np.ndarray) -> np.ndarray:
    return np.moveaxis(images, -3, -1)


def widths_and_angle(kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Widths [B, 2] of Gaussian kernels and the angle [B], 0..pi, of the larger."""
    log = np.log(np.asarray(kernel, float)[:, 10:12, 10:12])  # the centre on
    xx, yy, both = (
        2 * (log[:, 0, 0] - log[:, row, column])
        for row, column in [(0, 1), (1, 0), (1, 1)]
    )
    xy = (both - xx - yy) / 2
    inverse = np.stack([np.stack([xx, xy], 1), np.stack([xy, yy], 1)], 1)
    angle = np.arctan2(-2 * xy, yy - xx) / 2 % np.pi
    return 1 / np.sqrt(np.linalg.eigvalsh(inverse)), angle


def test_blur_is_the_literal_correlation() -> None:
    """Two images of two crops: a kernel belongs to an image, not to a crop."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 2, 12, 15, 3), np.uint8)
    kernel = rng.uniform(size=(2, 21, 21)).astype(np.float32)  # no symmetry
    kernel /= kernel.sum((1, 2), keepdims=True)
    ours = degradation.blur(images, kernel)
    assert ours.dtype == np.float32
    for b, d in [(0, 1), (1, 0)]:
        expected = literal.blur(images[b, d].astype(float), kernel[b].astype(float))
        np.testing.assert_allclose(ours[b, d], expected, atol=2e-4)


def test_blur_of_any_kernel_size_and_rank() -> None:
    rng = np.random.default_rng(1)
    image = rng.uniform(0, 255, (1, 5, 6, 1)).astype(np.float32)
    kernel = rng.uniform(size=(1, 3, 3)).astype(np.float32)
    ours = degradation.blur(image, kernel)
    expected = literal.blur(image[0].astype(float), kernel[0].astype(float))
    np.testing.assert_allclose(ours[0], expected, rtol=1e-5)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_synthesise_is_the_literal_degradation(scale: int) -> None:
    rng = np.random.default_rng(scale)
    hr = rng.integers(0, 256, (2, 12, 24, 3), np.uint8)
    noise = rng.normal(size=(2, 12 // scale, 24 // scale, 3)).astype(np.float32)
    chosen = Degradation(
        kernels.anisotropic(*np.array([[2, 0.5], [1, 1.5], [0.3, 2]], np.float32)),
        np.array([150, 5], np.float32),
    )
    ours = degradation.synthesise(hr, chosen, noise, scale=scale)
    kernel = np.asarray(chosen.kernel, float)
    expected = [
        literal.degrade(hr[i].astype(float), kernel[i], level * noise[i], scale)
        for i, level in enumerate(chosen.noise_level)
    ]
    assert np.min(expected) == 0  # the clipping is used
    np.testing.assert_allclose(ours, expected, atol=0.5001 / 255)
    levels = np.asarray(ours) * 255
    np.testing.assert_allclose(levels, np.rint(levels), atol=1e-4)

    ours = degradation.synthesise(hr, chosen, None, scale=scale)
    expected = literal.degrade(hr[0].astype(float), kernel[0], 0.0, scale)
    np.testing.assert_allclose(ours[0], expected, atol=0.5001 / 255)


@pytest.mark.parametrize(("scale", "size"), [(2, (12, 6)), (3, (4, 7)), (4, (5, 9))])
def test_blur_and_shrink_are_both_in_turn(scale: int, size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    hr = rng.integers(0, 256, (2, 2, scale * size[0], scale * size[1], 3), np.uint8)
    kernel = rng.uniform(size=(2, 21, 21))
    kernel /= kernel.sum((1, 2), keepdims=True)
    expected = resize.bicubic(degradation.blur(hr, kernel), size)
    result = degradation.blur_and_shrink(hr, kernel, scale=scale)
    np.testing.assert_allclose(result, expected, atol=2e-4)  # of 255
    with target.compiling_for("tpu"):  # as two products
        result = degradation.blur_and_shrink(hr, kernel, scale=scale)
    np.testing.assert_allclose(result, expected, atol=2e-4)


def test_images_must_be_a_multiple_of_the_scale() -> None:
    chosen = Degradation(kernels.isotropic(np.ones(1)), np.zeros(1))
    with pytest.raises(ValueError, match="12x14 pixels are not a multiple of scale 4"):
        degradation.synthesise(np.zeros((1, 12, 14, 3)), chosen, None, scale=4)
    with pytest.raises(ValueError, match="12x14 pixels are not a multiple of scale 4"):
        degradation.apply(KEYS[:1], np.zeros((1, 12, 14, 3)), chosen, scale=4)


def test_setting_1_draws_round_kernels_and_no_noise() -> None:
    kernel, noise_level = SETTINGS[1].sample(KEYS, width_max=4.0)
    assert kernel.shape == (512, 21, 21)
    np.testing.assert_array_equal(noise_level, np.zeros(512))
    np.testing.assert_allclose(np.sum(kernel, (1, 2)), 1, atol=1e-6)
    widths, _ = widths_and_angle(kernel)
    np.testing.assert_allclose(widths[:, 0], widths[:, 1], rtol=1e-2)
    assert 0.2 <= widths.min() < 0.25 and 3.9 < widths.max() <= 4.01
    assert abs(widths[:, 0].mean() - 2.1) < 0.2  # 4 standard errors


def test_setting_2_draws_turned_kernels_and_noise() -> None:
    kernel, noise_level = SETTINGS[2].sample(KEYS, width_max=4.0)
    widths, angle = widths_and_angle(kernel)
    assert 0.2 <= widths.min() < 0.25 and 3.9 < widths.max() <= 4.01
    assert abs(widths.mean() - 2.1) < 0.2
    assert 0.3 < (widths[:, 0] / widths[:, 1] > 2).mean() < 0.7  # drawn apart
    sectors, _ = np.histogram(angle, 8, (0, np.pi))
    np.testing.assert_allclose(sectors / 512, 1 / 8, atol=0.06)
    assert 0 <= noise_level.min() < 1 and 24 < noise_level.max() <= 25
    assert abs(noise_level.mean() - 12.5) < 1.5
    assert abs(np.corrcoef(noise_level, widths[:, 0])[0, 1]) < 0.2


def test_widths_have_the_given_range() -> None:
    kernel, _ = SETTINGS[1].sample(KEYS, width_min=1.0, width_max=2.0)
    widths, _ = widths_and_angle(kernel)
    assert 0.99 <= widths.min() < 1.05 and 1.95 < widths.max() <= 2.01


def test_a_key_decides_wherever_it_stands() -> None:
    hr = np.random.default_rng(0).integers(0, 256, (3, 2, 16, 24, 3), np.uint8)
    some = np.array([2, 0])
    many = SETTINGS[2].sample(KEYS, width_max=4.0)
    two = SETTINGS[2].sample(KEYS[some], width_max=4.0)
    for ours, expected in zip(two, many, strict=True):
        np.testing.assert_allclose(ours, expected[some], atol=1e-6)

    three = Degradation(many.kernel[:3], many.noise_level[:3])
    lr = degradation.apply(KEYS[:3], hr, three, scale=4)
    ours = degradation.apply(KEYS[some], hr[some], two, scale=4)
    np.testing.assert_allclose(ours, lr[some], atol=1e-6)


def test_noise_is_normal_and_differs_between_images_crops_and_draws() -> None:
    hr = np.full((2, 2, 64, 64, 3), 128, np.uint8)
    chosen = Degradation(
        kernels.isotropic(np.ones(2)), np.array([20.0, 5.0], np.float32)
    )
    lr = np.asarray(degradation.apply(KEYS[:2], hr, chosen, scale=4)) * 255 - 128
    np.testing.assert_allclose(lr.std((1, 2, 3, 4)), [20, 5], rtol=0.06)
    np.testing.assert_allclose(lr.mean((1, 2, 3, 4)), 0, atol=2)
    noise = (lr / np.array([20, 5])[:, None, None, None, None]).reshape(4, -1)
    assert np.abs(np.corrcoef(noise) - np.eye(4)).max() < 0.15

    again = degradation.apply(KEYS[2:4], hr, chosen, scale=4) * 255 - 128
    assert np.abs(np.corrcoef(lr.ravel(), again.ravel())[0, 1]) < 0.1


def test_reference(goldens: np.lib.npyio.NpzFile) -> None:
    hr = channels_last(goldens["deg/hr"])
    kernel = kernels.isotropic(goldens["deg/iso_sigma"])
    blurred = degradation.blur(hr, kernel)
    expected = channels_last(goldens["deg/iso_blurred"])
    np.testing.assert_allclose(blurred, expected, atol=1e-3)  # its sums are float32 too
    lr = resize.bicubic(blurred, (24, 30))
    expected = channels_last(goldens["deg/iso_lr_float"])
    np.testing.assert_allclose(lr, expected, atol=1e-3)

    noiseless = Degradation(kernel, np.zeros(4, np.float32))
    ours = degradation.synthesise(hr, noiseless, None, scale=4)
    assert_equal_but_for_ties(ours, channels_last(goldens["deg/iso_lr"]), lr)

    kernel = kernels.anisotropic(
        goldens["deg/aniso_lambda1"],
        goldens["deg/aniso_lambda2"],
        np.deg2rad(goldens["deg/aniso_theta_deg"]),
    )
    noise, level = channels_last(goldens["deg/noise"]), np.array([5, 10, 15, 25.0])
    lr = resize.bicubic(degradation.blur(hr, kernel), (24, 30)) + noise
    noise = noise / level[:, None, None, None, None]
    ours = degradation.synthesise(hr, Degradation(kernel, level), noise, scale=4)
    assert_equal_but_for_ties(ours, channels_last(goldens["deg/aniso_noise_lr"]), lr)


def assert_equal_but_for_ties(
    ours: np.ndarray, expected: np.ndarray, before_rounding: np.ndarray
) -> None:
    """Both are [0, 1] images in steps of 1/255; some values lie just between two."""
    differs = np.rint(np.asarray(ours) * 255) != np.rint(expected * 255)
    assert differs.sum() <= 5
    tie = np.abs(np.asarray(before_rounding)[differs] % 1 - 0.5)
    np.testing.assert_allclose(tie, 0, atol=1e-3)
    np.testing.assert_allclose(
        np.asarray(ours)[~differs], expected[~differs], atol=2e-7
    )


def test_bicubic_of_set5_has_the_papers_psnr(benchmark_folder: Path) -> None:
    """The bicubic row of Table 3: no network, but all the rest of the protocol."""
    chosen = Degradation(kernels.isotropic(np.array([1.2, 2.4, 3.6])), np.zeros(3))
    psnr = []
    for path in sorted((benchmark_folder / "Set5" / "HR").iterdir()):
        image = np.asarray(Image.open(path).convert("RGB"))
        height, width = (size // 4 * 4 for size in image.shape[:2])
        hr = np.stack(3 * [image[:height, :width]])
        lr = degradation.synthesise(hr, chosen, None, scale=4)
        sr = metrics.quantise(resize.bicubic(lr, (height, width)) * 255)
        psnr.append(metrics.psnr_y(sr, hr, border=4))
    np.testing.assert_allclose(np.mean(psnr, 0), [27.69, 25.99, 24.45], atol=0.01)
