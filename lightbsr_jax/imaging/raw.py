"""Raw photographs, developed by the optional package rawpy (LibRaw).

The result is the sRGB picture, of 16 bits, with the white balance that the camera
states and LibRaw's brightness.
"""

import contextlib
import io
from typing import Any, BinaryIO

import numpy as np
import tifffile

from lightbsr_jax.imaging import exif, ifd, tiff
from lightbsr_jax.imaging.errors import ImageError, check_pixels
from lightbsr_jax.imaging.formats import FORMATS

_MAGIC = (b"FUJIFILMCCD-RAW", b"IIRO", b"IIRS", b"MMOR", b"IIU\0")
_CR3 = b"ftypcrx "
_DNG_VERSION = 50706
_SENSOR = (32803, 34892)  # kinds of pixels: a mosaic, and linear colours
_SRGB = (2.4, 12.92)  # exponent and slope of the tone curve
_SIDEWAYS = 4  # bit of LibRaw's orientation


def is_raw(file: BinaryIO) -> bool:
    """Returns whether a file is a raw photograph, from its content."""
    file.seek(0)
    start = file.read(16)
    file.seek(0)
    if start.startswith(_MAGIC) or start[4:12] == _CR3:
        return True
    if not tiff.is_tiff(start):
        return False
    if start[8:10] == b"CR":  # CR2
        return True
    with contextlib.suppress(Exception), tifffile.TiffFile(file) as opened:
        page: Any = opened.pages.first
        if _DNG_VERSION in page.tags:
            return True
        inner: Any = page.pages or ()
        return any(part.photometric in _SENSOR for part in (page, *inner))
    return False


def size(file: BinaryIO) -> tuple[int, int]:
    """The (height, width) of the developed picture, from the header."""
    with _opened(file) as opened:
        sizes = opened.sizes
    sides = sizes.iheight, sizes.iwidth
    return sides[::-1] if sizes.flip & _SIDEWAYS else sides


def samples(data: bytes) -> tuple[np.ndarray, dict[str, Any]]:
    """Develops a photograph: uint16 [h, w, 3], and its EXIF under the name "exif"."""
    with _opened(io.BytesIO(data)) as opened:
        check_pixels(opened.sizes.iheight * opened.sizes.iwidth)
        pixels = opened.postprocess(use_camera_wb=True, output_bps=16, gamma=_SRGB)
    block, lost = _exif(data)
    return pixels, {"lost": lost} | ({} if block is None else {"exif": block})


def _exif(data: bytes) -> tuple[bytes | None, list[str]]:
    """The EXIF of a file that is a TIFF, and names of what is lost."""
    if not tiff.is_tiff(data):
        return None, ["EXIF of this kind of raw file"]
    try:
        block, _, lost = exif.of_tiff(data, ifd.first(data))
    except ValueError:
        return None, ["EXIF (broken)"]
    if block is None:
        return None, lost
    return exif.without_tags(block, _is_sensors), lost


def _is_sensors(tag: int) -> bool:
    """Returns whether a tag describes the sensor's pixels (DNG, TIFF/EP)."""
    return tag >= 50706 or tag in (33421, 33422, 37393, 37398, 37399)


def _opened(file: BinaryIO) -> Any:
    extra = FORMATS["RAW"].extra
    assert extra is not None
    file.seek(0)
    package = extra.imported("raw photographs")
    try:
        return package.imread(file)
    except package.LibRawFileUnsupportedError as error:
        raise ImageError(
            "is a raw photograph of a kind that LibRaw does not know; convert it to "
            "16-bit TIFF"
        ) from error
