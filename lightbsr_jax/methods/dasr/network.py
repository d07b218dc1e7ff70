"""DASR: unsupervised degradation representation learning (CVPR 2021).

There is no teacher: the contrast of two crops trains the representation. Inside the
network images are in 0..255. Shapes and units are those of `methods.network`.
"""

from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from lightbsr_jax.methods.dynamic import DynamicDepthwise
from lightbsr_jax.methods.estimator import Estimator, Projector
from lightbsr_jax.methods.network import BlindNetwork, Restorer, check_scale
from lightbsr_jax.networks.layers import Conv, Dense
from lightbsr_jax.networks.operators import at_least_float32, global_mean, leaky_relu
from lightbsr_jax.networks.scanned import scan_blocks

FEATURES = 64


class Converter(nn.Module):
    """Pools the estimator's map to the vector [B, 64] for the blocks."""

    @nn.compact
    def __call__(self, idr: Array) -> Array:
        compress = Dense(FEATURES, use_bias=False, name="compress")
        return leaky_relu(compress(global_mean(idr)))


class DegradationAwareConv(nn.Module):
    """DA conv: a convolution and a gate of the input, both predicted from the IDR."""

    @nn.compact
    def __call__(self, x: Array, idr: Array) -> Array:
        y = leaky_relu(DynamicDepthwise(name="dynamic")(x, idr))
        y = Conv(FEATURES, size=1, name="conv")(y)
        gate = Conv(FEATURES // 8, use_bias=False, size=1, name="gate_hidden")
        gate = leaky_relu(gate(idr[:, None, None]))
        gate = Conv(FEATURES, use_bias=False, size=1, name="gate")(gate)
        return y + x * nn.sigmoid(gate)


class Block(nn.Module):
    """DAB: two degradation-aware and two plain convolutions, plus the input."""

    @nn.compact
    def __call__(self, x: Array, idr: Array) -> tuple[Array, None]:
        y = leaky_relu(DegradationAwareConv(name="aware_0")(x, idr))
        y = leaky_relu(Conv(FEATURES, name="conv_0")(y))
        y = leaky_relu(DegradationAwareConv(name="aware_1")(y, idr))
        return x + Conv(FEATURES, name="conv_1")(y), None


class Group(nn.Module):
    """DAG: the blocks and a convolution, plus the input."""

    blocks: int
    remat: bool = True

    @nn.compact
    def __call__(self, x: Array, idr: Array) -> tuple[Array, None]:
        blocks = scan_blocks(Block, self.blocks, remat=self.remat)(name="blocks")
        y, _ = blocks(x, idr)
        return x + Conv(FEATURES, name="conv")(y), None


class Body(nn.Module):
    """The groups and a convolution, plus the input."""

    groups: int
    blocks: int
    remat: bool = True

    @nn.compact
    def __call__(self, features: Array, idr: Array) -> Array:
        groups = scan_blocks(Group, self.groups)(self.blocks, self.remat, name="groups")
        x, _ = groups(features, idr)
        return features + Conv(FEATURES, name="conv")(x)


class DASR(BlindNetwork):
    """The network at scale 2, 3 or 4."""

    IMAGE_RANGE: ClassVar[float] = 255.0

    scale: int = 4
    groups: int = 5
    blocks: int = 5
    axis_name: str | None = None
    remat: bool = True
    dtype: Any = jnp.float32

    def setup(self) -> None:
        check_scale(self.scale)
        self.estimator = Estimator(self.axis_name, FEATURES)
        self.projector = Projector(4 * FEATURES)
        self.converter = Converter()
        self.restorer = self.new_restorer()

    def convert(self, idr: Array, size: tuple[int, int]) -> tuple[Array]:
        """The vector [B, 64] of an IDR map; `size` is not used."""
        return (at_least_float32(self.converter(idr.astype(self.dtype))),)

    @nn.nowrap
    def new_restorer(self) -> Restorer:
        """Makes the restorer of this network."""
        body = Body(self.groups, self.blocks, self.remat, parent=None)
        return Restorer(self.scale, body, FEATURES, self.IMAGE_RANGE, parent=None)
