"""Metadata of image files: reading it, updating it to a new size, naming losses."""

import re
import struct
from typing import Any, NamedTuple

from lightbsr_jax.imaging import (
    decoding,
    exif,
    ifd,
    isobmff,
    photoshop,
    png,
    xmp,
)
from lightbsr_jax.imaging.decoding import Decoded
from lightbsr_jax.imaging.ifd import Directory, Entry

Size = tuple[int, int]  # height, width

_PER_INCH, _PER_CENTIMETRE = 2, 3
_DESCRIPTION, _EXTRA_SAMPLES = 270, 338
_PIXEL_SCALE, _TIE_POINTS, _TRANSFORMATION = 33550, 33922, 34264  # of GeoTIFF
_OME_SIZES = {b"SizeY": 0, b"SizeX": 1}
# Names in a gain map behind a JPEG, which its own XMP need not announce.
_GAIN_MAPS = (b"HDRGainMap", b"hdrgainmap", b"urn:iso:std:iso:ts:21496:-1")
_CREDENTIALS = b"jumdc2pa"  # begin of a manifest (JUMBF), in any format


class Metadata(NamedTuple):
    """Metadata of an image file."""

    exif: bytes | None  # a block without orientation, which is applied
    xmp: bytes | None
    dpi: tuple[float, float] | None
    texts: tuple[png.Chunk, ...]  # of a PNG
    aspect: tuple[float, float] | None = None  # resolution in an unknown unit
    colour: tuple[png.Chunk, ...] = ()  # a PNG's colour chunks, instead of a profile
    photoshop: bytes | None = None  # resources, including IPTC
    comment: bytes | None = None  # of a JPEG
    lossless: bool = False  # a WebP or JPEG XL
    lost: tuple[str, ...] = ()  # names of metadata that no result keeps


def read(data: bytes, decoded: Decoded) -> Metadata:
    """Reads the metadata of a file's bytes. Broken parts are left out, not fatal.

    Raises ImageError for high dynamic range.
    """
    of_format = _of_tiff if decoded.format == "TIFF" else _of_info
    found = of_format(data, decoded)
    if decoded.orientation not in decoding.SIDEWAYS:
        return found
    dpi, aspect = (pair and (pair[1], pair[0]) for pair in (found.dpi, found.aspect))
    return found._replace(dpi=dpi, aspect=aspect)


def _of_info(data: bytes, decoded: Decoded) -> Metadata:
    image, info = decoded.image, decoded.info
    block, packet, texts = info.get("exif"), info.get("xmp"), info.get("texts", ())
    lost = [*info.get("lost", ()), *_beside(data, info)]
    colour = ((b"cICP", info["cicp"]),) if "cicp" in info else info.get("colour", ())
    png.check_range(colour)
    if info.get("icc_profile"):
        colour = ()
    if info.get("icc_profile", b"") is None:  # as Pillow states one that is broken
        lost.append("the colour profile (broken)")
    if block is not None:
        block = block if block.startswith(exif.PREFIX) else exif.PREFIX + block
        kept = exif.tidied(block)
        lost += ["EXIF (broken)"] * (kept is None)
        block = kept or None
    packet, gone = _packet(packet, decoded)
    lost += gone
    dpi = _usable(info.get("dpi"))
    aspect = info.get("aspect")  # of a PNG
    if info.get("jfif_unit") == 0:
        dpi, aspect = None, info.get("jfif_density")
    return Metadata(
        block,
        packet,
        dpi,
        texts,
        aspect=_usable(aspect) if aspect and len(set(aspect)) > 1 else None,
        colour=colour,
        photoshop=None if image is None else photoshop.of_jpeg(image),
        comment=info.get("comment") if decoded.format == "JPEG" else None,
        lossless=(decoded.format == "WEBP" and _is_lossless(data))
        or (decoded.format == "JXL" and info.get("lossless", False)),
        lost=tuple(dict.fromkeys(lost)),
    )


def _packet(packet: bytes | None, decoded: Decoded) -> tuple[bytes | None, list[str]]:
    """An XMP packet for the upright picture, and names of lost parts."""
    if packet is None:
        return None, []
    turns, mirrored = decoding.TURNS[decoded.orientation]
    return xmp.cleaned(xmp.tidied(packet, turns, mirrored))


def _beside(data: bytes, info: dict[str, Any]) -> list[str]:
    """Names of what a file holds beside its picture and no other part announces."""
    further = "mp" in info and any(name in data for name in _GAIN_MAPS)
    found = [isobmff.GAIN_MAP] * (further or isobmff.has_gain_map(data))
    return found + ["content credentials (C2PA)"] * (_CREDENTIALS in data)


def scaled(metadata: Metadata, old: Size, new: Size) -> Metadata:
    """Updates metadata to an enlarged picture: it scales sizes and positions."""
    if old == new:
        return metadata
    factors = new[0] / old[0], new[1] / old[1]
    if metadata.xmp is not None:
        metadata = metadata._replace(xmp=xmp.scaled(metadata.xmp, factors))
    if metadata.exif is None:
        return metadata
    main = exif.parts(metadata.exif).main
    values = {
        e.tag: grown
        for e in main.entries
        if (grown := _grown(main, e.tag, factors)) is not None
    }
    if values:
        block = exif.with_values(metadata.exif, values)
        metadata = metadata._replace(exif=block)
    description = main.value(_DESCRIPTION) or b""
    if description.startswith(b"ImageJ=") and metadata.aspect is not None:
        # ImageJ's calibration: a resolution in a unit that its description names.
        x, y = metadata.aspect
        metadata = metadata._replace(aspect=(x * factors[1], y * factors[0]))
    return metadata


def _grown(main: Directory, tag: int, factors: tuple[float, float]) -> bytes | None:
    """The value of a tag for the larger picture; None if it does not change."""
    down, across = factors
    if tag == _DESCRIPTION:
        value = main.value(tag)
        return _ome(value, factors) if value and b"<OME" in value else None
    numbers = ifd.numbers(main, tag, "d")
    if numbers is None or tag not in (_PIXEL_SCALE, _TIE_POINTS, _TRANSFORMATION):
        return None
    if tag == _PIXEL_SCALE and len(numbers) == 3:
        numbers = [numbers[0] / across, numbers[1] / down, numbers[2]]
    elif tag == _TIE_POINTS:  # of six numbers each, the first two in pixels
        sides = (across, down, 1, 1, 1, 1)
        numbers = [n * sides[i % 6] for i, n in enumerate(numbers)]
    elif tag == _TRANSFORMATION and len(numbers) == 16:
        sides = (across, down, 1, 1)
        numbers = [n / sides[i % 4] for i, n in enumerate(numbers)]
    return struct.pack(f"{main.order}{len(numbers)}d", *numbers)


def _ome(description: bytes, factors: tuple[float, float]) -> bytes:
    """Updates the sizes of the picture and of its pixels in an OME description."""
    for name, axis in _OME_SIZES.items():
        factor = factors[axis]

        def grown(match: re.Match[bytes], factor: float = factor) -> bytes:
            return match[1] + str(round(int(match[2]) * factor)).encode() + match[3]

        def shrunk(match: re.Match[bytes], factor: float = factor) -> bytes:
            return match[1] + repr(float(match[2]) / factor).encode() + match[3]

        description = re.sub(rb"(\b" + name + rb'=")(\d+)(")', grown, description)
        physical = rb"(\bPhysical" + name + rb'=")([\d.eE+-]+)(")'
        description = re.sub(physical, shrunk, description)
    return description


def _of_tiff(data: bytes, decoded: Decoded) -> Metadata:
    block, whole, lost = exif.of_tiff(data, decoded.directory)
    dpi = aspect = None
    resolution = (_rational(whole, 282), _rational(whole, 283))
    if None not in resolution and (resolution := _usable(resolution)) is not None:
        unit = whole.number(296)
        inches = {_PER_CENTIMETRE: 2.54, 1: None}.get(unit or 0, 1)
        if inches is None:
            aspect = resolution
        else:
            dpi = tuple(n * inches for n in resolution)
    spare = ifd.numbers(whole, _EXTRA_SAMPLES, "H") or []
    if sum(kind not in (1, 2) for kind in spare) or len(spare) > 1:
        lost.append("further channels")
    packet, gone = _packet(whole.value(exif.XMP), decoded)
    lost += gone
    resources = photoshop.kept(whole.value(exif.PHOTOSHOP) or b"") or None
    record = whole.value(exif.IPTC)
    if record is not None and photoshop.iptc(resources or b"") is None:
        resources = (resources or b"") + photoshop.of_iptc(record)
    return Metadata(
        block,
        packet,
        dpi,
        (),
        aspect=aspect,
        photoshop=resources,
        lost=tuple(lost),
    )


def tiff_tags(metadata: Metadata) -> list[Entry]:
    """The metadata that TIFF has separate tags for, without EXIF."""
    tags = []
    if metadata.xmp is not None:
        tags.append(Entry(exif.XMP, 1, len(metadata.xmp), metadata.xmp))
    if metadata.photoshop is not None:
        content = metadata.photoshop
        tags.append(Entry(exif.PHOTOSHOP, 7, len(content), content))
        record = photoshop.iptc(content)
        if record is not None:
            tags.append(Entry(exif.IPTC, 7, len(record), record))
    return tags


def _usable(pair: tuple | None) -> tuple[float, float] | None:
    """Returns a valid resolution, or None: TIFF files may state 0/0."""
    try:
        x, y = map(float, pair or ())
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return (x, y) if 0 < x < 2**31 and 0 < y < 2**31 else None


def _rational(directory: Directory, tag: int) -> float | None:
    numbers = ifd.numbers(directory, tag, "I")
    if numbers is None or len(numbers) < 2 or numbers[1] == 0:
        return None
    return numbers[0] / numbers[1]


def _is_lossless(data: bytes) -> bool:
    place = 12
    while place + 8 <= len(data):
        if data[place : place + 4] == b"VP8L":
            return True
        (length,) = struct.unpack_from("<I", data, place + 4)
        place += 8 + length + length % 2
    return False
