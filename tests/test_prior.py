import jax.numpy as jnp
import numpy as np
import pytest

from lightbsr_jax.imaging import kernels, prior
from lightbsr_jax.imaging.degradation import Degradation
from lightbsr_jax.imaging.settings import SETTINGS


@pytest.fixture(scope="module")
def basis() -> np.ndarray:
    return prior.make_basis(3)


def random_kernels(seed: int, count: int) -> np.ndarray:
    """Kernels [count, 441] drawn as the basis's are, by another generator."""
    rng = np.random.RandomState(seed)
    variance1 = rng.uniform(0.1, 10.1, count)
    variance2 = rng.uniform(0.1, variance1)
    theta = rng.uniform(0, np.pi, count)
    widths = np.sqrt([variance1, variance2])
    return np.asarray(kernels.anisotropic(*widths, theta), float).reshape(count, 441)


def test_basis_is_orthonormal_with_positive_peaks(basis: np.ndarray) -> None:
    assert basis.shape == (441, 15) and basis.dtype == np.float32
    np.testing.assert_allclose(basis.T @ basis, np.eye(15), atol=1e-6)
    assert (basis.max(0) >= -basis.min(0)).all()


def test_basis_follows_from_its_seed(basis: np.ndarray) -> None:
    np.testing.assert_array_equal(prior.make_basis(3), basis)
    assert np.abs(prior.make_basis(4) - basis).max() > 1e-3


def test_basis_is_ordered_and_explains_other_kernels(basis: np.ndarray) -> None:
    others = random_kernels(0, 2000)
    energy = ((others @ basis) ** 2).sum(0)
    assert (energy[1:] < 1.25 * energy[:-1]).all()  # some are nearly equal
    # As much as the best 15 components of these very kernels, or nearly.
    best = np.linalg.svd(others, compute_uv=False)[:15] ** 2
    assert 0.999 * best.sum() < energy.sum() <= best.sum()
    assert best.sum() > 0.99 * (others**2).sum()


@pytest.mark.parametrize(("setting", "length"), [(1, 15), (2, 18)])
def test_vector_is_the_projection_then_the_noise(setting: int, length: int) -> None:
    """A basis that picks pixels: the components are pixels of the kernel, row-major."""
    kernel = np.random.default_rng(0).uniform(size=(2, 21, 21)).astype(np.float32)
    basis = np.zeros((441, 15), np.float32)
    for component in range(15):
        basis[component * 21 + 2, component] = (
            component + 1
        )  # row `component`, column 2
    chosen = Degradation(jnp.asarray(kernel), jnp.array([7.5, 20.0]))

    vector = SETTINGS[setting].prior_vector(chosen, basis)
    assert vector.shape == (2, length) and SETTINGS[setting].prior_channels == length
    np.testing.assert_allclose(vector[:, 14], 15 * kernel[:, 14, 2], rtol=1e-6)
    np.testing.assert_allclose(vector[:, 3], 4 * kernel[:, 3, 2], rtol=1e-6)
    if setting == 2:
        np.testing.assert_array_equal(vector[:, 15:], [[7.5] * 3, [20.0] * 3])
