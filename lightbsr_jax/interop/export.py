"""Exporting a network to a file that runs without this package: StableHLO or ONNX.

JAX loads and compiles StableHLO (`jax.export.deserialize`), with images [B, h, w, 3].
ONNX is for all other runtimes, with images [B, 3, h, w], as they expect. Both take RGB
in [0, 1], of any size, and contain the weights.

Each method writes its ONNX graph node by node: converters of JAX programs unroll code
that is written for XLA, and the maintained one does not work with current Orbax.
"""

from pathlib import Path
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, export

from lightbsr_jax import atomic
from lightbsr_jax.errors import UserError
from lightbsr_jax.imaging import files
from lightbsr_jax.methods.onnx_graph import Graph
from lightbsr_jax.models.model import Model
from lightbsr_jax.networks.operators import plain_ops
from lightbsr_jax.spec import Sees
from lightbsr_jax.typed import apply

SUFFIXES = (".onnx", ".stablehlo")
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
_OPSET = 20  # the first with Gelu
_IR_VERSION = 9  # that goes with it


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
    if model.spec.sees is not Sees.NOTHING:
        raise UserError(
            f"a {model.spec.kind} needs the true degradation, unknown for pictures: "
            "export its student"
        )
    if path.exists() and not overwrite:
        raise UserError(f"{path} exists: give another name, or --overwrite")
    make = {".onnx": to_onnx, ".stablehlo": to_stablehlo}[path.suffix]
    content = make(model, size)
    atomic.replace(path, lambda new: new.write_bytes(content))


def difference(model: Model, path: str | Path, size: tuple[int, int] | None) -> float:
    """The largest difference between a file and the network, on a real image.

    Raises UserError if the package that runs the file is not installed.
    """
    (_, photograph), *_ = files.find_images("scikit-image:test")
    height, width = size or (61, 90)
    image = files.read_rgb(photograph)
    lr = np.resize(image[:, :width], (height, width, 3))[None] / np.float32(255)
    with jax.default_matmul_precision("highest"):  # as in the file
        expected = np.asarray(model.restore(jnp.asarray(lr))) / 255
    return float(np.abs(run(path, lr) - expected).max())


def run(path: str | Path, lr: np.ndarray) -> np.ndarray:
    """Runs an exported file on LR images [B, h, w, 3]: [B, h s, w s, 3] in [0, 1]."""
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
    """The network as an ONNX model; UserError for ablations."""
    onnx = _imported("onnx")
    graph = Graph(onnx)
    title, scale = model.method.title, model.scale
    model.method.to_onnx(graph, model.network, model.variables)
    height, width = size or ("h", "w")
    large = [n * scale if size else f"{scale} {n}" for n in (height, width)]
    value = onnx.helper.make_tensor_value_info
    kind = onnx.TensorProto.FLOAT
    made = onnx.helper.make_model(
        onnx.helper.make_graph(
            graph.nodes,
            title,
            [value("lr", kind, ["b", 3, height, width])],
            [value("sr", kind, ["b", 3, *large])],
            graph.constants,
        ),
        opset_imports=[onnx.helper.make_opsetid("", _OPSET)],
        ir_version=_IR_VERSION,
        producer_name="lightbsr_jax",
        doc_string=f"{title} x{scale}: RGB in [0, 1], [B, 3, h, w]",
    )
    onnx.checker.check_model(made, full_check=True)
    return made.SerializeToString()


def _imported(name: str) -> ModuleType:
    try:
        return __import__(name)
    except ImportError as error:
        raise UserError(
            f"requires {name}, which is not installed: pip install {name}"
        ) from error
