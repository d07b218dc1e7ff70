"""LPIPS: the distance of two images for a network trained on ImageNet.

It is version 0.1 of R. Zhang, P. Isola, A. A. Efros, E. Shechtman and O. Wang (2018).
The linear layers ship with the program (static/lpips.txt). The weights of the network
below them, AlexNet or VGG16, do not: the user names torchvision's file.
"""

import functools
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from lightbsr_jax.errors import UserError
from lightbsr_jax.models import torch_files

_SHIFT = np.array([-0.030, -0.088, -0.188], np.float32)
_SCALE = np.array([0.458, 0.448, 0.450], np.float32)
_EPSILON = 1e-10
PIXELS = 32  # on a side, at least: what all layers need


class _Conv(NamedTuple):
    """A convolution of torchvision's `features`, and the ReLU after it."""

    place: int  # in `features`
    stride: int
    padding: int
    compared: bool  # whether its outputs are compared


class _Pool(NamedTuple):
    """A maximum over windows."""

    size: int
    stride: int


class _Network(NamedTuple):
    title: str
    layers: tuple[_Conv | _Pool, ...]


def _vgg(places: str) -> tuple[_Conv | _Pool, ...]:
    """Layers of a text such as "0 2* | 5"; | is a pool, outputs with * are compared."""
    layers: list[_Conv | _Pool] = []
    for word in places.split():
        if word == "|":
            layers.append(_Pool(2, 2))
        else:
            layers.append(_Conv(int(word.rstrip("*")), 1, 1, word.endswith("*")))
    return tuple(layers)


_NETWORKS = {
    "alex": _Network(
        "AlexNet",
        (
            _Conv(0, 4, 2, True),
            _Pool(3, 2),
            _Conv(3, 1, 2, True),
            _Pool(3, 2),
            _Conv(6, 1, 1, True),
            _Conv(8, 1, 1, True),
            _Conv(10, 1, 1, True),
        ),
    ),
    "vgg": _Network("VGG16", _vgg("0 2* | 5 7* | 10 12 14* | 17 19 21* | 24 26 28*")),
}
_FIRST_KERNEL = {(64, 3, 11, 11): "alex", (64, 3, 3, 3): "vgg"}


class LPIPS:
    """The measure, with the network of a file."""

    def __init__(self, path: str | Path) -> None:
        """`path` holds torchvision's state dict of AlexNet or VGG16.

        It is a .safetensors, .pt or .pth file. Raises UserError if it holds another
        network, and OSError if it cannot be read.
        """
        tensors = torch_files.read(path)
        first = tensors.get("features.0.weight", np.empty(0)).shape
        if first not in _FIRST_KERNEL:
            raise UserError(
                f"--lpips={path} holds neither AlexNet nor VGG16 (features.0.weight is "
                f"{list(first)}): give torchvision's state dict of one of them"
            )
        self._key = _FIRST_KERNEL[first]
        self._parameters = _parameters(path, self._key, tensors)
        self.name = f"{_NETWORKS[self._key].title} of {Path(path).name}"

    def __call__(self, a: np.ndarray, b: np.ndarray) -> float:
        """The distance of images [H, W, 3], uint8, of one size."""
        if min(a.shape[:2]) < PIXELS:
            raise UserError(
                f"LPIPS of {a.shape[1]}x{a.shape[0]} pixels: each side needs {PIXELS}"
            )
        return float(_distance(self._key, self._parameters, a, b))


def _parameters(
    path: str | Path, key: str, tensors: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """Kernels [h, w, in, out], biases, and weights of the linear layers."""
    convolutions = {}
    for layer in _NETWORKS[key].layers:
        if isinstance(layer, _Conv):
            names = [f"features.{layer.place}.{end}" for end in ("weight", "bias")]
            missing = [name for name in names if name not in tensors]
            if missing:
                raise UserError(
                    f"--lpips={path} has no {missing[0]}: give torchvision's state "
                    f"dict of {_NETWORKS[key].title}, whole or its features"
                )
            kernel, bias = (tensors[name] for name in names)
            convolutions[str(layer.place)] = (kernel.transpose(2, 3, 1, 0), bias)
    heads = {name: x for name, x in _heads().items() if name.startswith(key)}
    return {"convolutions": convolutions, "heads": [heads[k] for k in sorted(heads)]}


@functools.cache
def _heads() -> dict[str, np.ndarray]:
    place = resources.files("lightbsr_jax.evaluation").joinpath("static", "lpips.npz")
    with place.open("rb") as file:
        return dict(np.load(file))


@functools.partial(jax.jit, static_argnums=0)
def _distance(key: str, parameters: dict[str, Any], a: Array, b: Array) -> Array:
    with jax.default_matmul_precision("highest"):
        images = jnp.stack([a, b]).astype(jnp.float32) / 127.5 - 1
        maps = _compared(key, parameters["convolutions"], (images - _SHIFT) / _SCALE)
        total = jnp.float32(0)
        for x, head in zip(maps, parameters["heads"], strict=True):
            x /= jnp.sqrt((x**2).sum(-1, keepdims=True)) + _EPSILON
            total += (jnp.square(x[0] - x[1]) @ head).mean()
        return total


def _compared(key: str, convolutions: dict[str, Any], x: Array) -> list[Array]:
    """The maps [2, h, w, C] that are compared."""
    maps = []
    for layer in _NETWORKS[key].layers:
        if isinstance(layer, _Pool):
            window, strides = ((1, size, size, 1) for size in layer)
            x = lax.reduce_window(x, -jnp.inf, lax.max, window, strides, "VALID")
            continue
        kernel, bias = convolutions[str(layer.place)]
        x = lax.conv_general_dilated(
            x,
            kernel,
            (layer.stride, layer.stride),
            [(layer.padding, layer.padding)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        x = jnp.maximum(x + bias, 0)
        if layer.compared:
            maps.append(x)
    return maps
