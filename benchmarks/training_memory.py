"""Memory and time of a teacher's step in stage 2, by the values of config.compute.

    python -m benchmarks.training_memory --batch 4 --lr-crop 48

Each variant runs in a separate process: one warm step, then some timed ones. The peak
is the memory that the step adds: of the device if the backend counts it, otherwise of
the process (its resident set).
"""

import argparse
import json
import multiprocessing
import statistics
import time
from typing import Any

from benchmarks import speed

VARIANTS = {
    "no rematerialisation": {"rematerialise": False},
    "rematerialised (default)": {},
    "rematerialised, 2 parts": {"parts": 2},
    "rematerialised, 4 parts": {"parts": 4},
    "rematerialised, bfloat16": {"dtype": "bfloat16"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--setting", type=int, choices=(1, 2), default=2)
    parser.add_argument("--batch", type=int, default=4, help="images per step")
    parser.add_argument("--lr-crop", type=int, default=48, help="side in LR pixels")
    parser.add_argument("--steps", type=int, default=3, help="timed steps")
    parser.add_argument("--only", nargs="*", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--json", metavar="FILE")
    arguments = parser.parse_args()

    results = []
    context = multiprocessing.get_context("spawn")
    print("| variant | peak MB | seconds per step | seconds to compile |")
    print("|---|---|---|---|")
    for name in arguments.only:
        with context.Pool(1) as pool:
            measured = pool.apply(measure, (vars(arguments), VARIANTS[name]))
        results.append({"variant": name, **measured})
        peak, seconds, compiling = measured.values()
        print(f"| {name} | {peak:.0f} | {seconds:.2f} | {compiling:.1f} |", flush=True)
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump({"arguments": vars(arguments), "results": results}, file)


def measure(arguments: dict[str, Any], compute: dict[str, Any]) -> dict[str, float]:
    import jax
    import numpy as np

    from configs import teacher
    from lightbsr_jax.training import loop, parallel, setup
    from lightbsr_jax.training.config import TrainingConfig
    from lightbsr_jax.training.state import fresh_run

    config = teacher.get_config(f"setting{arguments['setting']}").unlock()
    config.compute.update(compute)
    typed = TrainingConfig.from_flags(config)
    ready = setup.prepare(typed, loop.make_network(typed))
    steps = loop.make_steps(typed, ready)
    run = parallel.replicate(fresh_run(ready.state, averaged=False))
    constants = parallel.replicate(ready.constants(config.seed))
    side = config.scale * arguments["lr_crop"]
    shape = (arguments["batch"], config.contrast.crops, side, side, 3)
    images = parallel.split(
        np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)
    )
    before = peak_bytes()
    times = []
    for _ in range(1 + arguments["steps"]):
        began = time.perf_counter()
        run, metrics = steps[2](run, images, constants)
        jax.block_until_ready((run, metrics))
        times.append(time.perf_counter() - began)
    first, *others = times
    seconds = statistics.median(others)
    return {
        "peak_MB": (peak_bytes() - before) / 1e6,
        "seconds": seconds,
        "compile_seconds": first - seconds,
    }


def peak_bytes() -> int:
    import jax

    stats = jax.local_devices()[0].memory_stats()
    return speed.peak_bytes() if stats is None else stats["peak_bytes_in_use"]


if __name__ == "__main__":
    main()
