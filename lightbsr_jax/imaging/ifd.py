"""Reading and writing the tag directories of TIFF and EXIF.

Values stay bytes in the file's byte order, so that unknown ones are kept unchanged.
"""

import struct
from typing import NamedTuple

_SIZES = {
    **{1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8},
    **{13: 4, 16: 8, 17: 8, 18: 8, 129: 1},
}  # bytes of a value, by its type
_WORDS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}  # unsigned integers
_MOST_ENTRIES = 4096


class Entry(NamedTuple):
    """A tag; `value` is None if its type is unknown or it lies outside the file."""

    tag: int
    type: int
    count: int
    value: bytes | None


class Directory(NamedTuple):
    """Tags in a byte order ("<" or ">"), and the next directory's offset (0: none)."""

    order: str
    entries: list[Entry]
    next: int

    def number(self, tag: int) -> int | None:
        """The first number of a tag of unsigned integers."""
        for entry in self.entries:
            if entry.tag == tag and entry.value and entry.type in _WORDS:
                kind = self.order + _WORDS[entry.type]
                return struct.unpack_from(kind, entry.value)[0]
        return None

    def value(self, tag: int) -> bytes | None:
        """The bytes of a tag's value."""
        return next((e.value for e in self.entries if e.tag == tag), None)


def first(data: bytes) -> int:
    """Offset of the first directory of a file. Raises ValueError unless it is TIFF."""
    order, big = layout(data)
    place = (8, order + "Q") if big else (4, order + "I")
    try:
        return struct.unpack_from(place[1], data, place[0])[0]
    except struct.error as error:
        raise ValueError("the header is cut off") from error


def layout(data: bytes) -> tuple[str, bool]:
    """The byte order ("<" or ">") of a file, and whether it is BigTIFF. ValueError."""
    order = {b"II": "<", b"MM": ">"}.get(bytes(data[:2]))
    version = struct.unpack_from(order + "H", data, 2)[0] if order and data[3:] else 0
    if order is None or version not in (42, 43):
        raise ValueError("neither TIFF nor EXIF")
    return order, version == 43


def read(data: bytes, offset: int) -> Directory:
    """Reads the directory at `offset` of a file. Raises ValueError if it is broken."""
    order, big = layout(data)
    head, row, word = ("Q", "HHQ8s", "Q") if big else ("H", "HHI4s", "I")
    try:
        (count,) = struct.unpack_from(order + head, data, offset)
        if count > _MOST_ENTRIES:
            raise ValueError(f"a directory of {count} tags")
        place = offset + struct.calcsize(order + head)
        rows = [
            struct.unpack_from(
                order + row, data, place + i * struct.calcsize("=" + row)
            )
            for i in range(count)
        ]
        place += count * struct.calcsize("=" + row)
    except struct.error as error:
        raise ValueError("a directory is cut off") from error
    tail = data[place : place + struct.calcsize(word)]
    whole = len(tail) == struct.calcsize(word)
    following = struct.unpack(order + word, tail)[0] if whole else 0
    entries = [_entry(data, order + word, *fields) for fields in rows]
    return Directory(order, entries, following)


def written(directory: Directory, begin: int) -> bytes:
    """Encodes a classic directory for offset `begin`, followed by its values.

    Tags without a value are left out.
    """
    order = directory.order
    kept = sorted(e for e in directory.entries if e.value is not None)
    rows, body = struct.pack(order + "H", len(kept)), b""
    after = begin + 2 + 12 * len(kept) + 4
    for entry in kept:
        narrow = _narrowed(entry, order)
        value = (narrow.value or b"").ljust(4, b"\0")
        if len(value) > 4:
            body += bytes(len(body) % 2)
            place = struct.pack(order + "I", after + len(body))
            body += value
        else:
            place = value
        rows += struct.pack(order + "HHI", *narrow[:3]) + place
    return rows + struct.pack(order + "I", directory.next) + body


def numbers(directory: Directory, tag: int, kind: str) -> list[float] | None:
    """All numbers of a tag, of the `struct` type `kind`; None if there are none."""
    value = directory.value(tag)
    if not value or len(value) % struct.calcsize(kind):
        return None
    count = len(value) // struct.calcsize(kind)
    return list(struct.unpack(f"{directory.order}{count}{kind}", value))


def _entry(
    data: bytes, word: str, tag: int, kind: int, count: int, inline: bytes
) -> Entry:
    length = _SIZES.get(kind, 0) * count
    if 0 < length <= len(inline):
        return Entry(tag, kind, count, inline[:length])
    (place,) = struct.unpack(word, inline)
    value = data[place : place + length] if length <= len(data) else b""
    broken = kind not in _SIZES or len(value) < length or count == 0
    return Entry(tag, kind, count, None if broken else value)


def _narrowed(entry: Entry, order: str) -> Entry:
    """Converts BigTIFF's 64-bit integers to 32-bit ones."""
    types = {16: ("Q", 4, "I"), 17: ("q", 9, "i"), 18: ("Q", 13, "I")}
    if entry.type not in types:
        return entry
    wide, narrow_type, narrow = types[entry.type]
    values = struct.unpack(f"{order}{entry.count}{wide}", entry.value or b"")
    top = 2**31 if narrow == "i" else 2**32
    clipped = [min(value, top - 1) for value in values]
    value = struct.pack(f"{order}{entry.count}{narrow}", *clipped)
    return Entry(entry.tag, narrow_type, entry.count, value)
