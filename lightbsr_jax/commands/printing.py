"""Printing lines about files with any name, to any terminal or pipe."""

import os
import sys
import unicodedata
from typing import TextIO

# Control characters, and characters that change the direction of the text.
_HIDDEN = ("Cc", "Cf", "Zl", "Zp")


def printable(text: str) -> str:
    r"""Escapes control characters and bytes that are not UTF-8, as \x1b and \xff."""
    text = os.fsencode(text).decode("utf-8", "backslashreplace")
    return "".join(
        c.encode("unicode_escape").decode() if _is_hidden(c) else c for c in text
    )


def say(text: str, file: TextIO | None = None) -> None:
    """Prints a line and flushes it. A closed pipe or standard output is ignored."""
    stream: TextIO | None = sys.stdout if file is None else file
    if stream is None:  # as `>&-` leaves it
        return
    encoding = stream.encoding or "utf-8"
    line = printable(text).encode(encoding, "backslashreplace").decode(encoding)
    try:
        print(line, file=stream, flush=True)
    except BrokenPipeError:  # as `| head` leaves it; the interpreter flushes again
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def say_lines(text: str) -> None:
    """Prints the lines of a text, each by `say`."""
    for line in text.splitlines():
        say(line)


def _is_hidden(character: str) -> bool:
    return unicodedata.category(character) in _HIDDEN
