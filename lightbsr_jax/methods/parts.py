"""The forward pass of a network whose maps are too large to be computed whole.

A method writes it once, in terms of the verbs of `Parts`; inference says what a map is
and how it is cut up, and may compute it tile by tile on several devices. Of the rest of
the image a stage sees the pixels around a tile and, at most, means over whole maps that
were made before: that is what makes the result exact at any size of tile.

The functions that methods give to the verbs are compiled once each, so they are made
once, not at every call; all numbers that differ between calls (which group, which
block) are arguments.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import flax.linen as nn
import jax
from jax import Array

from lightbsr_jax.methods.network import BlindNetwork

Tree = Any  # of parameters, or {"params", "batch_stats"}
Map = Any  # [1, h, w, C] in parts, for instance in tiles
Vector = Any  # an array that is small and whole


class Parts(Protocol):
    """The verbs. One object is one network and one image on its way through it."""

    def map(
        self,
        function: Callable[..., Array],
        reach: int,
        *maps: Map,
        given: tuple[Any, ...] = (),
        into: Map | None = None,
        averaged: bool = False,
    ) -> Map:
        """`function(network, variables, *maps, *given)`, computed part by part.

        Its convolutions see `reach` pixels of the LR image far, together, and zeros
        beyond the image. A map may have another resolution than the LR image's, then
        the reach is a multiple of it. The result is a new map, or is written `into` one
        that is no longer needed (maybe one of `maps`). With `averaged` its mean is
        computed on the way.
        """
        ...

    def mean(self, of: Map) -> Vector:
        """The mean [1, C] over a whole map, which was made with `averaged`."""
        ...

    def vector(self, function: Callable[..., Array], *given: Any) -> Vector:
        """`function(network, variables, *given)`, computed once for the image."""
        ...


class InParts(NamedTuple):
    """How a method's networks are computed in parts.

    The estimator, the restorer's ends and the convolution "conv", which with the
    features is the end of a body, are common to all methods and not in here.
    """

    # (network, parts, idr, its mean [C]) to the modulators of `BlindNetwork.convert`.
    modulators: Callable[..., tuple[Map | Vector, ...]]
    # (network, parts, features, *modulators) to the map that the body's last
    # convolution sees. Features and modulators may be written over. The features come
    # with their mean.
    body: Callable[..., Map]


def at(stacked: Tree, *place: Array) -> Tree:
    """The parameters of one module of those that are stacked on leading axes."""
    return jax.tree.map(lambda leaf: leaf[place], stacked)


def applied(module: nn.Module, params: Tree, *arguments: Any) -> Any:
    """The output of a module by itself."""
    return module.apply({"params": params}, *arguments)


def body_params(variables: Tree) -> Tree:
    """The parameters of a restorer's body."""
    return variables["params"]["restorer"]["body"]


def vector_alone(
    network: BlindNetwork, parts: Parts, idr: Map, mean: Vector
) -> tuple[Vector, ...]:
    """The modulators of a method whose converter sees the IDR's mean alone."""
    return (parts.vector(convert_mean, mean),)


def convert_mean(network: BlindNetwork, variables: Tree, mean: Array) -> Array:
    """The vector [1, F] that modulates, of the IDR's mean [C]."""
    idr = mean[None, None, None]
    return network.apply(variables, idr, (1, 1), method="convert")[0]
