"""Lines about files, whatever their names hold, into whatever reads them."""

import os
import sys
import unicodedata
from typing import TextIO

# Control characters, and those that turn the direction of what follows.
_HIDDEN = ("Cc", "Cf", "Zl", "Zp")


def printable(text: str) -> str:
    r"""The text with control characters and bytes that are no UTF-8 as \x1b, \xff."""
    text = os.fsencode(text).decode("utf-8", "backslashreplace")
    return "".join(
        c.encode("unicode_escape").decode() if _is_hidden(c) else c for c in text
    )


def say(text: str, file: TextIO | None = None) -> None:
    """Prints a line, at once. Where nobody reads any more, there is silence."""
    stream: TextIO = sys.stdout if file is None else file
    encoding = stream.encoding or "utf-8"
    line = printable(text).encode(encoding, "backslashreplace").decode(encoding)
    try:
        print(line, file=stream, flush=True)
    except BrokenPipeError:  # as `| head` leaves it; the interpreter flushes again
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _is_hidden(character: str) -> bool:
    return unicodedata.category(character) in _HIDDEN
