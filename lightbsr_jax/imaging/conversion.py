"""Conversion of a photograph to the pixels that a network sees, and back.

The network sees pixels with sRGB's tone curve, without transparency. A wide gamut, a
small range, grey and alpha are removed before the network and restored after it.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import scipy.ndimage
from PIL import Image

from lightbsr_jax.imaging import icc, notes, ranges
from lightbsr_jax.imaging.photographs import Photograph
from lightbsr_jax.imaging.ranges import Stretch


class _View(NamedTuple):
    """The conversion of a photograph for the network."""

    working: bytes | None  # profile of the network's pixels; None: not converted
    stretch: Stretch | None
    bad: np.ndarray | None  # [h, w, C]: which samples are not finite


def to_network(photograph: Photograph) -> np.ndarray:
    """Converts to pixels [h, w, 3] for a network: uint8, uint16, or float32 in [0, 1].

    Grey becomes three equal channels. Fully transparent pixels, whose colour is
    arbitrary, and samples that are not finite get the colour of the nearest visible
    pixel. A picture with a colour profile gets sRGB's tone curve, and a picture with a
    small range is stretched: both become float32.
    """
    return _shown(photograph)[0]


def from_network(
    photograph: Photograph, pixels: np.ndarray, size: tuple[int, int]
) -> Photograph:
    """Replaces a photograph's pixels by the network's, resized to (height, width).

    `pixels` [H, W, 3] are the network's result for those of `to_network`. Pixels and
    transparency are resized. A grey photograph stays grey.
    """
    kind = photograph.colour.dtype
    old = photograph.colour.shape[:2]
    pixels = resized(pixels, size)
    _, view = _shown(photograph)
    if _is_grey(photograph.colour):
        pixels = _averaged(pixels)
    if view.working is not None or view.stretch is not None:
        converted = np.empty(pixels.shape, kind)
        for out, part in zip(_in_parts(converted), _in_parts(pixels), strict=True):
            if view.stretch is not None:
                part = view.stretch.back(part)
            if view.working is not None:
                part = icc.convert(part, view.working, photograph.profile or b"")
            out[:] = part if kind == np.float32 else _rounded(part, kind)
        pixels = converted
    pixels = pixels[..., : photograph.colour.shape[-1]]
    if view.bad is not None:
        rows, columns = (
            (np.arange(new) + 0.5) * was // new
            for new, was in zip(size, old, strict=True)
        )
        nearest = np.ix_(rows.astype(int), columns.astype(int))
        pixels = np.where(view.bad[nearest], photograph.colour[nearest], pixels)
    alpha = photograph.alpha
    if alpha is not None:
        # Lanczos would leave faint ringing around transparent areas.
        alpha = resized(alpha, size, resampling=Image.Resampling.BICUBIC)
        if alpha.dtype == np.float32:
            alpha = alpha.clip(0, 1)
    metadata = notes.scaled(photograph.metadata, old, size)
    return photograph._replace(colour=pixels, alpha=alpha, metadata=metadata)


def resized(
    pixels: np.ndarray,
    size: tuple[int, int],
    *,
    resampling: Image.Resampling = Image.Resampling.LANCZOS,
) -> np.ndarray:
    """Resizes `pixels` [h, w, C] of any type to (height, width)."""
    if pixels.shape[:2] == size:
        return pixels
    out = np.empty((*size, pixels.shape[-1]), pixels.dtype)
    for channel in range(pixels.shape[-1]):
        image = Image.fromarray(pixels[..., channel].astype(np.float32))
        image = image.resize((size[1], size[0]), resampling)
        plane = np.asarray(image)
        if pixels.dtype != np.float32:
            plane = np.rint(plane).clip(0, np.iinfo(pixels.dtype).max)
        out[..., channel] = plane
    return out


def _shown(photograph: Photograph) -> tuple[np.ndarray, _View]:
    colour, alpha = photograph.colour, photograph.alpha
    bad = None
    if colour.dtype == np.float32 and not np.isfinite(colour).all():
        bad = ~np.isfinite(colour)
        colour = _filled(np.where(bad, 0, colour), np.asarray(bad.any(-1)))
    if alpha is not None:
        colour = _filled(colour, alpha[..., 0] == 0)
    working = _working(photograph)
    bounded = colour.dtype != np.float32
    stretch = None
    if working is not None or colour.dtype != np.uint8:
        values = colour
        if bounded:
            values = colour.astype(np.float32) / np.iinfo(colour.dtype).max
        if working is not None:
            profile = photograph.profile or b""
            values = icc.convert(_three(values), profile, working).clip(0, 1)
        if colour.dtype != np.uint8:
            stretch = ranges.stretch(values, bounded=bounded)
        if stretch is not None:
            values = stretch.shown(values)
        if working is not None or stretch is not None:
            colour = values
    return np.ascontiguousarray(_three(colour)), _View(working, stretch, bad)


def _working(photograph: Photograph) -> bytes | None:
    """The profile to convert pixels to for the network; None for no conversion.

    Pictures with an unusable profile count as sRGB, and so do float32 pictures and grey
    ones, except grey PNG files that state a gamma.
    """
    profile, colour = photograph.profile, photograph.colour
    grey = colour.shape[-1] == 1 and not photograph.metadata.colour
    if profile is None or grey or colour.dtype == np.float32:
        return None
    try:
        return icc.working(profile)
    except icc.UnusableProfile:
        return None


def _three(pixels: np.ndarray) -> np.ndarray:
    return pixels.repeat(3, -1) if pixels.shape[-1] == 1 else pixels


def _filled(colour: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """Replaces the colour of pixels `hidden` [h, w] by that of the nearest other."""
    if not hidden.any() or hidden.all():
        return colour
    nearest: Any = scipy.ndimage.distance_transform_edt(
        hidden, return_distances=False, return_indices=True
    )
    return colour[tuple(nearest)]


def _is_grey(colour: np.ndarray) -> bool:
    """Returns whether all channels are equal, to one level: WebP has no grey mode."""
    if colour.shape[-1] == 1:
        return True
    most = 0 if colour.dtype == np.float32 else 1
    with np.errstate(invalid="ignore"):  # infinite samples
        return all(np.ptp(rows, -1).max() <= most for rows in _in_parts(colour))


def _averaged(pixels: np.ndarray) -> np.ndarray:
    """Replaces each channel of pixels [h, w, 3] by the mean of all three."""
    grey = np.empty_like(pixels)
    for rows, out in zip(_in_parts(pixels), _in_parts(grey), strict=True):
        mean = rows.mean(-1, dtype=np.float64, keepdims=True)
        out[:] = mean if pixels.dtype == np.float32 else np.rint(mean)
    return grey


def _rounded(values: np.ndarray, kind: np.dtype) -> np.ndarray:
    return np.rint(values.clip(0, 1) * np.float32(np.iinfo(kind).max))


def _in_parts(image: np.ndarray) -> Iterator[np.ndarray]:
    """Yields an image a few rows at a time: their conversions need more memory."""
    return (image[row : row + 256] for row in range(0, len(image), 256))
