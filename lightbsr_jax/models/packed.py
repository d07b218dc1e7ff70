"""Trained networks as single files, and the ones that come with the package.

A file is a .safetensors with the tensors params/..., batch_stats/... and basis. Its
metadata are one JSON text: `config`, that of the training run, `step`, the updates it
made, and what else is to be known. (Several would come in an order that changes from
file to file, and the file's checksum with it.) Parameters may be float16; they are read
as float32.
"""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors
import safetensors.numpy
from flax.traverse_util import flatten_dict, unflatten_dict

from lightbsr_jax.errors import UserError

Tree = dict[str, Any]

FOLDER = Path(__file__).parents[1] / "weights"  # NAME.safetensors and its card, NAME.md
DEFAULT = "setting2"
SUFFIX = ".safetensors"
_ABOUT = "lightbsr_jax"


def find(source: str | Path) -> Path | None:
    """The packed file that is meant, if one is.

    A str may be the name of weights that come with the package ("setting2"), a Path
    never is. All else is a path to a file that `write` wrote.
    """
    for path in FOLDER.glob(f"*{SUFFIX}"):
        if path.stem == source:
            return path
    path = Path(source)
    if not path.is_file():
        return None
    try:
        return path if _metadata(path) else None
    except (safetensors.SafetensorError, ValueError):
        return None


def check_name(source: str) -> str:
    """`source`; raises UserError where no weights and no file have that name."""
    if find(source) is None and not Path(source).exists():
        raise UserError(
            f"no weights {source!r} come with this version: name a student that you "
            "trained by --workdir (make demo leaves a small one in runs/demo/student), "
            "or a file by --weights"
        )
    return source


def read(path: str | Path) -> tuple[Tree, Tree]:
    """What is known about the weights, and their {"params", "batch_stats", "basis"}.

    Raises UserError for a file that is damaged or holds something else.
    """
    path = Path(path)
    try:
        about = _metadata(path)
        if not about:
            raise UserError(
                f"{path} holds no network of this program: convert a state dict of the "
                "PyTorch reference into a working directory (lightbsr convert)"
            )
        tensors = safetensors.numpy.load_file(path)
        tree = unflatten_dict(tensors, sep="/")
        return about, jax.tree.map(lambda x: x.astype(np.float32), tree)
    except UserError:
        raise
    except (safetensors.SafetensorError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path} is damaged: {error}") from error


def write(path: str | Path, about: Tree, model: Tree, *, half: bool) -> None:
    """Write weights and what is known about them, as `read` returns both.

    With `half` the parameters are rounded to float16.
    """
    if half:
        params = jax.tree.map(lambda x: np.asarray(x, np.float16), model["params"])
        model = {**model, "params": params}
    flat = flatten_dict(model, sep="/")
    tensors = {name: np.ascontiguousarray(tensor) for name, tensor in flat.items()}
    safetensors.numpy.save_file(tensors, path, {_ABOUT: json.dumps(about)})


def _metadata(path: Path) -> Tree:
    """Nothing for a file of another program's."""
    if path.suffix != SUFFIX:
        return {}
    with safetensors.safe_open(path, "np") as file:
        metadata = file.metadata() or {}
    about = json.loads(metadata.get(_ABOUT, "{}"))
    if not isinstance(about, dict):
        raise ValueError(f"{_ABOUT} is no object")
    return about
