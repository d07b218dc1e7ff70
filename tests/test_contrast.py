import jax
import jax.numpy as jnp
import numpy as np
from helpers import literal

from lightbsr_jax.training import contrast


def unit(rng: np.random.Generator, *shape: int) -> np.ndarray:
    x = rng.standard_normal(shape)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_loss_is_the_mean_over_pairs() -> None:
    rng = np.random.default_rng(0)
    queries, keys, queue = unit(rng, 3, 2, 5), unit(rng, 3, 2, 5), unit(rng, 7, 5)
    expected = literal.contrastive_loss(queries, keys, queue, 0.07)
    loss = contrast.contrastive_loss(
        *map(jnp.float32, (queries, keys, queue)), temperature=0.07
    )
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_gradient_goes_into_the_queries_alone() -> None:
    rng = np.random.default_rng(1)
    arrays = [jnp.float32(unit(rng, *s)) for s in ((2, 2, 5), (2, 2, 5), (6, 5))]
    into = jax.grad(
        lambda *a: contrast.contrastive_loss(*a, temperature=0.5), argnums=(0, 1, 2)
    )(*arrays)
    assert [bool(jnp.any(g != 0)) for g in into] == [True, False, False]


def test_queue_replaces_the_oldest_and_wraps() -> None:
    queue, pointer = jnp.zeros((6, 2)), jnp.int32(0)
    for value in range(1, 5):
        keys = jnp.full((2, 2), float(value))
        queue, pointer = contrast.enqueue(queue, pointer, keys)
    assert queue[:, 0].tolist() == [4, 4, 2, 2, 3, 3]
    assert int(pointer) == 2


def test_fresh_queue_has_unit_rows() -> None:
    queue = contrast.fresh_queue(jax.random.key(0), 12)
    assert queue.shape == (12, 128)
    np.testing.assert_allclose(jnp.linalg.norm(queue, axis=1), 1, rtol=1e-6)
    assert len(np.unique(np.asarray(queue), axis=0)) == 12


def test_normalise_leaves_zero_vectors_finite() -> None:
    assert contrast.normalise(jnp.zeros((1, 3))).tolist() == [[0, 0, 0]]
    np.testing.assert_allclose(contrast.normalise(jnp.float32([3, 4])), [0.6, 0.8])
