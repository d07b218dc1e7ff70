"""Contrastive learning of the representation with a queue of negatives (eqs. 1, 2).

Queries and keys are unit vectors [D, B, C], one for each of the D crops of B images;
crops of one image share its degradation, and are each other's positives as `pairing`
says. The queue [Q, C] holds keys of earlier images, the negatives.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax


class Pairing(NamedTuple):
    """Which of an image's crops are queries, which are keys, and of which others."""

    queries: slice
    keys: slice
    positives: np.ndarray  # bool [queries, keys]
    # In training mode BatchNorm takes the principal branch's statistics in this order.
    visits: tuple[int, ...]


def pairing(contrasts: Literal["all", "pair"], crops: int) -> Pairing:
    """LightBSR's "all": every crop is a query, and a key of the others.

    Its reference encodes crop 1 once more for the features: no other result, but one
    more visit to the running statistics. DASR's "pair": the second crop is the key of
    the first.
    """
    if contrasts == "pair":
        return Pairing(slice(0, 1), slice(1, 2), np.ones((1, 1), bool), (0,))
    others = ~np.eye(crops, dtype=bool)
    return Pairing(slice(None), slice(None), others, (*range(crops), 0))


def normalise(embeddings: Array) -> Array:
    """Unit length along the last axis."""
    norm = jnp.linalg.norm(embeddings, axis=-1, keepdims=True)
    return embeddings / jnp.maximum(norm, 1e-12)


def fresh_queue(key: Array, length: int, channels: int = 128) -> Array:
    """Random unit vectors [length, channels]."""
    return normalise(jax.random.normal(key, (length, channels)))


def contrastive_loss(
    queries: Array,
    keys: Array,
    queue: Array,
    *,
    temperature: float,
    positives: np.ndarray | None = None,
) -> Array:
    """Mean over positive pairs of crops and over B of the InfoNCE loss.

    By default a crop is the positive of all but itself: D (D - 1) ordered pairs. The
    negatives of a query do not depend on the key beside it: one product and one
    log-sum-exp serve all its pairs. No gradient goes into keys and queue.
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
    """Put keys [B, C] over the oldest of the queue; B must divide its length."""
    queue = lax.dynamic_update_slice_in_dim(queue, keys, pointer, axis=0)
    return queue, (pointer + len(keys)) % len(queue)
