"""Depthwise convolution with a kernel per image, the modulation of KDSR and DASR.

`x` is [B, h, w, F], `idr` a vector [B, F].
"""

import flax.linen as nn
from jax import Array

from lightbsr_jax.networks.layers import Dense
from lightbsr_jax.networks.operators import image_depthwise_conv, leaky_relu


class DynamicDepthwise(nn.Module):
    """3 x 3 depthwise convolution with a kernel that two layers predict from the IDR.

    KDSR calls it IDR-DDC; it is part of DASR's degradation-aware convolution.
    """

    @nn.compact
    def __call__(self, x: Array, idr: Array) -> Array:
        features = x.shape[-1]
        kernel = leaky_relu(Dense(features, use_bias=False, name="hidden")(idr))
        kernel = Dense(9 * features, use_bias=False, name="kernel")(kernel)
        kernel = kernel.reshape(-1, features, 3, 3)  # torch's order
        return image_depthwise_conv(x, kernel.transpose(0, 2, 3, 1))
