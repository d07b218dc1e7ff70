"""Training with a GAN loss: updates, N devices, and a run that is resumed."""

import shutil
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import safetensors.numpy
from helpers.goldens import relative_error
from helpers.pictures import picture, save
from helpers.torch_discriminator import torch_logits
from ml_collections import ConfigDict

from configs import kdsr_student, student, teacher
from lightbsr_jax.errors import UserError
from lightbsr_jax.interop import convert
from lightbsr_jax.methods.registry import METHODS
from lightbsr_jax.models import packed, state_dict, torch_files
from lightbsr_jax.models.checkpoint import opened
from lightbsr_jax.models.load import read
from lightbsr_jax.networks import vgg
from lightbsr_jax.networks.discriminator import Discriminator
from lightbsr_jax.networks.vgg import VGG19
from lightbsr_jax.spec import ModelSpec, RunSpec
from lightbsr_jax.training import adversary, checks, loop, losses, setup, updates
from lightbsr_jax.training import state as states
from lightbsr_jax.training.adversary import Adversary
from lightbsr_jax.training.config import TrainingConfig

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("highest_precision")]

SIZES = {"features": 8, "blocks": 1, "residual_blocks": 1}
STUDENT = {
    "method": "kdsr",
    "role": "student",
    "setting": 1,
    "scale": 4,
    "network": SIZES,
}
TEACHER = {**STUDENT, "role": "teacher"}
WIDTHS = (2, 3, 4, 5, 6)  # of a small VGG19
# A larger eps than usual, so that rounding does not become steps of the full rate.
ADAM = optax.scale_by_adam(b1=0.9, b2=0.99, eps=1e-3)
WEIGHTS = {"adversarial": 0.5, "perceptual": 0.25}
OPPONENT = Adversary(Discriminator(4), ADAM, WEIGHTS, None)


def random_vgg(seed: int = 0) -> Any:
    rng, image = np.random.default_rng(seed), jnp.zeros((1, 16, 16, 3))
    shapes = jax.eval_shape(VGG19(WIDTHS).init, jax.random.key(0), image)
    return jax.tree.map(
        lambda x: 0.3 * rng.standard_normal(x.shape, np.float32), shapes["params"]
    )


def learner(**options: Any) -> updates.Learner:
    network = ModelSpec.from_config(TEACHER).make_network(axis_name=updates.AXIS)
    rate = optax.constant_schedule(1e-3)
    options = {"adversary": OPPONENT, **options}
    return updates.Learner(METHODS["kdsr"], network, ADAM, rate, **options)


@cache
def fresh_state() -> states.AdversarialState:
    variables = ModelSpec.from_config(TEACHER).fresh_variables(jax.random.key(0))
    state = states.fresh_train_state(variables, ADAM)
    network = OPPONENT.network
    state = states.with_discriminator(state, network, ADAM, jax.random.key(1))
    return jax.device_get(state)


def run(devices: int, **options: Any) -> tuple[dict[str, Any], Any]:
    """Metrics and the state of two steps of four images, by a network that sees HR."""
    step = jax.pmap(
        updates.supervised_update(learner(**options)),
        updates.AXIS,
        in_axes=(None, 0, None),
        out_axes=None,
        devices=jax.devices()[:devices],
    )
    rng, share = np.random.default_rng(0), (devices, 4 // devices)
    batch = updates.Batch(
        lr=rng.random((*share, 1, 8, 8, 3), np.float32),
        prior=np.zeros((*share, 18), np.float32),
        hr=rng.integers(256, size=(*share, 32, 32, 3), dtype=np.uint8),
    )
    state, metrics = fresh_state(), {}
    for _ in range(2):
        state, metrics = step(state, batch, updates.Frozen())
    return {name: float(value) for name, value in metrics.items()}, state


@pytest.fixture(scope="module")
def one_device() -> tuple[dict[str, Any], Any]:
    return run(1)


def test_devices_and_microbatches_give_the_numbers_of_one(one_device) -> None:
    """Two devices, each of which restores and judges one image after the other."""
    metrics, state = one_device
    several, their_state = run(2, microbatches=2)
    names = {"reconstruction", "adversarial", "real", "fake"}
    assert set(metrics) == names | {"gradient_norm", "discriminator_gradient_norm"}
    assert several == pytest.approx(metrics, rel=1e-5)
    same = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    jax.tree.map(same, their_state.params, state.params)
    jax.tree.map(same, their_state.discriminator, state.discriminator)


def test_what_a_step_changes(one_device) -> None:
    """Both networks and the vectors; the rest of the generator's state as ever."""
    _, state = one_device
    before = fresh_state()

    def changed(a: Any, b: Any) -> bool:
        pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
        return all(bool(np.any(x != y)) for x, y in pairs)

    for name in ("params", "vectors"):
        own, theirs = (getattr(s.discriminator, name) for s in (before, state))
        assert changed(own, theirs)
    assert changed(before.params, state.params)
    assert int(state.discriminator.opt_state.count) == int(state.step) == 2


# The generator's losses in float64, literally in torch


def torch_layers(torch: Any, own: states.DiscriminatorState) -> Any:
    layers = torch.nn.ModuleDict()
    for name, values in own.params.items():
        size, _, inputs, outputs = values["kernel"].shape
        layer = torch.nn.Conv2d(
            inputs, outputs, size, 2 if size == 4 else 1, 1, bias="bias" in values
        ).double()
        weight = torch.tensor(np.float64(values["kernel"])).permute(3, 2, 0, 1)
        if name in own.vectors:
            layer = torch.nn.utils.spectral_norm(layer)
            layer.weight_orig.data = weight.contiguous()
            layer.weight_u = torch.tensor(np.float64(own.vectors[name]["u"]))
        else:
            layer.weight.data = weight.contiguous()
            layer.bias.data = torch.tensor(np.float64(values["bias"]))
        layers[name] = layer
    return layers


def torch_perceptual(torch: Any, params: Any, sr: Any, hr: Any) -> Any:
    functional, total = torch.nn.functional, 0
    weights = {"conv1_2": 0.1, "conv2_2": 0.1, "conv3_4": 1, "conv4_4": 1, "conv5_4": 1}
    mean, deviation = (
        torch.tensor(np.float64(x)).view(1, 3, 1, 1) for x in (vgg.MEAN, vgg.DEVIATION)
    )
    a, b = (sr - mean) / deviation, (hr - mean) / deviation
    for name in vgg.places():
        if name in ("conv2_1", "conv3_1", "conv4_1", "conv5_1"):
            a, b = functional.max_pool2d(a, 2), functional.max_pool2d(b, 2)
        kernel = torch.tensor(np.float64(params[name]["kernel"])).permute(3, 2, 0, 1)
        bias = torch.tensor(np.float64(params[name]["bias"]))
        a, b = (functional.conv2d(x, kernel, bias, padding=1) for x in (a, b))
        total = total + weights.get(name, 0) * (a - b).abs().mean()
        a, b = a.relu(), b.relu()
    return total


@pytest.mark.torch
def test_losses_of_sr_images_are_torchs(torch) -> None:
    """The weighted GAN and perceptual losses, and their gradient."""
    rng, own = np.random.default_rng(0), fresh_state().discriminator
    sr, hr = rng.random((2, 2, 16, 24, 3))
    weights = jax.tree.map(np.float64, random_vgg())
    opponent = OPPONENT._replace(
        network=Discriminator(4, np.float64), vgg=VGG19(WIDTHS, np.float64)
    )

    def generator(sr: Any, hr: Any, own: Any, weights: Any) -> Any:
        judges = adversary.Judges(own.params, own.vectors, weights)
        found = adversary.of_generator(opponent, sr, hr, judges)
        return adversary.weighted(opponent, found), found

    with jax.enable_x64(True):
        wide = jax.tree.map(lambda x: x if x.ndim == 0 else np.float64(x), own)
        gradient, found = jax.jit(jax.grad(generator, has_aux=True))(
            sr, hr, wide, weights
        )
    layers = torch_layers(torch, own)
    theirs = torch.tensor(sr).movedim(-1, 1).requires_grad_()
    truth = torch.tensor(hr).movedim(-1, 1)
    logits = torch_logits(torch, layers, theirs)
    bce = torch.nn.functional.binary_cross_entropy_with_logits
    gan = bce(logits, torch.ones_like(logits))
    perceptual = torch_perceptual(torch, weights, theirs, truth)
    assert float(found["adversarial"]) == pytest.approx(gan.item(), rel=1e-12)
    assert float(found["perceptual"]) == pytest.approx(perceptual.item(), rel=1e-12)
    (0.5 * gan + 0.25 * perceptual).backward()
    assert theirs.grad is not None
    expected = theirs.grad.movedim(1, -1).numpy()
    assert relative_error(gradient, expected) < 1e-10


def test_losses_without_a_file_are_added_by_their_weights() -> None:
    own, weights = fresh_state().discriminator, {"focal_frequency": 2.0, "ms_ssim": 3.0}
    opponent = OPPONENT._replace(weights=WEIGHTS | weights)
    sr, hr = np.random.default_rng(0).random((2, 2, 16, 24, 3), np.float32)
    judges = adversary.Judges(own.params, own.vectors, None)
    plain = adversary.of_generator(OPPONENT, sr, hr, judges)
    found = adversary.of_generator(opponent, sr, hr, judges)
    assert set(plain) == {"adversarial"}
    assert set(found) == {"adversarial", "focal_frequency", "ms_ssim"}
    assert found["focal_frequency"] == losses.focal_frequency(sr, hr)
    assert found["ms_ssim"] == losses.ms_ssim(sr, hr)
    expected = 0.5 * plain["adversarial"]
    expected += 2 * found["focal_frequency"] + 3 * found["ms_ssim"]
    total = adversary.weighted(opponent, found)
    assert float(total) == pytest.approx(float(expected), rel=1e-6)


# Runs


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, weights of a teacher of KDSR, and of a small VGG19."""
    folder = tmp_path_factory.mktemp("files")
    for seed in range(3):
        save(folder / "images" / f"{seed}.png", picture(seed, 40, 40))
    rng, run = np.random.default_rng(0), RunSpec.from_config
    tensors = {
        name: zero if "_mean." in name else rng.normal(0, 0.1, zero.shape)
        for name, zero in state_dict.blank(run(TEACHER)).items()
    }
    tensors = {name: x.astype(np.float32) for name, x in tensors.items()}
    torch_files.write(folder / "teacher.safetensors", tensors)
    network, places = {}, vgg.places()
    for name, values in random_vgg().items():
        place = f"features.{places[name]}"
        network[f"{place}.weight"] = values["kernel"].transpose(3, 2, 0, 1).copy()
        network[f"{place}.bias"] = values["bias"]
    safetensors.numpy.save_file(network, folder / "vgg19.safetensors")
    return folder


def config_of(files: Path, *, perceptual: bool = True) -> ConfigDict:
    """Four steps of two images, of the smallest networks."""
    config = kdsr_student.get_config("real-gan-demo").unlock()
    with config.ignore_type():
        config.setting = 1  # real-world degradations take long to compile
    config.network.update(SIZES)
    config.data.hr = str(files / "images")
    config.data.batch_size, config.data.lr_crop = 2 * jax.device_count(), 8
    config.schedule.update(steps_per_epoch=1, stage2_epochs=4)
    config.distillation.teacher = str(files / "teacher.safetensors")
    config.adversarial.features = 4
    config.adversarial.focal_frequency_weight = 0.5
    if perceptual:
        config.adversarial.perceptual = str(files / "vgg19.safetensors")
    config.ema_decay = 0.9
    config.validation.hr = ""
    config.log.every_steps = 1
    config.checkpoint.update(every_steps=1, keep=4)
    return config


def kept(workdir: Path, config: ConfigDict) -> list[np.ndarray]:
    """All arrays of a workdir's newest checkpoint."""
    typed = TrainingConfig.from_flags(config)
    fresh = setup.prepare(typed, loop.make_network(typed))
    template = states.fresh_run(fresh.state, averaged=True), fresh.basis
    with opened(workdir) as checkpoints:
        run, basis, _ = checkpoints.run(lambda about: template)
    return [np.asarray(leaf) for leaf in jax.tree.leaves((run, basis))]


@pytest.fixture(scope="module")
def finished(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("run") / "whole"
    patched = pytest.MonkeyPatch()
    patched.setattr(vgg, "FEATURES", WIDTHS)
    loop.train(config_of(files), workdir)
    patched.undo()
    return workdir


def test_resumed_run_is_the_same_bit_for_bit(
    finished, files, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(vgg, "FEATURES", WIDTHS)
    workdir = tmp_path / "cut"
    shutil.copytree(finished, workdir)
    for later in ("3", "4"):  # as if it had been killed after step 2
        shutil.rmtree(workdir / "checkpoints" / later)
    config = config_of(files)
    second = kept(workdir, config)
    loop.train(config, workdir)
    resumed, whole = kept(workdir, config), kept(finished, config)
    assert len(whole) > 100
    for a, b in zip(resumed, whole, strict=True):
        np.testing.assert_array_equal(a, b)
    moved = [np.any(a != b) for a, b in zip(second, whole, strict=True)]
    assert sum(moved) > 0.9 * len(moved)
    config.adversarial.perceptual = ""
    with pytest.raises(UserError, match=r"weights of config\.adversarial\.perceptual"):
        loop.train(config, workdir)


def test_the_generator_is_used_like_any_network(finished, files, tmp_path) -> None:
    """A run with a discriminator is converted and packed without it."""
    weights = read(finished)
    convert.to_file(finished, tmp_path / "student.safetensors")
    again = read(tmp_path / "student.safetensors")
    jax.tree.map(np.testing.assert_array_equal, again.variables, weights.variables)
    loop.pack.pack(finished, tmp_path / "packed.safetensors", half=False)
    about, model = packed.read(tmp_path / "packed.safetensors")
    assert about["config"]["adversarial"]["perceptual"] == ""
    assert set(model) == {"params", "basis"}


def test_what_the_log_says_of_the_losses(files: Path) -> None:
    def said(perceptual: bool) -> str:
        typed = TrainingConfig.from_flags(config_of(files, perceptual=perceptual))
        assert typed.adversarial is not None
        return adversary.describe(typed.adversarial)

    assert "focal_frequency with weight 0.5, perceptual" in said(True)
    assert "weight 1 by VGG19 of" in said(True)
    assert "no perceptual loss: config.adversarial.perceptual names no" in said(False)


def check(config: ConfigDict) -> None:
    config.data.hr = "images"
    if "distillation" in config:
        config.distillation.teacher = "somewhere"
    checks.check(TrainingConfig.from_flags(config))


@pytest.mark.parametrize("preset", ["real-gan", "photo-gan", "photo-detail"])
def test_presets_of_the_student_can_be_trained(preset: str) -> None:
    config = student.get_config(preset)
    check(config)
    assert (config.adversarial.weight, config.setting) == {
        "real-gan": (0.1, "real"),
        "photo-gan": (0.1, "photo"),
        "photo-detail": (0.02, "photo"),
    }[preset]


def test_published_stage() -> None:
    """400,000 steps at 1e-4, all losses with weight 1 (train_kdsrgan_x4ST.yml)."""
    config = kdsr_student.get_config("real-gan")
    check(config)
    schedule = config.schedule
    assert schedule.steps_per_epoch * schedule.stage2_epochs == 400_000
    rate: Any = loop.schedules.of(TrainingConfig.from_flags(config).schedule)
    assert float(rate(0)) == float(rate(398_999)) == pytest.approx(1e-4)
    given = config.adversarial
    assert (given.weight, given.perceptual_weight, given.features) == (1, 1, 64)
    assert (config.data.batch_size, config.data.lr_crop) == (72, 64)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"schedule.stage1_epochs": 1}, "with a GAN loss there is no stage 1"),
        ({"data.lr_crop": 9}, "needs a multiple of 2 at scale 4: use 8"),
        ({"adversarial.weight": -1.0}, "adversarial.weight -1.0 is too small"),
        ({"adversarial.ms_ssim_weight": -1.0}, "ms_ssim_weight -1.0 is too small"),
    ],
)
def test_mistakes(change: dict[str, Any], problem: str) -> None:
    config = kdsr_student.get_config("real-gan-demo")
    config.update_from_flattened_dict(change)
    with pytest.raises(UserError, match=problem):
        check(config)


def test_contrast_does_not_go_with_a_gan_loss() -> None:
    config = teacher.get_config("demo").unlock()
    config.adversarial = kdsr_student.get_config("real-gan").adversarial
    config.schedule.stage1_epochs = 0
    with pytest.raises(UserError, match="adversarial does not work with contrast"):
        check(config)
