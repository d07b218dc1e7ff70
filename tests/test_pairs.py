"""Real pairs: partners by name, crops of the same place, and mistakes by name."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers.crops import numbered
from helpers.pictures import picture, save
from PIL import Image

from configs import student, teacher
from lightbsr_jax.data.pairs import Mixed, PairedBatches, Pairs, misplacement
from lightbsr_jax.data.pipeline import CropBatches, Sampler
from lightbsr_jax.data.sources import ImageFolders
from lightbsr_jax.errors import UserError
from lightbsr_jax.training.checks import check
from lightbsr_jax.training.config import TrainingConfig

SCALE, SIZE = 2, 6  # a crop's side in LR pixels


def write(folder: Path, names: dict[str, str], *, height: int = 28) -> None:
    """HR images that tell where a pixel is from, and every second pixel of them."""
    for number, (hr, lr) in enumerate(names.items()):
        image = numbered(number, height, 34)
        save(folder / "HR" / hr, image)
        if lr:
            save(folder / "LR" / lr, image[::SCALE, ::SCALE])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path, {"a.png": "a.png", "b.png": "b_LR2.png", "c.png": "cx2.bmp"})
    return tmp_path


def pairs_of(folder: Path, *, every: bool = True) -> tuple[ImageFolders, Pairs]:
    source = ImageFolders([folder / "HR"], minimum=SCALE * SIZE)
    lr = str(folder / "LR")
    return source, Pairs(source, lr, scale=SCALE, minimum=SIZE, every=every)


def samplers(source: ImageFolders, pairs: Pairs) -> tuple[Sampler, Sampler]:
    options = dict(batch_size=8, crops=3, seed=5)
    return (
        Sampler(source.sizes, size=SCALE * SIZE, **options),
        Sampler(pairs.sizes, size=SIZE, **options),
    )


def batches_of(
    source: ImageFolders, pairs: Pairs, share: float, threads: int = 0
) -> Iterator[Mixed]:
    sampler, paired = samplers(source, pairs)
    return PairedBatches(source, sampler, pairs, paired, share=share, threads=threads)


def test_crops_of_pairs_are_of_one_place(folder: Path) -> None:
    source, pairs = pairs_of(folder)
    assert len(pairs) == 3 and pairs.sizes.tolist() == [[14, 17]] * 3
    batches = batches_of(source, pairs, 1.0)
    seen = set()
    for _ in range(6):
        hr, lr, paired = next(batches)
        assert paired.all() and lr.shape == (8, 3, 6, 6, 3)
        assert hr.shape == (8, 3, 12, 12, 3)
        # Whichever way they are turned, the LR image has the upper left of every 2 x 2.
        corners = hr.reshape(8, 3, 6, 2, 6, 2, 3).min((3, 5))
        np.testing.assert_array_equal(lr, corners)
        seen |= set(lr[..., 0].ravel().tolist())
    assert seen == {0, 1, 2}


def test_a_share_of_the_rows_are_pairs(folder: Path) -> None:
    source, pairs = pairs_of(folder)
    plain = CropBatches(source, samplers(source, pairs)[0], threads=0)
    batches, shares = batches_of(source, pairs, 0.25), []
    for _ in range(40):
        (hr, lr, paired), expected = next(batches), next(plain)
        np.testing.assert_array_equal(hr[~paired], expected[~paired])
        assert not lr[~paired].any()
        shares.append(paired.mean())
    assert 0.15 < np.mean(shares) < 0.35


def test_threads_and_places_change_nothing(folder: Path) -> None:
    source, pairs = pairs_of(folder)
    expected = [next(b) for b in [batches_of(source, pairs, 0.5)] for _ in range(5)]
    batches = batches_of(source, pairs, 0.5, threads=2)
    batches.set_state({"batches": 3})
    for theirs in expected[3:]:
        for ours, other in zip(next(batches), theirs, strict=True):
            np.testing.assert_array_equal(ours, other)
    batches.close()


def test_an_error_of_a_pair_has_its_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, pairs = pairs_of(folder)

    def fails(*given: object) -> None:
        raise RuntimeError("out of order")

    monkeypatch.setattr(pairs, "crops", fails)
    with pytest.raises(RuntimeError, match=r"LR/.*: RuntimeError\('out of order'\)"):
        next(batches_of(source, pairs, 1.0))


def test_missing_partners_are_named(folder: Path) -> None:
    save(folder / "HR" / "d.png", numbered(3, 28, 34))
    with pytest.raises(UserError, match=r"no LR image for d\.png\. With .*below 1"):
        pairs_of(folder)
    source, pairs = pairs_of(folder, every=False)
    assert (len(source), len(pairs)) == (4, 3)
    save(folder / "LR" / "e.png", numbered(3, 14, 17))
    with pytest.raises(UserError, match=r"without an HR image of that name: .*e\.png"):
        pairs_of(folder, every=False)


def test_a_pair_whose_hr_image_is_left_out_is_left_out(folder: Path) -> None:
    save(folder / "HR" / "d.png", numbered(3, SCALE * SIZE - 2, 34))
    save(folder / "LR" / "d.png", numbered(3, SIZE - 1, 17))
    (folder / "HR" / "e.png").write_bytes(b"no image")
    save(folder / "LR" / "e.png", numbered(4, 14, 17))
    source, pairs = pairs_of(folder)
    assert (len(source), len(pairs)) == (3, 3)
    assert source.left_out == ["d.png", "e.png"]


def test_a_partner_of_several_images_is_named(folder: Path) -> None:
    """As if another set of HR images, without LR ones, numbered its images alike."""
    save(folder / "HR" / "more" / "b.png", numbered(3, 28, 34))
    for every in (True, False):
        with pytest.raises(UserError, match=r"several HR .*b_LR2\.png \(2\): rename"):
            pairs_of(folder, every=every)
    save(folder / "LR" / "more" / "b.png", numbered(3, 14, 17))
    assert len(pairs_of(folder)[1]) == 4


def test_pairs_in_one_folder_are_told_apart_by_name(tmp_path: Path) -> None:
    """As RealSR is published."""
    for number in range(2):
        image = numbered(number, 28, 34)
        save(tmp_path / f"{number}_HR.png", image)
        save(tmp_path / f"{number}_LR2.png", image[::SCALE, ::SCALE])
    source = ImageFolders([tmp_path], minimum=SCALE * SIZE)
    pairs = Pairs(source, str(tmp_path), scale=SCALE, minimum=SIZE, every=True)
    assert [Path(pairs.name(n)).name for n in range(2)] == ["0_LR2.png", "1_LR2.png"]


def test_names_that_are_not_utf_8_have_partners(folder: Path) -> None:
    for part in ("HR", "LR"):
        (folder / part / "a.png").rename(folder / part / os.fsdecode(b"\xe9.png"))
    assert len(pairs_of(folder)[1]) == 3


def test_names_of_another_set_are_told(tmp_path: Path) -> None:
    write(tmp_path, {"a.png": "", "b.png": ""})
    save(tmp_path / "LR" / "x.png", numbered(0, 14, 17))
    with pytest.raises(UserError, match=r"none of its 1 images .* such as a\.png"):
        pairs_of(tmp_path)


@pytest.mark.parametrize("size", [(13, 13), (14, 18), (20, 17)])
def test_sizes_that_do_not_fit_are_named(folder: Path, size: tuple) -> None:
    save(folder / "LR" / "a.png", numbered(0, *size))
    if size == (13, 13):  # a few pixels were cropped, as of published pairs
        assert pairs_of(folder)[1].sizes[0].tolist() == [13, 13]
        return
    with pytest.raises(
        UserError, match=rf"a\.png has {size[1]}x{size[0]} .*34x28, not 2"
    ):
        pairs_of(folder)


def test_small_pairs_are_named(folder: Path) -> None:
    for part, side in (("HR", 12), ("LR", 5)):
        save(folder / part / "s.png", numbered(0, side, side))
    with pytest.raises(UserError, match=r"s\.png has 5x5 .* less than a crop of 6"):
        pairs_of(folder)


def shifted(image: np.ndarray, down: int, right: int) -> np.ndarray:
    """The image with its scene lower and further right."""
    rows = np.arange(image.shape[0]) - down
    columns = np.arange(image.shape[1]) - right
    return image[rows.clip(0, len(image) - 1)][:, columns.clip(0, image.shape[1] - 1)]


def textured(seed: int) -> np.ndarray:
    """A photograph's likeness with detail, uint8 [120, 136, 3]."""
    noise = np.random.default_rng(seed).integers(0, 256, (30, 34, 3), np.uint8)
    return np.asarray(Image.fromarray(noise).resize((136, 120)))


def test_misplacement_is_found_under_blur_and_noise() -> None:
    hr = textured(0)
    lr = np.asarray(Image.fromarray(hr).resize((68, 60), Image.Resampling.BOX))
    rng = np.random.default_rng(1)
    for place in ((0, 0), (2, -1), (-3, 3)):
        moved = shifted(lr, *place) + rng.normal(0, 15, lr.shape)
        assert misplacement(moved.clip(0, 255).astype(np.uint8), hr, 2) == place
    assert misplacement(np.full_like(lr, 9), hr, 2) == (0, 0)
    assert misplacement(shifted(lr, 1, 0)[:10], hr[:20], 2) == (0, 0)  # too small


def test_misplaced_pairs_are_left_out_and_named(tmp_path: Path) -> None:
    for number, by in enumerate((0, 3)):
        hr = textured(number)
        lr = np.asarray(Image.fromarray(hr).resize((68, 60), Image.Resampling.BOX))
        save(tmp_path / "HR" / f"{number}.png", hr)
        save(tmp_path / "LR" / f"{number}.png", shifted(lr, by, 0))
    source, pairs = pairs_of(tmp_path)
    batches = batches_of(source, pairs, 1.0)
    for _ in range(4):
        assert next(batches).paired.all()
    ((path, reason),) = pairs.skipped.items()
    assert path.endswith("1.png") and "3 LR pixels lower and 0 further right" in reason
    save(tmp_path / "LR" / "0.png", shifted(lr, 0, 3))
    source, pairs = pairs_of(tmp_path)
    with pytest.raises(Exception, match="no pair is left"):
        next(batches_of(source, pairs, 1.0))


def test_every_thread_is_told_that_no_pair_is_left(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        save(tmp_path / "HR" / name, textured(0))
        save(tmp_path / "LR" / name, textured(0)[::SCALE, ::SCALE])
    _, pairs = pairs_of(tmp_path)
    for path in (tmp_path / "LR").iterdir():
        path.write_bytes(b"damaged")
    zero = np.zeros(3, int)
    assert pairs.crops(0, zero, zero, SIZE) is None
    for place in (1, 0, 1):
        with pytest.raises(UserError, match="no pair is left"):
            pairs.crops(place, zero, zero, SIZE)


def test_a_pair_that_vanishes_is_an_error(folder: Path) -> None:
    """As an HR image that does: it is not left out."""
    _, pairs = pairs_of(folder)
    zero = np.zeros(3, int)
    for part in ("LR", "HR"):
        path = folder / part / "a.png"
        path.rename(folder / "a.png")
        with pytest.raises(UserError, match=f"{part}/a.png existed when the run began"):
            pairs.crops(0, zero, zero, SIZE)
        (folder / "a.png").rename(path)
    assert pairs.skipped == {} and pairs.crops(0, zero, zero, SIZE) is not None


def config_of(module, preset: str, **fields: object) -> TrainingConfig:
    config = module.get_config(preset)
    flat = {name.replace("__", "."): value for name, value in fields.items()}
    config.update_from_flattened_dict({"data.hr": "x", "data.lr": "y", **flat})
    return TrainingConfig.from_flags(config)


def test_who_cannot_learn_from_pairs_is_told() -> None:
    with pytest.raises(UserError, match="data.lr: the degradation of real pairs"):
        check(config_of(teacher, "photo", data__resident=False))
    with pytest.raises(UserError, match="data.lr: the degradation"):
        check(config_of(student, "photo", distillation__teacher="t"))
    with pytest.raises(UserError, match="validation.lr: the degradation"):
        check(config_of(teacher, "photo", data__lr="", validation__lr="z"))
    with pytest.raises(UserError, match="validation.lr has no HR images"):
        check(
            config_of(
                student,
                "photo-plain",
                data__lr="",
                validation__hr="",
                validation__lr="z",
            )
        )
    with pytest.raises(UserError, match="data.resident does not work with data.lr"):
        check(config_of(student, "photo-plain"))
    with pytest.raises(UserError, match=r"data.paired_share 1.5 is not in \[0, 1\]"):
        fields = {"data__resident": False, "data__paired_share": 1.5}
        check(config_of(student, "photo-plain", **fields))
    with pytest.raises(UserError, match="paired_share 0.5 has no .*config.data.lr=FOL"):
        check(config_of(student, "photo-plain", data__lr="", data__paired_share=0.5))
    check(config_of(student, "photo-plain", data__resident=False))


@pytest.mark.slow
def test_a_step_takes_pairs_as_they_are() -> None:
    """The update sees the given LR crops of pairs, and degraded ones of the others."""
    from lightbsr_jax.training import parallel
    from lightbsr_jax.training.steps import Constants, degrading_step

    def update(state, batch, _):
        return batch.lr, {}

    step = degrading_step(update, setting=1, scale=SCALE, width_max=2.0)

    class State:
        step = 0

    hr = np.stack([picture(n, 24, 24) for n in range(2)])[:, None]
    lr = np.stack([picture(n + 7, 12, 12) for n in range(2)])[:, None]
    run = jax.vmap(
        lambda crops: step(State, crops, Constants(0, np.zeros((441, 15)), None))[0],
        axis_name=parallel.AXIS,
    )
    given = Mixed(hr[None], lr[None], np.array([[True, False]]))
    mixed, made = run(given)[0], run(hr[None])[0]
    np.testing.assert_allclose(mixed[0, 0], lr[0, 0] / np.float32(255), atol=1e-7)
    np.testing.assert_array_equal(mixed[1], made[1])
    assert abs(mixed[0] - made[0]).max() > 0.05


@pytest.mark.slow
def test_a_run_learns_from_pairs_goes_on_and_validates(tmp_path: Path) -> None:
    """A run that was cut short ends with the weights of one that was not."""
    from lightbsr_jax.models.model import Model
    from lightbsr_jax.training.loop import train

    for number in range(3):
        hr = picture(number, 64, 72)
        save(tmp_path / "HR" / f"{number}.png", hr)
        save(tmp_path / "LR" / f"{number}x4.png", hr[1::4, 1::4])

    def run(workdir: Path) -> None:
        config = student.get_config("setting1-plain")
        config.update_from_flattened_dict(
            {
                "network.groups": 1,
                "network.blocks": 1,
                "start": "random",
                "optimizer": "adam",
                "data.hr": str(tmp_path / "HR"),
                "data.lr": str(tmp_path / "LR"),
                "data.resident": False,
                "data.batch_size": 4,
                "data.lr_crop": 8,
                "data.threads": 0,
                "schedule.steps_per_epoch": 1,
                "schedule.stage2_epochs": 3,
                "schedule.warmup_epochs": 0,
                "schedule.cooldown_epochs": 1,
                "checkpoint.every_steps": 1,
                "log.every_steps": 1,
                "validation.hr": str(tmp_path / "HR"),
                "validation.lr": str(tmp_path / "LR"),
                "validation.every_steps": 3,
                "validation.images": 1,
            }
        )
        train(config, workdir)

    run(tmp_path / "whole")
    cut = tmp_path / "cut"
    shutil.copytree(tmp_path / "whole", cut)
    for step in ("2", "3"):  # as if it had ended after the first step
        shutil.rmtree(cut / "checkpoints" / step)
    run(cut)
    for workdir in (tmp_path / "whole", cut):
        lines = (workdir / "metrics.jsonl").read_text().splitlines()
        records = [json.loads(line) for line in lines]
        scores = [r["validation_psnr"] for r in records if "validation_psnr" in r]
        assert scores and all(10 < score < 60 for score in scores)
    whole, again = (
        [x.tobytes() for x in jax.tree.leaves(Model.load(w).variables)]
        for w in (tmp_path / "whole", cut)
    )
    assert whole == again
