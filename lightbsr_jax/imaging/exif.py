"""Removing from EXIF blocks the tags that are wrong for an enlarged picture.

A block is edited in place and stays otherwise the same, byte for byte: strings in any
encoding, broken tags and maker notes, whose offsets count from the beginning of the
block, are kept. Tags move only from and to TIFF, where the whole file is the block.
"""

import contextlib
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

from lightbsr_jax.imaging import ifd
from lightbsr_jax.imaging.ifd import Directory, Entry

PREFIX = b"Exif\0\0"
MAKER_NOTE = 37500
RESOLUTION = 282
_ASCII = 2  # a type
XMP, IPTC, PHOTOSHOP, LAYERS, PROFILE = 700, 33723, 34377, 37724, 34675
_ORIENTATION, _EXIF, _GPS, _INTEROP, _SUB = 274, 34665, 34853, 40965, 330
# What counts in pixels in the EXIF directory: sides, the place of the subject, and
# resolutions of the focal plane with their unit.
_IN_PIXELS = {40962, 40963, 37396, 41492, 41486, 41487, 41488}
# Tags of how TIFF stores its pixels, and tags that are written separately.
LAYOUT = {
    *(254, 255, 256, 257, 258, 259, 262, 263, 264, 265, 266, 273, 277, 278, 279, 280),
    *(281, 282, 283, 284, 288, 289, 290, 291, 292, 293, 296, 317, 320, 322, 323, 324),
    *(325, 332, 334, 336, 338, 339, 340, 341, 342, 347, 512, 513, 514, 515, 517, 518),
    *(519, 520, 521, 529, 530, 531, 532),
    *(_ORIENTATION, XMP, IPTC, PHOTOSHOP, LAYERS, PROFILE, _SUB),
}
_THUMBNAIL = 513, 514  # its place and length, in the second directory
_JPEG = b"\xff\xd8"  # begin of a preview
_POINTERS = {_EXIF: "exif", _GPS: "gps"}


class Parts(NamedTuple):
    """The directories of a block, without the tags that point to other directories."""

    main: Directory
    exif: Directory | None = None
    gps: Directory | None = None
    interop: Directory | None = None


def tidied(block: bytes) -> bytes | None:
    """Removes orientation, numbers of pixels and preview from a block.

    Returns None if the block is broken, and b"" if nothing is left in it.
    """
    data = bytearray(block.removeprefix(PREFIX))
    keep = {*_POINTERS, 282, 283, 296, 531, 529, 530, 532}  # harmless in EXIF
    try:
        begin = ifd.first(data)
        main = ifd.read(data, begin)
        _cut_thumbnail(data, main.next)
        _remove(data, begin, LAYOUT - keep, unlink=True)
    except ValueError:
        return None
    exif = main.number(_EXIF)
    if exif is not None:
        # A broken directory behind a good one stays as it is.
        with contextlib.suppress(ValueError):
            _remove(data, exif, _IN_PIXELS)
    return PREFIX + bytes(data) if ifd.read(data, begin).entries else b""


def of_tiff(data: bytes, offset: int) -> tuple[bytes | None, Directory, list[str]]:
    """A TIFF's directory at `offset` as a block, the directory, and names of losses."""
    whole = ifd.read(data, offset)
    lost = []
    found = parts_at(data, whole)
    kept = [e for e in found.main.entries if e.tag not in LAYOUT]
    if any(e.value is None for e in kept):
        lost.append("broken tags")
    if found.exif is not None and found.exif.value(MAKER_NOTE) is not None:
        lost.append("the maker note")
        found = without_maker_note(found)
    if whole.value(LAYERS) is not None:
        lost.append("Photoshop's layers")
    found = found._replace(main=found.main._replace(entries=kept))
    empty = not kept and found.exif is None and found.gps is None
    return None if empty else _block(found), whole, lost


def parts(block: bytes) -> Parts:
    """The directories of a block that `tidied` or `of_tiff` made."""
    data = block.removeprefix(PREFIX)
    return parts_at(data, ifd.read(data, ifd.first(data)))


def parts_at(data: bytes, main: Directory) -> Parts:
    """Reads the directories of a file that `main` points to; returns all of them."""
    found: dict[str, Any] = {"main": _without(main, set(_POINTERS) | {_INTEROP})}
    for tag, name in _POINTERS.items():
        place = main.number(tag)
        directory = None if place is None else _read(data, place)
        if directory is None or not directory.entries:
            continue
        if name == "exif":
            interop = directory.number(_INTEROP)
            directory = _without(directory, {_INTEROP} | _IN_PIXELS)
            found["interop"] = None if interop is None else _read(data, interop)
        found[name] = directory
    return Parts(**found)


def without_maker_note(found: Parts) -> Parts:
    """Removes the maker note, which is invalid at another offset."""
    if found.exif is None:
        return found
    return found._replace(exif=_without(found.exif, {MAKER_NOTE}))


def with_values(block: bytes, values: dict[int, bytes]) -> bytes:
    """Replaces values of some tags, by as many values or by other bytes."""
    found = parts(block)
    entries = []
    for entry in found.main.entries:
        if (value := values.get(entry.tag)) is not None:
            count = len(value) if entry.type == _ASCII else entry.count
            entry = entry._replace(count=count, value=value)
        entries.append(entry)
    return _block(found._replace(main=found.main._replace(entries=entries)))


def without_tags(block: bytes, is_removed: Callable[[int], bool]) -> bytes | None:
    """Removes tags from the main directory of a block; None if nothing is left."""
    found = parts(block)
    kept = [e for e in found.main.entries if not is_removed(e.tag)]
    if not kept and found.exif is None and found.gps is None:
        return None
    return _block(found._replace(main=found.main._replace(entries=kept)))


def directories(found: Parts, begin: int) -> tuple[bytes, dict[int, int]]:
    """Encodes the EXIF, GPS and interoperability directories for offset `begin`.

    Also returns the offsets of the first two, by the tags that point to them.
    """
    content, places = b"", {}
    exif = found.exif
    if found.interop is not None:
        content += ifd.written(found.interop, begin)
        if exif is not None:
            exif = pointing(exif, {_INTEROP: begin})
    for tag, directory in ((_EXIF, exif), (_GPS, found.gps)):
        if directory is not None:
            content += bytes(len(content) % 2)
            places[tag] = begin + len(content)
            content += ifd.written(directory._replace(next=0), places[tag])
    return content, places


def _block(found: Parts) -> bytes:
    order = found.main.order
    header = struct.pack(order + "2sHI", b"II" if order == "<" else b"MM", 42, 8)
    wanted = {_EXIF: found.exif, _GPS: found.gps}
    pointers = {tag: 0 for tag, part in wanted.items() if part is not None}
    main = found.main._replace(next=0)
    length = len(ifd.written(pointing(main, pointers), 8))
    begin = 8 + length + length % 2
    content, places = directories(found, begin)
    first = ifd.written(pointing(main, places), 8)
    return PREFIX + header + first + bytes(length % 2) + content


def pointing(directory: Directory, places: dict[int, int]) -> Directory:
    """Adds to a directory the tags that point to other directories."""
    entries = [e for e in directory.entries if e.tag not in places]
    for tag, place in places.items():
        value = struct.pack(directory.order + "I", place)
        entries.append(Entry(tag, 4, 1, value))
    return directory._replace(entries=entries)


def _without(directory: Directory, tags: set[int]) -> Directory:
    entries = [e for e in directory.entries if e.tag not in tags]
    return directory._replace(entries=entries)


def _read(data: bytes, place: int) -> Directory | None:
    try:
        return ifd.read(data, place)
    except ValueError:
        return None


def _remove(
    data: bytearray, begin: int, tags: set[int], *, unlink: bool = False
) -> None:
    """Removes tags from a directory in place; `unlink` drops the next directory.

    Raises ValueError if the directory is broken.
    """
    order, big = ifd.layout(data)
    if big:
        raise ValueError("a BigTIFF, which EXIF cannot be")
    count = len(ifd.read(data, begin).entries)
    end = begin + 2 + 12 * count
    rows = [bytes(data[place : place + 12]) for place in range(begin + 2, end, 12)]
    kept = [r for r in rows if struct.unpack_from(order + "H", r)[0] not in tags]
    following = bytes(4) if unlink else bytes(data[end : end + 4])
    content = struct.pack(order + "H", len(kept)) + b"".join(kept) + following
    length = len(data)
    data[begin : begin + len(content)] = content
    cleared = min(end + 4, length) - begin - len(content)
    if cleared > 0:
        data[begin + len(content) : begin + len(content) + cleared] = bytes(cleared)
    del data[max(length, begin + len(content)) :]


def _cut_thumbnail(data: bytearray, place: int) -> None:
    """Blanks the preview of the old pixels, or removes it from the end of the file.

    What does not begin like a JPEG is none: a broken offset may point to other tags.
    """
    second = _read(data, place) if place else None
    if second is None:
        return
    start, length = (second.number(tag) for tag in _THUMBNAIL)
    if start is None or not length or data[start : start + 2] != _JPEG:
        return
    if start + length <= len(data):
        if start + length >= len(data) - 1:
            del data[start:]
        else:
            data[start : start + length] = bytes(length)
