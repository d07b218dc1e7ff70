"""Colour profiles in JPEG XL codestreams (ISO 18181-1, annexes C and E.4).

A profile is stored as commands and data, from which it is predicted, and these bytes
are entropy coded. Everything that decoders must read is read; what is written uses the
plainest of all these codings.
"""

import struct
from collections.abc import Callable, Sequence
from typing import NamedTuple

_LARGEST = 2**24  # bytes of a profile
_CONTEXTS = 41
_PRECISION = 12  # bits of a probability
_FINAL_STATE = 0x130000
_WINDOW = 2**20  # earlier symbols that can be repeated
_LITERAL = 8  # bits of a written byte


class Bits:
    """A reader of bits, the lowest of a byte first."""

    def __init__(self, data: bytes, place: int = 0) -> None:
        self.data = data
        self.place = place  # in bits

    def read(self, count: int) -> int:
        """Reads a number of `count` bits. Raises ValueError at the end of the data."""
        begin, end = self.place // 8, (self.place + count + 7) // 8
        if end > len(self.data):
            raise ValueError("the header is cut off")
        value = int.from_bytes(self.data[begin:end], "little") >> self.place % 8
        self.place += count
        return value & ((1 << count) - 1)

    def one_of(self, *choices: tuple[int, int]) -> int:
        """Reads U32: two bits select a choice (bits, offset)."""
        bits, offset = choices[self.read(2)]
        return self.read(bits) + offset

    def long(self) -> int:
        """Reads U64."""
        kind = self.read(2)
        if kind < 3:
            bits, offset = ((0, 0), (4, 1), (8, 17))[kind]
            return self.read(bits) + offset
        value, shift = self.read(12), 12
        while self.read(1):
            if shift == 60:
                return value | self.read(4) << shift
            value |= self.read(8) << shift
            shift += 8
        return value


class Writer:
    """A writer of bits, the lowest of a byte first."""

    def __init__(self) -> None:
        self._bits: list[str] = []

    def write(self, value: int, count: int) -> None:
        """Writes a number of `count` bits."""
        if count:
            self._bits.append(format(value, f"0{count}b")[::-1])

    def long(self, value: int) -> None:
        """Writes U64 of less than 2**28."""
        self.write(3, 2)
        self.write(value & 0xFFF, 12)
        value >>= 12
        while value:
            self.write(1, 1)
            self.write(value & 0xFF, 8)
            value >>= 8
        self.write(0, 1)

    def content(self) -> bytes:
        """All bits, filled up to whole bytes."""
        bits = "".join(self._bits)
        bits += "0" * (-len(bits) % 8)
        return bytes(int(bits[i : i + 8][::-1], 2) for i in range(0, len(bits), 8))


def read(bits: Bits) -> bytes:
    """Reads a profile. Raises ValueError if it is broken."""
    count = bits.long()
    if not 0 < count < _LARGEST:
        raise ValueError(f"a colour profile of {count} bytes")
    symbols = _Symbols(bits, _CONTEXTS)
    found = bytearray()
    for place in range(count):
        one, two = found[-1:], found[-2:-1]
        context = 0
        if place > 128:
            context = 1 + _kind(one[0]) + 8 * _earlier_kind(two[0])
        found.append(symbols.read(context) & 255)
    symbols.check_end()
    try:
        return _predicted(bytes(found))
    except (IndexError, struct.error) as error:
        raise ValueError("its colour profile is cut off") from error


def write(bits: Writer, profile: bytes) -> None:
    """Writes a profile of at least 128 bytes, each byte as 8 bits."""
    expected = _expected_header(len(profile))
    head = bytearray()
    for place in range(128):
        _refine(expected, profile, place)
        head.append((profile[place] - expected[place]) & 255)
    rest = profile[128:]
    commands = b"\0" + (b"\1" + _number(len(rest)) if rest else b"")
    coded = _number(len(profile)) + _number(len(commands)) + commands + head + rest
    bits.long(len(coded))
    bits.write(0, 1)  # no repetitions
    bits.write(1, 1)  # contexts: one code for all of them
    bits.write(0, 2)
    bits.write(1, 1)  # a prefix code
    bits.write(_LITERAL, 4)  # symbols of 8 bits are the values themselves
    bits.write(0, 4)
    bits.write(0, 4)
    bits.write(1, 1)  # 256 = 1 + 128 + 127 symbols
    bits.write(7, 4)
    bits.write(127, 7)
    bits.write(0, 2)  # a code length for each
    for length in _LENGTHS_ORDER:  # of which there is one, of 8 bits
        bits.write(*((2, 2) if length == _LITERAL else (0, 2)))
    for value in coded:
        bits.write(int(f"{value:08b}"[::-1], 2), _LITERAL)


def _number(value: int) -> bytes:
    """A number in groups of 7 bits, the lowest first."""
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


def _kind(byte: int) -> int:
    """Context of the byte before."""
    if chr(byte).isascii() and chr(byte).isalpha():
        return 0
    if chr(byte) in "0123456789.,":
        return 1
    if byte < 16:
        return 2 + min(byte, 2)
    return 6 if byte == 255 else 5 if byte > 240 else 7


def _earlier_kind(byte: int) -> int:
    """Context of the byte two before."""
    if chr(byte).isascii() and chr(byte).isalpha():
        return 0
    if chr(byte) in "0123456789.,":
        return 1
    return 2 if byte < 16 else 3 if byte > 240 else 4


# Entropy coding


class _Config(NamedTuple):
    """The split of numbers into a coded token and plain bits."""

    exponent: int
    high: int = 0  # bits of the token below the highest one
    low: int = 0  # lowest bits, in the token, too

    def number(self, token: int, bits: Bits) -> int:
        if token < 1 << self.exponent:
            return token
        kept = self.high + self.low
        count = self.exponent - kept + ((token - (1 << self.exponent)) >> kept)
        low = token & ((1 << self.low) - 1)
        token >>= self.low
        value = 1 << self.high | token & ((1 << self.high) - 1)
        value = value << count | bits.read(count)
        return value << self.low | low


class _Symbols:
    """Numbers of several contexts (C.2)."""

    def __init__(self, bits: Bits, contexts: int, *, nested: bool = False) -> None:
        self._bits = bits
        self._copy_from: tuple[int, int] | None = None
        self._done: list[int] = []
        self._left = self._position = 0
        if bits.read(1):
            if nested:
                raise ValueError("repetitions in a list of contexts")
            first = bits.one_of((0, 224), (0, 512), (0, 4096), (15, 8))
            shortest = bits.one_of((0, 3), (0, 4), (2, 5), (8, 9))
            self._copy_from = first, shortest
            self._lengths = _read_config(bits, 8)
            contexts += 1
        self._clusters = _read_clusters(bits, contexts) if contexts > 1 else [0]
        count = max(self._clusters) + 1
        prefix = bits.read(1)
        size = 15 if prefix else 5 + bits.read(2)
        self._configs = [_read_config(bits, size) for _ in range(count)]
        self._state: int | None = None
        if prefix:
            sizes = [_read_count(bits, 4) + 1 for _ in range(count)]
            self._codes = [_read_prefix_code(bits, n) for n in sizes]
        else:
            self._tables = [
                _alias_table(_read_probabilities(bits), size) for _ in range(count)
            ]
            self._state = bits.read(32)

    def read(self, context: int) -> int:
        """Reads the next number of a context."""
        if self._left == 0:
            cluster = self._clusters[context]
            token = self._token(cluster)
            if self._copy_from is None or token < self._copy_from[0]:
                value = self._configs[cluster].number(token, self._bits)
                self._done.append(value)
                return value
            first, shortest = self._copy_from
            self._left = shortest + self._lengths.number(token - first, self._bits)
            cluster = self._clusters[-1]
            token = self._token(cluster)
            distance = self._configs[cluster].number(token, self._bits) + 1
            distance = min(distance, len(self._done), _WINDOW)
            self._position = len(self._done) - distance
        self._left -= 1
        value = self._done[self._position] if self._done else 0
        self._position += 1
        self._done.append(value)
        return value

    def check_end(self) -> None:
        """Raises ValueError if the state of the coder shows that bits are wrong."""
        if self._state not in (None, _FINAL_STATE):
            raise ValueError("its colour profile is damaged")

    def _token(self, cluster: int) -> int:
        if self._state is None:
            return self._codes[cluster](self._bits)
        symbol, offset, frequency = self._tables[cluster](self._state & 0xFFF)
        self._state = frequency * (self._state >> _PRECISION) + offset
        if self._state < 1 << 16:
            self._state = self._state << 16 | self._bits.read(16)
        return symbol


def _bits_for(value: int) -> int:
    """Bits that hold 0 up to `value`."""
    return value.bit_length()


def _read_config(bits: Bits, size: int) -> _Config:
    exponent = bits.read(_bits_for(size))
    if exponent == size:
        return _Config(exponent)
    high = bits.read(_bits_for(exponent))
    if high > exponent:
        raise ValueError("a broken split of numbers")
    low = bits.read(_bits_for(exponent - high))
    if high + low > exponent:
        raise ValueError("a broken split of numbers")
    return _Config(exponent, high, low)


def _read_count(bits: Bits, width: int) -> int:
    """A number from 0; `width` bits state how many bits it has."""
    if not bits.read(1):
        return 0
    count = bits.read(width)
    return (1 << count) + bits.read(count)


def _read_clusters(bits: Bits, contexts: int) -> list[int]:
    if bits.read(1):
        width = bits.read(2)
        return [bits.read(width) for _ in range(contexts)]
    moved = bits.read(1)
    symbols = _Symbols(bits, 1, nested=contexts <= 2)
    found = [symbols.read(0) for _ in range(contexts)]
    symbols.check_end()
    if max(found) > 255:
        raise ValueError("too many codes")
    if moved:
        order = list(range(256))
        for place, index in enumerate(found):
            found[place] = order[index]
            order.insert(0, order.pop(index))
    return found


# Codes of logarithms: bits, the lowest first, and their value.
_LOGARITHMS = {
    **{"000": 10, "010": 7, "100": 6, "101": 8, "110": 9},
    **{"0011": 3, "0111": 5, "1001": 4, "1011": 1, "1111": 2},
    **{"10001": 0, "100001": 11, "0000001": 12, "1000001": 13},
}
_SAME = 13  # a logarithm that stands for a repetition


def _read_probabilities(bits: Bits) -> list[int]:
    """Frequencies of symbols, whose sum is 4096 (C.2.5)."""
    whole = 1 << _PRECISION
    if bits.read(1):
        count = bits.read(1) + 1
        symbols = [_read_count(bits, 3) for _ in range(count)]
        found = [0] * (max(symbols) + 1)
        first = bits.read(_PRECISION) if count == 2 else whole
        found[symbols[0]] = first
        if count == 2:
            found[symbols[1]] = whole - first
        return found
    if bits.read(1):
        count = _read_count(bits, 3) + 1
        return [whole // count + (i < whole % count) for i in range(count)]
    return _read_logarithmic(bits)


def _read_logarithmic(bits: Bits) -> list[int]:
    width = 0
    while width < 3 and bits.read(1):
        width += 1
    shift = (bits.read(width) | 1 << width) - 1
    length = _read_count(bits, 3) + 3
    logarithms, repeated = [0] * length, [0] * length
    place, largest = 0, -1
    while place < length:
        logarithms[place] = value = _read_code(bits, _LOGARITHMS)
        if value == _SAME:
            count = _read_count(bits, 3)
            repeated[place] = count + 4
            place += count + 4
            continue
        if largest < 0 or value > logarithms[largest]:
            largest = place
        place += 1
    if largest < 0:
        raise ValueError("probabilities without a largest one")
    found = [0] * length
    place = 0
    while place < length:
        if repeated[place]:
            value = found[place - 1] if place else 0
            end = min(place + repeated[place], length)
            found[place:end] = [value] * (end - place)
            place = end
            continue
        code = logarithms[place]
        if place != largest and code:
            count = max(min(code - 1, shift - ((_PRECISION - code + 1) >> 1)), 0)
            count = 0 if code == 1 else count
            more = bits.read(count) << (code - 1 - count)
            found[place] = (1 << (code - 1)) + more
        place += 1
    found[largest] = (1 << _PRECISION) - sum(found)
    if found[largest] <= 0:
        raise ValueError("probabilities above 1")
    return found


def _alias_table(
    frequencies: Sequence[int], size: int
) -> Callable[[int], tuple[int, int, int]]:
    """A function from 12 bits of the state to (symbol, offset, frequency) (C.2.6)."""
    entry = 1 << (_PRECISION - size)
    count = 1 << size
    given = [*frequencies, *([0] * (count - len(frequencies)))][:count]
    whole = [i for i, f in enumerate(given) if f == 1 << _PRECISION]
    if whole:
        return lambda state: (whole[0], state, 1 << _PRECISION)
    cutoffs, others, offsets = list(given), list(range(count)), [0] * count
    over = [i for i in range(count) if given[i] > entry]
    under = [i for i in range(count) if given[i] < entry]
    while over:
        large, small = over.pop(), under.pop()
        cutoffs[large] -= entry - cutoffs[small]
        others[small], offsets[small] = large, cutoffs[large]
        if cutoffs[large] < entry:
            under.append(large)
        elif cutoffs[large] > entry:
            over.append(large)

    def looked_up(state: int) -> tuple[int, int, int]:
        index, place = divmod(state, entry)
        if place < cutoffs[index]:
            return index, place, given[index]
        other = others[index]
        return other, offsets[index] - cutoffs[index] + place, given[other]

    return looked_up


# Prefix codes are those of Brotli (RFC 7932, 3.4 and 3.5).
_LENGTHS_ORDER = (1, 2, 3, 4, 0, 5, 17, 6, 16, 7, 8, 9, 10, 11, 12, 13, 14, 15)
_LENGTH_CODES = {"00": 0, "01": 4, "10": 3, "011": 2, "0111": 1, "1111": 5}
_SIMPLE = {1: (0,), 2: (1, 1), 3: (1, 2, 2), 4: (2, 2, 2, 2)}


def _read_prefix_code(bits: Bits, count: int) -> Callable[[Bits], int]:
    if count == 1:
        return lambda _: 0
    skipped = bits.read(2)
    if skipped == 1:
        width = _bits_for(count - 1)
        number = bits.read(2) + 1
        symbols = [bits.read(width) for _ in range(number)]
        lengths: Sequence[int] = _SIMPLE[number]
        if number == 4 and bits.read(1):
            lengths = (1, 2, 3, 3)
        if number == 1:
            return lambda _: symbols[0]
        return _canonical(dict(zip(symbols, lengths, strict=True)))
    lengths_code = [0] * 18
    space = 32
    for symbol in _LENGTHS_ORDER[skipped:]:
        if space <= 0:
            break
        lengths_code[symbol] = length = _read_code(bits, _LENGTH_CODES)
        space -= 32 >> length if length else 0
    return _canonical(dict(enumerate(_read_lengths(bits, count, lengths_code))))


def _read_lengths(bits: Bits, count: int, code: list[int]) -> list[int]:
    next_length = _canonical(dict(enumerate(code)))
    found: list[int] = []
    previous, repeated, repeat = 8, 0, 0
    space = 1 << 15
    while len(found) < count and space > 0:
        symbol = next_length(bits)
        if symbol < 16:
            repeat = 0
            found.append(symbol)
            if symbol:
                previous = symbol
                space -= 1 << (15 - symbol)
            continue
        extra = symbol - 14
        length = previous if symbol == 16 else 0
        if repeated != length:
            repeat, repeated = 0, length
        old = repeat
        if repeat > 0:
            repeat = (repeat - 2) << extra
        repeat += bits.read(extra) + 3
        found += [length] * (repeat - old)
        space -= (repeat - old) << (15 - length) if length else 0
    if len(found) > count or space:
        raise ValueError("a broken prefix code")
    return found


def _canonical(lengths: dict[int, int]) -> Callable[[Bits], int]:
    """A reader of the canonical code with these lengths of symbols; 0: no symbol."""
    used = sorted((n, s) for s, n in lengths.items() if n)
    if len(used) == 1:
        return lambda _: used[0][1]
    codes: dict[tuple[int, int], int] = {}
    code = last = 0
    for length, symbol in used:
        code <<= length - last
        codes[length, code] = symbol
        code, last = code + 1, length

    def read(bits: Bits) -> int:
        value = 0
        for length in range(1, 16):
            value = value << 1 | bits.read(1)
            if (length, value) in codes:
                return codes[length, value]
        raise ValueError("a broken prefix code")

    return read


def _read_code(bits: Bits, codes: dict[str, int]) -> int:
    """The value of a code, whose first bit is the last of its name."""
    code, longest = "", max(map(len, codes))
    while len(code) < longest:
        code = f"{bits.read(1)}{code}"
        if code in codes:
            return codes[code]
    raise ValueError("a broken prefix code")


# Prediction of profiles

_TAGS = (
    *(b"cprt", b"wtpt", b"bkpt", b"rXYZ", b"gXYZ", b"bXYZ", b"kXYZ", b"rTRC", b"gTRC"),
    *(b"bTRC", b"kTRC", b"chad", b"desc", b"chrm", b"dmnd", b"dmdd", b"lumi"),
)
_TYPES = (b"XYZ ", b"desc", b"text", b"mluc", b"para", b"curv", b"sf32", b"gbd ")
_OF_20_BYTES = (b"rXYZ", b"gXYZ", b"bXYZ", b"kXYZ", b"wtpt", b"bkpt", b"lumi")


class _Stream:
    """Bytes read one after the other."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._place = 0

    def __bool__(self) -> bool:
        return self._place < len(self._data)

    def take(self, count: int) -> bytes:
        if self._place + count > len(self._data):
            raise IndexError("cut off")
        self._place += count
        return self._data[self._place - count : self._place]

    def byte(self) -> int:
        return self.take(1)[0]

    def number(self) -> int:
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128 or shift > 56:
                return value

    def rest(self) -> bytes:
        return self.take(len(self._data) - self._place)


def _predicted(coded: bytes) -> bytes:
    """The profile of commands and data (E.4)."""
    stream = _Stream(coded)
    size, length = stream.number(), stream.number()
    if size > _LARGEST:
        raise ValueError(f"a colour profile of {size} bytes")
    commands, data = _Stream(stream.take(length)), _Stream(stream.rest())
    found = bytearray()
    expected = _expected_header(size)
    for place in range(min(128, size)):
        _refine(expected, found, place)
        found.append((data.byte() + expected[place]) & 255)
    if commands:
        found += _tags(commands, data)
    while commands and len(found) <= size:
        _add_content(found, commands, data)
    if len(found) != size:
        raise ValueError("its colour profile has another length than it states")
    return bytes(found)


def _expected_header(size: int) -> bytearray:
    header = bytearray(128)
    header[:4] = struct.pack(">I", size)
    header[8] = 4
    header[12:24] = b"mntrRGB XYZ "
    header[36:40] = b"acsp"
    header[68:80] = bytes((0, 0, 246, 214, 0, 1, 0, 0, 0, 0, 211, 45))
    return header


def _refine(header: bytearray, found: bytes | bytearray, place: int) -> None:
    """Improves the expected header by the bytes before `place`."""
    if place == 8:
        header[80:84] = found[4:8]
    if place == 41 and found[40:41] in (b"A", b"M"):
        header[41:44] = b"PPL" if found[40:41] == b"A" else b"SFT"
    if place == 42 and found[40:42] in (b"SG", b"SU"):
        header[42:44] = b"I " if found[41:42] == b"G" else b"NW"


def _tags(commands: _Stream, data: _Stream) -> bytes:
    """The table of tags."""
    count = commands.number()
    if count == 0:
        return b""
    found = struct.pack(">I", count - 1)
    start, size = 128 + 12 * (count - 1), 0
    while commands and (command := commands.byte()) & 63:
        kind = command & 63
        if kind == 1:
            tag = data.take(4)
        else:
            tag = {2: b"rTRC", 3: b"rXYZ"}.get(kind) or _TAGS[kind - 4]
        start = commands.number() if command & 64 else start + size
        size = 20 if tag in _OF_20_BYTES else size
        size = commands.number() if command & 128 else size
        found += tag + struct.pack(">II", start, size)
        if kind == 2:
            for other in (b"gTRC", b"bTRC"):
                found += other + struct.pack(">II", start, size)
        if kind == 3:
            for index, other in enumerate((b"gXYZ", b"bXYZ"), 1):
                found += other + struct.pack(">II", start + index * size, size)
    return found


def _add_content(found: bytearray, commands: _Stream, data: _Stream) -> None:
    command = commands.byte()
    if command == 1:
        found += data.take(commands.number())
    elif command in (2, 3):
        found += _shuffled(data.take(commands.number()), 2 if command == 2 else 4)
    elif command == 4:
        _add_differences(found, commands, data)
    elif command == 10:
        found += b"XYZ " + bytes(4) + data.take(12)
    elif 16 <= command < 24:
        found += _TYPES[command - 16] + bytes(4)
    else:
        raise ValueError("an unknown command in its colour profile")


def _shuffled(data: bytes, width: int) -> bytes:
    """Interleaves the `width` parts of the data."""
    height = -(-len(data) // width)
    return bytes(
        data[column * height + row]
        for row in range(height)
        for column in range(width)
        if column * height + row < len(data)
    )[: len(data)]


def _add_differences(found: bytearray, commands: _Stream, data: _Stream) -> None:
    flags = commands.byte()
    width, order = (flags & 3) + 1, flags >> 2 & 3
    stride = commands.number() if flags & 16 else width
    count = commands.number()
    if width == 3 or order == 3 or stride < width or 4 * stride >= len(found):
        raise ValueError("a broken prediction in its colour profile")
    differences = data.take(count)
    if width > 1:
        differences = _shuffled(differences, width)
    start = len(found)
    for index, difference in enumerate(differences):
        first = start + index - index % width
        one, two, three = (
            int.from_bytes(
                found[first - n * stride : first - n * stride + width], "big"
            )
            for n in (1, 2, 3)
        )
        value = (one, 2 * one - two, 3 * (one - two) + three)[order]
        byte = value >> 8 * (width - 1 - index % width)
        found.append((byte + difference) & 255)
