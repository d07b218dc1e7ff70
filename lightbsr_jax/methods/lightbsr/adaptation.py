"""The IDR-guided adaptation module: groups of modulated blocks (Figure 3).

`features` is [B, h, w, 64], `channel` (R_c) [B, 48], `spatial` (R_s) [B, h, w, 8].
Blocks are scanned: parameters have leading axes for the groups and for the blocks of a
group, and XLA compiles a single block for any number of them.

Table 2 of the paper takes parts away: see `Switches`. Without a modulation its IDR-CBs
have no use and are not there either.
"""

from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from lightbsr_jax.networks.layers import Conv, Dense, DepthwiseConv, LayerNorm
from lightbsr_jax.networks.operators import (
    columns_in_lanes,
    for_columns,
    gelu,
    global_mean,
    pack,
    unpack,
)
from lightbsr_jax.networks.scanned import save_for_remat, scan_blocks

FEATURES = 64
SPATIAL_FEATURES = 16  # modulated by R_s; R_c modulates the other 48
CHANNEL_FEATURES = FEATURES - SPATIAL_FEATURES
LAYER_SCALE = 1e-6


class ChannelConverter(nn.Module):
    """IDR-CB of the channel vector: [B, 48] to [B, 48]."""

    @nn.compact
    def __call__(self, channel: Array) -> Array:
        x = gelu(Dense(96, name="expand")(channel))
        return channel + gelu(Dense(48, name="reduce")(x))


class SpatialConverter(nn.Module):
    """IDR-CB of the spatial map: [B, h, w, 8] to [B, h, w, 8]."""

    columns: int = 1

    @nn.compact
    def __call__(self, spatial: Array) -> Array:
        x = gelu(Conv(16, columns=self.columns, name="expand")(spatial))
        return spatial + gelu(Conv(8, columns=self.columns, name="reduce")(x))


class SpatialModulation(nn.Module):
    """Multiplies the first 16 features by a mask from R_s, then convolves (5 x 5)."""

    columns: int = 1

    @nn.compact
    def __call__(self, features: Array, spatial: Array) -> Array:
        convolution = partial(Conv, 16, use_bias=False, columns=self.columns)
        mask = jnp.concatenate([spatial, features], -1)
        mask = gelu(convolution(size=1, name="mask_hidden")(mask))
        mask = nn.sigmoid(convolution(name="mask")(mask))
        return convolution(size=5, name="conv")(features * mask)


class ChannelModulation(nn.Module):
    """Multiplies the other 48 features by weights from R_c and `means` [B, 48].

    These are the features' means over the image, of which `features` may be a part.
    """

    columns: int = 1

    @nn.compact
    def __call__(self, features: Array, channel: Array, means: Array) -> Array:
        weight = jnp.concatenate([means, channel], -1)
        weight = gelu(Dense(24, use_bias=False, name="weight_hidden")(weight))
        weight = nn.sigmoid(Dense(48, use_bias=False, name="weight")(weight))
        return features * for_columns(weight, self.columns)[:, None, None]


class Mixing(nn.Module):
    """ConvNeXt's mixing: depthwise 7 x 7, LayerNorm, two pointwise layers, layer scale.

    Unlike in ConvNeXt, the hidden width is twice the number of features.
    """

    columns: int = 1

    @nn.compact
    def __call__(self, x: Array) -> Array:
        columns = self.columns
        x = DepthwiseConv(FEATURES, columns=columns, name="depthwise")(x)
        x, affine = LayerNorm(columns, name="norm")(x)
        expand = Dense(2 * FEATURES, columns=columns, name="expand")
        x = gelu(expand(x, before=affine))
        start = nn.initializers.constant(LAYER_SCALE)
        layer_scale = self.param("layer_scale", start, (FEATURES,))
        reduce = Dense(FEATURES, columns=columns, name="reduce")
        return reduce(x, after=layer_scale)


class Switches(NamedTuple):
    """Switches of the modulations of blocks and of the conversion of the IDR."""

    spatial_modulation: bool = True
    channel_modulation: bool = True
    converter_blocks: bool = True

    @property
    def converts_channel(self) -> bool:
        """True if groups convert R_c."""
        return self.converter_blocks and self.channel_modulation

    @property
    def converts_spatial(self) -> bool:
        """True if groups convert R_s."""
        return self.converter_blocks and self.spatial_modulation


class AdaptationBlock(nn.Module):
    """IDR-AB: both modulations, then ConvNeXt's mixing, plus the input."""

    switches: Switches = Switches()
    columns: int = 1

    @nn.compact
    def __call__(
        self,
        features: Array,
        channel: Array,
        spatial: Array,
        means: Array | None = None,
    ) -> tuple[Array, None]:
        columns = self.columns
        if means is None:
            means = global_mean(features, columns)[:, SPATIAL_FEATURES:]
        first, others = jnp.split(features, [columns * SPATIAL_FEATURES], -1)
        if self.switches.spatial_modulation:
            first = SpatialModulation(columns, name="spatial")(first, spatial)
        else:  # the ablation removes only the mask
            alone = Conv(16, False, columns, size=5, name="spatial")
            first = alone(first)
        # Saved: it takes a fifth of a block's time and a quarter of its features.
        first = save_for_remat(first)
        if self.switches.channel_modulation:
            modulated = ChannelModulation(columns, name="channel")
            others = modulated(others, channel, means)
        x = jnp.concatenate([gelu(first), gelu(others)], -1)
        return features + Mixing(columns, name="mixing")(x), None


class AdaptationGroup(nn.Module):
    """IDR-AG: both IDR-CBs, the blocks, a ConvNeXt block and a convolution."""

    blocks: int
    remat: bool = True
    switches: Switches = Switches()
    columns: int = 1

    @nn.compact
    def __call__(
        self, carry: tuple[Array, Array, Array]
    ) -> tuple[tuple[Array, Array, Array], None]:
        features, channel, spatial = carry
        if self.switches.converts_channel:
            channel = ChannelConverter(name="channel_converter")(channel)
        if self.switches.converts_spatial:
            converter = SpatialConverter(self.columns, name="spatial_converter")
            spatial = converter(spatial)
        mixing = nn.remat(Mixing, prevent_cse=False) if self.remat else Mixing
        blocks = scan_blocks(AdaptationBlock, self.blocks, remat=self.remat)(
            self.switches, self.columns, name="blocks"
        )
        x, _ = blocks(features, channel, spatial)
        x = x + mixing(self.columns, name="convnext")(x)
        features = features + Conv(FEATURES, columns=self.columns, name="conv")(x)
        return (features, channel, spatial), None


class AdaptationModule(nn.Module):
    """IDR-AM: the groups and a convolution, plus the input."""

    groups: int
    blocks: int
    remat: bool = True
    switches: Switches = Switches()

    @nn.compact
    def __call__(self, features: Array, channel: Array, spatial: Array) -> Array:
        columns = 1 if self.is_initializing() else columns_in_lanes(features)
        groups = scan_blocks(AdaptationGroup, self.groups)(
            self.blocks, self.remat, self.switches, columns, name="groups"
        )
        packed = pack(features, columns), channel, pack(spatial, columns)
        (x, _, _), _ = groups(packed)
        x = unpack(x, columns)
        return features + Conv(FEATURES, name="conv")(x)
