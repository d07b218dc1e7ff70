"""Contrastive learning of the representation with a queue of negatives (eqs. 1, 2).

Queries and keys are unit vectors [D, B, C], one for each of the D crops of B images;
crops of one image share its degradation and are each other's positives. The queue
[Q, C] holds keys of earlier images, the negatives.
"""

import jax
import jax.numpy as jnp
from jax import Array, lax


def normalise(embeddings: Array) -> Array:
    """Unit length along the last axis."""
    norm = jnp.linalg.norm(embeddings, axis=-1, keepdims=True)
    return embeddings / jnp.maximum(norm, 1e-12)


def fresh_queue(key: Array, length: int, channels: int = 128) -> Array:
    """Random unit vectors [length, channels]."""
    return normalise(jax.random.normal(key, (length, channels)))


def contrastive_loss(
    queries: Array, keys: Array, queue: Array, *, temperature: float
) -> Array:
    """Mean over the D (D - 1) ordered pairs of crops and over B of the InfoNCE loss.

    The negatives of a query do not depend on the key beside it: one product and one
    log-sum-exp serve all its pairs. No gradient goes into keys and queue.
    """
    keys, queue = lax.stop_gradient((keys, queue))
    positive = jnp.einsum("ibc,jbc->ijb", queries, keys) / temperature
    negative = jax.nn.logsumexp(queries @ queue.T / temperature, axis=-1)  # [D, B]
    losses = jnp.logaddexp(positive, negative[:, None]) - positive
    crops, batch = queries.shape[:2]
    other = ~jnp.eye(crops, dtype=bool)[..., None]
    return jnp.where(other, losses, 0).sum() / (crops * (crops - 1) * batch)


def enqueue(queue: Array, pointer: Array, keys: Array) -> tuple[Array, Array]:
    """Put keys [B, C] over the oldest of the queue; B must divide its length."""
    queue = lax.dynamic_update_slice_in_dim(queue, keys, pointer, axis=0)
    return queue, (pointer + len(keys)) % len(queue)
