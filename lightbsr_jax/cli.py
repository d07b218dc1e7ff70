"""The command `lightbsr`: upscale, train, evaluate, exchange, compare.

A user's mistake prints one line, `error: ...`, and exits with status 2. Ctrl-C exits
with status 130, as in a shell.
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
    video,
)
from lightbsr_jax.commands.mistakes import extras_named, fail
from lightbsr_jax.errors import UserError

COMMANDS = (
    *(upscale, video, serve, degrade),
    *(datasets, prepare, train, evaluate),
    *(pack, convert, export),
    *(compare, psnr),
)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        fail(f"{message} ({self.prog} --help shows how)")


def make_parser() -> argparse.ArgumentParser:
    """Makes the parser of all subcommands; its result has a method `run(parsed)`."""
    parser = _Parser(prog="lightbsr", description="LightBSR in JAX.")
    parser.add_argument(
        "--version",
        action="version",
        version=f"lightbsr_jax {lightbsr_jax.__version__}",
    )
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add(subparsers)
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a command line (default: the arguments of the program)."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        parsed, unknown = make_parser().parse_known_args(paths.expanded(given))
    except UserError as error:
        fail(error)
    if unknown:
        shows = f"lightbsr {parsed.command} --help shows how"
        fail(f"unrecognized arguments: {' '.join(unknown)} ({shows})")
    # Pillow warns of files (many pixels, broken metadata) that are refused or harmless.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    try:
        with extras_named():
            parsed.run(parsed)
    except (UserError, OSError) as error:
        fail(error)
    except KeyboardInterrupt as interrupt:  # its text, if any, says what to do next
        print(": ".join(["interrupted", *map(str, interrupt.args)]), file=sys.stderr)
        sys.exit(130)
