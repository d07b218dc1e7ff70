"""Operators of the networks, each formulated for the backend that runs it.

`plain` defines them, `cpu` has formulations that are faster on a CPU, and `lanes` on a
TPU. Only this module chooses between them; `plain_ops` selects `plain` everywhere.

On a TPU maps may be packed, with several `columns` side by side among the channels (see
`lanes`): a module gets their number from `columns_in_lanes` and passes it on.
"""

from contextlib import AbstractContextManager
from functools import partial
from math import sqrt
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax

from lightbsr_jax import target
from lightbsr_jax.networks import cpu, lanes, plain
from lightbsr_jax.networks.plain import at_least_float32

# Part of the key of JAX's caches, so that functions are traced again in the context.
_is_plain = jax.make_user_context(False)


def plain_ops() -> AbstractContextManager[None]:
    """Context in which every operator is traced as in `plain`, on any backend.

    This gives the published network, for counting operations, comparison and export.
    """
    return _is_plain(True)


def is_plain() -> bool:
    """Returns whether `plain_ops` is active."""
    return _is_plain.value


def _uses_cpu_formulations() -> bool:
    return target.platform() == "cpu" and not is_plain()


def columns_in_lanes(x: Array) -> int:
    """Number of columns to `pack` in maps like x [B, h, w, C]; 1 is for no packing."""
    packs = target.platform() == "tpu" and not is_plain()
    return lanes.COLUMNS if packs and x.shape[2] % lanes.COLUMNS == 0 else 1


def pack(x: Array, columns: int) -> Array:
    """x [B, h, w, C] as [B, h, w / columns, columns C]; see `lanes`."""
    return x if columns == 1 else lanes.pack(x, columns)


def unpack(x: Array, columns: int) -> Array:
    """The inverse of `pack`."""
    return x if columns == 1 else lanes.unpack(x, columns)


def for_columns(x: Array, columns: int) -> Array:
    """Values of channels [..., C] for packed maps: [..., columns C]."""
    return x if columns == 1 or not x.ndim else lanes.vector(x, columns)


def at_full_precision() -> AbstractContextManager[Any]:
    """Context for products and convolutions of pixels, in float32 on any backend.

    (By default TPUs multiply in bfloat16, and GPUs in TF32.)
    """
    if target.platform() == "cpu":
        return target.wide_products()
    return jax.default_matmul_precision("highest")


def gelu(x: Array) -> Array:
    """Exact GELU. (`jax.nn.gelu` goes through erfc, twice as slow on a CPU.)

    With `target.narrow_products` it is exact up to 2e-4.
    """
    if target.has_narrow_products() and _uses_cpu_formulations():
        return cpu.gelu(x)
    return 0.5 * x * (1 + lax.erf(x * sqrt(0.5)))


def leaky_relu(x: Array) -> Array:
    """LeakyReLU with the slope 0.1 of all methods."""
    return nn.leaky_relu(x, 0.1)


def global_mean(x: Array, columns: int = 1) -> Array:
    """Mean over rows and columns, summed in float32: [B, h, w, C] to [B, C]."""
    wide = at_least_float32(x)
    if columns > 1:
        total = lanes.sum_of_columns(wide.mean((1, 2)), columns)
        return (total / columns).astype(x.dtype)
    if not _uses_cpu_formulations():
        return wide.mean((1, 2)).astype(x.dtype)
    return cpu.global_mean(wide).astype(x.dtype)


def moments(x: Array, axis_name: str | None) -> tuple[Array, Array]:
    """Means and variances [D, 1, 1, 1, C] of each crop's maps x [D, B, h, w, C].

    They are over B, h, w and all devices of the axis. Accelerators gather both at once,
    because latency costs more than the data.
    """

    def own(x: Array) -> Array:
        return x.mean((1, 2, 3), keepdims=True)

    def everywhere(x: Array) -> Array:
        return x if axis_name is None else lax.pmean(x, axis_name)

    if axis_name is None or target.platform() == "cpu":
        mean = everywhere(own(x))
        return mean, everywhere(own(jnp.square(x - mean)))
    here = own(x)
    both = jnp.stack([here, own(jnp.square(x - here))])
    means, variances = jnp.moveaxis(lax.all_gather(both, axis_name), 1, 0)
    mean = means.mean(0)
    return mean, (variances + jnp.square(means - mean)).mean(0)


def channel_mean(x: Array, columns: int, dtype: jnp.dtype) -> Array:
    """Mean over channels, which stay as an axis of 1, or of all lanes if packed.

    x is float32. If packed, it is rounded to `dtype`, the type of the map that it was
    computed from, and summed in float32.
    """
    if columns > 1:
        return lanes.channel_mean(x.astype(dtype), columns)
    if not _uses_cpu_formulations():
        return x.mean(-1, keepdims=True)
    return cpu.channel_mean(x)


def pixel_shuffle(x: Array, factor: int) -> Array:
    """Depth to space, [B, h, w, C f^2] to [B, h f, w f, C], in torch's channel order.

    Input channel `c f^2 + i f + j` becomes output channel c at row i, column j.
    """
    b, h, w, c = x.shape
    x = x.reshape(b, h, w, c // factor**2, factor, factor)
    return x.transpose(0, 1, 4, 2, 5, 3).reshape(b, h * factor, w * factor, -1)


def pixel_unshuffle(x: Array, factor: int) -> Array:
    """The inverse of `pixel_shuffle`: [B, h f, w f, C] to [B, h, w, C f^2]."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // factor, factor, w // factor, factor, c)
    return x.transpose(0, 1, 3, 5, 2, 4).reshape(b, h // factor, w // factor, -1)


def conv(x: Array, kernel: Array, stride: int = 1, columns: int = 1) -> Array:
    """Computes `plain.conv`, formulated for the backend.

    Packed maps take a stride of 1 and odd kernels only.
    """
    if columns > 1:
        return lanes.conv(x, kernel, columns)
    odd = all(k % 2 for k in kernel.shape[:2])
    if odd and stride == 1 and _uses_cpu_formulations():
        return cpu.conv(x, kernel)
    return plain.conv(x, kernel, stride)


def depthwise_conv(x: Array, kernel: Array, bias: Array, columns: int = 1) -> Array:
    """Computes `plain.depthwise_conv`, formulated for the backend."""
    if columns > 1:
        return lanes.depthwise_conv(x, kernel, bias, columns)
    if _uses_cpu_formulations():
        return cpu.depthwise_conv(x, kernel, bias)
    if target.platform() == "tpu" and not is_plain():
        zero = jnp.zeros_like(bias)
        return lanes.barred(partial(plain.depthwise_conv, bias=zero), x, kernel) + bias
    return plain.depthwise_conv(x, kernel, bias)


def dense(x: Array, kernel: Array, bias: Array, columns: int = 1) -> Array:
    """Computes `plain.dense`, formulated for the backend."""
    if columns > 1:
        return lanes.dense(x, kernel, bias, columns)
    if _uses_cpu_formulations():
        return cpu.dense(x, kernel, bias)
    return plain.dense(x, kernel, bias)


def _image_taps(x: Array, kernel: Array) -> list[tuple[Array, Array]]:
    """Weights [B, 1, 1, C] of the taps, and the shifted copies they apply to."""
    weights = kernel.reshape(len(kernel), -1, 1, 1, x.shape[-1]).swapaxes(0, 1)
    return list(zip(weights, plain.taps(x, kernel[0]), strict=True))


@jax.custom_vjp
def _shifted_image_conv(x: Array, kernel: Array) -> Array:
    return plain.total(weight * seen for weight, seen in _image_taps(x, kernel))


def _shifted_image_forward(
    x: Array, kernel: Array
) -> tuple[Array, tuple[Array, Array]]:
    return _shifted_image_conv(x, kernel), (x, kernel)


def _shifted_image_backward(
    residuals: tuple[Array, Array], gradient: Array
) -> tuple[Array, Array]:
    x, kernel = residuals
    dx = _shifted_image_conv(gradient, kernel[:, ::-1, ::-1])
    if _uses_cpu_formulations():
        sums = cpu.tap_sums(plain.pad(x, kernel[0]), gradient, kernel.shape[1])
        return dx, jnp.moveaxis(sums, 2, 0).astype(kernel.dtype)
    taps = [(tap * gradient).sum(1).sum(1) for tap in plain.taps(x, kernel[0])]
    return dx, jnp.stack(taps, 1).reshape(kernel.shape)


_shifted_image_conv.defvjp(_shifted_image_forward, _shifted_image_backward)


def image_depthwise_conv(x: Array, kernel: Array) -> Array:
    """Computes `plain.image_depthwise_conv` as shifted multiply-adds.

    (As a convolution it would have B C groups, which is slow on every backend.)
    """
    if is_plain():
        return plain.image_depthwise_conv(x, kernel)
    return _shifted_image_conv(x, kernel)


def fuse_convs(
    first: tuple[Array, Array], factor: int, then: tuple[Array, Array]
) -> tuple[Array, Array]:
    """Fuses a convolution, `pixel_shuffle` and a second convolution into one.

    Each is a kernel and a bias: `first` [3, 3, I, M f^2], `then` [k, k, M, O] with k 3
    or 5. The result's kernel is [5, 5, I, O f^2]; its output must still be shuffled.
    Results differ at the border: the second convolution pads the output of the first
    with zeros, but the fused one pads only its input.
    """
    kernel, bias = first
    # The first's responses to a single pixel of 1 in each input, and to zeros.
    images = jnp.concatenate(
        [
            kernel[::-1, ::-1].transpose(2, 0, 1, 3),
            jnp.broadcast_to(bias, (1, *kernel.shape[:2], len(bias))),
        ]
    )
    images = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    with jax.default_matmul_precision("highest"):  # these are weights
        images = conv(pixel_shuffle(images, factor), then[0])
    images = pixel_unshuffle(images, factor)
    kernel = images[:-1, ::-1, ::-1].transpose(1, 2, 0, 3)
    return kernel, images[-1, 2, 2] + jnp.repeat(then[1], factor**2)
