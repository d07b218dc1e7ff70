"""KDSR: knowledge distillation of the degradation representation (ICLR 2023).

One network serves as teacher and student. The teacher's estimator takes the HR image,
[B, h s, w s, 3] in [0, 1], in addition to the LR image; the student learns the output
of its projector. Shapes and units are those of `methods.network`.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from lightbsr_jax.methods.dynamic import DynamicDepthwise
from lightbsr_jax.methods.estimator import Projector
from lightbsr_jax.methods.network import BlindNetwork, Restorer, check_scale
from lightbsr_jax.networks.layers import Conv, Dense
from lightbsr_jax.networks.operators import (
    at_least_float32,
    leaky_relu,
    pixel_unshuffle,
)
from lightbsr_jax.networks.scanned import scan_blocks


class ResidualBlock(nn.Module):
    """Two convolutions, plus the input."""

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, None]:
        y = leaky_relu(Conv(x.shape[-1], name="conv_0")(x))
        return x + Conv(x.shape[-1], name="conv_1")(y), None


class Estimator(nn.Module):
    """KD-IDE up to its pooling: [B, h, w, 3 + P] to [B, h, w, 4 F].

    It treats crops [D, B, ...] alike, because it has no batch statistics.
    """

    features: int
    blocks: int
    remat: bool = True

    @nn.compact
    def __call__(self, x: Array, visits: Sequence[int] | None = None) -> Array:
        crops = x.shape[:-3]
        x = x.reshape(-1, *x.shape[-3:])
        x = leaky_relu(Conv(self.features, name="conv_0")(x))
        blocks = scan_blocks(ResidualBlock, self.blocks, remat=self.remat)
        x, _ = blocks(name="blocks")(x)
        for index, factor in enumerate((2, 2, 4), start=1):
            x = leaky_relu(Conv(factor * self.features, name=f"conv_{index}")(x))
        return x.reshape(*crops, *x.shape[-3:])


class Converter(nn.Module):
    """Converts the distilled feature [B, 4 F] to the IDR [B, F] for the blocks."""

    features: int

    @nn.compact
    def __call__(self, feature: Array) -> Array:
        return leaky_relu(Dense(self.features, name="compress")(feature))


class Block(nn.Module):
    """IDR-DCRB: a convolution predicted from the IDR, a plain one, plus the input."""

    @nn.compact
    def __call__(self, x: Array, idr: Array) -> tuple[Array, None]:
        y = leaky_relu(DynamicDepthwise(name="dynamic")(x, idr))
        return x + Conv(x.shape[-1], name="conv")(y), None


class Body(nn.Module):
    """The blocks and a convolution, plus the input."""

    blocks: int
    remat: bool = True

    @nn.compact
    def __call__(self, features: Array, idr: Array) -> Array:
        blocks = scan_blocks(Block, self.blocks, remat=self.remat)(name="blocks")
        x, _ = blocks(features, idr)
        return features + Conv(features.shape[-1], name="conv")(x)


class KDSR(BlindNetwork):
    """KDSR-M, at scale 2, 3 or 4; KDSR-L has 128 features, 28 and 5 blocks."""

    REDUCTION: ClassVar[int] = 1

    scale: int = 4
    features: int = 64
    blocks: int = 53
    residual_blocks: int = 9  # of the estimator
    axis_name: str | None = None  # not used: nothing is summed over devices
    remat: bool = True
    dtype: Any = jnp.float32

    def setup(self) -> None:
        check_scale(self.scale)
        self.estimator = Estimator(self.features, self.residual_blocks, self.remat)
        self.projector = Projector(4 * self.features)
        self.converter = Converter(self.features)
        self.restorer = self.new_restorer()

    def spread(self, privileged: Array) -> Array:
        """Rearranges the HR image's pixels as channels of the LR image."""
        return pixel_unshuffle(privileged, self.scale)

    def project(self, idr: Array) -> Array:
        """The distilled feature [B, 4 F] of an IDR map."""
        return leaky_relu(super().project(idr))

    def convert(self, idr: Array, size: tuple[int, int]) -> tuple[Array]:
        """The vector [B, F] of an IDR map; `size` is not used."""
        feature = self.project(idr).astype(self.dtype)
        return (at_least_float32(self.converter(feature)),)

    @property
    def reach(self) -> int:
        return 4 + 2 * self.residual_blocks

    @nn.nowrap
    def new_restorer(self) -> Restorer:
        """Makes the restorer of this network."""
        body = Body(self.blocks, self.remat, parent=None)
        return Restorer(self.scale, body, self.features, parent=None)
