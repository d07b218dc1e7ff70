import jax
import numpy as np
import pytest
import scipy.stats

from lightbsr_jax.imaging import noise

UNIFORM = np.asarray(noise.uniform(jax.random.key(3), (200_000,)))
WHOLE = np.array([128, 128])


def field(image: np.ndarray, **options: object) -> np.ndarray:
    """The noise that is added to the image."""
    given = {"poisson": False, "grey": False, "level": 1.0, "size": WHOLE} | options
    random = noise.uniform(jax.random.key(0), image.shape)
    return np.asarray(jax.jit(noise.add)(image, random, **given)) - image


def flat(value: float) -> np.ndarray:
    return np.full((128, 128, 3), value, np.float32)


def test_uniform_numbers_lie_between_0_and_1() -> None:
    assert 0 < UNIFORM.min() and UNIFORM.max() < 1
    assert scipy.stats.kstest(UNIFORM, "uniform").pvalue > 0.01
    ends = noise.normal_quantile(np.array([2.0**-24, 1 - 2.0**-24], np.float32))
    np.testing.assert_allclose(ends, [-5.29, 5.29], atol=0.15)


def test_normal_numbers_are_scipys_quantiles() -> None:
    expected = scipy.stats.norm.ppf(UNIFORM.astype(float))
    np.testing.assert_allclose(noise.normal_quantile(UNIFORM), expected, atol=2e-4)


@pytest.mark.parametrize("rate", [0.0, 0.004, 0.3, 1, 2.5, 4, 4.02, 7, 20, 100, 256])
def test_poisson_numbers_are_scipys_quantiles(rate: float) -> None:
    rates = np.full(UNIFORM.shape, rate, np.float32)
    normal = noise.normal_quantile(UNIFORM)
    ours = np.asarray(jax.jit(noise.poisson_quantile)(rates, UNIFORM, normal))
    expected = scipy.stats.poisson.ppf(UNIFORM.astype(float), float(np.float32(rate)))
    off = np.abs(ours - expected)
    assert off.max() <= 1
    assert off.mean() < (1e-5 if rate <= 4 else 25e-4)
    # The first three moments, within five standard errors of a sample's.
    error = 5 / np.sqrt(len(ours))
    assert abs(ours.mean() - rate) <= error * np.sqrt(rate)
    assert abs(ours.var() - rate) <= error * np.sqrt(rate + 2 * rate**2)
    if rate > 0.1:
        skewness = scipy.stats.skew(ours)
        assert abs(skewness - rate**-0.5) < error * np.sqrt(6 + 30 / rate + 5 / rate**2)


def test_scale_is_the_power_of_two_from_the_distinct_values_upwards() -> None:
    for count, expected in [(1, 1), (2, 2), (3, 4), (64, 64), (65, 128), (256, 256)]:
        signal = np.resize(np.arange(count), (32, 40, 3)).astype(np.float32)
        signal[30:] = signal[:, 37:] = 255  # beyond what is valid
        scale = noise.poisson_scale(signal, np.array([30, 37]))
        assert scale == expected
        distinct = len(np.unique(signal[:30, :37]))
        assert scale == 2 ** np.ceil(np.log2(distinct))


@pytest.mark.parametrize("grey", [False, True])
def test_gaussian_noise_has_its_deviation_and_channels(grey: bool) -> None:
    added = field(flat(128), grey=grey, level=12.5).reshape(-1, 3)
    assert scipy.stats.kstest(added[:, 0] / 12.5, "norm").pvalue > 0.01
    correlation = np.corrcoef(added.T)
    expected = np.ones((3, 3)) if grey else np.eye(3)
    np.testing.assert_allclose(correlation, expected, atol=0.04)


@pytest.mark.parametrize("grey", [False, True])
def test_poisson_noise_has_its_moments_and_channels(grey: bool) -> None:
    """Two values: the scale is 2, and a rate of 2 * 100 / 255 makes skewed noise."""
    image = flat(100)
    image[0, 0] = 200  # in grey too
    added = field(image, poisson=True, grey=grey, level=0.5).reshape(-1, 3)[1:]
    rate = 2 * 100 / 255
    counts = (added / 0.5 + 100) / 255 * 2
    inside = (counts > -1e-3) & (counts < 2.5)  # the rest may be clipped
    np.testing.assert_allclose(counts[inside], np.rint(counts[inside]), atol=1e-4)
    for count in range(3):
        share = (np.rint(counts) == count).mean()
        expected = scipy.stats.poisson.pmf(count, rate)
        assert abs(share - expected) < 5 * np.sqrt(expected / len(counts))
    expected = np.ones((3, 3)) if grey else np.eye(3)
    np.testing.assert_allclose(np.corrcoef(added.T), expected, atol=0.04)


def test_poisson_noise_is_of_the_rounded_signal_and_scale() -> None:
    """A rate of 0: the rounded signal is 0, and nothing is added to the unrounded."""
    image = flat(0.4)
    np.testing.assert_array_equal(field(image, poisson=True, level=3.0), 0)


@pytest.mark.parametrize("poisson", [False, True])
def test_level_0_and_the_limits(poisson: bool) -> None:
    image = np.random.default_rng(0).uniform(0, 255, (128, 128, 3)).astype(np.float32)
    np.testing.assert_array_equal(field(image, poisson=poisson, level=0.0), 0)
    noisy = image + field(image, poisson=poisson, level=40.0)
    assert noisy.min() > -1e-4 and noisy.max() < 255 + 1e-4
