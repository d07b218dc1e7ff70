"""Encoding samples and metadata to image files of each format."""

import io
import struct
from typing import Any

import numpy as np
import tifffile
from PIL import Image

from lightbsr_jax.imaging import exif, heif, ifd, jxl, notes, photoshop, png
from lightbsr_jax.imaging.notes import Metadata

_INCH, _NO_UNIT = 2, 1  # units of a TIFF's resolution
_FULL_CHROMA = 90  # least quality with colours at full resolution
_JFIF = 20  # bytes of a JPEG up to the end of its first segment


def encode(
    samples: np.ndarray,
    profile: bytes | None,
    metadata: Metadata,
    *,
    kind: str,
    quality: int,
) -> bytes:
    """Encodes uint8 samples [h, w, C], or other types that `kind` supports.

    `quality`, 1 to 100, applies to lossy formats.
    """
    if kind == "PNG":
        return png.encoded(samples, _png_notes(profile, metadata))
    if kind == "TIFF":
        return _tiff(samples, profile, metadata)
    if kind == "JXL":
        return jxl.encoded(
            samples,
            profile,
            exif=metadata.exif,
            xmp=metadata.xmp,
            quality=quality,
            lossless=metadata.lossless,
        )
    image = Image.fromarray(samples[..., 0] if samples.shape[-1] == 1 else samples)
    options: dict[str, Any] = {
        "icc_profile": profile,
        "exif": metadata.exif,
        "xmp": metadata.xmp,
        "dpi": metadata.dpi,
    }
    if kind == "JPEG":
        options |= {
            "quality": quality,
            "subsampling": 0 if quality >= _FULL_CHROMA else 2,
        }
        options["comment"] = metadata.comment
        options["extra"] = photoshop.jpeg_segment(metadata.photoshop) or None
    if kind == "WEBP":
        lossless = {"lossless": True, "exact": True}
        options |= lossless if metadata.lossless else {"quality": quality}
    if kind == "AVIF":
        subsampling = "4:4:4" if quality >= _FULL_CHROMA else "4:2:0"
        options |= {"quality": quality, "subsampling": subsampling}
        if samples.shape[-1] < 3:
            options["subsampling"] = "4:0:0"
    given = {name: value for name, value in options.items() if value is not None}
    if kind == "HEIF":
        return heif.encoded(image, quality, given)
    buffer = io.BytesIO()
    image.save(buffer, kind, **given)
    content = buffer.getvalue()
    if kind == "JPEG" and metadata.aspect is not None:
        content = _with_aspect(content, metadata.aspect)
    return content


def _png_notes(profile: bytes | None, metadata: Metadata) -> list[png.Chunk]:
    chunks = list(metadata.colour)
    if profile is not None and not metadata.colour:
        chunks.append(png.profile_chunk(profile))
    if metadata.dpi is not None:
        chunks.append(png.resolution_chunk(*metadata.dpi, per_inch=True))
    elif metadata.aspect is not None:
        chunks.append(png.resolution_chunk(*_whole(metadata.aspect), per_inch=False))
    if metadata.exif is not None:
        chunks.append((b"eXIf", metadata.exif.removeprefix(exif.PREFIX)))
    chunks += metadata.texts
    if metadata.comment:
        comment = metadata.comment.decode(errors="replace")
        chunks.append(png.text_chunk("Comment", comment.encode()))
    if metadata.xmp is not None:
        chunks.append(png.text_chunk("XML:com.adobe.xmp", metadata.xmp))
    return chunks


def _with_aspect(jpeg: bytes, aspect: tuple[float, float]) -> bytes:
    """Sets the pixels' aspect ratio in the first segment of a JPEG of Pillow."""
    head = bytearray(jpeg[:_JFIF])
    head[13:18] = struct.pack(">BHH", 0, *_whole(aspect))
    return bytes(head) + jpeg[_JFIF:]


def _whole(aspect: tuple[float, float]) -> tuple[int, int]:
    """An aspect ratio in whole numbers of 16 bits."""
    x, y = aspect
    most, largest = 65535, max(aspect)
    if largest > most or any(n != round(n) for n in aspect):
        x, y = x * most / largest, y * most / largest
    return max(round(x), 1), max(round(y), 1)


def _tiff(samples: np.ndarray, profile: bytes | None, metadata: Metadata) -> bytes:
    """Encodes a TIFF with all metadata."""
    found = exif.Parts(ifd.Directory("<", [], 0))
    if metadata.exif is not None:
        found = exif.without_maker_note(exif.parts(metadata.exif))
    resolution, unit = metadata.dpi, _INCH
    if resolution is None and metadata.aspect is not None:
        resolution, unit = metadata.aspect, _NO_UNIT
    channels = samples.shape[-1]
    options: dict[str, Any] = {"byteorder": found.main.order}
    if channels % 2 == 0:
        options["extrasamples"] = ["unassalpha"]
    if resolution is not None:
        options |= {"resolution": resolution, "resolutionunit": unit}
    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer,
        samples if channels > 1 else samples[..., 0],
        photometric="rgb" if channels > 2 else "minisblack",
        planarconfig="contig" if channels > 1 else None,
        compression="zlib",
        predictor=True,
        iccprofile=profile,
        software=False,
        metadata=None,
        **options,
    )
    return _with_tags(buffer.getvalue(), found, notes.tiff_tags(metadata))


def _with_tags(tiff: bytes, found: exif.Parts, tags: list[ifd.Entry]) -> bytes:
    """Adds tags to the first directory of a TIFF, and moves it to the file's end."""
    order, big = ifd.layout(tiff)
    tags = tags + [e for e in found.main.entries if e.tag not in exif.LAYOUT]
    if big or not (tags or found.exif or found.gps):
        return tiff  # files over 4 GB get no tags
    data = bytearray(tiff) + bytes(len(tiff) % 2)
    main = ifd.read(tiff, ifd.first(tiff))
    content, places = exif.directories(found, len(data))
    data += content
    data += bytes(len(data) % 2)
    main = exif.pointing(main._replace(entries=main.entries + tags), places)
    data[4:8] = struct.pack(order + "I", len(data))
    return bytes(data) + ifd.written(main, len(data))
