"""The options --weights and --workdir, and the loading of the network they name."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from lightbsr_jax.commands import paths
from lightbsr_jax.errors import UserError

if TYPE_CHECKING:
    from lightbsr_jax.imaging import settings
    from lightbsr_jax.models.model import Model


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds --weights and --workdir, which exclude each other."""
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--weights",
        metavar="NAME",
        type=paths.named,
        help="name of weights that come with this program: photo (the default), "
        "setting1 (blur) or setting2 (blur and noise); or a file of lightbsr pack or "
        "of the PyTorch reference (.safetensors, .pt, .pth)",
    )
    source.add_argument(
        "--workdir",
        type=paths.named,
        help="folder of a student that you trained; WORKDIR@STEP for the checkpoint of "
        "a step, WORKDIR@best for the weights whose validation was best",
    )


def parse_setting(text: str) -> settings.Name:
    """Parses a degradation setting. Raises argparse.ArgumentTypeError."""
    from lightbsr_jax.imaging import settings

    try:
        return settings.parse(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def named(arguments: argparse.Namespace) -> str:
    """The given --weights or --workdir, or the default weights.

    Raises UserError if no weights, file or folder have that name.
    """
    from lightbsr_jax.models import packed

    if arguments.workdir is not None:
        return packed.folder(arguments.workdir)
    return packed.check_name(arguments.weights or packed.DEFAULT)


def load(source: str) -> Model:
    """Loads the network to upscale with. Raises UserError for a teacher."""
    from lightbsr_jax.models.load import load_for_pictures

    return load_for_pictures(source)
