"""The variables that a run starts from: given ones where they fit, or bicubic.

Variables are trees {"params", "batch_stats"} of arrays.
"""

from typing import Any, NamedTuple

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import Array

from lightbsr_jax.errors import UserError
from lightbsr_jax.imaging.resize import bicubic_matrix
from lightbsr_jax.methods.network import UPSCALER_STEPS
from lightbsr_jax.models.load import read
from lightbsr_jax.training.config import TrainingConfig
from lightbsr_jax.training.state import Tree

STARTS = ("random", "bicubic")
ESTIMATOR_INPUT = ("params", "estimator", "conv_0", "kernel")
_COLOURS = 3

Path = tuple[str, ...]


class Fitted(NamedTuple):
    """Variables to start from, and where in them the tensors are that were given."""

    variables: Tree
    taken: frozenset[Path]
    tensors: int  # all that there are


def fresh_variables(config: TrainingConfig, key: Array) -> Tree:
    """Fresh variables of a run's network, which start as `config.start` says."""
    variables = config.model.fresh_variables(key)
    if config.start == "bicubic":
        return bicubic(variables, config.model.scale)
    return variables


def fit(variables: Tree, given: Tree | None) -> Fitted:
    """`variables` with the tensors of `given` whose place and shape are the same.

    Raises UserError where there are none.
    """
    wanted, found = _tensors(variables), _tensors(given or {})
    taken = {
        path: np.asarray(found[path])
        for path, leaf in wanted.items()
        if path in found and found[path].shape == leaf.shape
    }
    if given is not None and not taken:
        raise UserError(
            f"config.init: none of its {len(found)} tensors has the place and shape of "
            "one of this run's network: name weights of the same method"
        )
    empty = {"params": {}, "batch_stats": {}}
    merged = empty | unflatten_dict({**wanted, **taken})
    return Fitted(merged, frozenset(taken), len(wanted))


def load(source: str) -> Tree:
    """Variables of a source (see models/load.py), and the prior's basis if it has one.

    Raises UserError where there is no network of that name.
    """
    try:
        weights = read(source)
    except (FileNotFoundError, UserError) as error:
        raise UserError(f"config.init: {error}") from error
    basis = {} if weights.basis is None else {"basis": weights.basis}
    return {**weights.variables, **basis}


def told(start: Fitted, source: str) -> str:
    """A line that says what was taken, such as for a run's log."""
    taken, left = len(start.taken), start.tensors - len(start.taken)
    return f"{taken} tensors are those of {source}, {left} start fresh"


def _tensors(variables: Tree) -> dict[Path, Any]:
    """Parameters and batch statistics by their paths."""
    return flatten_dict({k: variables.get(k, {}) for k in ("params", "batch_stats")})


def bicubic(variables: Tree, scale: int) -> Tree:
    """`variables` with which a network interpolates bicubically, whatever else it does.

    Colours go as the first three channels through head, body and upscaler, whose other
    channels stay as they are, and have no part in the image yet. Exact but for an
    image's outermost pixels, beyond which convolutions see zeros.
    """
    restorer = jax.tree.map(np.array, variables["params"]["restorer"])
    colours = range(_COLOURS)

    head = restorer["head"]
    head["kernel"][..., :_COLOURS], head["bias"][:_COLOURS] = 0, 0
    head["kernel"][1, 1, colours, colours] = 1
    last = restorer["body"]["conv"]
    last["kernel"][..., :_COLOURS], last["bias"][:_COLOURS] = 0, 0

    first, second = _split(scale)
    layers = ["upscale_0", "upscale_1", "tail"] if scale == 4 else ["upscale_0", "tail"]
    kernels = [_outer(first), _outer(second)]
    if scale == 4:
        kernels.append(np.zeros((3, 3, _COLOURS, _COLOURS), np.float32))
        kernels[-1][1, 1, colours, colours] = 1
    for name, kernel in zip(layers, kernels, strict=True):
        layer, (inputs, outputs) = restorer[name], kernel.shape[2:]
        layer["kernel"][..., :outputs] = 0
        layer["kernel"][..., :inputs, :outputs] = kernel
        layer["bias"][:outputs] = 0
    return {**variables, "params": {**variables["params"], "restorer": restorer}}


def _split(scale: int) -> tuple[np.ndarray, np.ndarray]:
    """Bicubic interpolation along an axis as two convolutions of three taps.

    [3, 1, S, f] makes S signals at each of a pixel's f places, [3, S, 1, g] the output
    of them. A pixel's output takes five pixels, of which the first convolution sees the
    three in the middle. It makes g signals that hold what these contribute, and one
    that brings the far tap to the neighbour that needs it: the next pixel at the first
    place, the one before at the last.
    """
    factor, *then = UPSCALER_STEPS[scale]
    outputs = then[0] if then else 1
    size = 16
    rows = bicubic_matrix(size, size * scale)[size // 2 * scale :][:scale]
    taps = rows[:, size // 2 - 2 : size // 2 + 3].astype(np.float64)  # [scale, 5]
    taps = taps.reshape(factor, outputs, 5)

    brought = np.zeros((factor, 3))  # by the last signal
    brought[0, 2], brought[-1, 0] = 1, 1
    far_left, far_right = taps[0, :, 0], taps[-1, :, 4]  # [outputs]
    first = np.zeros((3, 1, outputs + 1, factor))
    second = np.zeros((3, outputs + 1, 1, outputs))
    first[:, 0, outputs] = brought.T
    second[0, outputs, 0], second[2, outputs, 0] = far_left, far_right
    for place in range(factor):
        own = taps[place, :, 1:4].copy()  # [outputs, 3]
        if place > 0:  # the neighbour before belongs to the same pixel
            own -= far_left[:, None] * brought[place - 1]
        if place < factor - 1:
            own -= far_right[:, None] * brought[place + 1]
        first[:, 0, :outputs, place] = own.T
    second[1, range(outputs), 0, range(outputs)] = 1
    return first, second


def _outer(along: np.ndarray) -> np.ndarray:
    """The convolution of rows, columns and each colour by itself, of one of an axis.

    [3, I, O, f] to [3, 3, I I C, O O C f f], as pixel_shuffle wants the outputs.
    """
    _, inputs, outputs, factor = along.shape
    kernel = np.einsum(
        "yaip,xbjq,cd->yxabcijdpq", along, along, np.eye(_COLOURS), optimize=True
    )
    return kernel.reshape(
        3,
        3,
        inputs * inputs * _COLOURS,
        outputs * outputs * _COLOURS * factor**2,
    ).astype(np.float32)
