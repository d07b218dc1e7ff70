"""Paths among a command's arguments."""

import argparse
import os
import re
from collections.abc import Sequence

from lightbsr_jax.errors import UserError

_REMOTE = re.compile(r"[a-z][a-z0-9]+://", re.IGNORECASE)


def expanded(arguments: Sequence[str]) -> list[str]:
    """Expands ~ at the beginning of each path, in --option=~/A,~/B too.

    (Shells expand it only at the beginning of a word.) Raises UserError for a URL such
    as gs://bucket.
    """
    return list(map(_expanded, arguments))


def named(text: str) -> str:
    """The path in an argument. Raises ArgumentTypeError for an empty one.

    pathlib would take it for the working folder.
    """
    if not text:
        raise argparse.ArgumentTypeError("an empty name: is a variable unset?")
    return text


def _expanded(argument: str) -> str:
    option, equals, value = argument.partition("=")
    if not equals or not option.startswith("-"):
        option = equals = ""
        value = argument
    if match := _REMOTE.match(value):
        raise UserError(
            f"{argument}: {match[0]} is not a local path, and cloud storage is not "
            "supported: mount it, or name a local folder"
        )
    parts = [os.path.expanduser(p) if p[:1] == "~" else p for p in value.split(",")]
    return option + equals + ",".join(parts)
