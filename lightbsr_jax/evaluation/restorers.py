"""What can be measured beside a trained network's `Model`."""

from dataclasses import dataclass, field
from typing import Protocol

import jax
import jax.numpy as jnp
from jax import Array

from lightbsr_jax.imaging import resize
from lightbsr_jax.imaging.degradation import Degradation
from lightbsr_jax.model import Model


class Restorer(Protocol):
    """What can be measured: a pytree, whose leaves are its weights."""

    def restore(self, lr: Array, degradation: Degradation | None) -> Array:
        """LR images [B, h, w, 3] in [0, 1] to [B, H, W, 3], 0..255, not rounded.

        `degradation` is what made them, or None where nobody knows.
        """


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Bicubic:
    """Bicubic upsampling, the paper's first row."""

    scale: int = field(metadata={"static": True})

    def restore(self, lr: Array, _: Degradation | None = None) -> Array:
        height, width = lr.shape[1:3]
        return 255 * resize.bicubic(lr, (height * self.scale, width * self.scale))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Spoilt:
    """A model whose R_c and R_s are replaced by U(0, 1): M4- and M5- of Table 2.

    One draw serves all images of a size. Its PSNR against the model's own tells what
    the IDR contributes.
    """

    model: Model

    def restore(self, lr: Array, _: Degradation | None = None) -> Array:
        batch, height, width, _ = lr.shape
        channel_key, spatial_key = jax.random.split(jax.random.key(0))
        channel = jax.random.uniform(channel_key, (48,))
        spatial = jax.random.uniform(spatial_key, (height, width, 8))
        return 255 * self.model.network.apply(
            self.model.variables,
            lr,
            jnp.broadcast_to(channel, (batch, *channel.shape)),
            jnp.broadcast_to(spatial, (batch, *spatial.shape)),
            method="upscale",
        )
