"""The network in stages that are computed tile by tile.

The estimator, the converter and each block of the body need the pixels around a tile
and, of the rest of the image, at most a mean of the stage before: so each stage is
computed for all tiles before the next one begins, and gives sums for its mean.
A stage takes tiles amid their neighbours (see `tiles`), and the window is where the
image lies. The arithmetic is that of the network's own modules.

A tile and all it needs are on one device; `variables` are the network's.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from lightbsr_jax.compilation import inference_jit
from lightbsr_jax.inference.tiles import (
    Neighbours,
    Window,
    at_the_border,
    with_halo,
    without_halo,
)
from lightbsr_jax.methods.lightbsr.adaptation import (
    FEATURES,
    SPATIAL_FEATURES,
    AdaptationBlock,
    ChannelConverter,
    Mixing,
    SpatialConverter,
)
from lightbsr_jax.methods.lightbsr.network import LightBSR
from lightbsr_jax.methods.network import BlindNetwork
from lightbsr_jax.networks.layers import Conv

# How far a stage's convolutions reach, in LR pixels. (The estimator's is its network's
# `reach`: a multiple of 4, so that its strides fall as in the whole image. That of the
# blocks of other methods is BLOCK_REACH.)
CONVERT, EXTRACT = 4, 1
CONVERT_SPATIAL, BLOCK, MERGE, RECONSTRUCT = 2, 6, 4, 4
PLAIN_MERGE = 1
IDR_STEP = 4  # every so many LR pixels the IDR is kept
_NO_SUMS = 0.0

Tree = dict[str, Any]


@partial(inference_jit, static_argnums=0)
def encode(
    network: BlindNetwork, variables: Tree, window: Window, lr: Neighbours
) -> tuple[Array, Array]:
    """The IDR, at a quarter of the resolution, and its sums [C]."""
    lr = with_halo(lr, network.reach)
    with at_the_border(window, lr.shape[1]):
        idr = network.apply(variables, lr, method="encode")
    halo = network.reach // network.REDUCTION
    idr = without_halo(idr, halo).astype(network.dtype)
    step = IDR_STEP // network.REDUCTION
    return idr[:, ::step, ::step], _sums(idr, window.at(1, network.REDUCTION), halo)


@partial(inference_jit, static_argnums=0)
def channel(network: BlindNetwork, variables: Tree, mean: Array) -> Array:
    """The vector that modulates, of the IDR's mean [C]: of LightBSR R_c [1, 48]."""
    idr = mean[None, None, None]
    return network.apply(variables, idr, (1, 1), method="convert")[0]


@partial(inference_jit, static_argnums=0)
def convert(
    network: LightBSR, variables: Tree, window: Window, idr: Neighbours
) -> tuple[Array, float]:
    """R_s of the IDR."""
    idr = with_halo(idr, CONVERT // 4)
    size = 4 * idr.shape[1], 4 * idr.shape[2]
    with at_the_border(window, size[0]):
        _, spatial = network.apply(variables, idr, size, method="convert")
    return without_halo(spatial, CONVERT).astype(network.dtype), _NO_SUMS


@partial(inference_jit, static_argnums=0)
def extract(
    network: BlindNetwork, variables: Tree, window: Window, lr: Neighbours
) -> tuple[Array, Array]:
    """The features that the body starts from; their sums."""
    x = without_halo(_head(network, variables, window, with_halo(lr, EXTRACT)), EXTRACT)
    return x, _channel_sums(x, window, EXTRACT)


@partial(inference_jit, static_argnums=0)
def convert_channel(
    network: LightBSR, variables: Tree, group: Array, channel: Array
) -> Array:
    """A group's IDR-CB of R_c [1, 48]."""
    if not (network.converter_blocks and network.channel_modulation):
        return channel
    params = _group(variables, group)["channel_converter"]
    channel = channel.astype(network.dtype)
    return ChannelConverter().apply({"params": params}, channel)


@partial(inference_jit, static_argnums=0)
def convert_spatial(
    network: LightBSR,
    variables: Tree,
    window: Window,
    spatial: Neighbours,
    group: Array,
) -> tuple[Array, float]:
    """A group's IDR-CB of R_s."""
    if not (network.converter_blocks and network.spatial_modulation):
        return with_halo(spatial, 0), _NO_SUMS
    params = _group(variables, group)["spatial_converter"]
    spatial = with_halo(spatial, CONVERT_SPATIAL)
    with at_the_border(window, spatial.shape[1]):
        spatial = SpatialConverter().apply({"params": params}, spatial)
    return without_halo(spatial, CONVERT_SPATIAL), _NO_SUMS


@partial(inference_jit, static_argnums=0)
def block(
    network: LightBSR,
    variables: Tree,
    window: Window,
    x: Neighbours,
    spatial: Neighbours,
    group: Array,
    index: Array,
    channel: Array,
    means: Array,
) -> tuple[Array, Array]:
    """A block of a group, given its input's means [1, 48]; its output's sums."""
    params = _at(_group(variables, group)["blocks"], index)
    x, spatial = with_halo(x, BLOCK), with_halo(spatial, BLOCK)
    means = means.astype(x.dtype)
    with at_the_border(window, x.shape[1]):
        x, _ = AdaptationBlock(
            network.spatial_modulation, network.channel_modulation
        ).apply({"params": params}, x, channel, spatial, means)
    x = without_halo(x, BLOCK)
    return x, _channel_sums(x, window, BLOCK)


@partial(inference_jit, static_argnums=0)
def merge(
    network: LightBSR,
    variables: Tree,
    window: Window,
    x: Neighbours,
    features: Neighbours,
    group: Array,
) -> tuple[Array, Array]:
    """A group's end: its ConvNeXt block and convolution, plus the group's input."""
    params = _group(variables, group)
    x = with_halo(x, MERGE)
    with at_the_border(window, x.shape[1]):
        x = x + Mixing().apply({"params": params["convnext"]}, x)
        x = Conv(FEATURES).apply({"params": params["conv"]}, x)
    x = with_halo(features, 0) + without_halo(x, MERGE)
    return x, _channel_sums(x, window, MERGE)


@partial(inference_jit, static_argnums=0)
def plain_block(
    network: BlindNetwork,
    variables: Tree,
    window: Window,
    x: Neighbours,
    place: tuple[Array, ...],
    idr: Array,
) -> tuple[Array, float]:
    """The block at a `place`, (group, index) or (index,), by the vector `idr` [1, F].

    Of the methods beside LightBSR.
    """
    body = variables["params"]["restorer"]["body"]
    params = _at(body.get("groups", body)["blocks"], place)
    x = with_halo(x, network.BLOCK_REACH)
    with at_the_border(window, x.shape[1]):
        x, _ = network.new_block().apply({"params": params}, x, idr.astype(x.dtype))
    return without_halo(x, network.BLOCK_REACH), _NO_SUMS


@partial(inference_jit, static_argnums=0)
def plain_merge(
    network: BlindNetwork,
    variables: Tree,
    window: Window,
    x: Neighbours,
    features: Neighbours,
    group: Array,
) -> tuple[Array, float]:
    """The end of a group of such blocks: its convolution, plus the group's input."""
    params = _group(variables, group)["conv"]
    x = with_halo(x, PLAIN_MERGE)
    with at_the_border(window, x.shape[1]):
        x = Conv(x.shape[-1]).apply({"params": params}, x)
    return with_halo(features, 0) + without_halo(x, PLAIN_MERGE), _NO_SUMS


@partial(inference_jit, static_argnums=(0, 5))
def reconstruct(
    network: BlindNetwork,
    variables: Tree,
    window: Window,
    x: Neighbours,
    lr: Neighbours,
    dtype: np.dtype,
) -> tuple[Array, float]:
    """The SR image: uint8 or uint16, rounded and clipped, or float32 in [0, 1]."""
    params = variables["params"]["restorer"]
    x, lr = with_halo(x, RECONSTRUCT), with_halo(lr, RECONSTRUCT)
    features = _head(network, variables, window, lr)
    with at_the_border(window, x.shape[1]):
        features += Conv(x.shape[-1]).apply({"params": params["body"]["conv"]}, x)

    def restored(x: Array, method: str) -> Array:
        return network.new_restorer().apply({"params": params}, x, method=method)

    s = network.scale
    sr = restored(window.masked(features), "reconstruct_inside")
    # The image's outermost pixels anew (or others, where a tile has none of them), by
    # what is right for all, of two pixels around them.
    ends = (("top", window.height), ("left", window.width))
    for axis, (start, size) in enumerate(ends, start=1):
        begin = getattr(window, start)
        for outermost in (-begin, size - 1 - begin):
            first = jnp.clip(outermost - 2, 0, features.shape[axis] - 5)
            strip = lax.dynamic_slice_in_dim(features, first, 5, axis)
            with at_the_border(
                window._replace(**{start: begin + first}), strip.shape[1]
            ):
                strip = restored(strip, "reconstruct_stepwise")
            strip = lax.slice_in_dim(strip, 2 * s, 3 * s, axis=axis)
            sr = lax.dynamic_update_slice_in_dim(sr, strip, s * (first + 2), axis)
    sr = without_halo(sr, s * RECONSTRUCT)
    if dtype != jnp.float32:
        levels = jnp.iinfo(dtype).max
        sr = jnp.round(jnp.clip(sr, 0, 1) * levels).astype(dtype)
    return sr, _NO_SUMS


def _head(network: BlindNetwork, variables: Tree, window: Window, lr: Array) -> Array:
    params = {"params": variables["params"]["restorer"]}
    with at_the_border(window, lr.shape[1]):
        return network.new_restorer().apply(params, lr, network.dtype, method="extract")


def _group(variables: Tree, group: Array) -> Tree:
    return _at(variables["params"]["restorer"]["body"]["groups"], group)


def _at(stacked: Tree, index: Array) -> Tree:
    return jax.tree.map(lambda leaf: leaf[index], stacked)


def _channel_sums(x: Array, window: Window, halo: int) -> Array:
    """Sums of the features that a block's channel modulation pools."""
    return _sums(x[..., SPATIAL_FEATURES:], window, halo)


def _sums(x: Array, window: Window, halo: int) -> Array:
    """Sums [C] over the part of a tile without halo that lies in the image.

    By rows first: long float32 sums lose digits.
    """
    inner = window._replace(top=window.top + halo, left=window.left + halo)
    return inner.masked(x.astype(jnp.float32)).sum(2).sum(1)[0]
