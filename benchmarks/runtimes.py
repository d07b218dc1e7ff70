"""Speed and error of shipped weights beside other runtimes with the exported network.

    pip install onnxruntime openvino
    python -m benchmarks.runtimes --weights photo --sizes 64 256 --json runtimes.json

Contenders are this program in each precision and, where they are installed, ONNX
Runtime and OpenVINO (in float32 and bfloat16) with the file of `lightbsr export`. Each
has a process of its own, and they take turns. Errors are in levels of 255, against this
program in float32, on a crop of a photograph that ships with scikit-image.
"""

import argparse
import contextlib
import functools
import importlib.util
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

Run = Callable[[np.ndarray], np.ndarray]  # [1, h, w, 3] to [1, H, W, 3], in [0, 1]


def ours(precision: str, weights: str, _: str) -> Run:
    """This program."""
    import jax

    from lightbsr_jax import target
    from lightbsr_jax.compilation import inference_jit
    from lightbsr_jax.inference import memory
    from lightbsr_jax.models.load import load_for_pictures

    memory.keep_freed()  # as the commands do
    jax.config.update("jax_enable_compilation_cache", False)
    model = load_for_pictures(weights)
    program = inference_jit(lambda variables, lr: model.network.apply(variables, lr).sr)

    narrow = precision == "bfloat16"

    def run(lr: np.ndarray) -> np.ndarray:
        with target.narrow_products() if narrow else contextlib.nullcontext():
            return np.asarray(program(model.variables, lr))

    return run


def channels_first(run: Run) -> Run:
    """A runtime's `run`, of images [1, 3, h, w], for images [1, h, w, 3]."""

    def call(lr: np.ndarray) -> np.ndarray:
        sr = run(np.ascontiguousarray(lr.transpose(0, 3, 1, 2)))
        return np.asarray(sr).transpose(0, 2, 3, 1)

    return call


def onnxruntime(precision: str, _: str, file: str) -> Run:
    """ONNX Runtime; it has no bfloat16 on a CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return channels_first(lambda lr: session.run(None, {"input": lr})[0])


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

    return channels_first(lambda lr: compiled(lr.shape)(lr)[0])


CONTENDERS: dict[str, tuple[Callable[[str, str, str], Run], str]] = {
    "ours, float32": (ours, "float32"),
    "ours, bfloat16": (ours, "bfloat16"),
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


@contextlib.contextmanager
def started(weights: str) -> Iterator[dict[str, ProcessPoolExecutor]]:
    """The processes of the available contenders, by name."""
    from lightbsr_jax.interop import export
    from lightbsr_jax.models.load import load_for_pictures

    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        file = str(Path(folder, "network.onnx"))
        form = export.Form(clipped=False)
        model = load_for_pictures(weights)
        export.write(model, file, None, overwrite=True, form=form)
        yield {
            name: stack.enter_context(
                ProcessPoolExecutor(1, context, _prepare, (name, weights, file))
            )
            for name in available()
        }


def measure(
    pools: Mapping[str, ProcessPoolExecutor], size: int, rounds: int
) -> list[Any]:
    """Seconds and errors of the contenders on an image of size x size."""
    lr = photograph(size)
    first = {name: pool.submit(_result, lr).result() for name, pool in pools.items()}
    times: dict[str, list[float]] = {name: [] for name in pools}
    for _ in range(rounds):
        for name, pool in pools.items():
            times[name].append(pool.submit(_result, lr).result()[1])
    exact = first["ours, float32"][0]
    rows = []
    for name, (sr, began) in first.items():
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
    with started(arguments.weights) as pools:
        for size in arguments.sizes:
            for row in measure(pools, size, arguments.rounds):
                print(
                    f"| {size} | {row['name']} | {row['seconds']:.3g} "
                    f"| {row['first']:.1f} | {row['rms']:.3f} | {row['largest']:.2f} |",
                    flush=True,
                )
                rows.append(row)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
