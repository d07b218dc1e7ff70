"""NIQE against figures of an independent program, and what it must tell apart."""

import math

import numpy as np
import pytest
import scipy.special
from scipy.ndimage import gaussian_filter

from lightbsr_jax.evaluation import niqe as module
from lightbsr_jax.evaluation.niqe import niqe
from lightbsr_jax.imaging import files

skimage = pytest.importorskip("skimage")


def photograph(name: str) -> np.ndarray:
    """One of the photographs inside scikit-image, uint8 [H, W, 3]."""
    return next(
        files.read_rgb(path)
        for found, path in files.find_images("scikit-image:test")
        if found.endswith(name)
    )


@pytest.mark.parametrize(
    "name, theirs",  # by BasicSR 1.4.2: float32 luma, a two-dimensional window
    [("chelsea.png", 2.6893133463), ("coffee.png", 4.0794060189)],
)
def test_figures_of_basicsr(name: str, theirs: float) -> None:
    assert niqe(photograph(name), border=4) == pytest.approx(theirs, abs=5e-4)


def test_blur_and_noise_are_worse() -> None:
    image = photograph("chelsea.png").astype(np.float64)
    sharp = niqe(image)
    assert niqe(gaussian_filter(image, (3, 3, 0))) > sharp + 1
    noise = np.random.default_rng(0).normal(0, 40, image.shape)
    assert niqe((image + noise).clip(0, 255)) > sharp + 1


def test_a_grid_searched_by_hand() -> None:
    """The shape whose ratio of moments is nearest, for several kinds of numbers."""
    rng = np.random.default_rng(1)
    blocks = np.stack([rng.normal(size=(24, 24)), rng.laplace(size=(24, 24))])
    blocks = np.concatenate([blocks, blocks**3, np.where(blocks > 0, 3, 1) * blocks])
    fit = module._fit(blocks)
    gamma = scipy.special.gamma
    for index, block in enumerate(blocks):
        left = math.sqrt(np.mean(block[block < 0] ** 2))
        right = math.sqrt(np.mean(block[block > 0] ** 2))
        ratio = left / right
        moment = np.mean(abs(block)) ** 2 / np.mean(block**2)
        moment *= (ratio**3 + 1) * (ratio + 1) / (ratio**2 + 1) ** 2
        shapes = np.arange(200, 10001) / 1000
        ratios = gamma(2 / shapes) ** 2 / (gamma(1 / shapes) * gamma(3 / shapes))
        best = shapes[np.argmin(abs(ratios - moment))]
        assert fit.shape[index] == best
        scale = math.sqrt(gamma(1 / best) / gamma(3 / best))
        assert fit.left[index] == pytest.approx(left * scale)
        assert fit.right[index] == pytest.approx(right * scale)


def test_halving_is_matlabs_bicubic() -> None:
    from lightbsr_jax.imaging.resize import bicubic_matrix

    luma = np.random.default_rng(2).uniform(0, 255, (12, 20))
    rows, columns = (bicubic_matrix(n, n // 2, border="mirror") for n in luma.shape)
    np.testing.assert_allclose(module._halved(luma), rows @ luma @ columns.T, rtol=1e-5)


def test_what_is_too_small_or_flat_has_none() -> None:
    image = photograph("chelsea.png")
    assert math.isnan(niqe(image[:96, :96]))
    assert math.isfinite(niqe(image[:96, :192]))
    assert math.isnan(niqe(image[:103, :199], border=4))
    assert math.isnan(niqe(np.full((192, 192, 3), 90, np.uint8)))
