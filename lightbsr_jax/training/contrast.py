"""Contrastive learning of the representation with a queue of negatives (eqs. 1, 2).

Queries and keys are unit vectors [D, B, C], one for each of the D crops of B images.
Crops of one image share its degradation; `pairing` defines which are positives of each
other. The queue [Q, C] holds keys of earlier images, the negatives.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax


class Pairing(NamedTuple):
    """The queries, the keys and the positive pairs among an image's crops."""

    queries: slice
    keys: slice
    positives: np.ndarray  # bool [queries, keys]
    # The order in which BatchNorm uses the principal branch's statistics in training.
    visits: tuple[int, ...]


def pairing(contrasts: Literal["all", "pair"], crops: int) -> Pairing:
    """Makes the pairing "all" of LightBSR or "pair" of DASR.

    "all": every crop is a query, and a key of the others. The reference encodes crop 1
    twice, which changes nothing but the running statistics: `visits` repeats it.
    "pair": the second crop is the key of the first.
    """
    if contrasts == "pair":
        return Pairing(slice(0, 1), slice(1, 2), np.ones((1, 1), bool), (0,))
    others = ~np.eye(crops, dtype=bool)
    return Pairing(slice(None), slice(None), others, (*range(crops), 0))


def normalise(embeddings: Array) -> Array:
    """Scales vectors along the last axis to unit length."""
    norm = jnp.linalg.norm(embeddings, axis=-1, keepdims=True)
    return embeddings / jnp.maximum(norm, 1e-12)


def fresh_queue(key: Array, length: int, channels: int = 128) -> Array:
    """Draws random unit vectors [length, channels]."""
    return normalise(jax.random.normal(key, (length, channels)))


def contrastive_loss(
    queries: Array,
    keys: Array,
    queue: Array,
    *,
    temperature: float,
    positives: np.ndarray | None = None,
) -> Array:
    """The InfoNCE loss, averaged over positive pairs of crops and over B.

    By default all other crops are positives of a crop: D (D - 1) ordered pairs. The
    negatives of a query are the same for all its keys, so one product and one
    log-sum-exp serve all its pairs. Keys and queue get no gradient.
    """
    keys, queue = lax.stop_gradient((keys, queue))
    positive = jnp.einsum("ibc,jbc->ijb", queries, keys) / temperature
    negative = jax.nn.logsumexp(queries @ queue.T / temperature, axis=-1)  # [D, B]
    losses = jnp.logaddexp(positive, negative[:, None]) - positive
    if positives is None:
        positives = pairing("all", len(queries)).positives
    total = jnp.where(positives[..., None], losses, 0).sum()
    return total / (int(positives.sum()) * queries.shape[1])


def enqueue(queue: Array, pointer: Array, keys: Array) -> tuple[Array, Array]:
    """Replaces the oldest keys of the queue by [B, C]; B must divide its length."""
    queue = lax.dynamic_update_slice_in_dim(queue, keys, pointer, axis=0)
    return queue, (pointer + len(keys)) % len(queue)
