"""LPIPS with random weights against PyTorch's operators."""

from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from helpers.pictures import picture

from lightbsr_jax.errors import UserError
from lightbsr_jax.evaluation.lpips import LPIPS, _heads

# Kernels [out, in, h, w] by their place in torchvision's `features`.
ALEXNET = {
    0: (64, 3, 11, 11),
    3: (192, 64, 5, 5),
    6: (384, 192, 3, 3),
    8: (256, 384, 3, 3),
    10: (256, 256, 3, 3),
}
_VGG_PLACES = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
_VGG_CHANNELS = (3, 64, 64, 128, 128, 256, 256, 256, *[512] * 6)
VGG = {
    place: (_VGG_CHANNELS[i + 1], _VGG_CHANNELS[i], 3, 3)
    for i, place in enumerate(_VGG_PLACES)
}


def weights(kernels: dict[int, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """A random state dict whose maps neither vanish nor explode."""
    rng = np.random.default_rng(0)
    tensors = {}
    for place, shape in kernels.items():
        deviation = np.sqrt(2 / np.prod(shape[1:]))
        kernel = rng.normal(0, deviation, shape).astype(np.float32)
        bias = rng.normal(0, 0.1, shape[0]).astype(np.float32)
        tensors |= {f"features.{place}.weight": kernel, f"features.{place}.bias": bias}
    return tensors


def by_torch(
    kind: str, tensors: dict[str, np.ndarray], a: np.ndarray, b: np.ndarray
) -> float:
    """The distance as the paper's program computes it, written anew."""
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    images = np.stack([a, b]).astype(np.float32) / 127.5 - 1
    x = torch.tensor(images).permute(0, 3, 1, 2)
    x = x - torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1)
    x = x / torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1)

    def convolved(x, place: int, stride: int = 1, padding: int = 1):
        kernel, bias = (
            torch.tensor(tensors[f"features.{place}.{end}"])
            for end in ("weight", "bias")
        )
        return functional.conv2d(x, kernel, bias, stride, padding).relu()

    maps = []
    if kind == "alex":
        maps.append(convolved(x, 0, 4, 2))
        maps.append(convolved(functional.max_pool2d(maps[-1], 3, 2), 3, 1, 2))
        maps.append(convolved(functional.max_pool2d(maps[-1], 3, 2), 6))
        maps.append(convolved(maps[-1], 8))
        maps.append(convolved(maps[-1], 10))
    else:
        for index, group in enumerate(
            [(0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28)]
        ):
            x = functional.max_pool2d(x, 2, 2) if index else x
            for place in group:
                x = convolved(x, place)
            maps.append(x)
    total = 0.0
    for layer, x in enumerate(maps):
        x = x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10)
        head = torch.tensor(_heads()[f"{kind}_{layer}"]).view(1, -1, 1, 1)
        total += float(((x[:1] - x[1:]).square() * head).sum(1).mean())
    return total


@pytest.mark.torch
@pytest.mark.parametrize("kind, kernels", [("alex", ALEXNET), ("vgg", VGG)])
def test_equals_torch(kind: str, kernels: dict, tmp_path: Path) -> None:
    tensors = weights(kernels)
    path = tmp_path / "network.safetensors"
    # The classifier, which torchvision's file has, is not needed.
    more = {"classifier.1.weight": np.zeros((2, 2), np.float32)}
    safetensors.numpy.save_file(tensors | more, path)
    measure = LPIPS(path)
    assert measure.name.endswith("of network.safetensors")
    a, b = picture(0, 61, 70), picture(1, 61, 70)
    near = (a * 0.9).astype(np.uint8)
    assert measure(a, b) == pytest.approx(by_torch(kind, tensors, a, b), rel=1e-4)
    assert 0 < measure(a, near) < measure(a, b)
    assert measure(a, a) < 1e-9
    with pytest.raises(UserError, match="each side needs 32"):
        measure(a[:30], b[:30])


def test_heads_are_the_published_ones() -> None:
    heads = _heads()
    assert {name: len(x) for name, x in heads.items() if "alex" in name} == {
        f"alex_{i}": n for i, n in enumerate((64, 192, 384, 256, 256))
    }
    assert all((x >= 0).all() for x in heads.values())  # as they were trained


def test_other_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    safetensors.numpy.save_file({"head.weight": np.zeros(3, np.float32)}, path)
    with pytest.raises(UserError, match="neither AlexNet nor VGG16"):
        LPIPS(path)
    tensors = weights(ALEXNET)
    del tensors["features.6.bias"]
    safetensors.numpy.save_file(tensors, path)
    with pytest.raises(UserError, match=r"has no features\.6\.bias"):
        LPIPS(path)
