"""Reading TIFF files with tifffile, for the kinds of pixels that Pillow cannot read.

These are both byte orders, BigTIFF, 9 to 16 bits, float32, separate planes, and all
compressions of imagecodecs.
"""

import io
import re
from typing import BinaryIO

import numpy as np
import tifffile
from tifffile import PHOTOMETRIC, TiffPage

from lightbsr_jax.imaging import depths, ifd
from lightbsr_jax.imaging.errors import ImageError, check_pixels

_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_MOST_PAGES = 64  # limit of pages to search
# Tags:
_OLD_SUBFILE_TYPE, _ORIENTATION, _XMP, _PROFILE = 255, 274, 700, 34675
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


def is_tiff(start: bytes) -> bool:
    """Returns whether a file is TIFF or BigTIFF, from its first bytes."""
    return start[:4] in _MAGIC


def pages(opened: BinaryIO) -> tuple[int, int]:
    """Index of the first picture's page, and the number of pictures (at most 2).

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
    return (found or [0])[0], len(found)


def offset(opened: BinaryIO, index: int) -> int:
    """Offset of a page's directory in the file."""
    with _opened(opened) as file:
        return _page(file, index).offset


def profile(data: bytes) -> bytes | None:
    """The colour profile of the picture in a file."""
    index, _ = pages(io.BytesIO(data))
    return ifd.read(data, offset(io.BytesIO(data), index)).value(_PROFILE)


def size(opened: BinaryIO, index: int) -> tuple[int, int]:
    """The (height, width) of a page before it is turned upright."""
    with _opened(opened) as file:
        return _page(file, index).imagelength, _page(file, index).imagewidth


def orientation(opened: BinaryIO, index: int) -> int:
    """The orientation stated by a page or its XMP; 1 by default."""
    with _opened(opened) as file:
        tags = _page(file, index).tags
        stated = tags.valueof(_ORIENTATION)
        if stated is None:
            xmp = tags.valueof(_XMP)
            xmp = xmp if isinstance(xmp, bytes) else b""
            found = re.search(_XMP_ORIENTATION, xmp)
            stated = int(found[1]) if found else 1
    return stated if isinstance(stated, int) else 1


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
    if max(ends, default=0) > len(data) or 0 in page.databytecounts:
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
