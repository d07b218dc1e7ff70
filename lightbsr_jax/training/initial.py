"""The initial variables of a run: given, random, or bicubic.

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
_SCALE = ("mixing", "layer_scale")  # of the stacked blocks of groups
_BLOCK_AXIS = 1  # after the groups'

Path = tuple[str, ...]


class Fitted(NamedTuple):
    """Initial variables, and the paths of the tensors taken from given weights."""

    variables: Tree
    taken: frozenset[Path]
    tensors: int  # number of all tensors


def fresh_variables(config: TrainingConfig, key: Array) -> Tree:
    """Makes initial variables of a run's network, as `config.start` selects."""
    variables = config.model.fresh_variables(key)
    if config.start == "bicubic":
        return bicubic(variables, config.model.scale)
    return variables


def fit(variables: Tree, given: Tree | None) -> Fitted:
    """Replaces tensors of `variables` by those of `given` with equal path and shape.

    Groups may have another number of blocks (see `_with_blocks`). Raises UserError if
    no tensor fits.
    """
    wanted, found = _tensors(variables), _tensors(given or {})
    found = _with_blocks(found, wanted)
    taken = {
        path: np.asarray(found[path])
        for path, leaf in wanted.items()
        if path in found and found[path].shape == leaf.shape
    }
    if given is not None and not taken:
        raise UserError(
            f"config.init: none of its {len(found)} tensors has the path and shape of "
            "one in this run's network: name weights of the same method"
        )
    empty = {"params": {}, "batch_stats": {}}
    merged = empty | unflatten_dict({**wanted, **taken})
    return Fitted(merged, frozenset(taken), len(wanted))


def _with_blocks(found: dict[Path, Any], wanted: dict[Path, Any]) -> dict[Path, Any]:
    """Changes the number of blocks of each group in `found` to that in `wanted`.

    Fewer blocks are evenly spaced ones. If there are more, each given block is followed
    by copies of it with a layer scale of zero, so that the network's output is the
    same. Blocks without layer scales stay as they are.
    """
    scaled = {path[:-2] for path in found if path[-2:] == _SCALE}
    changed = dict(found)
    for blocks in scaled:
        of_blocks = [path for path in found if path[: len(blocks)] == blocks]
        for path in of_blocks:
            given, shape = np.asarray(found[path]), np.shape(wanted.get(path, ()))
            if given.ndim != len(shape):
                continue
            have, want = given.shape[_BLOCK_AXIS], shape[_BLOCK_AXIS]
            sources = np.arange(want) * have // want
            changed[path] = given[:, sources]
            if path[-1] == "layer_scale":
                copies = np.flatnonzero(np.diff(sources, prepend=-1) == 0)
                changed[path][:, copies] = 0
    return changed


def load(source: str) -> Tree:
    """Reads variables of a source (see models/load.py), with the prior's basis if any.

    Raises UserError if no network has that name.
    """
    try:
        weights = read(source)
    except (FileNotFoundError, UserError) as error:
        raise UserError(f"config.init: {error}") from error
    basis = {} if weights.basis is None else {"basis": weights.basis}
    return {**weights.variables, **basis}


def describe(start: Fitted, source: str) -> str:
    """A line for a run's log on the tensors taken from given weights."""
    taken, left = len(start.taken), start.tensors - len(start.taken)
    return f"{taken} tensors are taken from {source}, {left} are initialised"


def _tensors(variables: Tree) -> dict[Path, Any]:
    """Parameters and batch statistics by their paths."""
    return flatten_dict({k: variables.get(k, {}) for k in ("params", "batch_stats")})


def bicubic(variables: Tree, scale: int) -> Tree:
    """Changes `variables` so that the network interpolates bicubically.

    Colours pass through head, body and upscaler as the first three channels. The other
    channels do not change and have no effect on the image at first. The result is exact
    except for the outermost pixels, where convolutions pad with zeros. Raises UserError
    for a network with too few channels.
    """
    restorer = jax.tree.map(np.array, variables["params"]["restorer"])
    colours = range(_COLOURS)

    head = restorer["head"]
    kernels = [_outer(along) for along in _split(scale)]
    features, signals = head["bias"].size, kernels[1].shape[2]
    if features < signals:
        raise UserError(
            f"config.start=bicubic needs more than config.network.features {features}: "
            f"use {signals} or more"
        )
    head["kernel"][..., :_COLOURS], head["bias"][:_COLOURS] = 0, 0
    head["kernel"][1, 1, colours, colours] = 1
    last = restorer["body"]["conv"]
    last["kernel"][..., :_COLOURS], last["bias"][:_COLOURS] = 0, 0

    layers = ["upscale_0", "upscale_1", "tail"] if scale == 4 else ["upscale_0", "tail"]
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
    """Splits bicubic interpolation along an axis into two convolutions of three taps.

    The first, [3, 1, S, f], makes S signals at each of a pixel's f positions; the
    second, [3, S, 1, g], makes the output from them. An output depends on five pixels,
    of which the first convolution reaches the middle three. It makes g signals with
    their contributions, and one more that passes a far tap to the neighbour that needs
    it: the next pixel at the first position, the previous one at the last.
    """
    factor, *then = UPSCALER_STEPS[scale]
    outputs = then[0] if then else 1
    size = 16
    rows = bicubic_matrix(size, size * scale)[size // 2 * scale :][:scale]
    taps = rows[:, size // 2 - 2 : size // 2 + 3].astype(np.float64)  # [scale, 5]
    taps = taps.reshape(factor, outputs, 5)

    brought = np.zeros((factor, 3))  # taps of the last signal
    brought[0, 2], brought[-1, 0] = 1, 1
    far_left, far_right = taps[0, :, 0], taps[-1, :, 4]  # [outputs]
    first = np.zeros((3, 1, outputs + 1, factor))
    second = np.zeros((3, outputs + 1, 1, outputs))
    first[:, 0, outputs] = brought.T
    second[0, outputs, 0], second[2, outputs, 0] = far_left, far_right
    for place in range(factor):
        own = taps[place, :, 1:4].copy()  # [outputs, 3]
        if place > 0:  # the previous neighbour belongs to the same pixel
            own -= far_left[:, None] * brought[place - 1]
        if place < factor - 1:
            own -= far_right[:, None] * brought[place + 1]
        first[:, 0, :outputs, place] = own.T
    second[1, range(outputs), 0, range(outputs)] = 1
    return first, second


def _outer(along: np.ndarray) -> np.ndarray:
    """Extends the convolution of one axis to rows, columns and separate colours.

    [3, I, O, f] becomes [3, 3, I I C, O O C f f], in the order of pixel_shuffle.
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
