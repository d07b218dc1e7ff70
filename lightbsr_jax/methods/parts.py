"""The interface for forward passes whose maps are too large to compute at once.

A method writes its forward pass once, in terms of the verbs of `Parts`. Inference
defines what a map is and how it is cut, and may compute it tile by tile on several
devices. A stage uses the pixels around a tile and, from the rest of the image, only
means over whole maps that were computed before. The result is therefore exact for any
size of tile.

Each function that a method passes to a verb is compiled once, so functions must be
module-level objects, not made at every call. Values that differ between calls (the
number of a group or a block) are arguments.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import flax.linen as nn
import jax
from jax import Array

from lightbsr_jax.methods.network import BlindNetwork

Tree = Any  # of parameters, or {"params", "batch_stats"}
Map = Any  # [1, h, w, C] in parts, for instance in tiles
Vector = Any  # a small array, not cut


class Parts(Protocol):
    """The verbs. An object stands for the pass of one image through one network."""

    def map(
        self,
        function: Callable[..., Array],
        reach: int,
        *maps: Map,
        given: tuple[Any, ...] = (),
        into: Map | None = None,
        averaged: bool = False,
    ) -> Map:
        """Computes `function(network, variables, *maps, *given)` part by part.

        Its convolutions together reach `reach` pixels of the LR image, and see zeros
        beyond the image. If a map has another resolution than the LR image, the reach
        scales with it. The result is a new map, or is written `into` one that is no
        longer needed (possibly one of `maps`). With `averaged` its mean is computed as
        well.
        """
        ...

    def mean(self, of: Map) -> Vector:
        """The mean [1, C] over a whole map made with `averaged`."""
        ...

    def vector(self, function: Callable[..., Array], *given: Any) -> Vector:
        """Computes `function(network, variables, *given)` once for the image."""
        ...


class InParts(NamedTuple):
    """The forward pass of a method's networks in parts.

    The estimator, both ends of the restorer and the last convolution "conv" of its body
    are common to all methods and not part of this.
    """

    # (network, parts, idr, its mean [C]) to the modulators of `BlindNetwork.convert`.
    modulators: Callable[..., tuple[Map | Vector, ...]]
    # (network, parts, features, *modulators) to the input of the body's last
    # convolution. It may overwrite features and modulators. The features have a mean.
    body: Callable[..., Map]


def at(stacked: Tree, *place: Array) -> Tree:
    """Selects the parameters of one of the modules stacked on leading axes."""
    return jax.tree.map(lambda leaf: leaf[place], stacked)


def applied(module: nn.Module, params: Tree, *arguments: Any) -> Any:
    """Applies a module on its own."""
    return module.apply({"params": params}, *arguments)


def body_params(variables: Tree) -> Tree:
    """The parameters of a restorer's body."""
    return variables["params"]["restorer"]["body"]


def vector_alone(
    network: BlindNetwork, parts: Parts, idr: Map, mean: Vector
) -> tuple[Vector, ...]:
    """The modulators of a method whose converter uses only the mean of the IDR."""
    return (parts.vector(convert_mean, mean),)


def convert_mean(network: BlindNetwork, variables: Tree, mean: Array) -> Array:
    """The modulating vector [1, F] for the IDR's mean [C]."""
    idr = mean[None, None, None]
    return network.apply(variables, idr, (1, 1), method="convert")[0]
