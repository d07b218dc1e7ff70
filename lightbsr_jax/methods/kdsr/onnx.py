"""Writing KDSR as an ONNX graph; see `methods.onnx_graph`."""

from typing import Any

from lightbsr_jax.methods import onnx_graph
from lightbsr_jax.methods.kdsr.network import KDSR
from lightbsr_jax.methods.onnx_graph import INPUT, Graph, Tree


def write(graph: Graph, network: KDSR, variables: dict[str, Any]) -> None:
    """Writes a whole student, from INPUT to OUTPUT."""
    params, _ = onnx_graph.as_numpy(variables)
    idr = _estimator(graph, network, params["estimator"])
    idr = graph.idr(idr, params["estimator"]["conv_3"])
    with graph.scope("projector"):
        idr = graph.op("GlobalAveragePool", idr)
        for name in ("hidden", "output"):
            idr = graph.leaky_conv(idr, params["projector"][name])
    with graph.scope("converter"):
        idr = graph.leaky_conv(idr, params["converter"]["compress"])

    def body(x: str) -> str:
        for number in range(network.blocks):
            block = onnx_graph.layer(params["restorer"]["body"]["blocks"], number)
            with graph.scope(f"block_{number}"):
                y = graph.dynamic_depthwise(x, idr, block["dynamic"])
                y = graph.conv(graph.leaky_relu(y), block["conv"])
                x = graph.op("Add", x, y)
        return x

    onnx_graph.restorer(graph, network, params["restorer"], body)


def _estimator(graph: Graph, network: KDSR, params: Tree) -> str:
    with graph.scope("estimator"):
        x = graph.leaky_conv(INPUT, params["conv_0"])
        for number in range(network.residual_blocks):
            block = onnx_graph.layer(params["blocks"], number)
            with graph.scope(f"block_{number}"):
                y = graph.conv(graph.leaky_conv(x, block["conv_0"]), block["conv_1"])
                x = graph.op("Add", x, y)
        for number in (1, 2, 3):
            x = graph.leaky_conv(x, params[f"conv_{number}"])
    return x
