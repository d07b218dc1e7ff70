"""LightBSR: blind super-resolution with an implicit degradation representation.

One network serves as teacher and student. The teacher's estimator also takes the
degradation prior, a vector [B, P], and the teacher has a projector; the student has
neither. Shapes and units are those of `methods.network`.
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

    The ablations of Table 2 switch `spatial_modulation`, `channel_modulation` and
    `converter_blocks` off.
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
        """Repeats the prior at every pixel."""
        return privileged[:, None, None]

    def convert(self, idr: Array, size: tuple[int, int]) -> tuple[Array, Array]:
        """R_c [B, 48] and R_s [B, h, w, 8] of an IDR; `size` is the LR's (h, w)."""
        channel, spatial = self.converter(idr.astype(self.dtype), size)
        return at_least_float32(channel), at_least_float32(spatial)

    @nn.nowrap
    def new_restorer(self) -> Restorer:
        """Makes the restorer of this network."""
        body = AdaptationModule(
            self.groups,
            self.blocks,
            self.remat,
            self.switches,
            parent=None,  # the restorer adopts it, and the network the restorer
        )
        return Restorer(self.scale, body, parent=None)
