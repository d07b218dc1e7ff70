"""The command `lightbsr`: upscale, train, evaluate, exchange, compare.

Mistakes read as one line, `error: ...`, with exit status 2. Ctrl-C ends with 130, as a
shell has it.
"""

import argparse
import sys
import warnings
from collections.abc import Sequence
from typing import NoReturn

import lightbsr_jax
from lightbsr_jax.commands import (
    compare,
    convert,
    datasets,
    degrade,
    evaluate,
    export,
    pack,
    paths,
    prepare,
    psnr,
    serve,
    train,
    upscale,
)
from lightbsr_jax.commands.mistakes import extras_named, fail
from lightbsr_jax.errors import UserError

COMMANDS = (
    *(upscale, serve, degrade),
    *(datasets, prepare, train, evaluate),
    *(pack, convert, export),
    *(compare, psnr),
)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        fail(f"{message} ({self.prog} --help shows how)")


def make_parser() -> argparse.ArgumentParser:
    """The parser of all subcommands; what it parses has `run(parsed)`."""
    parser = _Parser(prog="lightbsr", description="LightBSR in JAX.")
    parser.add_argument(
        "--version",
        action="version",
        version=f"lightbsr_jax {lightbsr_jax.__version__}",
    )
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add(subparsers)
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line, by default the program's."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        parsed = make_parser().parse_args(paths.expanded(given))
    except UserError as error:
        fail(error)
    # Pillow's warnings (many pixels, broken notes) concern what is refused or harmless.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    try:
        with extras_named():
            parsed.run(parsed)
    except (UserError, OSError) as error:
        fail(error)
    except KeyboardInterrupt as interrupt:  # maybe with what to do next
        print(": ".join(["interrupted", *map(str, interrupt.args)]), file=sys.stderr)
        sys.exit(130)
