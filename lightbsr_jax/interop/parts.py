"""Exporting a network in parts: a plan and small ONNX graphs, for tilers elsewhere.

The forward pass of a method in parts (`methods.parts`) is recorded as a plan. A program
without Python that follows the plan restores pictures of any size exactly, tile by tile
and in bounded memory, as `inference.Upscaler` does: the page of `make page` does so.

A step of the plan computes one graph for all tiles, or once for a vector. All blocks of
a network share a graph, because weights are inputs of graphs. A file has a length (four
bytes, little-endian), a JSON text of that length, and data. The JSON text contains
`steps`, `graphs` and the facts of the network; offsets count from the start of the
data.

Maps are [1, h, w, C] and vectors [1, C, 1, 1]. A graph takes the maps of a tile with
`reach` pixels around it, as far as the image goes: it pads with zeros there, and cuts
its result to the pixels between its inputs `from` and `to`.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lightbsr_jax.errors import UserError
from lightbsr_jax.interop.export import imported
from lightbsr_jax.methods import onnx_graph
from lightbsr_jax.methods.network import UPSCALER_STEPS, BlindNetwork
from lightbsr_jax.methods.onnx_graph import Graph, Tree
from lightbsr_jax.models.model import Model
from lightbsr_jax.networks.operators import fuse_convs
from lightbsr_jax.spec import Sees

OPSET = 20  # GELU and LayerNorm are operators
IR_VERSION = 9
FORMAT = 1  # of the file
FROM, TO, SIZE = "from", "to", "size"  # inputs, (row, column) or (height, width)
OUT, MEAN = "out", "mean"  # outputs
LR = "lr"
IDR_STEP = 4  # LR pixels to a pixel of the IDR
_HALF = {True: "h", False: "f"}


class Ref(NamedTuple):
    """A map, a vector or the mean of a map; a map has one of `step` LR pixels."""

    kind: str  # "map", "vector" or "mean"
    name: str
    step: int = 1


class PartGraph(Graph):
    """A graph whose weights are inputs, with the operators of newer opsets."""

    def __init__(self, onnx: Any) -> None:
        super().__init__(onnx)
        self.weights: dict[str, np.ndarray] = {}

    def _initializer(self, value: np.ndarray, name: str) -> str:
        if value.dtype.kind == "i" or not value.ndim:
            return super()._initializer(value, name)
        self.weights[f"w{len(self.weights)}"] = value
        return f"w{len(self.weights) - 1}"

    def gelu(self, x: str) -> str:
        """Applies GELU, by the error function."""
        return self.op("Gelu", x)

    def layer_norm(self, x: str, layer: Tree, epsilon: float) -> str:
        """Normalises the last axis."""
        scale, bias = (self.constant(layer[name]) for name in ("scale", "bias"))
        return self.op("LayerNormalization", x, scale, bias, epsilon=epsilon)

    def image_size(self) -> str:
        """The height and width of the image: an input, as a tile is only a part."""
        return SIZE

    def split(self, x: str, sizes: list[int], axis: int = 1) -> list[str]:
        """Splits channels; returns the names of the parts."""
        name = self._name("Split")
        names = [f"{name}_{i}" for i in range(len(sizes))]
        inputs = [x, self.constant(sizes)]
        make = self._onnx.helper.make_node
        self.nodes.append(make("Split", inputs, names, name, axis=axis))
        return names


Write = Callable[..., str]  # graph, network, variables, values: the result's name


class _Recorder:
    """Implements the verbs of `methods.parts.Parts` by writing steps."""

    def __init__(
        self, model: Model, writers: Mapping[str, Write], variables: Tree
    ) -> None:
        self.steps: list[dict[str, Any]] = []
        self.graphs: dict[str, dict[str, Any]] = {}
        self.data = bytearray()
        self._onnx = imported("onnx")
        self._network = model.network
        self._writers = writers
        self._variables = variables
        self._names = 0

    def map(
        self,
        function: Callable[..., Any] | str,
        reach: int,
        *maps: Ref,
        given: tuple[Any, ...] = (),
        into: Ref | None = None,
        averaged: bool = False,
        step: int = 1,
    ) -> Ref:
        """Implements `Parts.map`; a new map has one of `step` pixels."""
        out = into or Ref("map", self._new("map"), step)
        self._add(function, (*maps, *given), out, reach=reach, averaged=averaged)
        return out

    def mean(self, of: Ref) -> Ref:
        """Implements `Parts.mean`."""
        return Ref("mean", of.name)

    def vector(self, function: Callable[..., Any], *given: Any) -> Ref:
        """Implements `Parts.vector`."""
        out = Ref("vector", self._new("vector"))
        self._add(function, given, out)
        return out

    def graph(self, name: str, write: Write, given: tuple[Any, ...]) -> dict[str, Any]:
        """Adds a graph of its own and its weights; returns where they are."""
        return self._graph(name, write, given, Ref("map", OUT), averaged=False)

    def _add(
        self,
        function: Callable[..., Any] | str,
        given: tuple[Any, ...],
        out: Ref,
        *,
        reach: int = 0,
        averaged: bool = False,
    ) -> None:
        named = function if isinstance(function, str) else function.__name__
        name = named.lstrip("_")
        refs = [x for x in given if isinstance(x, Ref)]
        made = self._graph(name, self._writers[name], given, out, averaged=averaged)
        step = {"into": out.name, "kind": out.kind, "step": out.step, "reach": reach}
        self.steps.append({**made, **step, "inputs": [ref._asdict() for ref in refs]})

    def _graph(
        self, name: str, write: Write, given: tuple[Any, ...], out: Ref, averaged: bool
    ) -> dict[str, Any]:
        graph = PartGraph(self._onnx)
        names = {f"in{i}": x for i, x in enumerate(given) if isinstance(x, Ref)}
        values = [f"in{i}" if isinstance(x, Ref) else x for i, x in enumerate(given)]
        for value, ref in names.items():
            if ref.kind == "map":
                inner = graph.op("Transpose", value, perm=[0, 3, 1, 2])
                values = [inner if other == value else other for other in values]
        x = write(graph, self._network, self._variables, *values)
        _finish(graph, x, out, averaged=averaged)
        content = _file(self._onnx, graph, name, names, averaged=averaged)
        if name not in self.graphs:
            inputs = list(names)
            sizes = [n for n in (FROM, TO, SIZE) if _uses(graph, n)]
            place = {"at": len(self.data), "bytes": len(content)}
            self.graphs[name] = {**place, "inputs": inputs, "sizes": sizes}
            self.data += content
        else:
            place = self.graphs[name]
            first = self.data[place["at"] : place["at"] + place["bytes"]]
            if first != content:
                raise ValueError(f"parts named {name} have different graphs")
        return {"graph": name, "weights": self._keep(graph.weights)}

    def _keep(self, weights: dict[str, np.ndarray]) -> list[list[Any]]:
        """Adds weights to the data, as float16 where this loses nothing."""
        kept = []
        for value in weights.values():
            small = value.astype(np.float16)
            half = bool((small.astype(np.float32) == value).all())
            kept.append([len(self.data), _HALF[half], list(value.shape)])
            self.data += (small if half else value.astype("<f4")).tobytes()
        return kept

    def _new(self, kind: str) -> str:
        self._names += 1
        return f"{kind}{self._names}"


def write(model: Model, *, border: int) -> bytes:
    """Writes a student for programs that follow its plan.

    `border` is the number of LR pixels by which programs mirror a picture beyond its
    edges. Raises UserError for a teacher, for ablations, and for methods that have no
    graphs of their parts.
    """
    method, network = model.method, model.network
    if model.spec.sees is not Sees.NOTHING:
        raise UserError(
            f"a {model.spec.kind} needs the true degradation, unknown for pictures: "
            "give its student"
        )
    if method.onnx_parts is None:
        raise UserError(f"{method.title} has no ONNX graphs of its parts yet")
    params, statistics = onnx_graph.as_numpy(model.variables)
    variables = {"params": params, "batch_stats": statistics}
    recorder = _Recorder(model, {**_COMMON, **method.onnx_parts}, variables)
    last = _record(recorder, model, network)
    facts = {
        "format": FORMAT,
        "method": method.title,
        "setting": str(model.setting),
        "scale": model.scale,
        "border": border,
        **last,
        "graphs": recorder.graphs,
        "steps": recorder.steps,
    }
    text = json.dumps(facts).encode()
    text += b" " * (-len(text) % 4)
    return len(text).to_bytes(4, "little") + text + bytes(recorder.data)


def _record(recorder: _Recorder, model: Model, network: BlindNetwork) -> dict[str, Any]:
    """Records all stages; returns those of the last one, which makes pixels."""
    in_parts = model.method.in_parts
    lr = Ref("map", LR)
    idr = recorder.map("estimated", network.reach, lr, averaged=True, step=IDR_STEP)
    modulators = in_parts.modulators(network, recorder, idr, recorder.mean(idr))
    features = recorder.map("extracted", 1, lr, averaged=True)
    x = in_parts.body(network, recorder, features, *modulators)
    x = recorder.map("merged", 1, x, lr, into=x)
    inside = recorder.graph("inside", _inside, (x,))
    stepwise = recorder.graph("stepwise", _stepwise, (x,))
    return {"features": x.name, "inside": inside, "stepwise": stepwise}


def _estimated(graph: Graph, network: Any, variables: Tree, lr: str) -> str:
    params, statistics = (variables[x]["estimator"] for x in variables)
    return onnx_graph.estimator(graph, lr, params, statistics)


def _extracted(graph: Graph, network: Any, variables: Tree, lr: str) -> str:
    params = variables["params"]["restorer"]
    return onnx_graph.extracted(graph, network, params, lr)


def _merged(graph: Graph, network: Any, variables: Tree, x: str, lr: str) -> str:
    """The input of the upscaler: the body's last convolution, plus the features."""
    params = variables["params"]["restorer"]
    x = graph.conv(x, params["body"]["conv"])
    return graph.op("Add", _extracted(graph, network, variables, lr), x)


def _inside(graph: Graph, network: Any, variables: Tree, x: str) -> str:
    """The SR image, correct except for the outermost LR pixels of the image."""
    params = variables["params"]["restorer"]
    layers = [params[f"upscale_{i}"] for i in range(len(UPSCALER_STEPS[network.scale]))]
    factors = UPSCALER_STEPS[network.scale]
    rest = _pair(params["tail"])
    for factor, layer in zip(factors[::-1], layers[::-1], strict=True):
        rest = fuse_convs(_pair(layer), factor, rest)
    kernel, bias = map(np.asarray, jax.device_get(rest))
    x = graph.conv(x, {"kernel": kernel, "bias": bias})
    for factor in factors:
        x = graph.pixel_shuffle(x, factor)
    return onnx_graph.pixels(graph, network, x)


def _pair(layer: Tree) -> tuple[jax.Array, jax.Array]:
    return jnp.asarray(layer["kernel"]), jnp.asarray(layer["bias"])


def _stepwise(graph: Graph, network: Any, variables: Tree, x: str) -> str:
    return onnx_graph.reconstructed(graph, network, variables["params"]["restorer"], x)


_COMMON: dict[str, Write] = {
    "estimated": _estimated,
    "extracted": _extracted,
    "merged": _merged,
}


def _finish(graph: PartGraph, x: str, out: Ref, *, averaged: bool) -> None:
    """Cuts a map to the tile without its surroundings, and adds its mean."""
    if out.kind != "map":
        graph.op("Identity", x, out=OUT)
        return
    x = graph.op("Transpose", x, perm=[0, 2, 3, 1])
    graph.op("Slice", x, FROM, TO, graph.constant([1, 2]), out=OUT)
    if averaged:
        # Of rows first, because long float32 sums lose digits.
        rows = graph.op("ReduceMean", OUT, graph.constant([2]), keepdims=1)
        mean = graph.op("ReduceMean", rows, graph.constant([1]), keepdims=1)
        graph.op("Transpose", mean, perm=[0, 3, 1, 2], out=MEAN)


def _file(
    onnx: Any, graph: PartGraph, name: str, inputs: Mapping[str, Ref], *, averaged: bool
) -> bytes:
    """The ONNX file of a graph; maps have any size."""
    helper, kinds = onnx.helper, onnx.TensorProto

    def value(name: str, kind: int, shape: Any) -> Any:
        return helper.make_tensor_value_info(name, kind, shape)

    shapes = {"map": [1, None, None, None]}
    vector = [1, None, 1, 1]
    takes = [
        *(
            value(n, kinds.FLOAT, shapes.get(ref.kind, vector))
            for n, ref in inputs.items()
        ),
        *(value(n, kinds.FLOAT, x.shape) for n, x in graph.weights.items()),
        *(value(n, kinds.INT64, [2]) for n in (FROM, TO, SIZE) if _uses(graph, n)),
    ]
    gives = [value(OUT, kinds.FLOAT, [None] * 4)]
    if averaged:
        gives.append(value(MEAN, kinds.FLOAT, vector))
    made = helper.make_model(
        helper.make_graph(graph.nodes, name, takes, gives, graph.constants),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="lightbsr_jax",
    )
    onnx.checker.check_model(made, full_check=True)
    return made.SerializeToString(deterministic=True)


def _uses(graph: Graph, name: str) -> bool:
    return any(name in node.input for node in graph.nodes)
