"""Upscaling pictures of any size, exactly, within a memory budget.

    upscaler = Upscaler.load("runs/student")
    sr = upscaler(image)

Restoring the tiles of an image one by one would change the result, because converters
and some blocks pool over the whole image. Here all tiles pass one stage before the next
begins, and use means of the whole image. The result equals that of the whole image, up
to float rounding, for tiles of any size (see `stages`).

Images are [h, w, 3] RGB: uint8 in 0..255, uint16 in 0..65535 or float32 in [0, 1].
"""

import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypedDict, TypeVar, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from lightbsr_jax import target
from lightbsr_jax.errors import UserError
from lightbsr_jax.inference import blending, memory, stages
from lightbsr_jax.inference.blending import Blend
from lightbsr_jax.inference.in_tiles import Counter, Progress, Tiles
from lightbsr_jax.inference.tiles import (
    LARGEST,
    SMALLEST,
    Grid,
    Map,
    Storage,
    half_side,
    tile_sides,
)
from lightbsr_jax.methods.network import BlindNetwork
from lightbsr_jax.methods.parts import InParts
from lightbsr_jax.models import hub, packed
from lightbsr_jax.models.load import load_for_pictures
from lightbsr_jax.models.model import Model
from lightbsr_jax.spec import Sees
from lightbsr_jax.typed import Device

BORDER = 8  # LR pixels; more does not improve small flat pictures
IDR_STEP = 4  # distance of the stored pixels of the IDR, in LR pixels
_FEATURES = 64  # features of the network for which _TILE_FLOATS was measured
_TILE_FLOATS = 1000  # float32 numbers per pixel that the widest stage holds at once

Precision = Literal["auto", "float32", "bfloat16"]
Result = TypeVar("Result")


class IDR(NamedTuple):
    """The estimated degradation of a picture."""

    # [ceil(h/4), ceil(w/4), C], the output of the estimator, or every fourth pixel of
    # an output as large as the image.
    map: np.ndarray
    mean: np.ndarray  # [C], over the whole map
    channel: np.ndarray  # the modulating vector, such as R_c [48]
    spatial: np.ndarray | None  # the modulating map R_s [h, w, 8], if there is one


class Options(TypedDict, total=False):
    """The options of `Upscaler.__init__`."""

    memory: int | None
    precision: Precision
    devices: Sequence[Device] | None
    border: int


class Upscaler:
    """A trained student, ready for pictures of any size.

    With Pillow:

        upscaler = Upscaler.load()
        image = np.asarray(Image.open("photo.jpg").convert("RGB"))
        Image.fromarray(upscaler(image)).save("large.png")

    The attribute `scale` is the network's, 4 for the shipped weights.
    """

    def __init__(
        self,
        model: Model,
        *,
        memory: int | None = None,
        precision: Precision = "float32",
        devices: Sequence[Device] | None = None,
        border: int = BORDER,
    ) -> None:
        """Prepares a network for upscaling.

        memory: bytes for the maps on each device (default: most of the free memory).
        precision: of the network's arithmetic. On a CPU bfloat16 is only for the
            factors of products and convolutions, and only where the processor has a
            unit for them (AMX); elsewhere it is float32. "auto" is bfloat16 on such
            a processor, and float32 on all other devices.
        devices: devices that share the rows of a picture (default: the first device).
        border: pixels by which a picture is mirrored beyond its edges before it is
            restored, because networks pad with black; 0 restores as evaluation does.

        Raises UserError for a teacher, and if the reach of the estimator is too large.
        """
        if model.spec.sees is not Sees.NOTHING:
            raise UserError(
                f"a {model.spec.kind} needs the true degradation, which is unknown for "
                "pictures: upscale with its student (configs/student.py)"
            )
        if model.network.reach > SMALLEST:
            raise UserError(
                f"the estimator's reach is {model.network.reach} pixels, beyond a "
                f"neighbouring tile of {SMALLEST}: use Model.restore, without tiles"
            )
        self.scale = model.scale
        self._in_parts = model.method.in_parts
        self._devices = tuple(devices or jax.local_devices()[:1])
        self.precision = _supported(precision, self._devices[0])
        # On a CPU maps stay in float32: see `target.narrow_products`.
        on_cpu = self._devices[0].platform == "cpu"
        dtype = jnp.dtype("float32" if on_cpu else self.precision)
        self._network = model.network.clone(dtype=dtype)
        self._narrows = on_cpu and self.precision == "bfloat16"
        self._variables = {
            device: jax.device_put(model.variables, device) for device in self._devices
        }
        self._memory = memory
        self._border = border
        self._largest = LARGEST

    @classmethod
    def load(
        cls, source: str | Path = packed.DEFAULT, **options: Unpack[Options]
    ) -> "Upscaler":
        """Loads a network like `Model.load`, with the options of `__init__`.

        Without a source it takes the shipped weights for photographs.

        Raises UserError, which names the source, if the network is missing or needs
        more than the LR image.
        """
        return cls(load_for_pictures(source), **options)

    @classmethod
    def from_pretrained(
        cls,
        repository: str | Path,
        *,
        filename: str | None = None,
        revision: str | None = None,
        **options: Unpack[Options],
    ) -> "Upscaler":
        """Loads a network from the Hugging Face Hub ("owner/name"), or a local copy.

        The repository holds one file of `lightbsr pack` or a state dict
        (.safetensors), or several, of which `filename` names one. Options are those of
        `__init__`. See `models.hub.fetch` for `revision`, and for use without a
        connection.

        Raises UserError, which names the repository.
        """
        file = hub.fetch(repository, filename=filename, revision=revision)
        return cls(load_for_pictures(file), **options)

    def __repr__(self) -> str:
        kind = type(self._network).__name__
        device = self._devices[0].device_kind
        return f"<Upscaler: {kind}, x{self.scale}, {self.precision} on {device}>"

    def __call__(
        self,
        image: np.ndarray,
        *,
        idr: np.ndarray | None = None,
        self_ensemble: bool = False,
        strength: float = 1.0,
        on_progress: Progress | None = None,
    ) -> np.ndarray:
        """Upscales an RGB image [h, w, 3] to [h s, w s, 3], in the image's type.

        The type is uint8, uint16, or float32 for values in [0, 1]; results in float32
        are not clipped. The network uses the degradation that it estimates from the
        image, or the `idr` of another picture, its mean [C], for the whole image.
        `self_ensemble` averages the results of all 8 flips and transpositions.
        `strength` from 0 to 1 is the network's part of the result; the rest is bicubic
        interpolation. `on_progress` is called with the number of finished steps of work
        and the number of all. Raises UserError for another type, shape or strength, for
        an IDR of another size, and if even the smallest tiles do not fit into memory.
        """
        if idr is not None:
            idr = self._checked_idr(idr)
        blend = None
        if blending.check(strength) < 1:
            blend = Blend(
                _as_float(_checked(image)),
                scale=self.scale,
                strength=strength,
                border=self._border,
            )
        image = mirrored(_checked(image), self._border)
        beyond = self._border * self.scale
        progress = on_progress or _nothing
        sr = self._upscaled(image, idr, self_ensemble, blend, progress)
        return sr[beyond : len(sr) - beyond, beyond : sr.shape[1] - beyond]

    def _upscaled(
        self,
        image: np.ndarray,
        idr: np.ndarray | None,
        self_ensemble: bool,
        blend: Blend | None,
        progress: Progress,
    ) -> np.ndarray:
        def upscaled(
            image: np.ndarray,
            dtype: np.dtype,
            progress: Progress,
            blend: Blend | None = None,
        ) -> np.ndarray:
            return self._fitted(
                image, progress, lambda run: run.upscale(dtype, idr, blend)
            )

        if not self_ensemble:
            return upscaled(image, image.dtype, progress, blend)
        total: Any = np.float32(0)
        for index in range(8):

            def in_all(done: int, of: int, index: int = index) -> None:
                progress(index * of + done, 8 * of)

            turned = upscaled(_turned(image, index), np.dtype(np.float32), in_all)
            total = total + _turned_back(turned, index) / 8
        if blend is not None:
            return blend(total, 0, image.dtype)
        if image.dtype == np.float32:
            return total
        levels = np.iinfo(image.dtype).max
        return np.rint(total.clip(0, 1) * levels).astype(image.dtype)

    def checksum(self) -> int:
        """A number that tells networks apart: CRC-32 of weights and precision."""
        about = self.scale, self._network, self._narrows
        found = zlib.crc32(str(about).encode())
        for leaf in jax.tree.leaves(self._variables[self._devices[0]]):
            found = zlib.crc32(np.ascontiguousarray(leaf).tobytes(), found)
        return found

    def estimate(self, image: np.ndarray) -> IDR:
        """Estimates the degradation of an image, which is as for `__call__`.

        The `mean` of the result is the `idr` that `__call__` takes.
        """
        image = _checked(image)
        # In tiles as for upscaling, so that the same programs serve.
        planned = image.shape[0] + 2 * self._border, image.shape[1] + 2 * self._border
        return self._fitted(image, _nothing, _Run.estimate, planned)

    def _checked_idr(self, idr: np.ndarray) -> np.ndarray:
        """A mean IDR as float32. Raises UserError if it is not one of this network."""
        idr = np.asarray(idr, np.float32)
        if idr.shape != (self._idr_size,):
            raise UserError(
                f"an IDR of {list(idr.shape)} numbers: expected [{self._idr_size}], "
                "the mean of this network's own estimate"
            )
        return idr

    @cached_property
    def _idr_size(self) -> int:
        """Number of channels of the IDR."""
        variables = self._variables[self._devices[0]]
        encode = partial(self._network.apply, method="encode")
        lr = jax.ShapeDtypeStruct((1, SMALLEST, SMALLEST, 3), jnp.float32)
        idr: Any = jax.eval_shape(encode, variables, lr)
        return idr.shape[-1]

    @contextmanager
    def _arithmetic(self) -> Iterator[None]:
        """Context for the programs of a picture."""
        narrow = target.narrow_products() if self._narrows else nullcontext()
        with jax.default_matmul_precision("highest"), narrow:
            yield

    def _fitted(
        self,
        image: np.ndarray,
        progress: Progress,
        use: Callable[["_Run"], Result],
        planned: tuple[int, int] | None = None,
    ) -> Result:
        """Applies `use` to a run over the image, with tiles that fit into memory.

        The tiles are those of an image of the `planned` size (default: its own).
        """
        size = image.shape[:2]
        planned = planned or size
        largest, storage = self._plan(size)
        while True:
            tile = tile_sides(planned, largest)
            grid = Grid(size, tile, self._devices, storage=storage)
            try:
                with self._arithmetic():
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
                        f"memory even in tiles of {SMALLEST}: free some memory"
                    ) from error
            largest, storage = half_side(largest), "file"
            self._largest = largest  # for later pictures, too
            logging.warning("out of memory: retrying in tiles of %d", largest)

    def _plan(self, size: tuple[int, int]) -> tuple[int, Storage]:
        """Chooses the largest tiles that fit into the budget, and the place of maps.

        A file is fast if the system has spare memory to cache it.
        """
        budget = self._memory
        if budget is None:
            budget = 0.7 * min(map(_free, self._devices))
        wide = self._network.new_restorer().features / _FEATURES
        itemsize = jnp.dtype(self._network.dtype).itemsize
        maps = _map_bytes(size, itemsize, wide)
        # On a CPU, one array fragments memory less than thousands of tiles.
        on_host = self._devices[0].platform == "cpu"
        storage = "host" if on_host else "devices"
        devices = 1 if on_host else len(self._devices)  # a CPU's have one memory
        largest = self._largest
        for side in (largest, half_side(largest)):
            share = _largest_share(size, side, devices)
            if share * maps + _tile_bytes(side, size, itemsize, wide) <= budget:
                return side, storage
        while (
            largest > SMALLEST and _tile_bytes(largest, size, itemsize, wide) > budget
        ):
            largest = half_side(largest)
        return largest, "file"


class _Run:
    """The pass of one image through the network."""

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

    def upscale(
        self, dtype: np.dtype, other: np.ndarray | None, blend: Blend | None
    ) -> np.ndarray:
        """The SR image, with its own IDR or the mean IDR of another image; blended."""
        idr, mean = self.encode() if other is None else self._given(other)
        modulators = self._in_parts.modulators(self._network, self._parts, idr, mean)
        del idr
        features = self._parts.map(stages.extracted, 1, self._lr, averaged=True)
        x = self._in_parts.body(self._network, self._parts, features, *modulators)
        del features, modulators
        return self._reconstructed(x, dtype, blend)

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

    def _given(self, mean: np.ndarray) -> tuple[Map, np.ndarray]:
        """A mean IDR as that of the whole image, in place of `encode`."""
        tile = [n // IDR_STEP for n in self._grid.tile]
        idr = Map(self._grid)
        for row in range(self._grid.rows):
            x = jax.device_put(mean, self._grid.device(row))
            x = jnp.broadcast_to(x, (1, *tile, len(mean)))
            idr[row] = [x] * self._grid.columns
        self._parts.skip()
        return idr, mean

    def _reconstructed(
        self, x: Map, dtype: np.dtype, blend: Blend | None
    ) -> np.ndarray:
        scale = self._network.scale
        (height, width), (t, _) = self._grid.size, self._grid.tile
        sr = np.empty((height * scale, width * scale, 3), dtype)
        computed = dtype if blend is None else np.dtype(np.float32)
        for row, tiles in self._parts.reconstructed(x, self._lr, computed):
            strip = np.concatenate([np.asarray(x[0]) for x in tiles], 1)
            first = row * t * scale
            place = sr[first : first + t * scale]
            strip = strip[: len(place), : width * scale]
            place[:] = strip if blend is None else blend(strip, first, dtype)
        return sr


def mirrored(image: np.ndarray, border: int) -> np.ndarray:
    """Pads the image [h, w, C] with its mirror image on all sides, edges repeated."""
    sides = ((border, border), (border, border), (0, 0))
    return np.pad(image, sides, mode="symmetric")


def _stages(network: BlindNetwork, in_parts: InParts) -> int:
    """Number of stages of an image; three of them are common to all methods."""
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
    # JAX takes the machine's byte order alone.
    return image.astype(image.dtype.newbyteorder("="), copy=False)


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


def _supported(precision: Precision, device: Device) -> Precision:
    """The precision to use: float32 where bfloat16 would not be faster."""
    on_cpu = device.platform == "cpu"
    if on_cpu and not target.multiplies_bfloat16():
        return "float32"
    if precision == "auto":
        return "bfloat16" if on_cpu else "float32"
    return precision


def _nothing(done: int, total: int) -> None:
    pass


def _tile_bytes(side: int, size: tuple[int, int], itemsize: int, wide: float) -> float:
    """Estimated bytes that a device needs for tiles of that side, without the maps.

    They are those of the tile, and of four rows of tiles for inputs that are not on the
    device. Measurements show twice as much, because inputs are copied. The network has
    `wide` times _FEATURES.
    """
    rows = 4 * side * max(size[1], side) * _FEATURES * itemsize
    return 2 * wide * (_TILE_FLOATS * side**2 * 4 + rows)


def _map_bytes(size: tuple[int, int], itemsize: int, wide: float) -> float:
    """Bytes of an image's maps at one time: two of features, R_s, IDR and LR."""
    return size[0] * size[1] * ((2 * _FEATURES + 2 * 8) * itemsize * wide + 3 * 4)


def _largest_share(size: tuple[int, int], largest: int, devices: int) -> float:
    """The part of an image's maps on the device with the most rows of tiles."""
    rows = -(-size[0] // tile_sides(size, largest)[0])
    return -(-rows // devices) / rows


def _free(device: Device) -> int:
    """Free bytes of the device's own memory, or of the machine's."""
    statistics = device.memory_stats() or {}
    if "bytes_limit" in statistics:
        return statistics["bytes_limit"] - statistics["bytes_in_use"]
    return memory.available()
