"""The discriminator and VGG19 against torch's operators, with random weights."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from helpers.goldens import relative_error
from helpers.torch_discriminator import torch_logits

from lightbsr_jax import cli
from lightbsr_jax.errors import UserError
from lightbsr_jax.models import vgg_file
from lightbsr_jax.networks import vgg
from lightbsr_jax.networks.discriminator import (
    VECTORS,
    Discriminator,
    double,
    iterate,
    power_iteration,
)
from lightbsr_jax.networks.vgg import VGG19
from lightbsr_jax.training import adversary, losses

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("highest_precision")]

FEATURES = 4
SIZE = (16, 24)


def images(seed: int, count: int = 2) -> np.ndarray:
    return np.random.default_rng(seed).random((count, *SIZE, 3), np.float32)


@pytest.fixture(scope="module")
def fresh() -> tuple[Any, Any]:
    params, vectors = Discriminator(FEATURES).fresh(jax.random.key(0))
    return jax.device_get(params), jax.device_get(vectors)


def logits_of(params: Any, vectors: Any, x: np.ndarray) -> jax.Array:
    network: Any = Discriminator(FEATURES)
    return jax.jit(network.apply)({"params": params, VECTORS: vectors}, x)


def torch_discriminator(torch: Any, params: Any, vectors: Any) -> Any:
    """The published layers, written anew; spectral normalisation is torch's own."""
    nn = torch.nn
    layers = {}
    for name, own in params.items():
        height, _, inputs, outputs = own["kernel"].shape
        layer = nn.Conv2d(
            inputs, outputs, height, 2 if height == 4 else 1, 1, bias="bias" in own
        )
        weight = torch.tensor(own["kernel"].transpose(3, 2, 0, 1).copy())
        if name in vectors:
            layer = torch.nn.utils.spectral_norm(layer)
            layer.weight_orig.data = weight
            layer.weight_u = torch.tensor(vectors[name]["u"])
        else:
            layer.weight.data = weight
            layer.bias.data = torch.tensor(own["bias"])
        layers[name] = layer
    model = nn.ModuleDict(layers)

    def forward(x: np.ndarray) -> Any:
        x = torch.tensor(x).movedim(-1, 1)
        return torch_logits(torch, model, x).movedim(1, -1)

    return model, forward


@pytest.mark.torch
def test_three_passes_are_torchs(fresh, torch) -> None:
    """Each pass of torch's spectral normalisation in training moves its vectors."""
    params, vectors = fresh
    model, forward = torch_discriminator(torch, params, vectors)
    for seed in range(3):
        expected = forward(images(seed)).detach().numpy()
        found = logits_of(params, vectors, images(seed))
        assert found.shape == (2, *SIZE, 1)
        assert relative_error(found, expected) < 1e-5
        vectors = iterate(params, vectors)
        for name, own in vectors.items():
            theirs = model[name].weight_u.numpy()
            np.testing.assert_allclose(own["u"], theirs, atol=1e-5)


def test_size_of_the_published_discriminator() -> None:
    """4,376,897 parameters: the sum over its convolutions."""
    shapes, vectors = jax.eval_shape(Discriminator().fresh, jax.random.key(0))
    n = 64
    down = 16 * (n * 2 * n + 2 * n * 4 * n + 4 * n * 8 * n)
    up = 9 * (8 * n * 4 * n + 4 * n * 2 * n + 2 * n * n)
    expected = 9 * 3 * n + n + down + up + 2 * 9 * n * n + 9 * n + 1
    assert sum(x.size for x in jax.tree.leaves(shapes)) == expected == 4_376_897
    assert set(vectors) == {f"conv{i}" for i in range(1, 9)}


def test_power_iteration_finds_the_largest_singular_value() -> None:
    kernel = np.random.default_rng(0).normal(size=(4, 4, 3, 6)).astype(np.float32)
    u = jnp.ones(6) / np.sqrt(6)
    for _ in range(100):
        norm, u = power_iteration(kernel, u)
    largest = np.linalg.svd(kernel.reshape(-1, 6), compute_uv=False)[0]
    assert float(norm) == pytest.approx(largest, rel=1e-5)


def test_doubling_of_a_row() -> None:
    """(1, 5): the outermost pixels are repeated, the others are 3 to 1."""
    row = jnp.array([1.0, 5.0]).reshape(1, 1, 2, 1)
    assert double(row)[0, 0, :, 0].tolist() == [1.0, 2.0, 4.0, 5.0]
    assert double(row).shape == (1, 2, 4, 1)


# VGG19

WIDTHS = (2, 3, 4, 5, 6)


def vgg_tensors(widths: tuple[int, ...] = vgg.FEATURES) -> dict[str, np.ndarray]:
    """A random state dict with torchvision's names, and a tensor of its classifier."""
    rng, inputs = np.random.default_rng(0), 3
    found = {"classifier.0.bias": np.zeros(2, np.float32)}
    for name, place in vgg.places().items():
        outputs = widths[int(name[4]) - 1]
        deviation = np.sqrt(2 / (9 * inputs))
        kernel = rng.standard_normal((outputs, inputs, 3, 3), np.float32) * deviation
        bias = rng.normal(0, 0.1, outputs).astype(np.float32)
        found[f"features.{place}.weight"] = kernel.astype(np.float32)
        found[f"features.{place}.bias"] = bias
        inputs = outputs
    return found


@pytest.fixture
def small_vgg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vgg, "FEATURES", WIDTHS)


@pytest.mark.torch
@pytest.mark.usefixtures("small_vgg")
def test_vgg_is_torchs_layer_by_layer(torch, tmp_path: Path) -> None:
    """torchvision's order: convolutions with ReLU, and pools before groups 2 to 5."""
    tensors = vgg_tensors(WIDTHS)
    path = tmp_path / "vgg19.safetensors"
    safetensors.numpy.save_file(tensors, path)
    params = vgg_file.read(path)
    network: Any = VGG19(WIDTHS)
    found = jax.jit(network.apply)({"params": params}, images(0))
    functional = torch.nn.functional
    x = torch.tensor(images(0)).movedim(-1, 1)
    x = x - torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    x = x / torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    # As in vgg19: "M" is a pool.
    plan = [2, 2, "M", 3, 3, "M", 4, 4, 4, 4, "M", 5, 5, 5, 5, "M", 6, 6, 6, 6]
    place, group, index, names = 0, 1, 1, []
    for kind in plan:
        if kind == "M":
            x, place, group, index = (
                functional.max_pool2d(x, 2),
                place + 1,
                group + 1,
                1,
            )
            continue
        weight, bias = (
            torch.tensor(tensors[f"features.{place}.{end}"])
            for end in ("weight", "bias")
        )
        x = functional.conv2d(x, weight, bias, padding=1)
        names.append(f"conv{group}_{index}")
        assert relative_error(found[names[-1]], x.movedim(1, -1).numpy()) < 1e-5
        x, place, index = functional.relu(x), place + 2, index + 1
    assert set(found) == set(names) and len(names) == 16


def test_perceptual_loss_weighs_layers() -> None:
    """0.1 for the first two, 1 for the others, each a mean of differences."""
    ones = {name: np.ones((1, 2, 2, 3)) for name in vgg.places()}
    found = {name: x * (3 if name == "conv2_2" else 1) for name, x in ones.items()}
    found["conv5_4"] = ones["conv5_4"] * np.array([0, 1, 1])
    assert float(losses.perceptual(found, ones)) == pytest.approx(0.1 * 2 + 1 / 3)


def test_adversarial_loss() -> None:
    """-log of the probability: of 0.8 for a logit of log 4."""
    logits = np.full((1, 2, 2, 1), np.log(4.0))
    real, fake = (float(losses.adversarial(logits, real=x)) for x in (True, False))
    assert real == pytest.approx(-np.log(0.8)) and fake == pytest.approx(-np.log(0.2))


@pytest.mark.usefixtures("small_vgg")
def test_convolutions_are_copied(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those of a whole state dict, without its classifier."""
    given, out = (str(tmp_path / f"{name}.safetensors") for name in ("all", "vgg19"))
    safetensors.numpy.save_file(vgg_tensors(WIDTHS), given)
    cli.main(["convert", given, out])
    assert "VGG19 for config.adversarial.perceptual" in capsys.readouterr().out
    copied = safetensors.numpy.load_file(out)
    assert len(copied) == 32 and "classifier.0.bias" not in copied
    for name, tensor in copied.items():
        np.testing.assert_array_equal(tensor, vgg_tensors(WIDTHS)[name])
    with pytest.raises(SystemExit):
        cli.main(["convert", given, out])
    assert "exists: give another name" in capsys.readouterr().err


@pytest.mark.usefixtures("small_vgg")
def test_other_files_are_refused(tmp_path: Path) -> None:
    path, tensors = tmp_path / "vgg16.safetensors", vgg_tensors(WIDTHS)
    with pytest.raises(UserError, match=r"config.adversarial.perceptual: .*No such"):
        adversary.load_vgg(str(path))
    del tensors["features.34.weight"]
    safetensors.numpy.save_file(tensors, path)
    with pytest.raises(UserError, match=r"is not VGG19: features.34.weight is missing"):
        vgg_file.read(path)
    tensors["features.34.weight"] = np.zeros((6, 5, 3, 3), np.float32)
    safetensors.numpy.save_file(tensors, path)
    with pytest.raises(UserError, match=r"\[6, 5, 3, 3\], expected \[6, 6, 3, 3\]"):
        vgg_file.read(path)
