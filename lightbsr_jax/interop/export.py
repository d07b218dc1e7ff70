"""The network as a file that runs without this package: StableHLO or ONNX.

StableHLO is what JAX compiles (`jax.export.deserialize` reads it); it takes and gives
[B, h, w, 3]. ONNX is for all other runtimes and takes and gives [B, 3, h, w], as they
expect. Both take RGB in [0, 1], of any size, and hold the weights.

The ONNX graph is written here, node by node: converters of JAX programs unroll what is
written for XLA, and the one that is kept up does not go with current Orbax.
"""

from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, export

from lightbsr_jax import atomic
from lightbsr_jax.errors import UserError
from lightbsr_jax.imaging import files
from lightbsr_jax.methods.lightbsr.adaptation import CHANNEL_FEATURES, SPATIAL_FEATURES
from lightbsr_jax.methods.lightbsr.network import LightBSR
from lightbsr_jax.methods.network import RGB_MEAN, UPSCALER_STEPS
from lightbsr_jax.models.model import Model
from lightbsr_jax.networks.operators import plain_ops
from lightbsr_jax.typed import apply

SUFFIXES = (".onnx", ".stablehlo")
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
_OPSET = 20  # the first with Gelu
_IR_VERSION = 9  # that goes with it

Tree = dict[str, Any]


def write(
    model: Model, path: str | Path, size: tuple[int, int] | None, *, overwrite: bool
) -> None:
    """Writes a student's network, for any size or for the (height, width) given.

    Raises UserError for a teacher, for another ending than SUFFIXES, and for a file
    that exists, unless `overwrite`.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path}: the name must end in one of {', '.join(SUFFIXES)}")
    if model.role == "teacher":
        raise UserError("a teacher takes the true degradation: export a student of it")
    if path.exists() and not overwrite:
        raise UserError(f"{path} exists: give another name, or --overwrite")
    make = {".onnx": to_onnx, ".stablehlo": to_stablehlo}[path.suffix]
    content = make(model, size)
    atomic.replace(path, lambda new: new.write_bytes(content))


def difference(model: Model, path: str | Path, size: tuple[int, int] | None) -> float:
    """The largest difference between a file and the network, on a real image.

    Raises UserError where what takes to run the file is not installed.
    """
    (_, photograph), *_ = files.find_images("scikit-image:test")
    height, width = size or (61, 90)
    image = files.read_rgb(photograph)
    lr = np.resize(image[:, :width], (height, width, 3))[None] / np.float32(255)
    with jax.default_matmul_precision("highest"):  # as in the file
        expected = np.asarray(model.restore(lr)) / 255
    return float(np.abs(run(path, lr) - expected).max())


def run(path: str | Path, lr: np.ndarray) -> np.ndarray:
    """What a file makes of LR images [B, h, w, 3]: [B, h s, w s, 3] in [0, 1]."""
    if Path(path).suffix == ".stablehlo":
        return np.asarray(
            export.deserialize(bytearray(Path(path).read_bytes())).call(lr)
        )
    session = _imported("onnxruntime").InferenceSession(
        str(path), providers=["CPUExecutionProvider"]
    )
    (sr,) = session.run(None, {"lr": np.moveaxis(lr, -1, 1)})
    return np.moveaxis(sr, 1, -1)


def to_stablehlo(model: Model, size: tuple[int, int] | None) -> bytes:
    """The network as JAX's serialised StableHLO, for all of PLATFORMS."""
    _imported("flatbuffers")  # by JAX

    def restore(lr: Array) -> Array:
        return apply(model.network, model.variables, lr).sr

    if size is None:
        shape = export.symbolic_shape("b, h, w, 3")
    else:
        shape = (*export.symbolic_shape("b"), *size, 3)
    with plain_ops(), jax.default_matmul_precision("highest"):
        exported = export.export(jax.jit(restore), platforms=PLATFORMS)(
            jax.ShapeDtypeStruct(shape, jnp.float32)
        )
    return bytes(exported.serialize())


def to_onnx(model: Model, size: tuple[int, int] | None) -> bytes:
    """The network as an ONNX model.

    Raises UserError for the paper's ablations and for other methods.
    """
    network = model.network
    if not isinstance(network, LightBSR):
        raise UserError(
            f"{model.method.title} has no ONNX form here: export to .stablehlo"
        )
    if not (
        network.spatial_modulation
        and network.channel_modulation
        and network.converter_blocks
    ):
        raise UserError("ablations have no ONNX form here: export to .stablehlo")
    onnx = _imported("onnx")
    graph = _Graph(onnx)
    scale = model.scale
    _network(graph, model)
    height, width = size or ("h", "w")
    large = [n * scale if size else f"{scale} {n}" for n in (height, width)]
    value = onnx.helper.make_tensor_value_info
    kind = onnx.TensorProto.FLOAT
    made = onnx.helper.make_model(
        onnx.helper.make_graph(
            graph.nodes,
            "LightBSR",
            [value("lr", kind, ["b", 3, height, width])],
            [value("sr", kind, ["b", 3, *large])],
            graph.constants,
        ),
        opset_imports=[onnx.helper.make_opsetid("", _OPSET)],
        ir_version=_IR_VERSION,
        producer_name="lightbsr_jax",
        doc_string=f"LightBSR x{scale}: RGB in [0, 1], [B, 3, h, w]",
    )
    onnx.checker.check_model(made, full_check=True)
    return made.SerializeToString()


class _Graph:
    """Nodes and constants of an ONNX graph; values are known by their names."""

    def __init__(self, onnx: ModuleType) -> None:
        self._onnx = onnx
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def op(self, kind: str, *inputs: str, out: str | None = None, **how: Any) -> str:
        out = out or f"{kind}_{len(self.nodes)}"
        node = self._onnx.helper.make_node(kind, inputs, [out], **how)
        self.nodes.append(node)
        return out

    def split(self, x: str, sizes: list[int]) -> list[str]:
        """Channels in parts."""
        names = [f"Split_{len(self.nodes)}_{i}" for i in range(len(sizes))]
        inputs = [x, self.constant(np.array(sizes, np.int64))]
        self.nodes.append(self._onnx.helper.make_node("Split", inputs, names, axis=1))
        return names

    def constant(self, value: Any) -> str:
        value = np.asarray(value)
        if value.dtype.kind == "f":
            value = value.astype(np.float32)
        name = f"constant_{len(self.constants)}"
        tensor = self._onnx.numpy_helper.from_array(np.ascontiguousarray(value), name)
        self.constants.append(tensor)
        return name

    def conv(self, x: str, layer: Tree, *, stride: int = 1, group: int = 1) -> str:
        """A convolution; a dense layer is one of 1 x 1."""
        kernel = np.asarray(layer["kernel"])
        if kernel.ndim == 2:
            kernel = kernel[None, None]
        inputs = [x, self.constant(kernel.transpose(3, 2, 0, 1))]  # HWIO to OIHW
        if "bias" in layer:
            inputs.append(self.constant(layer["bias"]))
        pads = [n // 2 for n in kernel.shape[:2]] * 2
        return self.op("Conv", *inputs, pads=pads, strides=[stride] * 2, group=group)

    def gelu_conv(self, x: str, layer: Tree) -> str:
        return self.op("Gelu", self.conv(x, layer))

    def dense(self, x: str, layer: Tree) -> str:
        """Over the last axis."""
        x = self.op("MatMul", x, self.constant(layer["kernel"]))
        return self.op("Add", x, self.constant(layer["bias"]))

    def pixel_shuffle(self, x: str, factor: int) -> str:
        return self.op("DepthToSpace", x, blocksize=factor, mode="CRD")


def _network(graph: _Graph, model: Model) -> None:
    """All of it, from "lr" to "sr"; see `methods.lightbsr.network`."""
    params = jax.tree.map(np.asarray, model.variables["params"])
    statistics = jax.tree.map(np.asarray, model.variables["batch_stats"])
    idr = _estimator(graph, "lr", params["estimator"], statistics["estimator"])
    channel, spatial = _converter(graph, idr, params["converter"])
    restorer = params["restorer"]
    mean = graph.constant(np.reshape(RGB_MEAN, (1, 3, 1, 1)))
    head = graph.conv(graph.op("Sub", "lr", mean), restorer["head"])
    x = head
    for number in range(model.network.groups):
        group = jax.tree.map(lambda leaf, g=number: leaf[g], restorer["body"]["groups"])
        x, channel, spatial = _group(graph, x, channel, spatial, group)
    x = graph.op("Add", head, graph.conv(x, restorer["body"]["conv"]))
    for index, factor in enumerate(UPSCALER_STEPS[model.scale]):
        x = graph.conv(x, restorer[f"upscale_{index}"])
        x = graph.pixel_shuffle(x, factor)
    graph.op("Add", graph.conv(x, restorer["tail"]), mean, out="sr")


def _estimator(graph: _Graph, x: str, params: Tree, statistics: Tree) -> str:
    for index in range(6):
        norm, running = params[f"norm_{index}"], statistics[f"norm_{index}"]
        x = graph.conv(x, params[f"conv_{index}"], stride=2 if index in (2, 4) else 1)
        values = (norm["scale"], norm["bias"], running["mean"], running["var"])
        constants = map(graph.constant, values)
        x = graph.op("BatchNormalization", x, *constants, epsilon=1e-5)
        x = graph.op("LeakyRelu", x, alpha=0.1)
    return x


def _converter(graph: _Graph, idr: str, params: Tree) -> tuple[str, str]:
    channel = graph.gelu_conv(graph.op("GlobalAveragePool", idr), params["channel"])
    # The estimator rounds up sizes that 4 does not divide.
    size = graph.op("Shape", "lr", start=2)
    zeros, axes = graph.constant(np.zeros(2, np.int64)), graph.constant([2, 3])
    spatial = graph.op("Slice", graph.pixel_shuffle(idr, 4), zeros, size, axes)
    return channel, graph.gelu_conv(spatial, params["spatial"])


def _group(
    graph: _Graph, features: str, channel: str, spatial: str, group: Tree
) -> tuple[str, str, str]:
    def converted(idr: str, layers: Tree) -> str:
        hidden = graph.gelu_conv(idr, layers["expand"])
        return graph.op("Add", idr, graph.gelu_conv(hidden, layers["reduce"]))

    channel = converted(channel, group["channel_converter"])
    spatial = converted(spatial, group["spatial_converter"])
    x = features
    for number in range(len(group["blocks"]["mixing"]["layer_scale"])):
        block = jax.tree.map(lambda leaf, b=number: leaf[b], group["blocks"])
        x = _block(graph, x, channel, spatial, block)
    x = graph.op("Add", x, _mixing(graph, x, group["convnext"]))
    return graph.op("Add", features, graph.conv(x, group["conv"])), channel, spatial


def _block(graph: _Graph, x: str, channel: str, spatial: str, block: Tree) -> str:
    first, others = graph.split(x, [SPATIAL_FEATURES, CHANNEL_FEATURES])
    layers = block["spatial"]
    mask = graph.op("Concat", spatial, first, axis=1)
    mask = graph.gelu_conv(mask, layers["mask_hidden"])
    mask = graph.op("Sigmoid", graph.conv(mask, layers["mask"]))
    first = graph.conv(graph.op("Mul", first, mask), layers["conv"])

    layers = block["channel"]
    weight = graph.op("GlobalAveragePool", others)
    weight = graph.op("Concat", weight, channel, axis=1)
    weight = graph.gelu_conv(weight, layers["weight_hidden"])
    weight = graph.op("Sigmoid", graph.conv(weight, layers["weight"]))
    others = graph.op("Mul", others, weight)

    mixed = graph.op("Gelu", graph.op("Concat", first, others, axis=1))
    return graph.op("Add", x, _mixing(graph, mixed, block["mixing"]))


def _mixing(graph: _Graph, x: str, layers: Tree) -> str:
    depthwise = layers["depthwise"]
    x = graph.conv(x, depthwise, group=depthwise["kernel"].shape[-1])
    x = graph.op("Transpose", x, perm=[0, 2, 3, 1])
    norm = map(graph.constant, (layers["norm"]["scale"], layers["norm"]["bias"]))
    x = graph.op("LayerNormalization", x, *norm, axis=-1, epsilon=1e-6)
    x = graph.op("Gelu", graph.dense(x, layers["expand"]))
    x = graph.dense(x, layers["reduce"])
    x = graph.op("Mul", x, graph.constant(layers["layer_scale"]))
    return graph.op("Transpose", x, perm=[0, 3, 1, 2])


def _imported(name: str) -> ModuleType:
    try:
        return __import__(name)
    except ImportError as error:
        raise UserError(
            f"this takes {name}, which is not installed: pip install {name}"
        ) from error
