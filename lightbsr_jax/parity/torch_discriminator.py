"""The names of the discriminator's tensors in torch, and their layouts."""

from typing import Any

import jax
import numpy as np

from lightbsr_jax.networks.discriminator import Discriminator

Arrays = dict[str, np.ndarray]
Tree = dict[str, Any]


def shapes(features: int) -> dict[str, tuple[int, ...]]:
    """The shapes of a state dict, with both vectors of torch's power iteration."""
    params, vectors = jax.eval_shape(Discriminator(features).fresh, jax.random.key(0))
    empty = jax.tree.map(lambda x: np.empty(x.shape, np.float32), (params, vectors))
    found = {name: tensor.shape for name, tensor in to_torch(*empty).items()}
    for name in vectors:
        _, *inputs = found[f"{name}.weight_orig"]
        found[f"{name}.weight_v"] = (int(np.prod(inputs)),)
    return found


def to_torch(params: Tree, vectors: Tree) -> Arrays:
    """A discriminator's tensors by torch's names; vectors may be left out."""
    found: Arrays = {}
    for name, own in params.items():
        spectral = "bias" not in own
        kernel = np.asarray(own["kernel"]).transpose(3, 2, 0, 1)
        found[f"{name}.weight" + "_orig" * spectral] = kernel
        if not spectral:
            found[f"{name}.bias"] = np.asarray(own["bias"])
        elif name in vectors:
            found[f"{name}.weight_u"] = np.asarray(vectors[name]["u"])
    return found


def from_torch(tensors: Arrays) -> tuple[Tree, Tree]:
    """The inverse of `to_torch`: parameters and vectors of a state dict."""
    params: Tree = {}
    vectors: Tree = {}
    for full, tensor in tensors.items():
        name, _, kind = full.partition(".")
        if kind == "weight_u":
            vectors[name] = {"u": tensor}
        elif kind != "weight_v":  # each pass makes it anew
            part = "bias" if kind == "bias" else "kernel"
            value = tensor if part == "bias" else tensor.transpose(2, 3, 1, 0)
            params.setdefault(name, {})[part] = value
    return params, vectors
