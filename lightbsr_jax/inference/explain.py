"""The estimated degradation, as maps and as nearest known degradations.

The mean of the IDR finds the nearest known degradations: a bank holds the means of
bundled photographs, blurred and shrunk in known ways.
"""

import contextlib
import itertools
import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from lightbsr_jax import atomic
from lightbsr_jax.imaging import degradation, files, kernels, settings
from lightbsr_jax.imaging.degradation import Degradation
from lightbsr_jax.imaging.settings import Known
from lightbsr_jax.inference.upscaler import IDR, Upscaler

_SIDE = 320  # largest side of a map in the picture, in pixels
_GAP = 4
_CROP = 96  # LR pixels of the photographs in a bank


class Bank(NamedTuple):
    """Known degradations and the mean IDRs of N photographs under each."""

    known: list[Known]  # K
    means: np.ndarray  # [K, N, C]

    def nearest(self, mean: np.ndarray, count: int = 3) -> list[tuple[Known, float]]:
        """The known degradations nearest to a mean IDR [C], with their distances.

        The unit is the spread between photographs with the same degradation.
        """
        centres = self.means.mean(1)
        spread = np.sqrt(np.square(self.means - centres[:, None]).mean((0, 1)))
        differences = (centres - mean) / (spread + 1e-6 * spread.max() + 1e-12)
        distances = np.sqrt(np.square(differences).mean(1))
        order = np.argsort(distances, kind="stable")[:count]
        return [(self.known[i], float(distances[i])) for i in order]


def known_degradations(setting: settings.Name) -> list[Known]:
    """A grid over the degradations of a setting."""
    return list(settings.of(setting).known)


def make_bank(
    upscaler: Upscaler,
    known: list[Known],
    *,
    each: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
) -> Bank:
    """Makes the bank of a network, from bundled photographs.

    Each degradation is estimated inside of an `each()`.
    """
    side = _CROP * upscaler.scale
    photographs = []
    for _, path in files.find_images("scikit-image:test"):
        hr = files.read_rgb(path)
        top, left = ((n - side) // 2 for n in hr.shape[:2])
        photographs.append(hr[max(top, 0) :, max(left, 0) :][:side, :side])
    smallest = [min(hr.shape[i] for hr in photographs) for i in range(2)]
    height, width = (n // upscaler.scale * upscaler.scale for n in smallest)
    hr = np.stack([image[:height, :width] for image in photographs])  # [N, H, W, 3]
    shape = (len(hr), height // upscaler.scale, width // upscaler.scale, 3)
    noise = np.random.default_rng(0).standard_normal(shape, np.float32)
    means = []
    for one in known:
        theta = np.radians([one.theta])
        kernel = kernels.anisotropic(np.array([one.l1]), np.array([one.l2]), theta)
        applied = Degradation(
            np.repeat(kernel, len(hr), 0), np.full(len(hr), one.noise, np.float32)
        )
        lr = degradation.synthesise(hr, applied, noise, scale=upscaler.scale)
        with each():
            means.append([upscaler.estimate(image).mean for image in np.asarray(lr)])
    return Bank(known, np.array(means))


def picture(idr: IDR) -> np.ndarray:
    """Draws the IDR as a picture, uint8 [H, W, 3]: 3 x 3 maps.

    The first map shows the three largest principal components of the estimator's map as
    colours. The others show the eight channels of R_s in grey, or further principal
    components for networks without R_s. Each map is stretched to its own range.
    """
    maps = idr.spatial
    if maps is None:
        maps = _principal_components(idr.map, 11)[..., 3:]
        maps = maps.repeat(4, 0).repeat(4, 1)
    height, width = maps.shape[:2]
    shrink = min(1, _SIDE / max(height, width))
    size = max(round(width * shrink), 1), max(round(height * shrink), 1)
    # One at a time: each is as large as the picture.
    grey = (maps[..., channel] for channel in range(8))
    panels = itertools.chain([_principal_components(idr.map, 3)], grey)
    images = (Image.fromarray(_stretched(panel)).resize(size) for panel in panels)
    tiles = [np.asarray(image.convert("RGB")) for image in images]
    tiles = [np.pad(x, ((0, _GAP), (0, _GAP), (0, 0))) for x in tiles]
    rows = [np.concatenate(tiles[i : i + 3], 1) for i in (0, 3, 6)]
    return np.concatenate(rows)[:-_GAP, :-_GAP]


def write(path: Path, idr: IDR, nearest: list[tuple[Known, float]]) -> None:
    """Writes the maps to PATH.png and the numbers to PATH.json."""
    files.write_png(path.with_name(path.name + ".png"), picture(idr))
    numbers = {
        "nearest": [
            {**known._asdict(), "distance": distance} for known, distance in nearest
        ],
        "idr_mean": idr.mean.tolist(),
        "idr_channel": idr.channel.tolist(),
    }
    content = json.dumps(numbers, indent=1) + "\n"
    atomic.write_text(path.with_name(path.name + ".json"), content)


def _principal_components(idr: np.ndarray, count: int) -> np.ndarray:
    flat = idr.reshape(-1, idr.shape[-1]).astype(np.float64)
    flat = flat - flat.mean(0)
    _, components = np.linalg.eigh(flat.T @ flat)  # smallest first
    return (flat @ components[:, -count:][:, ::-1]).reshape(*idr.shape[:2], count)


def _stretched(panel: np.ndarray) -> np.ndarray:
    low, high = np.percentile(panel, (1, 99), axis=(0, 1))
    scaled = (panel - low) / np.maximum(high - low, 1e-12)
    return np.rint(255 * scaled.clip(0, 1)).astype(np.uint8)
