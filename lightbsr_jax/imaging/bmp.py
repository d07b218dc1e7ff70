"""BMP files with unusual bit masks, which Pillow does not read."""

import struct

import numpy as np

_BITFIELDS = (3, 6)  # compressions: with masks for RGB, and for RGBA
# Masks of red, green and blue that Pillow reads, by bits per pixel.
_USUAL = {
    16: {(0xF800, 0x7E0, 0x1F), (0x7C00, 0x3E0, 0x1F)},
    32: {
        (0xFF0000, 0xFF00, 0xFF),
        (0xFF000000, 0xFF0000, 0xFF00),
        (0xFF, 0xFF00, 0xFF0000),
        (0xFF000000, 0xFF00, 0xFF),
    },
}


def has_own_masks(data: bytes) -> bool:
    """Returns whether a file is a BMP with unusual bit masks."""
    if data[:2] != b"BM" or len(data) < 66:
        return False
    length, _, _, _, bits, compression = struct.unpack_from("<IiiHHI", data, 14)
    usual = _USUAL.get(bits)
    return (
        length >= 40
        and compression in _BITFIELDS
        and usual is not None
        and struct.unpack_from("<3I", data, 54) not in usual
    )


def size(data: bytes) -> tuple[int, int]:
    """The (height, width) that the header of a BMP states."""
    width, height = struct.unpack_from("<ii", data, 18)
    return abs(height), width


def samples(data: bytes) -> np.ndarray:
    """The uint8 samples [h, w, 3] of such a file. Raises ValueError if truncated."""
    height, width = size(data)
    (bits,) = struct.unpack_from("<H", data, 28)
    (start,) = struct.unpack_from("<I", data, 10)
    if not 0 < width * height < 1 << 28:
        raise ValueError(f"{width} x {height} pixels")
    row = -(-width * bits // 32) * 4  # bytes, rounded up to 4
    content = data[start : start + row * height]
    if len(content) < row * height:
        raise ValueError("the file ends before its pixels do")
    rows = np.frombuffer(content, np.uint8).reshape(height, row)
    kind = {16: "<u2", 32: "<u4"}[bits]
    pixels = np.ascontiguousarray(rows[:, : width * bits // 8]).view(kind)
    planes = [_plane(pixels, mask) for mask in struct.unpack_from("<3I", data, 54)]
    upside_up = struct.unpack_from("<i", data, 22)[0] < 0
    stacked = np.stack(planes, -1)
    return stacked if upside_up else stacked[::-1]


def _plane(pixels: np.ndarray, mask: int) -> np.ndarray:
    if mask == 0:
        return np.zeros(pixels.shape, np.uint8)
    lowest = (mask & -mask).bit_length() - 1
    top = mask >> lowest
    values = (pixels.astype(np.uint64) & mask) >> lowest
    return ((values * 255 + top // 2) // top).astype(np.uint8)
