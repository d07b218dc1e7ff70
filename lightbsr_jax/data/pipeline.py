"""Batches of random crops, the same for the same seed however they are read.

Crops are uint8 [B, D, H, W, C]: D crops of each of B images, 0..255, RGB.
"""

import functools
from collections.abc import Iterator

import grain
import numpy as np

from lightbsr_jax.data.sources import ImageFolders
from lightbsr_jax.errors import UserError


class CropBatches(Iterator[np.ndarray]):
    """An endless iterator of crops, uint8 [B, D, size, size, 3].

    Images come in a new order every epoch; a batch may span two epochs. Each gives
    `crops` random crops, which share one random horizontal flip, vertical flip and
    transposition (each with probability 1/2). In place of an image that cannot be
    decoded another one is drawn.

    What lies at a place of a batch follows from the seed and the place alone. It does
    not depend on `threads` (which decode ahead; 0: none) or on how many processes
    share the work: process `shard_index` of `shard_count` gets its own B =
    batch_size / shard_count rows of each batch, the first process the first rows.

    The source's images must not be smaller than `size`.
    """

    def __init__(
        self,
        source: ImageFolders,
        *,
        batch_size: int,
        crops: int,
        size: int,
        seed: int,
        threads: int,
        shard_index: int = 0,
        shard_count: int = 1,
    ) -> None:
        if batch_size % shard_count:
            raise UserError(
                f"batch_size {batch_size} is not a multiple of the {shard_count} "
                "processes that share it"
            )
        self._source, self._crops, self._size = source, crops, size
        rows = batch_size // shard_count

        # Grain's own shuffle takes milliseconds an image where images are few.
        @functools.lru_cache(maxsize=4)
        def order(epoch: int) -> np.ndarray:
            return np.random.default_rng([seed, epoch]).permutation(len(source))

        images = (
            grain.MapDataset.range(len(source))
            .repeat()
            .map_with_index(lambda place, index: order(place // len(source))[index])
            .random_map(self._random_crops, seed=seed)
        )
        reading = grain.ReadOptions(
            num_threads=threads,
            prefetch_buffer_size=max(2 * rows, threads) if threads else 0,
        )
        self._batches = iter(
            _Rows(images, batch_size, shard_index * rows, rows)
            .to_iter_dataset(reading)
            .batch(rows)
        )

    def __next__(self) -> np.ndarray:
        return next(self._batches)

    def get_state(self) -> dict[str, int]:
        """The place in the stream, for JSON: the same in every process."""
        return {"batches": grain.experimental.get_next_index(self._batches)}

    def set_state(self, state: dict[str, int]) -> None:
        """Goes to a place that `get_state` gave: the next batch is the same as then."""
        grain.experimental.set_next_index(self._batches, state["batches"])

    def close(self) -> None:
        """Ends the threads; there are no more batches afterwards."""
        self._batches.close()

    def _random_crops(self, index: int, rng: np.random.Generator) -> np.ndarray:
        image = self._source[index]
        while image is None:  # ends: a source without any readable image raises
            image = self._source[int(rng.integers(len(self._source)))]
        height, width, _ = image.shape
        tops = rng.integers(height - self._size + 1, size=self._crops)
        lefts = rng.integers(width - self._size + 1, size=self._crops)
        crops = np.stack(
            [
                image[top : top + self._size, left : left + self._size]
                for top, left in zip(tops, lefts, strict=True)
            ]
        )
        flip_rows, flip_columns, transpose = rng.integers(2, size=3)
        if flip_rows:
            crops = crops[:, ::-1]
        if flip_columns:
            crops = crops[:, :, ::-1]
        if transpose:
            crops = crops.swapaxes(1, 2)
        return crops


class _Rows(grain.MapDataset):
    """Of every batch of `batch_size` elements the `count` that start at `first`."""

    def __init__(
        self, parent: grain.MapDataset, batch_size: int, first: int, count: int
    ) -> None:
        super().__init__(parent)
        self._batch_size, self._first, self._count = batch_size, first, count

    def __len__(self) -> int:
        return len(self._parent) // self._batch_size * self._count

    def __getitem__(self, index: int) -> np.ndarray:
        batch, row = divmod(index, self._count)
        return self._parent[batch * self._batch_size + self._first + row]
