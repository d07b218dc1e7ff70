"""Reading TIFF files with tifffile, for the kinds of pixels that Pillow cannot read.

These are both byte orders, BigTIFF, 9 to 16 bits, float32, separate planes, and all
compressions of imagecodecs.
"""

import io
import logging
import re
from typing import BinaryIO, NamedTuple

import numpy as np
import tifffile
from tifffile import PHOTOMETRIC, TiffPage

from lightbsr_jax.imaging import depths, ifd
from lightbsr_jax.imaging.errors import ImageError, check_pixels

# It logs broken tags, which errors and lists of losses name.
tifffile.logger().setLevel(logging.CRITICAL)

_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_MOST_PAGES = 64  # limit of pages to search
# Tags:
_OLD_SUBFILE_TYPE, _ORIENTATION, _XMP = 255, 274, 700
_XMP_ORIENTATION = rb"tiff:Orientation(?:=\"|>)([0-9])"  # as in Pillow
# Tags without which a page cannot be read.
_LAYOUT = {
    *(256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 317, 320, 322, 323),
    *(324, 325, 338, 339, 347, 530),
}
_COLOURS: dict[int, int] = {
    PHOTOMETRIC.MINISWHITE: 1,
    PHOTOMETRIC.MINISBLACK: 1,
    PHOTOMETRIC.RGB: 3,
    PHOTOMETRIC.YCBCR: 3,
    PHOTOMETRIC.SEPARATED: 4,
}
_JPEG = (6, 7)  # compressions that decode to RGB


class Picture(NamedTuple):
    """The page of a file's first picture."""

    index: int
    pictures: int  # in the file, at most 2
    offset: int  # of its directory in the file
    size: tuple[int, int]  # height and width before it is turned upright
    orientation: int  # 1 to 8, as in EXIF


def is_tiff(start: bytes) -> bool:
    """Returns whether a file is TIFF or BigTIFF, from its first bytes."""
    return start[:4] in _MAGIC


def first_picture(opened: BinaryIO) -> Picture:
    """Finds the first picture in a file.

    Pages with a smaller copy or a mask of another page do not count as pictures. Raises
    ImageError if there are too many pages to search.
    """
    found = []
    with _opened(opened) as file:
        for index in range(_MOST_PAGES):
            try:
                page = _page(file, index)
            except IndexError:
                break
            old = page.tags.valueof(_OLD_SUBFILE_TYPE)
            if not page.subfiletype & 5 and old != 2:
                found.append(index)
            if len(found) > 1:
                break
        else:
            raise ImageError(
                f"holds more than {_MOST_PAGES} pages, or pages in a circle; "
                "save one page by itself"
            )
        index = (found or [0])[0]
        page = _page(file, index)
        size = page.imagelength, page.imagewidth
        return Picture(index, len(found), page.offset, size, _orientation(page))


def _orientation(page: TiffPage) -> int:
    """The orientation, 1 to 8, that a page or its XMP states; 1 by default."""
    stated = page.tags.valueof(_ORIENTATION)
    if stated is None:
        xmp = page.tags.valueof(_XMP)
        found = re.search(_XMP_ORIENTATION, xmp if isinstance(xmp, bytes) else b"")
        stated = int(found[1]) if found else 1
    return stated if isinstance(stated, int) and 1 <= stated <= 8 else 1


def samples(data: bytes, index: int) -> tuple[np.ndarray, int]:
    """Reads a page's samples [h, w, C]; also returns its number of colours.

    There are 1, 3 or 4 (CMYK) colours; one more sample is alpha. Samples are uint8,
    uint16 or float32 and straight (not multiplied by alpha). Raises ImageError for
    unsupported kinds, and any exception of tifffile.
    """
    with _opened(io.BytesIO(data)) as file:
        page = _page(file, index)
        colours = _checked(page, data)
        array = page.asarray()
    array = array[..., None] if array.ndim == 2 else array
    if page.axes == "SYX":
        array = array.transpose(1, 2, 0)
    if array.ndim != 3:
        raise ImageError(f"a volume of {page.axes} is not supported; save one picture")
    if page.photometric == PHOTOMETRIC.PALETTE:
        return np.asarray(page.colormap).T[array[..., 0]], 3
    array = _scaled(array, page.bitspersample)
    if page.photometric == PHOTOMETRIC.MINISWHITE and array.dtype != np.float32:
        array[..., :1] = np.iinfo(array.dtype).max - array[..., :1]
    # OpenCV does not state that the fourth sample is alpha; Pillow takes it as such.
    spare = page.extrasamples
    if not spare and colours == 3 and array.shape[-1] == 4:
        spare = (2,)
    alphas = [i for i, kind in enumerate(spare) if kind in (1, 2)]
    if not alphas or colours == 4:
        return array[..., :colours], colours
    alpha = array[..., colours + alphas[0], None]
    colour = array[..., :colours]
    if spare[alphas[0]] == 1:
        colour = depths.divided(colour, alpha)
    return np.concatenate([colour, alpha], -1), colours


def _opened(file: BinaryIO) -> tifffile.TiffFile:
    file.seek(0)
    return tifffile.TiffFile(file)


def _page(file: tifffile.TiffFile, index: int) -> TiffPage:
    page = file.pages[index]
    assert isinstance(page, TiffPage)  # not a frame, which shares another page's tags
    return page


def _checked(page: TiffPage, data: bytes) -> int:
    """Checks a page; returns its number of colours. Raises ImageError, ValueError."""
    # tifffile ignores broken tags.
    for entry in ifd.read(data, page.offset).entries:
        if entry.tag in _LAYOUT and entry.value is None:
            raise ValueError(f"the value of tag {entry.tag} is missing")
    check_pixels(page.imagelength * page.imagewidth)
    ends = map(sum, zip(page.dataoffsets, page.databytecounts, strict=False))
    bits = 0 if page.compression > 1 else page.size * page.bitspersample
    end = max(*ends, bits // 8, 0)
    if end > len(data) or 0 in page.databytecounts:
        raise ValueError("the file ends before its pixels do")
    if page.photometric == PHOTOMETRIC.PALETTE and page.colormap is not None:
        return 1
    colours = _COLOURS.get(page.photometric)
    jpeg = page.compression in _JPEG
    if colours is None or (page.photometric == PHOTOMETRIC.YCBCR and not jpeg):
        name = getattr(page.photometric, "name", page.photometric)
        raise ImageError(
            f"pixels of kind {name} are not supported; convert it to RGB (16-bit TIFF "
            "or PNG)"
        )
    if (
        page.dtype is None
        or page.dtype.kind not in "ufb"
        or page.dtype.itemsize > (2 if page.dtype.kind == "u" else 8)
    ):
        kind = f"{page.bitspersample}-bit {page.sampleformat!r}"
        raise ImageError(
            f"pixels of {page.dtype or kind} are not supported; convert it to 16-bit "
            "or float32 TIFF"
        )
    if page.samplesperpixel < colours:
        raise ImageError(
            f"{page.samplesperpixel} samples per pixel for {colours} colours are not "
            "supported; convert it to RGB"
        )
    return colours


def _scaled(array: np.ndarray, bits: int) -> np.ndarray:
    """Scales samples to the full range of uint8 or uint16, or converts to float32."""
    if array.dtype == bool:
        return array.astype(np.uint8) * 255
    if array.dtype.kind == "f":
        return array.astype(np.float32)
    return depths.scaled(array, bits)
