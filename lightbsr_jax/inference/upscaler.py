"""Upscaling pictures of any size, exactly, within a memory budget.

    upscaler = Upscaler.load("runs/student")
    sr = upscaler(image)

Cutting an image into tiles that the network sees one by one changes the result:
converters and maybe blocks pool over the whole image. Here a tile goes through
one stage at a time and gets the whole image's means, so that the result is the whole
image's, float rounding apart, however small the tiles are (see `stages`).

Images are [h, w, 3] RGB: uint8 in 0..255, uint16 in 0..65535 or float32 in [0, 1].
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from lightbsr_jax.errors import UserError
from lightbsr_jax.inference import memory, stages
from lightbsr_jax.inference.in_tiles import Counter, Progress, Tiles
from lightbsr_jax.inference.tiles import SMALLEST, Grid, Map, Storage
from lightbsr_jax.methods.network import BlindNetwork
from lightbsr_jax.methods.parts import InParts
from lightbsr_jax.models.load import load_for_pictures
from lightbsr_jax.models.model import Model
from lightbsr_jax.spec import Sees
from lightbsr_jax.typed import Device

BORDER = 8  # LR pixels; with more the flats of few pixels come out no better
LARGEST = 256  # pixels along a tile's side; more saves little
IDR_STEP = 4  # every so many LR pixels the IDR is kept
_FEATURES = 64  # of the network that the next figure was measured with
_TILE_FLOATS = 1000  # float32 numbers a pixel that the widest stage has at once

Result = TypeVar("Result")


class IDR(NamedTuple):
    """The estimated degradation of a picture."""

    # [ceil(h/4), ceil(w/4), C], as it leaves the estimator; of one whose is as large as
    # the image, every fourth pixel.
    map: np.ndarray
    mean: np.ndarray  # [C], over the whole map
    channel: np.ndarray  # the vector that modulates, such as R_c [48]
    spatial: np.ndarray | None  # the map that modulates, R_s [h, w, 8], if there is one


class Upscaler:
    """A trained student, ready for pictures of any size."""

    def __init__(
        self,
        model: Model,
        *,
        memory: int | None = None,
        precision: Literal["float32", "bfloat16"] = "float32",
        devices: Sequence[Device] | None = None,
        border: int = BORDER,
    ) -> None:
        """`memory` is in bytes, for the maps on each device; by default what is free.

        By default the first device is used; a picture's rows are spread over several.
        A picture is mirrored over `border` pixels beyond its edges before it is
        restored, as networks take what lies there for black; 0 restores as evaluation
        does.
        Raises UserError for a teacher, and for an estimator that sees too far.
        """
        if model.spec.sees is not Sees.NOTHING:
            raise UserError(
                f"a {model.spec.kind} sees what nobody knows of a picture: upscale "
                "with a student of it (configs/student.py)"
            )
        if model.network.reach > SMALLEST:
            raise UserError(
                f"the estimator sees {model.network.reach} pixels far, beyond a "
                f"neighbouring tile of {SMALLEST}: take Model.restore, without tiles"
            )
        self.scale = model.scale
        self._in_parts = model.method.in_parts
        self._network = model.network.clone(dtype=jnp.dtype(precision))
        self._devices = tuple(devices or jax.local_devices()[:1])
        self._variables = {
            device: jax.device_put(model.variables, device) for device in self._devices
        }
        self._memory = memory
        self._border = border
        self._largest = LARGEST

    @classmethod
    def load(cls, source: str | Path, **options: Any) -> "Upscaler":
        """The network that `Model.load` finds, with __init__'s options.

        Raises UserError, which names the source, where there is none that sees the LR
        image alone.
        """
        return cls(load_for_pictures(source), **options)

    def __call__(
        self,
        image: np.ndarray,
        *,
        idr: np.ndarray | None = None,
        self_ensemble: bool = False,
        on_progress: Progress | None = None,
    ) -> np.ndarray:
        """The SR image [h s, w s, 3], of the image's type.

        It is restored by its own estimated degradation, or by another picture's: `idr`
        is the mean [C] of that, taken for the whole image. `self_ensemble` averages
        the results of all 8 flips and transpositions. Raises UserError where not even
        the smallest tiles fit into memory.
        """
        image = mirrored(_checked(image), self._border)
        beyond = self._border * self.scale
        sr = self._upscaled(image, idr, self_ensemble, on_progress or _nothing)
        return sr[beyond : len(sr) - beyond, beyond : sr.shape[1] - beyond]

    def _upscaled(
        self,
        image: np.ndarray,
        idr: np.ndarray | None,
        self_ensemble: bool,
        progress: Progress,
    ) -> np.ndarray:
        def upscaled(image: np.ndarray, dtype: np.dtype, progress: Progress):
            return self._fitted(image, progress, lambda run: run.upscale(dtype, idr))

        if not self_ensemble:
            return upscaled(image, image.dtype, progress)
        total: Any = np.float32(0)
        for index in range(8):

            def in_all(done: int, of: int, index: int = index) -> None:
                progress(index * of + done, 8 * of)

            turned = upscaled(_turned(image, index), np.dtype(np.float32), in_all)
            total = total + _turned_back(turned, index) / 8
        if image.dtype == np.float32:
            return total
        levels = np.iinfo(image.dtype).max
        return np.rint(total.clip(0, 1) * levels).astype(image.dtype)

    def estimate(self, image: np.ndarray) -> IDR:
        """The degradation that the network sees in a picture."""
        return self._fitted(_checked(image), _nothing, _Run.estimate)

    def _fitted(
        self, image: np.ndarray, progress: Progress, use: Callable[["_Run"], Result]
    ) -> Result:
        """What `use` makes of a run over the image, with tiles that fit into memory."""
        size = image.shape[:2]
        largest, storage = self._plan(size)
        while True:
            grid = Grid(size, largest, self._devices, storage=storage)
            try:
                with jax.default_matmul_precision("highest"):
                    run = _Run(
                        self._in_parts,
                        self._network,
                        self._variables,
                        grid,
                        image,
                        progress,
                    )
                    return use(run)
            except jax.errors.JaxRuntimeError as error:
                if "RESOURCE_EXHAUSTED" not in str(error):
                    raise
                if largest == SMALLEST and storage == "file":
                    raise UserError(
                        f"a picture of {size[1]} x {size[0]} pixels does not fit into "
                        f"memory even in tiles of {SMALLEST}: free some"
                    ) from error
            largest, storage = max(largest // 2, SMALLEST), "file"
            self._largest = largest  # for the pictures to come, too
            logging.warning("out of memory: going on in tiles of %d", largest)

    def _plan(self, size: tuple[int, int]) -> tuple[int, Storage]:
        """The largest tiles that fit into the budget, and where maps are kept.

        A file costs little where the system has memory to spare for it.
        """
        budget = self._memory or 0.7 * min(map(_free, self._devices))
        features = self._network.new_restorer().features
        itemsize = jnp.dtype(self._network.dtype).itemsize * features / _FEATURES
        # One array does not scatter a CPU's memory as thousands of tiles do.
        storage = "host" if self._devices[0].platform == "cpu" else "devices"
        maps = _map_bytes(size, itemsize) / len(self._devices)
        largest = self._largest
        for side in (largest, max(largest // 2, SMALLEST)):
            if maps + _tile_bytes(side, size, itemsize) <= budget:
                return side, storage
        while largest > SMALLEST and _tile_bytes(largest, size, itemsize) > budget:
            largest //= 2
        return largest, "file"


class _Run:
    """One image on its way through the network."""

    def __init__(
        self,
        in_parts: InParts,
        network: BlindNetwork,
        variables: dict[Device, dict[str, Any]],
        grid: Grid,
        image: np.ndarray,
        progress: Progress,
    ) -> None:
        self._network = network
        self._in_parts = in_parts
        self._grid = grid
        self._lr = grid.cut(_as_float(image))
        total = _stages(network, in_parts)
        self._parts = Tiles(network, variables, grid, progress, total)

    def upscale(self, dtype: np.dtype, other: np.ndarray | None) -> np.ndarray:
        """The SR image, by the image's own IDR or the mean of another one."""
        idr, mean = self.encode()
        if other is not None:
            mean = np.asarray(other, np.float32)
            for row in range(self._grid.rows):
                idr[row] = [jnp.broadcast_to(mean, x.shape) for x in idr[row]]
        modulators = self._in_parts.modulators(self._network, self._parts, idr, mean)
        del idr
        features = self._parts.map(stages.extracted, 1, self._lr, averaged=True)
        x = self._in_parts.body(self._network, self._parts, features, *modulators)
        del features, modulators
        return self._reconstructed(x, dtype)

    def estimate(self) -> IDR:
        """The image's degradation."""
        idr, mean = self.encode()
        height, width = self._grid.size
        modulators = self._in_parts.modulators(self._network, self._parts, idr, mean)
        channel, *maps = modulators
        spatial = maps[0].assembled()[:height, :width] if maps else None
        idr = idr.assembled()[: -(-height // 4), : -(-width // 4)]
        return IDR(idr, mean, channel[0], spatial)

    def encode(self) -> tuple[Map, np.ndarray]:
        """The IDR, every fourth LR pixel, and its mean [C]."""
        idr = self._parts.map(
            stages.estimated,
            self._network.reach,
            self._lr,
            averaged=True,
            every=IDR_STEP // self._network.REDUCTION,
        )
        return idr, self._parts.mean(idr)[0]

    def _reconstructed(self, x: Map, dtype: np.dtype) -> np.ndarray:
        scale = self._network.scale
        (height, width), (t, _) = self._grid.size, self._grid.tile
        sr = np.empty((height * scale, width * scale, 3), dtype)
        for row, tiles in self._parts.reconstructed(x, self._lr, dtype):
            strip = np.concatenate([np.asarray(x[0]) for x in tiles], 1)
            place = sr[row * t * scale : (row + 1) * t * scale]
            place[:] = strip[: len(place), : width * scale]
        return sr


def mirrored(image: np.ndarray, border: int) -> np.ndarray:
    """The image [h, w, C] with its mirror image, edge pixels twice, on all sides."""
    sides = ((border, border), (border, border), (0, 0))
    return np.pad(image, sides, mode="symmetric")


def _stages(network: BlindNetwork, in_parts: InParts) -> int:
    """How many stages an image goes through; three are common to all methods."""
    counter = Counter()
    modulators = in_parts.modulators(network, counter, None, None)
    in_parts.body(network, counter, None, *modulators)
    return 3 + counter.stages


def _checked(image: np.ndarray) -> np.ndarray:
    image = np.asarray(image)
    kinds = ("uint8", "uint16", "float32")
    if image.dtype.name not in kinds or image.ndim != 3 or image.shape[2] != 3:
        raise UserError(
            f"an image of {image.dtype} {image.shape}: expected [h, w, 3] of "
            f"{', '.join(kinds)}"
        )
    if not image.size:
        raise UserError(f"an image of {image.shape} has no pixels")
    return image


def _as_float(image: np.ndarray) -> np.ndarray:
    if image.dtype == np.float32:
        return image
    return image.astype(np.float32) / np.float32(np.iinfo(image.dtype).max)


def _turned(image: np.ndarray, index: int) -> np.ndarray:
    """One of the 8 flips and transpositions."""
    if index & 1:
        image = image[::-1]
    if index & 2:
        image = image[:, ::-1]
    return image.swapaxes(0, 1) if index & 4 else image


def _turned_back(image: np.ndarray, index: int) -> np.ndarray:
    if index & 4:
        image = image.swapaxes(0, 1)
    return _turned(image, index & 3)


def _nothing(done: int, total: int) -> None:
    pass


def _tile_bytes(side: int, size: tuple[int, int], itemsize: float) -> float:
    """About what a device takes to compute tiles of that side, beside the maps.

    The tile itself, and of inputs that are not on the device four rows of tiles; as
    measured about twice, since they are copied on the way.
    """
    rows = 4 * side * max(size[1], side) * _FEATURES * itemsize
    return 2 * (_TILE_FLOATS * side**2 * 4 + rows)


def _map_bytes(size: tuple[int, int], itemsize: float) -> float:
    """What the maps of an image take at once: two of features, R_s, IDR and LR."""
    return size[0] * size[1] * ((2 * _FEATURES + 2 * 8) * itemsize + 3 * 4)


def _free(device: Device) -> int:
    """Bytes that are free: of the device's own memory, or of the machine's."""
    statistics = device.memory_stats() or {}
    if "bytes_limit" in statistics:
        return statistics["bytes_limit"] - statistics["bytes_in_use"]
    return memory.available()
