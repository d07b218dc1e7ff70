"""The U-Net discriminator with spectral normalisation, for training with a GAN loss.

It is that of Real-ESRGAN, which KDSR's last stage uses as well. The norm of a kernel,
its largest singular value, is estimated by power iteration, which continues from one
pass to the next. Its vectors are explicit state: a collection VECTORS of variables
that a pass reads, and that `iterate` advances.
"""

from math import prod
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax

from lightbsr_jax.networks.layers import Conv, torch_uniform
from lightbsr_jax.networks.operators import (
    at_full_precision,
    at_least_float32,
    conv,
)
from lightbsr_jax.networks.plain import NHWC

VECTORS = "vectors"
REDUCTION = 8  # of the coarsest map: images have a multiple of it as height and width

Tree = dict[str, Any]


def _unit(x: Array) -> Array:
    return x / jnp.maximum(jnp.linalg.norm(x), 1e-12)


def power_iteration(kernel: Array, u: Array) -> tuple[Array, Array]:
    """The norm of a kernel [k, k, I, O] as a matrix, and the next vector u [O].

    Gradients of the norm reach the kernel, but not the vectors.
    """
    matrix = kernel.reshape(-1, kernel.shape[-1])
    fixed = lax.stop_gradient(matrix)
    with at_full_precision():
        v = _unit(fixed @ u)
        u = _unit(v @ fixed)
        return (v @ matrix) @ u, u


def iterate(params: Tree, vectors: Tree) -> Tree:
    """The vectors after a pass of a discriminator with these parameters."""
    return {
        name: {"u": power_iteration(params[name]["kernel"], own["u"])[1]}
        for name, own in vectors.items()
    }


def _random_unit(key: Array, shape: tuple[int, ...]) -> Array:
    return _unit(torch_uniform(1)(key, shape))


class SpectralConv(nn.Module):
    """Convolution without bias, with its kernel divided by the kernel's norm.

    The padding is 1 on each side: a size of 4 halves the map with a stride of 2.
    """

    features: int
    size: int = 3
    stride: int = 1

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", torch_uniform(prod(shape[:-1])), shape)
        rng = self.make_rng("params") if self.is_initializing() else None
        u = self.variable(VECTORS, "u", _random_unit, rng, (self.features,))
        norm, _ = power_iteration(kernel, u.value)
        kernel = (kernel / norm).astype(x.dtype)
        if self.size == 3 and self.stride == 1:
            return conv(x, kernel)
        strides, padding = (self.stride, self.stride), [(1, 1), (1, 1)]
        return lax.conv_general_dilated(
            x, kernel, strides, padding, dimension_numbers=NHWC
        )


def double(x: Array) -> Array:
    """Enlarges x [B, h, w, C] by two, bilinearly, as torch does (align_corners=False).

    Rows and columns beyond the border repeat the outermost ones.
    """
    for axis in (1, 2):
        size = x.shape[axis]
        last = lax.slice_in_dim(x, size - 1, size, axis=axis)
        first = lax.slice_in_dim(x, 0, 1, axis=axis)
        before = [first, lax.slice_in_dim(x, 0, size - 1, axis=axis)]
        after = [lax.slice_in_dim(x, 1, size, axis=axis), last]
        pair = [
            0.25 * jnp.concatenate(before, axis) + 0.75 * x,
            0.75 * x + 0.25 * jnp.concatenate(after, axis),
        ]
        shape = (*x.shape[:axis], 2 * size, *x.shape[axis + 1 :])
        x = jnp.stack(pair, axis + 1).reshape(shape)
    return x


def _active(x: Array) -> Array:
    return nn.leaky_relu(x, 0.2)


class Discriminator(nn.Module):
    """Images [B, H, W, 3] in [0, 1] to a logit for each pixel, [B, H, W, 1].

    High logits mean a real image. It computes in `dtype`; the logits and the norms of
    kernels are float32. H and W are multiples of REDUCTION.
    """

    features: int = 64
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: Array) -> Array:
        n = self.features
        x = images.astype(self.dtype)
        maps = [_active(Conv(n, name="conv0")(x))]
        for index, factor in enumerate((2, 4, 8), 1):
            layer = SpectralConv(factor * n, 4, 2, name=f"conv{index}")
            maps.append(_active(layer(maps[-1])))
        x = maps.pop()
        for index, factor in enumerate((4, 2, 1), 4):
            layer = SpectralConv(factor * n, name=f"conv{index}")
            x = _active(layer(double(x))) + maps.pop()
        for index in (7, 8):
            x = _active(SpectralConv(n, name=f"conv{index}")(x))
        return at_least_float32(Conv(1, name="conv9")(x))

    def fresh(self, key: Array) -> tuple[Tree, Tree]:
        """Makes random parameters and vectors of power iteration."""
        image = jnp.zeros((1, REDUCTION, REDUCTION, 3))
        variables = jax.jit(self.init)(key, image)
        return variables["params"], variables[VECTORS]
