"""Reading and writing trained networks as single files, and the shipped weights.

A file is a .safetensors with the tensors params/..., batch_stats/... and basis. Its
metadata are one JSON text: `config`, that of the training run, `step`, the updates it
made, `checksum`, of the tensors and of the other entries, and what else is to be known.
(Several would come in an order that changes from file to file, and the file's SHA-256
with it.) Parameters may be float16; they are read as float32. Files of earlier versions
have no checksum.
"""

import json
import os
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from lightbsr_jax.errors import UserError

Tree = dict[str, Any]

FOLDER = Path(__file__).parents[1] / "weights"  # NAME.safetensors and its card, NAME.md
DEFAULT = "photo"
SUFFIX = ".safetensors"
BEST = "best"  # in place of a step: the weights whose validation was best
BEST_FILE = f"{BEST}{SUFFIX}"  # of a workdir
_ABOUT = "lightbsr_jax"
_CHECKSUM = "checksum"


def shipped() -> dict[str, Path]:
    """The files of the weights that come with the package, by name ("setting2")."""
    return {path.stem: path for path in sorted(FOLDER.glob(f"*{SUFFIX}"))}


def purpose(name: str) -> str:
    """The purpose of shipped weights, from ", for PURPOSE:" in their card; else ""."""
    card = FOLDER / f"{name}.md"
    if name not in shipped() or not card.is_file():
        return ""
    found = re.search(r", for ([^:]+):", card.read_text("utf-8"))
    return "" if found is None else " ".join(found[1].split())


def find(source: str | Path) -> Path | None:
    """The packed file of shipped weights or at a path; None if there is none."""
    named = shipped().get(str(source))
    if named is not None:
        return named
    path = Path(source)
    try:
        return path if path.is_file() and _metadata(path) else None
    except (safetensors.SafetensorError, ValueError):
        return None


def is_packed(path: Path) -> bool:
    """Returns whether `write` wrote the file. Raises UserError if it is damaged."""
    try:
        return bool(_metadata(path))
    except (safetensors.SafetensorError, ValueError) as error:
        raise UserError(f"{path} is damaged: {error}") from error


def check_name(source: str) -> str:
    """Returns `source`; raises UserError if nothing has that name."""
    there = Path(source).exists() or at_step(source)[1] is not None
    if source not in shipped() and not there:
        raise UserError(
            f"no weights {source!r} come with this version (there are "
            f"{', '.join(shipped())}), and no file has that name: name a student that "
            "you trained by --workdir (make demo leaves a small one in "
            "runs/demo/student), or a file by --weights"
        )
    return source


def at_step(source: str | Path) -> tuple[Path, str | None]:
    """WORKDIR@STEP as its two parts, the step in digits or BEST.

    The step is None for all other sources, and where WORKDIR is no folder.
    """
    path, _, step = str(source).rpartition("@")
    wanted = step == BEST or (step.isascii() and step.isdigit())
    if wanted and Path(path).is_dir() and not Path(source).exists():
        return Path(path), step
    return Path(source), None


def best(workdir: Path) -> Path:
    """The file with a workdir's best weights. Raises UserError if there is none."""
    file = workdir / BEST_FILE
    if not file.is_file():
        raise UserError(
            f"{workdir} has no {BEST_FILE}: runs keep one where config.validation.hr "
            "names images and config.checkpoint.best is true"
        )
    return file


def with_step(workdir: str, step: str) -> str:
    """WORKDIR@STEP. Raises UserError for a bad step, or a workdir that names one."""
    if at_step(workdir)[1] is not None:
        raise UserError(f"{workdir} names a step already: leave out --step={step}")
    source = f"{workdir}@{step}"
    if Path(workdir).is_dir() and at_step(source)[1] is None:
        raise UserError(f"--step={step}: expected a number of updates, or {BEST}")
    return source


def folder(path: str) -> str:
    """Rewrites the path of a folder so that it cannot name shipped weights."""
    return os.path.join(os.curdir, path) if path in shipped() else path


def read(path: str | Path) -> tuple[Tree, Tree]:
    """Reads the facts about weights, and {"params", "batch_stats", "basis"}.

    Raises UserError if the file is damaged or of another kind.
    """
    import jax  # slow to import, and not needed to find weights
    from flax.traverse_util import unflatten_dict

    path = Path(path)
    if not is_packed(path):
        raise UserError(f"{path} is not a file of lightbsr pack: name one that is")
    about = _metadata(path)
    expected = about.pop(_CHECKSUM, None)
    try:
        tensors = safetensors.numpy.load_file(path)
        if expected is not None and _checksum(about, tensors) != expected:
            raise ValueError("its content is not what was written")
        _check_facts(about)
        tree = unflatten_dict(tensors, sep="/")
        return about, jax.tree.map(lambda x: x.astype(np.float32), tree)
    except (safetensors.SafetensorError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path} is damaged: {error}") from error


def write(path: str | Path, about: Tree, model: Tree, *, half: bool) -> None:
    """Writes weights and the facts about them, as returned by `read`.

    With `half` the parameters are rounded to float16. Raises UserError, which names the
    tensor, for parameters beyond its range.
    """
    from flax.traverse_util import flatten_dict

    flat = flatten_dict(model, sep="/")
    tensors = {name: np.ascontiguousarray(tensor) for name, tensor in flat.items()}
    if half:
        names = [name for name in tensors if name.startswith("params/")]
        tensors |= {name: _halved(name, tensors[name]) for name in names}
    about = {**about, _CHECKSUM: _checksum(about, tensors)}
    # safetensors itself writes files that nobody else may read.
    content = safetensors.numpy.save(tensors, {_ABOUT: json.dumps(about)})
    Path(path).write_bytes(content)


def _check_facts(about: Tree) -> None:
    """Raises ValueError unless there are a config and a step, as `write` gets them."""
    config, step = about.get("config"), about.get("step")
    if not isinstance(config, dict):
        raise ValueError(f"its config is {config!r}: expected an object")
    if type(step) is not int or step < 0:
        raise ValueError(f"its step is {step!r}: expected a whole number")


def _halved(name: str, tensor: np.ndarray) -> np.ndarray:
    """A tensor in float16. Raises UserError if its values would become infinite."""
    largest = tensor.flat[np.abs(tensor).argmax()]
    if abs(largest) > np.finfo(np.float16).max:
        raise UserError(
            f"{name} holds {largest:g}: float16 ends at 65504; pack without --half"
        )
    return tensor.astype(np.float16)


def _checksum(about: Tree, tensors: dict[str, np.ndarray]) -> int:
    """A checksum of a file's content."""
    value = zlib.crc32(json.dumps(about, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        value = zlib.crc32(f"{name} {tensor.dtype} {tensor.shape}".encode(), value)
        value = zlib.crc32(np.ascontiguousarray(tensor).data, value)
    return value


def _metadata(path: Path) -> Tree:
    """The facts in a packed file; {} for a file of another program."""
    if path.suffix != SUFFIX:
        return {}
    with safetensors.safe_open(path, "np") as file:
        metadata = file.metadata() or {}
    about = json.loads(metadata.get(_ABOUT, "{}"))
    if not isinstance(about, dict):
        raise ValueError(f"{_ABOUT} is not an object")
    return about
