"""Colour profiles (ICC), and the conversion of pixels from one to another.

Networks are trained on sRGB pictures. They do not need sRGB's primaries, only values
distributed like those of sRGB: pixels keep their own primaries and get sRGB's tone
curve. All colours of a wide gamut then lie in [0, 1] and are restored unchanged; a
conversion to sRGB itself would have to clip them.
"""

import functools
import struct

import imagecodecs
import numpy as np

_HEADER = 128  # bytes before a profile's table of tags
_CURVES = (b"rTRC", b"gTRC", b"bTRC")
_PRIMARIES = (b"rXYZ", b"gXYZ", b"bXYZ")
_TABLES = (b"A2B", b"B2A", b"D2B", b"B2D")  # followed by a digit
_SAME = 0.006  # largest difference between two spaces that count as the same
# ROMM RGB (ProPhoto): wide enough for the colours of any device.
_WIDE = ((0.3457, 0.3585), ((0.7347, 0.2653), (0.1596, 0.8404), (0.0366, 0.0001)))


class UnusableProfile(ValueError):
    """A colour profile from or to which pixels cannot be converted."""


@functools.lru_cache(maxsize=16)
def working(profile: bytes) -> bytes | None:
    """The profile of the pixels for the network; None for sRGB, without conversion.

    It has sRGB's tone curve and the primaries of `profile`, or ProPhoto's primaries if
    `profile` has tables instead. Raises UnusableProfile if `profile` is broken, is not
    for RGB, or converts in one direction only (as some scanners' profiles do).
    """
    if profile[16:20] != b"RGB ":
        raise UnusableProfile(f"for the colour space {profile[16:20]!r}, not RGB")
    levels = np.linspace(0, 1, 9, dtype=np.float32)
    grid = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(9, -1, 3)
    srgb = imagecodecs.cms_profile("srgb")
    if np.abs(convert(grid, profile, srgb) - grid).max() < _SAME:
        return None
    tags = _tags(profile)
    tables = any(name[:3] in _TABLES for name in tags)
    if tables or not all(name in tags for name in _PRIMARIES + _CURVES):
        seen = stated(*_WIDE, None)
    else:
        tags.update(dict.fromkeys(_CURVES, _tags(srgb)[b"rTRC"]))
        seen = _profile(profile[:_HEADER], tags)
    convert(convert(grid, profile, seen), seen, profile)
    return seen


def stated(
    white: tuple[float, float],
    primaries: tuple[tuple[float, float], ...],
    gamma: float | None,
) -> bytes:
    """Makes the profile of a space given by chromaticities x, y (red, green, blue).

    Its tone curve is the power `gamma`, or sRGB's for None.
    """
    corners = [value for x, y in primaries for value in (x, y, 1.0)]
    made = imagecodecs.cms_profile(
        "rgb", whitepoint=(*white, 1.0), primaries=corners, gamma=gamma or 2.2
    )
    if gamma is not None:
        return made
    tags = _tags(made)
    curve = _tags(imagecodecs.cms_profile("srgb"))[b"rTRC"]
    return _profile(made[:_HEADER], tags | dict.fromkeys(_CURVES, curve))


def convert(pixels: np.ndarray, profile: bytes, other: bytes) -> np.ndarray:
    """Converts float32 pixels [h, w, 3] from one profile to another, unclipped.

    (Profiles with tables instead of matrices clip.) Raises UnusableProfile.
    """
    try:
        return imagecodecs.cms_transform(
            np.ascontiguousarray(pixels, np.float32),
            profile,
            other,
            colorspace="rgb",
            outcolorspace="rgb",
            outdtype="float32",
        )
    except (imagecodecs.CmsError, ValueError, OSError) as error:
        raise UnusableProfile(str(error)) from error


def _tags(profile: bytes) -> dict[bytes, bytes]:
    try:
        (count,) = struct.unpack_from(">I", profile, _HEADER)
        places = struct.unpack_from(f">{3 * min(count, 1000)}I", profile, _HEADER + 4)
    except struct.error as error:
        raise UnusableProfile(f"its table of tags is cut off ({error})") from error
    found = {}
    for name, offset, length in zip(*[iter(places)] * 3, strict=True):
        found[struct.pack(">I", name)] = profile[offset : offset + length]
    return found


def _profile(header: bytes, tags: dict[bytes, bytes]) -> bytes:
    offset = _HEADER + 4 + 12 * len(tags)
    table, body = struct.pack(">I", len(tags)), b""
    for name, content in tags.items():
        table += name + struct.pack(">II", offset + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    content = header[4:_HEADER] + table + body
    return struct.pack(">I", len(content) + 4) + content
