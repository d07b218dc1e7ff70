"""`lightbsr datasets`: what a folder of images is taken for."""

from __future__ import annotations

import argparse

from lightbsr_jax.commands.printing import say


def add(subparsers: argparse._SubParsersAction) -> None:
    """Adds the command and its options."""
    parser = subparsers.add_parser(
        "datasets",
        help="what a folder of images is taken for",
        description="Lists the sets of images in folders, which of them are HR and LR "
        "by the layouts in which benchmarks are published, and which would be trained "
        "or measured on.",
    )
    parser.add_argument("folder", nargs="+", help="folder of images")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Prints what is in the folders. Raises UserError, OSError."""
    from lightbsr_jax.imaging import layouts

    for folder in arguments.folder:
        say(folder)
        for line in layouts.described(folder):
            say(f"  {line}")
