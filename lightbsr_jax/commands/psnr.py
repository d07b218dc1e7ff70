"""`lightbsr psnr`: compute PSNR and SSIM of two images under every convention."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lightbsr_jax.commands import paths
from lightbsr_jax.commands.printing import say_lines

if TYPE_CHECKING:
    from lightbsr_jax.evaluation.conventions import Comparison, Measure


def add(subparsers: argparse._SubParsersAction) -> None:
    """Adds the command and its options."""
    parser = subparsers.add_parser(
        "psnr",
        help="compute PSNR and SSIM of two images under every convention",
        description="Compute PSNR and SSIM of two images, or of two folders of images "
        "with the same names, under every convention in use, to see why two programs "
        "report different figures. If A is smaller than B by a whole factor: find the "
        "bicubic method that made it.",
    )
    parser.add_argument(
        "a", metavar="A", type=paths.named, help="restored image, or folder"
    )
    parser.add_argument(
        "b", metavar="B", type=paths.named, help="original image, or folder"
    )
    parser.add_argument(
        "--scale",
        type=int,
        choices=(2, 3, 4),
        default=4,
        help="border in pixels that the paper's convention crops (default: 4)",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Prints the tables. Raises UserError, FileNotFoundError."""
    from lightbsr_jax.evaluation import conventions

    a, b, scale = arguments.a, arguments.b, arguments.scale
    found = conventions.compare(a, b, scale=scale)
    say_lines(describe(a, b, scale, found))


def describe(a: str, b: str, scale: int, found: Comparison) -> str:
    """The tables of a comparison of A and B, below a title that names both."""
    title = f"{a} against {b}"
    if found.images > 1:
        title += f", means of {found.images} images"
    if found.factor > 1:
        return f"{title}\n\n{_describe_bicubics(found)}"
    if found.cropped:
        first = found.cropped[0]
        title += (
            f"\n{len(found.cropped)} of different sizes, such as {first.first} "
            f"with {_size(first.first_size)} and {_size(first.second_size)} pixels: "
            "only the area common to both is compared, aligned at the top left"
        )
    return f"{title}\n\n{_describe_measures(found.measures, scale)}"


def _describe_measures(measures: Sequence[Measure], scale: int) -> str:
    from lightbsr_jax.evaluation import tables

    grids = []
    for measure in measures:
        lines = [[measure.name, *(f"border {border}" for border in measure.borders)]]
        for colour, values in measure.values.items():
            cells = []
            for border, value in zip(measure.borders, values, strict=True):
                mark = " *" if (colour, border) == (measure.paper, scale) else ""
                cells.append(f"{value:.{measure.digits}f}{mark}")
            lines.append([colour, *cells])
        grids.append(tables.grid(lines))
    if scale in measures[0].borders:
        grids.append(
            f"* the paper's convention, as eval.py prints it at scale {scale}\n"
        )
    return "\n".join(grids)


def _describe_bicubics(found: Comparison) -> str:
    from lightbsr_jax.evaluation import tables

    factor = found.factor
    enlarged = [["A enlarged, against B", f"PSNR (dB), the paper's (border {factor})"]]
    shrunk = [["B shrunk, against A", "PSNR (dB), RGB", "largest difference"]]
    for name, score in found.bicubics.items():
        enlarged.append([name, f"{score.enlarged_psnr:.3f}"])
        shrunk.append([name, f"{score.shrunk_psnr:.3f}", str(score.largest_difference)])
    return (
        f"A is 1/{factor} of B in size: its low-resolution image\n\n"
        f"{tables.grid(shrunk)}\nThe method with inf dB, or far more dB than the "
        f"others, made A; if there is none, A was also blurred or compressed.\n\n"
        f"{tables.grid(enlarged)}"
    )


def _size(size: tuple[int, int]) -> str:
    return f"{size[1]}x{size[0]}"
