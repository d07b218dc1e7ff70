"""The reference's parameter names and layouts, and the way between them and ours.

Torch convolutions are [out, in, kh, kw] where ours are [kh, kw, in, out], torch
matrices [out, in] where ours are [in, out]. Torch numbers groups and blocks in its
names; ours are stacked on leading axes.
"""

import re
from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from lightbsr_jax.networks.adaptation import FEATURES
from lightbsr_jax.networks.lightbsr import RGB_MEAN, LightBSR

# How the reference calls the estimator of a student, and a teacher's two branches.
STUDENT = "E."
PRINCIPAL = "E.encoder_q."
MOMENTUM = "E.encoder_k."
# A teacher's keys [128, Q], and [1] the place of the oldest one.
QUEUE = "E.queue"
QUEUE_POINTER = "E.queue_ptr"

# Layer names; {E} is the estimator's prefix, {g} counts groups and {b} blocks.
_GROUP = "G.body.{g}"
_BLOCK = "G.body.{g}.body.{b}"
_CONVNEXT = "G.body.{g}.body.{blocks}"
_LAYERS = {
    "converter/channel": "G.compress.0",
    "converter/spatial": "G.afterpixshuffle.0",
    "restorer/head": "G.head.0",
    "restorer/body/conv": "G.body.{groups}",
    "restorer/body/groups/channel_converter/expand": _GROUP + ".ca_change.avgafter.0",
    "restorer/body/groups/channel_converter/reduce": _GROUP + ".ca_change.avgafter.2",
    "restorer/body/groups/spatial_converter/expand": _GROUP + ".xk_change.sig1.0",
    "restorer/body/groups/spatial_converter/reduce": _GROUP + ".xk_change.sig1.2",
    "restorer/body/groups/conv": "G.body.{g}.body.{after_convnext}",
    "restorer/upscale_0": "G.tail.0.0",
    "restorer/upscale_1": "G.tail.0.2",
    "restorer/tail": "G.tail.1",
    "projector/hidden": "{E}mlp.0",
    "projector/output": "{E}mlp.2",
}
_LAYERS |= {f"estimator/conv_{i}": f"{{E}}E.{3 * i}" for i in range(6)}
_LAYERS |= {f"estimator/norm_{i}": f"{{E}}E.{3 * i + 1}" for i in range(6)}
_SPATIAL = _BLOCK + ".spatial_mixing."
_LAYERS |= {
    f"restorer/body/groups/blocks/{ours}": _SPATIAL + theirs
    for ours, theirs in {
        "spatial/mask_hidden": "spatial_attention.0",
        "spatial/mask": "spatial_attention.2",
        "spatial/conv": "partial_conv3",
        "channel/weight_hidden": "loc.avgafter.0",
        "channel/weight": "loc.avgafter.2",
    }.items()
}
for _ours, _theirs in {
    "restorer/body/groups/blocks/mixing": _BLOCK,
    "restorer/body/groups/convnext": _CONVNEXT,
}.items():
    _LAYERS |= {
        _ours: _theirs,  # the layer scale
        f"{_ours}/depthwise": f"{_theirs}.dwconv",
        f"{_ours}/norm": f"{_theirs}.norm",
        f"{_ours}/expand": f"{_theirs}.pwconv1",
        f"{_ours}/reduce": f"{_theirs}.pwconv2",
    }

_TENSORS = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "layer_scale": "gamma",
    "mean": "running_mean",
    "var": "running_var",
}


def layers(network: LightBSR, estimator: str) -> dict[str, np.ndarray]:
    """The reference's names of our layers, by path, [groups, blocks] where stacked.

    `estimator` is STUDENT, PRINCIPAL or MOMENTUM.
    """
    return {
        path: _names(template, network, estimator) for path, template in _LAYERS.items()
    }


def _names(template: str, network: LightBSR, estimator: str) -> np.ndarray:
    lead = [network.groups] * ("{g}" in template)
    lead += [network.blocks] * ("{b}" in template)
    names = [
        template.format(
            E=estimator,
            g=index[0] if index else None,
            b=index[-1] if index else None,
            groups=network.groups,
            blocks=network.blocks,
            after_convnext=network.blocks + 1,
        )
        for index in product(*map(range, lead))
    ]
    return np.array(names).reshape(lead)


def _leaves(
    variables: Mapping[str, Any], network: LightBSR, estimator: str
) -> Iterator[tuple[tuple[str, ...], Any, np.ndarray]]:
    """Path, leaf and the torch names [...] of the tensors stacked in the leaf."""
    for path, leaf in flatten_dict(dict(variables)).items():
        template = f"{_LAYERS['/'.join(path[1:-1])]}.{_TENSORS[path[-1]]}"
        yield path, leaf, _names(template, network, estimator)


def to_torch(
    variables: Mapping[str, Any], network: LightBSR, estimator: str
) -> dict[str, np.ndarray]:
    """Tensors by the reference's names.

    `variables` is {"params": ..., "batch_stats": ...} or a part of it; `estimator` is
    STUDENT, PRINCIPAL or MOMENTUM.
    """
    tensors = {}
    for _, leaf, names in _leaves(variables, network, estimator):
        stack = np.asarray(leaf)
        stack = stack.reshape(names.size, *stack.shape[names.ndim :])
        for name, tensor in zip(names.flat, stack, strict=True):
            # HWIO to OIHW, [in, out] to [out, in]; vectors stay.
            order = (3, 2, 0, 1) if tensor.ndim == 4 else range(tensor.ndim)[::-1]
            tensors[str(name)] = np.ascontiguousarray(tensor.transpose(order))
    return tensors


def from_torch(
    tensors: Mapping[str, np.ndarray],
    shapes: Mapping[str, Any],
    network: LightBSR,
    estimator: str,
) -> dict[str, Any]:
    """Our variables out of the reference's tensors; the inverse of `to_torch`.

    `shapes` is the tree of variables to fill, of arrays or of their shapes. Raises
    KeyError for a tensor that is missing, ValueError for one that is misshapen.
    """
    filled = {}
    for path, leaf, names in _leaves(shapes, network, estimator):
        stack = [np.asarray(tensors[str(name)]) for name in names.flat]
        stack = [t.transpose((2, 3, 1, 0) if t.ndim == 4 else None) for t in stack]
        wanted = leaf.shape[names.ndim :]
        for name, tensor in zip(names.flat, stack, strict=True):
            if tensor.shape != wanted:
                raise ValueError(f"{name} has the shape {tensor.shape}, not {wanted}")
        filled[path] = np.stack(stack).reshape(leaf.shape)
    return unflatten_dict(filled)


def mean_shift() -> dict[str, np.ndarray]:
    """The reference's fixed layers around the network: 24 numbers that never learn."""
    identity = np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1)
    mean = np.array(RGB_MEAN, np.float32)
    return {
        "G.sub_mean.weight": identity,
        "G.sub_mean.bias": -mean,
        "G.add_mean.weight": identity,
        "G.add_mean.bias": mean,
    }


def counters(estimator: str) -> list[str]:
    """Names of the counts of updates that torch's BatchNorm keeps and never reads."""
    return [
        f"{theirs.format(E=estimator)}.num_batches_tracked"
        for ours, theirs in _LAYERS.items()
        if ours.startswith("estimator/norm_")
    ]


def infer(shapes: Mapping[str, tuple[int, ...]]) -> tuple[LightBSR, int | None]:
    """The network with tensors of these names and shapes, and its prior's channels.

    The channels are None for a student. Where tensors are missing or misshapen it is
    the likeliest network; ValueError where none has such names.
    """

    def sizes(name: str) -> tuple[int, ...]:
        return (*shapes.get(name, ()), 0, 0)[:2]  # out and in channels

    block = re.compile(r"G\.body\.(\d+)\.body\.(\d+)\.spatial_mixing\.")
    found = [match for match in map(block.match, shapes) if match]
    if not found or not any(name.startswith(STUDENT) for name in shapes):
        raise ValueError("no names like G.body.0.body.0.spatial_mixing... and E....")
    groups, blocks = (1 + max(int(match[i]) for match in found) for i in (1, 2))

    scale = 4 if "G.tail.0.2.weight" in shapes else 2
    if sizes("G.tail.0.0.weight")[0] == 9 * FEATURES:
        scale = 3
    channels = None
    if any(name.startswith((PRINCIPAL, MOMENTUM)) for name in shapes):
        channels = sizes(f"{PRINCIPAL}E.0.weight")[1] - 3
    return LightBSR(scale, groups, blocks), channels
