"""The options --weights and --workdir, and the network that they name."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightbsr_jax.models.model import Model


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds --weights and --workdir, of which one may be given."""
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--weights",
        metavar="NAME",
        help="name of weights that come with this program (default: setting2), or a "
        "file: of lightbsr pack, or of the PyTorch reference (.safetensors, .pt, .pth)",
    )
    source.add_argument("--workdir", help="folder of a student that you trained")


def named(arguments: argparse.Namespace) -> str | Path:
    """The --weights or --workdir that was given, or the default weights."""
    from lightbsr_jax.models import packed

    if arguments.workdir is not None:
        return Path(arguments.workdir)
    return packed.check_name(arguments.weights or packed.DEFAULT)


def load(source: str | Path) -> Model:
    """The model of weights by name, of a file of weights, or in a working directory."""
    from lightbsr_jax.models import packed
    from lightbsr_jax.models.model import Model

    if packed.find(source) or not Path(source).is_file():
        return Model.load(source)
    from lightbsr_jax.interop import convert

    return convert.load(source)
