"""Conversion of photographs for the network, and back."""

import struct
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from lightbsr_jax.imaging import conversion, icc, photographs, png, ranges
from lightbsr_jax.imaging.errors import ImageError
from lightbsr_jax.imaging.photographs import Metadata, Photograph

NOTHING = Metadata(None, None, None, {})
D65, D50 = (0.3127, 0.329), (0.3457, 0.3585)
SRGB = ((0.64, 0.33), (0.3, 0.6), (0.15, 0.06))
PROFILES = {
    "Adobe RGB": imagecodecs.cms_profile("adobergb"),
    "P3": icc.stated(D65, ((0.68, 0.32), (0.265, 0.69), (0.15, 0.06)), None),
    "ProPhoto": icc.stated(
        D50, ((0.7347, 0.2653), (0.1596, 0.8404), (0.0366, 0.0001)), 1.8
    ),
    "Rec. 2020": icc.stated(D65, ((0.708, 0.292), (0.17, 0.797), (0.131, 0.046)), None),
    "linear": icc.stated(D65, SRGB, 1.0),
}


def discs(kind: str) -> np.ndarray:
    """A disc of each saturated colour on grey."""
    top = np.iinfo(kind).max
    y, x = np.mgrid[:24, :24]
    inside = ((y - 11.5) ** 2 + (x - 11.5) ** 2 < 64)[..., None]
    colours = np.array([[0, 1, 0], [1, 0, 0], [0, 0, 1], [0, 1, 1], [0.1, 0.9, 0.2]])
    parts = [np.where(inside, colour, 0.5) for colour in colours]
    return np.rint(np.concatenate(parts, 1) * top).astype(kind)


@pytest.mark.parametrize("kind", ["uint8", "uint16"])
@pytest.mark.parametrize("name", PROFILES)
def test_wide_gamuts_have_no_outlines(name: str, kind: str) -> None:
    """Discs by an exact network: those of a file without profile, but for its curve.

    Lanczos of what lies beyond sRGB, apart from the rest, left outlines of up to 146
    levels of 255.
    """
    colour = discs(kind)
    made = Photograph(colour, None, PROFILES[name], "PNG", NOTHING)
    pixels = conversion.to_network(made)
    assert pixels.dtype == np.float32 and pixels.min() >= 0 and pixels.max() <= 1
    size = 4 * colour.shape[0], 4 * colour.shape[1]
    # Sharper than any interpolation, as networks are: each pixel as a square.
    sr = pixels.repeat(4, 0).repeat(4, 1)
    result = conversion.from_network(made, sr, size).colour
    np.testing.assert_array_equal(result, colour.repeat(4, 0).repeat(4, 1))


@pytest.mark.parametrize("name", PROFILES)
def test_greys_are_shown_as_srgb_has_them(name: str) -> None:
    levels = np.linspace(0, 255, 256).astype(np.uint8)[None, :, None].repeat(3, -1)
    made = Photograph(levels, None, PROFILES[name], "PNG", NOTHING)
    shown = conversion.to_network(made)
    srgb = imagecodecs.cms_profile("srgb")
    expected = icc.convert(levels / 255, PROFILES[name], srgb)
    np.testing.assert_allclose(shown, expected, atol=4e-3)


def test_a_profile_named_srgb_is_told_by_its_curve() -> None:
    """Neither a name makes a linear profile sRGB, nor its absence sRGB another one."""
    assert icc.working(icc.stated(D65, SRGB, None)) is None
    linear = PROFILES["linear"]
    assert icc.working(linear) is not None
    named = linear.replace(
        "RGB built-in".encode("utf-16-be"), "sRGB linear!".encode("utf-16-be")
    )
    assert named != linear and icc.working(named) is not None


@pytest.mark.parametrize(
    "damage",
    [
        lambda p: p[:16] + b"\xff\xd6\xc4\x20" + p[20:],
        lambda p: p[:16] + b"CMYK" + p[20:],
        lambda p: p[:100],
        lambda p: p[:128] + b"\xff" * 4 + p[132:],
        lambda p: b"",
    ],
)
def test_broken_profiles_do_not_spoil_the_picture(damage) -> None:
    profile = damage(PROFILES["Adobe RGB"])
    made = Photograph(discs("uint8"), None, profile, "PNG", NOTHING)
    np.testing.assert_array_equal(conversion.to_network(made), made.colour)


def test_description_in_latin_1_does_not_matter() -> None:
    profile = PROFILES["Adobe RGB"].replace(b"Adobe RGB", b"Ad\xf6be RGB")
    assert profile != PROFILES["Adobe RGB"]
    assert icc.working(profile) is not None


# Spaces that PNG states without a profile


def png_with(*chunks: tuple[bytes, bytes], samples: np.ndarray) -> bytes:
    return png.encoded(samples, list(chunks))


def chromaticities(white, primaries) -> bytes:
    values = [round(100_000 * n) for pair in (white, *primaries) for n in pair]
    return struct.pack(">8I", *values)


def read(folder: Path, data: bytes) -> Photograph:
    path = folder / "picture.png"
    path.write_bytes(data)
    return photographs.read(path)


STATED = {
    "gAMA linear": [(b"gAMA", struct.pack(">I", 100_000))],
    "gAMA and cHRM wide": [
        (b"gAMA", struct.pack(">I", 45455)),
        (b"cHRM", chromaticities(D65, ((0.68, 0.32), (0.265, 0.69), (0.15, 0.06)))),
    ],
    "cICP P3": [(b"cICP", bytes([12, 13, 0, 1]))],
    "sRGB": [(b"sRGB", b"\0")],
    "gAMA of sRGB": [(b"gAMA", struct.pack(">I", 45455))],
    "cICP sRGB": [(b"cICP", bytes([1, 13, 0, 1]))],
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", ["uint8", "uint16"])
@pytest.mark.parametrize("name", STATED)
def test_stated_spaces_are_kept(
    tmp_path: Path, name: str, kind: str, channels: int
) -> None:
    samples = discs(kind)[..., :channels]
    first = read(tmp_path, png_with(*STATED[name], samples=samples))
    shown = conversion.to_network(first)
    size = samples.shape[:2]
    again = conversion.from_network(first, shown, size)
    np.testing.assert_array_equal(again.colour, samples)
    data = photographs.encode(again, kind="PNG")
    (tmp_path / "again.png").write_bytes(data)
    with open(tmp_path / "again.png", "rb") as file:
        kept = [c for c in png.chunks(file) if c[0] in png.COLOUR_CHUNKS]
    assert kept == STATED[name]
    is_srgb = "sRGB" in name
    assert (first.profile is None) == is_srgb
    if name == "gAMA linear":
        top = np.iinfo(kind).max
        curve = 1.055 * (samples / top) ** (1 / 2.4) - 0.055
        expected = np.where(samples / top < 0.0031308, 12.92 * samples / top, curve)
        np.testing.assert_allclose(
            shown, np.broadcast_to(expected, shown.shape), atol=1e-4
        )
    elif is_srgb:
        assert shown.dtype == kind
    for other in ("JPEG", "TIFF", "WEBP"):
        (tmp_path / "other").write_bytes(photographs.encode(first, kind=other))
        profile = photographs.read(tmp_path / "other").profile
        assert (profile is None) == (is_srgb or channels == 1)


@pytest.mark.parametrize(("transfer", "name"), [(16, "PQ"), (18, "HLG")])
def test_high_dynamic_range_is_refused_by_name(
    tmp_path: Path, transfer: int, name: str
) -> None:
    chunk = (b"cICP", bytes([9, transfer, 0, 1]))
    data = png_with(chunk, samples=discs("uint16"))
    with pytest.raises(ImageError, match=f"high dynamic range .{name}"):
        read(tmp_path, data)


def test_a_profile_does_not_overrule_high_dynamic_range(tmp_path: Path) -> None:
    chunks = [(b"cICP", bytes([9, 16, 0, 1])), png.profile_chunk(PROFILES["P3"])]
    with pytest.raises(ImageError, match="high dynamic range .PQ"):
        read(tmp_path, png_with(*chunks, samples=discs("uint16")))


# Small ranges


class Erring:
    """As networks err: by a level or two of 255, less in the middle of the range."""

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        top = 1.0 if pixels.dtype == np.float32 else np.iinfo(pixels.dtype).max
        shown = pixels.astype(np.float64) / top
        shown = shown - 6e-3 * (1 - 2 * shown) * np.abs(1 - 2 * shown) ** 3
        shown = shown.repeat(4, 0).repeat(4, 1)
        if pixels.dtype == np.float32:
            return shown.astype(np.float32)
        return np.rint(shown.clip(0, 1) * top).astype(pixels.dtype)


def small_ranges() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    smooth = rng.random((6, 8, 1)).repeat(4, 0).repeat(4, 1)
    stars = np.where(rng.random((24, 32, 1)) > 0.99, 60_000, 0)
    return {
        "microscope": np.rint(200 + 120 * smooth).astype(np.uint16),
        "12 bits": np.rint(500 + 3500 * smooth).astype(np.uint16),
        "stars": (rng.poisson(260, (24, 32, 1)) + stars).astype(np.uint16),
        "from zero": np.rint(300 * smooth).astype(np.uint16),
        "flat": np.full((24, 32, 1), 260, np.uint16),
        "float": (-3 + 5e4 * smooth).astype(np.float32),
        "small float": (1e-4 * smooth).astype(np.float32),
        "flat float": np.full((24, 32, 3), 7.5, np.float32),
    }


@pytest.mark.parametrize("name", small_ranges())
def test_small_ranges_keep_their_mean(name: str) -> None:
    """Without a stretch, 260 of 65535 becomes 22, and 72 % of the pixels zero."""
    colour = small_ranges()[name]
    made = Photograph(colour, None, None, "TIFF", NOTHING)
    sr = Erring()(conversion.to_network(made))
    result = conversion.from_network(made, sr, sr.shape[:2]).colour
    assert result.dtype == colour.dtype
    assert result.mean() == pytest.approx(colour.mean(), rel=0.01)
    assert np.median(result) == pytest.approx(np.median(colour), rel=0.01)
    assert (result == 0).mean() <= (colour == 0).mean() + 1e-3


def test_stretching_goes_back() -> None:
    values = np.random.default_rng(0).random((9, 9, 3)).astype(np.float32)
    for part in (0.01 * values, 0.3 + 0.1 * values, values**12):
        stretch = ranges.stretch(part, bounded=True)
        np.testing.assert_allclose(stretch.back(stretch.shown(part)), part, atol=2e-6)
        assert stretch.shown(part).min() >= 0.0999
    assert ranges.stretch(values, bounded=True) is None


def test_overshoot_of_floats_stays_within_the_samples() -> None:
    values = np.random.default_rng(0).random((9, 9, 3)).astype(np.float32)
    stretch = ranges.stretch(values, bounded=False)
    top, bottom = (np.full((1, 1, 3), level, np.float32) for level in (1, 0))
    assert stretch.back(top).max() == 1 and stretch.back(bottom).min() >= 0
    stretch = ranges.stretch(3 * values - 1, bounded=False)
    assert stretch.back(top).max() > 2.1 and stretch.back(bottom).min() < -1.1


def test_float_transparency_stays_within_0_and_1() -> None:
    alpha = np.zeros((8, 8, 1), np.float32)
    alpha[:, 4:] = 1
    colour = np.full((8, 8, 3), 0.5, np.float32)
    made = Photograph(colour, alpha, None, "TIFF", NOTHING)
    sr = conversion.to_network(made).repeat(4, 0).repeat(4, 1)
    found = conversion.from_network(made, sr, (32, 32)).alpha
    assert found is not None and found.min() == 0 and found.max() == 1


def test_pictures_that_fill_16_bits_are_shown_as_they_are() -> None:
    colour = np.random.default_rng(0).integers(65536, size=(9, 9, 3), dtype=np.uint16)
    made = Photograph(colour, None, None, "PNG", NOTHING)
    np.testing.assert_array_equal(conversion.to_network(made), colour)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("channels", [1, 3])
def test_what_is_no_number_stays_so_and_spreads_not(channels: int) -> None:
    colour = np.full((8, 8, channels), 3.0, np.float32)
    colour[2, 3], colour[5, 5] = np.nan, np.inf
    made = Photograph(colour, None, None, "TIFF", NOTHING)
    shown = conversion.to_network(made)
    assert np.isfinite(shown).all()
    sr = shown.repeat(4, 0).repeat(4, 1)
    result = conversion.from_network(made, sr, (32, 32)).colour
    expected = colour.repeat(4, 0).repeat(4, 1)
    np.testing.assert_allclose(result, expected, rtol=1e-5)


def test_float_goes_into_other_formats_where_they_hold_it(tmp_path: Path) -> None:
    inside = np.linspace(0, 1, 48, dtype=np.float32).reshape(6, 8, 1)
    made = Photograph(inside, None, None, "TIFF", NOTHING)
    result = read(tmp_path, photographs.encode(made, kind="PNG"))
    np.testing.assert_array_equal(result.colour, np.rint(65535 * inside))
    (tmp_path / "x.jpg").write_bytes(photographs.encode(made, kind="JPEG"))
    grey = np.asarray(Image.open(tmp_path / "x.jpg").convert("L"))
    np.testing.assert_allclose(grey, 255 * inside[..., 0], atol=6)
    beyond = made._replace(colour=3 * inside)
    with pytest.raises(ValueError, match="from 0 to 3 exceed .* write TIFF"):
        photographs.check_range(beyond, "PNG", "x.png")
    clear = made._replace(alpha=np.where(inside > 0, 2 * inside, np.nan))
    with pytest.raises(ValueError, match="transparency holds NaN.*: write TIFF"):
        photographs.check_range(clear, "PNG", "x.png")
    assert photographs.left_out(made, "TIFF") == []
    for kind in ("PNG", "JXL"):
        assert photographs.left_out(made, kind) == ["more than 16 bits"]
    assert photographs.left_out(made, "JPEG") == ["more than 8 bits"]
