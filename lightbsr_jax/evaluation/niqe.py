"""NIQE: the distance of an image from pristine photographs, without a reference.

Lower is better. It follows A. Mittal, R. Soundararajan and A. C. Bovik (2013): it
compares statistics of locally normalised luma, in blocks of 96 pixels at two scales,
with those of pristine photographs (static/niqe.txt names their source). Luma is rounded
to whole numbers, as in the authors' program; everything is float64. For an image with
large flat areas of one colour, the result depends on rounding errors in every program.
"""

import functools
from importlib import resources
from typing import NamedTuple

import numpy as np
from scipy.ndimage import correlate1d
from scipy.special import gamma

from lightbsr_jax.imaging import resize

BLOCK = 96  # pixels
_FEWEST = 2  # blocks that have a covariance
_LUMA = np.array([65.481, 128.553, 24.966]) / 255
_OFFSETS = np.arange(-3, 4)
_WINDOW = np.exp(-(_OFFSETS**2) / (2 * (7 / 6) ** 2))
_WINDOW /= _WINDOW.sum()
_HALVING = resize.cubic((np.arange(8) - 3.5) / 2) / 2
_NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (1, -1))  # rows and columns away
_SHAPES = np.arange(200, 10001) / 1000  # that are tried
_RATIOS = gamma(2 / _SHAPES) ** 2 / (gamma(1 / _SHAPES) * gamma(3 / _SHAPES))


class _Pristine(NamedTuple):
    """Statistics of pristine photographs."""

    mean: np.ndarray  # [36]
    covariance: np.ndarray  # [36, 36]


class _Fit(NamedTuple):
    """Asymmetric generalised Gaussian distributions, one for each block: all [N]."""

    shape: np.ndarray
    left: np.ndarray  # scales
    right: np.ndarray


def niqe(image: np.ndarray, *, border: int = 0) -> float:
    """NIQE of an image [H, W, 3], RGB in 0..255, without `border` pixels on each side.

    NaN if less than two blocks of 96 x 96 pixels fit in and are textured.
    """
    height, width = image.shape[:2]
    image = image[border : height - border, border : width - border]
    luma = np.rint(image.astype(np.float64) @ _LUMA + 16)
    rows, columns = (side // BLOCK * BLOCK for side in luma.shape)
    luma = luma[:rows, :columns]
    if luma.size < _FEWEST * BLOCK**2:
        return float("nan")
    halved = _halved(luma)
    features = np.concatenate(
        [_features(luma, BLOCK), _features(halved, BLOCK // 2)], 1
    )
    whole = features[~np.isnan(features).any(1)]
    if len(whole) < _FEWEST:
        return float("nan")
    pristine = _pristine()
    covariance = (pristine.covariance + np.cov(whole, rowvar=False)) / 2
    away = pristine.mean - np.nanmean(features, 0)
    return float(np.sqrt(away @ np.linalg.pinv(covariance) @ away))


@functools.cache
def _pristine() -> _Pristine:
    place = resources.files("lightbsr_jax.evaluation").joinpath("static", "niqe.npz")
    with place.open("rb") as file:
        return _Pristine(**np.load(file))


def _halved(luma: np.ndarray) -> np.ndarray:
    """MATLAB's imresize by one half; exact, because its weights are whole 512ths."""
    for _ in range(2):
        rows = len(luma)
        padded = np.pad(luma, ((3, 3), (0, 0)), mode="symmetric")
        taps = (padded[k : k + rows : 2] for k in range(len(_HALVING)))
        luma = sum(
            (w * tap for w, tap in zip(_HALVING, taps, strict=True)), np.zeros(())
        ).T
    return luma


def _features(luma: np.ndarray, block: int) -> np.ndarray:
    """The 18 features of each block: [N, 18]; NaN where a block is flat."""
    mean = _smooth(luma)
    deviation = np.sqrt(abs(_smooth(luma**2) - mean**2))
    normalised = (luma - mean) / (deviation + 1)
    rows, columns = (side // block for side in luma.shape)
    blocks = normalised.reshape(rows, block, columns, block).swapaxes(1, 2)
    blocks = blocks.reshape(-1, block, block)
    with np.errstate(divide="ignore", invalid="ignore"):
        own = _fit(blocks)
        features = [own.shape, (own.left + own.right) / 2]
        for shift in _NEIGHBOURS:
            fit = _fit(blocks * np.roll(blocks, shift, (1, 2)))
            mean = (fit.right - fit.left) * gamma(2 / fit.shape) / gamma(1 / fit.shape)
            features += [fit.shape, mean, fit.left, fit.right]
    return np.stack(features, 1)


def _fit(blocks: np.ndarray) -> _Fit:
    """The distribution of each block's numbers, fitted by moments."""
    squares = blocks**2
    left = np.sqrt(_mean_where(squares, blocks < 0))
    right = np.sqrt(_mean_where(squares, blocks > 0))
    ratio = left / right
    moment = abs(blocks).mean((1, 2)) ** 2 / squares.mean((1, 2))
    moment *= (ratio**3 + 1) * (ratio + 1) / (ratio**2 + 1) ** 2
    # The ratios rise with the shape.
    place = np.searchsorted(_RATIOS, np.nan_to_num(moment)).clip(1, len(_RATIOS) - 1)
    nearer = moment - _RATIOS[place - 1] <= _RATIOS[place] - moment
    shape = np.where(
        np.isnan(moment), np.nan, _SHAPES[np.where(nearer, place - 1, place)]
    )
    scale = np.sqrt(gamma(1 / shape) / gamma(3 / shape))
    return _Fit(shape, left * scale, right * scale)


def _mean_where(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The mean of each block's values [N, h, w] inside the mask; NaN if it is empty."""
    return np.where(mask, values, 0).sum((1, 2)) / mask.sum((1, 2))


def _smooth(luma: np.ndarray) -> np.ndarray:
    for axis in (0, 1):
        luma = correlate1d(luma, _WINDOW, axis, mode="nearest")
    return luma
