"""Writing LightBSR as an ONNX graph; see `methods.onnx_graph`."""

from typing import Any

import numpy as np

from lightbsr_jax.errors import UserError
from lightbsr_jax.methods import onnx_graph
from lightbsr_jax.methods.lightbsr.adaptation import (
    CHANNEL_FEATURES,
    SPATIAL_FEATURES,
    Switches,
)
from lightbsr_jax.methods.lightbsr.network import LightBSR
from lightbsr_jax.methods.onnx_graph import INPUT, Graph, Tree


def write(graph: Graph, network: LightBSR, variables: dict[str, Any]) -> None:
    """Writes a whole student, from INPUT to OUTPUT. Raises UserError for ablations."""
    if network.switches != Switches():
        raise UserError("ablations cannot be exported as ONNX: export to .stablehlo")
    params, statistics = onnx_graph.as_numpy(variables)
    idr = onnx_graph.estimator(
        graph, INPUT, params["estimator"], statistics["estimator"]
    )
    idr = graph.idr(idr, params["estimator"]["conv_5"])
    channel, spatial = _converter(graph, idr, params["converter"])

    def body(x: str) -> str:
        r_c, r_s = channel, spatial
        for number in range(network.groups):
            group = onnx_graph.layer(params["restorer"]["body"]["groups"], number)
            with graph.scope(f"group_{number}"):
                x, r_c, r_s = _group(graph, x, r_c, r_s, group)
        return x

    onnx_graph.restorer(graph, network, params["restorer"], body)


def _converter(graph: Graph, idr: str, params: Tree) -> tuple[str, str]:
    with graph.scope("converter"):
        channel = graph.op("GlobalAveragePool", idr)
        channel = graph.gelu_conv(channel, params["channel"])
        height_and_width = map(graph.constant, ([2], [4]))
        size = graph.op("Slice", graph.op("Shape", INPUT), *height_and_width)
        spatial = graph.pixel_shuffle(idr, 4)
        if graph.part == "restorer":  # the IDR is a vector, the same everywhere
            spatial = _repeated(graph, spatial, size)
        # The estimator rounds up sizes that 4 does not divide.
        zeros, axes = graph.constant(np.zeros(2, np.int64)), graph.constant([2, 3])
        spatial = graph.op("Slice", spatial, zeros, size, axes)
        return channel, graph.gelu_conv(spatial, params["spatial"])


def _repeated(graph: Graph, block: str, size: str) -> str:
    """Repeats a block [B, C, 4, 4] until it covers `size`, (height, width)."""
    blocks = graph.op("Add", size, graph.constant([3, 3]))
    blocks = graph.op("Div", blocks, graph.constant([4, 4]))
    counts = graph.op("Concat", graph.constant([1, 1]), blocks, axis=0)
    return graph.op("Tile", block, counts)


def _group(
    graph: Graph, features: str, channel: str, spatial: str, group: Tree
) -> tuple[str, str, str]:
    def converted(idr: str, name: str) -> str:
        with graph.scope(name):
            hidden = graph.gelu_conv(idr, group[name]["expand"])
            return graph.op("Add", idr, graph.gelu_conv(hidden, group[name]["reduce"]))

    channel = converted(channel, "channel_converter")
    spatial = converted(spatial, "spatial_converter")
    x = features
    for number in range(len(group["blocks"]["mixing"]["layer_scale"])):
        block = onnx_graph.layer(group["blocks"], number)
        with graph.scope(f"block_{number}"):
            x = _block(graph, x, channel, spatial, block)
    with graph.scope("convnext"):
        x = graph.op("Add", x, _mixing(graph, x, group["convnext"]))
    return graph.op("Add", features, graph.conv(x, group["conv"])), channel, spatial


def _block(graph: Graph, x: str, channel: str, spatial: str, block: Tree) -> str:
    first, others = graph.split(x, [SPATIAL_FEATURES, CHANNEL_FEATURES])
    layers = block["spatial"]
    with graph.scope("spatial"):
        mask = graph.op("Concat", spatial, first, axis=1)
        mask = graph.gelu_conv(mask, layers["mask_hidden"])
        mask = graph.op("Sigmoid", graph.conv(mask, layers["mask"]))
        first = graph.conv(graph.op("Mul", first, mask), layers["conv"])

    layers = block["channel"]
    with graph.scope("channel"):
        weight = graph.op("GlobalAveragePool", others)
        weight = graph.op("Concat", weight, channel, axis=1)
        weight = graph.gelu_conv(weight, layers["weight_hidden"])
        weight = graph.op("Sigmoid", graph.conv(weight, layers["weight"]))
        others = graph.op("Mul", others, weight)

    mixed = graph.gelu(graph.op("Concat", first, others, axis=1))
    with graph.scope("mixing"):
        return graph.op("Add", x, _mixing(graph, mixed, block["mixing"]))


def _mixing(graph: Graph, x: str, layers: Tree) -> str:
    depthwise = layers["depthwise"]
    x = graph.conv(x, depthwise, group=depthwise["kernel"].shape[-1])
    x = graph.op("Transpose", x, perm=[0, 2, 3, 1])
    x = graph.layer_norm(x, layers["norm"], 1e-6)
    x = graph.gelu(graph.dense(x, layers["expand"]))
    x = graph.dense(x, layers["reduce"])
    x = graph.op("Mul", x, graph.constant(layers["layer_scale"]))
    return graph.op("Transpose", x, perm=[0, 3, 1, 2])
