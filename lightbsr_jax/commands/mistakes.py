"""Prints a user's mistake as one line, `error: ...`, and exits with status 2.

Mistakes are UserError and the errors of the operating system (a missing file, a full
disk); any other exception is a bug and keeps its traceback.
"""

import contextlib
import sys
from collections.abc import Iterator
from typing import NoReturn

from lightbsr_jax.commands.printing import printable
from lightbsr_jax.errors import FULL, UserError

EXTRAS = {  # the extras of pyproject.toml, and the modules that they install
    "train": (
        *("array_record", "grain", "importlib_resources", "ml_collections", "skimage"),
        *("tensorboardX", "tensorflow_datasets"),
    ),
    "eval": ("matplotlib", "ml_collections", "skimage", "sklearn"),
}


@contextlib.contextmanager
def extras_named() -> Iterator[None]:
    """Turns the ImportError of an extra's module into a UserError with the remedy."""
    try:
        yield
    except ModuleNotFoundError as error:
        module = str(error.name).partition(".")[0]
        extras = [f"'.[{extra}]'" for extra in EXTRAS if module in EXTRAS[extra]]
        if not extras:
            raise
        raise UserError(
            f"requires {module}, which is not installed: pip install "
            f"{' or '.join(extras)} in the folder of pyproject.toml"
        ) from error


def fail(error: Exception | str) -> NoReturn:
    """Ends the program with the error in one line."""
    print(f"error: {one_line(error)}", file=sys.stderr)
    sys.exit(2)


def one_line(error: Exception | str) -> str:
    """The message without line breaks, its control characters escaped.

    That of a full disk gets its remedy.
    """
    text = str(error)
    if isinstance(error, OSError) and error.errno in FULL:
        text = (
            f"{error.filename or 'a file'} cannot be written ({error.strerror}): free "
            "space, or name another folder"
        )
    return printable(" ".join(text.split()))
