"""Speed of the program, of the PyTorch reference, and of the machine at its best.

    python -m benchmarks.speed
    python -m benchmarks.speed inference teacher --reference LightBSR --json speed.json
    python -m benchmarks.speed inference kernels --only "1 x 256 x 256" \\
        --reference LightBSR KDSR DASR
    python -m benchmarks.speed degradation --only real --reference KDSR --processor-time

LightBSR, KDSR and DASR are unmodified checkouts of the references. Each side of a case
runs in a separate process, and they take turns: a round is one measurement of each, and
the table holds medians over rounds and their ratios. `--against eager channels-last
compiled` also measures the references with torch.compile, which takes minutes.

- The floor is the time of the machine at its best: the published network's operations
  at the rate of a large matrix product, or the bytes of input and output at the rate of
  a large sum. (Ours has fewer operations: its upscaler is one convolution.)
- The compile time is that of the first run minus the median. There is no cache.
- KDSR's real-world degradations need basicsr. Its loader draws kernels in advance; the
  time is that of a batch, in which all images have the same factors and kinds of noise.
- Memory is the peak that the work adds to the process (resident set, or memory in use
  on a GPU): at work, and in all, including compilation.

It runs on Linux, on a CPU or a GPU, in true float32 and, with --dtype, in bfloat16.
"""

import argparse
import json
import math
import multiprocessing
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

OURS, EAGER, CHANNELS_LAST, COMPILED = "ours", "eager", "channels-last", "compiled"
SHORTEST = 0.2  # seconds of a measurement: shorter work is repeated


class Case(NamedTuple):
    """A row of the table: work that both sides implement under the same name."""

    group: str
    name: str
    work: str
    options: dict[str, Any]
    method: str = "lightbsr"
    compared: bool = True  # whether the references have it


_PEERS = {"kdsr": "KDSR", "dasr": "DASR"}
_BATCH = {"batch": 4, "crops": 4, "lr_crop": 48}
CASES = [
    *(
        Case("inference", f"{b} x {s} x {s}", "restore", {"batch": b, "size": s})
        for s in (64, 256, 512)
        for b in (1, 8)
    ),
    *(
        Case(
            "inference",
            f"1 x 256 x 256, {peer}",
            "restore",
            {"batch": 1, "size": 256},
            method,
        )
        for method, peer in _PEERS.items()
    ),
    *(
        Case(
            "kernels",
            f"{b} x {s} x {s}, {peer}" + ", with gradients" * learns,
            "modulate",
            {"batch": b, "size": s, "learns": learns},
            method,
        )
        for method, peer in _PEERS.items()
        for b, s, learns in ((1, 256, False), (32, 48, True))
    ),
    Case("upscaler", "256 x 256", "upscale", {"size": 256}),
    Case("upscaler", "640 x 640", "upscale", {"size": 640}),
    *(
        Case(role, f"stage {i}", "train", {"role": role, "stage": i, **_BATCH})
        for role in ("teacher", "student")
        for i in (1, 2)
    ),
    *(
        Case(
            "degradation",
            f"{kernels}, 64 x 4 of 256 x 256",
            "degrade",
            {"setting": setting, "batch": 64, "crops": 4, "size": 256},
        )
        for setting, kernels in ((1, "isotropic"), (2, "anisotropic, noise"))
    ),
    *(
        Case(
            "degradation",
            f"{setting}, 16 x 1 of 256 x 256",
            "degrade",
            {"setting": setting, "batch": 16, "crops": 1, "size": 256},
            "kdsr",
            compared=setting == "real",
        )
        for setting in ("real", "photo")
    ),
    Case(
        "contrast",
        "64 x 4, queue of 8192",
        "contrast",
        {"batch": 64, "crops": 4, "queue": 8192},
    ),
    Case("metrics", "PSNR", "score", {"batch": 8, "size": 512, "ssim": False}),
    Case("metrics", "PSNR, SSIM", "score", {"batch": 8, "size": 512, "ssim": True}),
]
GROUPS = list(dict.fromkeys(case.group for case in CASES))
IN_BFLOAT16 = ("restore", "upscale", "train")
# The other programs cannot process several images with channels last.
EAGER_ONLY = ("modulate", "degrade", "contrast", "score")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=", ".join(GROUPS))
    parser.add_argument(
        "--only", metavar="TEXT", help="measure only cases with this text in the name"
    )
    parser.add_argument(
        "--reference",
        nargs="+",
        default=[],
        metavar="DIR",
        help="checkouts of LightBSR, KDSR or DASR",
    )
    modes = (EAGER, CHANNELS_LAST, COMPILED)
    parser.add_argument("--against", nargs="+", choices=modes, default=list(modes[:2]))
    parser.add_argument("--dtype", nargs="+", default=["float32"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--processor-time",
        action="store_true",
        help="measure processor time, for a busy machine and one core",
    )
    parser.add_argument("--json", metavar="FILE", help="write all figures to this file")
    arguments = parser.parse_args()
    if unknown := set(arguments.groups) - set(GROUPS):
        parser.error(f"unknown group {', '.join(unknown)}: use {', '.join(GROUPS)}")
    checkouts = find_checkouts(parser, arguments.reference)
    cases = [
        (case, dtype)
        for case in CASES
        for dtype in arguments.dtype
        if case.group in (arguments.groups or GROUPS)
        and (arguments.only or "") in case.name
        and (dtype == "float32" or case.work in IN_BFLOAT16)
    ]
    with tempfile.TemporaryDirectory(prefix="lightbsr-speed-") as scratch:
        weights = {
            case.method: Path(scratch, f"{case.method}.npz") for case, _ in cases
        }
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            machine = pool.apply(
                prepare, (weights, arguments.dtype, arguments.processor_time)
            )
        print(describe(machine), end="\n\n")
        print(heading())
        rows = []
        for case, dtype in cases:
            file = weights[case.method]
            checkout = checkouts.get(case.method) if case.compared else None
            rows.append(measure(case, dtype, file, checkout, machine, arguments))
            print(line(rows[-1]), flush=True)
            if arguments.json:
                results = json.dumps({"machine": machine, "rows": rows}, indent=1)
                Path(arguments.json).write_text(results + "\n")


def find_checkouts(
    parser: argparse.ArgumentParser, folders: Sequence[str]
) -> dict[str, Path]:
    """The checkouts by their methods."""
    # Imported here because workers, some of which use only PyTorch, import this file.
    from lightbsr_jax.errors import UserError
    from lightbsr_jax.parity import compare

    try:
        programs = [compare.find_program(folder) for folder in folders]
    except UserError as error:
        parser.error(str(error))
    for program in programs:
        if program.features:
            parser.error(f"{program.folder}: give a checkout's KDSR-classic")
    return {program.method: program.folder for program in programs}


def prepare(
    weights: Mapping[str, Path], dtypes: Sequence[str], on_processor: bool
) -> dict[str, Any]:
    """Saves the weights of both sides, by method; measures the machine's rates."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from lightbsr_jax import target
    from lightbsr_jax.parity import case

    for method, file in weights.items():
        made = case.make(scale=4, setting=2, method=method, stages=(1,))
        np.savez(file, meta=json.dumps(made.meta), **made.arrays)

    clock = time.process_time if on_processor else time.perf_counter

    def best(function: Any, *arguments: Any) -> float:
        compiled = jax.jit(function)
        times = []
        for _ in range(6):
            began = clock()
            jax.block_until_ready(compiled(*arguments))
            times.append(clock() - began)
        return min(times)

    on_cpu = target.platform() == "cpu"
    side, length = (2048, 1 << 25) if on_cpu else (8192, 1 << 28)
    rates = {}
    with jax.default_matmul_precision("highest"):
        for dtype in dtypes:
            matrix = jnp.ones((side, side), dtype)
            rates[dtype] = 2 * side**3 / best(jnp.matmul, matrix, matrix)
    x, y = jnp.ones(length), jnp.ones(length)
    return {
        "device": jax.devices()[0].device_kind,
        "processor": platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "clock": "processor" if on_processor else "wall",
        "jax": jax.__version__,
        "operations_per_second": rates,
        "bytes_per_second": 3 * x.nbytes / best(jnp.add, x, y),
    }


class Worker:
    """One side of a case, in a separate process."""

    def __init__(self, *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, pipe = context.Pipe()
        self._process = context.Process(
            target=serve, args=(pipe, time.time(), *arguments), daemon=True
        )
        self._process.start()
        pipe.close()
        self.about = self._pipe.recv()
        self.times: list[float] = []

    def measure(self) -> None:
        self._pipe.send("measure")
        self.times.append(self._pipe.recv())

    def finish(self) -> dict[str, Any]:
        """Ends the worker; returns its figures."""
        self._pipe.send("finish")
        peaks = self._pipe.recv()
        self._process.join()
        median = statistics.median(self.times)
        compiling = max(0.0, self.about["first"] - median)
        figures = {"seconds": median, "times": self.times, "compile": compiling}
        return {**figures, **self.about, **peaks}


def serve(
    pipe: Connection,
    began: float,
    case: Case,
    mode: str,
    dtype: str,
    weights: Path,
    checkout: Path | None,
    on_processor: bool,
) -> None:
    """Runs a worker: prepares the work, and measures it on request."""
    clock = time.process_time if on_processor else time.perf_counter

    about: dict[str, Any] = {}
    if mode == OURS:
        # Otherwise JAX would take most of a GPU's memory from the other side.
        os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
        from benchmarks import speed_ours

        imported = peak_bytes()
        side = speed_ours.Side(weights, dtype)
        do, *about["floor"] = getattr(side, case.work)(**case.options)
    else:
        from benchmarks import speed_reference

        imported = peak_bytes()
        side = speed_reference.Side(checkout, weights, dtype, mode)
        do = getattr(side, case.work)(**case.options)

    def timed(repeats: int) -> float:
        start = clock()
        for _ in range(repeats):
            do()
        return (clock() - start) / repeats

    about["first"] = timed(1)
    about["start"] = time.time() - began  # imports, weights and the first run
    peak = peak_bytes()
    Path("/proc/self/clear_refs").write_text("5")  # forget that peak
    repeats = math.ceil(SHORTEST / timed(1))
    pipe.send(about)
    while pipe.recv() == "measure":
        pipe.send(timed(repeats))
    at_work = peak_bytes()
    memory = {"memory": at_work, "memory_in_all": max(peak, at_work)}
    memory = {name: size - imported for name, size in memory.items()}
    if (on_device := side.peak_bytes()) is not None:
        memory = dict.fromkeys(memory, on_device)
    pipe.send(memory)


def peak_bytes() -> int:
    """The largest resident set of this process."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def measure(
    case: Case,
    dtype: str,
    weights: Path,
    checkout: Path | None,
    machine: dict[str, Any],
    arguments: argparse.Namespace,
) -> dict[str, Any]:
    """Measures a row of the table."""
    modes = [OURS]
    if checkout is not None:
        modes += [
            mode
            for mode in arguments.against
            if mode == EAGER or case.work not in EAGER_ONLY
        ]
    workers = {
        mode: Worker(case, mode, dtype, weights, checkout, arguments.processor_time)
        for mode in modes
    }
    for _ in range(arguments.rounds):
        for worker in workers.values():
            worker.measure()
    figures = {mode: worker.finish() for mode, worker in workers.items()}
    operations, size = figures[OURS].pop("floor")
    floor = max(
        operations / machine["operations_per_second"][dtype],
        size / machine["bytes_per_second"],
    )
    row = {"case": f"{case.group}: {case.name}", "dtype": dtype, "floor": floor}
    return {**row, "operations": operations, "bytes": size, **figures}


def describe(machine: dict[str, Any]) -> str:
    rates = ", ".join(
        f"{rate / 1e9:.0f} GFLOP/s in {dtype}"
        for dtype, rate in machine["operations_per_second"].items()
    )
    return (
        f"{machine['device']} ({machine['cores']} cores), JAX {machine['jax']}: "
        f"{rates}, {machine['bytes_per_second'] / 1e9:.0f} GB/s"
    )


def heading() -> str:
    columns = ["case", "ours (s)", "/ floor", EAGER, CHANNELS_LAST, COMPILED]
    columns += ["MB at work: ours", EAGER, "MB in all: ours", EAGER]
    columns += ["to compile (s): ours", COMPILED, "to start (s): ours", EAGER]
    return f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}"


def line(row: dict[str, Any]) -> str:
    """Formats a row; the reference's times are multiples of ours."""
    ours = row[OURS]

    def cell(mode: str, figure: str, form: str, unit: float = 1) -> str:
        return f"{row[mode][figure] / unit:{form}}" if mode in row else ""

    name = row["case"] + f" {row['dtype']}" * (row["dtype"] != "float32")
    cells = [name, f"{ours['seconds']:.3g}", f"{ours['seconds'] / row['floor']:.1f}"]
    cells += [
        f"x {cell(mode, 'seconds', '.2f', ours['seconds'])}" if mode in row else ""
        for mode in (EAGER, CHANNELS_LAST, COMPILED)
    ]
    for figure in ("memory", "memory_in_all"):
        cells += [cell(mode, figure, ".0f", 1e6) for mode in (OURS, EAGER)]
    cells += [cell(mode, "compile", ".1f") for mode in (OURS, COMPILED)]
    cells += [cell(mode, "start", ".1f") for mode in (OURS, EAGER)]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
