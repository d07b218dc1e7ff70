"""The IDR-estimator, the projector above it and the IDR-converter (Figure 2).

The implicit degradation representation (IDR) is the estimator's map [B, h/4, w/4, 128].
Estimator and projector come from DASR, which has them twice as wide.
"""

from collections.abc import Sequence

import flax.linen as nn
from jax import Array

from lightbsr_jax.networks.layers import BatchNorm, Conv, Dense
from lightbsr_jax.networks.operators import gelu, global_mean, leaky_relu, pixel_shuffle


class Estimator(nn.Module):
    """Six convolutions that estimate the degradation of an image.

    The student's input is the LR image; the teacher's also has the degradation prior as
    further channels. That is the only difference.
    """

    axis_name: str | None = None
    width: int = 32  # of the first convolution; a quarter of the last one's

    @nn.compact
    def __call__(self, x: Array, visits: Sequence[int] | None = None) -> Array:
        """Maps [B, h, w, 3 + P] to [B, ceil(h/4), ceil(w/4), 128].

        With `visits`, it is in training mode and takes crops [D, B, h, w, 3 + P]: see
        `BatchNorm`.
        """
        widths = self.width, self.width * 2, self.width * 4
        plan = [(w, stride) for w in widths for stride in (1 + (w > self.width), 1)]
        crops = x.shape[:-3]  # (B,), or (D, B) in training mode
        for index, (features, stride) in enumerate(plan):
            x = x.reshape(-1, *x.shape[-3:])
            x = Conv(features, stride=stride, name=f"conv_{index}")(x)
            x = x.reshape(*crops, *x.shape[-3:])
            x = BatchNorm(self.axis_name, name=f"norm_{index}")(x, visits)
            x = leaky_relu(x)
        return x


class Projector(nn.Module):
    """Map to embedding, for the contrastive loss: [B, h/4, w/4, 128] to [B, 128]."""

    width: int = 128

    @nn.compact
    def __call__(self, idr: Array) -> Array:
        x = leaky_relu(Dense(self.width, name="hidden")(global_mean(idr)))
        return Dense(self.width, name="output")(x)


class Converter(nn.Module):
    """Converts the IDR to a channel vector R_c and a spatial map R_s (section 3.2)."""

    @nn.compact
    def __call__(self, idr: Array, size: tuple[int, int]) -> tuple[Array, Array]:
        """Maps [B, ceil(h/4), ceil(w/4), 128] to R_c [B, 48] and R_s [B, h, w, 8]."""
        channel = gelu(Dense(48, use_bias=False, name="channel")(global_mean(idr)))
        # The estimator rounds up sizes that 4 does not divide.
        spatial = pixel_shuffle(idr, 4)[:, : size[0], : size[1]]
        return channel, gelu(Conv(8, name="spatial")(spatial))
