"""Converting between the parameter names and layouts of the reference and ours.

Torch convolutions are [out, in, kh, kw] where ours are [kh, kw, in, out], torch
matrices [out, in] where ours are [in, out]. Torch numbers groups and blocks in its
names; ours are stacked on leading axes.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from lightbsr_jax.methods import registry
from lightbsr_jax.methods.network import RGB_MEAN, BlindNetwork
from lightbsr_jax.methods.registry import METHODS
from lightbsr_jax.methods.torch_layers import PRINCIPAL

# The keys of a contrast, [128, Q], and the index [1] of the oldest one.
QUEUE = "E.queue"
QUEUE_POINTER = "E.queue_ptr"

_TENSORS = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "layer_scale": "gamma",
    "mean": "running_mean",
    "var": "running_var",
}


def layers(network: BlindNetwork, estimator: str) -> dict[str, np.ndarray]:
    """The reference's names of our layers, by path; [groups, blocks] if stacked.

    `estimator` is the prefix of the estimator's names, such as PRINCIPAL or MOMENTUM.
    """
    return registry.of_network(network).layers(network, estimator)


def _leaves(
    variables: Mapping[str, Any], network: BlindNetwork, estimator: str
) -> Iterator[tuple[tuple[str, ...], Any, np.ndarray]]:
    """Yields each path, its leaf and the torch names of the tensors stacked in it."""
    names = layers(network, estimator)
    for path, leaf in flatten_dict(dict(variables)).items():
        layer = names["/".join(path[1:-1])]
        yield path, leaf, np.char.add(layer, f".{_TENSORS[path[-1]]}")


def to_torch(
    variables: Mapping[str, Any], network: BlindNetwork, estimator: str
) -> dict[str, np.ndarray]:
    """Converts variables to tensors by the reference's names.

    `variables` is {"params": ..., "batch_stats": ...} or a part of it; `estimator` is
    as for `layers`.
    """
    tensors = {}
    for _, leaf, names in _leaves(variables, network, estimator):
        stack = np.asarray(leaf)
        stack = stack.reshape(names.size, *stack.shape[names.ndim :])
        for name, tensor in zip(names.flat, stack, strict=True):
            # HWIO to OIHW, [in, out] to [out, in]; vectors do not change.
            order = (3, 2, 0, 1) if tensor.ndim == 4 else range(tensor.ndim)[::-1]
            tensors[str(name)] = np.ascontiguousarray(tensor.transpose(order))
    return tensors


def from_torch(
    tensors: Mapping[str, np.ndarray],
    shapes: Mapping[str, Any],
    network: BlindNetwork,
    estimator: str,
) -> dict[str, Any]:
    """Converts the reference's tensors to our variables: the inverse of `to_torch`.

    `shapes` is the tree of variables to fill, of arrays or of their shapes. Raises
    KeyError if a tensor is missing, ValueError if a shape is wrong.
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


def mean_shift(pixel_range: float = 1) -> dict[str, np.ndarray]:
    """The reference's fixed layers around the network: 24 constant numbers."""
    identity = np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1)
    mean = np.array(RGB_MEAN, np.float32) * np.float32(pixel_range)
    return {
        "G.sub_mean.weight": identity,
        "G.sub_mean.bias": -mean,
        "G.add_mean.weight": identity,
        "G.add_mean.bias": mean,
    }


def counters(network: BlindNetwork, estimator: str) -> list[str]:
    """Names of BatchNorm's counts of updates, which torch stores but never reads."""
    return [
        f"{theirs}.num_batches_tracked"
        for ours, theirs in layers(network, estimator).items()
        if ours.startswith("estimator/norm_")
    ]


def infer(shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, BlindNetwork, str]:
    """Recognises the method, network and role of tensors by names and shapes.

    If tensors are missing or misshapen, it is the most likely method; raises ValueError
    if no method has such names.
    """
    for name, method in METHODS.items():
        found = method.recognise(shapes)
        if found is not None:
            return name, *found
    raise ValueError("no names like G.body.0.body.0.spatial_mixing... and E....")


def prior_channels(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Number of prior channels: inputs of a teacher's first convolution without LR."""
    return (*shapes.get(f"{PRINCIPAL}E.0.weight", ()), 0, 0)[1] - 3
