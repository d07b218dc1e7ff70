"""Folders of numbered images, and batches of crops whose origin can be identified."""

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lightbsr_jax.data.pipeline import CropBatches, Sampler
from lightbsr_jax.data.sources import ImageFolders
from lightbsr_jax.imaging import files

COUNT, HEIGHT, WIDTH, SIZE, CROPS = 7, 12, 17, 8, 3


def numbered(number: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """An image whose pixels hold (number, row, column)."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([np.full_like(rows, number), rows, columns], -1).astype(np.uint8)


def truncate(path: Path) -> None:
    """Truncates a file so that its header is readable but its pixels are not."""
    path.write_bytes(path.read_bytes()[:-30])


@pytest.fixture
def folder(tmp_path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(COUNT):
        files.write_png(folder / f"{number}.png", numbered(number))
    return folder


def sampler_of(source: ImageFolders, **changes) -> Sampler:
    options = dict(batch_size=4, crops=CROPS, size=SIZE, seed=5)
    return Sampler(source.sizes, **(options | changes))


opened: list[CropBatches] = []


def batches_of(source: ImageFolders, *, threads: int = 2, **changes) -> CropBatches:
    opened.append(CropBatches(source, sampler_of(source, **changes), threads=threads))
    return opened[-1]


def within_seconds(seconds: float, function: Callable[[], None]) -> None:
    """Calls the function and raises what it raises; AssertionError if it hangs."""
    raised = []

    def call() -> None:
        try:
            function()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), "hangs"
    if raised:
        raise raised[0]


def take(batches: CropBatches, count: int) -> np.ndarray:
    return np.stack([next(batches) for _ in range(count)])


def numbers(crops: np.ndarray) -> list[int]:
    """The number of the image that each row of crops [..., D, H, W, C] shows."""
    return crops[..., 0, 0, 0, 0].ravel().tolist()
