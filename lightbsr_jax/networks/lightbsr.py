"""LightBSR: blind super-resolution with an implicit degradation representation.

One network serves as teacher and student. The teacher's estimator also sees the
degradation prior, and a projector stands above it; the student has neither. LR images
are [B, h, w, 3] RGB in [0, 1], prior vectors [B, P], SR images [B, h s, w s, 3] in
[0, 1].
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from lightbsr_jax.networks.adaptation import FEATURES, AdaptationModule
from lightbsr_jax.networks.estimator import Converter, Estimator, Projector
from lightbsr_jax.networks.layers import Conv, pixel_shuffle, widened

RGB_MEAN = (0.4488, 0.4371, 0.4040)
UPSCALER_STEPS = {2: (2,), 3: (3,), 4: (2, 2)}


class Restoration(NamedTuple):
    """What the network makes of an LR image; the IDRs as they leave the converter."""

    sr: Array  # [B, h s, w s, 3], in [0, 1] but for overshoots
    idr_channel: Array  # R_c [B, 48]
    idr_spatial: Array  # R_s [B, h, w, 8]


class Restorer(nn.Module):
    """From an LR image and its IDR to the SR image: extractor, IDR-AM, upscaler."""

    scale: int
    groups: int
    blocks: int
    remat: bool

    @nn.compact
    def __call__(self, lr: Array, channel: Array, spatial: Array) -> Array:
        mean = jnp.array(RGB_MEAN, jnp.float32)
        x = Conv(FEATURES, name="head")((lr - mean).astype(channel.dtype))
        body = AdaptationModule(self.groups, self.blocks, self.remat, name="body")
        x = body(x, channel, spatial)
        for index, factor in enumerate(UPSCALER_STEPS[self.scale]):
            x = Conv(FEATURES * factor**2, name=f"upscale_{index}")(x)
            x = pixel_shuffle(x, factor)
        # 8 bits, which is what bfloat16 has, are too few for pixels.
        return Conv(3, name="tail")(widened(x)) + mean


class LightBSR(nn.Module):
    """The network of Figure 2, at scale 2, 3 or 4.

    `axis_name` is the axis of the devices over which training is mapped, if it is.
    With `remat`, gradients compute each block's insides anew: a third of the memory,
    and on a CPU no slower. The network computes in `dtype`, float32 or bfloat16;
    parameters, inputs and outputs are float32.
    """

    scale: int = 4
    groups: int = 8
    blocks: int = 8
    axis_name: str | None = None
    remat: bool = True
    dtype: Any = jnp.float32

    def setup(self) -> None:
        if self.scale not in UPSCALER_STEPS:
            raise ValueError(f"scale {self.scale} is not one of {list(UPSCALER_STEPS)}")
        self.estimator = Estimator(self.axis_name)
        self.projector = Projector()
        self.converter = Converter()
        self.restorer = Restorer(self.scale, self.groups, self.blocks, self.remat)

    def __call__(self, lr: Array, prior: Array | None = None) -> Restoration:
        """Evaluation mode: BatchNorm with its running statistics."""
        return self.restore(lr, self.encode(lr, prior))

    def encode(
        self,
        lr: Array,
        prior: Array | None = None,
        *,
        visits: Sequence[int] | None = None,
    ) -> Array:
        """The IDR [B, h/4, w/4, 128]; with `visits`, in training mode over [D, B, ...].

        The teacher's estimator sees the prior at every pixel, after the LR's channels.
        """
        if prior is not None:
            spread = (*lr.shape[:-1], prior.shape[-1])
            prior = jnp.broadcast_to(prior[:, None, None], spread)
            lr = jnp.concatenate([lr, prior], -1)
        return widened(self.estimator(lr.astype(self.dtype), visits))

    def project(self, idr: Array) -> Array:
        """The IDR's embedding [B, 128] for the contrastive loss (teacher)."""
        return widened(self.projector(idr.astype(self.dtype)))

    def convert(self, idr: Array, size: tuple[int, int]) -> tuple[Array, Array]:
        """R_c [B, 48] and R_s [B, h, w, 8] of an IDR; `size` is the LR's (h, w)."""
        channel, spatial = self.converter(idr.astype(self.dtype), size)
        return widened(channel), widened(spatial)

    def restore(self, lr: Array, idr: Array) -> Restoration:
        """The SR image of `lr`, given its IDR."""
        channel, spatial = self.convert(idr, lr.shape[1:3])
        return Restoration(self.upscale(lr, channel, spatial), channel, spatial)

    def upscale(self, lr: Array, channel: Array, spatial: Array) -> Array:
        """The SR image of `lr`, given R_c and R_s."""
        return self.restorer(lr, channel.astype(self.dtype), spatial.astype(self.dtype))


def initialise(
    network: LightBSR, key: Array, *, prior_channels: int | None = None
) -> dict[str, Any]:
    """Fresh variables {"params", "batch_stats"}, as torch initialises them.

    A teacher has `prior_channels` (15 or 18) and a projector, a student None and none.
    """

    def visit_all(module: LightBSR, lr: Array, prior: Array | None) -> Restoration:
        if prior is not None:
            module.project(module.encode(lr, prior))
        return module(lr, prior)

    lr = jnp.zeros((1, 8, 8, 3))
    prior = None
    if prior_channels is not None:
        prior = jnp.zeros((1, prior_channels))
    init = jax.jit(lambda key: network.init(key, lr, prior, method=visit_all))
    return init(key)
