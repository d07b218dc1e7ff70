"""Test images with JPEG and with real-world degradations, and training on them."""

import io
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image
from skimage import data

from configs import kdsr_teacher, teacher
from lightbsr_jax.cli import main
from lightbsr_jax.errors import UserError
from lightbsr_jax.evaluation import benchmark, cases
from lightbsr_jax.evaluation.restorers import Bicubic
from lightbsr_jax.imaging import degradation, prior, realworld, settings, synthesis
from lightbsr_jax.imaging.degradation import Degradation
from lightbsr_jax.imaging.files import read_rgb, write_png
from lightbsr_jax.imaging.synthesis import Compressed, Drawn
from lightbsr_jax.models.model import Model
from lightbsr_jax.spec import ModelSpec
from lightbsr_jax.training.config import TrainingConfig
from lightbsr_jax.training.loop import train

SIZE = 64


def photographs() -> list[tuple[str, np.ndarray]]:
    image = data.astronaut()
    return [(str(n), image[n : n + SIZE, 200 : 200 + SIZE]) for n in (40, 90)]


def evaluated(setting: str, **options: object) -> dict[tuple[str, str], np.ndarray]:
    """The LR images uint8 by image and case."""
    found = {}

    def keep(restored: benchmark.Restored) -> None:
        found[restored.image, restored.case] = restored.lr

    benchmark.evaluate(
        {"bicubic": Bicubic(4)},
        options.pop("images", photographs()),
        cases.make(setting, **options),
        scale=4,
        on_restored=keep,
    )
    return found


def test_compressed_images_are_pillows_of_the_shrunk_ones() -> None:
    found = evaluated("jpeg", sigmas=(0.9,), qualities=(30, 80))
    assert len(found) == 4
    ((case, *_),) = [settings.isotropic_cases([0.9])]
    assert isinstance(case.degradation, Degradation)
    for name, hr in photographs():
        lr = degradation.synthesise(hr[None], case.degradation, None, scale=4)
        lr = np.round(np.asarray(lr[0]) * 255).astype(np.uint8)
        for quality in (30, 80):
            file = io.BytesIO()
            Image.fromarray(lr).save(file, "JPEG", quality=quality)
            expected = np.asarray(Image.open(file).convert("RGB"))
            ours = found[name, f"sigma 0.9 quality {quality}"]
            np.testing.assert_array_equal(ours, expected)


@pytest.mark.slow
def test_real_world_images_follow_from_the_image_and_the_case_alone() -> None:
    found = evaluated("photo", draws=(1, 2))
    alone = evaluated("photo", draws=(2,), images=photographs()[1:])
    (name, _), label = photographs()[1], "draw 2"
    np.testing.assert_array_equal(alone[name, label], found[name, label])
    assert np.abs(found[name, "draw 1"].astype(int) - found[name, label]).max() > 0
    assert all(lr.shape == (16, 16, 3) for lr in found.values())


def test_each_image_settles_on_parameters_of_its_own() -> None:
    drawn = [
        synthesis.settled(Drawn("photo"), np.random.default_rng(seed))
        for seed in (0, 0, 1)
    ]
    first, again, other = drawn
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, first, again)))
    assert not np.array_equal(first.quality, other.quality)
    quiet = Degradation(np.zeros((1, 21, 21)), np.zeros(1))
    assert not synthesis.is_random(quiet) and synthesis.is_random(Drawn("real"))


def test_wrong_qualities_are_named() -> None:
    with pytest.raises(UserError, match="0 is not in 1..100"):
        cases.make("jpeg", qualities=(50, 0))


def test_prior_of_real_world_degradations_holds_all_that_was_drawn() -> None:
    keys = jax.random.split(jax.random.key(0), 200)
    drawn = realworld.sample(keys, preset="real")
    basis = prior.make_mixed_basis(3)
    np.testing.assert_allclose(basis.T @ basis, np.eye(15), atol=1e-5)
    vector = np.asarray(prior.realworld_vector(drawn, basis))
    assert vector.shape == (200, prior.REALWORLD_CHANNELS)
    kernels = np.asarray(realworld.blur_kernels(drawn.blur)).reshape(200, 3, -1)
    components = np.einsum("bik,kc->bic", kernels, basis).reshape(200, -1)
    np.testing.assert_allclose(vector[:, :45], components, atol=1e-5)
    rest = vector[:, 45:]
    np.testing.assert_allclose(rest[:, :2], 2 * np.log(drawn.factor), atol=1e-6)
    gaussian = ~np.asarray(drawn.poisson)
    level = np.asarray(drawn.noise_level)
    np.testing.assert_allclose(rest[:, 2:4], gaussian * level / 10, atol=1e-6)
    np.testing.assert_allclose(rest[:, 4:6], ~gaussian * level, atol=1e-6)
    np.testing.assert_array_equal(rest[:, 6:8], drawn.grey)
    np.testing.assert_allclose(rest[:, 8:10], (drawn.quality - 65) / 35, atol=1e-6)
    rules = rest[:, 10:19].reshape(200, 3, 3)
    np.testing.assert_array_equal(rules.argmax(-1), drawn.rule)
    np.testing.assert_array_equal(rules.sum(-1), 1)
    np.testing.assert_array_equal(rest[:, 19], drawn.jpeg_first)
    assert np.abs(vector).max() < 6 and rest[:, :19].std(0).min() > 0.2


def test_quality_joins_the_prior() -> None:
    keys = jax.random.split(jax.random.key(0), 500)
    drawn = settings.of("jpeg").sample(keys, width_max=2.0)
    assert isinstance(drawn, Compressed)
    assert drawn.quality.min() == 30 and drawn.quality.max() == 95
    vector = settings.of("jpeg").prior_vector(drawn, prior.make_basis(0))
    np.testing.assert_allclose(vector[:, 15], (drawn.quality - 65) / 35, atol=1e-6)


def test_published_network_of_real_world_kdsr() -> None:
    """18.85 million parameters, as its paper prints."""
    config = kdsr_teacher.get_config("real")
    spec = TrainingConfig.from_flags(config).model
    assert (spec.setting, spec.role) == ("real", "teacher")
    student = ModelSpec("kdsr", "student", "real", 4, spec.network)
    leaves = jax.tree.leaves(student.shapes()["params"])
    assert sum(leaf.size for leaf in leaves) == 18_846_083
    assert config.schedule.steps_per_epoch * config.schedule.stage2_epochs == 1_000_000


def tiny(config: ConfigDict, folder: Path) -> ConfigDict:
    for index, (_, image) in enumerate(photographs()):
        write_png(folder / f"{index}.png", image)
    config.data.update(hr=str(folder), batch_size=4, lr_crop=8)
    config.schedule.update(steps_per_epoch=1, stage2_epochs=2)
    config.log.every_steps = config.checkpoint.every_steps = 1
    return config


@pytest.mark.slow
def test_lightbsr_trains_on_photographs(tmp_path: Path) -> None:
    config = tiny(teacher.get_config("photo"), tmp_path)
    config.network.groups = config.network.blocks = 1
    config.contrast.update(crops=2, queue_size=16)
    config.schedule.update(stage1_epochs=1, warmup_epochs=0)
    train(config, tmp_path / "run")
    model = Model.load(tmp_path / "run")
    assert model.step == 3 and model.setting == "photo"
    drawn = realworld.sample(jax.random.split(jax.random.key(0), 1), preset="photo")
    sr = model.restore(np.full((1, 8, 8, 3), 0.5, np.float32), drawn)
    assert np.isfinite(sr).all()


@pytest.mark.slow
def test_kdsr_trains_on_real_world_degradations(tmp_path: Path) -> None:
    config = tiny(kdsr_teacher.get_config("real-demo"), tmp_path)
    config.network.update(features=8, blocks=1, residual_blocks=1)
    config.schedule.decay_epochs = 1
    config.validation.hr = ""
    train(config, tmp_path / "run")
    assert Model.load(tmp_path / "run").step == 2


def test_degrade_writes_images_and_what_was_drawn(tmp_path: Path, capsys) -> None:
    folder, out = tmp_path / "hr", tmp_path / "lr"
    (folder / "sub").mkdir(parents=True)
    (_, first), (_, second) = photographs()
    write_png(folder / "a.png", first)
    write_png(folder / "sub" / "b.png", second[:62])
    main(["degrade", str(folder), "-o", str(out), "--setting=jpeg", "--seed=3"])
    first_line, second_line, last = capsys.readouterr().out.splitlines()
    side = len(first)
    assert first_line == f"done: {side}x{side} -> {side // 4}x{side // 4} {out}/a.png"
    assert second_line == f"done: {side}x62 -> {side // 4}x15 {out}/sub/b.png"
    assert last == f"{out}: 2 images, and the degradations in degradations.json"
    drawn = json.loads((out / "degradations.json").read_text())
    assert (drawn["setting"], drawn["scale"]) == ("jpeg", 4)
    assert list(drawn["images"]) == ["a.png", "sub/b.png"]
    assert read_rgb(out / "sub" / "b.png").shape == (15, 16, 3)
    one = drawn["images"]["a.png"]
    known = Compressed(np.array([one["kernel"]]), np.array([one["quality"]]))
    expected = synthesis.compressed(first[None], known, scale=4)
    with pytest.raises(SystemExit):
        main(["degrade", str(folder), "-o", str(out), "--setting=jpeg"])
    assert "a.png exists: name another folder" in capsys.readouterr().err
    difference = read_rgb(out / "a.png") - np.asarray(expected[0]) * 255
    assert np.abs(difference).mean() < 0.1  # the kernel went through text


def test_degrade_names_what_is_wrong(tmp_path: Path, capsys) -> None:
    write_png(tmp_path / "a.png", np.zeros((9, 9, 3), np.uint8))
    Image.new("RGB", (9, 9)).save(tmp_path / "a.bmp")
    with pytest.raises(SystemExit):
        main(["degrade", str(tmp_path), "-o", str(tmp_path / "out")])
    assert "several images would become a.png" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["degrade", str(tmp_path), "-o", str(tmp_path), "--setting=7"])
    assert (
        "setting 7 does not exist: use one of 1 (isotropic" in capsys.readouterr().err
    )
