"""Subcommands whose arguments are absl flags, which argparse forwards unparsed."""

import argparse
import sys
from collections.abc import Callable, Sequence


def add(
    subparsers: argparse._SubParsersAction,
    name: str,
    main: Callable[[Sequence[str]], None],
    *,
    help: str,
) -> None:
    """Adds a subcommand that forwards all its arguments to `main`."""
    # No argument begins with NUL, so argparse parses none as an option.
    parser = subparsers.add_parser(name, help=help, add_help=False, prefix_chars="\0")
    parser.add_argument("arguments", nargs="*")

    def run(parsed: argparse.Namespace) -> None:
        sys.argv[0] = parser.prog
        main(parsed.arguments)

    parser.set_defaults(run=run)
