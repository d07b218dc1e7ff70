"""Writing DASR as an ONNX graph; see `methods.onnx_graph`."""

from typing import Any

from lightbsr_jax.methods import onnx_graph
from lightbsr_jax.methods.dasr.network import DASR
from lightbsr_jax.methods.onnx_graph import INPUT, Graph, Tree


def write(graph: Graph, network: DASR, variables: dict[str, Any]) -> None:
    """Writes the whole network, from INPUT to OUTPUT."""
    params, statistics = onnx_graph.as_numpy(variables)
    lr = onnx_graph.scaled(graph, INPUT, network.IMAGE_RANGE)
    idr = onnx_graph.estimator(graph, lr, params["estimator"], statistics["estimator"])
    idr = graph.idr(idr, params["estimator"]["conv_5"])
    with graph.scope("converter"):
        idr = graph.op("GlobalAveragePool", idr)
        idr = graph.leaky_conv(idr, params["converter"]["compress"])

    def body(x: str) -> str:
        for number in range(network.groups):
            group = onnx_graph.layer(params["restorer"]["body"]["groups"], number)
            with graph.scope(f"group_{number}"):
                x = _group(graph, network, x, idr, group)
        return x

    onnx_graph.restorer(graph, network, params["restorer"], body)


def _group(graph: Graph, network: DASR, features: str, idr: str, group: Tree) -> str:
    x = features
    for number in range(network.blocks):
        block = onnx_graph.layer(group["blocks"], number)
        with graph.scope(f"block_{number}"):
            y = x
            for name in ("aware_0", "aware_1"):
                with graph.scope(name):
                    y = graph.leaky_relu(_aware(graph, y, idr, block[name]))
                if name == "aware_0":
                    y = graph.leaky_conv(y, block["conv_0"])
            x = graph.op("Add", x, graph.conv(y, block["conv_1"]))
    return graph.op("Add", features, graph.conv(x, group["conv"]))


def _aware(graph: Graph, x: str, idr: str, layers: Tree) -> str:
    y = graph.leaky_relu(graph.dynamic_depthwise(x, idr, layers["dynamic"]))
    y = graph.conv(y, layers["conv"])
    gate = graph.conv(graph.leaky_conv(idr, layers["gate_hidden"]), layers["gate"])
    return graph.op("Add", y, graph.op("Mul", x, graph.op("Sigmoid", gate)))
