import jax.numpy as jnp
import numpy as np
from helpers import literal

from lightbsr_jax.training import losses


def test_reconstruction_is_on_the_255_scale() -> None:
    sr = jnp.float32([[0.0, 0.5], [1.0, 1.2]])
    hr = jnp.array([[0, 100], [255, 255]], jnp.uint8)
    np.testing.assert_allclose(
        losses.reconstruction(sr, hr), (0 + 27.5 + 0 + 51) / 4, rtol=1e-6
    )


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
