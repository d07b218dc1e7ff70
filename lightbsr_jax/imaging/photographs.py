"""People's pictures: all that a file says of one, read and written again.

`files.read_rgb` makes uint8 RGB of anything, for training and measuring. Here grey
stays grey, 16 bits stay 16, and transparency, colour profile and notes are kept.
Pixels are uint8 in 0..255, uint16 in 0..65535, or (of a TIFF) float32 of any range.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from lightbsr_jax import atomic
from lightbsr_jax.errors import UserError
from lightbsr_jax.imaging import decoding, encoding, exif, files, notes, png, tiff
from lightbsr_jax.imaging.encoding import DEEP, TRANSPARENT
from lightbsr_jax.imaging.errors import ImageError, errors_named
from lightbsr_jax.imaging.notes import Metadata

# Ends of names and formats; the first end of each is the one that is given.
FORMATS = {
    "png": "PNG",
    "jpg": "JPEG",
    "jpeg": "JPEG",
    "webp": "WEBP",
    "tif": "TIFF",
    "tiff": "TIFF",
    "bmp": "BMP",
}
_LONGEST_SIDE = {"JPEG": 65500, "WEBP": 16383}
_LONGEST_NOTES = {  # bytes
    "JPEG": {"exif": 65533, "xmp": 65504, "photoshop": 65519, "comment": 65533}
}
# What the other formats hold of the notes; no format holds all.
_HELD = {
    "PNG": {"exif", "xmp", "texts", "comment"},
    "JPEG": {"exif", "xmp", "photoshop", "comment"},
    "WEBP": {"exif", "xmp"},
    "TIFF": {"exif", "xmp", "photoshop"},
    "BMP": set(),
}
_NAMES = {
    "exif": "EXIF",
    "xmp": "XMP",
    "texts": "PNG's texts",
    "photoshop": "IPTC and Photoshop's notes",
    "comment": "the comment",
}


class Photograph(NamedTuple):
    """A picture upright; `colour` and `alpha` are of one type."""

    colour: np.ndarray  # [h, w, 3], or [h, w, 1] of a grey one
    alpha: np.ndarray | None  # [h, w, 1]
    profile: bytes | None  # ICC; of a PNG also one for the space that it states
    format: str  # one of FORMATS' values
    metadata: Metadata


def read(path: str | Path) -> Photograph:
    """The picture in a file.

    Raises ImageError for a file that is corrupt, truncated, too large, animated, of
    several pages, in CMYK or of another kind that is not supported.
    """
    with files.opened(path) as file:
        return of_bytes(file.read(), path)


def of_bytes(data: bytes, name: str | Path) -> Photograph:
    """The picture in the bytes of a file; errors, as of `read`, call it by `name`."""
    with errors_named(name, data):
        if not data:
            raise ImageError("the file is empty")
        decoded = decoding.decode(data)
        if decoded.pictures > 1:
            raise ImageError(
                f"holds {decoded.pictures} pictures or more (an animation, or pages); "
                "save one by itself"
            )
        if decoded.colours == 4:
            raise ImageError("is in CMYK, a printer's colours; convert it to RGB")
        metadata = notes.read(data, decoded)
        colours = decoded.colours
        colour, alpha = decoded.samples[..., :colours], decoded.samples[..., colours:]
        return Photograph(
            colour,
            alpha if alpha.shape[-1] else None,
            _profile(data, decoded, metadata),
            decoded.format,
            metadata,
        )


def check_format(kind: str, size: tuple[int, int], path: str | Path) -> None:
    """Raises UserError where a format cannot hold a picture of that (height, width)."""
    longest = _LONGEST_SIDE.get(kind, 2**31 - 1)
    if max(size) > longest:
        raise UserError(
            f"{path}: {size[1]} x {size[0]} pixels are more than {kind} holds, "
            f"{longest} a side: write PNG or TIFF, or take a smaller --scale"
        )


def left_out(photograph: Photograph, kind: str) -> list[str]:
    """What the file has and one of the format `kind` would not, in words."""
    metadata, lost = photograph.metadata, list(photograph.metadata.lost)
    too_long = _too_long(metadata, kind)
    for field, name in _NAMES.items():
        if not getattr(metadata, field):
            continue
        if field in too_long:
            lost.append(f"{name}: too long for {kind}")
        elif field not in _HELD[kind]:
            lost.append(name)
    if kind == "TIFF" and metadata.exif is not None:
        details = exif.parts(metadata.exif).exif
        if details is not None and details.value(exif.MAKER_NOTE) is not None:
            lost.append("the maker note")
    if metadata.aspect is not None and kind in ("WEBP", "BMP"):
        lost.append("the pixels' aspect")
    if kind == "BMP" and photograph.profile is not None:
        lost.append("the colour profile")
    if photograph.alpha is not None and kind not in TRANSPARENT:
        lost.append("transparency")
    if photograph.colour.dtype != np.uint8 and kind not in DEEP:
        lost.append("more than 8 bits")
    return lost


def write(
    path: str | Path,
    photograph: Photograph,
    *,
    kind: str,
    quality: int = 95,
    mode: int | None = None,
) -> None:
    """Writes the picture whole or not at all; folders are made.

    What the format `kind` does not hold is converted, 16 bits to 8, transparency to
    white, or left out: see `left_out`. `quality`, of 1 to 100, is for JPEG and WebP,
    `mode` the file's permissions. Raises UserError for float32 beyond 0..1 in another
    format than TIFF.
    """
    content = encode(photograph, kind=kind, quality=quality)
    atomic.replace(path, lambda new: new.write_bytes(content), mode=mode)


def encode(photograph: Photograph, *, kind: str, quality: int = 95) -> bytes:
    """The bytes of a file of the format `kind`; see `write`."""
    colour, alpha, profile, _, metadata = photograph
    if colour.dtype == np.float32 and kind != "TIFF":
        colour = _sixteen_bits(colour, kind)
        alpha = None if alpha is None else _sixteen_bits(alpha, kind)
    if alpha is not None and kind not in TRANSPARENT:
        top = np.iinfo(colour.dtype).max
        opacity = alpha / np.float32(top)
        colour = np.rint(colour * opacity + top * (1 - opacity)).astype(colour.dtype)
        alpha = None
    samples = colour if alpha is None else np.concatenate([colour, alpha], -1)
    if samples.dtype == np.uint16 and kind not in DEEP:
        samples = ((samples.astype(np.uint32) + 128) // 257).astype(np.uint8)
    unheld = (_NAMES.keys() - _HELD[kind]) | set(_too_long(metadata, kind))
    held = metadata._replace(
        **{name: {} if name == "texts" else None for name in unheld}
    )
    if metadata.colour and colour.shape[-1] == 1 and kind != "PNG":
        profile = None  # one for three channels does not go with grey
    return encoding.encode(samples, profile, held, kind=kind, quality=quality)


def check_range(photograph: Photograph, kind: str, path: str | Path) -> None:
    """Raises UserError for float32 beyond 0..1 where `kind` is not TIFF."""
    if photograph.colour.dtype == np.float32 and kind != "TIFF":
        try:
            _sixteen_bits(photograph.colour, kind)
        except UserError as error:
            raise UserError(f"{path}: {error}") from error


def _sixteen_bits(samples: np.ndarray, kind: str) -> np.ndarray:
    low, high = samples.min(), samples.max()
    if not (low >= 0 and high <= 1):  # NaN, too
        raise UserError(
            f"float32 samples from {low:g} to {high:g} are beyond the 0 to 1 that "
            f"{kind} could hold: write TIFF"
        )
    return np.rint(samples * np.float32(65535)).astype(np.uint16)


def _too_long(metadata: Metadata, kind: str) -> list[str]:
    longest = _LONGEST_NOTES.get(kind, {})
    return [n for n, most in longest.items() if len(getattr(metadata, n) or b"") > most]


def _profile(
    data: bytes, decoded: decoding.Decoded, metadata: Metadata
) -> bytes | None:
    if decoded.format == "TIFF":
        return tiff.profile(data)
    if metadata.colour:
        return png.stated_profile(list(metadata.colour))
    if decoded.image is None:
        return None
    return decoded.image.info.get("icc_profile") or None
