"""The configs that come with the program, by name.

They lie in configs/ of a clone, and inside an installed package.
"""

import difflib
import sys
from pathlib import Path
from types import ModuleType

from lightbsr_jax.errors import UserError

_PACKAGE = Path(__file__).parent
_MODULE = "configs"  # the name by which the files import one another


def folder() -> Path:
    """The folder of the configs."""
    installed = _PACKAGE / "configs"
    return installed if installed.is_dir() else _PACKAGE.parent / "configs"


def locate(name: str) -> str:
    """FILE.py[:PRESET] for "teacher:setting1"; a path FILE.py[:PRESET] is returned.

    Raises UserError if no config has that name.
    """
    stem, colon, preset = name.partition(":")
    if stem.endswith(".py"):
        return name
    names = sorted(path.stem for path in folder().glob("*.py"))
    names.remove("common")  # not a config, but code that the others share
    if stem not in names:
        nearest = difflib.get_close_matches(stem, names, n=1, cutoff=0)[0]
        raise UserError(
            f"no config {stem!r}: did you mean {nearest}? (all: {', '.join(names)}; "
            "or the path of a file, FILE.py)"
        )
    return f"{folder() / stem}.py{colon}{preset}"


def make_importable() -> None:
    """Makes `from configs import teacher` work in a config in any folder.

    The name always means this program's configs, even if another package has it.
    """
    package = ModuleType(_MODULE)
    package.__path__ = [str(folder())]
    sys.modules[_MODULE] = package
