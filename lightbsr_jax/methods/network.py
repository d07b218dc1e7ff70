"""What the networks of all methods have in common: blind super-resolution by an IDR.

An estimator reads an implicit degradation representation (IDR) off the LR image, a
converter makes modulators of it, and a restorer that is modulated by them makes the SR
image. A projector stands above the IDR for training, or for the converter. A method
says what these four are, and how its restorer's body uses the modulators.

LR images are [B, h, w, 3] RGB in [0, 1], SR images [B, h s, w s, 3] in [0, 1]. A
teacher's estimator sees something beside the LR image, its `privileged` input.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.lax import slice_in_dim

from lightbsr_jax.networks.layers import Conv
from lightbsr_jax.networks.operators import (
    at_least_float32,
    conv,
    fuse_convs,
    is_plain,
    pixel_shuffle,
)

RGB_MEAN = (0.4488, 0.4371, 0.4040)
_MEAN = np.array(RGB_MEAN, np.float32)
UPSCALER_STEPS = {2: (2,), 3: (3,), 4: (2, 2)}
_COMPOSED_FROM = 32  # pixels along an image's shorter side


class Restoration(NamedTuple):
    """What a network makes of an LR image; the modulators as they leave the converter.

    LightBSR's are R_c [B, 48] and R_s [B, h, w, 8]; the others' is one vector [B, C].
    """

    sr: Array  # [B, h s, w s, 3], in [0, 1] but for overshoots
    idr_channel: Array
    idr_spatial: Array | None = None


class Restorer(nn.Module):
    """From an LR image and modulators to the SR image: a convolution, body, upscaler.

    `body(features, *modulators)` keeps the features' shape. It ends in a convolution
    "conv" of 3 x 3, plus the features. Inside, images are in 0..`image_range`, as the
    method's weights have it.
    """

    scale: int
    body: nn.Module
    features: int = 64
    image_range: float = 1.0

    def setup(self) -> None:
        self.head = Conv(self.features)
        steps = UPSCALER_STEPS[self.scale]
        self.upscale = [Conv(self.features * factor**2) for factor in steps]
        self.tail = Conv(3)
        self.mean = np.float32(self.image_range) * _MEAN

    def __call__(self, lr: Array, *modulators: Array) -> Array:
        features = self.extract(lr, modulators[0].dtype)
        return self.reconstruct(self.body(features, *modulators))

    def extract(self, lr: Array, dtype: Any) -> Array:
        """The features [B, h, w, F] that the body starts from."""
        return self.head((self.image_range * lr - self.mean).astype(dtype))

    def reconstruct(self, x: Array) -> Array:
        """The SR image, from what the body makes of the features.

        There is nothing nonlinear between the convolutions that do this: inside of the
        image they are one, at scale 4 with a tenth of the operations. At its border
        each of them sees zeros beyond it, which one convolution cannot.
        """
        if self.is_initializing() or is_plain() or min(x.shape[1:3]) < _COMPOSED_FROM:
            return self.reconstruct_stepwise(x)
        sr, s = self.reconstruct_inside(x), self.scale
        for axis in (1, 2):
            part = partial(slice_in_dim, axis=axis)
            # Three pixels decide what becomes of the outermost.
            ends = jnp.concatenate([part(x, 0, 3), part(x, -3, None)])
            first, last = jnp.split(self.reconstruct_stepwise(ends), 2)
            parts = [part(first, 0, s), part(sr, s, -s), part(last, -s, None)]
            sr = jnp.concatenate(parts, axis)
        return sr

    def reconstruct_stepwise(self, x: Array) -> Array:
        """`reconstruct`, one convolution after the other."""
        # 8 bits, which is what bfloat16 has, are too few for pixels.
        x = at_least_float32(x)
        for factor, layer in zip(UPSCALER_STEPS[self.scale], self.upscale, strict=True):
            x = pixel_shuffle(layer(x), factor)
        return self._pixels(self.tail(x))

    def reconstruct_inside(self, x: Array) -> Array:
        """`reconstruct`, but for what becomes of the image's outermost pixels."""
        factors = UPSCALER_STEPS[self.scale]
        rest = self.tail.kernel_and_bias
        for factor, layer in zip(factors[::-1], self.upscale[::-1], strict=True):
            rest = fuse_convs(layer.kernel_and_bias, factor, rest)
        x = at_least_float32(x)
        kernel, bias = (part.astype(x.dtype) for part in rest)
        x = conv(x, kernel) + bias
        for factor in factors:
            x = pixel_shuffle(x, factor)
        return self._pixels(x)

    def _pixels(self, x: Array) -> Array:
        return (x + self.mean) / self.image_range


class BlindNetwork(nn.Module):
    """A method's network; subclasses set up `estimator`, `projector`, `converter`.

    And `restorer`, all under these names: parameters, optimiser states and what learns
    in a stage go by them. The network computes in `dtype`, float32 or bfloat16;
    parameters, inputs and outputs are float32. `axis_name` is the axis of the devices
    over which training is mapped, if it is. With `remat`, gradients compute each
    block's insides anew but for what is kept: a quarter of the memory, and on a CPU no
    slower.
    """

    IMAGE_RANGE: ClassVar[float] = 1.0  # images are 0..this inside the network
    REDUCTION: ClassVar[int] = 4  # of the IDR's resolution

    @property
    def reach(self) -> int:
        """How far the estimator's convolutions see, in LR pixels.

        Rounded up to a multiple of `REDUCTION`.
        """
        return 12

    def __call__(self, lr: Array, privileged: Array | None = None) -> Restoration:
        """Evaluation mode: BatchNorm with its running statistics."""
        return self.restore(lr, self.encode(lr, privileged))

    def encode(
        self,
        lr: Array,
        privileged: Array | None = None,
        *,
        visits: Sequence[int] | None = None,
    ) -> Array:
        """The IDR [B, h', w', C]; with `visits`, in training mode over [D, B, ...].

        A teacher's estimator sees `privileged` after the LR's channels.
        """
        lr = self.IMAGE_RANGE * lr
        if privileged is not None:
            beside = self.spread(privileged)
            beside = jnp.broadcast_to(beside, (*lr.shape[:-1], beside.shape[-1]))
            lr = jnp.concatenate([lr, beside], -1)
        return at_least_float32(self.estimator(lr.astype(self.dtype), visits))

    def spread(self, privileged: Array) -> Array:
        """The privileged input as channels of the LR image, [B, h or 1, w or 1, P]."""
        raise NotImplementedError  # a method without a teacher has none

    def project(self, idr: Array) -> Array:
        """The IDR's embedding [B, E], of which the training's losses are."""
        return at_least_float32(self.projector(idr.astype(self.dtype)))

    def convert(self, idr: Array, size: tuple[int, int]) -> tuple[Array, ...]:
        """The modulators that an IDR makes; `size` is the LR's (h, w)."""
        raise NotImplementedError

    def new_restorer(self) -> Restorer:
        """The restorer that a network of this kind has."""
        raise NotImplementedError

    def restore(self, lr: Array, idr: Array) -> Restoration:
        """The SR image of `lr`, given its IDR."""
        modulators = self.convert(idr, (lr.shape[1], lr.shape[2]))
        return Restoration(self.upscale(lr, *modulators), *modulators)

    def upscale(self, lr: Array, *modulators: Array) -> Array:
        """The SR image of `lr`, given the modulators."""
        return self.restorer(lr, *(x.astype(self.dtype) for x in modulators))


def check_scale(scale: int) -> None:
    """Raises ValueError for a scale that no network has."""
    if scale not in UPSCALER_STEPS:
        raise ValueError(f"scale {scale} is not one of {list(UPSCALER_STEPS)}")


def initialise(
    network: BlindNetwork, key: Array, privileged: Array | None, *, projects: bool
) -> dict[str, Any]:
    """Fresh variables {"params", "batch_stats"}, as torch initialises them.

    `privileged` is an example of one image's, None where the estimator sees none;
    `projects` says whether there is a projector.
    """

    def visit_all(
        module: BlindNetwork, lr: Array, privileged: Array | None
    ) -> Restoration:
        if projects:
            module.project(module.encode(lr, privileged))
        return module(lr, privileged)

    lr = jnp.zeros((1, 8, 8, 3))
    init = jax.jit(lambda key: network.init(key, lr, privileged, method=visit_all))
    return {"batch_stats": {}, **init(key)}
