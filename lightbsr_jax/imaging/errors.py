"""Errors about image files."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from lightbsr_jax.errors import UserError
from lightbsr_jax.imaging import isobmff
from lightbsr_jax.imaging.formats import FORMATS

# Formats that Pillow decodes, by its names.
BY_PILLOW = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "AVIF")

# Bytes that identify other kinds of files, and their offset.
_OTHERS = (
    (0, b"GIF8", "a GIF"),
    (4, b"ftypmif1", "a HEIF picture"),
    (4, b"ftypmsf1", "a HEIF picture"),
    (4, b"ftyp", "a video"),
    (0, b"\0\0\0\x0cjP  ", "a JPEG 2000 picture"),
    (0, b"\xff\x4f\xff\x51", "a JPEG 2000 picture"),
    (0, b"8BPS", "a Photoshop document"),
    (0, b"%PDF", "a PDF document"),
    (0, b"%!PS", "a PostScript document"),
    (0, b"\x76\x2f\x31\x01", "an OpenEXR picture"),
    (0, b"#?RADIANCE", "a Radiance HDR picture"),
    (0, b"DDS ", "a DDS texture"),
    (0, b"gimp xcf", "a GIMP document"),
    (0, b"\0\0\1\0", "an icon (ICO)"),
    (0, b"<svg", "an SVG drawing"),
    (0, b"<?xml", "an XML file"),
    (0, b"<!DOCTYPE", "a web page"),
    (0, b"<html", "a web page"),
    (0, b"PK\3\4", "a zip archive"),
    (0, b"version https://git-lfs", "a Git LFS pointer, without the picture"),
)


_JPEG_FRAMES = {
    b"\xc3": "a lossless JPEG, as in medical devices and raw photographs",
    **dict.fromkeys((b"\xc5", b"\xc6", b"\xc7"), "a hierarchical JPEG"),
    b"\xcb": "a lossless JPEG with arithmetic coding",
    **dict.fromkeys((b"\xcd", b"\xce", b"\xcf"), "a hierarchical JPEG"),
}
_JPEG_DEEP = (b"\xc1", b"\xc2", b"\xc9", b"\xca")  # frames of 8 or 12 bits
_JPEG_SCAN = b"\xda"
_PNG = b"\x89PNG\r\n\x1a\n"
_START = 2**18  # bytes: notes may come before the marker of a JPEG's kind


class ImageError(UserError):
    """An image file that cannot be used; the message names it and the remedy."""


def kind_of(data: bytes) -> str | None:
    """Kind of a file of no supported format, such as "a GIF", from its first bytes."""
    kinds = (k for at, b, k in _OTHERS if data[at : at + len(b)] == b)
    return next(kinds, None) or _kind_of_jpeg(data)


def _kind_of_jpeg(data: bytes) -> str | None:
    """Kind of an unusual JPEG, by the marker of its frame (ITU T.81 B)."""
    place = 2
    while data[:2] == b"\xff\xd8" and data[place : place + 1] == b"\xff":
        marker = data[place + 1 : place + 2]
        if marker in _JPEG_FRAMES:
            return _JPEG_FRAMES[marker]
        if marker in _JPEG_DEEP and data[place + 4 : place + 5] == b"\x0c":
            return "a JPEG of 12 bits"
        if marker == _JPEG_SCAN:  # what follows are pixels
            return None
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return None


def check_pixels(count: int) -> None:
    """Raises Pillow's error for more pixels than Pillow would decode."""
    if count > 2 * (Image.MAX_IMAGE_PIXELS or count):
        raise Image.DecompressionBombError(f"{count} pixels")


@contextlib.contextmanager
def errors_named(path: str | Path, data: bytes | None = None) -> Iterator[None]:
    """Turns any exception of the parsers of a file into an ImageError.

    `data` holds the bytes if there is no file of that name.
    """
    try:
        yield
    except UserError as error:
        raise ImageError(f"{path}: {error}") from error
    except Image.DecompressionBombError as error:
        # Pillow warns at half of that size, and refuses at all of it.
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0) // 1_000_000
        raise ImageError(
            f"{path}: too large, cut it into parts of at most {most} megapixels"
        ) from error
    except Image.UnidentifiedImageError as error:
        raise ImageError(f"{path}: {_unidentified(path, data)}") from error
    except MemoryError:  # not an error of the file
        raise
    except Exception as error:  # parsers raise many kinds, even struct.error
        kind = _kind_of_jpeg(_start(path, data))
        if kind is not None:
            raise ImageError(f"{path}: {_other(kind)}") from error
        raise ImageError(
            f"{path}: corrupt or truncated ({error}); replace it by an intact copy"
        ) from error


def _start(path: str | Path, data: bytes | None) -> bytes:
    """First bytes of a file; none if it cannot be read."""
    if data is not None:
        return data[:_START]
    with contextlib.suppress(OSError), open(path, "rb") as file:
        return file.read(_START)
    return b""


def _other(kind: str) -> str:
    return f"is {kind}, not one of {', '.join(FORMATS)}; convert it to PNG"


def _unidentified(path: str | Path, data: bytes | None) -> str:
    start = _start(path, data)
    if not start:
        return "the file is empty"
    damaged = isobmff.format_of(start)
    if damaged is not None:
        return f"is an {damaged} file that is damaged; replace it by an intact copy"
    kind = kind_of(start)
    if kind is not None:
        return _other(kind)
    if start.startswith(_PNG):
        return "is a PNG whose header is damaged; replace it by an intact copy"
    return (
        f"not a readable {', '.join(FORMATS)} file; replace it by an intact copy, or "
        "convert it to PNG"
    )
