"""The convolutions of VGG19, whose features compare images in a perceptual loss.

K. Simonyan and A. Zisserman, "Very Deep Convolutional Networks for Large-Scale Image
Recognition" (2015). Weights trained on ImageNet come from a file of torchvision's.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from lightbsr_jax.networks.layers import Conv

GROUPS = (2, 2, 4, 4, 4)  # convolutions of each resolution
FEATURES = (64, 128, 256, 512, 512)
MEAN = np.array([0.485, 0.456, 0.406], np.float32)  # of ImageNet, in [0, 1]
DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)


def places() -> dict[str, int]:
    """The places of the layers in torchvision's `features`: "conv1_1": 0, ..."""
    found, place = {}, 0
    for group, count in enumerate(GROUPS, 1):
        for index in range(1, count + 1):
            found[f"conv{group}_{index}"] = place
            place += 2  # a ReLU follows
        place += 1  # a pool
    return found


class VGG19(nn.Module):
    """Images [B, H, W, 3] in [0, 1] to the outputs of all layers by name.

    Outputs are those before the ReLU. H and W are 16 or more. `widths` are smaller in
    tests only.
    """

    widths: tuple[int, ...] = FEATURES
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: Array) -> dict[str, Array]:
        x = ((images - MEAN) / DEVIATION).astype(self.dtype)
        found = {}
        for group, (count, width) in enumerate(zip(GROUPS, self.widths, strict=True)):
            if group:
                window = (1, 2, 2, 1)
                x = lax.reduce_window(x, -jnp.inf, lax.max, window, window, "VALID")
            for index in range(1, count + 1):
                name = f"conv{group + 1}_{index}"
                found[name] = Conv(width, name=name)(x)
                x = nn.relu(found[name])
        return found
