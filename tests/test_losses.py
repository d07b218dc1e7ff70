"""Losses against their formulas in float64."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import literal

from lightbsr_jax.training import losses


def test_reconstruction_is_on_the_255_scale() -> None:
    sr = jnp.float32([[0.0, 0.5], [1.0, 1.2]])
    hr = jnp.array([[0, 100], [255, 255]], jnp.uint8)
    np.testing.assert_allclose(
        losses.reconstruction(sr, hr), (0 + 27.5 + 0 + 51) / 4, rtol=1e-6
    )


def test_rmse_is_the_root_of_each_image() -> None:
    rng = np.random.default_rng(0)
    sr, hr = rng.uniform(0, 1, (2, 3, 4, 5, 3))
    hr[0] *= 0.1  # images of different errors
    value = losses.reconstruction(jnp.float32(sr), jnp.float32(255 * hr), kind="rmse")
    expected = np.sqrt(np.square(255 * (sr - hr)).mean((1, 2, 3))).mean()
    np.testing.assert_allclose(value, expected, rtol=1e-6)


def test_rmse_is_minimal_at_the_mean_and_l1_at_the_median() -> None:
    possible = jnp.float32([0, 0, 90]).reshape(1, 1, 3, 1)  # of HR

    def best(kind: str) -> float:
        guesses = jnp.arange(91) / 255
        found = [
            losses.reconstruction(jnp.full_like(possible, g), possible, kind=kind)
            for g in guesses
        ]
        return float(np.argmin(np.array(found)))

    assert best("l1") == 0
    assert best("rmse") == 30


def test_rmse_of_equal_images_has_a_gradient() -> None:
    gradient = jax.grad(
        lambda sr: losses.reconstruction(sr, 255 * jnp.ones((1, 2, 2, 3)), kind="rmse")
    )(jnp.ones((1, 2, 2, 3)))
    np.testing.assert_array_equal(gradient, 0)


def test_spatial_distillation_is_the_mean_square() -> None:
    teacher, student = jnp.float32([1, 2, 3, 4]), jnp.float32([1, 4, 3, 3])
    assert float(losses.spatial_distillation(teacher, student)) == 5 / 4


def test_channel_distillation_against_its_formula() -> None:
    rng = np.random.default_rng(0)
    teacher, student = rng.standard_normal((2, 3, 48))
    value = losses.channel_distillation(
        jnp.float32(teacher), jnp.float32(student), temperature=0.15, l1_weight=0.1
    )
    expected = literal.channel_distillation(teacher, student, 0.15, 0.1)
    np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_distillation_of_the_goldens(goldens) -> None:
    teacher, student = jnp.asarray(goldens["kd/ct"]), jnp.asarray(goldens["kd/cs"])
    value = losses.channel_distillation(
        teacher, student, temperature=0.15, l1_weight=0.1
    )
    np.testing.assert_allclose(value, goldens["kd/kl_l1"], rtol=1e-6)
    teacher, student = jnp.asarray(goldens["kd/xt"]), jnp.asarray(goldens["kd/xs"])
    value = losses.spatial_distillation(teacher, student)
    np.testing.assert_allclose(value, goldens["kd/mse"], rtol=1e-6)


# Losses of images that need no weights


def images(*shape: int) -> tuple[np.ndarray, np.ndarray]:
    """HR images, and noisy ones like them."""
    rng = np.random.default_rng(0)
    hr = rng.random(shape)
    return np.clip(hr + 0.2 * rng.standard_normal(shape), 0, 1), hr


def check(
    loss: Callable[..., Any], sr: np.ndarray, expected: Callable[[np.ndarray], float]
) -> None:
    """Compares a value in float64, and the gradient with a difference of values."""
    with jax.enable_x64(True):
        value, gradient = jax.jit(jax.value_and_grad(loss))(jnp.asarray(sr))
    assert float(value) == pytest.approx(expected(sr), rel=1e-12)
    step = 1e-5 * np.random.default_rng(1).standard_normal(sr.shape)
    slope = (expected(sr + step) - expected(sr - step)) / 2
    assert (np.asarray(gradient) * step).sum() == pytest.approx(slope, rel=1e-5)


def test_focal_frequency_loss_against_its_formula() -> None:
    """The weights do not take part in the gradient."""
    sr, hr = images(2, 6, 9, 3)
    expected = lambda x: literal.focal_frequency(x, hr, weighed=sr)  # noqa: E731
    check(lambda x: losses.focal_frequency(x, hr), sr, expected)


def test_ms_ssim_against_its_formula() -> None:
    """Two scales of small images, whose exponents have the sum of all five, 1.0001."""
    sr, hr = images(2, 24, 28, 3)
    exponents = [0.0448 * 1.0001 / 0.3304, 0.2856 * 1.0001 / 0.3304]

    def expected(x: np.ndarray) -> float:
        pairs = [(x[i, ..., c], hr[i, ..., c]) for i in range(2) for c in range(3)]
        return 1 - np.mean([literal.ms_ssim(*pair, exponents) for pair in pairs])

    check(lambda x: losses.ms_ssim(x, hr), sr, expected)


def test_ms_ssim_of_all_scales() -> None:
    sr, hr = images(1, 176, 176, 1)
    exponents = [0.0448, 0.2856, 0.3001, 0.2363, 0.1333]
    expected = 1 - literal.ms_ssim(sr[0, ..., 0], hr[0, ..., 0], exponents)
    with jax.enable_x64(True):
        value = jax.jit(losses.ms_ssim)(sr, hr)
    assert float(value) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", ["focal_frequency", "ms_ssim"])
def test_losses_of_images_stay_finite(name: str) -> None:
    """Equal images, and inverted ones, whose structure is less than none."""
    loss = jax.jit(jax.value_and_grad(getattr(losses, name)))
    _, hr = images(1, 32, 32, 3)
    hr = jnp.bfloat16(hr)
    value, gradient = loss(hr, hr)
    assert value.dtype == jnp.float32
    assert float(value) == pytest.approx(0, abs=1e-6)
    assert np.isfinite(np.float32(gradient)).all()
    value, gradient = loss(1 - hr, hr)
    assert float(value) > 0.01
    assert np.isfinite(np.float32(gradient)).all()
