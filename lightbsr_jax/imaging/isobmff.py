"""Boxes of AVIF, HEIC and JPEG XL files (ISO 14496-12, 23008-12, 23000-22, 18181-2).

Decoders return pixels; the depth and the colour space that a file states are read here.
"""

import struct
from collections.abc import Iterator

Box = tuple[bytes, bytes]  # kind and body
GAIN_MAP = "the gain map (HDR)"  # its name in messages, for every format

_AVIF = {b"avif", b"avis", b"avio"}
_HEIF = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}
_SRGB = (1, 13)  # codes of primaries and tone curve (H.273)
_UNSPECIFIED = 2


def format_of(start: bytes) -> str | None:
    """AVIF or HEIF, from the brands at the beginning of a file; None for others."""
    brands = _brands(start)
    if brands & _AVIF:
        return "AVIF"
    return "HEIF" if brands & _HEIF else None


def has_gain_map(start: bytes) -> bool:
    """Returns whether the brands of a file announce a gain map (ISO 21496-1)."""
    return b"tmap" in _brands(start)


def _brands(start: bytes) -> set[bytes]:
    if start[4:8] != b"ftyp":
        return set()
    (length,) = struct.unpack(">I", start[:4])
    names = start[8:12] + start[16 : min(length, 256)]
    return {names[i : i + 4] for i in range(0, len(names) - 3, 4)}


def boxes(data: bytes) -> Iterator[Box]:
    """Yields the boxes in `data`. Raises ValueError if one is cut off."""
    place = 0
    while place + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        head = 8
        if length == 1 and place + 16 <= len(data):
            (length,) = struct.unpack_from(">Q", data, place + 8)
            head = 16
        elif length == 0:
            length = len(data) - place
        if length < head or place + length > len(data):
            raise ValueError(f"a box {kind!r} is cut off")
        yield kind, data[place + head : place + length]
        place += length


def box(kind: bytes, body: bytes) -> bytes:
    """Encodes a box."""
    return struct.pack(">I4s", len(body) + 8, kind) + body


def properties(data: bytes) -> list[Box]:
    """The properties of a file's primary picture. Raises ValueError if it is broken."""
    try:
        meta = dict(boxes(_inside(data, b"meta")[4:]))
        primary = meta[b"pitm"]
        form = ">I" if primary[0] else ">H"
        (item,) = struct.unpack_from(form, primary, 4)
        parts = list(boxes(meta[b"iprp"]))
        stored = [
            found for kind, body in parts if kind == b"ipco" for found in boxes(body)
        ]
        indices = [
            index
            for kind, body in parts
            if kind == b"ipma"
            for index in _associated(body, item)
        ]
        return [stored[index - 1] for index in indices if 0 < index <= len(stored)]
    except (KeyError, IndexError, struct.error) as error:
        raise ValueError(f"its boxes are broken ({error!r})") from error


def _inside(data: bytes, wanted: bytes) -> bytes:
    """The body of the first box of a kind, even if a later box is cut off."""
    for kind, body in boxes(data):
        if kind == wanted:
            return body
    raise KeyError(wanted)


def _associated(ipma: bytes, item: int) -> list[int]:
    """Indices, from 1, of the properties of an item."""
    version, flags = ipma[0], ipma[3]
    (count,) = struct.unpack_from(">I", ipma, 4)
    place = 8
    for _ in range(count):
        (number,) = struct.unpack_from(">H" if version < 1 else ">I", ipma, place)
        place += 2 if version < 1 else 4
        length = ipma[place]
        place += 1
        form = f">{length}{'H' if flags & 1 else 'B'}"
        indices = struct.unpack_from(form, ipma, place)
        place += struct.calcsize(form)
        if number == item:
            return [index & (0x7FFF if flags & 1 else 0x7F) for index in indices]
    return []


def depth(found: list[Box]) -> int:
    """Bits of a sample, from a picture's properties; 8 if none states them."""
    for kind, body in found:
        if kind == b"pixi" and len(body) > 5:
            return max(body[5 : 5 + body[4]])
    for kind, body in found:
        if kind == b"av1C" and len(body) > 2 and body[2] & 0x40:
            return 12 if body[2] & 0x20 else 10
    return 8


def cicp(found: list[Box]) -> bytes | None:
    """The colour space of a picture's properties as the body of a PNG's cICP.

    None for sRGB, and if a profile or nothing states it.
    """
    for kind, body in found:
        if kind == b"colr" and body[:4] == b"nclx" and len(body) >= 10:
            primaries, transfer = struct.unpack_from(">HH", body, 4)
            return stated_cicp(primaries, transfer)
    return None


def stated_cicp(primaries: int, transfer: int) -> bytes | None:
    """Body of a PNG's cICP for codes of H.273; None for sRGB. Unspecified is sRGB."""
    codes = [
        usual if code == _UNSPECIFIED else code
        for code, usual in zip((primaries, transfer), _SRGB, strict=True)
    ]
    # The tone curve of BT.709 and BT.601 counts as that of sRGB.
    if tuple(codes) == _SRGB or (codes[0] == 1 and codes[1] in (1, 6)):
        return None
    return bytes([codes[0] & 255, codes[1] & 255, 0, 1])
