"""The paper's evaluation protocol: high-resolution images in, PSNR and SSIM out.

Each image is cropped on the right and bottom to a multiple of the scale, degraded by
each case, restored, rounded to 0..255 and scored on luma, with a border of `scale`
pixels cut off.

No score depends on the batch size, on the order or on the number of devices and hosts:
images are not padded, the host draws noise from the image and the case, and the host
computes scores in float64.
"""

import hashlib
import math
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lightbsr_jax import target
from lightbsr_jax.compilation import inference_jit
from lightbsr_jax.errors import UserError
from lightbsr_jax.evaluation.cases import Case
from lightbsr_jax.evaluation.images import (
    TestImage,
    check_size,
    find,
    read_hr,
    read_lr,
)
from lightbsr_jax.evaluation.lpips import LPIPS, PIXELS
from lightbsr_jax.evaluation.niqe import niqe
from lightbsr_jax.evaluation.restorers import Restorer
from lightbsr_jax.imaging import metrics, synthesis
from lightbsr_jax.imaging.synthesis import Known
from lightbsr_jax.typed import ArrayLike

_AXIS = "images"
_FUNCTIONS = {  # PSNR and SSIM by channels
    "y": (metrics.psnr_y, metrics.ssim_y),
    "rgb": (metrics.psnr_rgb, metrics.ssim_rgb),
}
_T = TypeVar("_T")
_Pixels = tuple[Array, dict[str, Array]]  # LR, and SR by method: uint8 [B, ...]


class Measures(NamedTuple):
    """The convention of PSNR and SSIM; the paper's by default."""

    channels: str = "y"  # luma, or "rgb": all three together
    border: int | None = None  # pixels cut on each side; None: the scale

    def are_the_papers(self, scale: int) -> bool:
        """Returns whether the figures can stand beside the paper's."""
        return self.channels == "y" and self.cut(scale) == scale

    def cut(self, scale: int) -> int:
        """The border in pixels."""
        return scale if self.border is None else self.border


PAPERS = Measures()


_SCORED = {
    "y": "PSNR: luma difference with weights (65.738, 129.057, 25.064)/256, peak 255. "
    "SSIM: luma with weights (65.738, 129.057, 25.064)/255 + 16, 11x11 Gaussian "
    "window of 1.5, valid region. Both in float64 on images rounded to 0..255, "
    "border of {} pixels cut. HR cropped on the right and bottom to a multiple of {}.",
    "rgb": "PSNR: all three channels of RGB together, peak 255. SSIM: mean over the "
    "channels, 11x11 Gaussian window of 1.5, valid region. Both in float64 on images "
    "rounded to 0..255, border of {} pixels cut. HR cropped on the right and bottom to "
    "a multiple of {}.",
}
_MEANINGS = {
    "niqe": "NIQE: on luma rounded to whole numbers, the same border cut, blocks of 96 "
    "pixels; lower is better.",
    "lpips": "LPIPS (version 0.1, {}): RGB, whole images; lower is better.",
}


def convention(
    scale: int,
    beside: Mapping[str, str] = MappingProxyType({}),
    measures: Measures = PAPERS,
) -> str:
    """A description of how PSNR and SSIM are computed, and "niqe" and "lpips" if given.

    The values of `beside` say more, such as which network LPIPS is of.
    """
    text = _SCORED[measures.channels].format(measures.cut(scale), scale)
    return " ".join([text, *(_MEANINGS[name].format(beside[name]) for name in beside)])


class Score(NamedTuple):
    """PSNR and SSIM of one image restored by one method in one case."""

    method: str
    benchmark: str
    image: str
    case: str
    psnr: float  # dB
    ssim: float
    niqe: float | None = None  # where it was asked for, and the image is large enough
    lpips: float | None = None  # where it was asked for


class Beside(NamedTuple):
    """Measures beside PSNR and SSIM."""

    niqe: bool = False
    lpips: LPIPS | None = None

    @property
    def names(self) -> dict[str, str]:
        """The measures for `convention`, with their details."""
        names = {"niqe": ""} if self.niqe else {}
        return names | ({"lpips": self.lpips.name} if self.lpips else {})

    @property
    def least(self) -> int:
        """The pixels that each side of an image needs for them."""
        return PIXELS if self.lpips else 0


_NOTHING_BESIDE = Beside()
_FIGURES = ("psnr", "ssim", "niqe", "lpips")  # of a Score


class Restored(NamedTuple):
    """An image in one case, uint8 [H, W, 3] in all versions, and its scores."""

    benchmark: str
    image: str
    case: str
    position: int  # of the image in its benchmark, from 0
    lr: np.ndarray
    hr: np.ndarray
    sr: dict[str, np.ndarray]  # by method
    scores: dict[str, Score]  # by method

    @property
    def images(self) -> dict[str, np.ndarray]:
        """All versions by name, from LR to HR."""
        return {"LR": self.lr, **self.sr, "HR": self.hr}


class _Planned(NamedTuple):
    """An image to be restored in a case, not yet read."""

    place: tuple[int, int]  # among the images, among the cases
    image: TestImage
    case: Case
    shape: tuple[int, ...]  # of HR as it is measured
    given: bool  # whether LR is read


class _Job(NamedTuple):
    """An image to be restored in a case."""

    place: tuple[int, int]  # among the images, among the cases
    image: TestImage
    case: Case
    hr: np.ndarray
    lr: np.ndarray | None  # only if LR images are given


class _Batch(NamedTuple):
    """Images of one size [B, ...] for the devices; unused fields are None."""

    hr: np.ndarray  # uint8
    lr: np.ndarray | None  # uint8, if it is given
    degradation: Known | None
    noise: np.ndarray | None  # `synthesis.randomness`


def evaluate(
    restorers: Mapping[str, Restorer],
    folders_or_images: Sequence[str | Path | tuple[str, np.ndarray] | TestImage],
    cases: Sequence[Case],
    *,
    scale: int,
    batch_size: int = 8,
    seed: int = 0,
    lr_folder: str | Path | None = None,
    share: bool = False,
    beside: Beside = _NOTHING_BESIDE,
    measures: Measures = PAPERS,
    on_progress: Callable[[int, int], None] | None = None,
    on_restored: Callable[[Restored], None] | None = None,
) -> list[Score]:
    """Scores of every method, image and case, nested in this order.

    `images.find` explains folders and images. Each file is read twice: all of them once
    at the start, so that mistakes are found then, and again when its turn comes, so
    that few are in memory.

    Images of one size are restored together, `batch_size` at a time on each device, by
    one program that degrades them and restores them by every method: one compilation
    per size. The noise depends only on the seed, the image's pixels and the case's
    label. With `lr_folder` the low-resolution images are read from `lr_path` instead.

    `beside` adds figures beside PSNR and SSIM.

    With `share` all processes of a distributed run must call this: each measures its
    share of the images, and all get all scores. on_progress receives the numbers of
    finished and of all pairs of image and case, on_restored receives the pixels, size
    by size; both cover only the share of this process.

    Raises FileNotFoundError, UserError or ImageError if a folder is missing or empty,
    or if an image is unreadable or has the wrong size.
    """
    if not cases:
        raise UserError("no degradation to measure: the list of cases is empty")
    if batch_size < 1:
        raise UserError(f"batch_size {batch_size}: must be 1 or more")
    if lr_folder is None and any(case.degradation is None for case in cases):
        raise UserError(
            "a case without a degradation needs low-resolution images: give "
            "--lr-dir=FOLDER"
        )
    images = find(folders_or_images, scale=scale)
    own = list(enumerate(images))
    if share:
        own = own[jax.process_index() :: jax.process_count()]
    reader = _Reader(scale, lr_folder, measures.cut(scale), beside.least)
    jobs = reader.plan(own, cases)
    table = np.zeros((len(images), len(cases), len(restorers), len(_FIGURES)))
    done = 0
    with ThreadPoolExecutor() as pool:
        # The devices work on a batch while the host scores the previous one.
        launched = _ahead(
            _launch(
                restorers,
                jobs,
                reader.read,
                scale=scale,
                batch_size=batch_size,
                seed=seed,
            )
        )
        score = partial(_score, scale=scale, measures=measures, beside=beside)
        scoring = _score_batches(launched, pool, list(restorers), score)
        for futures in _ahead(scoring):
            for place, restored in (future.result() for future in futures):
                table[place] = [_numbers(restored.scores[name]) for name in restorers]
                if on_restored is not None:
                    on_restored(restored)
            done += len(futures)
            if on_progress is not None:
                on_progress(done, len(jobs))
    if share and jax.process_count() > 1:
        table = _of_all_processes(table)
    return [
        Score(method, image.benchmark, image.name, case.label, *map(_known, figures))
        for column, method in enumerate(restorers)
        for image, row in zip(images, table[:, :, column], strict=True)
        for case, figures in zip(cases, row, strict=True)
    ]


def _launch(
    restorers: Mapping[str, Restorer],
    jobs: Sequence[_Planned],
    read: Callable[[_Planned], _Job],
    *,
    scale: int,
    batch_size: int,
    seed: int,
) -> Iterator[tuple[list[_Job], _Pixels]]:
    """Starts one batch after the other; yields its jobs and the pending (lr, sr).

    A batch holds images of one size, and all batches of a size have the same length.
    """
    mesh = Mesh(np.array(jax.local_devices()), _AXIS)
    weights = jax.device_put(dict(restorers), NamedSharding(mesh, PartitionSpec()))
    # All batches have noise or none has, so that each size needs one program.
    noisy = any(_has_noise(job) for job in jobs)
    by_size = defaultdict(list)
    for job in jobs:
        by_size[job.shape].append(job)
    devices = len(mesh.devices)
    for group in by_size.values():
        calls = math.ceil(len(group) / (batch_size * devices))
        size = devices * math.ceil(len(group) / (calls * devices))
        for start in range(0, len(group), size):
            chunk = [read(job) for job in group[start : start + size]]
            filled = chunk + chunk[-1:] * (size - len(chunk))
            batch = _batch(filled, scale=scale, seed=seed, noisy=noisy)
            batch = jax.device_put(batch, NamedSharding(mesh, PartitionSpec(_AXIS)))
            yield chunk, _restore(weights, batch, mesh=mesh, scale=scale)


@partial(inference_jit, static_argnames=("mesh", "scale"))
def _restore(
    restorers: dict[str, Restorer], batch: _Batch, *, mesh: Mesh, scale: int
) -> _Pixels:
    """LR images, and SR images by each method; each device computes its share."""

    def on_device(restorers: dict[str, Restorer], batch: _Batch) -> _Pixels:
        if target.platform() != "cpu":
            return _restore_share(restorers, batch, scale=scale)

        # On a CPU, restoring images one by one is faster, and the bits of the result do
        # not depend on the length of the batch.
        def one(image: _Batch) -> _Pixels:
            alone = jax.tree.map(lambda x: x[None], image)
            restored = _restore_share(restorers, alone, scale=scale)
            return jax.tree.map(lambda x: x[0], restored)

        return lax.map(one, batch)

    # Use float32: by default recent GPUs multiply in TF32, and TPUs in bfloat16.
    with jax.default_matmul_precision("highest"):
        return jax.shard_map(
            on_device,
            mesh=mesh,
            in_specs=(PartitionSpec(), PartitionSpec(_AXIS)),
            out_specs=PartitionSpec(_AXIS),
            check_vma=False,
        )(restorers, batch)


def _restore_share(
    restorers: dict[str, Restorer], batch: _Batch, *, scale: int
) -> _Pixels:
    if batch.lr is not None:
        lr = batch.lr.astype(jnp.float32) / 255
    else:
        assert batch.degradation is not None
        lr = synthesis.synthesise(batch.hr, batch.degradation, batch.noise, scale=scale)
    size = (lr.shape[1] * scale, lr.shape[2] * scale)
    sr = {}
    for name, restorer in restorers.items():
        restored = restorer.restore(lr, batch.degradation, batch.hr)
        if restored.shape[1:3] != size:
            raise ValueError(f"{name} restored {lr.shape} to {restored.shape}")
        sr[name] = _to_uint8(restored)
    return _to_uint8(255 * lr), sr


def _to_uint8(images: ArrayLike) -> Array:
    return metrics.quantise(images).astype(jnp.uint8)


def _has_noise(job: _Planned) -> bool:
    tested = job.case.degradation
    return not job.given and tested is not None and synthesis.is_random(tested)


def _batch(jobs: list[_Job], *, scale: int, seed: int, noisy: bool) -> _Batch:
    lr = [job.lr for job in jobs if job.lr is not None]
    known = [
        synthesis.settled(job.case.degradation, _generator(job, seed, "degradation"))
        for job in jobs
        if job.case.degradation is not None
    ]
    return _Batch(
        hr=np.stack([job.hr for job in jobs]),
        lr=np.stack(lr) if lr else None,
        degradation=jax.tree.map(lambda *parts: np.concatenate(parts), *known)
        if known
        else None,
        noise=np.stack([_noise(job, scale, seed) for job in jobs]) if noisy else None,
    )


def _noise(job: _Job, scale: int, seed: int) -> np.ndarray:
    """Random numbers [h, w, 3] or [2], drawn on the host, equal on every backend."""
    assert job.case.degradation is not None
    height, width = job.hr.shape[:2]
    shape = (height // scale, width // scale, 3)
    return synthesis.randomness(job.case.degradation, _generator(job, seed), shape)


def _generator(job: _Job, seed: int, use: str = "") -> np.random.Generator:
    """The random generator for one use of an image in a case: noise or degradation."""
    digest = hashlib.sha256(job.hr.tobytes() + (job.case.label + use).encode()).digest()
    return np.random.default_rng([seed, int.from_bytes(digest[:8], "little")])


def _ahead(items: Iterator[_T]) -> Iterator[_T]:
    """Yields each item after the next one has been made, so that two are under way."""
    waiting = deque()
    for item in items:
        waiting.append(item)
        if len(waiting) > 1:
            yield waiting.popleft()
    yield from waiting


def _score_batches(
    launched: Iterator[tuple[list[_Job], _Pixels]],
    pool: ThreadPoolExecutor,
    names: Sequence[str],
    score: Callable[..., tuple[tuple[int, int], Restored]],
) -> Iterator[list[Future]]:
    """Starts the scoring of each batch in `pool`; yields a future for each image."""
    for chunk, results in launched:
        lr, sr = jax.device_get(results)  # waits for the devices
        yield [
            pool.submit(score, job, lr[row], {name: sr[name][row] for name in names})
            for row, job in enumerate(chunk)
        ]


def _score(
    job: _Job,
    lr: np.ndarray,
    sr: dict[str, np.ndarray],
    *,
    scale: int,
    measures: Measures,
    beside: Beside,
) -> tuple[tuple[int, int], Restored]:
    benchmark, name, position, _ = job.image
    label, border = job.case.label, measures.cut(scale)
    psnr, ssim = _FUNCTIONS[measures.channels]
    scores = {
        method: Score(
            method,
            benchmark,
            name,
            label,
            float(psnr(image[None], job.hr[None], border=border)[0]),
            float(ssim(image[None], job.hr[None], border=border)[0]),
            _known(niqe(image, border=border)) if beside.niqe else None,
            beside.lpips(image, job.hr) if beside.lpips else None,
        )
        for method, image in sr.items()
    }
    restored = Restored(benchmark, name, label, position, lr, job.hr, sr, scores)
    return job.place, restored


def _numbers(score: Score) -> list[float]:
    """The figures in one row of an array; NaN for unknown ones."""
    values = (getattr(score, name) for name in _FIGURES)
    return [math.nan if value is None else value for value in values]


def _known(figure: float) -> Any:
    """The figure, or None for NaN. (PSNR and SSIM are never NaN.)"""
    return None if math.isnan(figure) else float(figure)


def _of_all_processes(table: np.ndarray) -> np.ndarray:
    """The sum of all processes' float64 tables, which are zero for others' images."""
    bits = multihost_utils.process_allgather(table.view(np.uint32))
    return np.asarray(bits).view(np.float64).sum(0)


class _Reader:
    """Reads images and their LR images, cropped for a scale."""

    def __init__(
        self, scale: int, lr_folder: str | Path | None, border: int, least: int = 0
    ) -> None:
        self._scale, self._lr_folder = scale, lr_folder
        self._limits = {"scale": scale, "border": border, "least": least}
        self._last = -1, np.empty(0)  # number of an image, and its pixels

    def plan(
        self, images: Sequence[tuple[int, TestImage]], cases: Sequence[Case]
    ) -> list[_Planned]:
        """Reads the numbered images once; plans each image in each case."""

        def read(item: tuple[int, TestImage]) -> list[_Planned]:
            index, image = item
            hr = self._read_hr(image)
            planned = []
            for column, case in enumerate(cases):
                lr, shape = self._read_lr(image, case, hr), hr.shape
                if lr is not None:
                    shape = self._seen(hr, lr).shape
                    check_size(image, shape, **self._limits)
                place = (index, column)
                planned.append(_Planned(place, image, case, shape, lr is not None))
            return planned

        with ThreadPoolExecutor() as pool:
            return [job for jobs in pool.map(read, images) for job in jobs]

    def read(self, job: _Planned) -> _Job:
        """Raises UserError if the file has changed since it was planned."""
        index, hr = self._last
        if index != job.place[0]:  # the cases of an image follow one another
            hr = self._read_hr(job.image)
            self._last = job.place[0], hr
        lr = self._read_lr(job.image, job.case, hr)
        seen = hr if lr is None else self._seen(hr, lr)
        if seen.shape != job.shape:
            raise UserError(
                f"the size of {job.image.name} of {job.image.benchmark} has changed "
                "during the evaluation: start again"
            )
        return _Job(job.place, job.image, job.case, seen, lr)

    def _read_hr(self, image: TestImage) -> np.ndarray:
        return read_hr(image, **self._limits)

    def _read_lr(
        self, image: TestImage, case: Case, hr: np.ndarray
    ) -> np.ndarray | None:
        if self._lr_folder is None:
            return None
        return read_lr(self._lr_folder, image, case, hr=hr, scale=self._scale)

    def _seen(self, hr: np.ndarray, lr: np.ndarray) -> np.ndarray:
        """The part of HR that LR shows."""
        return hr[: lr.shape[0] * self._scale, : lr.shape[1] * self._scale]
