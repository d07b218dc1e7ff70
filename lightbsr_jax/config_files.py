"""The configs that come with the program, by name.

They lie in configs/ of a clone, and in the package where it is installed.
"""

import difflib
import sys
from pathlib import Path
from types import ModuleType

from lightbsr_jax.errors import UserError

_PACKAGE = Path(__file__).parent
_MODULE = "configs"  # as the files import one another


def folder() -> Path:
    """The folder of the configs."""
    installed = _PACKAGE / "configs"
    return installed if installed.is_dir() else _PACKAGE.parent / "configs"


def locate(name: str) -> str:
    """FILE.py[:PRESET] of "teacher:setting1", or of FILE.py[:PRESET] itself.

    Raises UserError where no config has that name.
    """
    stem, colon, preset = name.partition(":")
    if stem.endswith(".py"):
        return name
    names = sorted(path.stem for path in folder().glob("*.py"))
    names.remove("common")  # what the others share
    if stem not in names:
        nearest = difflib.get_close_matches(stem, names, n=1, cutoff=0)[0]
        raise UserError(
            f"no config {stem!r}: did you mean {nearest}? (all: {', '.join(names)}; "
            "or the path of a file, FILE.py)"
        )
    return f"{folder() / stem}.py{colon}{preset}"


def make_importable() -> None:
    """Lets a config, wherever it lies, say `from configs import teacher`.

    Ours are meant, whatever else has that name.
    """
    package = ModuleType(_MODULE)
    package.__path__ = [str(folder())]
    sys.modules[_MODULE] = package
