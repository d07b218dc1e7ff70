"""Writing a network for ncnn: layers in NAME.param and weights in NAME.bin.

Programs with ncnn compute on the graphics cards of computers and telephones. The blobs
are named as in RealESRGAN's files, which such programs expect: `data` [3, h, w] and
`output` [3, H, W], RGB in [0, 1].

A line of NAME.param is a layer: its type, its name, the numbers of its inputs and
outputs, their names, and parameters as number=value. NAME.bin has the weights in the
order of the layers. The layers are described at
https://github.com/Tencent/ncnn/wiki/operators.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lightbsr_jax.errors import Extra
from lightbsr_jax.methods import onnx_graph
from lightbsr_jax.methods.onnx_graph import INPUT, OUTPUT, Graph, Tree
from lightbsr_jax.models.model import Model

EXTRA = Extra("ncnn", "ncnn")
DATA = "data"  # ncnn's name of INPUT
_MAGIC = 7767517
_WHOLE, _HALF = (np.uint32(x).tobytes() for x in (0, 0x01306B47))  # kinds of weights
_ALL = -233  # of a Crop: all that is left
_BINARY = {"Add": 0, "Sub": 1, "Mul": 2, "Div": 3}


class Layer(NamedTuple):
    """A layer, without the copies of blobs that several layers take."""

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    parameters: str
    weights: bytes


class NcnnGraph(Graph):
    """Collects layers of ncnn. Maps are [C, h, w] and vectors [C, 1, 1]."""

    def __init__(self, *, half: bool = False) -> None:
        """With `half` the kernels are float16."""
        super().__init__(None)
        self.layers: list[Layer] = []
        self._half = half
        self._values: dict[str, np.ndarray] = {}  # of constants

    def op(self, kind: str, *inputs: str, out: str | None = None, **how: Any) -> str:
        """Adds the layer of an operator of ONNX."""
        if kind in _BINARY:
            return self._binary(kind, *inputs, out=out)
        if kind == "GlobalAveragePool":
            means = self._add("Pooling", inputs, "0=1 4=1")
            return self._add("Reshape", [means], "0=1 1=1 2=-1", out=out)
        x, *names = inputs
        if kind == "BatchNormalization":
            scale, bias, mean, variance = (self._values[name] for name in names)
            weights = _bytes(scale, mean, variance, bias)
            parameters = f"0={scale.size} 1={how['epsilon']}"
            return self._add("BatchNorm", [x], parameters, weights, out=out)
        if kind == "Clip":
            low, high = (self._values[name].item() for name in names)
            return self._add("Clip", [x], f"0={low} 1={high}", out=out)
        layer, parameters = {
            "Concat": ("Concat", "0=0"),
            "LeakyRelu": ("ReLU", f"0={how.get('alpha')}"),
            "Sigmoid": ("Sigmoid", ""),
        }[kind]
        return self._add(layer, inputs, parameters, out=out)

    def _binary(self, kind: str, first: str, second: str, out: str | None) -> str:
        code, value = _BINARY[kind], self._values.get(second)
        if value is None:
            return self._add("BinaryOp", [first, second], f"0={code}", out=out)
        if value.size == 1:
            # As short as float32 goes: ncnn's older parsers take 15 characters.
            parameters = f"0={code} 1=1 2={np.float32(value.item())!s}"
            return self._add("BinaryOp", [first], parameters, out=out)
        kept = self._add("MemoryData", [], f"0=1 1=1 2={value.size}", _bytes(value))
        return self._add("BinaryOp", [first, kept], f"0={code}", out=out)

    def split(self, x: str, sizes: list[int], axis: int = 1) -> list[str]:
        """Splits channels; returns the names of the parts."""
        name = self._name("Slice")
        names = [f"{name}_{index}" for index in range(len(sizes))]
        parameters = f"-23300={len(sizes)},{','.join(map(str, sizes))} 1={axis - 1}"
        self.layers.append(Layer("Slice", name, (x,), tuple(names), parameters, b""))
        return names

    def constant(self, value: Any, name: str = "constant") -> str:
        """Keeps weights for the layers that take them; returns the name."""
        name = self._name(name)
        self._values[name] = np.asarray(value)
        return name

    def conv(self, x: str, layer: Tree, *, stride: int = 1, group: int = 1) -> str:
        """Adds a convolution; a dense layer becomes one of 1 x 1."""
        kernel = onnx_graph.convolution(layer)
        features, _, height, width = kernel.shape
        numbers = {0: features, 1: width, 11: height, 3: stride, 4: width // 2}
        numbers |= {14: height // 2, 5: int("bias" in layer), 6: kernel.size}
        if group > 1:
            numbers[7] = group
        weights = self._kernel(kernel)
        if "bias" in layer:
            weights += _bytes(layer["bias"])
        kind = "Convolution" if group == 1 else "ConvolutionDepthWise"
        parameters = " ".join(f"{key}={value}" for key, value in numbers.items())
        return self._add(kind, [x], parameters, weights)

    def gelu(self, x: str) -> str:
        """Applies GELU, by the error function."""
        return self._add("GELU", [x], "0=0")

    def channels_last(self, x: str) -> str:
        """Leaves the map as it is: only `layer_norm` turns it."""
        return x

    def channels_first(self, x: str) -> str:
        """Leaves the map as it is."""
        return x

    def layer_norm(self, x: str, layer: Tree, epsilon: float) -> str:
        """Normalises the channels."""
        scale, bias = layer["scale"], layer["bias"]
        x = self._add("Permute", [x], "0=3")
        parameters = f"0={len(scale)} 1={epsilon} 2=1"
        x = self._add("LayerNorm", [x], parameters, _bytes(scale, bias))
        return self._add("Permute", [x], "0=4")

    def dense(self, x: str, layer: Tree) -> str:
        """Adds a dense layer over the channels."""
        return self.conv(x, layer)

    def pixel_shuffle(self, x: str, factor: int) -> str:
        """Adds a pixel shuffle in torch's order."""
        return self._add("PixelShuffle", [x], f"0={factor} 1=0")

    def cut_to_image(self, x: str, channels: int) -> str:
        """Cuts a map to the height and width of the image, at the bottom and right."""
        # A Crop takes the size of another map, with the number of channels.
        like = self.conv(INPUT, {"kernel": np.zeros((3, channels))})
        return self._add("Crop", [x, like], "0=0 1=0 2=0")

    def dynamic_depthwise(self, x: str, idr: str, layers: Tree) -> str:
        """Adds `methods.dynamic.DynamicDepthwise`, modulated by the vector `idr`."""
        kernels = self.conv(self.leaky_conv(idr, layers["hidden"]), layers["kernel"])
        features = layers["kernel"]["kernel"].shape[1] // 9
        kernels = self._add("Reshape", [kernels], f"0=1 1=9 2={features}")
        padded = self._add("Padding", [x], "0=1 1=1 2=1 3=1")
        taps = []
        for number, weight in enumerate(self.split(kernels, [1] * 9, axis=2)):
            top, left = divmod(number, 3)
            how = (
                f"0={left} 1={top} 3={_ALL} 4={_ALL} 5={_ALL} 6={2 - left} 7={2 - top}"
            )
            tap = self._add("Crop", [padded], how)
            taps.append(self.op("Mul", tap, weight))
        return self._add("Eltwise", taps, "0=1")

    def _kernel(self, values: np.ndarray) -> bytes:
        if not self._half:
            return _WHOLE + _bytes(values)
        half = values.astype(np.float16).tobytes()
        return _HALF + half + bytes(-len(half) % 4)

    def _add(
        self,
        kind: str,
        inputs: Iterable[str],
        parameters: str,
        weights: bytes = b"",
        *,
        out: str | None = None,
    ) -> str:
        """Adds a layer with one output; returns the output's name."""
        name = self._name(kind)
        layer = Layer(kind, name, tuple(inputs), (out or name,), parameters, weights)
        self.layers.append(layer)
        return out or name


def to_ncnn(model: Model, *, half: bool = False) -> tuple[str, bytes]:
    """The content of NAME.param and of NAME.bin; UserError for ablations."""
    graph = NcnnGraph(half=half)
    model.method.to_onnx(graph, model.network, model.variables)
    unclipped = f"{OUTPUT}_unclipped"
    graph.layers[-1] = graph.layers[-1]._replace(outputs=(unclipped,))
    graph.op("Clip", unclipped, *map(graph.constant, (0.0, 1.0)), out=OUTPUT)
    layers = list(_copied([Layer("Input", DATA, (), (INPUT,), "", b""), *graph.layers]))
    blobs = sum(len(layer.outputs) for layer in layers)
    lines = [str(_MAGIC), f"{len(layers)} {blobs}", *map(_line, layers)]
    return "\n".join(lines) + "\n", b"".join(layer.weights for layer in layers)


def _copied(layers: Sequence[Layer]) -> Iterator[Layer]:
    """Adds copies: only one layer may take a blob."""
    uses = Counter(name for layer in layers for name in layer.inputs)
    copies: dict[str, Iterator[str]] = {}
    for layer in layers:
        inputs = tuple(next(copies[n]) if n in copies else n for n in layer.inputs)
        yield layer._replace(inputs=inputs)
        for name in layer.outputs:
            if uses[name] > 1:
                made = tuple(f"{name}_{index}" for index in range(uses[name]))
                copies[name] = iter(made)
                yield Layer("Split", f"{name}_copies", (name,), made, "", b"")


def _line(layer: Layer) -> str:
    names = [DATA if n == INPUT else n for n in (*layer.inputs, *layer.outputs)]
    counts = str(len(layer.inputs)), str(len(layer.outputs))
    return " ".join([layer.kind, layer.name, *counts, *names, layer.parameters]).strip()


def _bytes(*values: Any) -> bytes:
    return b"".join(np.asarray(x, np.float32).tobytes() for x in values)


def run(path: str | Path, lr: np.ndarray) -> np.ndarray:
    """Runs NAME.param on LR images [B, h, w, 3]: [B, h s, w s, 3] in [0, 1].

    Raises UserError if ncnn is not installed.
    """
    ncnn = EXTRA.imported("ncnn's files")
    net = ncnn.Net()
    for name in ("storage", "arithmetic", "packed"):  # float32, as the network
        setattr(net.opt, f"use_fp16_{name}", False)
    net.load_param(str(path))
    net.load_model(str(Path(path).with_suffix(".bin")))
    found = []
    for image in lr:
        given = np.ascontiguousarray(image.transpose(2, 0, 1), np.float32)
        extractor = net.create_extractor()
        # A copy, because layers compute in place only on memory of ncnn's own.
        extractor.input(DATA, ncnn.Mat(given).clone())
        _, sr = extractor.extract(OUTPUT)
        found.append(np.array(sr).transpose(1, 2, 0))
    return np.stack(found)
