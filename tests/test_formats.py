"""The list of formats, and those that Pillow alone does not read as they are."""

import io
import sys
from collections import Counter
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from helpers.pictures import UPRIGHT, picture
from PIL import ExifTags, Image

from lightbsr_jax.commands import upscale
from lightbsr_jax.errors import UserError
from lightbsr_jax.imaging import conversion, files, formats, isobmff, photographs
from lightbsr_jax.imaging.errors import ImageError
from lightbsr_jax.imaging.photographs import Photograph
from lightbsr_jax.inference import folder

PIXELS = picture(3)  # [24, 28, 3]
# Of a synthetic sensor: a matrix to its colours, and white in them.
IDENTITY = (1, 1, 0, 1, 0, 1, 0, 1, 1, 1, 0, 1, 0, 1, 0, 1, 1, 1)
NEUTRAL = (1, 2, 1, 1, 1, 2)
RED, GREEN, BLUE = 0, 1, 2


def written(kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(PIXELS)
    if kind == "HEIF":
        heif = pytest.importorskip("pillow_heif")
        heif.from_pillow(image).save(buffer, quality=100, chroma=444, **options)
    elif kind == "JXL":
        return imagecodecs.jpegxl_encode(PIXELS, lossless=True)
    else:
        image.save(buffer, kind, quality=100, subsampling="4:4:4", **options)
    return buffer.getvalue()


def dng(mosaic: np.ndarray, orientation: int = 1) -> bytes:
    """A raw file of a mosaic: rows of red and green, and of green and blue."""
    tags = [
        (271, "s", 0, "Maker"),
        (274, "H", 1, orientation),
        (33421, "H", 2, (2, 2)),
        (33422, "B", 4, (RED, GREEN, GREEN, BLUE)),
        (50706, "B", 4, (1, 4, 0, 0)),
        (50708, "s", 0, "Maker Model"),
        (50714, "H", 1, 0),
        (50717, "I", 1, 4095),
        (50721, "2i", 9, IDENTITY),
        (50728, "2I", 3, NEUTRAL),
        (50778, "H", 1, 21),
    ]
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, mosaic, photometric="cfa", extratags=tags, metadata=None)
    return buffer.getvalue()


def read(data: bytes, path: Path) -> Photograph:
    path.write_bytes(data)
    photograph = photographs.read(path)
    assert files.image_size(path) == photograph.colour.shape[:2]
    return photograph


def test_each_suffix_has_one_format() -> None:
    found = Counter(s for kind in formats.FORMATS.values() for s in kind.suffixes)
    assert set(found.values()) == {1}
    assert formats.RESULTS["jfif"] == "JPEG" and "dng" not in formats.RESULTS
    assert set(formats.offered()) <= set(formats.known())


@pytest.mark.parametrize("kind", ["AVIF", "HEIF"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_orientation_is_applied_once(
    tmp_path: Path, kind: str, orientation: int
) -> None:
    """Writers state it in the file's own boxes, and some in EXIF as well."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    exif[ExifTags.Base.Make] = "Camera"
    data = written(kind, exif=exif.tobytes())
    found = read(data, tmp_path / "a.avif")
    assert found.format == kind
    expected = UPRIGHT[orientation](PIXELS)
    assert found.colour.shape == expected.shape
    assert np.abs(found.colour.astype(int) - expected).max() <= 6
    again = read(photographs.encode(found, kind=kind), tmp_path / "b.avif")
    assert again.colour.shape == expected.shape
    assert np.abs(again.colour.astype(int) - expected).max() <= 12
    kept = Image.Exif()
    kept.load(again.metadata.exif)
    assert dict(kept) == {ExifTags.Base.Make: "Camera"}


@pytest.mark.parametrize("bits", [10, 12])
@pytest.mark.parametrize("channels", [3, 4])
def test_avif_of_more_bits_becomes_16_bits(
    tmp_path: Path, bits: int, channels: int
) -> None:
    top = 2**bits - 1
    stored = np.random.default_rng(0).integers(top + 1, size=(8, 6, channels))
    data = imagecodecs.avif_encode(
        stored.astype(np.uint16), level=100, bitspersample=bits
    )
    found = read(data, tmp_path / "a.avif")
    expected = np.round(stored * 65535 / top)
    np.testing.assert_array_equal(found.colour, expected[..., :3])
    assert (found.alpha is None) == (channels == 3)
    if found.alpha is not None:
        np.testing.assert_array_equal(found.alpha, expected[..., 3:])
    assert photographs.left_out(found, "AVIF") == ["more than 8 bits"]


def test_heic_of_10_bits_becomes_16_bits(tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif")
    wide = PIXELS.astype(np.uint16) * 257
    made = heif.from_bytes(mode="RGB;16", size=(28, 24), data=wide.tobytes())
    buffer = io.BytesIO()
    made.save(buffer, quality=-1, chroma=444)
    found = read(buffer.getvalue(), tmp_path / "a.heic")
    assert found.colour.dtype == np.uint16
    assert np.abs(found.colour.astype(int) - wide).max() < 3 * 64  # levels of 10 bits
    assert found.colour.max() > 65535 * 0.97


@pytest.mark.parametrize("kind", ["AVIF", "HEIF"])
@pytest.mark.parametrize("alpha", [False, True])
def test_grey_and_transparency(tmp_path: Path, kind: str, alpha: bool) -> None:
    if kind == "HEIF":
        pytest.importorskip("pillow_heif")
    over = PIXELS[..., 1:2] if alpha else None
    grey = Photograph(
        PIXELS[..., :1], over, None, "PNG", photographs.Metadata(None, None, None, {})
    )
    data = photographs.encode(grey, kind=kind)
    if kind == "AVIF":  # a profile for grey fits no other layout
        av1c = dict(isobmff.properties(data))[b"av1C"]
        assert av1c[2] & 0x10  # monochrome
    found = read(data, tmp_path / "a")
    assert np.abs(found.colour.astype(int) - PIXELS[..., :1]).max() <= 12
    assert (found.alpha is None) == (not alpha)
    if found.alpha is not None:
        assert np.abs(found.alpha.astype(int) - PIXELS[..., 1:2]).max() <= 12


def with_codes(data: bytes, primaries: int, transfer: int) -> bytes:
    """Sets the colour space of a small AVIF of Pillow."""
    at = data.index(b"colrnclx") + 8
    codes = primaries.to_bytes(2, "big") + transfer.to_bytes(2, "big")
    return data[:at] + codes + data[at + 4 :]


def test_avif_states_its_colours_by_codes(tmp_path: Path) -> None:
    data = written("AVIF")
    assert read(data, tmp_path / "a.avif").profile is None
    p3 = read(with_codes(data, 12, 13), tmp_path / "b.avif")
    assert p3.metadata.colour == ((b"cICP", bytes([12, 13, 0, 1])),)
    red = np.array([[[1, 0, 0]]], np.float32)
    srgb = imagecodecs.cms_profile("srgb")
    seen = imagecodecs.cms_transform(
        red, p3.profile, srgb, colorspace="rgb", outcolorspace="rgb", outdtype="float32"
    )
    # Display P3's red in linear sRGB: 1.2249, -0.0421, -0.0197 (CSS Color 4).
    expected = [1.093, -0.0421 * 12.92, -0.0197 * 12.92]
    np.testing.assert_allclose(seen[0, 0], expected, atol=0.003)
    again = read(photographs.encode(p3, kind="AVIF"), tmp_path / "c.avif")
    assert again.profile == p3.profile
    with pytest.raises(ImageError, match="high dynamic range .PQ"):
        read(with_codes(data, 9, 16), tmp_path / "d.avif")


def test_brands_decide_between_heic_and_avif() -> None:
    assert isobmff.format_of(written("AVIF")) == "AVIF"
    generic = b"\0\0\0\x1cftypmif1\0\0\0\0mif1heicmiaf"
    assert isobmff.format_of(generic) == "HEIF"
    assert isobmff.format_of(generic.replace(b"heic", b"avif")) == "AVIF"
    assert isobmff.format_of(b"\0\0\0\x14ftypisom\0\0\0\0isom") is None


@pytest.mark.parametrize("kind", ["AVIF", "HEIF", "JXL"])
def test_content_decides_and_not_the_name(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "holiday.jpg"
    path.write_bytes(written(kind))
    assert files.format_of(path) == kind
    assert np.abs(files.read_rgb(path).astype(int) - PIXELS).max() <= 6


@pytest.mark.parametrize(
    ("name", "module", "extra"),
    [("a.heic", "pillow_heif", "heic"), ("a.dng", "rawpy", "raw")],
)
def test_a_missing_extra_is_named(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    module: str,
    extra: str,
) -> None:
    raw = dng(np.zeros((8, 8), np.uint16))
    data = raw if extra == "raw" else b"\0\0\0\x1cftypheic\0\0\0\0mif1heicmiaf"
    path = tmp_path / name
    path.write_bytes(data)
    monkeypatch.setitem(sys.modules, module, None)
    remedy = rf"the extra {extra}: pip install 'lightbsr-jax\[{extra}\]'"
    with pytest.raises(ImageError, match=remedy) as refusal:
        photographs.read(path)
    assert str(path) in str(refusal.value)
    assert path.suffix not in formats.suffixes()
    line = upscale.describe_unsupported(Counter({path.suffix: 2}))
    assert line.endswith(f"pip install 'lightbsr-jax[{extra}]' reads more")
    if extra == "heic":
        with pytest.raises(UserError, match=remedy):
            photographs.check_format("HEIF", (8, 8), path)


def test_raw_photographs_are_developed(tmp_path: Path) -> None:
    """A sensor half as sensitive to red and blue, as it states, sees grey."""
    pytest.importorskip("rawpy")
    mosaic = np.full((32, 48), 1000, np.uint16)  # red and blue
    mosaic[::2, 1::2] = mosaic[1::2, ::2] = 2000  # green
    mosaic[:, 24:] //= 4
    mosaic[:, :8] *= 2  # LibRaw lets the lightest parts clip
    found = read(dng(mosaic, orientation=6), tmp_path / "a.dng")
    assert (found.colour.dtype, found.colour.shape) == (np.uint16, (48, 32, 3))
    areas = found.colour[12:20, 4:-4], found.colour[30:42, 4:-4]  # without edges
    assert all(np.ptp(area.astype(int), -1).max() <= 100 for area in areas)
    light, dark = (area.mean() / 65535 for area in areas)
    assert dark < light < 0.99

    def linear(value: float) -> float:  # sRGB (IEC 61966-2-1)
        return value / 12.92 if value < 0.04 else ((value + 0.055) / 1.055) ** 2.4

    assert linear(light) / linear(dark) == pytest.approx(4, rel=0.03)
    assert found.format == "TIFF"
    kept = Image.Exif()
    kept.load(found.metadata.exif)
    assert kept[ExifTags.Base.Make] == "Maker"
    assert not [tag for tag in kept if tag >= 50706]


def test_results_of_raw_photographs_are_tiff(tmp_path: Path) -> None:
    pytest.importorskip("rawpy")
    (tmp_path / "in").mkdir()
    for name in ("in/a.dng", "in/b.jpg"):
        (tmp_path / name).write_bytes(dng(np.zeros((8, 8), np.uint16)))
    found = folder.jobs([tmp_path / "in"], tmp_path / "out", suffix="", format=None)
    names = [job.target.name for job in found]
    assert names == ["a.tif", "b.jpg"]
    found = folder.jobs([tmp_path / "in"], tmp_path / "out", suffix="", format="avif")
    assert [job.target.name for job in found] == ["a.avif", "b.avif"]
    assert {job.format for job in found} == {"AVIF"}


@pytest.mark.parametrize("name", ["x.jxl", "x.avif", "x.heic", "x.jfif"])
def test_a_result_is_named_in_every_format(tmp_path: Path, name: str) -> None:
    source = tmp_path / "a.png"
    Image.fromarray(PIXELS).save(source)
    (job,) = folder.jobs([source], tmp_path / name, suffix="", format=None)
    assert job.target == tmp_path / name
    assert job.format == formats.RESULTS[name[2:]]
    with pytest.raises(UserError, match="expected a name ending in"):
        folder.jobs([source], tmp_path / "x.dng", suffix="", format=None)


def test_a_cut_raw_photograph_is_an_error(tmp_path: Path) -> None:
    pytest.importorskip("rawpy")
    path = tmp_path / "a.dng"
    whole = dng(np.full((32, 48), 1000, np.uint16))
    path.write_bytes(whole[:-500])
    with pytest.raises(ImageError, match=r"a\.dng: corrupt"):
        photographs.read(path)


def test_an_enlarged_avif_keeps_its_colours(tmp_path: Path) -> None:
    adobe = imagecodecs.cms_profile("adobergb")
    first = read(written("AVIF", icc_profile=adobe), tmp_path / "a.avif")
    pixels = conversion.to_network(first).repeat(2, 0).repeat(2, 1)
    larger = conversion.from_network(first, pixels, (48, 56))
    again = read(photographs.encode(larger, kind="AVIF"), tmp_path / "b.avif")
    assert again.profile == adobe
    expected = first.colour.repeat(2, 0).repeat(2, 1)
    assert np.abs(again.colour.astype(int) - expected).max() <= 20
