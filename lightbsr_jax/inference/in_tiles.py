"""Running a network tile by tile (see `methods.parts`), on one or more devices."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from lightbsr_jax.inference import stages
from lightbsr_jax.inference.tiles import Grid, Map, Row
from lightbsr_jax.methods.network import BlindNetwork

Progress = Callable[[int, int], None]  # tiles done and in all, of all stages


class Counter:
    """Implements the verbs to count the stages over the image, without computing."""

    def __init__(self) -> None:
        self.stages = 0

    def map(self, *_: Any, **options: Any) -> None:
        self.stages += 1

    def mean(self, of: None) -> None:
        pass

    def vector(self, *_: Any) -> None:
        pass


class Tiles:
    """Implements the verbs for one image; each stage runs over all tiles of a grid."""

    def __init__(
        self,
        network: BlindNetwork,
        variables: dict[Any, dict[str, Any]],
        grid: Grid,
        progress: Progress,
        total: int,
    ) -> None:
        """`variables` holds the variables on each device; `total` counts the stages."""
        self.grid = grid
        self._network = network
        self._variables = variables
        self._progress = progress
        self._done = 0
        self._total = total * grid.rows * grid.columns

    def map(
        self,
        function: Callable[..., jax.Array],
        reach: int,
        *maps: Map,
        given: tuple[Any, ...] = (),
        into: Map | None = None,
        averaged: bool = False,
        every: int = 1,
    ) -> Map:
        """Implements `Parts.map`; keeps one of `every` rows and columns."""
        # Beyond the image there are zeros, as convolutions pad with them.
        reach = 0 if self.grid.is_one else reach
        stage = stages.Stage(function, reach, averaged, every)
        into = Map(self.grid) if into is None else into

        def compute(device, row, column, *tiles):
            window = self.grid.window(row, column, reach)
            variables, high = self._variables[device], self.grid.tile[0]
            return stages.part(
                stage, self._network, high, variables, window, tiles, given
            )

        total: Any = 0.0
        for row, tiles, sums in self.rows(compute, maps):
            into[row] = tiles
            total = total + sums
        into.sums = total if averaged else None
        return into

    def skip(self) -> None:
        """Counts a stage as done, for the progress."""
        self._done += self.grid.rows * self.grid.columns

    def mean(self, of: Map) -> np.ndarray:
        """Implements `Parts.mean`. Raises ValueError for a map without `averaged`."""
        if of.sums is None:
            raise ValueError("this map has no mean: make it with averaged=True")
        *sums, pixels = of.sums
        return (np.array(sums) / pixels).astype(np.float32)[None]

    def vector(self, function: Callable[..., jax.Array], *given: Any) -> np.ndarray:
        """Implements `Parts.vector`."""
        variables = self._variables[self.grid.device(0)]
        return np.asarray(stages.vector(function, self._network, variables, given))

    def reconstructed(
        self, features: Map, lr: Map, dtype: np.dtype
    ) -> Iterator[tuple[int, Row]]:
        """Yields the SR image in rows of tiles."""

        def compute(device, row, column, *tiles):
            window = self.grid.window(row, column, stages.RECONSTRUCT)
            variables = self._variables[device]
            return stages.reconstruct(self._network, variables, window, *tiles, dtype)

        for row, tiles, _ in self.rows(compute, (features, lr)):
            yield row, tiles

    def rows(
        self, compute: Callable[..., tuple[jax.Array, Any]], maps: Sequence[Map]
    ) -> Iterator[tuple[int, Row, np.ndarray]]:
        """Runs `Grid.compute` and reports the progress."""

        def reporting(*place_and_tiles):
            self._done += 1
            self._progress(self._done, self._total)
            return compute(*place_and_tiles)

        return self.grid.compute(reporting, maps)
