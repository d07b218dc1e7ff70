"""Speed of reading training images: from folders, prepared, and on the device.

    python -m benchmarks.input_pipeline --input DIV2K_train_HR --input Flickr2K_HR

Prepares the data in a temporary folder, then reads batches as training does. Rates are
per core: images divided by the processor time of all threads; more cores multiply them.
The last column is the number of cores needed for training that uses `--batch` images
`--steps-per-second` times a second.
"""

import argparse
import json
import os
import platform
import tempfile
import time
from functools import partial
from pathlib import Path

import jax

from lightbsr_jax.data import resident
from lightbsr_jax.data.df2k import Df2k
from lightbsr_jax.data.pipeline import CropBatches, Sampler
from lightbsr_jax.data.resident import ResidentBatches
from lightbsr_jax.data.sources import ImageFolders, PreparedImages, open_source


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--input", metavar="FOLDER", action="append", required=True)
    parser.add_argument(
        "--tile",
        metavar="TILE[:STRIDE]",
        action="append",
        help="tiles to prepare; may be given several times (default: 480 and 240)",
    )
    parser.add_argument("--batch", type=int, default=64, help="images (default: 64)")
    parser.add_argument(
        "--crop", type=int, default=256, help="HR pixels (default: 256)"
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument(
        "--seconds", type=float, default=20, help="time per row (default: 20)"
    )
    parser.add_argument("--steps-per-second", type=float, default=3, help="default: 3")
    parser.add_argument("--json", metavar="FILE", help="write the figures to this file")
    arguments = parser.parse_args()

    folders = ImageFolders(arguments.input, minimum=arguments.crop)
    pixels = folders.sizes.prod(axis=1).mean() / 1e6
    print(
        f"{len(folders)} images of {pixels:.2f} megapixels on average; "
        f"{arguments.threads} threads on {os.cpu_count()} cores; "
        f"device: {jax.devices()[0].device_kind}\n"
    )
    rows, sources = [], {"folders": folders}
    with tempfile.TemporaryDirectory() as temporary:
        for number, size in enumerate(arguments.tile or ["480", "240"]):
            tile, _, stride = size.partition(":")
            began = time.process_time()
            builder = Df2k(
                data_dir=Path(temporary, str(number)),
                inputs=arguments.input,
                hold_out=0,
                tile=int(tile),
                stride=int(stride or tile),
                workers=arguments.threads,
            )
            builder.download_and_prepare()
            seconds = (time.process_time() - began) / len(folders)
            name = f"prepared, tiles of {tile}" + f" every {stride}" * bool(stride)
            size = int(builder.info.dataset_size) / len(folders) / 1e6
            print(f"{name}: {seconds:.2f} core seconds and {size:.2f} MB per image")
            sources[name] = open_source(str(builder.data_dir), minimum=arguments.crop)
        wanted = arguments.batch * arguments.steps_per_second
        print(
            f"\nTraining at {arguments.steps_per_second:g} steps/s, {arguments.batch} "
            f"images per step, needs {wanted:g} images/s.\n"
        )
        print("| source | crops/image | images/s/core | crops/s/core | cores |")
        print("|---|---|---|---|---|")
        for crops in (1, 4):
            for name, source in sources.items():
                rows.append(measure(name, source, CropBatches, crops, arguments))
            rows.append(
                measure("on the device", folders, ResidentBatches, crops, arguments)
            )
    for row in rows:
        if milliseconds := row.get("device_milliseconds"):
            crops = f"{arguments.batch} x {row['crops_an_image']} crops"
            print(f"\nCutting {crops} takes the device {milliseconds:.1f} ms.")
    if arguments.json:
        about = {
            "arguments": vars(arguments),
            "megapixels": pixels,
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "device": jax.devices()[0].device_kind,
            "rows": rows,
        }
        Path(arguments.json).write_text(json.dumps(about, indent=1) + "\n")


Source = ImageFolders | PreparedImages


def measure(
    name: str,
    source: Source,
    kind: type[CropBatches] | type[ResidentBatches],
    crops: int,
    arguments: argparse.Namespace,
) -> dict[str, float | str]:
    """Prints and returns a row of the table."""
    sampler = Sampler(
        source.sizes,
        batch_size=arguments.batch,
        crops=crops,
        size=arguments.crop,
        seed=0,
    )
    batches = kind(source, sampler, threads=arguments.threads, transfer=jax.device_put)
    jax.block_until_ready(next(batches))  # starts the threads
    processor, wall, count = time.process_time(), time.perf_counter(), 0
    while not count or time.perf_counter() - wall < arguments.seconds:
        jax.block_until_ready(next(batches))
        count += arguments.batch
    processor, wall = time.process_time() - processor, time.perf_counter() - wall
    rate, wanted = count / processor, arguments.batch * arguments.steps_per_second
    row = {
        "source": name,
        "crops_an_image": crops,
        "images_per_second": count / wall,
        "images_per_second_a_core": rate,
        "crops_per_second_a_core": rate * crops,
        "cores_to_keep_up": wanted / rate,
    }
    if kind is ResidentBatches:
        row["device_milliseconds"] = cutting_time(batches, arguments.crop)
    batches.close()
    figures = f"{rate:,.0f} | {rate * crops:,.0f} | {wanted / rate:.2g}"
    print(f"| {name} | {crops} | {figures} |", flush=True)
    return row


def cutting_time(batches: ResidentBatches, size: int) -> float:
    """Milliseconds that the device takes to cut a batch."""
    cut = jax.jit(partial(resident.crops, size=size))
    places = next(batches)
    cut(batches.pixels, places).block_until_ready()  # compiles
    began = time.perf_counter()
    for _ in range(10):
        crops = cut(batches.pixels, places)
    crops.block_until_ready()
    return (time.perf_counter() - began) * 100


if __name__ == "__main__":
    main()
