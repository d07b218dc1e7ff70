import math

import numpy as np
import pytest
import scipy.special
from helpers import literal

from lightbsr_jax.imaging import kernels

# The benchmark's nine kernels and two extremes: l1, l2, theta in degrees.
SHAPES = np.array(
    [
        *[(2, 0.5, 0), (2, 1, 10), (3.5, 1.5, 30), (3.5, 2, 45), (3.5, 2, 90)],
        *[(4, 1.5, 120), (4, 2, 135), (4, 3, 165), (4, 4, 180)],
        *[(0.2, 4, 77), (0.2, 0.2, 20)],
    ],
    np.float32,
)


def test_anisotropic_is_the_gaussian_of_its_covariance() -> None:
    l1, l2, degrees = SHAPES.T
    ours = kernels.anisotropic(l1, l2, np.deg2rad(degrees))
    expected = [literal.kernel(a, b, math.radians(t)) for a, b, t in SHAPES]
    np.testing.assert_allclose(ours, expected, atol=2e-7)


def test_isotropic_is_a_round_anisotropic() -> None:
    sigma = np.array([0.2, 1.2, 4.0], np.float32)
    ours = kernels.isotropic(sigma)
    expected = [literal.kernel(s, s, 0.0) for s in sigma]
    np.testing.assert_allclose(ours, expected, atol=2e-7)
    np.testing.assert_allclose(np.sum(ours, (1, 2)), 1, atol=1e-6)


def test_first_width_lies_along_the_columns_at_angle_zero() -> None:
    across, along = kernels.anisotropic(
        np.full(2, 3.0), np.full(2, 0.5), np.array([0.0, np.pi / 2])
    )
    assert across[10, 13] > 0.01 > across[13, 10]
    assert along[13, 10] > 0.01 > along[10, 13]


def test_angle_turns_from_columns_to_rows() -> None:
    (kernel,) = kernels.anisotropic(*np.array([[3.0], [0.5], [np.pi / 4]]))
    assert kernel[12, 12] > 0.01 > kernel[12, 8]  # down and to the right


@pytest.mark.parametrize("family", ["generalised", "plateau"])
def test_relatives_of_the_gaussian_are_the_literal_ones(family: str) -> None:
    rng = np.random.default_rng(0)
    extent = np.array([7, 9, 11, 13, 15, 17, 19, 21])
    l1, l2 = rng.uniform(0.2, 3, (2, 8)).astype(np.float32)
    theta = rng.uniform(-np.pi, np.pi, 8).astype(np.float32)
    shape = rng.uniform(0.5, 4, 8).astype(np.float32)
    ours = getattr(kernels, family)(l1, l2, theta, shape, extent)
    expected = [
        literal.related_kernel(family, *arguments)
        for arguments in zip(l1, l2, theta, shape, extent, strict=True)
    ]
    np.testing.assert_allclose(ours, expected, atol=1e-6)
    np.testing.assert_allclose(np.sum(ours, (1, 2)), 1, atol=2e-6)


def test_sinc_is_the_literal_low_pass() -> None:
    cutoff = np.array([np.pi / 5, np.pi / 3, 1.5, 2.2, 3.0, np.pi], np.float32)
    extent = np.array([21, 7, 9, 15, 13, 21])
    ours = kernels.sinc(cutoff, extent)
    expected = [literal.sinc_kernel(*both) for both in zip(cutoff, extent, strict=True)]
    assert np.min(expected) < -0.01  # it rings
    np.testing.assert_allclose(ours, expected, atol=2e-6)  # as exact as J1


def test_j1_is_scipys() -> None:
    x = np.concatenate([np.linspace(0, 45, 20001), [7.9999, 8, 8.0001]])
    ours = kernels.j1(x.astype(np.float32))
    np.testing.assert_allclose(ours, scipy.special.j1(x), atol=2e-6)


def test_impulse_changes_nothing() -> None:
    assert kernels.impulse()[10, 10] == 1 == kernels.impulse().sum()


def test_reference(goldens: np.lib.npyio.NpzFile) -> None:
    isotropic = kernels.isotropic(goldens["deg/iso_sigma"])
    np.testing.assert_allclose(isotropic, goldens["deg/iso_kernel"], atol=1e-7)

    anisotropic = kernels.anisotropic(
        goldens["deg/aniso_lambda1"],
        goldens["deg/aniso_lambda2"],
        np.deg2rad(goldens["deg/aniso_theta_deg"]),
    )
    np.testing.assert_allclose(anisotropic, goldens["deg/aniso_kernel"], atol=2e-7)
