"""Computing bodies of blocks (x, idr) -> (x, None) in parts, for a vector IDR [1, F].

A body is a row "blocks", or "groups" of rows, each of which ends in a 3 x 3 convolution
"conv", plus the input of the group.
"""

from collections.abc import Callable

import flax.linen as nn
from jax import Array

from lightbsr_jax.methods.network import BlindNetwork
from lightbsr_jax.methods.parts import (
    InParts,
    Map,
    Parts,
    Tree,
    Vector,
    applied,
    at,
    body_params,
    vector_alone,
)
from lightbsr_jax.networks.layers import Conv

_MERGE_REACH = 1


def blocks_in_parts(block: nn.Module, reach: int) -> InParts:
    """A body of one row of blocks whose reach is `reach` pixels."""
    row = _row(block, reach)

    def body(network: BlindNetwork, parts: Parts, features: Map, idr: Vector) -> Map:
        return row(network, parts, features, idr, (), None)

    return InParts(vector_alone, body)


def groups_in_parts(block: nn.Module, reach: int) -> InParts:
    """A body of groups of rows of blocks whose reach is `reach` pixels."""
    row = _row(block, reach)

    def body(network: BlindNetwork, parts: Parts, features: Map, idr: Vector) -> Map:
        x, out = features, None
        for group in range(network.groups):
            out = row(network, parts, x, idr, (group,), out)
            x = parts.map(_merge, _MERGE_REACH, out, x, given=(group,), into=x)
        return x

    return InParts(vector_alone, body)


def _row(block: nn.Module, reach: int) -> Callable[..., Map]:
    def one(
        network: BlindNetwork,
        variables: Tree,
        x: Array,
        place: tuple[Array, ...],
        idr: Array,
    ) -> Array:
        """Applies the block at a `place`, (group, index) or (index,)."""
        body = body_params(variables)
        params = at(body.get("groups", body)["blocks"], *place)
        return applied(block, params, x, idr.astype(x.dtype))[0]

    def row(
        network: BlindNetwork,
        parts: Parts,
        x: Map,
        idr: Vector,
        group: tuple[int, ...],
        out: Map | None,
    ) -> Map:
        """Applies all blocks of a row; the result overwrites `out`, but not `x`."""
        for index in range(network.blocks):
            x = out = parts.map(one, reach, x, given=((*group, index), idr), into=out)
        return x

    return row


def _merge(
    network: BlindNetwork, variables: Tree, x: Array, features: Array, group: Array
) -> Array:
    """The end of a group: its convolution, plus its input."""
    params = at(body_params(variables)["groups"]["conv"], group)
    return features + applied(Conv(x.shape[-1]), params, x)
