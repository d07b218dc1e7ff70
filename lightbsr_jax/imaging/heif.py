"""HEIC and HEIF pictures, by the optional package pillow-heif."""

import io
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from lightbsr_jax.imaging import depths, isobmff
from lightbsr_jax.imaging.errors import check_pixels
from lightbsr_jax.imaging.formats import FORMATS

_FULL_CHROMA = 90  # least quality with colours at full resolution
# Names of auxiliary pictures, by a part of their type.
_AUXILIARY = {"hdrgainmap": isobmff.GAIN_MAP, "depth": "the depth map"}


def size(file: BinaryIO) -> tuple[int, int]:
    """The (height, width) of the upright picture, from the header."""
    width, height = _opened(file).size
    return height, width


def samples(data: bytes) -> tuple[np.ndarray, dict[str, Any], int]:
    """Upright samples [h, w, C], metadata by Pillow's names, and number of pictures.

    Samples of more than 8 bits are uint16 in the full range.
    """
    opened = _opened(io.BytesIO(data))
    check_pixels(opened.size[0] * opened.size[1])
    found = np.asarray(opened)
    found = found[..., None] if found.ndim == 2 else found
    info = opened.info
    bits = info["bit_depth"]
    if found.dtype == np.uint16:  # the decoder shifts them by whole bits
        found = depths.scaled(found >> (16 - bits), bits)
    notes = {name: info.get(name) for name in ("exif", "xmp", "icc_profile")}
    aux = " ".join([*info.get("aux", {}), *(["depth"] * bool(info["depth_images"]))])
    notes["lost"] = [name for part, name in _AUXILIARY.items() if part in aux]
    return found, {k: v for k, v in notes.items() if v}, len(opened)


def encoded(image: Image.Image, quality: int, options: dict[str, Any]) -> bytes:
    """Encodes a picture of 8 bits with EXIF, XMP and profile of Pillow's names."""
    import pillow_heif

    profile = options.get("icc_profile")
    made = pillow_heif.from_pillow(image)
    if profile is not None:
        made.info["icc_profile"] = profile
    buffer = io.BytesIO()
    made.save(
        buffer,
        quality=quality,
        chroma=444 if quality >= _FULL_CHROMA else 420,
        exif=options.get("exif"),
        xmp=options.get("xmp"),
        **({} if profile is None else {"icc_profile": profile}),
    )
    return buffer.getvalue()


def _package() -> Any:
    extra = FORMATS["HEIF"].extra
    assert extra is not None
    return extra.imported("HEIC pictures")


def _opened(file: BinaryIO) -> Any:
    return _package().open_heif(file, convert_hdr_to_8bit=False)
