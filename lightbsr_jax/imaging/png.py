"""Reading and writing the chunks of PNG files that Pillow does not support.

The specification: PNG, third edition (W3C, 2025).
"""

import io
import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import imagecodecs
import numpy as np

from lightbsr_jax.imaging import icc
from lightbsr_jax.imaging.errors import ImageError

Chunk = tuple[bytes, bytes]  # kind and body

SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Chunks that state a colour space instead of a profile: PNG results keep them.
COLOUR_CHUNKS = (b"cICP", b"sRGB", b"gAMA", b"cHRM")
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_XMP = b"XML:com.adobe.xmp"  # name of a text
# Names of texts with ImageMagick's metadata, in hexadecimal digits, and what XMP
# begins with in the second.
_RAW = tuple(b"raw profile type " + kind for kind in (b"exif", b"app1", b"xmp"))
_RAW_XMP = b"http://ns.adobe.com/xap/1.0/\0"
_LARGEST = 64_000_000  # bytes of a chunk other than pixels

_D65 = (0.3127, 0.329)
_SRGB_PRIMARIES = ((0.64, 0.33), (0.3, 0.6), (0.15, 0.06))
# Codes of H.273, which cICP uses: primaries, and transfer curves as gammas (None: the
# curve of sRGB, which BT.709's resembles).
_PRIMARIES = {
    1: (_D65, _SRGB_PRIMARIES),
    5: (_D65, ((0.64, 0.33), (0.29, 0.6), (0.15, 0.06))),
    6: (_D65, ((0.63, 0.34), (0.31, 0.595), (0.155, 0.07))),
    9: (_D65, ((0.708, 0.292), (0.17, 0.797), (0.131, 0.046))),
    11: ((0.314, 0.351), ((0.68, 0.32), (0.265, 0.69), (0.15, 0.06))),
    12: (_D65, ((0.68, 0.32), (0.265, 0.69), (0.15, 0.06))),
}
_GAMMAS = {1: None, 4: 2.2, 5: 2.8, 6: None, 8: 1.0, 13: None, 14: None, 15: None}
_HIGH_DYNAMIC_RANGE = {16: "PQ", 18: "HLG"}


def chunks(file: BinaryIO) -> Iterator[Chunk]:
    """Yields the chunks of a file, without the bodies of pixels, up to its end."""
    file.seek(len(SIGNATURE))
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind in (b"IDAT", b"fdAT") or length > _LARGEST:
            body = b""
            file.seek(length, io.SEEK_CUR)
        else:
            body = file.read(length)
        yield kind, body
        if kind == b"IEND":  # other programs append their own data
            return
        file.seek(4, io.SEEK_CUR)


def without_texts(data: bytes) -> bytes:
    """A file without its texts, whose names Pillow confuses with its own."""
    kept, place = [data[: len(SIGNATURE)]], len(SIGNATURE)
    while place < len(data):
        end = place + 12 + int.from_bytes(data[place : place + 4], "big")
        if data[place + 4 : place + 8] not in _TEXTS:
            kept.append(data[place:end])
        place = end
    return b"".join(kept)


def notes(file: BinaryIO) -> dict[str, Any]:
    """The EXIF and XMP of a file, before or after the pixels, texts and colours.

    Under the names exif and xmp (bytes or None), and texts and colour (chunks).
    """
    found = list(chunks(file))
    exif = next((b"Exif\0\0" + body for kind, body in found if kind == b"eXIf"), None)
    xmp, others = None, []
    for chunk in (c for c in found if c[0] in _TEXTS):
        name = chunk[1].partition(b"\0")[0]
        if name == _XMP:
            xmp = _text(chunk) or None
        elif name.lower() in _RAW:
            body = _raw_profile(_text(chunk)) or None
            if body and (body.startswith(_RAW_XMP) or name.lower().endswith(b"xmp")):
                xmp = xmp or body.removeprefix(_RAW_XMP)
            else:
                exif = exif or body
        else:
            others.append(chunk)
    colour = tuple(chunk for chunk in found if chunk[0] in COLOUR_CHUNKS)
    return {"exif": exif, "xmp": xmp, "texts": tuple(others), "colour": colour}


def _text(chunk: Chunk) -> bytes:
    """The bytes of a text without its name; none if they are broken."""
    kind, body = chunk
    text = body.partition(b"\0")[2]
    packed = kind == b"zTXt" or (kind == b"iTXt" and text[:1] == b"\1")
    if kind == b"iTXt":  # a language and a translated name come first
        text = text[2:].split(b"\0", 2)[-1]
    elif packed:
        text = text[1:]
    try:
        return zlib.decompressobj().decompress(text, _LARGEST) if packed else text
    except zlib.error:
        return b""


def _raw_profile(text: bytes) -> bytes:
    """Decodes ImageMagick's hexadecimal digits; returns none if they are broken."""
    try:
        return bytes.fromhex(b"".join(text.split(b"\n")[3:]).decode("latin-1"))
    except ValueError:
        return b""


def check_range(found: Sequence[Chunk]) -> None:
    """Raises ImageError for high dynamic range, which a profile does not overrule."""
    cicp = dict(found).get(b"cICP", b"")
    if len(cicp) == 4 and (name := _HIGH_DYNAMIC_RANGE.get(cicp[1])) is not None:
        raise ImageError(
            f"is in high dynamic range ({name}, stated by cICP); convert it to "
            "standard range"
        )


def stated_profile(found: Sequence[Chunk]) -> bytes | None:
    """Makes an ICC profile of the chunks cICP, sRGB, gAMA and cHRM; None for sRGB."""
    known = dict(found)
    if len(cicp := known.get(b"cICP", b"")) == 4:
        primaries, transfer = cicp[0], cicp[1]
        if primaries in _PRIMARIES and transfer in _GAMMAS:
            if (primaries, _GAMMAS[transfer]) == (1, None):
                return None
            return icc.stated(*_PRIMARIES[primaries], _GAMMAS[transfer])
    if b"sRGB" in known:
        return None
    white, primaries = _chromaticities(known.get(b"cHRM", b""))
    gamma = None
    if len(known.get(b"gAMA", b"")) == 4:
        (encoding,) = struct.unpack(">I", known[b"gAMA"])
        encoding /= 100_000
        # Files state sRGB's curve as 1 / 2.2; values outside 0.05..20 are invalid.
        if 0.05 < encoding < 20 and not 0.44 < encoding < 0.47:
            gamma = 1 / encoding
    if gamma is None and primaries is _SRGB_PRIMARIES:
        return None
    return icc.stated(white, primaries, gamma)


def _chromaticities(body: bytes) -> tuple:
    srgb = (_D65, _SRGB_PRIMARIES)
    if len(body) != 32:
        return srgb
    values = np.array(struct.unpack(">8I", body)) / 100_000
    white, *primaries = (tuple(map(float, pair)) for pair in values.reshape(4, 2))
    usual = np.concatenate([[_D65], _SRGB_PRIMARIES]).ravel()
    triangle = np.linalg.det(np.column_stack([primaries, np.ones(3)]))
    if np.abs(values - usual).max() < 0.005 or abs(triangle) < 0.01 or white[1] == 0:
        return srgb
    return white, tuple(primaries)


def encoded(samples: np.ndarray, notes: list[Chunk]) -> bytes:
    """Encodes uint8 or uint16 samples [h, w, C], with the chunks `notes` first."""
    # imagecodecs ignores the byte before each row, which matters for narrow images.
    most = samples.nbytes + samples.nbytes // 8 + 16 * len(samples) + 100_000
    # It also refuses axes of length one whose stride is unusual, as in views.
    samples = samples.ravel().reshape(samples.shape)
    plain = imagecodecs.png_encode(samples, out=most)
    header = 8 + 12 + 13
    return plain[:header] + b"".join(map(_chunk, notes)) + plain[header:]


def profile_chunk(profile: bytes) -> Chunk:
    """Makes the chunk of an ICC profile."""
    return b"iCCP", b"ICC profile\0\0" + zlib.compress(profile)


def text_chunk(name: str, text: bytes) -> Chunk:
    """Makes the chunk of a text in UTF-8, with a name in Latin-1."""
    return b"iTXt", name.encode("latin-1", "replace") + bytes(5) + text


def resolution_chunk(x: float, y: float, *, per_inch: bool) -> Chunk:
    """Makes the chunk of pixels per inch, or only of the pixel aspect ratio."""
    if per_inch:
        x, y = x / 0.0254, y / 0.0254
    return b"pHYs", struct.pack(">IIB", round(x), round(y), per_inch)


def _chunk(chunk: Chunk) -> bytes:
    content = b"".join(chunk)
    check = struct.pack(">I", zlib.crc32(content))
    return struct.pack(">I", len(chunk[1])) + content + check
