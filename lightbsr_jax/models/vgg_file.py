"""VGG19's parameters in torchvision's state dict, for a perceptual loss."""

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
    return params_of(torch_files.read(path), path)


def has_names(tensors: dict[str, np.ndarray]) -> bool:
    """Returns whether tensors have the names of torchvision's VGG networks."""
    return "features.0.weight" in tensors


def params_of(tensors: dict[str, np.ndarray], path: str | Path) -> Any:
    """VGG19's parameters of the tensors in a file. Raises UserError, which names it."""
    params, inputs = {}, 3
    for (name, place), width in zip(vgg.places().items(), _widths(), strict=True):
        kernel = _tensor(path, tensors, f"features.{place}.weight", (width, inputs))
        bias = _tensor(path, tensors, f"features.{place}.bias", (width,))
        params[name] = {"kernel": kernel.transpose(2, 3, 1, 0).copy(), "bias": bias}
        inputs = width
    return params


def tensors(params: Any) -> dict[str, np.ndarray]:
    """The tensors of torchvision's state dict: the inverse of `read`."""
    found = {}
    for name, place in vgg.places().items():
        kernel, bias = params[name]["kernel"], params[name]["bias"]
        found[f"features.{place}.weight"] = kernel.transpose(3, 2, 0, 1)
        found[f"features.{place}.bias"] = bias
    return found


def _widths() -> list[int]:
    """The number of outputs of each layer."""
    pairs = zip(vgg.GROUPS, vgg.FEATURES, strict=True)
    return [width for count, width in pairs for _ in range(count)]


def _tensor(
    path: str | Path,
    tensors: dict[str, np.ndarray],
    name: str,
    channels: tuple[int, ...],
) -> np.ndarray:
    """The tensor of that name, checked; kernels are 3 x 3."""
    shape = (*channels, 3, 3) if len(channels) > 1 else channels
    found: Any = tensors.get(name)
    if found is None or found.shape != shape:
        held = "is missing" if found is None else f"is {list(found.shape)}"
        raise UserError(
            f"{path} is not VGG19: {name} {held}, expected {list(shape)}. Give "
            "torchvision's state dict of VGG19, whole or its features, without batch "
            "normalisation"
        )
    return found
