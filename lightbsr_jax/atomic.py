"""Files that are there whole or not at all, whenever a program ends."""

import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any


def replace(path: str | Path, save: Callable[[Path], Any]) -> None:
    """Let `save` write a file or folder beside `path`, then move it there.

    What `save` is given has `path`'s suffix and a short name of its own. The folder is
    made where there is none.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".new-{secrets.token_hex(4)}{path.suffix}")
    try:
        save(new)
        os.replace(new, path)
    except BaseException:
        if new.is_dir():
            shutil.rmtree(new)
        else:
            new.unlink(missing_ok=True)
        raise


def write_text(path: str | Path, text: str) -> None:
    """A text file in UTF-8, with the line ends that it has."""
    replace(path, lambda new: new.write_text(text, encoding="utf-8", newline=""))
