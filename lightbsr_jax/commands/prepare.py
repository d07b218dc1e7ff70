"""`lightbsr prepare`: cut images into the tiles of a dataset."""

from __future__ import annotations

import argparse
import contextlib
import io
from typing import TYPE_CHECKING

from lightbsr_jax.commands import paths
from lightbsr_jax.commands.printing import say

if TYPE_CHECKING:
    from lightbsr_jax.data.df2k import Df2k


def add(subparsers: argparse._SubParsersAction) -> None:
    """Adds the command and its options."""
    parser = subparsers.add_parser(
        "prepare",
        help="cut training images into tiles that are quick to read",
        description="Cut images into tiles, stored losslessly in a TFDS dataset. "
        "train.py reads it instead of the folders, as --config.data.hr=DIR: the "
        "training is the same, in a fraction of the reading time. The same command "
        "resumes an interrupted run. Unreadable images are left out and listed.",
    )
    parser.add_argument(
        "--input",
        metavar="FOLDER",
        type=paths.named,
        action="append",
        required=True,
        help="images, searched recursively; may be given several times",
    )
    parser.add_argument(
        "--output",
        metavar="DIR",
        type=paths.named,
        required=True,
        help="where DIR/df2k is written",
    )
    validation = parser.add_mutually_exclusive_group()
    validation.add_argument(
        "--validation",
        metavar="FOLDER",
        type=paths.named,
        action="append",
        default=[],
        help="images for the validation split; may be given several times",
    )
    validation.add_argument(
        "--hold-out",
        metavar="COUNT",
        type=int,
        default=10,
        help="without --validation: number of input images, evenly spaced by name, "
        "that go to the validation split instead of training (default: 10; 0 for none)",
    )
    _add_tile_options(parser)
    parser.set_defaults(run=run)


def _add_tile_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--tile",
        metavar="PIXELS",
        type=_positive,
        default=480,
        help="tile size in pixels (default: 480)",
    )
    parser.add_argument(
        "--stride",
        metavar="PIXELS",
        type=_positive,
        help="tile stride in pixels (default: tile size). Smaller strides use more "
        "disk but fewer tiles per crop",
    )
    parser.add_argument(
        "--workers",
        metavar="COUNT",
        type=_positive,
        help="threads (default: one per core)",
    )


def run(arguments: argparse.Namespace) -> None:
    """Prepares the dataset and prints its splits. Raises UserError, OSError."""
    from absl import logging
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress

    from lightbsr_jax.data.df2k import Df2k  # slow to import

    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    console = Console(stderr=True)
    bar = Progress(
        *columns,
        console=console,
        transient=True,
        redirect_stdout=False,
        disable=not console.file.isatty(),
    )
    builder = Df2k(
        data_dir=arguments.output,
        inputs=arguments.input,
        validation=arguments.validation,
        hold_out=arguments.hold_out,
        tile=arguments.tile,
        stride=arguments.stride,
        workers=arguments.workers,
        on_progress=lambda done, total: bar.update(task, completed=done, total=total),
    )
    # Finding the images warns of unused ones, which TFDS's own warnings would hide.
    task = bar.add_task("images", total=sum(map(len, builder.images.values())))
    logging.set_verbosity(logging.ERROR)
    try:
        with bar, contextlib.redirect_stdout(io.StringIO()):  # TFDS chats
            builder.download_and_prepare()
    except KeyboardInterrupt:
        raise KeyboardInterrupt("the same command resumes") from None
    _summarise(builder)


def _summarise(builder: Df2k) -> None:
    for split in builder.prepared_splits():
        say(
            f"{builder.data_dir}: {split.name}: {split.images} images in {split.tiles} "
            f"tiles, {split.bytes / 1e6:.0f} MB; {split.left_out} left out"
        )
    for reason in builder.skipped:
        say(f"left out: {reason}")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return int(text)
