"""VGG19's parameters in torchvision's state dict, for a perceptual loss."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lightbsr_jax.errors import UserError
from lightbsr_jax.models import torch_files
from lightbsr_jax.networks import vgg


def read(path: str | Path) -> Any:
    """Reads VGG19's parameters from torchvision's state dict.

    Raises UserError if the file holds another network, OSError if it cannot be read.
    """
    return params_of(torch_files.read(path), path, vgg.FEATURES)


def has_names(tensors: dict[str, np.ndarray]) -> bool:
    """Returns whether tensors have the names of torchvision's VGG networks."""
    return "features.0.weight" in tensors


def params_of(
    tensors: dict[str, np.ndarray], path: str | Path, widths: Sequence[int]
) -> Any:
    """VGG19's parameters of the tensors in a file. Raises UserError, which names it.

    `widths` are those of the network, by resolution.
    """
    expected, params = shapes(widths), {}

    def tensor(name: str) -> np.ndarray:
        return _checked(path, name, tensors.get(name), expected[name])

    for name, place in vgg.places().items():
        kernel = tensor(f"features.{place}.weight")
        bias = tensor(f"features.{place}.bias")
        params[name] = {"kernel": kernel.transpose(2, 3, 1, 0).copy(), "bias": bias}
    return params


def tensors(params: Any) -> dict[str, np.ndarray]:
    """The tensors of torchvision's state dict: the inverse of `read`."""
    found = {}
    for name, place in vgg.places().items():
        kernel, bias = params[name]["kernel"], params[name]["bias"]
        found[f"features.{place}.weight"] = kernel.transpose(3, 2, 0, 1)
        found[f"features.{place}.bias"] = bias
    return found


def shapes(widths: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """The shapes of the state dict of a VGG19 of these widths, by resolution."""
    pairs = zip(vgg.GROUPS, widths, strict=True)
    outputs = [width for count, width in pairs for _ in range(count)]
    found, inputs = {}, 3
    for place, width in zip(vgg.places().values(), outputs, strict=True):
        found[f"features.{place}.weight"] = (width, inputs, 3, 3)
        found[f"features.{place}.bias"] = (width,)
        inputs = width
    return found


def _checked(
    path: str | Path, name: str, found: Any, shape: tuple[int, ...]
) -> np.ndarray:
    """The tensor found in a file. Raises UserError if missing or of another shape."""
    if found is None or found.shape != shape:
        held = "is missing" if found is None else f"is {list(found.shape)}"
        raise UserError(
            f"{path} is not VGG19: {name} {held}, expected {list(shape)}. Give "
            "torchvision's state dict of VGG19, whole or its features, without batch "
            "normalisation"
        )
    return found
