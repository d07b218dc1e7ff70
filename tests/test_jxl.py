"""JPEG XL: what its header states, profiles, boxes; against files of libjxl.

`jxl_profiles.npz` has files that libjxl 0.11.2 wrote with a profile whose tone curve no
code stands for, and one with Adobe RGB, which libjxl replaced by its numbers.
"""

import io
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from lightbsr_jax.imaging import (
    conversion,
    files,
    icc,
    isobmff,
    jxl,
    jxl_icc,
    notes,
    photographs,
)
from lightbsr_jax.imaging.errors import ImageError
from lightbsr_jax.imaging.photographs import Photograph

RECORDED = np.load(Path(__file__).with_name("jxl_profiles.npz"))
PIXELS = RECORDED["pixels"]
PROFILE = RECORDED["profile"].tobytes()
ADOBE = imagecodecs.cms_profile("adobergb")
NOTHING = notes.Metadata(None, None, None, {})
LINEAR = icc.stated((0.3127, 0.329), ((0.64, 0.33), (0.3, 0.6), (0.15, 0.06)), 1.0)


def read(data: bytes, path: Path) -> Photograph:
    path.write_bytes(data)
    photograph = photographs.read(path)
    assert files.image_size(path) == photograph.colour.shape[:2]
    return photograph


def converted(pixels: np.ndarray, old: bytes, new: bytes) -> np.ndarray:
    """Values of 0..255 in another colour space."""
    return icc.convert(pixels / np.float32(255), old, new).clip(0, 1) * 255


def test_a_profile_of_libjxl_is_read_byte_for_byte(tmp_path: Path) -> None:
    found = read(RECORDED["lossless"].tobytes(), tmp_path / "a.jxl")
    assert found.profile == PROFILE
    np.testing.assert_array_equal(found.colour, PIXELS)
    assert found.metadata.lossless


def test_a_jpeg_packed_without_loss_is_lossy(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, "JPEG")
    found = read(imagecodecs.jpegxl_encode_jpeg(buffer.getvalue()), tmp_path / "a.jxl")
    assert not found.metadata.lossless


def test_lossy_files_with_a_profile_are_linear_srgb(tmp_path: Path) -> None:
    found = read(RECORDED["lossy"].tobytes(), tmp_path / "a.jxl")
    assert found.profile is not None and not found.metadata.lossless
    expected = converted(PIXELS, PROFILE, LINEAR)
    seen = converted(found.colour, found.profile, LINEAR)
    assert np.abs(seen - expected).mean() < 3
    assert np.abs(seen - PIXELS).mean() > 20  # a different space


def test_colours_that_are_stated_by_numbers(tmp_path: Path) -> None:
    found = read(RECORDED["codes"].tobytes(), tmp_path / "a.jxl")
    assert found.profile is not None
    grid = np.stack(np.meshgrid(*[np.linspace(0, 255, 5)] * 3), -1).reshape(5, 25, 3)
    ours = converted(grid, found.profile, LINEAR)
    np.testing.assert_allclose(ours, converted(grid, ADOBE, LINEAR), atol=0.3)
    assert np.abs(found.colour.astype(int) - PIXELS).mean() < 5


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("profile", [None, ADOBE, PROFILE], ids=["", "Adobe", "odd"])
def test_there_and_back(
    tmp_path: Path, channels: int, dtype: str, profile: bytes | None
) -> None:
    top = np.iinfo(dtype).max + 1
    samples = np.random.default_rng(0).integers(top, size=(9, 21, channels))
    samples = samples.astype(dtype)
    colours = channels - (channels + 1) % 2
    alpha = samples[..., colours:] if channels % 2 == 0 else None
    made = Photograph(samples[..., :colours], alpha, profile, "PNG", NOTHING)
    data = photographs.encode(made, kind="JXL", quality=100)
    found = read(data, tmp_path / "a.jxl")
    assert found.profile == profile
    np.testing.assert_array_equal(found.colour, made.colour)
    assert (found.alpha is None) == (alpha is None)
    if alpha is not None:
        np.testing.assert_array_equal(found.alpha, alpha)


def test_quality_is_for_srgb_and_a_wide_gamut_is_kept_losslessly(
    tmp_path: Path,
) -> None:
    plain = Photograph(PIXELS, None, None, "PNG", NOTHING)
    lossy = photographs.encode(plain, kind="JXL", quality=60)
    assert len(lossy) < len(photographs.encode(plain, kind="JXL", quality=99))
    found = read(lossy, tmp_path / "a.jxl")
    difference = np.abs(found.colour.astype(int) - PIXELS)
    assert 0 < difference.mean() < 12 and found.profile is None
    wide = plain._replace(profile=ADOBE)
    again = read(photographs.encode(wide, kind="JXL", quality=60), tmp_path / "b.jxl")
    np.testing.assert_array_equal(again.colour, PIXELS)
    srgb = plain._replace(profile=imagecodecs.cms_profile("srgb"))
    assert photographs.encode(srgb, kind="JXL", quality=60) == lossy


@pytest.mark.parametrize("channels", [1, 3])
def test_linear_light_is_seen_as_such(tmp_path: Path, channels: int) -> None:
    """imagecodecs states linear light for files of 16 bits."""
    samples = np.full((8, 8, channels), 14_000, np.uint16)  # sRGB's 32,700
    samples[0], samples[-1] = 0, 65535
    data = imagecodecs.jpegxl_encode(samples.squeeze(), lossless=True)
    found = read(data, tmp_path / "a.jxl")
    assert found.profile is not None
    seen = conversion.to_network(found)
    assert seen.dtype == np.float32
    np.testing.assert_allclose(seen[3], 0.5, atol=0.005)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_lossy_files_of_16_bits_look_as_those_of_8(
    tmp_path: Path, channels: int
) -> None:
    """imagecodecs takes 16 bits as linear light, 8 bits as sRGB."""
    colours = channels - (channels + 1) % 2
    alpha = PIXELS[..., :1] if channels % 2 == 0 else None
    made = Photograph(PIXELS[..., :colours], alpha, None, "PNG", NOTHING)
    deep = made._replace(
        colour=made.colour.astype(np.uint16) * 257,
        alpha=None if alpha is None else alpha.astype(np.uint16) * 257,
    )
    few = read(photographs.encode(made, kind="JXL", quality=90), tmp_path / "a")
    many = read(photographs.encode(deep, kind="JXL", quality=90), tmp_path / "b")
    assert few.profile is None and many.profile is None
    difference = np.abs(few.colour - many.colour / 257)
    assert difference.mean() < 3 and many.colour.dtype == np.uint16
    if alpha is not None:
        np.testing.assert_array_equal(many.alpha, deep.alpha)


@pytest.mark.parametrize("bits", [3, 5, 10, 12])
def test_other_depths_use_the_full_range(tmp_path: Path, bits: int) -> None:
    kind = np.uint8 if bits < 8 else np.uint16
    values = np.arange(2**bits).astype(kind)
    data = imagecodecs.jpegxl_encode(values[None], lossless=True, bitspersample=bits)
    found = read(data, tmp_path / "a.jxl").colour
    expected = np.arange(2**bits) * (np.iinfo(kind).max / (2**bits - 1))
    np.testing.assert_array_equal(found[0, :, 0], np.floor(expected + 0.5))


def oriented(orientation: int) -> bytes:
    """A lossless file of libjxl whose header is written anew with an orientation."""
    stream = imagecodecs.jpegxl_encode(PIXELS, lossless=True)
    header = jxl._header(stream)
    source, made = jxl_icc.Bits(stream), jxl_icc.Writer()
    start = jxl_icc.Bits(stream, 16)
    jxl._size(start)
    made.write(source.read(start.place), start.place)
    assert source.read(2) == 0  # nothing by default, no more fields
    made.write(0b10, 2)
    made.write(orientation - 1, 3)
    made.write(0, 3)  # no other size, preview and animation
    source.place = start.place + 2
    made.write(source.read(header.end - source.place), header.end - start.place - 2)
    made.write(1, 1)  # usual tone mapping
    made.write(source.read(header.last - header.end), header.last - header.end)
    return made.content() + stream[-(-header.last // 8) :]


@pytest.mark.parametrize("orientation", [1, 2, 3, 6, 8])
def test_orientation_of_the_header(tmp_path: Path, orientation: int) -> None:
    found = read(oriented(orientation), tmp_path / "a.jxl").colour
    expected = {
        1: PIXELS,
        2: PIXELS[:, ::-1],
        3: PIXELS[::-1, ::-1],
        6: PIXELS[::-1].swapaxes(0, 1),
        8: PIXELS.swapaxes(0, 1)[::-1],
    }[orientation]
    np.testing.assert_array_equal(found, expected)


def with_fourth_channel(pixels: np.ndarray, kind: int, multiplied: int) -> bytes:
    """A lossless file of libjxl with another statement of what its last channel is."""
    stream = imagecodecs.jpegxl_encode(pixels, lossless=True)
    header = jxl._header(stream)
    source, made = jxl_icc.Bits(stream), jxl_icc.Writer()
    before = header.begin - 2  # the channel by default and no XYB
    made.write(source.read(before), before)
    assert source.read(2) == 1
    made.write(0, 1)
    made.write(kind, 2)
    made.write(0, 7)  # 8 bits, full size, no name
    if kind == 0:
        made.write(multiplied, 1)
    made.write(source.read(header.last - before - 2) << 1, header.last - before - 1)
    return made.content() + stream[-(-header.last // 8) :]


def test_premultiplied_alpha_is_divided_out(tmp_path: Path) -> None:
    """As in files that were OpenEXR."""
    samples = np.full((9, 21, 4), 40, np.uint8)
    samples[..., 3] = 80
    found = read(with_fourth_channel(samples, 0, 1), tmp_path / "a.jxl")
    assert (found.colour == 128).all() and (found.alpha == 80).all()
    found = read(with_fourth_channel(samples, 0, 0), tmp_path / "a.jxl")
    assert (found.colour == 40).all() and (found.alpha == 80).all()


def test_channels_beside_colour_are_said_to_be_lost(tmp_path: Path) -> None:
    samples = np.full((9, 21, 4), 40, np.uint8)
    found = read(with_fourth_channel(samples, 1, 0), tmp_path / "a.jxl")  # depth
    assert found.alpha is None
    assert photographs.left_out(found, "JXL") == ["further channels"]


@pytest.mark.parametrize("size", [(8, 8), (7, 256), (40, 30), (300, 2), (16, 9)])
def test_sizes_in_all_codings(size: tuple[int, int]) -> None:
    data = imagecodecs.jpegxl_encode(np.zeros((*size, 3), np.uint8), lossless=True)
    assert files.size_of_bytes(data, "a.jxl") == size


def test_compressed_and_partial_boxes(tmp_path: Path) -> None:
    made = Photograph(PIXELS, None, None, "PNG", NOTHING)
    data = photographs.encode(made, kind="JXL", quality=100)
    xmp = b"<x:xmpmeta/>"
    brotli = b"xml " + imagecodecs.brotli_encode(xmp)
    boxed = jxl._CONTAINER + jxl._FILE_TYPE + isobmff.box(b"brob", brotli)
    half = len(data) // 2
    boxed += isobmff.box(b"jxlp", b"\0\0\0\0" + data[:half])
    boxed += isobmff.box(b"jxlp", b"\x80\0\0\1" + data[half:])
    found = read(boxed, tmp_path / "a.jxl")
    np.testing.assert_array_equal(found.colour, PIXELS)
    assert found.metadata.xmp == xmp


def test_animations_are_refused(tmp_path: Path) -> None:
    data = imagecodecs.jpegxl_encode(np.stack([PIXELS, PIXELS]), lossless=True)
    with pytest.raises(ImageError, match="holds 2 pictures"):
        read(data, tmp_path / "a.jxl")
    np.testing.assert_array_equal(files.read_rgb(tmp_path / "a.jxl"), PIXELS)


def test_a_damaged_profile_is_an_error(tmp_path: Path) -> None:
    data = bytearray(RECORDED["lossless"].tobytes())
    for place in range(40, 400, 24):
        damaged = data.copy()
        damaged[place] ^= 4
        try:
            found = read(bytes(damaged), tmp_path / "a.jxl")
        except ImageError as error:
            assert "a.jxl: corrupt" in str(error)
        else:
            assert found.profile != PROFILE or place > 300
