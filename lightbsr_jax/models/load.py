"""Loading trained networks from any source: `--weights` means the same everywhere.

A source is
the name of weights that come with the package ("setting2"),
a file that `lightbsr pack` wrote (.safetensors),
a state dict of a published PyTorch program (.pt, .pth, .safetensors), or
the workdir of a run, from which the newest undamaged checkpoint is read.

WORKDIR@STEP names the checkpoint of that step, WORKDIR@best the weights with the best
validation. A str and a Path mean the same. A name of the package's weights takes
precedence over a file or folder with that name; write ./NAME as a str, or an absolute
path, to name that.
"""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from lightbsr_jax.errors import UserError
from lightbsr_jax.imaging import prior, settings
from lightbsr_jax.models import packed, state_dict
from lightbsr_jax.models.checkpoint import opened
from lightbsr_jax.models.model import Model
from lightbsr_jax.models.torch_files import SUFFIXES
from lightbsr_jax.spec import ModelSpec, Sees

Tree = dict[str, Any]
Source = str | Path

# The setting assumed for a student's state dict, which does not store its own.
# Upscaling does not depend on it; `--explain` uses its set of known degradations, the
# largest.
ASSUMED_SETTING = 2


class Weights(NamedTuple):
    """The weights of a network in host memory, with their description."""

    spec: ModelSpec
    variables: Tree  # {"params", "batch_stats"}
    basis: np.ndarray | None  # [441, 15] of the prior; None in a state dict
    step: int  # number of training updates
    # Metadata of a run or packed file, with its "config"; None for a state dict.
    about: Tree | None = None


def load(source: Source, *, setting: settings.Name | None = None) -> Model:
    """Loads the network of a source to the first device.

    `setting` applies to a state dict that does not store its own. Raises UserError if
    nothing has that name, if a file is damaged or of another kind, if weights are not
    finite, and for the state dict of a teacher, which lacks the basis of its prior;
    FileNotFoundError for a folder without checkpoints.
    """
    return model_of(read(source, setting=setting), source)


def model_of(weights: Weights, source: Source) -> Model:
    """The network of weights that `source` holds, on the first device.

    Raises UserError for a teacher that is useless without its prior's basis.
    """
    if weights.basis is None and weights.spec.sees is Sees.PRIOR:
        raise UserError(
            f"{source} is a {weights.spec.kind}, which works only with the basis of "
            "the prior that it was trained with: convert it with its PCA_matrix.mat "
            "(lightbsr convert --pca), and give the working directory"
        )
    return _model(weights)


def load_for_pictures(source: Source) -> Model:
    """Loads as `load` does, but only networks that need nothing but the LR image.

    Raises UserError, which names the source, for a teacher.
    """
    return model_for_pictures(read(source), source)


def model_for_pictures(weights: Weights, source: Source) -> Model:
    """The network of weights as `load_for_pictures` loads it."""
    if weights.spec.sees is not Sees.NOTHING:
        raise UserError(
            f"{source} is a {weights.spec.kind}, which needs the true degradation, "
            "unknown for pictures: give its student"
        )
    return _model(weights)


def read(source: Source, *, setting: settings.Name | None = None) -> Weights:
    """Reads the weights of a source, of any role; raises as `load` does."""
    weights = _read(source, setting)
    _check_finite(weights, source)
    return weights


def _read(source: Source, setting: settings.Name | None) -> Weights:
    file = packed.shipped().get(str(source), Path(source))
    if not file.exists():
        folder, step = packed.at_step(source)
        if step == packed.BEST:
            return _read_packed(packed.best(folder))
        if step is not None:
            return _read_workdir(folder, int(step))
    if not file.is_file():
        is_name = Path(source).name == str(source)
        if is_name or file.suffix in SUFFIXES:  # not the path of a folder
            packed.check_name(str(source))
        return _read_workdir(source)
    if packed.is_packed(file):
        return _read_packed(file)
    found = state_dict.read(file, otherwise=setting or ASSUMED_SETTING)
    return Weights(found.run.model, found.variables, None, 0)


def _model(weights: Weights) -> Model:
    basis = weights.basis
    if basis is None:
        basis = np.zeros(prior.BASIS_SHAPE, np.float32)
    device = jax.local_devices()[0]
    variables, basis = jax.device_put((weights.variables, basis), device)
    return Model(weights.spec, variables, basis, weights.step)


def newest(workdir: Source, step: int | None = None) -> tuple[int, Tree, Tree]:
    """The step, `about` and {"params", "batch_stats", "basis"} of a run's checkpoint.

    Reads that of `step`, or the newest. Raises FileNotFoundError if the folder has
    none, UserError if none can be read or `step` is missing.
    """

    def shapes(about: Tree) -> Tree:
        return ModelSpec.from_config(about["config"], workdir).shapes()

    with opened(workdir) as checkpoints:
        return checkpoints.model(shapes, step)


def _read_workdir(workdir: Source, step: int | None = None) -> Weights:
    found, about, restored = newest(workdir, step)
    spec = ModelSpec.from_config(about["config"], workdir)
    return _divided(spec, restored, found)._replace(about=about)


def _read_packed(file: Path) -> Weights:
    about, restored = packed.read(file)
    spec = ModelSpec.from_config(about["config"], file)
    _check_shapes(file, restored, spec.shapes())
    return _divided(spec, restored, about["step"])._replace(about=about)


def _divided(spec: ModelSpec, model: Tree, step: int) -> Weights:
    """Separates the variables and the basis of a checkpoint's or file's model."""
    variables = {name: tree for name, tree in model.items() if name != "basis"}
    return Weights(spec, {"batch_stats": {}, **variables}, model["basis"], step)


def _check_finite(weights: Weights, source: Source) -> None:
    """Raises UserError for weights that are not finite, which restore nothing."""
    flat: Tree = flatten_dict(weights.variables, sep="/")
    spoilt = [name for name, tensor in flat.items() if not np.isfinite(tensor).all()]
    if spoilt:
        raise UserError(
            f"{source}: values that are not finite in {len(spoilt)} of the tensors, "
            f"such as {spoilt[0]}: name another checkpoint or file"
        )


def _check_shapes(file: Path, model: Tree, wanted: Tree) -> None:
    """Raises UserError if the tensors of a file do not match its network."""

    def forms(tree: Tree) -> dict[str, tuple[int, ...]]:
        flat: Tree = flatten_dict(tree, sep="/")
        return {name: tensor.shape for name, tensor in flat.items()}

    found, wanted = forms(model), forms(wanted)
    wrong = sorted(n for n in found | wanted if found.get(n) != wanted.get(n))
    if wrong:
        raise UserError(
            f"{file}: {len(wrong)} tensors do not match its network, such as "
            f"{wrong[0]}: {found.get(wrong[0])}, expected {wanted.get(wrong[0])}; pack "
            "it again"
        )
