"""Batches of random crops, which depend on the seed but not on how they are read.

Crops are uint8 [B, D, H, W, C]: D crops of each of B images, 0..255, RGB. `Sampler`
draws the positions of all crops of a batch. `CropBatches` cuts them on the host;
resident.py cuts them on the device, with the same result.
"""

import functools
import itertools
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import grain
import numpy as np

from lightbsr_jax.data.sources import Source
from lightbsr_jax.errors import UserError

# The bits of a turn, in the order in which they are applied.
FLIP_ROWS, FLIP_COLUMNS, TRANSPOSE = 1, 2, 4


class Places(NamedTuple):
    """Positions and orientations of the crops of a batch: all int32."""

    images: np.ndarray  # [B], indices into the source
    tops: np.ndarray  # [B, D], pixels
    lefts: np.ndarray  # [B, D]
    turns: np.ndarray  # [B], 0 to 7: a sum of FLIP_ROWS, FLIP_COLUMNS, TRANSPOSE


class Sampler:
    """Draws the places of a batch from nothing but the seed and the batch's number.

    Images come in a new order every epoch; a batch may span epochs. Each gives `crops`
    random crops of `size` x `size`, which share one random flip of the rows, flip of
    the columns and transposition (each with probability 1/2).

    `sizes` [N, 2] are the images' heights and widths, none below `size`. If several
    processes share the work, process `shard_index` gets B = batch_size / shard_count
    rows of each batch; the first process gets the first rows.
    """

    def __init__(
        self,
        sizes: np.ndarray,
        *,
        batch_size: int,
        crops: int,
        size: int,
        seed: int,
        shard_index: int = 0,
        shard_count: int = 1,
    ) -> None:
        if batch_size % shard_count:
            raise UserError(
                f"batch_size {batch_size} is not a multiple of the {shard_count} "
                "processes that share it"
            )
        self.size, self.rows = size, batch_size // shard_count
        self._first_row = shard_index * self.rows
        self._sizes, self._batch_size, self._crops = sizes, batch_size, crops
        self._seed = seed
        # Threads read the rows of a few batches one by one.
        self.places = functools.lru_cache(maxsize=8)(self._places)
        self._order = functools.lru_cache(maxsize=4)(self._shuffled)

    def replacements(
        self, batch: int, row: int
    ) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Yields image, tops [D] and lefts [D] to replace a row's unreadable image.

        The iterator is endless.
        """
        rng = np.random.default_rng([self._seed, 2, batch, self._first_row + row])
        while True:
            images = rng.integers(len(self._sizes), size=1)
            (tops,), (lefts,) = self._positions(rng, images)
            yield int(images[0]), tops, lefts

    def tries(
        self, drawn: tuple[int, np.ndarray, np.ndarray], batch: int, row: int
    ) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Yields the image drawn for a row, and then its `replacements`."""
        return itertools.chain([drawn], self.replacements(batch, row))

    def chooses(self, batch: int, row: int, share: float) -> bool:
        """Returns whether a row is in a random `share` of all rows."""
        rng = np.random.default_rng([self._seed, 3, batch, self._first_row + row])
        return bool(rng.random() < share)

    def _places(self, batch: int) -> Places:
        numbers = batch * self._batch_size + np.arange(self._batch_size)
        epochs, indices = np.divmod(numbers, len(self._sizes))
        images = np.empty_like(numbers)
        for epoch in np.unique(epochs):
            images[epochs == epoch] = self._order(epoch)[indices[epochs == epoch]]
        rng = np.random.default_rng([self._seed, 1, batch])
        tops, lefts = self._positions(rng, images)
        turns = rng.integers(8, size=self._batch_size)
        own = slice(self._first_row, self._first_row + self.rows)
        drawn = (images, tops, lefts, turns)
        return Places(*(array[own].astype(np.int32) for array in drawn))

    def _positions(
        self, rng: np.random.Generator, images: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Tops and lefts [B, D] of crops of `images` [B]."""
        room = self._sizes[images] - self.size + 1
        shape = (len(images), self._crops)
        tops = rng.integers(room[:, :1], size=shape)
        return tops, rng.integers(room[:, 1:], size=shape)

    def _shuffled(self, epoch: int) -> np.ndarray:
        # Grain's own shuffle takes milliseconds per image if there are few images.
        rng = np.random.default_rng([self._seed, 0, epoch])
        return rng.permutation(len(self._sizes))


class CropBatches(Iterator[Any]):
    """An endless iterator of the crops that `sampler` draws, cut on the host.

    A batch is uint8 [B, D, size, size, 3], passed through `transfer`, which may move it
    to the devices. `threads` threads read images ahead, and one more assembles and
    transfers the next batch; with 0 threads, `next` does all of that itself.

    An image that cannot be decoded is replaced by another random one. `next` raises any
    other error of a thread, with the image's name.
    """

    def __init__(
        self,
        source: Source,
        sampler: Sampler,
        *,
        threads: int,
        transfer: Callable[[np.ndarray], Any] = lambda crops: crops,
    ) -> None:
        self._source, self._sampler = source, sampler
        reading = grain.ReadOptions(
            num_threads=threads,
            prefetch_buffer_size=max(2 * sampler.rows, threads) if threads else 0,
        )
        batches = (
            grain.MapDataset.range(sys.maxsize)
            .map(self._row)
            .to_iter_dataset(reading)
            .batch(sampler.rows)
            .map(transfer)
        )
        self._batches = iter(
            grain.experimental.ThreadPrefetchIterDataset(
                batches, prefetch_buffer_size=1 if threads else 0
            )
        )

    def __next__(self) -> Any:
        return next(self._batches)

    def get_state(self) -> dict[str, int]:
        """The position in the stream, for JSON: the same in every process.

        It counts the batches returned, not those read ahead.
        """
        return {"batches": grain.experimental.get_next_index(self._batches)}

    def set_state(self, state: dict[str, int]) -> None:
        """Returns to a position of `get_state`: the next batch is the same as then."""
        grain.experimental.set_next_index(self._batches, state["batches"])

    def close(self) -> None:
        """Stops the threads; the iterator yields no more batches."""
        self._batches.close()

    def _row(self, index: int) -> np.ndarray:
        """The crops [D, size, size, 3] at a position in the stream of rows."""
        batch, row = divmod(index, self._sampler.rows)
        images, tops, lefts, turns = self._sampler.places(batch)
        drawn = int(images[row]), tops[row], lefts[row]
        # The loop ends: a source without any readable image raises UserError.
        for image, top, left in self._sampler.tries(drawn, batch, row):
            try:
                crops = self._source.crops(image, top, left, self._sampler.size)
            except UserError:
                raise
            except BaseException as error:  # SystemExit would end the thread silently
                name = self._source.names[image]
                raise RuntimeError(f"reading {name} failed: {error!r}") from error
            if crops is not None:
                return turned(crops, turns[row])
        raise AssertionError("the iterator of replacements is endless")


def turned(crops: np.ndarray, turn: int) -> np.ndarray:
    """Crops [D, h, w, 3], flipped and transposed as `Places.turns` says."""
    if turn & FLIP_ROWS:
        crops = crops[:, ::-1]
    if turn & FLIP_COLUMNS:
        crops = crops[:, :, ::-1]
    if turn & TRANSPOSE:
        crops = crops.swapaxes(1, 2)
    return crops
