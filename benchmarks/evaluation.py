"""Time of an evaluation, and the same work done image by image.

    python -m benchmarks.evaluation data/Set14 data/B100

Measures a student of full size with random weights, and bicubic, in setting 1: once as
eval.py does, and once in a loop that degrades, restores and scores images one by one.
Each way runs in a separate process without a compilation cache.
"""

import argparse
import multiprocessing
import time
from collections.abc import Callable, Iterator
from typing import Any

WAYS = ("eval.py", "image by image")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folders", nargs="+", help="folders of HR images")
    parser.add_argument("--batch", type=int, default=8, help="images per device")
    parser.add_argument("--only", nargs="*", choices=WAYS, default=list(WAYS))
    arguments = parser.parse_args()
    print("| way | seconds | of CPU | mean PSNR (dB) | programs | compiled in (s) |")
    print("|---|---|---|---|---|---|")
    context = multiprocessing.get_context("spawn")
    for way in arguments.only:
        with context.Pool(1) as pool:
            result = pool.apply(measure, (way, arguments.folders, arguments.batch))
        print(f"| {way} | {' | '.join(result)} |", flush=True)


def measure(way: str, folders: list[str], batch_size: int) -> list[str]:
    import jax
    import numpy as np

    from lightbsr_jax import compilation
    from lightbsr_jax.evaluation import benchmark, cases
    from lightbsr_jax.evaluation.images import find
    from lightbsr_jax.evaluation.restorers import Bicubic
    from lightbsr_jax.imaging import prior
    from lightbsr_jax.methods import network as blind
    from lightbsr_jax.methods.lightbsr.network import LightBSR
    from lightbsr_jax.models.model import Model
    from lightbsr_jax.spec import ModelSpec

    jax.config.update("jax_enable_compilation_cache", False)
    network = LightBSR()
    variables = blind.initialise(network, jax.random.key(0), None, projects=False)
    spec = ModelSpec.of_network(network, "student", 1)
    student = Model(spec, variables, np.zeros(prior.BASIS_SHAPE))
    methods = {"bicubic": Bicubic(4), "student": student}
    tested = cases.make(1)
    began, began_cpu = time.perf_counter(), time.process_time()
    with compilation.counted() as compiled:
        if way == "eval.py":
            scores = benchmark.evaluate(
                methods, folders, tested, scale=4, batch_size=batch_size
            )
            psnr = [score.psnr for score in scores if score.method == "student"]
        else:
            images = [image.read() for image in find(folders)]
            psnr = list(image_by_image(methods, images, tested))
    seconds = time.perf_counter() - began
    return [
        f"{seconds:.1f}",
        f"{time.process_time() - began_cpu:.1f}",
        f"{np.mean(psnr):.6f}",
        str(compiled.programs),
        f"{compiled.seconds:.1f}",
    ]


def image_by_image(
    methods: dict[str, Any], images: list[Any], tested: list[Any]
) -> Iterator[float]:
    """Yields the student's PSNRs, without any work in parallel."""
    import jax

    from lightbsr_jax.imaging import degradation, metrics

    compiled: dict[str, Callable] = {
        name: jax.jit(lambda method, lr: metrics.quantise(method.restore(lr)))
        for name in methods
    }
    for hr in images:
        height, width = (side // 4 * 4 for side in hr.shape[:2])
        hr = hr[None, :height, :width]
        for case in tested:
            lr = degradation.synthesise(hr, case.degradation, None, scale=4)
            for name, method in methods.items():
                sr = jax.block_until_ready(compiled[name](method, lr))
                psnr = metrics.psnr_y(sr, hr, border=4)
                metrics.ssim_y(sr, hr, border=4)
            yield float(psnr[0])


if __name__ == "__main__":
    main()
