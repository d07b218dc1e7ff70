"""Mistakes of the user as one line: `error: ...`, exit status 2.

That goes for UserError and what the operating system raises (a missing file, a full
disk); anything else is a bug and keeps its traceback.
"""

import contextlib
import sys
from collections.abc import Iterator
from typing import NoReturn

from lightbsr_jax.errors import UserError

EXTRAS = {  # of pyproject.toml, and the modules that come with them
    "train": (
        *("array_record", "grain", "importlib_resources", "ml_collections", "skimage"),
        *("tensorboardX", "tensorflow_datasets"),
    ),
    "eval": ("matplotlib", "ml_collections", "skimage", "sklearn"),
}


@contextlib.contextmanager
def extras_named() -> Iterator[None]:
    """Turns the want of a module of an extra into a UserError with the remedy."""
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
    """The message without line breaks."""
    return " ".join(str(error).split())
