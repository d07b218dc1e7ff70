"""The classes of pictures that public suites of test files have, made here.

PngSuite's: every colour type and depth, interlaced or not, with and without tRNS and
gAMA. libjpeg's: samplings, progressive, restart markers, sides of a pixel. Others of
TIFF are in test_files.
"""

import io
import struct
import zlib
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lightbsr_jax.imaging import conversion, decoding, errors, files, photographs

GREY, COLOUR, PALETTE, GREY_ALPHA, COLOUR_ALPHA = 0, 2, 3, 4, 6
DEPTHS = {
    GREY: (1, 2, 4, 8, 16),
    COLOUR: (8, 16),
    PALETTE: (1, 2, 4, 8),
    GREY_ALPHA: (8, 16),
    COLOUR_ALPHA: (8, 16),
}
CHANNELS = {GREY: 1, COLOUR: 3, PALETTE: 1, GREY_ALPHA: 2, COLOUR_ALPHA: 4}
KINDS = [(kind, depth) for kind, depths in DEPTHS.items() for depth in depths]
SIZES = [(1, 1), (1, 9), (7, 1), (3, 5), (8, 8), (17, 33)]
# Adam7's passes: first row and column, and the steps between.
ADAM7 = [
    *((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4)),
    *((2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)),
]


def chunk(kind: bytes, body: bytes) -> bytes:
    check = struct.pack(">I", zlib.crc32(kind + body))
    return struct.pack(">I", len(body)) + kind + body + check


def packed(samples: np.ndarray, depth: int) -> bytes:
    """Rows of samples [H, W, C], each after the filter "none" and filled to a byte."""
    rows = []
    for row in samples:
        bits = "".join(f"{value:0{depth}b}" for value in row.ravel())
        bits = bits.ljust(-(-len(bits) // 8) * 8, "0")
        rows.append(b"\0" + int(bits, 2).to_bytes(len(bits) // 8, "big"))
    return b"".join(rows)


def png(
    samples: np.ndarray, kind: int, depth: int, *, interlaced: bool, extra: bytes = b""
) -> bytes:
    height, width, _ = samples.shape
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, interlaced)
    if interlaced:
        passes = [samples[r::down, c::across] for r, c, down, across in ADAM7]
        data = b"".join(packed(part, depth) for part in passes if part.size)
    else:
        data = packed(samples, depth)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + extra
        + chunk(b"IDAT", zlib.compress(data))
        + chunk(b"IEND", b"")
    )


def palette(depth: int) -> np.ndarray:
    rng = np.random.default_rng(1)
    return rng.integers(256, size=(2**depth, 3), dtype=np.uint8)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("transparent", [False, True])
@pytest.mark.parametrize("gamma", [False, True])
@pytest.mark.parametrize(("kind", "depth"), KINDS)
def test_png(
    kind: int, depth: int, gamma: bool, transparent: bool, interlaced: bool
) -> None:
    if transparent and kind in (GREY_ALPHA, COLOUR_ALPHA):
        pytest.skip("tRNS is not for pictures with alpha")
    rng = np.random.default_rng(0)
    for height, width in SIZES:
        shape = (height, width, CHANNELS[kind])
        samples = rng.integers(2**depth, size=shape)
        extra = chunk(b"gAMA", struct.pack(">I", 100_000)) if gamma else b""
        if kind == PALETTE:
            extra += chunk(b"PLTE", palette(depth).tobytes())
        alphas = rng.integers(256, size=2**depth).astype(np.uint8)
        if transparent:
            key = samples[0, 0]
            body = b"".join(struct.pack(">H", value) for value in key)
            extra += chunk(b"tRNS", alphas.tobytes() if kind == PALETTE else body)
        data = png(samples, kind, depth, interlaced=interlaced, extra=extra)
        decoded = decoding.decode(data)
        assert decoding.size(io.BytesIO(data)) == (height, width)
        top = 65535 if depth == 16 else 255
        if kind == PALETTE:
            expected = palette(depth)[samples[..., 0]]
            alpha = alphas[samples]
        else:
            expected = samples * (top // (2**depth - 1))
            alpha = top * (samples != samples[0, 0]).any(-1, keepdims=True)
        if transparent:
            expected = np.concatenate([expected, alpha], -1)
        assert decoded.samples.dtype == (np.uint16 if depth == 16 else np.uint8)
        np.testing.assert_array_equal(decoded.samples, expected)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0", None])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("restart", [0, 1])
def test_jpeg(
    tmp_path: Path,
    size: tuple[int, int],
    subsampling: str | None,
    progressive: bool,
    restart: int,
) -> None:
    """As Pillow alone has it; without a subsampling: grey."""
    y, x = np.mgrid[: size[0], : size[1]]
    smooth = np.stack([4 * y + 60, 3 * x + 70, 2 * (x + y) + 50], -1).astype(np.uint8)
    image = Image.fromarray(smooth)
    options = {"quality": 95, "progressive": progressive}
    options["restart_marker_blocks"] = restart
    if subsampling is None:
        image = image.convert("L")
    else:
        options["subsampling"] = subsampling
    path = tmp_path / "x.jpg"
    image.save(path, "JPEG", **options)
    read = photographs.read(path)
    with Image.open(path) as other:
        expected = np.asarray(other)
    np.testing.assert_array_equal(read.colour.squeeze(), expected.squeeze())
    assert files.image_size(path) == size


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 1), (2, 3)])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "BMP"])
def test_the_smallest_pictures_there_and_back(
    tmp_path: Path, size: tuple[int, int], kind: str
) -> None:
    pixels = np.random.default_rng(0).integers(256, size=(*size, 3), dtype=np.uint8)
    path = tmp_path / "x"
    Image.fromarray(pixels).save(path, kind)
    read = photographs.read(path)
    shown = conversion.to_network(read)
    assert shown.shape == (*size, 3)
    larger = shown.repeat(4, 0).repeat(4, 1)
    result = conversion.from_network(read, larger, larger.shape[:2])
    for other, dtype in product(["PNG", "TIFF"], [np.uint8]):
        (tmp_path / "y").write_bytes(photographs.encode(result, kind=other))
        again = photographs.read(tmp_path / "y")
        assert again.colour.dtype == dtype
        np.testing.assert_array_equal(again.colour, larger)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("size", [(70_000, 1), (1, 70_000)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_long_and_narrow(
    tmp_path: Path, size: tuple[int, int], dtype: type, kind: str
) -> None:
    """Each row of a PNG has a byte more than its samples."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(np.iinfo(dtype).max, size=(*size, 1), dtype=dtype)
    nothing = photographs.Metadata(None, None, None, {})
    made = photographs.Photograph(pixels, None, None, kind, nothing)
    (tmp_path / "x").write_bytes(photographs.encode(made, kind=kind))
    np.testing.assert_array_equal(photographs.read(tmp_path / "x").colour, pixels)


@pytest.mark.parametrize(
    ("marker", "kind"),
    [
        (0xC3, "a lossless JPEG, as in medical"),
        (0xC7, "a hierarchical JPEG"),
        (0xCB, "a lossless JPEG with arithmetic coding"),
    ],
)
def test_kinds_of_jpeg_that_no_photograph_is(marker: int, kind: str) -> None:
    """Valid files by T.81, after notes of any length; image-rs has such."""
    buffer = io.BytesIO()
    Image.new("L", (8, 8)).save(buffer, "JPEG", exif=b"Exif\0\0" + bytes(60_000))
    data = buffer.getvalue()
    place = data.index(b"\xff\xc0")
    changed = data[: place + 1] + bytes([marker]) + data[place + 2 :]
    with pytest.raises(files.ImageError, match=f"x.jpg: is {kind}.*convert it to PNG"):
        photographs.of_bytes(changed, "x.jpg")
    assert photographs.of_bytes(data, "x.jpg").colour.shape == (8, 8, 1)


def test_pixels_of_a_jpeg_are_not_taken_for_its_kind() -> None:
    frame = b"\xff\xc3\0\2"
    assert "lossless" in str(errors.kind_of(b"\xff\xd8" + frame))
    assert errors.kind_of(b"\xff\xd8\xff\xda\0\2" + frame) is None


def test_png_with_a_damaged_header_is_called_that() -> None:
    data = bytearray(png(np.zeros((2, 2, 1), int), GREY, 8, interlaced=False))
    data[20] ^= 1  # the width: its checksum is not that
    with pytest.raises(files.ImageError, match="x.png: is a PNG whose header is dam"):
        photographs.of_bytes(bytes(data), "x.png")
