"""Speed and error of shipped weights beside other runtimes with the exported network.

    pip install onnxruntime openvino
    python -m benchmarks.runtimes --weights photo --sizes 64 256 --json runtimes.json

Contenders are this program in each precision and, where they are installed, ONNX
Runtime and OpenVINO (in float32 and bfloat16) with the file of `lightbsr export`. Each
has a process of its own, and they take turns. Errors are in levels of 255, against this
program in float32, on a crop of a photograph that ships with scikit-image.
"""

import argparse
import functools
import importlib.util
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

OURS = ("float32", "bfloat16")
Run = Callable[[np.ndarray], np.ndarray]  # [1, h, w, 3] to [1, H, W, 3], in [0, 1]


def ours(precision: str, weights: str, _: str) -> Run:
    """This program."""
    import jax

    from lightbsr_jax import target
    from lightbsr_jax.compilation import inference_jit
    from lightbsr_jax.models.load import load_for_pictures

    jax.config.update("jax_enable_compilation_cache", False)
    model = load_for_pictures(weights)
    program = inference_jit(lambda variables, lr: model.network.apply(variables, lr).sr)

    def run(lr: np.ndarray) -> np.ndarray:
        if precision == "float32":
            return np.asarray(program(model.variables, lr))
        with target.narrow_products():
            return np.asarray(program(model.variables, lr))

    return run


def onnxruntime(precision: str, _: str, file: str) -> Run:
    """ONNX Runtime; it has no bfloat16 on a CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])

    def run(lr: np.ndarray) -> np.ndarray:
        given = np.ascontiguousarray(lr.transpose(0, 3, 1, 2))
        return session.run(None, {"input": given})[0].transpose(0, 2, 3, 1)

    return run


def openvino(precision: str, _: str, file: str) -> Run:
    """OpenVINO with a hint for the precision."""
    import openvino

    kinds = {"float32": openvino.Type.f32, "bfloat16": openvino.Type.bf16}
    options = {"INFERENCE_PRECISION_HINT": kinds[precision]}

    # Compiled for each size, as its documentation advises for speed.
    @functools.cache
    def compiled(shape: tuple[int, ...]) -> Any:
        core = openvino.Core()
        model = core.read_model(file)
        model.reshape(shape)
        return core.compile_model(model, "CPU", options)

    def run(lr: np.ndarray) -> np.ndarray:
        given = np.ascontiguousarray(lr.transpose(0, 3, 1, 2))
        result = compiled(given.shape)(given)[0]
        return np.asarray(result).transpose(0, 2, 3, 1)

    return run


CONTENDERS: dict[str, tuple[Callable[[str, str, str], Run], str]] = {
    **{f"ours, {precision}": (ours, precision) for precision in OURS},
    "onnxruntime, float32": (onnxruntime, "float32"),
    "openvino, float32": (openvino, "float32"),
    "openvino, bfloat16": (openvino, "bfloat16"),
}

_run: Run  # of a contender's process


def _prepare(name: str, weights: str, file: str) -> None:
    global _run
    make, precision = CONTENDERS[name]
    _run = make(precision, weights, file)


def _result(lr: np.ndarray) -> tuple[np.ndarray, float]:
    began = time.perf_counter()
    sr = _run(lr)
    return sr, time.perf_counter() - began


def available() -> list[str]:
    """The contenders whose package is installed."""
    return [
        name
        for name, (make, _) in CONTENDERS.items()
        if make is ours or importlib.util.find_spec(make.__name__) is not None
    ]


def photograph(size: int) -> np.ndarray:
    """A square crop [1, size, size, 3] in [0, 1]."""
    from skimage import data

    return data.astronaut()[None, :size, :size].astype(np.float32) / 255


def measure(names: Sequence[str], weights: str, size: int, rounds: int) -> list[Any]:
    """Seconds and errors of the contenders on an image of size x size."""
    from lightbsr_jax.interop import export
    from lightbsr_jax.models.load import load_for_pictures

    lr = photograph(size)
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder, "network.onnx"))
        clipless = export.Form(clipped=False)
        model = load_for_pictures(weights)
        export.write(model, file, None, overwrite=True, form=clipless)
        pools = {
            name: ProcessPoolExecutor(1, context, _prepare, (name, weights, file))
            for name in names
        }
        first = {
            name: pool.submit(_result, lr).result() for name, pool in pools.items()
        }
        times: dict[str, list[float]] = {name: [] for name in names}
        for _ in range(rounds):
            for name, pool in pools.items():
                times[name].append(pool.submit(_result, lr).result()[1])
        for pool in pools.values():
            pool.shutdown()
    exact = first["ours, float32"][0]
    rows = []
    for name in names:
        sr, began = first[name]
        error = 255 * (sr - exact)
        rows.append(
            {
                "size": size,
                "name": name,
                "seconds": statistics.median(times[name]),
                "first": began,
                "rms": float(np.sqrt(np.square(error).mean())),
                "largest": float(np.abs(error).max()),
            }
        )
    return rows


def main() -> None:
    from lightbsr_jax import target

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", default="photo")
    parser.add_argument("--sizes", nargs="+", type=int, default=[64, 256])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", metavar="FILE", help="write all figures to this file")
    arguments = parser.parse_args()
    units = {"amx_bf16", "avx512_bf16", "avx512f", "avx2"} & target.processor_features()
    print(f"processor: {', '.join(sorted(units)) or 'unknown'}\n")
    print("| size | runtime | seconds | first run | rms error | largest |")
    print("|---|---|---|---|---|---|")
    rows = []
    for size in arguments.sizes:
        for row in measure(available(), arguments.weights, size, arguments.rounds):
            print(
                f"| {size} | {row['name']} | {row['seconds']:.3g} | {row['first']:.1f} "
                f"| {row['rms']:.3f} | {row['largest']:.2f} |",
                flush=True,
            )
            rows.append(row)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
