"""Photographs: what is read is written again, against arrays and files made by hand."""

import io
import struct
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from PIL import ExifTags, Image

from lightbsr_jax.imaging import conversion, photographs
from lightbsr_jax.imaging.files import ImageError
from lightbsr_jax.imaging.photographs import Metadata, Photograph

NOTHING = Metadata(None, None, None, {})
ADOBE = imagecodecs.cms_profile("adobergb")


def random_samples(channels: int, dtype: str = "uint8") -> np.ndarray:
    top = np.iinfo(dtype).max + 1
    rng = np.random.default_rng(channels)
    return rng.integers(top, size=(6, 9, channels), dtype=dtype)


def photograph(colours: int, *, alpha: bool = False, dtype: str = "uint8"):
    samples = random_samples(colours + 1, dtype)
    over = samples[..., colours:] if alpha else None
    return Photograph(samples[..., :colours], over, None, "PNG", NOTHING)


def read_bytes(data: bytes, folder: Path) -> Photograph:
    path = folder / "picture"
    path.write_bytes(data)
    return photographs.read(path)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("colours", [1, 3])
def test_lossless_formats_keep_every_sample(
    tmp_path: Path, colours: int, alpha: bool, dtype: str, kind: str
) -> None:
    made = photograph(colours, alpha=alpha, dtype=dtype)
    read = read_bytes(photographs.encode(made, kind=kind), tmp_path)
    assert (read.colour.dtype, read.format) == (made.colour.dtype, kind)
    np.testing.assert_array_equal(read.colour, made.colour)
    if alpha:
        np.testing.assert_array_equal(read.alpha, made.alpha)
    else:
        assert read.alpha is None


def test_what_a_format_does_not_hold_is_converted(tmp_path: Path) -> None:
    made = photograph(3, alpha=True, dtype="uint16")
    read = read_bytes(photographs.encode(made, kind="BMP"), tmp_path)
    opacity = made.alpha / 65535
    expected = (made.colour * opacity + 65535 * (1 - opacity)) / 257
    assert read.alpha is None
    np.testing.assert_allclose(read.colour, expected, atol=0.51)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_orientation_is_applied_once(
    tmp_path: Path, orientation: int, dtype: str
) -> None:
    stored = random_samples(3, dtype)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    exif[ExifTags.Base.Make] = "Camera"
    notes = NOTHING._replace(exif=exif.tobytes())
    made = Photograph(stored, None, None, "PNG", notes)
    read = read_bytes(photographs.encode(made, kind="PNG"), tmp_path)
    # What TIFF 6.0 says: where the stored first row and column are on the picture.
    upright = {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.swapaxes(0, 1),
        6: stored.swapaxes(0, 1)[:, ::-1],
        7: stored[::-1, ::-1].swapaxes(0, 1),
        8: stored.swapaxes(0, 1)[::-1],
    }[orientation]
    np.testing.assert_array_equal(read.colour, upright)
    again = Image.Exif()
    again.load(read.metadata.exif)
    assert dict(again) == {ExifTags.Base.Make: "Camera"}


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "PNG", "TIFF", "AVIF", "HEIF", "JXL"])
def test_metadata_and_profile_are_kept(tmp_path: Path, kind: str) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "Camera"
    exif[ExifTags.Base.Orientation] = 1
    exif.get_ifd(ExifTags.IFD.Exif).update(
        {ExifTags.Base.FocalLength: 50.0, ExifTags.Base.ExifImageWidth: 9}
    )
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/" tiff:Orientation="6"/>'
    buffer = io.BytesIO()
    Image.fromarray(random_samples(3)).save(
        buffer, "JPEG", exif=exif, xmp=xmp, icc_profile=ADOBE, dpi=(240, 240)
    )
    if kind == "HEIF":
        pytest.importorskip("pillow_heif")
    first = read_bytes(buffer.getvalue(), tmp_path)
    read = read_bytes(photographs.encode(first, kind=kind), tmp_path)
    assert read.profile == ADOBE
    again = Image.Exif()
    again.load(read.metadata.exif)
    assert again[ExifTags.Base.Make] == "Camera"
    details = again.get_ifd(ExifTags.IFD.Exif)
    assert details == {ExifTags.Base.FocalLength: 50.0}
    assert read.metadata.xmp.rstrip(b"\0") == xmp.replace(b"6", b"1")
    if kind in ("JPEG", "PNG", "TIFF"):
        assert read.metadata.dpi == pytest.approx((240, 240), abs=0.02)


def test_jpeg_goes_without_notes_that_are_too_long(tmp_path: Path) -> None:
    notes = NOTHING._replace(exif=b"Exif\0\0" + bytes(65527), xmp=bytes(65504))
    made = photograph(3)._replace(metadata=notes)
    assert photographs.left_out(made, "JPEG") == []
    photographs.encode(made, kind="JPEG")
    longer = NOTHING._replace(exif=notes.exif + b"x", xmp=notes.xmp + b"x")
    made = photograph(3)._replace(metadata=longer)
    expected = ["EXIF: too long for JPEG", "XMP: too long for JPEG"]
    assert photographs.left_out(made, "JPEG") == expected
    assert photographs.left_out(made, "WEBP") == []
    read = read_bytes(photographs.encode(made, kind="JPEG"), tmp_path)
    assert (read.metadata.exif, read.metadata.xmp) == (None, None)


GREY_GAMMA = ((b"gAMA", struct.pack(">I", 100_000)),)
GREY = ADOBE.replace(b"RGB XYZ ", b"GRAYXYZ ", 1)


@pytest.mark.parametrize(
    ("kind", "profile", "colour"),
    [
        ("WEBP", GREY, ()),  # which has no grey
        ("JPEG", ADOBE, GREY_GAMMA),  # made for colours of what a PNG states of grey
        ("JXL", b"broken", ()),
        ("BMP", ADOBE, ()),
    ],
)
def test_profiles_that_do_not_fit_are_said_to_be_lost(
    tmp_path: Path, kind: str, profile: bytes, colour: tuple
) -> None:
    notes = NOTHING._replace(colour=colour)
    made = photograph(1)._replace(profile=profile, metadata=notes)
    assert photographs.left_out(made, kind) == ["the colour profile"]
    assert read_bytes(photographs.encode(made, kind=kind), tmp_path).profile is None
    assert photographs.left_out(made, "PNG") == []


def test_a_profile_in_too_many_pieces_is_said_to_be_lost(tmp_path: Path) -> None:
    data = save(Image.fromarray(random_samples(3)), "JPEG", icc_profile=ADOBE)
    begin = data.index(b"ICC_PROFILE") - 4
    end = begin + 2 + int.from_bytes(data[begin + 2 : begin + 4], "big")
    twice = data[:end] + data[begin:end] + data[end:]
    read = read_bytes(twice, tmp_path)
    assert read.profile is None
    assert photographs.left_out(read, "JPEG") == ["the colour profile (broken)"]


def test_transparency_leaves_no_fringe() -> None:
    colour = np.zeros((5, 8, 3), np.uint8)  # black where nothing shows
    colour[:, 4:] = 200, 100, 50
    alpha = np.zeros((5, 8, 1), np.uint8)
    alpha[:, 4:] = 255
    made = Photograph(colour, alpha, None, "PNG", NOTHING)
    pixels = conversion.to_network(made)
    assert (pixels == (200, 100, 50)).all()
    result = conversion.from_network(made, pixels.repeat(4, 0).repeat(4, 1), (20, 32))
    assert (result.colour == (200, 100, 50)).all()
    assert (result.alpha[:, :8] == 0).all() and (result.alpha[:, -8:] == 255).all()


def test_palette_transparency_becomes_alpha(tmp_path: Path) -> None:
    image = Image.new("P", (3, 1))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.putdata([0, 1, 2])
    buffer = io.BytesIO()
    image.save(buffer, "PNG", transparency=1)
    read = read_bytes(buffer.getvalue(), tmp_path)
    np.testing.assert_array_equal(read.alpha[0, :, 0], [255, 0, 255])
    np.testing.assert_array_equal(read.colour[0, 0], [10, 20, 30])


def test_grey_stays_grey() -> None:
    made = photograph(1)
    pixels = conversion.to_network(made)
    np.testing.assert_array_equal(pixels, made.colour.repeat(3, -1))
    back = conversion.from_network(made, pixels, (6, 9))
    np.testing.assert_array_equal(back.colour, made.colour)


@pytest.mark.parametrize("profile", [None, ADOBE], ids=["sRGB", "Adobe RGB"])
def test_grey_saved_as_colours_gets_none(profile: bytes | None) -> None:
    grey = photograph(1).colour // 2 + 60
    made = photograph(3)._replace(colour=grey.repeat(3, -1), profile=profile)
    pixels = conversion.to_network(made)
    tint = np.array([6, 0, -6]) / (1 if profile is None else 255)
    tinted = (pixels + tint).astype(pixels.dtype)
    back = conversion.from_network(made, tinted, (6, 9))
    assert np.ptp(back.colour, -1).max() == 0
    np.testing.assert_allclose(back.colour.astype(int), made.colour, atol=1)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_profile_gets_srgbs_curve_and_goes_back(dtype: str) -> None:
    """Adobe RGB by hand: gamma 563/256, then sRGB's curve, in its own primaries."""
    made = photograph(3, dtype=dtype)._replace(profile=ADOBE)
    top = np.iinfo(dtype).max
    linear = (made.colour / top) ** (563 / 256)
    curve = 1.055 * np.maximum(linear, 0.0031308) ** (1 / 2.4) - 0.055
    expected = np.where(linear < 0.0031308, 12.92 * linear, curve)

    pixels = conversion.to_network(made)
    assert pixels.min() >= 0 and pixels.max() <= 1
    np.testing.assert_allclose(pixels, expected, atol=2e-5)
    back = conversion.from_network(made, pixels, (6, 9))
    np.testing.assert_array_equal(back.colour, made.colour)


def test_srgb_profile_changes_no_sample() -> None:
    made = photograph(3)._replace(profile=imagecodecs.cms_profile("srgb"))
    pixels = conversion.to_network(made)
    np.testing.assert_array_equal(pixels, made.colour)
    broken = made._replace(profile=b"no profile")
    np.testing.assert_array_equal(conversion.to_network(broken), made.colour)


def one_way_profile() -> bytes:
    """As scanners have: an identity table from RGB to Lab (ICC's lut8), none back."""
    corners = np.indices((2, 2, 2)).reshape(3, 8).T.astype(np.uint8) * 255
    ramp = np.tile(np.arange(256, dtype=np.uint8), 3).tobytes()
    matrix = struct.pack(">9i", *(65536 * np.eye(3, dtype=int).ravel()))
    table = b"mft1" + bytes(4) + bytes([3, 3, 2, 0]) + matrix
    table += ramp + corners.tobytes() + ramp
    (offset,) = (i for i in range(132, 300, 12) if ADOBE[i : i + 4] == b"wtpt")
    white = ADOBE[int.from_bytes(ADOBE[offset + 4 : offset + 8], "big") :][:20]
    tags = struct.pack(">I4sII4sII", 2, b"A2B0", 156, len(table), b"wtpt", 156, 20)
    tags = tags[:20] + struct.pack(">II", 156 + len(table), 20)
    body = ADOBE[4:12] + b"scnrRGB Lab " + ADOBE[24:128] + tags + table + white
    return struct.pack(">I", len(body) + 4) + body


@pytest.mark.parametrize("kind", ["one way", "without colours"])
def test_profiles_of_no_use_are_kept_and_change_no_sample(kind: str) -> None:
    profile = one_way_profile()
    if kind == "without colours":
        profile = ADOBE.replace(b"rXYZ", b"none")
    made = photograph(3)._replace(profile=profile)
    pixels = conversion.to_network(made)
    np.testing.assert_array_equal(pixels, made.colour)
    back = conversion.from_network(made, pixels, (6, 9))
    np.testing.assert_array_equal(back.colour, made.colour)
    assert back.profile == profile


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_resizing_is_pillows_lanczos(dtype: str) -> None:
    samples = 60 + random_samples(3) // 3  # Pillow clips between the two passes
    expected = Image.fromarray(samples).resize((20, 13), Image.Resampling.LANCZOS)
    result = conversion.resized(samples.astype(dtype), (13, 20))
    assert result.dtype == dtype
    result = np.clip(result.astype(np.int64), 0, 255)
    np.testing.assert_allclose(result, expected, atol=2)  # rounded twice


def save(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def refused() -> dict[str, tuple[bytes, str]]:
    image = Image.fromarray(random_samples(3))
    more = {"save_all": True, "append_images": [image.transpose(0)]}
    return {
        "animation": (save(image, "PNG", **more), "holds 2 pictures"),
        "pages": (save(image, "TIFF", **more), "holds 2 pictures"),
        "CMYK": (save(image.convert("CMYK"), "JPEG"), "convert it to RGB"),
        "truncated": (save(image, "PNG")[:-40], "corrupt or truncated"),
        "text": (b"no picture", "not a readable"),
        "empty": (b"", "is empty"),
    }


@pytest.mark.parametrize("case", refused())
def test_what_is_not_supported_is_named(case: str, tmp_path: Path) -> None:
    data, message = refused()[case]
    with pytest.raises(ImageError, match=message) as refusal:
        read_bytes(data, tmp_path)
    assert str(tmp_path / "picture") in str(refusal.value)


def test_writing_is_atomic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "new" / "x.png"
    photographs.write(target, photograph(3), kind="PNG")
    before = target.read_bytes()

    def fails(*arguments, **options):
        raise OSError("disk full")

    monkeypatch.setattr(photographs, "encode", fails)
    with pytest.raises(OSError, match="disk full"):
        photographs.write(target, photograph(1), kind="PNG")
    assert target.read_bytes() == before
    assert list(target.parent.iterdir()) == [target]
