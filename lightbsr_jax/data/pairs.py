"""Real pairs: LR images of the same names as HR images, instead of made ones.

A pair is taken as it is: its crops lie at the same place of the scene, at multiples of
the scale. Names and sizes are checked when a run begins; that LR and HR show the scene
at the same place, when a pair is first read.
"""

import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from lightbsr_jax.data.pipeline import CropBatches, Places, Sampler, turned
from lightbsr_jax.data.sources import ImageFolders, PreparedImages
from lightbsr_jax.errors import UserError
from lightbsr_jax.imaging import files, layouts

_NAMED = 3  # messages about many images name so many of them
_MOST_CROPPED = 12  # HR pixels: published pairs are cropped to multiples of up to that
_FARTHEST = 3  # LR pixels that a misplaced image is looked for
_TOLERATED = 1  # LR pixels: less is the business of real lenses
_BETTER = 0.02  # by so much a misplacement correlates better than none

Source = ImageFolders | PreparedImages


class Mixed(NamedTuple):
    """Crops of pairs and of images to be degraded; a row is one image's."""

    hr: Any  # uint8 [B, D, H, W, 3]
    lr: Any  # uint8 [B, D, h, w, 3]; zeros where `paired` is false
    paired: Any  # bool [B]


class Pairs:
    """The HR images of a source that have LR images, in the source's order.

    `sizes` int [N, 2] are those of the LR images; `fingerprint` tells what is there.
    A pair that cannot be read, or that shows two things, is left out from then on, and
    named in `skipped` with the reason.
    """

    sizes: np.ndarray
    fingerprint: str
    skipped: dict[str, str]

    def __init__(
        self, source: Source, folders: str, *, scale: int, minimum: int, every: bool
    ) -> None:
        """`folders` are of LR images, separated by commas; `minimum` is a crop's side.

        With `every` all HR images must have one. Raises UserError that names the images
        without a partner, or whose sizes do not fit; FileNotFoundError, ImageError.
        """
        self._source, self._folders, self._scale = source, folders, scale
        self._lock = threading.Lock()
        self._aligned: set[int] = set()
        self.skipped = {}
        lr = _by_name(folders)
        found = {i: _partner(lr, name, scale) for i, name in enumerate(source.names)}
        _check_partners(source, folders, lr, found, every=every)
        self._pairs = [(i, path) for i, path in found.items() if path is not None]
        self._check_sizes(minimum)
        text = "".join(f"{source.names[i]} {self.sizes[n]}\n" for n, i in self._indices)
        self.fingerprint = hashlib.sha256(text.encode()).hexdigest()[:16]

    def __len__(self) -> int:
        return len(self._pairs)

    @property
    def _indices(self) -> Iterator[tuple[int, int]]:
        """The places among the pairs, and those in the source."""
        return ((n, index) for n, (index, _) in enumerate(self._pairs))

    def crops(
        self, place: int, tops: np.ndarray, lefts: np.ndarray, size: int
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """HR [D, s size, s size, 3] and LR crops [D, size, size, 3], uint8, or None.

        Places are in LR pixels. None for a pair that is left out; UserError once all
        are, and as the source raises it.
        """
        index, path = self._pairs[place]
        if str(path) in self.skipped:
            return None
        try:
            lr = files.read_rgb(path)
            if lr.shape[:2] != tuple(self.sizes[place]):
                raise files.ImageError(f"{path} has another size than at the start")
            if place not in self._aligned:
                self._check_alignment(place, lr)
        except (files.ImageError, OSError) as error:
            self._skip(path, str(error))
            return None
        s = self._scale
        hr = self._source.crops(index, s * tops, s * lefts, s * size)
        if hr is None:
            self._skip(path, f"{path}: its HR image cannot be read")
            return None
        cut = [
            lr[top : top + size, left : left + size]
            for top, left in zip(tops, lefts, strict=True)
        ]
        return hr, np.stack(cut)

    def _check_sizes(self, minimum: int) -> None:
        """Sets `sizes`; raises UserError where one does not fit."""
        sizes, problems = [], []
        for index, path in self._pairs:
            lr, hr = files.image_size(path), self._source.sizes[index]
            missing = [h // self._scale - low for h, low in zip(hr, lr, strict=True)]
            if min(missing) < 0 or max(missing) > _MOST_CROPPED // self._scale:
                problems.append(
                    f"{path} is {lr[1]}x{lr[0]} pixels and {self._source.names[index]} "
                    f"{hr[1]}x{hr[0]}, not {self._scale} times that"
                )
            elif min(lr) < minimum:
                problems.append(
                    f"{path} is {lr[1]}x{lr[0]} pixels, a side is below the crop's "
                    f"{minimum}"
                )
            sizes.append(lr)
        if problems:
            raise UserError(
                f"config.data.lr={self._folders}: {_some(problems, '; ')}. Mend or "
                "remove these pairs, or take the scale that fits (config.scale)"
            )
        self.sizes = np.array(sizes).reshape(-1, 2)

    def _check_alignment(self, place: int, lr: np.ndarray) -> None:
        """Raises ImageError where the HR image shows the scene elsewhere."""
        index, path = self._pairs[place]
        hr = self._source[index]
        if hr is not None:
            away = misplacement(lr, hr, self._scale)
            if max(map(abs, away)) > _TOLERATED:
                raise files.ImageError(
                    f"{path} lies {away[0]} LR pixels lower and {away[1]} further "
                    f"right than its HR image {self._source.names[index]}"
                )
        self._aligned.add(place)

    def _skip(self, path: Path, reason: str) -> None:
        with self._lock:
            if str(path) not in self.skipped:
                self.skipped[str(path)] = reason
                logging.warning("left out from now on: %s", reason)
        if len(self.skipped) == len(self._pairs):
            reasons = _some(list(self.skipped.values()), "; ")
            raise UserError(
                f"config.data.lr={self._folders}: no pair is left ({reasons})"
            )


class PairedBatches(CropBatches):
    """An endless iterator of `Mixed` crops: pairs, and images to be degraded.

    Whether a row is a pair follows from the seed, the batch and the row. Where not, it
    is what `CropBatches` has there.
    """

    def __init__(
        self,
        source: Source,
        sampler: Sampler,
        pairs: Pairs,
        paired: Sampler,
        *,
        share: float,
        threads: int,
        transfer: Callable[[Any], Any] = lambda crops: crops,
    ) -> None:
        """`paired` draws LR places of pairs; `share` of all rows are pairs."""
        self._pairs, self._paired, self._share = pairs, paired, share
        super().__init__(source, sampler, threads=threads, transfer=transfer)

    def _row(self, index: int) -> Any:
        batch, row = divmod(index, self._sampler.rows)
        size = self._paired.size
        if not self._paired.chooses(batch, row, self._share):
            hr = super()._row(index)
            lr = np.zeros((len(hr), size, size, 3), np.uint8)
            return Mixed(hr, lr, np.bool_(False))
        places: Places = self._paired.places(batch)
        drawn = (int(places.images[row]), places.tops[row], places.lefts[row])
        for image, tops, lefts in self._paired.tries(drawn, batch, row):
            crops = self._pairs.crops(image, tops, lefts, size)
            if crops is not None:
                hr, lr = (turned(x, places.turns[row]) for x in crops)
                return Mixed(hr, lr, np.bool_(True))
        raise AssertionError("tries end with an error, not by themselves")


def misplacement(lr: np.ndarray, hr: np.ndarray, scale: int) -> tuple[int, int]:
    """The pixels by which an LR image shows its scene lower and further right.

    Measured against the HR image; (0, 0) unless another place correlates much better.
    Images are uint8 [h, w, 3].
    """
    height, width = lr.shape[:2]
    if min(height, width) <= 4 * _FARTHEST:
        return 0, 0
    small = _grey(hr[: height * scale, : width * scale])
    small = small.reshape(height, scale, width, scale).mean((1, 3))
    large = _grey(lr)
    margin = _FARTHEST
    inner = small[margin : height - margin, margin : width - margin]
    shifts = range(-margin, margin + 1)

    def correlation(down: int, right: int) -> float:
        top, left = margin + down, margin + right
        part = large[top : top + inner.shape[0], left : left + inner.shape[1]]
        deviations = part.std() * inner.std()
        both = ((part - part.mean()) * (inner - inner.mean())).mean()
        return float(both / deviations) if deviations > 0 else 0.0

    found = {(d, r): correlation(d, r) for d in shifts for r in shifts}
    best = max(found, key=found.__getitem__)
    return best if found[best] > found[0, 0] + _BETTER else (0, 0)


def _grey(image: np.ndarray) -> np.ndarray:
    return image.astype(np.float64).mean(-1)


def _by_name(folders: str) -> dict[str, Path]:
    """LR images by their names without ends, below the folders."""
    found: dict[str, Path] = {}
    for folder in files.split_folders(folders):
        for name, path in files.find_images(folder):
            key = str(PurePosixPath(name).with_suffix(""))
            if key in found:
                raise UserError(
                    f"config.data.lr={folders}: {found[key]} and {path} have one name"
                )
            found[key] = path
    return found


def _partner(lr: dict[str, Path], name: str, scale: int) -> Path | None:
    """The LR image of an HR image of that name, as pairs are published."""
    path = PurePosixPath(name)
    for candidate in layouts.lr_names(path.stem, scale):
        for key in (str(path.parent / candidate), candidate):
            if key in lr:
                return lr[key]
    return None


def _check_partners(
    source: Source,
    folders: str,
    lr: dict[str, Path],
    found: dict[int, Path | None],
    *,
    every: bool,
) -> None:
    """Raises UserError for images that have no partner."""
    used = {path for path in found.values() if path is not None}
    without = [source.names[i] for i, path in found.items() if path is None]
    alone = [str(path) for path in lr.values() if path not in used]
    text = f"config.data.lr={folders}: "
    if not used:
        raise UserError(
            f"{text}none of its {len(lr)} images has the name of one of the "
            f"{len(source.names)} HR images, such as {source.names[0]}"
        )
    if alone:
        raise UserError(f"{text}without an HR image of that name: {_some(alone)}")
    if without and every:
        raise UserError(
            f"{text}no LR image for {_some(without)}. With config.data.paired_share "
            "below 1 these are degraded instead"
        )


def _some(texts: Sequence[str], separator: str = ", ") -> str:
    more = len(texts) - _NAMED
    return separator.join(texts[:_NAMED]) + (f" and {more} more" if more > 0 else "")
