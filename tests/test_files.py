"""Reading image files of every kind, against arrays made by hand."""

import io
import struct
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from helpers.pictures import UPRIGHT
from PIL import ExifTags, Image

from lightbsr_jax.errors import UserError
from lightbsr_jax.imaging import decoding, files
from lightbsr_jax.imaging.files import ImageError

HEIGHT, WIDTH = 13, 22


def random_array(*channels: int, bits: int = 8, seed: int = 0) -> np.ndarray:
    dtype = np.uint8 if bits == 8 else np.uint16
    shape = (HEIGHT, WIDTH, *channels)
    return np.random.default_rng(seed).integers(2**bits, size=shape, dtype=dtype)


def smooth_array() -> np.ndarray:
    """A colour gradient, which JPEG keeps to within a few levels."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([5 * y + 60, 6 * x + 50, 3 * (x + y) + 40], -1).astype(np.uint8)


def on_white(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Colour [H, W, C] and alpha [H, W] of 0..255 on white, in float64."""
    opacity = alpha[..., None] / 255
    return np.round(colour * opacity + 255 * (1 - opacity))


def encode(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def tiff(array: np.ndarray, **options) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, **options)
    return buffer.getvalue()


def png_chunk(kind: bytes, body: bytes) -> bytes:
    checksum = zlib.crc32(kind + body)
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)


def png(samples: np.ndarray, extra: bytes = b"") -> bytes:
    """A PNG of uint16 samples [H, W, C], which Pillow cannot write."""
    height, width, channels = samples.shape
    colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + extra
        + png_chunk(b"IDAT", zlib.compress(rows))
        + png_chunk(b"IEND", b"")
    )


def read(folder: Path, data: bytes, name: str = "image.png") -> np.ndarray:
    path = folder / name
    path.write_bytes(data)
    image = files.read_rgb(path)
    assert image.dtype == np.uint8
    assert image.flags.writeable
    assert files.image_size(path) == image.shape[:2]
    return image


# Eight bits


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("BMP", {}),
        ("WEBP", {"lossless": True}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "tiff_deflate"}),
    ],
)
def test_lossless_colour(tmp_path, kind, options):
    expected = random_array(3)
    data = encode(Image.fromarray(expected), kind, **options)
    np.testing.assert_array_equal(read(tmp_path, data), expected)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_lossy_colour(tmp_path, kind):
    expected = smooth_array()
    data = encode(Image.fromarray(expected), kind, quality=95)
    difference = read(tmp_path, data).astype(int) - expected
    assert 0 < np.abs(difference).max() <= 12
    assert np.abs(difference).mean() < 2


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_grey_is_repeated(tmp_path, kind):
    grey = random_array()
    image = read(tmp_path, encode(Image.fromarray(grey), kind))
    np.testing.assert_array_equal(image, np.stack([grey] * 3, -1))


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_one_bit(tmp_path, kind):
    black_or_white = random_array() > 127
    image = read(tmp_path, encode(Image.fromarray(black_or_white), kind))
    np.testing.assert_array_equal(image, np.stack([255 * black_or_white] * 3, -1))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_alpha_is_composited_on_white(tmp_path, kind):
    array = random_array(4)
    array[0, 0] = 10, 20, 30, 0
    array[0, 1] = 10, 20, 30, 255
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    image = read(tmp_path, encode(Image.fromarray(array), kind, **options))
    np.testing.assert_array_equal(image[0, :2], [[255, 255, 255], [10, 20, 30]])
    np.testing.assert_array_equal(image, on_white(array[..., :3], array[..., 3]))


def test_grey_with_alpha(tmp_path):
    array = random_array(2)
    image = read(tmp_path, encode(Image.fromarray(array), "PNG"))
    expected = on_white(array[..., [0, 0, 0]], array[..., 1])
    np.testing.assert_array_equal(image, expected)


def test_palette(tmp_path):
    indices = random_array() % 7
    colours = np.random.default_rng(1).integers(256, size=(7, 3), dtype=np.uint8)
    image = Image.fromarray(indices, "P")
    image.putpalette(colours.tobytes())
    for kind in ("PNG", "BMP", "TIFF"):
        expected = colours[indices]
        np.testing.assert_array_equal(read(tmp_path, encode(image, kind)), expected)

    alpha = np.array([255, 0, 128, 7, 255, 200, 99], np.uint8)
    data = encode(image, "PNG", transparency=alpha.tobytes())
    expected = on_white(colours[indices], alpha[indices])
    np.testing.assert_array_equal(read(tmp_path, data), expected)


def test_colour_key_is_white(tmp_path):
    array = random_array(3)
    array[3:5, 2:9] = 10, 20, 30
    data = encode(Image.fromarray(array), "PNG", transparency=(10, 20, 30))
    expected = array.copy()
    expected[3:5, 2:9] = 255
    np.testing.assert_array_equal(read(tmp_path, data), expected)


def test_cmyk_jpeg(tmp_path):
    ink = np.array([40, 80, 120, 60])
    array = np.broadcast_to(ink, (HEIGHT, WIDTH, 4)).astype(np.uint8)
    image = Image.frombytes("CMYK", (WIDTH, HEIGHT), array.tobytes())
    expected = (255 - ink[:3]) * (255 - ink[3]) / 255
    for data in (encode(image, "JPEG", quality=98), encode(image, "TIFF")):
        difference = read(tmp_path, data) - expected
        assert np.abs(difference).max() < 4


# Sixteen bits


def test_every_grey_of_16_bits(tmp_path):
    values = np.arange(65536).reshape(256, 256)
    expected = np.stack([np.round(values / 257)] * 3, -1)
    for data in (
        png(values.astype(np.uint16)[..., None]),
        tiff(values.astype("<u2"), byteorder="<"),
        tiff(values.astype(">u2"), byteorder=">", compression="deflate"),
        tiff(65535 - values.astype(np.uint16), photometric="miniswhite"),
        encode(Image.fromarray(values.astype(np.uint16)), "PNG"),
    ):
        np.testing.assert_array_equal(read(tmp_path, data), expected)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_png_of_16_bits(tmp_path, channels):
    samples = random_array(channels, bits=16)
    rounded = np.round(samples / 257)
    expected = rounded[..., :3] if channels >= 3 else rounded[..., [0, 0, 0]]
    if channels in (2, 4):
        expected = on_white(expected, rounded[..., -1])
    np.testing.assert_array_equal(read(tmp_path, png(samples)), expected)


def test_colour_key_of_16_bits(tmp_path):
    samples = random_array(3, bits=16)
    key = samples[4, 5]
    samples[6, 7] = key ^ [0, 0, 1]  # not the key, but the same after rounding
    data = png(samples, png_chunk(b"tRNS", key.astype(">u2").tobytes()))
    expected = np.round(samples / 257)
    expected[4, 5] = 255
    np.testing.assert_array_equal(read(tmp_path, data), expected)


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("compression", [None, "deflate"])
@pytest.mark.parametrize("layout", [{}, {"rowsperstrip": 5}, {"tile": (16, 16)}])
def test_tiff_of_16_bits(tmp_path, byteorder, compression, layout):
    samples = random_array(4, bits=16)
    options = dict(byteorder=byteorder, compression=compression, **layout)
    options["photometric"] = "rgb"
    colour = read(tmp_path, tiff(samples[..., :3], **options))
    np.testing.assert_array_equal(colour, np.round(samples[..., :3] / 257))

    composited = read(tmp_path, tiff(samples, extrasamples=["unassalpha"], **options))
    rounded = np.round(samples / 257)
    expected = on_white(rounded[..., :3], rounded[..., 3])
    np.testing.assert_array_equal(composited, expected)


@pytest.mark.parametrize("bigtiff", [False, True])
@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("planes", [False, True])
@pytest.mark.parametrize("predictor", [False, True])
def test_layouts_of_tiff(
    tmp_path, channels, bits, byteorder, bigtiff, planes, predictor
):
    """Each in the machine's byte order and in order of rows, columns, channels."""
    samples = random_array(channels, bits=bits)
    options = dict(byteorder=byteorder, bigtiff=bigtiff, compression="zlib")
    if planes:
        if channels == 1:
            pytest.skip("one channel is one plane")
        options["planarconfig"] = "separate"
    if channels % 2 == 0:
        options["extrasamples"] = ["unassalpha"]
    stored = samples.transpose(2, 0, 1) if planes else samples
    if channels == 1:
        stored = samples[..., 0]
    photometric = "rgb" if channels > 2 else "minisblack"
    data = tiff(stored, photometric=photometric, predictor=predictor, **options)
    decoded = decoding.decode(data)
    assert decoded.samples.dtype == samples.dtype
    assert decoded.samples.dtype.isnative
    assert decoded.colours == (3 if channels > 2 else 1)
    np.testing.assert_array_equal(decoded.samples, samples)
    expected = np.round(samples / (257 if bits == 16 else 1))
    colour = expected[..., :3] if channels > 2 else expected[..., [0, 0, 0]]
    if channels % 2 == 0:
        colour = on_white(colour, expected[..., -1])
    np.testing.assert_array_equal(read(tmp_path, data), colour)


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_tiff_of_fewer_bits_than_16(bits):
    values = random_array(bits=16) >> (16 - bits)
    # Packed by hand, each row filled up to a byte: tifffile writes none.
    rows = [
        "".join(f"{value:0{bits}b}" for value in row).ljust(
            -(-WIDTH * bits // 8) * 8, "0"
        )
        for row in values
    ]
    packed = b"".join(int(row, 2).to_bytes(len(row) // 8, "big") for row in rows)
    tags = [(256, WIDTH), (257, HEIGHT), (258, bits), (259, 1), (262, 1), (273, 134)]
    tags += [(277, 1), (278, HEIGHT), (279, len(packed))]
    data = struct.pack("<2sHIH", b"II", 42, 8, len(tags))
    data += b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    data = (data + bytes(4)).ljust(134, b"\0") + packed
    expected = np.round(values * (65535 / (2**bits - 1)))
    np.testing.assert_array_equal(decoding.decode(data).samples[..., 0], expected)


@pytest.mark.parametrize("bits", [8, 16])
def test_premultiplied_alpha_is_divided_out(bits):
    samples = random_array(4, bits=bits)
    top = 2**bits - 1
    alpha = samples[..., 3:].astype(float)
    colour = np.minimum(samples[..., :3], samples[..., 3:])
    stored = np.concatenate([colour, samples[..., 3:]], -1)
    data = tiff(stored, photometric="rgb", extrasamples=["assocalpha"])
    straight = colour.astype(float) * top
    expected = np.divide(straight, alpha, where=alpha > 0, out=straight.copy())
    shown = (alpha > 0)[..., 0]
    result = decoding.decode(data).samples
    np.testing.assert_allclose(result[shown][:, :3], expected[shown], atol=1)
    np.testing.assert_array_equal(result[..., 3:], alpha)


@pytest.mark.parametrize("bits", [8, 16])
def test_a_fourth_sample_of_no_stated_kind_is_alpha(bits):
    """OpenCV's TIFF files of four channels have no tag ExtraSamples."""
    samples = random_array(4, bits=bits)
    data = tiff(samples, photometric="rgb", extrasamples=["unassalpha"])
    tag = struct.pack("<HHI", 338, 3, 1)
    data = data.replace(tag, struct.pack("<HHI", 65000, 3, 1), 1)
    np.testing.assert_array_equal(decoding.decode(data).samples, samples)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_colour_key_of_greys_at_the_files_depth(bits):
    """PNG, 11.3.1.1: the key is compared with samples as they are stored."""
    values = np.arange(WIDTH) % 2**bits
    key = 2**bits // 2
    header = struct.pack(">IIBBBBB", WIDTH, 1, bits, 0, 0, 0, 0)
    row = "".join(f"{v:0{bits}b}" for v in values).ljust(-(-WIDTH * bits // 8) * 8, "0")
    pixels = b"\0" + int(row, 2).to_bytes(len(row) // 8, "big")
    data = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header)
    data += png_chunk(b"tRNS", struct.pack(">H", key))
    data += png_chunk(b"IDAT", zlib.compress(pixels)) + png_chunk(b"IEND", b"")
    samples = decoding.decode(data).samples
    top = np.iinfo(samples.dtype).max
    np.testing.assert_array_equal(samples[0, :, 0], values * (top // (2**bits - 1)))
    np.testing.assert_array_equal(samples[0, :, 1], np.where(values == key, 0, top))


def test_premultiplied_grey_of_8_bits():
    samples = random_array(2)
    samples[..., 0] = np.minimum(samples[..., 0], samples[..., 1])
    data = tiff(samples, photometric="minisblack", extrasamples=["assocalpha"])
    decoded = decoding.decode(data)
    expected = samples[..., 0].astype(float) * 255 / np.maximum(samples[..., 1], 1)
    shown = samples[..., 1] > 0
    result = decoded.samples
    np.testing.assert_allclose(result[..., 0][shown], expected[shown], atol=1)
    assert decoded.colours == 1


def test_jpeg_without_its_last_marker(tmp_path):
    data = encode(Image.fromarray(smooth_array()), "JPEG", quality=95)
    whole = read(tmp_path, data)
    np.testing.assert_array_equal(read(tmp_path, data[:-2]), whole)


@pytest.mark.parametrize("fill", [b"\0", b"\xff"])
@pytest.mark.parametrize("length", [2_000, 100_000])
def test_a_jpeg_that_is_filled_up_is_truncated(tmp_path, fill, length):
    """Damaged disks and interrupted downloads leave such files."""
    image = Image.fromarray(
        np.random.default_rng(0).integers(256, size=(64, 64, 3), dtype=np.uint8)
    )
    data = encode(image, "JPEG", quality=90)
    for cut in (len(data) // 2, len(data) - 300):
        with pytest.raises(ImageError, match="its end is missing"):
            read(tmp_path, data[:cut] + fill * length)
    whole = read(tmp_path, data)
    np.testing.assert_array_equal(read(tmp_path, data + fill * length), whole)
    np.testing.assert_array_equal(read(tmp_path, data[:-2] + fill * length), whole)


def test_a_progressive_jpeg_with_much_behind_it(tmp_path):
    """Such as a video, whose bytes hold no marker of an end."""
    data = encode(Image.fromarray(smooth_array()), "JPEG", progressive=True)
    whole = read(tmp_path, data)
    np.testing.assert_array_equal(read(tmp_path, data + bytes(100_000)), whole)


@pytest.mark.parametrize("bits", [16, 32])
def test_bmp_with_masks_of_its_own(tmp_path, bits):
    masks = (0xF00, 0xF0, 0xF) if bits == 16 else (0x3FF00000, 0xFFC00, 0x3FF)
    top = masks[2]
    levels = np.random.default_rng(0).integers(top + 1, size=(HEIGHT, WIDTH, 3))
    shifts = [(mask & -mask).bit_length() - 1 for mask in masks]
    pixels = sum(levels[..., i] << shifts[i] for i in range(3))
    rows = pixels[::-1].astype(f"<u{bits // 8}")
    size = rows.nbytes
    data = struct.pack("<2sIII", b"BM", 66 + size, 0, 66)
    data += struct.pack("<IiiHHIIiiII", 40, WIDTH, HEIGHT, 1, bits, 3, size, 0, 0, 0, 0)
    data += struct.pack("<3I", *masks) + rows.tobytes()
    expected = np.floor(levels * 255 / top + 0.5)
    np.testing.assert_array_equal(read(tmp_path, data), expected)


def bmp(samples: np.ndarray, masks: tuple[int, ...], compression: int) -> bytes:
    """A BMP of 32 bits whose samples [H, W, 4] are in the order of its bytes."""
    long = compression == 3 and len(masks) == 4  # a header that holds four masks
    length = 56 if long else 40
    start = 14 + 40 + 4 * len(masks)
    rows = samples[::-1].tobytes()
    height, width = samples.shape[:2]
    data = struct.pack("<2sIII", b"BM", start + len(rows), 0, start)
    data += struct.pack("<IiiHHI", length, width, height, 1, 32, compression)
    data += struct.pack("<IiiII", len(rows), 0, 0, 0, 0)
    return data + struct.pack(f"<{len(masks)}I", *masks) + rows


@pytest.mark.parametrize("compression", [3, 6])
def test_bmp_in_the_order_of_red_green_blue(tmp_path, compression):
    """Pillow reads it only if the fourth byte is alpha, and not as compression 6."""
    samples = random_array(4)
    red_first = (0xFF, 0xFF00, 0xFF0000)
    with_alpha = bmp(samples, (*red_first, 0xFF000000), compression)
    expected = on_white(samples[..., :3], samples[..., 3])
    np.testing.assert_array_equal(read(tmp_path, with_alpha), expected)
    masks = red_first if compression == 3 else (*red_first, 0)
    plain = bmp(samples, masks, compression)
    np.testing.assert_array_equal(read(tmp_path, plain), samples[..., :3])


def test_alpha_of_a_bmp_with_masks_of_its_own():
    samples = random_array(4)
    data = bmp(samples, (0xFF00, 0xFF, 0xFF000000, 0xFF0000), 3)
    decoded = decoding.decode(data)
    np.testing.assert_array_equal(decoded.samples, samples[..., [1, 0, 3, 2]])
    assert decoded.colours == 3


def test_pages_that_are_no_pictures(tmp_path):
    """A smaller copy before or after the picture; a chain of thousands is bounded."""
    array = random_array(3)
    for subfiletypes in ([0, 1], [1, 0], [1, 1, 0]):
        buffer = io.BytesIO()
        with tifffile.TiffWriter(buffer) as writer:
            for kind in subfiletypes:
                page = array if kind == 0 else array[::2, ::2]
                writer.write(page, photometric="rgb", subfiletype=kind, metadata=None)
        assert decoding.decode(buffer.getvalue()).pictures == 1
        np.testing.assert_array_equal(read(tmp_path, buffer.getvalue()), array)
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        for _ in range(70):
            writer.write(array[:2, :2], photometric="rgb", subfiletype=1, metadata=None)
    with pytest.raises(ImageError, match="more than 64 pages"):
        read(tmp_path, buffer.getvalue())


def test_large_profiles_are_no_damage(tmp_path):
    array = random_array(3)
    data = encode(Image.fromarray(array), "PNG", icc_profile=bytes(3_000_000))
    np.testing.assert_array_equal(read(tmp_path, data), array)


def test_a_tiff_that_states_more_samples_than_it_has(tmp_path):
    """It is found before memory is allocated for them."""
    data = bytearray(tiff(random_array(3, bits=16), photometric="rgb"))
    at = data.index(struct.pack("<HHI", 277, 3, 1)) + 8
    data[at : at + 2] = struct.pack("<H", 60_000)
    for tag in (256, 257):
        at = data.index(struct.pack("<H", tag), 8) + 2
        data[at : at + 10] = struct.pack("<HII", 4, 1, 4000)
    with pytest.raises(ImageError, match="the file ends before its pixels do"):
        read(tmp_path, bytes(data))


def test_broken_tags_of_a_tiff_are_not_logged(tmp_path, caplog):
    array = random_array(3, bits=16)
    data = tiff(array, photometric="rgb", software="program " * 9)
    at = data.index(struct.pack("<HH", 305, 2)) + 8
    data = data[:at] + struct.pack("<I", 10**9) + data[at + 4 :]
    np.testing.assert_array_equal(read(tmp_path, data), np.round(array / 257))
    assert not caplog.records


def test_cmyk_of_16_bits(tmp_path):
    ink = np.round(random_array(4, bits=16) / 257)
    data = tiff(random_array(4, bits=16), photometric="separated")
    expected = (255 - ink[..., :3]) * (255 - ink[..., 3:]) / 255
    difference = read(tmp_path, data) - expected
    assert np.abs(difference).max() < 2


# Orientation


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "TIFF16", "PNG16"])
def test_orientation(tmp_path, kind, orientation):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    if kind.endswith("16"):
        stored = random_array(3, bits=16)
        expected = np.round(UPRIGHT[orientation](stored) / 257)
        if kind == "PNG16":
            data = png(stored, png_chunk(b"eXIf", exif.tobytes()[6:]))
        else:
            tag = (274, "H", 1, orientation, True)
            data = tiff(stored, photometric="rgb", extratags=[tag])
    else:
        options = {"lossless": True} if kind == "WEBP" else {}
        array = smooth_array() if kind == "JPEG" else random_array(3)
        plain = encode(Image.fromarray(array), kind, **options)
        expected = UPRIGHT[orientation](np.asarray(Image.open(io.BytesIO(plain))))
        data = encode(Image.fromarray(array), kind, exif=exif, **options)
    np.testing.assert_array_equal(read(tmp_path, data), expected)


def test_broken_exif_does_not_spoil_the_picture(tmp_path):
    array = random_array(3)
    data = encode(Image.fromarray(array), "PNG", exif=b"Exif\0\0not a note")
    np.testing.assert_array_equal(read(tmp_path, data), array)


# What cannot be used


def truncatable() -> dict[str, bytes]:
    colour = Image.fromarray(np.tile(smooth_array(), (5, 4, 1)))
    samples = np.tile(random_array(3, bits=16), (5, 4, 1))
    return {
        "png": encode(colour, "PNG"),
        "png of 16 bits": png(samples),
        "jpeg": encode(colour, "JPEG", quality=95),
        "progressive jpeg": encode(colour, "JPEG", progressive=True),
        "webp": encode(colour, "WEBP"),
        "lossless webp": encode(colour, "WEBP", lossless=True),
        "avif": encode(colour, "AVIF"),
        "jxl": imagecodecs.jpegxl_encode(np.asarray(colour), distance=1.0),
        "lossless jxl": imagecodecs.jpegxl_encode(samples, lossless=True),
        "bmp": encode(colour, "BMP"),
        "palette bmp": encode(colour.quantize(50), "BMP"),
        "tiff": tiff(np.asarray(colour), photometric="rgb", rowsperstrip=8),
        "packed tiff": tiff(
            samples, photometric="rgb", compression="deflate", rowsperstrip=8
        ),
        "pillow tiff": encode(colour, "TIFF", compression="tiff_lzw"),
    }


@pytest.mark.filterwarnings("ignore:Truncated File Read", "ignore:Corrupt EXIF data")
@pytest.mark.parametrize("kind", truncatable())
def test_truncated_file_is_an_error_and_never_half_an_image(tmp_path, kind):
    data = truncatable()[kind]
    whole = read(tmp_path, data)
    path = tmp_path / "cut.png"
    cuts = sorted(
        {*range(1, len(data), len(data) // 60), *range(len(data) - 20, len(data))}
    )
    errors = 0
    for cut in cuts:
        path.write_bytes(data[:cut])
        try:
            image = files.read_rgb(path)
        except ImageError as error:
            errors += 1
            assert str(path) in str(error)
        else:  # what was cut off came after the pixels
            np.testing.assert_array_equal(image, whole)
    assert errors >= len(cuts) - 4


def test_flipped_bit_in_a_png(tmp_path):
    data = bytearray(encode(Image.fromarray(random_array(3)), "PNG"))
    data[len(data) // 2] ^= 4
    with pytest.raises(ImageError, match="corrupt or truncated"):
        read(tmp_path, bytes(data))


def test_decompression_bomb(tmp_path):
    header = struct.pack(">IIBBBBB", 40000, 40000, 8, 0, 0, 0, 0)
    path = tmp_path / "bomb.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + png_chunk(b"IDAT", zlib.compress(bytes(1000)))
        + png_chunk(b"IEND", b"")
    )
    for function in (files.read_rgb, files.image_size):
        with pytest.raises(ImageError, match=r"bomb\.png: too large, .* 178 mega"):
            function(path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the file is empty"),
        (b"hello", "not a readable PNG"),
        (encode(Image.fromarray(random_array()), "GIF"), "is a GIF"),
        (b"\0\0\0\x18ftypheic" + bytes(20), "corrupt|needs? the extra heic"),
        (b"\0\0\0\x18ftypavif" + bytes(20), "is an AVIF file that is damaged"),
        (tiff(random_array().astype(np.float32)), "not supported"),
        (tiff(random_array().astype(np.int16)), "of int16 are not supported"),
        (tiff(random_array().astype(np.uint32)), "of uint32 are not supported"),
        (tiff(random_array(3), photometric="cielab"), "of kind CIELAB"),
        (
            imagecodecs.jpeg_encode(random_array(3, bits=16) >> 4, bitspersample=12),
            "is a JPEG of 12 bits",
        ),
        (
            tiff(random_array(), photometric="cfa"),
            "a raw photograph of a kind|extra raw",
        ),
    ],
)
def test_unsupported(tmp_path, data, message):
    path = tmp_path / "odd.png"
    path.write_bytes(data)
    with pytest.raises(ImageError, match=message) as caught:
        files.read_rgb(path)
    assert str(path) in str(caught.value)


def test_missing_file(tmp_path):
    for function in (files.read_rgb, files.image_size):
        with pytest.raises(FileNotFoundError, match=r"gone\.png"):
            function(tmp_path / "gone.png")


# Finding and writing


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_find_images(tmp_path):
    touch(tmp_path, "b/2.PNG", "b/deep/er/1.jpg", "b/1.tiff", "a/x.webp", "one.bmp")
    touch(tmp_path, "b/notes.txt", "b/._2.png", "b/.trash/3.png", "empty/notes.txt")
    (tmp_path / "b" / "deep" / "up").symlink_to(tmp_path / "b")
    (tmp_path / "b" / "link").symlink_to(tmp_path / "a")
    names = ["1.tiff", "2.PNG", "deep/er/1.jpg", "link/x.webp"]
    expected = [(name, tmp_path / "b" / name) for name in names]
    assert files.find_images(tmp_path / "b") == expected
    one = tmp_path / "one.bmp"
    assert files.find_images(str(one)) == [("one.bmp", one)]
    with pytest.raises(FileNotFoundError, match="no such folder or image: .*nowhere"):
        files.find_images(tmp_path / "nowhere")
    for nothing in ("empty", "b/notes.txt"):
        with pytest.raises(UserError, match=f"{nothing} holds no image: .*png .jpg"):
            files.find_images(tmp_path / nothing)


def test_bundled_photographs(tmp_path, monkeypatch):
    train = files.find_images("scikit-image")
    test = files.find_images("scikit-image:test")
    assert len(train) == 9 and files.has_bundled()
    assert [name for name, _ in test] == ["astronaut.png", "chelsea.png", "coffee.png"]
    assert not {name for name, _ in train} & {name for name, _ in test}
    assert all(min(files.image_size(path)) >= 300 for _, path in train + test)
    with pytest.raises(UserError, match="no split 'validation': expected train or"):
        files.find_images("scikit-image:validation")
    with monkeypatch.context() as patch:
        patch.setattr("importlib.util.find_spec", lambda name: None)
        assert not files.has_bundled()
        with pytest.raises(UserError, match="pip install scikit-image"):
            files.find_images("scikit-image")
    monkeypatch.chdir(tmp_path)  # a folder of that name comes first
    touch(tmp_path, "scikit-image/own.png")
    assert [name for name, _ in files.find_images("scikit-image")] == ["own.png"]


def test_split_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("A, the first").mkdir()
    Path("x,y,z").mkdir()
    assert files.split_folders("A,B") == ["A", "B"]
    assert files.split_folders("A, B,") == ["A", "B"]
    assert files.split_folders("A, the first") == ["A, the first"]
    assert files.split_folders("B,x,y,z,C") == ["B", "x,y,z", "C"]
    with pytest.raises(ValueError, match="no folder named"):
        files.split_folders(",")


def test_write_png(tmp_path, monkeypatch):
    path = tmp_path / "out.png"
    for array in (random_array(3), random_array()):
        files.write_png(path, array)
        np.testing.assert_array_equal(np.asarray(Image.open(path)), array)
    before = path.read_bytes()

    with pytest.raises(ValueError, match="uint8"):
        files.write_png(path, random_array(3) / 255)

    def fail(image, target, kind):
        Path(target).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        files.write_png(path, random_array(3))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_lists_with_a_byte_order_mark(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "list.txt").write_text("a.png\n", encoding="utf-8-sig")
    found = files.find_images(tmp_path / "list.txt")
    assert [name for name, _ in found] == ["a.png"]


def test_lists_of_files(tmp_path: Path) -> None:
    """As BasicSR's meta files have them, with folders, comments and other places."""
    for name in ("a.png", "in/b.png", "c.png"):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (3, 2)).save(tmp_path / "images" / name)
    file = tmp_path / "images" / "some.txt"
    other = tmp_path / "d.png"
    Image.new("RGB", (3, 2)).save(other)
    file.write_text(f"in/b.png (480,480,3)\n\n# none\n./a.png\n{other}\n../d.png\n")
    found = files.find_images(file)
    assert [name for name, _ in found] == ["a.png", "d.png", "d.png", "in/b.png"]
    assert all(path.is_file() for _, path in found)
    (tmp_path / "e").mkdir()
    Image.new("RGB", (5, 2)).save(tmp_path / "e" / "d.png")
    file.write_text("../d.png\n../e/d.png\na.png\n")
    place = "/".join(tmp_path.parts[1:])
    names = [name for name, _ in files.find_images(file)]
    assert names == sorted(["a.png", f"{place}/d.png", f"{place}/e/d.png"])

    for text, problem in {
        "a.png\nx.png": "some.txt, line 2: no such image: .*x.png",
        "some.txt": "line 1: .*some.txt is no image by its name",
        "# nothing": "holds no image",
    }.items():
        file.write_text(text)
        with pytest.raises((UserError, FileNotFoundError), match=problem):
            files.find_images(file)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="it is not UTF-8"):
        files.find_images(file)
