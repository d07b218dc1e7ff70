"""Base classes of all methods' networks: blind super-resolution with an IDR.

An estimator computes an implicit degradation representation (IDR) of the LR image, a
converter turns it into modulators, and a restorer modulated by them computes the SR
image. A projector maps the IDR to an embedding, for training or for the converter. A
method defines these four, and how the body of its restorer uses the modulators.

LR images are [B, h, w, 3] RGB in [0, 1], SR images [B, h s, w s, 3] in [0, 1]. A
teacher's estimator has an input in addition to the LR image, its `privileged` input.
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
    at_full_precision,
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
    """The output of a network: the SR image, and the modulators of the converter.

    LightBSR has R_c [B, 48] and R_s [B, h, w, 8]; the others have one vector [B, C].
    """

    sr: Array  # [B, h s, w s, 3], in [0, 1] except for overshoots
    idr_channel: Array
    idr_spatial: Array | None = None


class Restorer(nn.Module):
    """A convolution, a body and an upscaler, from LR image and modulators to SR image.

    `body(features, *modulators)` keeps the shape of the features. It ends in a 3 x 3
    convolution "conv", plus the features. Inside, images are in 0..`image_range`, as
    the method's weights require.
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
        """The features [B, h, w, F], which are the input of the body."""
        return self.head((self.image_range * lr - self.mean).astype(dtype))

    def reconstruct(self, x: Array) -> Array:
        """Computes the SR image from the output of the body.

        Nothing nonlinear lies between the convolutions of this step, so inside the
        image a single one replaces them, at scale 4 with a tenth of the operations.
        At the border each of them pads with zeros, which a single one cannot imitate.
        """
        if self.is_initializing() or is_plain() or min(x.shape[1:3]) < _COMPOSED_FROM:
            return self.reconstruct_stepwise(x)
        sr, s = self.reconstruct_inside(x), self.scale
        for axis in (1, 2):
            part = partial(slice_in_dim, axis=axis)
            # The outermost pixels depend on three.
            ends = jnp.concatenate([part(x, 0, 3), part(x, -3, None)])
            first, last = jnp.split(self.reconstruct_stepwise(ends), 2)
            parts = [part(first, 0, s), part(sr, s, -s), part(last, -s, None)]
            sr = jnp.concatenate(parts, axis)
        return sr

    def reconstruct_stepwise(self, x: Array) -> Array:
        """Computes `reconstruct` one convolution after the other."""
        # The 8 bits of bfloat16 are too few for pixels.
        x = at_least_float32(x)
        with at_full_precision():
            for factor, layer in zip(
                UPSCALER_STEPS[self.scale], self.upscale, strict=True
            ):
                x = pixel_shuffle(layer(x), factor)
            x = self.tail(x)
        return self._pixels(x)

    def reconstruct_inside(self, x: Array) -> Array:
        """Computes `reconstruct` correctly except for the outermost LR pixels."""
        factors = UPSCALER_STEPS[self.scale]
        rest = self.tail.kernel_and_bias
        for factor, layer in zip(factors[::-1], self.upscale[::-1], strict=True):
            rest = fuse_convs(layer.kernel_and_bias, factor, rest)
        x = at_least_float32(x)
        kernel, bias = (part.astype(x.dtype) for part in rest)
        with at_full_precision():
            x = conv(x, kernel) + bias
        for factor in factors:
            x = pixel_shuffle(x, factor)
        return self._pixels(x)

    def _pixels(self, x: Array) -> Array:
        return (x + self.mean) / self.image_range


class BlindNetwork(nn.Module):
    """The network of a method.

    Subclasses set up `estimator`, `projector`, `converter` and `restorer` under these
    names, because parameters, optimiser states and training stages refer to them. The
    network computes in `dtype`, float32 or bfloat16; parameters, inputs and outputs are
    float32. `axis_name` is the axis of the devices over which training is mapped, if
    any. With `remat`, gradients recompute the inside of each block except for saved
    values: this takes a quarter of the memory, and on a CPU it is not slower.
    """

    IMAGE_RANGE: ClassVar[float] = 1.0  # images are in 0..IMAGE_RANGE in the network
    REDUCTION: ClassVar[int] = 4  # of the IDR's resolution

    @property
    def reach(self) -> int:
        """Reach of the estimator's convolutions, in LR pixels.

        It is rounded up to a multiple of `REDUCTION`.
        """
        return 12

    def __call__(self, lr: Array, privileged: Array | None = None) -> Restoration:
        """Restores in evaluation mode, with BatchNorm's running statistics."""
        return self.restore(lr, self.encode(lr, privileged))

    def encode(
        self,
        lr: Array,
        privileged: Array | None = None,
        *,
        visits: Sequence[int] | None = None,
    ) -> Array:
        """The IDR [B, h', w', C]; with `visits`, in training mode over [D, B, ...].

        A teacher's estimator gets `privileged` after the LR image's channels.
        """
        lr = self.IMAGE_RANGE * lr
        if privileged is not None:
            beside = self.spread(privileged)
            beside = jnp.broadcast_to(beside, (*lr.shape[:-1], beside.shape[-1]))
            lr = jnp.concatenate([lr, beside], -1)
        return at_least_float32(self.estimator(lr.astype(self.dtype), visits))

    def spread(self, privileged: Array) -> Array:
        """Spreads the privileged input as channels [B, h or 1, w or 1, P]."""
        raise NotImplementedError  # methods without a teacher have no such input

    def project(self, idr: Array) -> Array:
        """The embedding [B, E] of the IDR, for the losses of training."""
        return at_least_float32(self.projector(idr.astype(self.dtype)))

    def convert(self, idr: Array, size: tuple[int, int]) -> tuple[Array, ...]:
        """The modulators of an IDR; `size` is the LR image's (h, w)."""
        raise NotImplementedError

    def new_restorer(self) -> Restorer:
        """Makes the restorer of this network."""
        raise NotImplementedError

    def restore(self, lr: Array, idr: Array) -> Restoration:
        """The SR image of `lr`, given its IDR."""
        modulators = self.convert(idr, (lr.shape[1], lr.shape[2]))
        return Restoration(self.upscale(lr, *modulators), *modulators)

    def upscale(self, lr: Array, *modulators: Array) -> Array:
        """The SR image of `lr`, given the modulators."""
        return self.restorer(lr, *(x.astype(self.dtype) for x in modulators))


def check_scale(scale: int) -> None:
    """Raises ValueError for an unsupported scale."""
    if scale not in UPSCALER_STEPS:
        raise ValueError(f"scale {scale} is not one of {list(UPSCALER_STEPS)}")


def initialise(
    network: BlindNetwork, key: Array, privileged: Array | None, *, projects: bool
) -> dict[str, Any]:
    """Makes random variables {"params", "batch_stats"}, initialised as in torch.

    `privileged` is an example for one image, or None if the estimator has no such
    input; `projects` selects whether there is a projector.
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
