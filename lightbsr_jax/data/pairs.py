"""Real pairs: HR images with given LR images of the same names.

The crops of a pair lie at the same place of the scene, at multiples of the scale. Names
and sizes are checked when a run begins; the alignment of a pair is checked when it is
first read.
"""

import hashlib
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from lightbsr_jax.data.pipeline import CropBatches, Places, Sampler, turned
from lightbsr_jax.data.sources import Source, vanished
from lightbsr_jax.errors import UserError
from lightbsr_jax.imaging import files, layouts

_NAMED = 3  # the number of images that a message names
_MOST_CROPPED = 12  # HR pixels: published pairs are cropped to multiples of up to 12
_FARTHEST = 3  # LR pixels: the largest shift that is searched
_TOLERATED = 1  # LR pixels: real lenses shift by up to this
_BETTER = 0.02  # the least gain in correlation that counts as a shift


class Mixed(NamedTuple):
    """Crops of pairs and of images to be degraded; each row belongs to one image."""

    hr: Any  # uint8 [B, D, H, W, 3]
    lr: Any  # uint8 [B, D, h, w, 3]; zeros where `paired` is false
    paired: Any  # bool [B]


class Pairs:
    """The HR images of a source that have LR images, in the source's order.

    `sizes` int [N, 2] are those of the LR images; `fingerprint` identifies the pairs.
    A pair that cannot be read or is out of alignment is left out from then on, and
    `skipped` holds the reason by its name.
    """

    sizes: np.ndarray
    fingerprint: str
    skipped: dict[str, str]

    def __init__(
        self, source: Source, folders: str, *, scale: int, minimum: int, every: bool
    ) -> None:
        """`folders` hold LR images (separated by commas); `minimum` is a crop's side.

        With `every`, all HR images must have an LR image. Raises UserError with the
        names of images that have no partner or sizes that do not fit, and
        FileNotFoundError and ImageError.
        """
        self._source, self._folders, self._scale = source, folders, scale
        self._lock = threading.Lock()
        self._aligned: set[int] = set()
        self.skipped = {}
        lr = _by_name(folders)
        found = {i: _partner(lr, name, scale) for i, name in enumerate(source.names)}
        left_out = {_partner(lr, name, scale) for name in source.left_out}
        _check_partners(source, folders, lr, found, left_out, every=every)
        self._pairs = [(i, path) for i, path in found.items() if path is not None]
        self._check_sizes(minimum)
        text = "".join(
            f"{source.names[index]} {size}\n"
            for (index, _), size in zip(self._pairs, self.sizes, strict=True)
        )
        self.fingerprint = hashlib.sha256(text.encode()).hexdigest()[:16]

    def __len__(self) -> int:
        return len(self._pairs)

    def name(self, place: int) -> str:
        """The path of a pair's LR image."""
        return str(self._pairs[place][1])

    def crops(
        self, place: int, tops: np.ndarray, lefts: np.ndarray, size: int
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """HR [D, s size, s size, 3] and LR crops [D, size, size, 3], uint8, or None.

        Places are in LR pixels. Returns None for a pair that is left out. Raises
        UserError once all are left out, for a file that has vanished, or if the source
        raises it.
        """
        index, path = self._pairs[place]
        if str(path) in self.skipped:
            self._check_left()
            return None
        try:
            lr = files.read_rgb(path)
            if lr.shape[:2] != tuple(self.sizes[place]):
                raise files.ImageError(f"{path} has another size than at the start")
            if place not in self._aligned:
                self._check_alignment(place, lr)
        except files.ImageError as error:
            self._skip(path, str(error))
            return None
        except OSError as error:
            raise vanished(path, error) from error
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
        """Sets `sizes`. Raises UserError if one does not fit."""
        sizes, problems = [], []
        for index, path in self._pairs:
            lr, hr = files.image_size(path), self._source.sizes[index]
            missing = [h // self._scale - low for h, low in zip(hr, lr, strict=True)]
            if min(missing) < 0 or max(missing) > _MOST_CROPPED // self._scale:
                problems.append(
                    f"{path} has {lr[1]}x{lr[0]} pixels, but "
                    f"{self._source.names[index]} has {hr[1]}x{hr[0]}, not "
                    f"{self._scale} times as many a side"
                )
            elif min(lr) < minimum:
                problems.append(
                    f"{path} has {lr[1]}x{lr[0]} pixels, less than a crop of {minimum}"
                )
            sizes.append(lr)
        if problems:
            raise UserError(
                f"config.data.lr={self._folders}: {_some(problems, '; ')}. Replace or "
                "remove these pairs, or set config.scale to their scale"
            )
        self.sizes = np.array(sizes).reshape(-1, 2)

    def _check_alignment(self, place: int, lr: np.ndarray) -> None:
        """Raises ImageError if the two images are out of alignment."""
        index, path = self._pairs[place]
        hr = self._source[index]
        if hr is not None:
            away = misplacement(lr, hr, self._scale)
            if max(map(abs, away)) > _TOLERATED:
                raise files.ImageError(
                    f"{path} is {away[0]} LR pixels lower and {away[1]} further right "
                    f"than its HR image {self._source.names[index]}"
                )
        self._aligned.add(place)

    def _skip(self, path: Path, reason: str) -> None:
        with self._lock:
            if str(path) not in self.skipped:
                self.skipped[str(path)] = reason
                logging.warning("left out from now on: %s", reason)
        self._check_left()

    def _check_left(self) -> None:
        """Raises UserError, in each thread that asks, once all pairs are left out."""
        if len(self.skipped) == len({path for _, path in self._pairs}):
            reasons = _some(list(self.skipped.values()), "; ")
            raise UserError(
                f"config.data.lr={self._folders}: no pair is left ({reasons})"
            )


class PairedBatches(CropBatches):
    """An endless iterator of `Mixed` crops: pairs, and images to be degraded.

    The seed, the batch and the row decide whether a row is a pair. Other rows equal
    those of `CropBatches`.
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
        """`paired` draws LR places of pairs, and `share` is the share of pairs."""
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
            try:
                crops = self._pairs.crops(image, tops, lefts, size)
            except UserError:
                raise
            except BaseException as error:  # SystemExit would end the thread silently
                name = self._pairs.name(image)
                raise RuntimeError(f"reading {name} failed: {error!r}") from error
            if crops is not None:
                hr, lr = (turned(x, places.turns[row]) for x in crops)
                return Mixed(hr, lr, np.bool_(True))
        raise AssertionError("tries end with an error, not by themselves")


def misplacement(lr: np.ndarray, hr: np.ndarray, scale: int) -> tuple[int, int]:
    """The pixels by which an LR image shows its scene lower and further right.

    It is relative to the HR image, and (0, 0) unless another place correlates much
    better. Images are uint8 [h, w, 3].
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
    """LR images in the folders, by name without extension.

    If a folder also holds HR images, as RealSR's, their names tell them apart.
    """
    found: dict[str, Path] = {}
    for folder in files.split_folders(folders):
        images = files.find_images(folder)
        kinds = {name: layouts.kind_of(name) for name, _ in images}
        if "LR" in kinds.values():
            images = [(name, path) for name, path in images if kinds[name] != "HR"]
        for name, path in images:
            key = files.escaped(str(PurePosixPath(name).with_suffix("")))
            if key in found:
                raise UserError(
                    f"config.data.lr={folders}: {found[key]} and {path} have the same "
                    "name; rename one"
                )
            found[key] = path
    return found


def _partner(lr: dict[str, Path], name: str, scale: int) -> Path | None:
    """The LR image for an HR image's name, by the rules of published pairs."""
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
    left_out: set[Path | None],
    *,
    every: bool,
) -> None:
    """Raises UserError for images that have no partner, or more than one.

    LR images `left_out` belong to HR images that the source leaves out.
    """
    partners = Counter(path for path in found.values() if path is not None)
    used = set(partners)
    without = [source.names[i] for i, path in found.items() if path is None]
    alone = [str(path) for path in lr.values() if path not in used | left_out]
    text = f"config.data.lr={folders}: "
    if not used:
        raise UserError(
            f"{text}none of its {len(lr)} images has the name of one of the "
            f"{len(source.names)} HR images, such as {source.names[0]}"
        )
    if alone:
        raise UserError(f"{text}without an HR image of that name: {_some(alone)}")
    claimed = [f"{path} ({count})" for path, count in partners.items() if count > 1]
    if claimed:
        raise UserError(
            f"{text}several HR images of config.data.hr have the same name as "
            f"{_some(claimed)}: rename the ones that are no partners"
        )
    if without and every:
        raise UserError(
            f"{text}no LR image for {_some(without)}. With config.data.paired_share "
            "below 1 these are degraded instead"
        )


def _some(texts: Sequence[str], separator: str = ", ") -> str:
    more = len(texts) - _NAMED
    return separator.join(texts[:_NAMED]) + (f" and {more} more" if more > 0 else "")
