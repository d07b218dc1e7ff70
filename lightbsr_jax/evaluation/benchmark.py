"""The paper's evaluation protocol: high-resolution images in, PSNR and SSIM out.

Each image is cropped on the right and bottom to a multiple of the scale, degraded by
each case, restored, rounded to 0..255 and scored on luma without a border of `scale`
pixels. Kernels' angles are in degrees here, as the paper prints them.
"""

import hashlib
import math
import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from lightbsr_jax.errors import UserError
from lightbsr_jax.evaluation import published
from lightbsr_jax.imaging import degradation, files, kernels, metrics, resize
from lightbsr_jax.imaging.degradation import Degradation

# Low-resolution images [B, h, w, 3] in [0, 1] and what degraded them -> [B, H, W, 3]
# on the 0..255 scale, not rounded.
Restore = Callable[[Array, Degradation], Array]

CONVENTION = (
    "PSNR: luma difference with weights (65.738, 129.057, 25.064)/256, peak 255. "
    "SSIM: luma with weights (65.738, 129.057, 25.064)/255 + 16, 11x11 Gaussian window "
    "of 1.5, valid region. Both in float64 on images rounded to 0..255, border of "
    "`scale` pixels cut. HR cropped on the right and bottom to a multiple of the scale."
)

_SSIM_WINDOW = 11


class Case(NamedTuple):
    """A degradation to test, and its name."""

    label: str
    degradation: Degradation  # batch of 1


class Score(NamedTuple):
    """How well one image was restored from one case."""

    benchmark: str
    image: str
    case: str
    psnr: float  # dB
    ssim: float


class Restored(NamedTuple):
    """A score with its pixels, uint8 [H, W, 3]."""

    score: Score
    position: int  # of the image in its benchmark, from 0
    lr: np.ndarray
    sr: np.ndarray
    hr: np.ndarray


class _Image(NamedTuple):
    benchmark: str
    name: str
    position: int
    hr: np.ndarray


_Job = tuple[int, int]  # index of an image, index of a case


class _Batch(NamedTuple):
    jobs: list[_Job]
    size: int


def cases(
    setting: int,
    *,
    sigmas: Sequence[float] = published.SIGMAS,
    kernel_parameters: Sequence[tuple[float, float, float]] = published.KERNELS,
    noise_levels: Sequence[float] = published.NOISE_LEVELS,
) -> list[Case]:
    """The cases of setting 1 (`sigmas`) or 2 (each kernel at each noise level)."""
    if setting == 1:
        if min(sigmas, default=1) <= 0:
            raise UserError(f"sigmas {tuple(sigmas)}: each must be above 0")
        return [
            Case(
                published.isotropic_label(sigma),
                Degradation(kernels.isotropic(jnp.array([sigma])), jnp.zeros(1)),
            )
            for sigma in sigmas
        ]
    if setting == 2:
        for kernel in kernel_parameters:
            if np.shape(kernel) != (3,) or min(kernel[:2]) <= 0:
                raise UserError(
                    f"kernel {kernel}: expected (l1, l2, theta in degrees) with l1 and "
                    "l2 above 0"
                )
        if min(noise_levels, default=0) < 0:
            raise UserError(f"noise levels {tuple(noise_levels)}: none may be negative")
        return [
            Case(
                published.anisotropic_label(kernel, noise),
                Degradation(_anisotropic(kernel), jnp.array([float(noise)])),
            )
            for noise in noise_levels
            for kernel in kernel_parameters
        ]
    raise UserError(f"setting {setting}: there are 1 (isotropic) and 2 (anisotropic)")


def _anisotropic(kernel: tuple[float, float, float]) -> Array:
    l1, l2, degrees = (jnp.array([float(value)]) for value in kernel)
    return kernels.anisotropic(l1, l2, jnp.radians(degrees))


def bicubic(scale: int) -> Restore:
    """Bicubic upsampling, the paper's first row."""

    def restore(lr: Array, _: Degradation | None = None) -> Array:
        height, width = lr.shape[1:3]
        return 255 * resize.bicubic(lr, (height * scale, width * scale))

    return restore


def evaluate(
    restore: Restore,
    folders_or_images: Sequence[str | Path | tuple[str, np.ndarray]],
    cases: Sequence[Case],
    *,
    scale: int,
    batch_size: int = 8,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
    on_restored: Callable[[Restored], None] | None = None,
) -> list[Score]:
    """Scores of every image in every case, in the order of images, then cases.

    A folder is one benchmark, of its own name (or its parent's when it is called HR; a
    folder that has an HR inside means that). A single file and a (name, uint8
    [H, W, 3]) pair belong to the benchmark "images". All images are held in memory.
    Those of one size are restored together, `batch_size` at a time. The noise depends
    on the seed, the image's pixels and the case's label, on nothing else.

    on_progress gets the number of scores done and in all; on_restored gets the pixels,
    size by size.

    Raises FileNotFoundError, UserError or ImageError for a folder that is missing or
    holds no image, or an image that cannot be read or is too small to be scored.
    """
    if not cases:
        raise UserError("no degradation to measure: the list of cases is empty")
    if batch_size < 1:
        raise UserError(f"batch_size {batch_size}: must be 1 or more")
    images = [
        image._replace(hr=_cropped(image, scale)) for image in _read(folders_or_images)
    ]
    by_size = defaultdict(list)
    for index, image in enumerate(images):
        by_size[image.hr.shape].extend((index, case) for case in range(len(cases)))
    scores: dict[_Job, Score] = {}
    for jobs in by_size.values():
        for batch in _batches(jobs, batch_size):
            chosen = [(images[index], cases[case]) for index, case in batch.jobs]
            results = _score(restore, chosen, size=batch.size, scale=scale, seed=seed)
            for job, restored in zip(batch.jobs, results, strict=True):
                scores[job] = restored.score
                if on_restored is not None:
                    on_restored(restored)
            if on_progress is not None:
                on_progress(len(scores), len(images) * len(cases))
    return [scores[job] for job in sorted(scores)]


def _batches(jobs: list[_Job], batch_size: int) -> list[_Batch]:
    """The jobs in batches as even as can be, to be filled up to one common size."""
    size = math.ceil(len(jobs) / math.ceil(len(jobs) / batch_size))
    return [_Batch(jobs[i : i + size], size) for i in range(0, len(jobs), size)]


def _score(
    restore: Restore,
    chosen: list[tuple[_Image, Case]],
    *,
    size: int,
    scale: int,
    seed: int,
) -> list[Restored]:
    """Degrades, restores and scores images of one size as a batch of `size`."""
    filled = chosen + chosen[-1:] * (size - len(chosen))
    hr = np.stack([image.hr for image, _ in filled])  # [B, H, W, 3]
    applied = Degradation(
        np.concatenate([case.degradation.kernel for _, case in filled]),
        np.concatenate([case.degradation.noise_level for _, case in filled]),
    )
    noise = None
    if applied.noise_level.any():
        noise = np.stack(
            [_noise(image.hr, case, scale, seed) for image, case in filled]
        )
    lr = degradation.synthesise(hr, applied, noise, scale=scale)
    sr = restore(lr, applied)
    if sr.shape != hr.shape:
        raise ValueError(f"restored {lr.shape} to {sr.shape}, but HR is {hr.shape}")
    sr = metrics.quantise(sr)
    psnr = metrics.psnr_y(sr, hr, border=scale)
    ssim = metrics.ssim_y(sr, hr, border=scale)
    lr = np.rint(255 * np.asarray(lr)).astype(np.uint8)
    sr = np.asarray(sr).astype(np.uint8)
    return [
        Restored(
            Score(image.benchmark, image.name, case.label, float(p), float(s)),
            image.position,
            lr[row],
            sr[row],
            image.hr,
        )
        for row, ((image, case), p, s) in enumerate(
            zip(chosen, psnr[: len(chosen)], ssim[: len(chosen)], strict=True)
        )
    ]


def _noise(hr: np.ndarray, case: Case, scale: int, seed: int) -> np.ndarray:
    """Standard normal [h, w, 3], made on the host: the same on every backend."""
    digest = hashlib.sha256(hr.tobytes() + case.label.encode()).digest()
    generator = np.random.default_rng([seed, int.from_bytes(digest[:8], "little")])
    height, width = hr.shape[:2]
    return generator.standard_normal((height // scale, width // scale, 3), np.float32)


def _cropped(image: _Image, scale: int) -> np.ndarray:
    height, width = (side // scale * scale for side in image.hr.shape[:2])
    needed = math.ceil((_SSIM_WINDOW + 2 * scale) / scale) * scale
    if min(height, width) < needed:
        raise UserError(
            f"{image.name} of {image.benchmark} is {image.hr.shape[1]}x"
            f"{image.hr.shape[0]} pixels (width x height), too small to be scored at "
            f"scale {scale}: leave it out, each side needs {needed} pixels at least"
        )
    return image.hr[:height, :width]


def _read(
    folders_or_images: Sequence[str | Path | tuple[str, np.ndarray]],
) -> list[_Image]:
    images: list[_Image] = []
    folders: dict[str, Path] = {}
    singles = 0
    for item in folders_or_images:
        if not isinstance(item, tuple) and Path(item).is_file():
            item = (Path(item).name, files.read_rgb(item))
        if isinstance(item, tuple):
            name, hr = item
            if hr.dtype != np.uint8 or hr.ndim != 3 or hr.shape[2] != 3:
                raise ValueError(
                    f"{name} is {hr.dtype} {hr.shape}: expected uint8 [H, W, 3]"
                )
            images.append(_Image("images", name, singles, hr))
            singles += 1
            continue
        folder = Path(item, "HR") if Path(item, "HR").is_dir() else Path(item)
        absolute = Path(os.path.abspath(folder))
        benchmark = (absolute.parent if absolute.name == "HR" else absolute).name
        if benchmark in folders:
            raise UserError(
                f"{folders[benchmark]} and {folder} are both called {benchmark}: "
                "rename one, or measure them one after the other"
            )
        folders[benchmark] = folder
        names, paths = zip(*files.find_images(folder), strict=True)
        with ThreadPoolExecutor() as pool:
            pixels = list(pool.map(files.read_rgb, paths))
        for position, (name, hr) in enumerate(zip(names, pixels, strict=True)):
            images.append(_Image(benchmark, name, position, hr))
    if not images:
        raise UserError("nothing to measure: name a benchmark folder")
    return images
