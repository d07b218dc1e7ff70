"""The file formats of pictures: the only list of them.

A format that an optional package reads names the extra of this package that installs
it.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from lightbsr_jax.errors import Extra


class Format(NamedTuple):
    """A file format."""

    name: str  # Pillow's, if Pillow reads it
    suffixes: tuple[str, ...]  # without dots; results get the first
    media_type: str
    held: frozenset[str] = frozenset()  # metadata of notes.Metadata, and "profile"
    is_deep: bool = False  # holds 16 bits
    is_transparent: bool = False
    is_lossy: bool = False  # `quality` applies
    is_shown: bool = False  # by browsers
    longest_side: int = 2**31 - 1
    longest_notes: Mapping[str, int] = MappingProxyType({})  # bytes
    highest_dpi: float = 2.0**31
    extra: Extra | None = None
    result: str | None = None  # format of results, if this one is only read

    @property
    def is_available(self) -> bool:
        """Returns whether what it takes is installed."""
        return self.extra is None or self.extra.is_installed


_ALL = (
    Format(
        name="PNG",
        suffixes=("png",),
        media_type="image/png",
        held=frozenset({"profile", "dpi", "aspect", "exif", "xmp", "texts", "comment"}),
        is_deep=True,
        is_transparent=True,
        is_shown=True,
        highest_dpi=2**31 * 0.0254,  # 32 bits hold pixels per metre
    ),
    Format(
        name="JPEG",
        suffixes=("jpg", "jpeg", "jfif", "jpe"),
        media_type="image/jpeg",
        held=frozenset(
            {"profile", "dpi", "aspect", "exif", "xmp", "photoshop", "comment"}
        ),
        is_lossy=True,
        is_shown=True,
        longest_side=65500,
        longest_notes={
            "exif": 65533,
            "xmp": 65504,
            "photoshop": 65519,
            "comment": 65533,
        },
        highest_dpi=65535,
    ),
    Format(
        name="WEBP",
        suffixes=("webp",),
        media_type="image/webp",
        held=frozenset({"profile", "exif", "xmp"}),
        is_transparent=True,
        is_lossy=True,
        is_shown=True,
        longest_side=16383,
    ),
    Format(
        name="TIFF",
        suffixes=("tif", "tiff"),
        media_type="image/tiff",
        held=frozenset({"profile", "dpi", "aspect", "exif", "xmp", "photoshop"}),
        is_deep=True,
        is_transparent=True,
    ),
    Format(
        name="BMP",
        suffixes=("bmp",),
        media_type="image/bmp",
        held=frozenset({"dpi"}),
        is_shown=True,
        highest_dpi=2**31 * 0.0254,
    ),
    Format(
        name="AVIF",
        suffixes=("avif",),
        media_type="image/avif",
        held=frozenset({"profile", "exif", "xmp"}),
        is_transparent=True,
        is_lossy=True,
        is_shown=True,
        longest_side=32768,  # libavif reads no longer ones
    ),
    Format(
        name="JXL",
        suffixes=("jxl",),
        media_type="image/jxl",
        held=frozenset({"profile", "exif", "xmp"}),
        is_deep=True,
        is_transparent=True,
        is_lossy=True,
        longest_side=262144,  # of the highest level that is in use
    ),
    Format(
        name="HEIF",
        suffixes=("heic", "heif", "hif"),
        media_type="image/heic",
        held=frozenset({"profile", "exif", "xmp"}),
        is_transparent=True,
        is_lossy=True,
        longest_side=16384,  # 8192 in many decoders
        extra=Extra("pillow_heif", "heic"),
    ),
    Format(
        name="RAW",
        suffixes=(
            *("dng", "cr2", "cr3", "nef", "nrw", "arw", "orf", "rw2", "raf", "pef"),
            "srw",
        ),
        media_type="image/x-raw",
        extra=Extra("rawpy", "raw"),
        result="TIFF",
    ),
)
FORMATS = {kind.name: kind for kind in _ALL}
# The formats of results by their suffixes.
RESULTS = {
    suffix: kind.name
    for kind in FORMATS.values()
    if kind.result is None
    for suffix in kind.suffixes
}
_BY_SUFFIX = {s: kind for kind in FORMATS.values() for s in kind.suffixes}


def suffixes() -> tuple[str, ...]:
    """Suffixes, with dots, of the files that can be read with what is installed."""
    return tuple(
        f".{suffix}" for suffix, kind in _BY_SUFFIX.items() if kind.is_available
    )


def is_known(suffix: str) -> bool:
    """Returns whether a suffix (".jxl") is that of a format."""
    return suffix.lower().lstrip(".") in _BY_SUFFIX


def missing(suffix: str) -> Extra | None:
    """The extra that files with this suffix (".heic") take, if it is not installed."""
    kind = _BY_SUFFIX.get(suffix.lower().lstrip("."))
    if kind is None or kind.is_available:
        return None
    return kind.extra


def of_result(name: str) -> Format:
    """The format of results for pictures of the format `name`: itself if possible."""
    kind = FORMATS[name]
    return kind if kind.result is None else FORMATS[kind.result]


def result_suffix(suffix: str) -> str | None:
    """The suffix (".tif") of results for a suffix (".dng") of a format only read."""
    kind = _BY_SUFFIX.get(suffix.lower().lstrip("."))
    if kind is None or kind.result is None:
        return None
    return f".{FORMATS[kind.result].suffixes[0]}"


def known() -> list[str]:
    """The first suffixes of all formats of results."""
    return [kind.suffixes[0] for kind in FORMATS.values() if kind.result is None]


def offered() -> list[str]:
    """The first suffixes of all formats of results that can be written here."""
    return [
        kind.suffixes[0]
        for kind in FORMATS.values()
        if kind.result is None and kind.is_available
    ]
