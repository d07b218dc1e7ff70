"""The command `lightbsr`: what is neither training (train.py) nor measuring (eval.py).

Mistakes read as one line, `error: ...`, with exit status 2.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from lightbsr_jax.command_line import fail
from lightbsr_jax.errors import UserError


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        fail(f"{message} ({self.prog} --help shows how)")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line, by default the program's."""
    parser = _Parser(prog="lightbsr", description="LightBSR in JAX.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_convert(commands)
    parsed = parser.parse_args(arguments)
    try:
        parsed.run(parsed)
    except (UserError, OSError) as error:
        fail(error)


def _add_convert(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "convert",
        help="exchange weights with the PyTorch reference",
        description="Exchange weights with the PyTorch reference, either way: from its "
        "state dict into a new working directory, which eval.py and train.py take as "
        "any other, or from a working directory's newest checkpoint into a state dict. "
        "State dicts end in .pt or .pth (these take PyTorch) or .safetensors.",
    )
    parser.add_argument("source", help="state dict, or working directory")
    parser.add_argument("out", help="working directory, or state dict")
    parser.add_argument(
        "--pca",
        metavar="FILE.mat",
        help="the prior's basis, in the reference's PCA_matrix.mat: read beside a "
        "state dict, without which a teacher is of no use; written beside one",
    )
    parser.add_argument(
        "--setting",
        type=int,
        choices=(1, 2),
        help="what a student's state dict was trained for, which it does not tell: 1 "
        "(isotropic blur) or 2 (anisotropic blur and noise)",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a state dict that exists"
    )
    parser.set_defaults(run=_convert)


def _convert(arguments: argparse.Namespace) -> None:
    from lightbsr_jax.interop import convert  # slow to import

    source, out = arguments.source, arguments.out
    if Path(source).is_dir():
        if arguments.setting is not None:
            raise UserError(f"--setting is for state dicts: {source} knows its own")
        what = convert.to_file(
            source, out, basis_file=arguments.pca, overwrite=arguments.overwrite
        )
    else:
        if arguments.overwrite:
            raise UserError("--overwrite replaces state dicts, not working directories")
        what = convert.to_workdir(
            source, out, basis_file=arguments.pca, setting=arguments.setting
        )
    print(f"{source} -> {out}: {what}")
