"""JPEG XL pictures, by imagecodecs (libjxl).

imagecodecs reads and writes pixels only. What a file states beside them is read and
written here: size, depth and colours at the beginning of the codestream (ISO 18181-1,
annex D), and EXIF and XMP in boxes (18181-2).
"""

import struct
from typing import Any, BinaryIO, NamedTuple

import imagecodecs
import numpy as np

from lightbsr_jax.imaging import depths, icc, isobmff, jxl_icc
from lightbsr_jax.imaging.errors import ImageError, check_pixels
from lightbsr_jax.imaging.jxl_icc import Bits

_CODESTREAM = b"\xff\x0a"
_CONTAINER = b"\0\0\0\x0cJXL \r\n\x87\n"
_FILE_TYPE = isobmff.box(b"ftyp", b"jxl \0\0\0\0jxl ")
_SIDES = ((9, 1), (13, 1), (18, 1), (30, 1))
_RATIOS = {
    1: (1, 1),
    2: (12, 10),
    3: (4, 3),
    4: (3, 2),
    5: (16, 9),
    6: (5, 4),
    7: (2, 1),
}
_ENUM = ((0, 0), (0, 1), (4, 2), (6, 18))
_GREY = 1  # a colour space
_ALPHA, _BLACK = 0, 4  # kinds of channels
_D65, _CUSTOM = 1, 2
_PARTS_OF_GAMMA = 10_000_000
_PNG_UNIT = 100_000  # of gAMA and cHRM
_CHROMATICITIES = {  # white points and primaries by their codes
    "white": {1: (0.3127, 0.329), 10: (1 / 3, 1 / 3), 11: (0.314, 0.351)},
    "primaries": {
        1: (0.64, 0.33, 0.3, 0.6, 0.15, 0.06),
        9: (0.708, 0.292, 0.17, 0.797, 0.131, 0.046),
        11: (0.68, 0.32, 0.265, 0.69, 0.15, 0.06),
    },
}
_PQ, _HLG, _LINEAR, _DCI, _SRGB = 16, 18, 8, 17, 13
_UNSPECIFIED_CURVES = (1, 2, _SRGB)  # BT.709 and unknown count as sRGB


class Colours(NamedTuple):
    """A colour space: a profile, or codes and numbers."""

    profile: bytes | None = None
    white: tuple[float, ...] = _CHROMATICITIES["white"][1]
    primaries: tuple[float, ...] = _CHROMATICITIES["primaries"][1]
    gamma: float | None = None  # an exponent below 1
    curve: int = _SRGB


class Header(NamedTuple):
    """The statements of a codestream before its pixels; places are in bits."""

    size: tuple[int, int]  # of the upright picture
    bits: int
    is_animated: bool
    kinds: list[int]  # of the channels beside red, green and blue, or grey
    is_premultiplied: bool  # colour by alpha
    is_xyb: bool  # lossy
    is_grey: bool
    colours: Colours
    begin: int  # place of the colour space
    end: int  # place after it
    last: int  # place after all but a profile


def is_jxl(start: bytes) -> bool:
    """Returns whether a file is JPEG XL, from its first bytes."""
    return start.startswith((_CODESTREAM, _CONTAINER))


def size(file: BinaryIO) -> tuple[int, int]:
    """The (height, width) of the upright picture."""
    file.seek(0)
    return _header(_parts(file.read())[0]).size


def samples(data: bytes) -> tuple[np.ndarray, dict[str, Any], int]:
    """Upright samples [h, w, C], metadata by Pillow's names, and number of pictures.

    Samples are uint8, uint16 in the full range, or float32.
    """
    stream, notes = _parts(data)
    header = _header(stream)
    check_pixels(header.size[0] * header.size[1])
    if _BLACK in header.kinds:  # CMYK
        raise ImageError("is in CMYK, a printer's colours; convert it to RGB")
    found = imagecodecs.jpegxl_decode(data, index=0)
    found = found[..., None] if found.ndim == 2 else found
    if found.dtype == np.float16:
        found = found.astype(np.float32)
    if found.dtype != np.float32 and header.bits not in (8, 16):
        if found.dtype == np.uint8 and header.bits < 8:
            most = 2**header.bits - 1
            found = np.rint(found * (255 / most)).astype(np.uint8)
        else:
            found = depths.scaled(found, header.bits)
    if header.is_premultiplied:
        colour, alpha = found[..., :-1], found[..., -1:]
        found = np.concatenate([depths.divided(colour, alpha), alpha], -1)
    if any(kind != _ALPHA for kind in header.kinds):
        notes["lost"] = [*notes.get("lost", ()), "further channels"]
    notes.setdefault("lossless", not header.is_xyb)
    return found, notes | _stated(header), 2 if header.is_animated else 1


def encoded(
    pixels: np.ndarray,
    profile: bytes | None,
    *,
    exif: bytes | None,
    xmp: bytes | None,
    quality: int,
    lossless: bool,
) -> bytes:
    """Encodes uint8 or uint16 samples [h, w, C].

    Lossy files hold sRGB alone: a picture with another profile is written losslessly.
    """
    if profile is not None and _is_srgb(profile):
        profile = None
    is_deep = pixels.dtype == np.uint16
    lossless = lossless or profile is not None or quality == 100
    if is_deep and not lossless:  # imagecodecs takes 16 bits as linear
        pixels = _linear(pixels)
    pixels = pixels if pixels.shape[-1] > 1 else pixels[..., 0]
    if lossless:
        made = imagecodecs.jpegxl_encode(pixels, lossless=True)
    else:
        made = imagecodecs.jpegxl_encode(pixels, distance=_distance(quality))
    stream = _parts(made)[0]
    if profile is not None or is_deep:
        stream = _with_colours(stream, profile)
    level = []  # of decoders, stated for 16 bits
    if made.startswith(_CONTAINER):
        level = [body for kind, body in isobmff.boxes(made) if kind == b"jxll"]
    if exif is None and xmp is None and not level:
        return stream
    found = _CONTAINER + _FILE_TYPE + b"".join(isobmff.box(b"jxll", x) for x in level)
    if exif is not None:
        block = bytes(4) + exif.removeprefix(b"Exif\0\0")
        found += isobmff.box(b"Exif", block)
    if xmp is not None:
        found += isobmff.box(b"xml ", xmp)
    return found + isobmff.box(b"jxlc", stream)


def _linear(pixels: np.ndarray) -> np.ndarray:
    """Removes sRGB's tone curve from the colours of uint16 samples [h, w, C]."""
    count = pixels.shape[-1] - (pixels.shape[-1] + 1) % 2
    values = np.arange(65536) / 65535
    curve = np.where(
        values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4
    )
    table = np.rint(curve * 65535).astype(np.uint16)
    return np.concatenate([table[pixels[..., :count]], pixels[..., count:]], -1)


def _is_srgb(profile: bytes) -> bool:
    try:
        return icc.working(profile) is None
    except icc.UnusableProfile:
        return False


def _distance(quality: int) -> float:
    """Butteraugli distance of a quality, as in libjxl."""
    if quality >= 30:
        return 0.1 + (100 - quality) * 0.09
    return 53 / 3000 * quality**2 - 23 / 20 * quality + 25


def _parts(data: bytes) -> tuple[bytes, dict[str, Any]]:
    """The codestream of a file, and the metadata in its boxes."""
    if not data.startswith(_CONTAINER):
        return data, {}
    stream, notes = b"", {}
    for kind, body in isobmff.boxes(data):
        if kind == b"brob":
            kind, body = body[:4], imagecodecs.brotli_decode(body[4:])
        if kind == b"jxlc":
            stream = body
        elif kind == b"jxlp":
            stream += body[4:]
        elif kind == b"Exif":
            (offset,) = struct.unpack_from(">I", body)
            notes["exif"] = body[4 + offset :].removeprefix(b"Exif\0\0")
        elif kind == b"xml ":
            notes["xmp"] = body
        elif kind == b"jbrd":  # the picture was a JPEG
            notes["lossless"] = False
        elif kind == b"jhgm":
            notes["lost"] = [isobmff.GAIN_MAP]
    return stream, notes


def _stated(header: Header) -> dict[str, Any]:
    """The colour space as a profile, or as chunks of a PNG ("colour")."""
    colours = header.colours
    if colours.profile is not None:
        if not header.is_xyb:
            return {"icc_profile": colours.profile}
        # libjxl without the profile returns linear sRGB.
        return {"colour": ((b"cICP", bytes([1, _LINEAR, 0, 1])),)}
    if colours.curve in (_PQ, _HLG) and colours.gamma is None:
        return {"colour": ((b"cICP", bytes([9, colours.curve, 0, 1])),)}
    if colours == Colours(curve=colours.curve) and colours.curve in _UNSPECIFIED_CURVES:
        return {}
    gamma = colours.gamma
    if gamma is None and colours.curve in (_LINEAR, _DCI):
        gamma = 1.0 if colours.curve == _LINEAR else 1 / 2.6
    if not header.is_grey:
        x, y, *rest = colours.primaries
        primaries = ((x, y), (rest[0], rest[1]), (rest[2], rest[3]))
        white = (colours.white[0], colours.white[1])
        exponent = None if gamma is None else 1 / gamma
        return {"icc_profile": icc.stated(white, primaries, exponent)}
    numbers = [round(n * _PNG_UNIT) for n in (*colours.white, *colours.primaries)]
    chunks = [(b"cHRM", struct.pack(">8I", *numbers))]
    if gamma is not None:
        chunks.append((b"gAMA", struct.pack(">I", round(gamma * _PNG_UNIT))))
    return {"colour": tuple(chunks)}


# The header


def _header(stream: bytes) -> Header:
    """Reads the header of a codestream. Raises ValueError if it is broken."""
    if not stream.startswith(_CODESTREAM):
        raise ValueError("a JPEG XL file without a picture")
    bits = Bits(stream, 8 * len(_CODESTREAM))
    sides = _size(bits)
    if bits.read(1):  # all defaults: 8 bits, lossy, sRGB
        place = bits.place
        usual = Colours()
        return Header(sides, 8, False, [], False, True, False, usual, place, place, 0)
    orientation, animated, more = 1, False, bits.read(1)
    if more:
        orientation = bits.read(3) + 1
        if bits.read(1):
            _size(bits)
        if bits.read(1):
            _preview(bits)
        animated = bool(bits.read(1))
        if animated:
            _animation(bits)
    depth = _depth(bits)
    bits.read(1)
    count = bits.one_of((0, 0), (0, 1), (4, 2), (12, 1))
    channels = [_channel(bits) for _ in range(count)]
    is_xyb = bool(bits.read(1))
    begin = bits.place
    colours, is_grey, has_profile = _colours(bits)
    end = bits.place
    _skip_to_profile(bits, more=bool(more), is_xyb=is_xyb)
    last = bits.place
    if has_profile:
        colours = Colours(jxl_icc.read(bits))
    height, width = sides
    upright = (height, width) if orientation < 5 else (width, height)
    return Header(
        upright,
        depth,
        animated,
        [kind for kind, _ in channels],
        any(multiplied for _, multiplied in channels),
        is_xyb,
        is_grey,
        colours,
        begin,
        end,
        last,
    )


def _size(bits: Bits) -> tuple[int, int]:
    small = bits.read(1)

    def side() -> int:
        return 8 * (bits.read(5) + 1) if small else bits.one_of(*_SIDES)

    height = side()
    ratio = bits.read(3)
    if ratio == 0:
        return height, side()
    across, down = _RATIOS[ratio]
    return height, height * across // down


def _preview(bits: Bits) -> None:
    of_eight = bits.read(1)
    choices = ((6, 1), (8, 65), (10, 321), (12, 1345))
    choices = ((0, 16), (0, 32), (5, 1), (9, 33)) if of_eight else choices
    bits.one_of(*choices)
    if bits.read(3) == 0:
        bits.one_of(*choices)


def _animation(bits: Bits) -> None:
    bits.one_of((0, 100), (0, 1000), (10, 1), (30, 1))
    bits.one_of((0, 1), (0, 1001), (8, 1), (10, 1))
    bits.one_of((0, 0), (3, 0), (16, 0), (32, 0))
    bits.read(1)


def _depth(bits: Bits) -> int:
    if bits.read(1):
        count = bits.one_of((0, 32), (0, 16), (0, 24), (6, 1))
        bits.read(4)
        return count
    return bits.one_of((0, 8), (0, 10), (0, 12), (6, 1))


def _channel(bits: Bits) -> tuple[int, bool]:
    """Reads an extra channel: its kind, and whether it is multiplied into colour."""
    if bits.read(1):
        return _ALPHA, False
    kind = bits.one_of(*_ENUM)
    _depth(bits)
    bits.one_of((0, 0), (0, 3), (0, 4), (3, 1))
    length = bits.one_of((0, 0), (4, 0), (5, 16), (10, 48))
    bits.read(8 * length)
    if kind == _ALPHA:
        return kind, bool(bits.read(1))
    if kind == 2:
        bits.read(4 * 16)
    elif kind == 5:
        bits.one_of((0, 1), (2, 0), (4, 3), (8, 19))
    return kind, False


def _colours(bits: Bits) -> tuple[Colours, bool, bool]:
    """The colour space, whether it is grey, and whether a profile follows."""
    if bits.read(1):
        return Colours(), False, False
    has_profile, space = bool(bits.read(1)), bits.one_of(*_ENUM)
    is_grey = space == _GREY
    if has_profile or space == 2:  # XYB itself
        if not has_profile:
            bits.one_of(*_ENUM)
        return Colours(), is_grey, has_profile
    white = _chromaticity("white", bits, 1)
    primaries = _CHROMATICITIES["primaries"][1]
    if not is_grey:
        primaries = _chromaticity("primaries", bits, 3)
    gamma, curve = None, _SRGB
    if bits.read(1):
        gamma = bits.read(24) / _PARTS_OF_GAMMA
    else:
        curve = bits.one_of(*_ENUM)
    bits.one_of(*_ENUM)  # the intent
    return Colours(None, white, primaries, gamma, curve), is_grey, False


def _chromaticity(name: str, bits: Bits, count: int) -> tuple[float, ...]:
    kind = bits.one_of(*_ENUM)
    if kind != _CUSTOM:
        known: dict[int, tuple[float, ...]] = _CHROMATICITIES[name]
        if kind not in known:
            raise ValueError(f"unknown {name} {kind}")
        return known[kind]
    numbers = []
    for _ in range(2 * count):
        value = bits.one_of((19, 0), (19, 2**19), (20, 2**20), (21, 2**21))
        numbers.append((-(value + 1) // 2 if value & 1 else value // 2) / 1e6)
    return tuple(numbers)


def _skip_to_profile(bits: Bits, *, more: bool, is_xyb: bool) -> None:
    """Reads what lies between the colour space and its profile."""
    if more and not bits.read(1):  # tone mapping
        bits.read(16 + 16 + 1 + 16)
    extensions = bits.long()
    lengths = [bits.long() for i in range(64) if extensions >> i & 1]
    for length in lengths:
        bits.read(length)
    if bits.read(1):
        return
    if is_xyb and not bits.read(1):
        bits.read(16 * 16)  # the inverse matrix and its offsets
    weights = bits.read(3)
    for mask, count in ((1, 15), (2, 55), (4, 210)):
        if weights & mask:
            bits.read(16 * count)


def _with_colours(stream: bytes, profile: bytes | None) -> bytes:
    """Replaces the colour space of a codestream by a profile, or by sRGB for None.

    That of a lossy codestream only says what decoders return.
    """
    header = _header(stream)
    assert header.colours.profile is None
    source, made = Bits(stream), jxl_icc.Writer()

    def copy(begin: int, end: int) -> None:
        source.place = begin
        made.write(source.read(end - begin), end - begin)

    copy(0, header.begin)
    if profile is not None:
        made.write(0, 1)  # no default
        made.write(1, 1)  # a profile
        made.write(int(header.is_grey), 2)
    elif header.is_grey:
        made.write(0, 2)  # no default, no profile
        made.write(_GREY, 2)
        made.write(_D65, 2)
        made.write(0, 1)  # no gamma
        made.write(2, 2)
        made.write(_SRGB - 2, 4)
        made.write(1, 2)  # relative colours
    else:
        made.write(1, 1)
    copy(header.end, header.last)
    if profile is not None:
        jxl_icc.write(made, profile)
    return made.content() + stream[-(-header.last // 8) :]
