"""Computing LightBSR's converter and body in parts; see `methods.parts`.

R_c is a vector, R_s a map. A block also uses the features' means over the whole image.
"""

from typing import cast

from jax import Array

from lightbsr_jax.methods.lightbsr.adaptation import (
    FEATURES,
    SPATIAL_FEATURES,
    AdaptationBlock,
    ChannelConverter,
    Mixing,
    SpatialConverter,
)
from lightbsr_jax.methods.lightbsr.network import LightBSR
from lightbsr_jax.methods.parts import (
    InParts,
    Map,
    Parts,
    Tree,
    Vector,
    applied,
    at,
    body_params,
    convert_mean,
)
from lightbsr_jax.networks.layers import Conv

# Reach of the convolutions of each stage, in LR pixels.
_CONVERT, _CONVERT_SPATIAL, _BLOCK, _MERGE = 4, 2, 6, 4


def _modulators(
    network: LightBSR, parts: Parts, idr: Map, mean: Vector
) -> tuple[Vector, Map]:
    return parts.vector(convert_mean, mean), parts.map(_spatial, _CONVERT, idr)


def _body(
    network: LightBSR, parts: Parts, features: Map, channel: Vector, spatial: Map
) -> Map:
    x, out = features, None
    for group in range(network.groups):
        if network.switches.converts_channel:
            channel = parts.vector(_convert_channel, group, channel)
        if network.switches.converts_spatial:
            spatial = parts.map(
                _convert_spatial,
                _CONVERT_SPATIAL,
                spatial,
                given=(group,),
                into=spatial,
            )
        y = x
        for index in range(network.blocks):
            given = (group, index, channel, parts.mean(y))
            y = out = parts.map(
                _block, _BLOCK, y, spatial, given=given, into=out, averaged=True
            )
        x = parts.map(_merge, _MERGE, y, x, given=(group,), into=x, averaged=True)
    return x


def _spatial(network: LightBSR, variables: Tree, idr: Array) -> Array:
    """R_s of the IDR."""
    size = 4 * idr.shape[1], 4 * idr.shape[2]
    _, spatial = network.apply(variables, idr, size, method="convert")
    return cast(Array, spatial).astype(network.dtype)


def _convert_channel(
    network: LightBSR, variables: Tree, group: Array, channel: Array
) -> Array:
    params = at(body_params(variables)["groups"]["channel_converter"], group)
    return applied(ChannelConverter(), params, channel.astype(network.dtype))


def _convert_spatial(
    network: LightBSR, variables: Tree, spatial: Array, group: Array
) -> Array:
    params = at(body_params(variables)["groups"]["spatial_converter"], group)
    return applied(SpatialConverter(), params, spatial)


def _block(
    network: LightBSR,
    variables: Tree,
    x: Array,
    spatial: Array,
    group: Array,
    index: Array,
    channel: Array,
    means: Array,
) -> Array:
    params = at(body_params(variables)["groups"]["blocks"], group, index)
    means = means[:, SPATIAL_FEATURES:].astype(x.dtype)
    block = AdaptationBlock(network.switches)
    return applied(block, params, x, channel, spatial, means)[0]


def _merge(
    network: LightBSR, variables: Tree, x: Array, features: Array, group: Array
) -> Array:
    """The end of a group: a ConvNeXt block and a convolution, plus its input."""
    params = at(body_params(variables)["groups"], group)
    x = x + applied(Mixing(), params["convnext"], x)
    return features + applied(Conv(FEATURES), params["conv"], x)


IN_PARTS = InParts(_modulators, _body)
