"""Errors about image files."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from lightbsr_jax.errors import UserError

# Supported formats, by Pillow's names.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")

# Bytes that identify other kinds of files, and their offset.
_OTHERS = (
    (0, b"GIF8", "a GIF"),
    (4, b"ftypheic", "a HEIC picture"),
    (4, b"ftypheix", "a HEIC picture"),
    (4, b"ftypmif1", "a HEIF picture"),
    (4, b"ftypmsf1", "a HEIF picture"),
    (4, b"ftypavif", "an AVIF picture"),
    (4, b"ftypavis", "an AVIF animation"),
    (4, b"ftypcrx", "a raw photograph (CR3)"),
    (4, b"ftyp", "a video"),
    (0, b"\0\0\0\x0cJXL ", "a JPEG XL picture"),
    (0, b"\xff\x0a", "a JPEG XL picture"),
    (0, b"\0\0\0\x0cjP  ", "a JPEG 2000 picture"),
    (0, b"\xff\x4f\xff\x51", "a JPEG 2000 picture"),
    (0, b"8BPS", "a Photoshop document"),
    (0, b"%PDF", "a PDF document"),
    (0, b"%!PS", "a PostScript document"),
    (0, b"\x76\x2f\x31\x01", "an OpenEXR picture"),
    (0, b"#?RADIANCE", "a Radiance HDR picture"),
    (0, b"DDS ", "a DDS texture"),
    (0, b"gimp xcf", "a GIMP document"),
    (0, b"FUJIFILMCCD-RAW", "a raw photograph (RAF)"),
    (0, b"IIRO", "a raw photograph (ORF)"),
    (0, b"IIRS", "a raw photograph (ORF)"),
    (0, b"IIU\0", "a raw photograph (RW2)"),
    (0, b"\0\0\1\0", "an icon (ICO)"),
    (0, b"<svg", "an SVG drawing"),
    (0, b"<?xml", "an XML file"),
    (0, b"<!DOCTYPE", "a web page"),
    (0, b"<html", "a web page"),
    (0, b"PK\3\4", "a zip archive"),
    (0, b"version https://git-lfs", "a Git LFS pointer, without the picture"),
)


class ImageError(UserError):
    """An image file that cannot be used; the message names it and the remedy."""


def kind_of(data: bytes) -> str | None:
    """Kind of a file outside FORMATS, such as "a GIF", from its first bytes."""
    return next((k for at, b, k in _OTHERS if data[at : at + len(b)] == b), None)


@contextlib.contextmanager
def errors_named(path: str | Path, data: bytes | None = None) -> Iterator[None]:
    """Turns any exception of the parsers of a file into an ImageError.

    `data` holds the bytes if there is no file of that name.
    """
    try:
        yield
    except ImageError as error:
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
        raise ImageError(
            f"{path}: corrupt or truncated ({error}); replace it by an intact copy"
        ) from error


def _unidentified(path: str | Path, data: bytes | None) -> str:
    start = b"" if data is None else data[:64]
    if data is None:
        with contextlib.suppress(OSError), open(path, "rb") as file:
            start = file.read(64)
    kind = kind_of(start)
    if kind is not None:
        return f"is {kind}, not one of {', '.join(FORMATS)}; convert it to PNG"
    return (
        f"not a readable {', '.join(FORMATS)} file; replace it by an intact copy, or "
        "convert it to PNG"
    )
