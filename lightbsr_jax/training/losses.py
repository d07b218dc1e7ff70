"""The losses of training except the contrastive one: means over the batch."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax import Array


def reconstruction(sr: Array, hr: Array, *, pixel_range: float = 255) -> Array:
    """L_SR: mean absolute error; sr is in [0, 1], hr in 0..255.

    The error is on the 0..`pixel_range` scale: 255 for LightBSR and DASR, 1 for KDSR.
    """
    return jnp.abs(255 * sr - hr).mean() * (pixel_range / 255)


def spatial_distillation(teacher: Array, student: Array) -> Array:
    """Mean squared difference of the maps R_s [B, h, w, 8]."""
    return jnp.square(teacher - student).mean()


def channel_distillation(
    teacher: Array, student: Array, *, temperature: float, l1_weight: float
) -> Array:
    """KL(teacher || student) of softmaxed R_c [B, 48], plus their weighted L1 distance.

    The paper has no temperature; the reference divides by 0.15 before the softmax. KDSR
    uses the same loss for its features [B, 256], with weight 0 for the L1 distance.
    """
    log_p = jax.nn.log_softmax(teacher / temperature)
    log_q = jax.nn.log_softmax(student / temperature)
    divergence = (jnp.exp(log_p) * (log_p - log_q)).sum(-1).mean()
    return divergence + l1_weight * jnp.abs(teacher - student).mean()


# Weights of the layers of VGG19 in the perceptual loss.
PERCEPTUAL = {"conv1_2": 0.1, "conv2_2": 0.1, "conv3_4": 1, "conv4_4": 1, "conv5_4": 1}


def perceptual(features: Mapping[str, Array], expected: Mapping[str, Array]) -> Array:
    """Weighted sum of mean absolute differences of features, by layer of VGG19."""
    return jnp.stack(
        [
            weight * jnp.abs(features[name] - expected[name]).mean()
            for name, weight in PERCEPTUAL.items()
        ]
    ).sum()


def adversarial(logits: Array, *, real: bool) -> Array:
    """Binary cross entropy of a discriminator's logits, if all images are real or not.

    A generator minimises it for its images as if they were `real`.
    """
    return jax.nn.softplus(-logits if real else logits).mean()
