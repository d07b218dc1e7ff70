"""Separation of degradations in IDRs."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lightbsr_jax.evaluation import cases, idr
from lightbsr_jax.imaging import kernels
from lightbsr_jax.imaging.degradation import Degradation
from lightbsr_jax.imaging.settings import SETTINGS
from lightbsr_jax.methods.lightbsr.network import LightBSR
from lightbsr_jax.models.model import Model
from lightbsr_jax.spec import ModelSpec

CASES = cases.make(1, sigmas=[0.8, 2.0, 3.5])


def images(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (100, 200, 3), np.uint8) for _ in range(count)]


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch) -> None:
    monkeypatch.setattr(idr, "_TILE", 48)


@pytest.fixture(scope="module")
def model() -> Model:
    """A student at scale 2 with a fresh estimator; the rest is not needed."""
    network = LightBSR(2, groups=1, blocks=1)
    variables = network.init(
        jax.random.key(3), jnp.zeros((1, 8, 8, 3)), method="encode"
    )
    return Model(
        ModelSpec.of_network(network, "student", 1),
        variables,
        np.zeros((441, 15), np.float32),
    )


def test_traits_of_kernels() -> None:
    known = Degradation(
        kernels.anisotropic(
            np.array([2.0, 1.5, 1.0]), np.array([1.0, 1.5, 2.0]), np.array([0, 1, 0.8])
        ),
        np.array([0.0, 5.0, 10.0]),
    )
    found = idr.traits(known)
    np.testing.assert_allclose(found["width"], np.sqrt([2.5, 2.25, 2.5]), atol=1e-3)
    # Variances 4 and 1: 3/5 along the long axis, turned by twice the angle.
    np.testing.assert_allclose(
        found["columns"], [0.6, 0, -0.6 * np.cos(1.6)], atol=1e-3
    )
    np.testing.assert_allclose(found["diagonal"], [0, 0, -0.6 * np.sin(1.6)], atol=1e-3)
    assert found["noise"].tolist() == [0, 5, 10]
    drawn = SETTINGS[1].sample(jax.random.split(jax.random.key(0), 8), width_max=4.0)
    assert list(idr.traits(drawn)) == ["width"]


def test_random_pixels_tell_their_blur(model) -> None:
    """White noise of one kind differs in its blur alone: any estimator tells it."""
    found = idr.separation(model, images(10), CASES)
    assert (found.tiles, found.images) == (20, 10)  # 96 pixels a side, 1 x 2 an image
    assert found.cases == ("sigma 0.8", "sigma 2", "sigma 3.5")
    assert found.points.shape == (60, 2) and found.case.tolist() == [0, 1, 2] * 20
    assert found.trained.neighbours > 0.8
    assert found.trained.silhouette > 0.03
    assert list(found.trained.probes) == ["width"]
    assert found.trained.probes["width"] > 0.5
    assert found.untrained != found.trained

    # An estimator that is blind tells nothing.
    blind = jax.tree.map(np.zeros_like, model.variables)
    blind = dataclasses.replace(model, variables=blind)
    found = idr.separation(blind, images(10), CASES)
    assert found.trained.neighbours <= 0.5 and found.trained.probes["width"] < 0.1
    assert found.trained.silhouette <= 0 and not found.points.any()


def test_too_few_images(model) -> None:
    assert idr.separation(model, images(9), CASES) is None
    assert idr.separation(model, images(10), CASES[:2]) is None
    small = [image[:90] for image in images(10)]
    assert idr.separation(model, small, CASES) is None
    assert idr.separation(model, [], CASES) is None
