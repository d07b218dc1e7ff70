"""PSNR and SSIM of the same images under every convention in use: `lightbsr psnr`.

Programs report figures that differ by decibels for the same two images. They differ in
the colour (RGB, or luma of one of two ranges, rounded or not), in the width of the
border that is cut, in the window of SSIM and, for resized images, in the kind of
bicubic. Images are uint8 [H, W, 3].
"""

from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from lightbsr_jax.errors import UserError
from lightbsr_jax.imaging import files, metrics, resize

Colour = Callable[[np.ndarray], np.ndarray]  # uint8 [H, W, 3] to float64 [C, H, W]

_MODULUS = 12  # a multiple of the scales 2, 3 and 4
_UNIFORM = np.full(7, 1 / 7)
_PAPER = "luma, studio range"
_PAPER_SSIM = "luma, studio range, by (..)/255 + 16"


def _rgb(image: np.ndarray) -> np.ndarray:
    return np.moveaxis(image.astype(np.float64), -1, 0)


def _studio(image: np.ndarray) -> np.ndarray:
    return (image * (metrics.LUMA / 256)).sum(-1)[None] + 16


def _full(image: np.ndarray) -> np.ndarray:
    return (image * np.array([0.299, 0.587, 0.114])).sum(-1)[None]


COLOURS: dict[str, Colour] = {
    "RGB": _rgb,
    _PAPER: _studio,
    "luma, studio range, rounded (MATLAB)": lambda image: np.rint(_studio(image)),
    "luma, full range": _full,
    "luma, full range, rounded (OpenCV)": lambda image: np.rint(_full(image)),
}
# The reference uses this constant for SSIM only.
SSIM_COLOURS: dict[str, Colour] = {
    **COLOURS,
    _PAPER_SSIM: lambda image: (image * (metrics.LUMA / 255)).sum(-1)[None] + 16,
}


def psnr(a: np.ndarray, b: np.ndarray, colour: Colour, *, border: int) -> float:
    """PSNR in dB with peak 255, over all planes of the colour together."""
    a, b = (_inside(colour(image), border) for image in (a, b))
    return float(metrics.psnr(a[None], b[None])[0])


def ssim(
    a: np.ndarray, b: np.ndarray, colour: Colour, *, border: int, uniform: bool = False
) -> float:
    """SSIM where the window fits into the image; the mean over the colour's planes.

    The window is an 11x11 Gaussian of 1.5, or a `uniform` 7x7 one with unbiased
    variances, which is scikit-image's default.
    """
    a, b = (_inside(colour(image), border) for image in (a, b))
    window = _UNIFORM if uniform else metrics.GAUSSIAN
    return float(metrics.ssim(a, b, window=window, unbiased=uniform).mean())


class Pair(NamedTuple):
    """Two image files, with their sizes (height, width)."""

    first: Path
    second: Path
    first_size: tuple[int, int]
    second_size: tuple[int, int]

    @property
    def common(self) -> tuple[int, int]:
        """The size of the area common to both, aligned at the top left."""
        (a, b), (c, d) = self.first_size, self.second_size
        return min(a, c), min(b, d)

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """The pixels of both, uint8 [H, W, 3]."""
        return files.read_rgb(self.first), files.read_rgb(self.second)


class Measure(NamedTuple):
    """One measure averaged over the images, for each colour and border."""

    name: str
    digits: int  # decimals to print
    borders: list[int]  # pixels
    values: dict[str, list[float]]  # by colour: a value for each border
    paper: str | None  # the colour that the paper uses, if it uses this measure


class Resampling(NamedTuple):
    """Scores of one kind of bicubic: shrinking HR to LR, and enlarging LR to HR."""

    shrunk_psnr: float  # dB in RGB, of B shrunk against A; mean over the images
    largest_difference: int  # in levels of 0..255, between the same two
    enlarged_psnr: float  # dB by the paper's convention, of A enlarged against B


class Comparison(NamedTuple):
    """Result of `compare`: `measures`, or `bicubics` if A is smaller than B."""

    images: int
    factor: int  # by how much A is smaller than B
    measures: list[Measure]
    bicubics: dict[str, Resampling]  # by the names in BICUBIC
    cropped: list[Pair]  # pairs of different sizes, compared on their common area


def compare(a: str | Path, b: str | Path, *, scale: int = 4) -> Comparison:
    """Scores of images A and B, or of folders of images with the same names.

    If A is smaller by a whole factor, it counts as the low-resolution image of B.
    Otherwise `scale` only sets the paper's border. Raises UserError if the images do
    not match or are too small, and FileNotFoundError.
    """
    pairs = [
        Pair(first, second, files.image_size(first), files.image_size(second))
        for first, second in _pairs(a, b)
    ]
    factors = {_factor(pair) for pair in pairs}
    if len(factors) > 1:
        raise UserError(f"{a} against {b}: some images are low-resolution, some not")
    (factor,) = factors
    if factor > 1:
        return Comparison(len(pairs), factor, [], _resamplings(pairs, factor), [])
    cropped = [pair for pair in pairs if pair.first_size != pair.second_size]
    return Comparison(len(pairs), 1, _measures(pairs, scale), {}, cropped)


def _measures(pairs: list[Pair], scale: int) -> list[Measure]:
    """All measures of the common areas; one pair at a time is in memory."""
    least = min(pairs, key=lambda pair: min(pair.common))
    smallest = min(least.common)
    borders = sorted({0, scale, 10})
    borders = [border for border in borders if smallest - 2 * border >= 11]
    if not borders:
        raise UserError(
            f"{least.first} and {least.second} are too small for SSIM: a side of "
            f"their common area has {smallest} pixels, and must have at least 11"
        )
    gaussian, uniform = "SSIM, 11x11 Gaussian window", "SSIM, 7x7 uniform window"
    kinds = [
        ("PSNR (dB)", psnr, COLOURS, 3, _PAPER),
        (gaussian, ssim, SSIM_COLOURS, 5, _PAPER_SSIM),
        (f"{uniform} (scikit-image)", partial(ssim, uniform=True), COLOURS, 5, None),
    ]
    scores = defaultdict(list)  # of all images, by measure, colour and border
    for pair in pairs:
        height, width = pair.common
        a, b = (image[:height, :width] for image in pair.read())
        for name, measure, colours, _, _ in kinds:
            for title, colour in colours.items():
                for border in borders:
                    score = measure(a, b, colour, border=border)
                    scores[name, title, border].append(score)
    return [
        Measure(
            name,
            digits,
            borders,
            {
                title: [float(np.mean(scores[name, title, n])) for n in borders]
                for title in colours
            },
            paper,
        )
        for name, _, colours, digits, paper in kinds
    ]


def _resamplings(pairs: list[Pair], factor: int) -> dict[str, Resampling]:
    """Scores of each kind of bicubic on pairs of an LR image and its HR image."""
    scores = defaultdict(list)
    for pair in pairs:
        lr, hr = pair.read()
        hr = hr[: lr.shape[0] * factor, : lr.shape[1] * factor]
        for name, bicubic in BICUBIC.items():
            sr, made = bicubic(lr, hr.shape[:2]), bicubic(hr, lr.shape[:2])
            worst = int(np.abs(made.astype(int) - lr).max())
            up = float(metrics.psnr_y(sr[None], hr[None], border=factor)[0])
            scores[name].append((psnr(made, lr, _rgb, border=0), worst, up))
    found = {}
    for name, of_images in scores.items():
        down, worst, up = zip(*of_images, strict=True)
        found[name] = Resampling(float(np.mean(down)), max(worst), float(np.mean(up)))
    return found


def _by_matrix(**rule: object) -> Callable[..., np.ndarray]:
    def bicubic(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        rows, columns = (
            resize.bicubic_matrix(before, after, **rule).astype(np.float64)
            for before, after in zip(image.shape[:2], size, strict=True)
        )
        resized = np.einsum("hH,HWC,wW->hwC", rows, image, columns, optimize=True)
        return np.rint(resized).clip(0, 255).astype(np.uint8)

    return bicubic


def _pillow(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    resized = Image.fromarray(image).resize(
        (size[1], size[0]), Image.Resampling.BICUBIC
    )
    return np.asarray(resized)


BICUBIC = {
    "this protocol: antialiased, border repeated": _by_matrix(),
    "MATLAB: antialiased, border mirrored": _by_matrix(border="mirror"),
    "Pillow: antialiased, border left out": _pillow,
    "OpenCV, PyTorch: a = -0.75, not antialiased": _by_matrix(a=-0.75, antialias=False),
}


def _inside(planes: np.ndarray, border: int) -> np.ndarray:
    height, width = planes.shape[1:]
    return planes[:, border : height - border, border : width - border]


def _factor(pair: Pair) -> int:
    """The factor by which A is smaller than B; 1 if they differ by a few pixels."""
    a, b = pair.first_size, pair.second_size
    if max(abs(p - q) for p, q in zip(a, b, strict=True)) < _MODULUS:
        return 1
    for factor in (2, 3, 4, 8):
        if a == tuple(side // factor for side in b):
            return factor
    raise UserError(
        f"{pair.first} is {a[1]}x{a[0]} pixels, {pair.second} {b[1]}x{b[0]} (width x "
        "height): expected the same size, or the first smaller by 2, 3, 4 or 8"
    )


def _pairs(a: str | Path, b: str | Path) -> list[tuple[Path, Path]]:
    """Pairs the images of two folders: a name of A begins with that of its partner.

    For example, "baby_x4.png" of A belongs to "baby.png" of B.
    """
    found = files.find_images(a), files.find_images(b)
    single = [Path(given).is_file() and not files.is_list(given) for given in (a, b)]
    if all(single):
        return [(found[0][0][1], found[1][0][1])]
    if any(single):
        raise UserError(f"{a} and {b}: give two images or two folders")
    stems: dict[str, Path] = {}
    for name, path in found[1]:
        other = stems.setdefault(Path(name).with_suffix("").as_posix(), path)
        if other != path:
            raise UserError(f"{other} and {path} have the same name: remove one")
    pairs, missing = [], []
    for name, path in found[0]:
        stem = Path(name).with_suffix("").as_posix()
        # Choose the longest name that this one begins with.
        partners = [other for other in stems if _begins(stem, other)]
        if partners:
            pairs.append((path, stems.pop(max(partners, key=len))))
        else:
            missing.append(name)
    if missing or stems:
        raise UserError(
            f"images without a partner of the same name: {', '.join(missing) or 'none'}"
            f" of {a}, {', '.join(stems) or 'none'} of {b}: rename or remove them"
        )
    return pairs


def _begins(name: str, start: str) -> bool:
    """Returns whether a name begins with another one, such as "a_x4" with "a".

    "img_10" does not begin with "img_1": their numbers differ.
    """
    rest = name[len(start) :]
    other_number = start[-1:].isdigit() and rest[:1].isdigit()
    return name.startswith(start) and not other_number
