"""`lightbsr datasets`: list the sets of HR and LR images in folders."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from lightbsr_jax.commands import paths
from lightbsr_jax.commands.printing import say

if TYPE_CHECKING:
    from lightbsr_jax.imaging.layouts import Survey


def add(subparsers: argparse._SubParsersAction) -> None:
    """Adds the command and its options."""
    parser = subparsers.add_parser(
        "datasets",
        help="show which images of a folder are used as HR",
        description="List the sets of images in folders: which are HR and which LR, "
        "by the layouts in which benchmarks are published, and which of them training "
        "and evaluation would use.",
    )
    parser.add_argument("folder", type=paths.named, nargs="+", help="folder of images")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Prints the sets of images in each folder. Raises UserError, OSError."""
    from lightbsr_jax.imaging import layouts

    for folder in arguments.folder:
        say(folder)
        for line in describe(layouts.survey(folder)):
            say(f"  {line}")


def describe(survey: Survey) -> list[str]:
    """Returns a line for each set of images, and one about the whole folder."""
    lines = []
    for images in survey.sets:
        (height, width), (last_height, last_width) = images.first_size, images.last_size
        kind = images.kind or "neither HR nor LR by name"
        lines.append(
            f"{images.folder}: {images.count} images, {kind}, {width}x{height} to "
            f"{last_width}x{last_height}"
        )
    if survey.layout is None:
        lines.append(f"cannot be evaluated on as a whole: {survey.problem}")
    else:
        lines.append(f"taken as HR: {len(survey.layout.images)} images")
    return lines
