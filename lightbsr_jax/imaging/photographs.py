"""Reading and writing photographs with all of their metadata.

`files.read_rgb` converts anything to uint8 RGB, for training and measuring. Here grey
stays grey, 16 bits stay 16, and transparency, colour profile and metadata are kept.
Pixels are uint8 in 0..255, uint16 in 0..65535, or (in TIFF and JPEG XL) float32.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from lightbsr_jax import atomic
from lightbsr_jax.errors import UserError
from lightbsr_jax.imaging import (
    decoding,
    encoding,
    exif,
    files,
    formats,
    ifd,
    notes,
    png,
)
from lightbsr_jax.imaging.errors import ImageError, errors_named
from lightbsr_jax.imaging.notes import Metadata

FORMATS = formats.RESULTS  # the formats of results by their suffixes
_NAMES = {
    "exif": "EXIF",
    "xmp": "XMP",
    "texts": "PNG texts",
    "photoshop": "IPTC and Photoshop metadata",
    "comment": "the comment",
}


class Photograph(NamedTuple):
    """An upright picture; `colour` and `alpha` have the same type."""

    colour: np.ndarray  # [h, w, 3], or [h, w, 1] if it is grey
    alpha: np.ndarray | None  # [h, w, 1]
    profile: bytes | None  # ICC; for a PNG also one made from its colour chunks
    format: str  # one of FORMATS' values: the file's, or TIFF for a raw photograph
    metadata: Metadata


def read(path: str | Path) -> Photograph:
    """Reads the picture in a file.

    Raises ImageError if the file is corrupt, truncated, too large, animated, in CMYK,
    has several pages, or is of another unsupported kind.
    """
    with files.opened(path) as file:
        return of_bytes(file.read(), path)


def of_bytes(data: bytes, name: str | Path) -> Photograph:
    """Reads the picture in the bytes of a file; errors, as in `read`, use `name`."""
    with errors_named(name, data):
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
            formats.of_result(decoded.format).name,
            metadata,
        )


def check_format(kind: str, size: tuple[int, int], path: str | Path) -> None:
    """Raises UserError if a format cannot hold a picture of that (height, width).

    Also if the format takes an extra that is not installed.
    """
    form = formats.FORMATS[kind]
    if form.extra is not None:
        form.extra.imported(f"{path}: {kind} results")
    longest = form.longest_side
    if max(size) > longest:
        raise UserError(
            f"{path}: {size[1]} x {size[0]} pixels exceed the limit of {kind}, "
            f"{longest} per side: write PNG or TIFF, or use a smaller --scale"
        )


def left_out(photograph: Photograph, kind: str) -> list[str]:
    """Names of everything in the photograph that the format `kind` cannot hold."""
    metadata, lost = photograph.metadata, list(photograph.metadata.lost)
    form = formats.FORMATS[kind]
    too_long = _too_long(metadata, kind)
    for field, name in _NAMES.items():
        if not getattr(metadata, field):
            continue
        if field in too_long:
            lost.append(f"{name}: too long for {kind}")
        elif field not in form.held:
            lost.append(name)
    if kind == "TIFF" and metadata.exif is not None:
        details = exif.parts(metadata.exif).exif
        if details is not None and details.value(exif.MAKER_NOTE) is not None:
            lost.append("the maker note")
    if _is_too_fine(metadata, kind):
        lost.append(f"the resolution: too high for {kind}")
    elif "dpi" not in form.held and _states_resolution_alone(metadata):
        lost.append("the resolution")
    if len(set(metadata.aspect or ())) > 1 and "aspect" not in form.held:
        lost.append("the pixel aspect ratio")
    if photograph.profile != _held_profile(photograph, kind):
        lost.append("the colour profile")
    if photograph.alpha is not None and not form.is_transparent:
        lost.append("transparency")
    if photograph.colour.dtype != np.uint8 and not form.is_deep:
        lost.append("more than 8 bits")
    elif photograph.colour.dtype == np.float32 and kind != "TIFF":
        lost.append("more than 16 bits")
    return lost


def write(
    path: str | Path,
    photograph: Photograph,
    *,
    kind: str,
    quality: int = 95,
    mode: int | None = None,
) -> None:
    """Writes the picture atomically and creates missing folders.

    If the format `kind` cannot hold them, 16 bits become 8, transparency becomes white,
    and metadata is left out: see `left_out`. `quality`, 1 to 100, applies to lossy
    formats; `mode` is the file's permissions. Raises UserError for float32 samples
    outside 0..1 in formats other than TIFF.
    """
    content = encode(photograph, kind=kind, quality=quality)
    atomic.replace(path, lambda new: new.write_bytes(content), mode=mode)


def encode(photograph: Photograph, *, kind: str, quality: int = 95) -> bytes:
    """Encodes the picture in the format `kind`; see `write`."""
    colour, alpha, _, _, metadata = photograph
    form = formats.FORMATS[kind]
    if colour.dtype == np.float32 and kind != "TIFF":
        colour = _sixteen_bits(colour, kind)
        alpha = None if alpha is None else _sixteen_bits(alpha, kind)
    if alpha is not None and not form.is_transparent:
        top = np.iinfo(colour.dtype).max
        opacity = alpha / np.float32(top)
        colour = np.rint(colour * opacity + top * (1 - opacity)).astype(colour.dtype)
        alpha = None
    samples = colour if alpha is None else np.concatenate([colour, alpha], -1)
    if samples.dtype == np.uint16 and not form.is_deep:
        samples = ((samples.astype(np.uint32) + 128) // 257).astype(np.uint8)
    unheld = (_NAMES.keys() - form.held) | set(_too_long(metadata, kind))
    held = metadata._replace(
        **{name: () if name == "texts" else None for name in unheld}
    )
    if _is_too_fine(metadata, kind):
        held = held._replace(dpi=None)
    profile = _held_profile(photograph, kind)
    return encoding.encode(samples, profile, held, kind=kind, quality=quality)


def check_range(photograph: Photograph, kind: str, path: str | Path) -> None:
    """Raises UserError for float32 outside 0..1, unless `kind` is TIFF.

    Transparency is clipped to 0..1, but must not hold NaN.
    """
    if photograph.colour.dtype == np.float32 and kind != "TIFF":
        if photograph.alpha is not None and np.isnan(photograph.alpha).any():
            raise UserError(
                f"{path}: the transparency holds NaN, which {kind} cannot: write TIFF"
            )
        try:
            _sixteen_bits(photograph.colour, kind)
        except UserError as error:
            raise UserError(f"{path}: {error}") from error


def _sixteen_bits(samples: np.ndarray, kind: str) -> np.ndarray:
    low, high = samples.min(), samples.max()
    if not (low >= 0 and high <= 1):  # NaN, too
        raise UserError(
            f"float32 samples from {low:g} to {high:g} exceed the range 0 to 1 of "
            f"{kind}: write TIFF"
        )
    return np.rint(samples * np.float32(65535)).astype(np.uint16)


def _held_profile(photograph: Photograph, kind: str) -> bytes | None:
    """The profile of a result; None if its format or its channels do not fit it."""
    profile = photograph.profile
    if profile is None or "profile" not in formats.FORMATS[kind].held:
        return None
    if photograph.colour.shape[-1] == 1:
        if kind == "WEBP" and profile[16:20] == b"GRAY":
            return None  # WebP has no grey
        if kind != "PNG" and photograph.metadata.colour:
            return None  # it was made for three channels
    if kind == "JXL" and len(profile) < 128:
        return None  # not even a header
    return profile


def _is_too_fine(metadata: Metadata, kind: str) -> bool:
    return max(metadata.dpi or (0,)) > formats.FORMATS[kind].highest_dpi


def _states_resolution_alone(metadata: Metadata) -> bool:
    """Returns whether there is a resolution that the EXIF does not repeat."""
    if metadata.dpi is None or metadata.exif is None:
        return metadata.dpi is not None
    return exif.parts(metadata.exif).main.value(exif.RESOLUTION) is None


def _too_long(metadata: Metadata, kind: str) -> list[str]:
    longest = formats.FORMATS[kind].longest_notes
    return [n for n, most in longest.items() if len(getattr(metadata, n) or b"") > most]


def _profile(
    data: bytes, decoded: decoding.Decoded, metadata: Metadata
) -> bytes | None:
    if decoded.format == "TIFF":
        return ifd.read(data, decoded.directory).value(exif.PROFILE)
    if metadata.colour:
        return png.stated_profile(metadata.colour)
    return decoded.info.get("icc_profile") or None
