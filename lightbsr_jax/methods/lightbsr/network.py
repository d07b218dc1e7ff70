"""LightBSR: blind super-resolution with an implicit degradation representation.

One network serves as teacher and student. The teacher's estimator also sees the
degradation prior, a vector [B, P], and a projector stands above it; the student has
neither. Shapes and units are those of `blind`.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from lightbsr_jax.methods.estimator import Converter, Estimator, Projector
from lightbsr_jax.methods.lightbsr.adaptation import AdaptationModule, Switches
from lightbsr_jax.methods.network import BlindNetwork, Restorer, check_scale
from lightbsr_jax.networks.operators import at_least_float32


class LightBSR(BlindNetwork):
    """The network of Figure 2, at scale 2, 3 or 4.

    `spatial_modulation`, `channel_modulation` and `converter_blocks` are there for the
    ablations of Table 2, which go without.
    """

    scale: int = 4
    groups: int = 8
    blocks: int = 8
    spatial_modulation: bool = True
    channel_modulation: bool = True
    converter_blocks: bool = True
    axis_name: str | None = None
    remat: bool = True
    dtype: Any = jnp.float32

    @property
    def switches(self) -> Switches:
        """Of the ablations."""
        return Switches(
            self.spatial_modulation, self.channel_modulation, self.converter_blocks
        )

    def setup(self) -> None:
        check_scale(self.scale)
        self.estimator = Estimator(self.axis_name)
        self.projector = Projector()
        self.converter = Converter()
        self.restorer = self.new_restorer()

    def spread(self, privileged: Array) -> Array:
        """The prior at every pixel."""
        return privileged[:, None, None]

    def convert(self, idr: Array, size: tuple[int, int]) -> tuple[Array, Array]:
        """R_c [B, 48] and R_s [B, h, w, 8] of an IDR; `size` is the LR's (h, w)."""
        channel, spatial = self.converter(idr.astype(self.dtype), size)
        return at_least_float32(channel), at_least_float32(spatial)

    @nn.nowrap
    def new_restorer(self) -> Restorer:
        """The restorer that a network of this kind has."""
        body = AdaptationModule(
            self.groups,
            self.blocks,
            self.remat,
            self.switches,
            parent=None,  # the restorer's, and that the network's
        )
        return Restorer(self.scale, body, parent=None)
