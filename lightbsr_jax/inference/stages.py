"""The compiled programs that compute a network tile by tile.

`part` computes one stage of a network on one tile. The estimator, the converter and
each block of the body need the pixels around a tile and, from the rest of the image, at
most a mean of the previous stage. Each stage is therefore computed for all tiles before
the next one begins, and returns sums for its mean. `reconstruct` is the last stage of
all networks.

Both take a tile with its neighbours (see `tiles`) and a window that locates the tile in
the image. The arithmetic is that of the network's own modules.

A tile and all its inputs are on one device; `variables` are those of the network.
"""

from collections.abc import Callable
from functools import partial
from math import gcd
from typing import Any, NamedTuple

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
from lightbsr_jax.methods.network import BlindNetwork
from lightbsr_jax.methods.parts import applied
from lightbsr_jax.networks.layers import Conv

RECONSTRUCT = 4  # reach of the convolutions of `reconstruct`, in LR pixels
_NO_SUMS = 0.0

Tree = dict[str, Any]


class Stage(NamedTuple):
    """Static description of a compiled stage."""

    function: Callable[..., Array]  # of network, variables, tiles with halo, others
    reach: int  # reach of its convolutions, in LR pixels: the halo
    averaged: bool  # whether to return sums
    every: int  # keep one of so many rows and columns of the output


@partial(inference_jit, static_argnums=(0, 1, 2))
def part(
    stage: Stage,
    network: BlindNetwork,
    rows: int,
    variables: Tree,
    window: Window,
    tiles: tuple[Neighbours, ...],
    given: tuple[Any, ...],
) -> tuple[Array, Array | float]:
    """Computes a stage on a tile `rows` LR pixels high, and the sums [C + 1] over it.

    The resolutions of inputs and output may differ from that of the LR image.
    """
    inputs = [with_halo(x, _scaled(stage.reach, x[1][1], rows)) for x in tiles]
    high = rows + 2 * stage.reach
    with at_the_border(window, high):
        x = stage.function(network, variables, *inputs, *given)
    halo = _scaled(stage.reach, x, high)
    sums = _NO_SUMS
    if stage.averaged:
        common = gcd(x.shape[1], high)
        sums = _sums(x, window.at(x.shape[1] // common, high // common), halo)
    x = without_halo(x, halo)
    return x[:, :: stage.every, :: stage.every], sums


@partial(inference_jit, static_argnums=(0, 1))
def vector(
    function: Callable[..., Array],
    network: BlindNetwork,
    variables: Tree,
    given: tuple[Any, ...],
) -> Array:
    """Applies `function` to small arrays that are not tiled."""
    return function(network, variables, *given)


def estimated(network: BlindNetwork, variables: Tree, lr: Array) -> Array:
    """The IDR: the first stage of all networks."""
    idr: Any = network.apply(variables, lr, method="encode")
    return idr.astype(network.dtype)


def extracted(network: BlindNetwork, variables: Tree, lr: Array) -> Array:
    """The features that are the input of the body."""
    params = {"params": variables["params"]["restorer"]}
    features: Any = network.new_restorer().apply(
        params, lr, network.dtype, method="extract"
    )
    return features


@partial(inference_jit, static_argnums=(0, 5))
def reconstruct(
    network: BlindNetwork,
    variables: Tree,
    window: Window,
    x_tiles: Neighbours,
    lr_tiles: Neighbours,
    dtype: np.dtype,
) -> tuple[Array, float]:
    """The SR image: uint8 or uint16, rounded and clipped, or float32 in [0, 1]."""
    params = variables["params"]["restorer"]
    x, lr = with_halo(x_tiles, RECONSTRUCT), with_halo(lr_tiles, RECONSTRUCT)
    with at_the_border(window, x.shape[1]):
        features = extracted(network, variables, lr)
        features += applied(Conv(x.shape[-1]), params["body"]["conv"], x)

    def restored(x: Array, method: str) -> Any:
        return network.new_restorer().apply({"params": params}, x, method=method)

    s = network.scale
    sr = restored(window.masked(features), "reconstruct_inside")
    # Recompute the outermost pixels of the image from two pixels around them, step by
    # step, which is correct at the border. A tile without such pixels recomputes
    # others, where both ways are correct.
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


def _scaled(pixels: int, x: Array, rows: int) -> int:
    """Converts LR pixels to the resolution of `x`, whose height spans `rows`."""
    scaled, rest = divmod(pixels * x.shape[1], rows)
    if rest:
        raise ValueError(f"{pixels} LR pixels are not whole pixels of {x.shape}")
    return scaled


def _sums(x: Array, window: Window, halo: int) -> Array:
    """Sums [C + 1] over the part of a tile, without halo, that lies in the image.

    The last one is the number of pixels. Rows are summed first, because long float32
    sums lose digits.
    """
    inner = window._replace(top=window.top + halo, left=window.left + halo)
    x = without_halo(x, halo).astype(jnp.float32)
    pixels = inner.masked(jnp.ones_like(x[..., :1]))
    sums = [inner.masked(part).sum(2).sum(1)[0] for part in (x, pixels)]
    return jnp.concatenate(sums)
