"""`lightbsr degrade`: make the LR images of training from HR images, to look at."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightbsr_jax.commands import paths, upscale
from lightbsr_jax.commands.printing import say
from lightbsr_jax.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from lightbsr_jax.imaging import settings

DRAWN = "degradations.json"
_SEEDS = 2**32  # JAX takes no more bits of a seed


def add(subparsers: argparse._SubParsersAction) -> None:
    """Adds the command and its options."""
    parser = subparsers.add_parser(
        "degrade",
        help="make low-resolution images as training does",
        description="Degrade images as training does, to look at a network's inputs or "
        "to use them in other programs. Writes a PNG for each image, and the "
        f"degradations drawn to {DRAWN}. The degradation of an image depends on the "
        "seed and on the position of its name among the others. Exit status 1 if an "
        "image could not be degraded.",
    )
    parser.add_argument(
        "input",
        metavar="FOLDER",
        type=paths.named,
        help="images, searched recursively",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="DIR",
        type=paths.named,
        required=True,
        help="folder of the results",
    )
    parser.add_argument(
        "--setting",
        default="photo",
        help="kind of degradation: 1, 2, jpeg, real or photo (default: photo)",
    )
    parser.add_argument(
        "--scale",
        type=int,
        choices=(2, 3, 4),
        default=4,
        help="factor by which images are shrunk (default: 4)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the degradations (default: 0)"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Writes the images and prints a summary; exits with 1 if one failed.

    Raises UserError, OSError.
    """
    from lightbsr_jax import atomic, compilation
    from lightbsr_jax.imaging import files, settings
    from lightbsr_jax.inference import folder

    compilation.keep_compiled_programs()
    compilation.check_devices()
    setting = settings.parse(arguments.setting)
    if not 0 <= arguments.seed < _SEEDS:
        raise UserError(f"--seed={arguments.seed}: expected 0 to {_SEEDS - 1}")
    output = Path(arguments.output)
    drawn = {}
    found = files.find_images(arguments.input)
    targets = [Path(name).with_suffix(".png").as_posix() for name, _ in found]
    folder.check_folder(output)
    _check_targets(targets, arguments.input, output)
    atomic.make_writable(output)  # fails before the work, not after
    for place, (name, (_, path)) in enumerate(zip(targets, found, strict=True)):
        job = folder.Job(name, path, output / name, None)
        try:
            hr = files.read_rgb(path)
            lr, description = degrade(
                hr,
                setting,
                scale=arguments.scale,
                seed=arguments.seed,
                place=place,
            )
            files.write_png(job.target, lr)
            drawn[name] = description
            sizes = folder.Sizes(hr.shape[:2], lr.shape[:2])
            say(f"done: {upscale.describe_sizes(sizes)} {job.target}")
        except Exception as error:
            say(f"failed: {upscale.describe_failure(job, error)}", sys.stderr)
    text = {"setting": setting, "scale": arguments.scale, "images": drawn}
    atomic.write_text(output / DRAWN, json.dumps(text, indent=1) + "\n")
    failed = len(found) - len(drawn)
    images = "1 image" if len(drawn) == 1 else f"{len(drawn)} images"
    say(
        f"{output}: {images}, and the degradations in {DRAWN}"
        + (f"; {failed} failed" if failed else "")
    )
    if failed:
        sys.exit(1)


def _check_targets(targets: list[str], given: str, output: Path) -> None:
    """Raises UserError if two results have the same name, or if one exists."""
    twice = [name for name, count in Counter(targets).items() if count > 1]
    if twice:
        raise UserError(
            f"{given}: several images would become {min(twice)}; give them different "
            "names"
        )
    existing = [name for name in [*targets, DRAWN] if (output / name).exists()]
    if existing:
        raise UserError(f"{output / existing[0]} exists: name another folder")


def degrade(
    image: np.ndarray, setting: settings.Name, *, scale: int, seed: int, place: int
) -> tuple[np.ndarray, dict[str, Any]]:
    """The LR image of an HR image, both uint8 [H, W, 3], and its drawn degradation.

    The HR image is cropped on the right and bottom to a multiple of the scale. Raises
    UserError if nothing is left.
    """
    import jax
    import numpy as np

    from lightbsr_jax.imaging import settings, synthesis

    height, width = (length // scale * scale for length in image.shape[:2])
    if not height or not width:
        raise UserError(
            f"an image of {image.shape[1]}x{image.shape[0]} pixels is too small for "
            f"scale {scale}"
        )
    kind = settings.of(setting)
    keys = jax.random.fold_in(jax.random.key(seed), place)[None]
    drawn = kind.sample(keys, width_max=float(scale))
    lr = kind.apply(keys, image[None, :height, :width], drawn, scale=scale)
    (description,) = synthesis.described(drawn)
    return np.rint(np.asarray(lr[0]) * 255).astype(np.uint8), description
