"""Updating XMP packets: scaling sizes, and removing announcements of lost parts.

Packets are edited as text, so that everything else in them stays unchanged.
"""

import re
from collections.abc import Callable

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
# Namespaces that announce parts after a picture, which results do not keep.
_GAIN_MAP = rb"hdrgm|HDRGainMap|apdi"
_VIDEO = rb"GCamera:(?:MotionPhoto|MicroVideo)\w*"
_CONTAINER = rb"G?Container:Directory"
_EXTENSION = rb"xmpNote:HasExtendedXMP"  # further segments of a JPEG, after a packet


def upright(packet: bytes) -> bytes:
    """Sets the orientation in a packet to upright."""
    return _replaced(packet, b"tiff:Orientation", rb"[2-8]", b"1")


def scaled(packet: bytes, factors: tuple[float, float]) -> bytes:
    """Scales the sizes in a packet by the factors of height and width."""
    for name, axis in _LENGTHS.items():

        def grown(match: re.Match[bytes], axis: int = axis) -> bytes:
            return str(round(float(match[2]) * factors[axis])).encode()

        packet = _substituted(packet, name.encode(), rb"\d+(?:\.\d+)?", grown)
    return packet


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
    attribute = rb"\s+" + name + rb"\s*=\s*(?:\"[^\"]*\"|'[^']*')"
    element = rb"<(" + name + rb")(?:\s[^>]*?)?(?:/>|>.*?</\1\s*>)"
    return re.sub(attribute, b"", re.sub(element, b"", packet, flags=re.DOTALL))


def _replaced(packet: bytes, name: bytes, value: bytes, other: bytes) -> bytes:
    return _substituted(packet, name, value, lambda match: other)


def _substituted(
    packet: bytes,
    name: bytes,
    value: bytes,
    other: Callable[[re.Match[bytes]], bytes],
) -> bytes:
    pattern = rb"(" + name + rb"\s*(?:=\s*[\"']|>\s*))(" + value + rb")(?=\s*[\"'<])"
    return re.sub(pattern, lambda match: match[1] + other(match), packet)
