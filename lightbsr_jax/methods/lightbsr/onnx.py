"""Writing LightBSR as an ONNX graph; see `methods.onnx_graph`."""

from typing import Any

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
    _refuse_ablations(network)
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


def _refuse_ablations(network: LightBSR) -> None:
    if network.switches != Switches():
        raise UserError("ablations can be exported to .stablehlo alone")


def _converter(graph: Graph, idr: str, params: Tree) -> tuple[str, str]:
    with graph.scope("converter"):
        channel = graph.op("GlobalAveragePool", idr)
        channel = graph.gelu_conv(channel, params["channel"])
        spatial = graph.pixel_shuffle(idr, 4)
        if graph.part == "restorer":  # the IDR is a vector, the same everywhere
            spatial = _repeated(graph, spatial)
        return channel, _spatial(graph, spatial, params)


def _spatial(graph: Graph, shuffled: str, params: Tree) -> str:
    """R_s of the shuffled IDR: the estimator rounds up sizes that 4 does not divide."""
    layer = params["spatial"]
    return graph.gelu_conv(
        graph.cut_to_image(shuffled, layer["kernel"].shape[2]), layer
    )


def _repeated(graph: Graph, block: str) -> str:
    """Repeats a block [B, C, 4, 4] until it covers the image."""
    blocks = graph.op("Add", graph.image_size(), graph.constant([3, 3]))
    blocks = graph.op("Div", blocks, graph.constant([4, 4]))
    counts = graph.op("Concat", graph.constant([1, 1]), blocks, axis=0)
    return graph.op("Tile", block, counts)


def _group(
    graph: Graph, features: str, channel: str, spatial: str, group: Tree
) -> tuple[str, str, str]:
    channel = _converted(graph, channel, group, "channel_converter")
    spatial = _converted(graph, spatial, group, "spatial_converter")
    x = features
    for number in range(len(group["blocks"]["mixing"]["layer_scale"])):
        block = onnx_graph.layer(group["blocks"], number)
        with graph.scope(f"block_{number}"):
            x = _block(graph, x, channel, spatial, block)
    return _merged(graph, x, features, group), channel, spatial


def _converted(graph: Graph, idr: str, group: Tree, name: str) -> str:
    with graph.scope(name):
        hidden = graph.gelu_conv(idr, group[name]["expand"])
        return graph.op("Add", idr, graph.gelu_conv(hidden, group[name]["reduce"]))


def _merged(graph: Graph, x: str, features: str, group: Tree) -> str:
    """The end of a group."""
    with graph.scope("convnext"):
        x = graph.op("Add", x, _mixing(graph, x, group["convnext"]))
    return graph.op("Add", features, graph.conv(x, group["conv"]))


def _block(
    graph: Graph,
    x: str,
    channel: str,
    spatial: str,
    block: Tree,
    means: str | None = None,
) -> str:
    """Adds a block; `means` [B, 48, 1, 1] are those of another, larger map."""
    first, others = graph.split(x, [SPATIAL_FEATURES, CHANNEL_FEATURES])
    layers = block["spatial"]
    with graph.scope("spatial"):
        mask = graph.op("Concat", spatial, first, axis=1)
        mask = graph.gelu_conv(mask, layers["mask_hidden"])
        mask = graph.op("Sigmoid", graph.conv(mask, layers["mask"]))
        first = graph.conv(graph.op("Mul", first, mask), layers["conv"])

    layers = block["channel"]
    with graph.scope("channel"):
        weight = means or graph.op("GlobalAveragePool", others)
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
    x = graph.layer_norm(graph.channels_last(x), layers["norm"], 1e-6)
    x = graph.gelu(graph.dense(x, layers["expand"]))
    x = graph.dense(x, layers["reduce"])
    x = graph.op("Mul", x, graph.constant(layers["layer_scale"]))
    return graph.channels_first(x)


def _part_vector(graph: Graph, network: LightBSR, variables: Tree, mean: str) -> str:
    """R_c of the mean IDR [1, C, 1, 1]."""
    _refuse_ablations(network)
    return graph.gelu_conv(mean, variables["params"]["converter"]["channel"])


def _part_spatial(graph: Graph, network: LightBSR, variables: Tree, idr: str) -> str:
    """R_s of the IDR, in pixels of the LR image, whose size is an input."""
    return _spatial(
        graph, graph.pixel_shuffle(idr, 4), variables["params"]["converter"]
    )


def _part_channel(
    graph: Graph, network: LightBSR, variables: Tree, group: int, channel: str
) -> str:
    return _converted(graph, channel, _of(variables, group), "channel_converter")


def _part_converted(
    graph: Graph, network: LightBSR, variables: Tree, spatial: str, group: int
) -> str:
    return _converted(graph, spatial, _of(variables, group), "spatial_converter")


def _part_block(
    graph: Graph,
    network: LightBSR,
    variables: Tree,
    x: str,
    spatial: str,
    group: int,
    index: int,
    channel: str,
    means: str,
) -> str:
    block = onnx_graph.layer(_of(variables, group)["blocks"], index)
    _, means = graph.split(means, [SPATIAL_FEATURES, CHANNEL_FEATURES])
    return _block(graph, x, channel, spatial, block, means)


def _part_merge(
    graph: Graph, network: LightBSR, variables: Tree, x: str, features: str, group: int
) -> str:
    return _merged(graph, x, features, _of(variables, group))


def _of(variables: Tree, group: int) -> Tree:
    return onnx_graph.layer(variables["params"]["restorer"]["body"]["groups"], group)


# By the names of the functions of `in_parts`.
PARTS = {
    "convert_mean": _part_vector,
    "spatial": _part_spatial,
    "convert_channel": _part_channel,
    "convert_spatial": _part_converted,
    "block": _part_block,
    "merge": _part_merge,
}
