"""Pillow, with whatever libjpeg it has, says what a JPEG file gives back."""

import functools
import io

import jax
import numpy as np
import pytest
from PIL import Image, features
from skimage import data

from lightbsr_jax.imaging import jpeg

CANVAS = 136  # no multiple of 16: the round trip fills up by itself
SUBSAMPLINGS = ("4:2:0", "4:4:4")


def by_pillow(image: np.ndarray, quality: int, subsampling: str) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(image).save(
        file, "JPEG", quality=int(quality), subsampling=subsampling
    )
    return np.asarray(Image.open(file).convert("RGB"))


def assert_as_pillow(
    sizes: np.ndarray, quality: np.ndarray, subsampling: str, seed: int = 0
) -> None:
    """Images of these sizes, half of them noise, half parts of a photograph."""
    rng = np.random.default_rng(seed)
    canvas = rng.integers(0, 256, (len(sizes), CANVAS, CANVAS, 3), np.uint8)
    photograph = data.astronaut()
    for i, (height, width) in enumerate(sizes[::2]):
        row, column = rng.integers(0, 512 - CANVAS, 2)
        part = photograph[row : row + height, column : column + width]
        canvas[2 * i, :height, :width] = part
    ours = jpeg.round_trip(canvas, quality, size=sizes, subsampling=subsampling)
    ours = np.asarray(ours)
    for i, (height, width) in enumerate(sizes):
        image = np.ascontiguousarray(canvas[i, :height, :width])
        differing = ours[i, :height, :width] != by_pillow(
            image, quality[i], subsampling
        )
        assert not differing.any(), (
            f"{differing.sum()} bytes of {height}x{width} pixels of quality "
            f"{quality[i]} differ from Pillow's; it has libjpeg-turbo "
            f"{features.version_feature('libjpeg_turbo')}, known to agree: 3.2.0"
        )


@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
def test_bytes_are_pillows_at_every_quality(subsampling: str) -> None:
    """Each image of a batch has its own quality and size in the same canvas."""
    sizes = np.random.default_rng(1).integers(1, 131, (200, 2))
    quality = np.tile(np.arange(1, 101), 2)  # noise and photographs alternate
    quality[100:] = np.roll(quality[100:], 1)
    assert_as_pillow(sizes, quality, subsampling)


@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
def test_bytes_are_pillows_at_the_smallest_sizes(subsampling: str) -> None:
    sizes = np.stack(np.mgrid[1:19, 1:19], -1).reshape(-1, 2)
    quality = np.random.default_rng(2).integers(1, 101, len(sizes))
    assert_as_pillow(sizes, quality, subsampling)


@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
def test_bytes_are_pillows_at_every_height_and_width(subsampling: str) -> None:
    """Each height with 16 adjacent widths, so that all pairs of remainders occur."""
    heights, numbers = np.mgrid[1:131, :16].reshape(2, -1)
    sizes = np.stack([heights, 1 + 29 * heights % 115 + numbers], -1)
    assert set(sizes[:, 1]) == set(range(1, 131))
    assert len(np.unique(sizes % 16, axis=0)) == 256
    quality = np.random.default_rng(3).integers(1, 101, len(sizes))
    for part in range(0, len(sizes), 520):
        some = slice(part, part + 520)
        assert_as_pillow(sizes[some], quality[some], subsampling, part)


@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
def test_whole_canvas_without_sizes_and_rounded_floats(subsampling: str) -> None:
    image = data.chelsea()[:90, :122]
    ours = jpeg.round_trip(
        image[None].astype(np.float32) + 0.4, np.array([60]), subsampling=subsampling
    )
    np.testing.assert_array_equal(ours[0], by_pillow(image, 60, subsampling))


def test_vmap_gives_the_same() -> None:
    """As accelerators run it, where the batch is not mapped one after the other."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, 20, 28, 3), np.uint8)
    quality, size = np.array([5, 50, 95]), np.array([[20, 28], [7, 16], [17, 3]])
    one = functools.partial(jpeg._round_trip, subsampled=True)
    ours = jax.jit(jax.vmap(one))(images.astype(np.int32), quality, size)
    expected = jpeg.round_trip(images, quality, size=size)
    for i, (height, width) in enumerate(size):
        inside = np.s_[i, :height, :width]
        np.testing.assert_array_equal(ours[inside], expected[inside])


def test_one_program_for_all_qualities_and_sizes() -> None:
    images = np.zeros((2, 24, 32, 3), np.uint8)
    jpeg.round_trip(images, np.array([50, 60]), size=np.array([[24, 32], [8, 8]]))
    compiled = jpeg.round_trip._cache_size()
    jpeg.round_trip(images, np.array([9, 100]), size=np.array([[1, 3], [24, 17]]))
    assert jpeg.round_trip._cache_size() == compiled
