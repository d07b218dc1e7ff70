"""Writing ONNX graphs node by node: the layers and parts that methods share.

Values are identified by their names. Maps are [B, C, h, w], vectors [B, C, 1, 1]; a
graph goes from INPUT to OUTPUT. Nodes and weights have the names of our modules. The
operators are those of OPSET, so that runtimes that are years old load the files: GELU
and LayerNorm are written out, and runtimes that have them fuse them again. A subclass
of Graph writes the same networks for another format (`interop.ncnn`).
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Literal

import jax
import numpy as np

from lightbsr_jax.methods.network import RGB_MEAN, UPSCALER_STEPS, BlindNetwork

Tree = Any  # of parameters, as numpy arrays
Part = Literal["whole", "estimator", "restorer"]

OPSET = 11  # the first whose DepthToSpace shuffles as torch does
IR_VERSION = 6  # the version for this opset
INPUT, OUTPUT, IDR = "input", "output", "idr"

_END = np.iinfo(np.int64).max
_MEAN = np.reshape(RGB_MEAN, (1, 3, 1, 1))


class Graph:
    """Nodes and constants of an ONNX graph."""

    def __init__(self, onnx: Any, part: Part = "whole") -> None:
        """Starts a graph of a part: the estimator gives IDR, the restorer takes it.

        `onnx` is the package.
        """
        self.part: Part = part
        self.idr_channels = 0  # known once `idr` was called
        self._onnx = onnx
        self._scope: list[str] = []
        self._count = 0
        self._settings: dict[Any, str] = {}  # constants of integers
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    @contextlib.contextmanager
    def scope(self, *names: str) -> Iterator[None]:
        """Prefixes names of nodes made inside the context by module names."""
        self._scope += names
        yield
        del self._scope[-len(names) :]

    def op(self, kind: str, *inputs: str, out: str | None = None, **how: Any) -> str:
        """Adds a node with one output; returns the output's name."""
        name = self._name(kind)
        made = self._onnx.helper.make_node(kind, inputs, [out or name], name, **how)
        self.nodes.append(made)
        return out or name

    def split(self, x: str, sizes: list[int], axis: int = 1) -> list[str]:
        """Splits channels; returns the names of the parts."""
        name = self._name("Split")
        names = [f"{name}_{i}" for i in range(len(sizes))]
        how = {"split": sizes, "axis": axis}
        made = self._onnx.helper.make_node("Split", [x], names, name, **how)
        self.nodes.append(made)
        return names

    def constant(self, value: Any, name: str = "constant") -> str:
        """Adds weights, or integer settings, which nodes share; returns the name."""
        value = np.asarray(value)
        if value.dtype.kind != "i":
            value = value.astype(np.float32)
        if value.dtype.kind == "i" or not value.ndim:
            known = str(value.dtype), value.shape, value.tobytes()
            if known not in self._settings:
                self._settings[known] = self._initializer(value, name)
            return self._settings[known]
        return self._initializer(value, name)

    def _initializer(self, value: np.ndarray, name: str) -> str:
        name = self._name(name)
        tensor = self._onnx.numpy_helper.from_array(np.ascontiguousarray(value), name)
        self.constants.append(tensor)
        return name

    def _name(self, kind: str) -> str:
        self._count += 1
        return "/".join([*self._scope, f"{kind}_{self._count}"])

    def conv(self, x: str, layer: Tree, *, stride: int = 1, group: int = 1) -> str:
        """Adds a convolution; a dense layer becomes one of 1 x 1."""
        kernel = convolution(layer)
        inputs = [x, self.constant(kernel, "kernel")]
        if "bias" in layer:
            inputs.append(self.constant(layer["bias"], "bias"))
        pads = [n // 2 for n in kernel.shape[2:]] * 2
        return self.op("Conv", *inputs, pads=pads, strides=[stride] * 2, group=group)

    def gelu_conv(self, x: str, layer: Tree) -> str:
        """A convolution with its activation."""
        return self.gelu(self.conv(x, layer))

    def gelu(self, x: str) -> str:
        """Applies GELU, by the error function."""
        erf = self.op("Erf", self.op("Div", x, self.constant(np.sqrt(2))))
        twice = self.op("Mul", x, self.op("Add", erf, self.constant(1.0)))
        return self.op("Mul", twice, self.constant(0.5))

    def channels_last(self, x: str) -> str:
        """A map as `layer_norm` and `dense` take it."""
        return self.op("Transpose", x, perm=[0, 2, 3, 1])

    def channels_first(self, x: str) -> str:
        """The inverse of `channels_last`."""
        return self.op("Transpose", x, perm=[0, 3, 1, 2])

    def layer_norm(self, x: str, layer: Tree, epsilon: float) -> str:
        """Normalises the last axis."""
        over = {"axes": [-1], "keepdims": 1}
        centred = self.op("Sub", x, self.op("ReduceMean", x, **over))
        squares = self.op("Pow", centred, self.constant(2.0))
        variance = self.op("ReduceMean", squares, **over)
        variance = self.op("Add", variance, self.constant(epsilon))
        x = self.op("Div", centred, self.op("Sqrt", variance))
        x = self.op("Mul", x, self.constant(layer["scale"], "scale"))
        return self.op("Add", x, self.constant(layer["bias"], "bias"))

    def idr(self, map_: str, last: Tree) -> str:
        """The IDR to restore by: the estimator's map, or the vector of a split graph.

        All uses of the estimator's map go through this, so that a graph can be cut
        here. `last` is the estimator's last layer.
        """
        self.idr_channels = np.shape(last["kernel"])[-1]
        if self.part == "estimator":
            self.op("GlobalAveragePool", map_, out=IDR)
        return IDR if self.part == "restorer" else map_

    def needed(self, output: str) -> None:
        """Keeps only nodes and constants that the output is computed from."""
        wanted, kept = {output}, []
        for node in reversed(self.nodes):
            if wanted & set(node.output):
                wanted |= set(node.input)
                kept.append(node)
        self.nodes = kept[::-1]
        self.constants = [x for x in self.constants if x.name in wanted]

    def leaky_conv(self, x: str, layer: Tree, *, stride: int = 1) -> str:
        """A convolution with its activation."""
        return self.leaky_relu(self.conv(x, layer, stride=stride))

    def leaky_relu(self, x: str) -> str:
        """Adds a LeakyReLU with the slope 0.1 of all methods."""
        return self.op("LeakyRelu", x, alpha=0.1)

    def dense(self, x: str, layer: Tree) -> str:
        """Adds a dense layer over the last axis."""
        x = self.op("MatMul", x, self.constant(layer["kernel"], "kernel"))
        return self.op("Add", x, self.constant(layer["bias"], "bias"))

    def pixel_shuffle(self, x: str, factor: int) -> str:
        """Adds a pixel shuffle in torch's order."""
        return self.op("DepthToSpace", x, blocksize=factor, mode="CRD")

    def cut_to_image(self, x: str, channels: int) -> str:
        """Cuts a map to the height and width of the image, at the bottom and right."""
        del channels
        zeros, axes = self.constant(np.zeros(2, np.int64)), self.constant([2, 3])
        return self.op("Slice", x, zeros, self.image_size(), axes)

    def image_size(self) -> str:
        """The height and width of the image, [2]."""
        ends = map(self.constant, ([2], [4]))
        return self.op("Slice", self.op("Shape", INPUT), *ends)

    def dynamic_depthwise(self, x: str, idr: str, layers: Tree) -> str:
        """Adds `methods.dynamic.DynamicDepthwise`, modulated by the vector `idr`.

        It is nine shifted multiply-adds, because a Conv uses one kernel for all images.
        """
        features = layers["kernel"]["kernel"].shape[1] // 9
        kernels = self.conv(self.leaky_conv(idr, layers["hidden"]), layers["kernel"])
        shape = self.constant(np.array([0, features, 9, 1], np.int64))
        kernels = self.op("Reshape", kernels, shape)
        weights = self.split(kernels, [1] * 9, axis=2)
        pads = self.constant(np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64))
        padded = self.op("Pad", x, pads)
        axes = self.constant(np.array([2, 3], np.int64))
        taps = []
        for number, weight in enumerate(weights):
            first = np.array(divmod(number, 3), np.int64)
            last = np.where(first == 2, _END, first - 2)
            bounds = self.constant(first), self.constant(last)
            tap = self.op("Slice", padded, *bounds, axes)
            taps.append(self.op("Mul", tap, weight))
        return self.op("Sum", *taps)


def convolution(layer: Tree) -> np.ndarray:
    """The kernel [outputs, inputs, h, w] of a layer; a dense layer's is 1 x 1."""
    kernel = np.asarray(layer["kernel"])
    if kernel.ndim == 2:
        kernel = kernel[None, None]
    return kernel.transpose(3, 2, 0, 1)


def as_numpy(variables: Tree) -> tuple[Tree, Tree]:
    """Converts "params" and "batch_stats" to numpy arrays."""
    params, statistics = (variables.get(x, {}) for x in ("params", "batch_stats"))
    return jax.tree.map(np.asarray, params), jax.tree.map(np.asarray, statistics)


def layer(stacked: Tree, index: int) -> Tree:
    """Selects the parameters of one of the modules stacked on a leading axis."""
    return jax.tree.map(lambda leaf: leaf[index], stacked)


def scaled(graph: Graph, x: str, factor: float) -> str:
    """Multiplies the image by a factor, unless it is 1."""
    return x if factor == 1 else graph.op("Mul", x, graph.constant(np.float32(factor)))


def estimator(graph: Graph, x: str, params: Tree, statistics: Tree) -> str:
    """Adds `methods.estimator.Estimator`."""
    with graph.scope("estimator"):
        for index in range(6):
            norm, running = params[f"norm_{index}"], statistics[f"norm_{index}"]
            stride = 2 if index in (2, 4) else 1
            x = graph.conv(x, params[f"conv_{index}"], stride=stride)
            values = (norm["scale"], norm["bias"], running["mean"], running["var"])
            constants = map(graph.constant, values)
            x = graph.op("BatchNormalization", x, *constants, epsilon=1e-5)
            x = graph.leaky_relu(x)
    return x


def restorer(
    graph: Graph, network: BlindNetwork, params: Tree, body: Callable[[str], str]
) -> None:
    """Adds `methods.network.Restorer`, from INPUT to OUTPUT.

    `body` maps the features to the input of the body's last convolution.
    """
    with graph.scope("restorer"):
        head = extracted(graph, network, params, INPUT)
        with graph.scope("body"):
            x = graph.conv(body(head), params["body"]["conv"])
            x = graph.op("Add", head, x)
        reconstructed(graph, network, params, x, out=OUTPUT)


def extracted(graph: Graph, network: BlindNetwork, params: Tree, lr: str) -> str:
    """Adds `Restorer.extract`, the features of an LR image."""
    inner_mean = graph.constant(network.IMAGE_RANGE * _MEAN, "mean")
    lr = scaled(graph, lr, network.IMAGE_RANGE)
    return graph.conv(graph.op("Sub", lr, inner_mean), params["head"])


def reconstructed(
    graph: Graph, network: BlindNetwork, params: Tree, x: str, out: str | None = None
) -> str:
    """Adds `Restorer.reconstruct_stepwise`; returns the name of the SR image."""
    for index, factor in enumerate(UPSCALER_STEPS[network.scale]):
        x = graph.conv(x, params[f"upscale_{index}"])
        x = graph.pixel_shuffle(x, factor)
    return pixels(graph, network, graph.conv(x, params["tail"]), out)


def pixels(graph: Graph, network: BlindNetwork, x: str, out: str | None = None) -> str:
    """Adds the end of `Restorer`: the mean, in the range of pixels."""
    x = scaled(graph, x, 1 / network.IMAGE_RANGE)
    return graph.op("Add", x, graph.constant(_MEAN, "mean"), out=out)
