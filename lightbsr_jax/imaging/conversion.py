"""From a photograph to the pixels that a network sees, and back.

The network sees pixels in sRGB's tone curve, without transparency. What it is not
shown (a wide gamut, a small range, grey, alpha) is put back after it.
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
    """How a photograph is shown."""

    working: bytes | None  # the profile of what is shown; None: as it is
    stretch: Stretch | None
    bad: np.ndarray | None  # [h, w, C]: which samples are no numbers


def to_network(photograph: Photograph) -> np.ndarray:
    """Pixels [h, w, 3] for a network: uint8 or uint16, or float32 in [0, 1].

    Grey is repeated. Colour under full transparency, which may be anything, and what
    is no number are those of the nearest pixel that shows. A picture with a colour
    profile gets sRGB's tone curve, one of a small range is stretched: both are float32.
    """
    return _shown(photograph)[0]


def from_network(
    photograph: Photograph, pixels: np.ndarray, size: tuple[int, int]
) -> Photograph:
    """The photograph with the network's pixels in place of its own, at (height, width).

    `pixels` [H, W, 3] are what came of those of `to_network`. They and transparency
    are interpolated. Where the photograph has no colours, the network adds none.
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
        # Lanczos would leave faint waves around what is cut out.
        alpha = resized(alpha, size, resampling=Image.Resampling.BICUBIC)
    metadata = notes.scaled(photograph.metadata, old, size)
    return photograph._replace(colour=pixels, alpha=alpha, metadata=metadata)


def resized(
    pixels: np.ndarray,
    size: tuple[int, int],
    *,
    resampling: Image.Resampling = Image.Resampling.LANCZOS,
) -> np.ndarray:
    """`pixels` [h, w, C] of any type, interpolated at (height, width)."""
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
    """The profile of the pixels to be shown; None where they are shown as they are.

    A profile that is of no use does not spoil a picture: it is taken for sRGB, as are
    those of grey ones and of float32, but for a gamma that a PNG states.
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
    """Colour with that of the nearest pixel in place of what is hidden [h, w]."""
    if not hidden.any() or hidden.all():
        return colour
    nearest: Any = scipy.ndimage.distance_transform_edt(
        hidden, return_distances=False, return_indices=True
    )
    return colour[tuple(nearest)]


def _is_grey(colour: np.ndarray) -> bool:
    """Whether all channels are the same; WebP, which has no grey, is off by a level."""
    most = 0 if colour.dtype == np.float32 else 1
    return all(np.ptp(rows, -1).max() <= most for rows in _in_parts(colour))


def _averaged(pixels: np.ndarray) -> np.ndarray:
    """Pixels [h, w, 3] with each channel the mean of all."""
    grey = np.empty_like(pixels)
    for rows, out in zip(_in_parts(pixels), _in_parts(grey), strict=True):
        mean = rows.mean(-1, dtype=np.float64, keepdims=True)
        out[:] = mean if pixels.dtype == np.float32 else np.rint(mean)
    return grey


def _rounded(values: np.ndarray, kind: np.dtype) -> np.ndarray:
    return np.rint(values.clip(0, 1) * np.float32(np.iinfo(kind).max))


def _in_parts(image: np.ndarray) -> Iterator[np.ndarray]:
    """The rows of an image, a few at a time: what is made of them takes more space."""
    return (image[row : row + 256] for row in range(0, len(image), 256))
