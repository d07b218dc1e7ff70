"""BMP files with unusual bit masks, which Pillow does not read."""

import struct

import numpy as np

from lightbsr_jax.imaging.errors import check_pixels

_BITFIELDS, _WITH_FOUR = 3, 6  # compressions: with masks for RGB, and for RGBA
# Masks of red, green, blue and alpha that Pillow reads, by bits per pixel.
_USUAL = {
    16: {(0xF800, 0x7E0, 0x1F, 0), (0x7C00, 0x3E0, 0x1F, 0)},
    32: {
        (0xFF0000, 0xFF00, 0xFF, 0),
        (0xFF0000, 0xFF00, 0xFF, 0xFF000000),
        (0xFF000000, 0xFF0000, 0xFF00, 0),
        (0xFF000000, 0xFF0000, 0xFF00, 0xFF),
        (0xFF000000, 0xFF00, 0xFF, 0),
        (0xFF000000, 0xFF00, 0xFF, 0xFF0000),
        (0xFF, 0xFF00, 0xFF0000, 0xFF000000),
        (0, 0, 0, 0),
    },
}
_WITH_ALPHA = 56  # length of the first header that states a mask of alpha


def has_own_masks(data: bytes) -> bool:
    """Returns whether a file is a BMP with unusual bit masks."""
    if data[:2] != b"BM" or len(data) < 14 + _WITH_ALPHA:
        return False
    length, _, _, _, bits, compression = struct.unpack_from("<IiiHHI", data, 14)
    usual = _USUAL.get(bits)
    return (
        length >= 40
        and compression in (_BITFIELDS, _WITH_FOUR)
        and usual is not None
        and (compression == _WITH_FOUR or _masks(data) not in usual)
    )


def size(data: bytes) -> tuple[int, int]:
    """The (height, width) that the header of a BMP states."""
    width, height = struct.unpack_from("<ii", data, 18)
    return abs(height), width


def samples(data: bytes) -> np.ndarray:
    """The uint8 samples [h, w, 3] of such a file, or [h, w, 4] with alpha.

    Raises ValueError if it is truncated.
    """
    height, width = size(data)
    (bits,) = struct.unpack_from("<H", data, 28)
    (start,) = struct.unpack_from("<I", data, 10)
    if width * height <= 0:
        raise ValueError(f"{width} x {height} pixels")
    check_pixels(width * height)
    row = -(-width * bits // 32) * 4  # bytes, rounded up to 4
    content = data[start : start + row * height]
    if len(content) < row * height:
        raise ValueError("the file ends before its pixels do")
    rows = np.frombuffer(content, np.uint8).reshape(height, row)
    kind = {16: "<u2", 32: "<u4"}[bits]
    pixels = np.ascontiguousarray(rows[:, : width * bits // 8]).view(kind)
    masks = _masks(data)
    planes = [_plane(pixels, mask) for mask in (masks if masks[3] else masks[:3])]
    upside_up = struct.unpack_from("<i", data, 22)[0] < 0
    stacked = np.stack(planes, -1)
    return stacked if upside_up else stacked[::-1]


def _masks(data: bytes) -> tuple[int, ...]:
    """The masks of red, green, blue and alpha; 0 for none."""
    (length,) = struct.unpack_from("<I", data, 14)
    (compression,) = struct.unpack_from("<I", data, 30)
    if length >= _WITH_ALPHA or compression == _WITH_FOUR:
        return struct.unpack_from("<4I", data, 54)
    return *struct.unpack_from("<3I", data, 54), 0


def _plane(pixels: np.ndarray, mask: int) -> np.ndarray:
    if mask == 0:
        return np.zeros(pixels.shape, np.uint8)
    lowest = (mask & -mask).bit_length() - 1
    top = mask >> lowest
    values = (pixels.astype(np.uint64) & mask) >> lowest
    return ((values * 255 + top // 2) // top).astype(np.uint8)
