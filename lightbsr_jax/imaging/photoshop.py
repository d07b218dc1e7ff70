"""Photoshop resources: blocks of metadata in JPEG and TIFF, including IPTC."""

import struct

from PIL import Image

_SIGNATURE = b"Photoshop 3.0\0"
_IPTC = 1028
# Resources that describe the old pixels or repeat other metadata: previews, EXIF, XMP.
_STALE = {1033, 1036, 1058, 1059, 1060}


def of_jpeg(image: Image.Image) -> bytes | None:
    """The resources of a JPEG that Pillow has opened."""
    segments = [
        body.removeprefix(_SIGNATURE)
        for name, body in getattr(image, "applist", ())
        if name == "APP13" and body.startswith(_SIGNATURE)
    ]
    return kept(b"".join(segments)) or None


def kept(content: bytes) -> bytes:
    """The resources that remain correct for an enlarged picture."""
    split = _split(content)
    return b"".join(whole for i, _, whole in split if i not in _STALE)


def of_iptc(record: bytes) -> bytes:
    """The resource that holds an IPTC record."""
    head = b"8BIM" + struct.pack(">HHI", _IPTC, 0, len(record))
    return head + record + bytes(len(record) % 2)


def iptc(resources: bytes) -> bytes | None:
    """The IPTC record among Photoshop's resources."""
    return next((b for i, b, _ in _split(resources) if i == _IPTC), None)


def jpeg_segment(resources: bytes | None) -> bytes:
    """The segment of a JPEG that holds resources; b"" for none."""
    if resources is None:
        return b""
    body = _SIGNATURE + resources
    return b"\xff\xed" + struct.pack(">H", len(body) + 2) + body


def _split(content: bytes) -> list[tuple[int, bytes, bytes]]:
    """Splits Photoshop resources: number, content, and all bytes of each."""
    found, place = [], 0
    while content[place : place + 4] == b"8BIM" and place + 12 <= len(content):
        (number,) = struct.unpack_from(">H", content, place + 4)
        name = content[place + 6] + 1  # with its length
        begin = place + 6 + name + name % 2 + 4
        if begin > len(content):
            break
        (length,) = struct.unpack_from(">I", content, begin - 4)
        end = begin + length + length % 2
        whole = content[place:end]
        found.append(
            (number, content[begin : begin + length], whole + bytes(len(whole) % 2))
        )
        place = end
    return found
