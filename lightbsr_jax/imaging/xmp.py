"""Updating XMP packets: turning regions, scaling sizes, and removing what is wrong.

Packets are edited as text, so that everything else in them stays unchanged.
"""

import re
from collections.abc import Callable
from functools import partial

from lightbsr_jax.imaging import isobmff

_LENGTHS = {  # lengths in pixels, and their axis: 0 for rows
    **dict.fromkeys(
        (
            *("GPano:FullPanoWidthPixels", "GPano:CroppedAreaImageWidthPixels"),
            *("GPano:CroppedAreaLeftPixels", "GPano:InitialHorizontalFOVPixels"),
            *("tiff:ImageWidth", "exif:PixelXDimension"),
        ),
        1,
    ),
    **dict.fromkeys(
        (
            *("GPano:FullPanoHeightPixels", "GPano:CroppedAreaImageHeightPixels"),
            *("GPano:CroppedAreaTopPixels", "tiff:ImageLength"),
            *("exif:PixelYDimension",),
        ),
        0,
    ),
}
# Lengths that exchange their names if a picture's rows become its columns.
_EXCHANGED = {
    b"tiff:ImageWidth": b"tiff:ImageLength",
    b"exif:PixelXDimension": b"exif:PixelYDimension",
}
# Regions of faces and other subjects, by the schemas of the Metadata Working Group and
# of Microsoft. They are in shares of the stored picture, before it is turned.
_AREA, _RECTANGLE = rb"mwg-rs:Area", rb"MPReg:Rectangle"
_SIZE_OF_REGIONS = rb"mwg-rs:AppliedToDimensions"
# EXIF's places in pixels and resolutions of the focal plane, and previews.
_STALE = (
    rb"exif:Subject(?:Area|Location)",
    rb"exif:FocalPlane(?:[XY]Resolution|ResolutionUnit)",
    rb"(?:xmp|xap):Thumbnails",
)
_NUMBER = rb"\d*\.?\d+"
# Namespaces that announce parts after a picture, which results do not keep.
_GAIN_MAP = rb"hdrgm|HDRGainMap|apdi"
_VIDEO = rb"GCamera:(?:MotionPhoto|MicroVideo)\w*"
_CONTAINER = rb"G?Container:Directory"
_EXTENSION = rb"xmpNote:HasExtendedXMP"  # further segments of a JPEG, after a packet


def tidied(packet: bytes, turns: int, mirrored: bool) -> bytes:
    """Turns regions and sizes with the picture, and removes what is wrong for it.

    The picture was turned by quarter `turns` counterclockwise and then mirrored.
    """
    packet = _substituted(packet, b"tiff:Orientation", rb"[2-8]", lambda match: b"1")
    for name in _STALE:
        packet = _removed(packet, name)
    if not (turns or mirrored):
        return packet
    if turns % 2:
        for pair in _EXCHANGED.items():
            packet = _exchanged(packet, *pair)
        packet = _edited(packet, _SIZE_OF_REGIONS, _size_turned)
    area = partial(_area_turned, turns=turns, mirrored=mirrored)
    rectangle = partial(_rectangle_turned, turns=turns, mirrored=mirrored)
    packet = _edited(packet, _AREA, area)
    return _substituted(packet, _RECTANGLE, rb"[\d.,\s]+", rectangle)


def scaled(packet: bytes, factors: tuple[float, float]) -> bytes:
    """Scales the sizes in a packet by the factors of height and width."""
    for name, axis in _LENGTHS.items():
        packet = _multiplied(packet, name.encode(), factors[axis])

    def grown(element: bytes) -> bytes:
        element = _multiplied(element, b"stDim:h", factors[0])
        return _multiplied(element, b"stDim:w", factors[1])

    return _edited(packet, _SIZE_OF_REGIONS, grown)


def _multiplied(packet: bytes, name: bytes, factor: float) -> bytes:
    def grown(match: re.Match[bytes]) -> bytes:
        return str(round(float(match[2]) * factor)).encode()

    return _substituted(packet, name, _NUMBER, grown)


def _size_turned(element: bytes) -> bytes:
    return _exchanged(element, b"stDim:w", b"stDim:h")


def _area_turned(element: bytes, turns: int, mirrored: bool) -> bytes:
    """Turns an area around a centre; without a width it is a point or a circle."""
    names = (b"stArea:x", b"stArea:y")
    found = [re.search(_valued(name, _NUMBER), element) for name in names]
    if found[0] is None or found[1] is None:
        return element
    centre = _turned(float(found[0][2]), float(found[1][2]), turns, mirrored)
    for name, value in zip(names, centre, strict=True):
        text = _text(value)
        element = _substituted(element, name, _NUMBER, lambda _, text=text: text)
    return _exchanged(element, b"stArea:w", b"stArea:h") if turns % 2 else element


def _rectangle_turned(match: re.Match[bytes], turns: int, mirrored: bool) -> bytes:
    """Turns a rectangle "left, top, width, height"."""
    try:
        left, top, width, height = map(float, match[2].split(b","))
    except ValueError:
        return match[2]
    x, y = _turned(left + width / 2, top + height / 2, turns, mirrored)
    if turns % 2:
        width, height = height, width
    return b", ".join(map(_text, (x - width / 2, y - height / 2, width, height)))


def _turned(x: float, y: float, turns: int, mirrored: bool) -> tuple[float, float]:
    """The place, in shares of the picture, of a point of the stored picture."""
    for _ in range(turns):
        x, y = y, 1 - x
    return 1 - x if mirrored else x, y


def _text(number: float) -> bytes:
    return f"{number:.6f}".rstrip("0").rstrip(".").encode()


def _exchanged(packet: bytes, name: bytes, other: bytes) -> bytes:
    names = {name: other, other: name}
    pattern = rb"\b(?:%b|%b)\b" % (name, other)
    return re.sub(pattern, lambda match: names[match[0]], packet)


def cleaned(packet: bytes) -> tuple[bytes, list[str]]:
    """Removes announcements of lost parts; also returns the names of these parts."""
    lost = []
    if re.search(rb"(?:" + _GAIN_MAP + rb"):\w+", packet):
        lost.append(isobmff.GAIN_MAP)
        packet = _removed(packet, rb"(?:" + _GAIN_MAP + rb"):\w+")
    if re.search(_VIDEO, packet):
        lost.append("the video (motion photo)")
        packet = _removed(packet, _VIDEO)
    if lost:
        packet = _removed(packet, _CONTAINER)
    if re.search(_EXTENSION, packet):
        lost.append("extended XMP")
        packet = _removed(packet, _EXTENSION)
    return packet, lost


def _removed(packet: bytes, name: bytes) -> bytes:
    # From the beginning of white space on: packets end with kilobytes of it.
    attribute = rb"(?<!\s)\s+" + name + rb"\s*=\s*(?:\"[^\"]*\"|'[^']*')"
    return re.sub(attribute, b"", _edited(packet, name, lambda element: b""))


def _edited(packet: bytes, name: bytes, edit: Callable[[bytes], bytes]) -> bytes:
    """Replaces each element of a name by its edited text."""
    element = rb"<(" + name + rb")(?:\s[^>]*?)?(?:/>|>.*?</\1\s*>)"
    return re.sub(element, lambda match: edit(match[0]), packet, flags=re.DOTALL)


def _substituted(
    packet: bytes,
    name: bytes,
    value: bytes,
    other: Callable[[re.Match[bytes]], bytes],
) -> bytes:
    pattern = _valued(name, value)
    return re.sub(pattern, lambda match: match[1] + other(match), packet)


def _valued(name: bytes, value: bytes) -> bytes:
    """The pattern of a name, its first group, and of its value, the second."""
    return rb"(" + name + rb"\s*(?:=\s*[\"']|>\s*))(" + value + rb")(?=\s*[\"'<])"
