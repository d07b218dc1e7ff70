"""ONNX models with float16 weights and maps; inputs and outputs stay float32."""

from types import ModuleType
from typing import Any

import numpy as np

_SMALLEST = float(np.finfo(np.float16).smallest_normal)


def convert(onnx: ModuleType, model: Any) -> None:
    """Converts a float32 model in place; nodes keep their names.

    Weights beyond the range of float16 become its largest number. A constant like the
    epsilon of a normalisation, by which programs avoid dividing by zero, becomes at
    least the smallest number of full precision (6.1e-5).
    """
    graph, kinds = model.graph, onnx.TensorProto
    for tensor in graph.initializer:
        _round(onnx, tensor)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                _round(onnx, attribute.t)
            elif node.op_type == "Cast" and attribute.i == kinds.FLOAT:
                attribute.i = kinds.FLOAT16
    del graph.value_info[:]
    inputs = {value.name: f"{value.name}_half" for value in graph.input}
    outputs = {value.name: f"{value.name}_half" for value in graph.output}
    for node in graph.node:
        node.input[:] = [outputs.get(n, inputs.get(n, n)) for n in node.input]
        node.output[:] = [outputs.get(name, name) for name in node.output]
    first = [_cast(onnx, *pair, kinds.FLOAT16) for pair in inputs.items()]
    last = [_cast(onnx, half, name, kinds.FLOAT) for name, half in outputs.items()]
    nodes = [*first, *graph.node, *last]
    del graph.node[:]
    graph.node.extend(nodes)


def _round(onnx: ModuleType, tensor: Any) -> None:
    """Rounds a float32 tensor to float16; others stay as they are."""
    if tensor.data_type != onnx.TensorProto.FLOAT:
        return
    largest = np.finfo(np.float16).max
    values = onnx.numpy_helper.to_array(tensor).clip(-largest, largest)
    if values.size == 1 and 0 < values.item() < _SMALLEST:
        values = np.full_like(values, _SMALLEST)  # some programs take less for 0
    half = onnx.numpy_helper.from_array(values.astype(np.float16), tensor.name)
    tensor.CopyFrom(half)


def _cast(onnx: ModuleType, source: str, target: str, kind: int) -> Any:
    return onnx.helper.make_node("Cast", [source], [target], f"Cast_{target}", to=kind)
