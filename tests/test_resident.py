"""Crops cut on the device, against slices of the images on the host."""

from functools import partial
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.crops import COUNT, SIZE, batches_of, folder, numbers, sampler_of, truncate
from jax import lax

from lightbsr_jax import target
from lightbsr_jax.data import resident
from lightbsr_jax.data.pipeline import CropBatches, Places
from lightbsr_jax.data.resident import ResidentBatches
from lightbsr_jax.data.sources import ImageFolders
from lightbsr_jax.errors import UserError
from lightbsr_jax.imaging import files
from lightbsr_jax.training import parallel
from lightbsr_jax.training.steps import AXIS, Constants, cropping_step

__all__ = ["folder"]  # the fixture

cut = jax.jit(partial(resident.crops, size=SIZE))


@pytest.fixture
def images(folder) -> ImageFolders:
    """Of different sizes."""
    rng = np.random.default_rng(0)
    for number in range(COUNT):
        shape = (SIZE + number, 2 * SIZE - number, 3)
        image = rng.integers(256, size=shape, dtype=np.uint8)
        image[..., 0] = number
        files.write_png(folder / f"{number}.png", image)
    return ImageFolders([folder], minimum=SIZE)


@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
def test_crops_are_slices_turned(images, platform: str) -> None:
    with target.compiling_for(platform):
        batches = ResidentBatches(images, sampler_of(images), threads=2)
    words = platform == "tpu"
    assert batches.pixels.lines.dtype == (np.uint32 if words else np.uint8)
    for turn in range(8):
        places = Places(
            images=np.array([6, 0, 3]),
            tops=np.array([[0, 6], [0, 0], [1, 2]]),
            lefts=np.array([[2, 0], [8, 3], [5, 0]]),
            turns=np.array([turn, 0, turn]),
        )
        actual = np.asarray(cut(batches.pixels, places))
        assert actual.dtype == np.uint8
        for row, image in enumerate(places.images):
            for crop in range(2):
                top, left = places.tops[row, crop], places.lefts[row, crop]
                expected = images[image][top : top + SIZE, left : left + SIZE]
                if places.turns[row] & 1:
                    expected = np.flipud(expected)
                if places.turns[row] & 2:
                    expected = np.fliplr(expected)
                if places.turns[row] & 4:
                    expected = expected.transpose(1, 0, 2)
                np.testing.assert_array_equal(actual[row, crop], expected)


def test_same_crops_as_from_the_files(images, folder) -> None:
    """Over several epochs, with images that cannot be decoded, and after going back."""
    for number in (1, 4):
        truncate(folder / f"{number}.png")
    here = ResidentBatches(images, sampler_of(images), threads=3)
    there = batches_of(images)
    shown = []
    for step in range(15):
        assert here.get_state() == there.get_state() == {"batches": step}
        shown.append(next(there))
        np.testing.assert_array_equal(cut(here.pixels, next(here)), shown[-1])
    assert not {1, 4} & set(numbers(np.stack(shown)))
    here.set_state({"batches": 6})
    np.testing.assert_array_equal(cut(here.pixels, next(here)), shown[6])
    here.close()
    there.close()


def test_every_epoch_covers_the_images(images) -> None:
    batches = ResidentBatches(images, sampler_of(images), threads=0)
    drawn = np.concatenate([next(batches).images for _ in range(COUNT)])
    epochs = drawn.reshape(-1, COUNT)
    assert (np.sort(epochs) == np.arange(COUNT)).all()
    assert len({tuple(epoch) for epoch in epochs}) == len(epochs)


def test_processes_share_each_batch(images) -> None:
    whole = ResidentBatches(images, sampler_of(images), threads=0)
    options = [dict(shard_index=index, shard_count=2) for index in range(2)]
    shards = [
        ResidentBatches(images, sampler_of(images, **own), threads=0) for own in options
    ]
    for _ in range(5):
        parts = [next(shard) for shard in shards]
        for part, expected in zip(zip(*parts, strict=True), next(whole), strict=True):
            np.testing.assert_array_equal(np.concatenate(part), expected)


@pytest.mark.parametrize("kind", [CropBatches, ResidentBatches])
def test_devices_see_their_share_of_the_same_batch(images, kind) -> None:
    """A step over all devices, with crops from either, against the batch itself."""

    def step(state: jax.Array, crops: jax.Array, constants: Constants):
        return state + 1, lax.all_gather(crops, AXIS, tiled=True) + constants.seed

    options = {"share": parallel.share} if kind is ResidentBatches else {}
    options |= {"threads": 2, "transfer": parallel.split}
    batches = kind(images, sampler_of(images), **options)
    constants = Constants(jnp.uint8(3), jnp.zeros(()), None)
    state, constants = parallel.replicate((jnp.int32(0), constants))
    if kind is ResidentBatches:
        step = cropping_step(step, size=SIZE)
        constants = constants._replace(pixels=batches.pixels)
    step = parallel.over_devices(step)
    expected = batches_of(images)
    with jax.transfer_guard("disallow"):
        for _ in range(3):
            with jax.transfer_guard("allow"):  # the batch's own, which is explicit
                batch = next(batches)
            state, crops = step(state, batch, constants)
            with jax.transfer_guard("allow"):
                np.testing.assert_array_equal(crops, next(expected) + np.uint8(3))
    assert state == 3
    batches.close()


def test_images_that_do_not_fit(images, monkeypatch) -> None:
    monkeypatch.setattr(resident, "_free_memory", lambda: 3 * 77 * 16 - 1)
    with pytest.raises(
        UserError,
        match="config.data.resident: 7 images as 77 lines of 16 pixels need 0.0 GB, "
        "and a device has 0.0 GB free: set it to False ",
    ):
        ResidentBatches(images, sampler_of(images), threads=0)
    monkeypatch.setattr(resident, "_free_memory", lambda: 3 * 77 * 16)
    ResidentBatches(images, sampler_of(images), threads=0)


def test_memory_that_other_programs_use_is_not_free(images, monkeypatch) -> None:
    memory = SimpleNamespace(total=10**12, available=1000)
    monkeypatch.setattr(resident.psutil, "virtual_memory", lambda: memory)
    with pytest.raises(UserError, match="and a device has 0.0 GB free"):
        ResidentBatches(images, sampler_of(images), threads=0)


def test_file_that_vanishes_while_they_are_loaded(images, folder: Path) -> None:
    (folder / "3.png").unlink()
    with pytest.raises(UserError, match="3.png existed when the run began"):
        ResidentBatches(images, sampler_of(images), threads=2)
