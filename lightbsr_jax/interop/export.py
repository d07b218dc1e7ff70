"""Exporting a network to files that run without this package.

JAX loads and compiles StableHLO (`jax.export.deserialize`), with images [B, h, w, 3].
ONNX is for all other runtimes, with images [B, 3, h, w], as they expect; ncnn (see
`interop.ncnn`) is for programs that contain it. All take RGB in [0, 1], of any size,
and contain the weights.

Each method writes its ONNX graph node by node: converters of JAX programs unroll code
that is written for XLA, and the maintained one does not work with current Orbax.
"""

from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, export

from lightbsr_jax import atomic
from lightbsr_jax.errors import UserError
from lightbsr_jax.imaging import files
from lightbsr_jax.interop import half, ncnn
from lightbsr_jax.methods import onnx_graph
from lightbsr_jax.methods.onnx_graph import IDR, INPUT, OUTPUT, Graph, Part
from lightbsr_jax.models.model import Model
from lightbsr_jax.networks.operators import plain_ops
from lightbsr_jax.spec import Sees
from lightbsr_jax.typed import apply

SUFFIXES = (".onnx", ".param", ".stablehlo")
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
LICENCE = "Apache-2.0"  # of the weights that come with this program


class Form(NamedTuple):
    """The form of an ONNX file."""

    batch: bool = False  # any number of images, in place of one
    clipped: bool = True  # the output is limited to 0..1
    part: Part = "whole"
    license: str | None = None  # of the weights, for the metadata
    half: bool = False  # weights and maps are float16
    setting: bool = True  # that of the training is known, for the metadata


WHOLE = Form()


def write(
    model: Model,
    path: str | Path,
    size: tuple[int, int] | None,
    *,
    overwrite: bool,
    form: Form = WHOLE,
) -> None:
    """Writes a student's network, for any size or for the (height, width) given.

    NAME.param is written with NAME.bin, for any size. `form` is for ONNX; `half` is for
    ncnn, too. Raises UserError for a teacher, for another ending than SUFFIXES, for a
    folder, and for a file that exists, unless `overwrite`.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path}: the name must end in one of {', '.join(SUFFIXES)}")
    if model.spec.sees is not Sees.NOTHING:
        raise UserError(
            f"a {model.spec.kind} needs the true degradation, unknown for pictures: "
            "export its student"
        )
    if path.suffix == ".param":
        weights = path.with_suffix(".bin")
        atomic.check_free(path, weights, overwrite=overwrite)
        layers, content = ncnn.to_ncnn(model, half=form.half)
        atomic.replace(weights, lambda new: new.write_bytes(content))
        atomic.write_text(path, layers)
        return
    atomic.check_free(path, overwrite=overwrite)
    if path.suffix == ".onnx":
        content = to_onnx(model, size, form)
    else:
        content = to_stablehlo(model, size)
    atomic.replace(path, lambda new: new.write_bytes(content))


def write_split(
    model: Model,
    path: str | Path,
    size: tuple[int, int] | None,
    *,
    overwrite: bool,
    form: Form = WHOLE,
) -> tuple[Path, Path]:
    """Writes NAME-estimator.onnx and NAME-restorer.onnx; returns their paths.

    The estimator gives the mean IDR [B, C, 1, 1] of an image, by which the restorer
    restores any image. Raises UserError as `write` does, and for StableHLO.
    """
    path = Path(path)
    if path.suffix != ".onnx":
        raise UserError(f"{path}: only ONNX can be split; give a name ending in .onnx")
    parts: tuple[Part, Part] = ("estimator", "restorer")
    first, second = (path.with_name(f"{path.stem}-{part}.onnx") for part in parts)
    # Before one of two is written.
    atomic.check_free(first, second, overwrite=overwrite)
    for file, part in zip((first, second), parts, strict=True):
        write(model, file, size, overwrite=overwrite, form=form._replace(part=part))
    return first, second


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
    if Path(path).suffix != ".stablehlo":
        expected = expected.clip(0, 1)
    return float(np.abs(run(path, lr) - expected).max())


def run(path: str | Path, lr: np.ndarray) -> np.ndarray:
    """Runs an exported file on LR images [B, h, w, 3]: [B, h s, w s, 3] in [0, 1]."""
    if Path(path).suffix == ".stablehlo":
        return np.asarray(
            export.deserialize(bytearray(Path(path).read_bytes())).call(lr)
        )
    if Path(path).suffix == ".param":
        return ncnn.run(path, lr)
    return np.moveaxis(run_onnx(path, {INPUT: np.moveaxis(lr, -1, 1)}), 1, -1)


def run_onnx(path: str | Path, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """Runs an ONNX file on its named inputs; returns its output as it is."""
    session = imported("onnxruntime").InferenceSession(
        str(path), providers=["CPUExecutionProvider"]
    )
    (output,) = session.run(None, inputs)
    return output


def to_stablehlo(model: Model, size: tuple[int, int] | None) -> bytes:
    """The network as JAX's serialised StableHLO, for all of PLATFORMS."""
    imported("flatbuffers")  # by JAX

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


def to_onnx(model: Model, size: tuple[int, int] | None, form: Form = WHOLE) -> bytes:
    """The network as an ONNX model; UserError for ablations."""
    onnx = imported("onnx")
    graph = Graph(onnx, form.part)
    model.method.to_onnx(graph, model.network, model.variables)
    _finish(graph, form)
    helper = onnx.helper
    made = helper.make_model(
        helper.make_graph(
            graph.nodes,
            model.method.title,
            *_values(graph, onnx, model, size, form),
            graph.constants,
        ),
        opset_imports=[helper.make_opsetid("", onnx_graph.OPSET)],
        ir_version=onnx_graph.IR_VERSION,
        producer_name="lightbsr_jax",
        doc_string=f"{model.method.title} x{model.scale}: RGB in [0, 1], [B, 3, h, w]",
    )
    if form.half:
        half.convert(onnx, made)
    helper.set_model_props(made, _facts(model, form))
    onnx.checker.check_model(made, full_check=True)
    return made.SerializeToString()


def _finish(graph: Graph, form: Form) -> None:
    """Clips the output, and removes what a part does not need."""
    if form.part == "estimator":
        graph.needed(IDR)
        return
    if form.clipped:
        graph.nodes[-1].output[0] = f"{OUTPUT}_unclipped"
        bounds = graph.constant(0.0), graph.constant(1.0)
        graph.op("Clip", f"{OUTPUT}_unclipped", *bounds, out=OUTPUT)
    graph.needed(OUTPUT)


def _values(
    graph: Graph,
    onnx: ModuleType,
    model: Model,
    size: tuple[int, int] | None,
    form: Form,
) -> tuple[list[Any], list[Any]]:
    """The inputs and the outputs of a part, with names and shapes."""

    def value(name: str, *shape: int | str) -> Any:
        kind = onnx.TensorProto.FLOAT
        return onnx.helper.make_tensor_value_info(name, kind, [batch, *shape])

    batch = "b" if form.batch else 1
    height, width = size or ("h", "w")
    large = [n * model.scale if size else f"{model.scale} {n}" for n in (height, width)]
    image, result = value(INPUT, 3, height, width), value(OUTPUT, 3, *large)
    idr = value(IDR, graph.idr_channels, 1, 1)
    if form.part == "estimator":
        return [image], [idr]
    return ([image] if form.part == "whole" else [image, idr]), [result]


def _facts(model: Model, form: Form) -> dict[str, str]:
    """The metadata of a file, which programs show or read."""
    facts = {
        "method": model.method.title,
        "part": form.part,
        "scale": str(model.scale),
        "color_order": "RGB",
        "layout": "NCHW",
        "range": "0..1",
    }
    if form.setting:
        facts["setting"] = str(model.setting)
    if form.license is not None:
        facts["license"] = form.license
    return facts


def imported(name: str) -> ModuleType:
    """Imports a package of an extra. Raises UserError if it is not installed."""
    try:
        return __import__(name)
    except ImportError as error:
        raise UserError(
            f"requires {name}, which is not installed: pip install {name}"
        ) from error
