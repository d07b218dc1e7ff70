"""Decoding image files of all supported formats to samples.

The content of a file, not its name, decides its format. Samples are [H, W, C], upright,
in the machine's byte order. They use the full range of their type: uint8, uint16 or
(only from TIFF and JPEG XL) float32.
"""

import contextlib
import io
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, BinaryIO, NamedTuple

import imagecodecs
import numpy as np
from PIL import ExifTags, Image, ImageFile, PngImagePlugin
from PIL.TiffImagePlugin import TiffImageFile

from lightbsr_jax.imaging import bmp, depths, heif, isobmff, jxl, png, raw, tiff
from lightbsr_jax.imaging.errors import BY_PILLOW, ImageError

# Limit for profiles and texts in a PNG; Pillow's default rejects more than 1 MB.
PngImagePlugin.MAX_TEXT_CHUNK = 32_000_000

_MODES = frozenset(
    ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBX", "RGBA", "RGBa", "CMYK", "YCbCr")
)
# Operations that turn a picture upright, by its EXIF orientation: the number of quarter
# turns counterclockwise, and whether to mirror it afterwards.
TURNS = {
    1: (0, False),
    2: (0, True),
    3: (2, False),
    4: (2, True),
    5: (3, True),
    6: (3, False),
    7: (1, True),
    8: (1, False),
}
# Orientations that exchange rows and columns.
SIDEWAYS = {stated for stated, (turns, _) in TURNS.items() if turns % 2}
_HEADER = 138  # bytes of the longest BMP header
_SCAN, _END = b"\xff\xda", b"\xff\xd9"  # markers of a JPEG: its pixels, its end
_BLANKS = (bytes(16), 16 * b"\xff")  # what fills up a file of a damaged disk
_NOISE = bytes(range(37, 251, 7)) * 8  # bytes unlike those of any picture


class Decoded(NamedTuple):
    """A decoded picture. If it has more samples than `colours`, the last is alpha."""

    format: str
    samples: np.ndarray  # [H, W, C]
    colours: int  # 1, 3, or 4: CMYK, without alpha
    image: Image.Image | None  # with metadata; None if Pillow did not open it
    pictures: int = 1  # number of frames or pages in the file
    # Metadata, by Pillow's names, that Pillow does not read:
    notes: Mapping[str, Any] = MappingProxyType({})
    orientation: int = 1  # of the stored picture, by which the samples were turned
    directory: int = 0  # offset of the picture's tags in a TIFF

    @property
    def info(self) -> dict[str, Any]:
        """The metadata, by Pillow's names."""
        found = {} if self.image is None else self.image.info
        return {str(name): value for name, value in found.items()} | dict(self.notes)


def decode(data: bytes) -> Decoded:
    """Decodes the (first) picture in a file.

    Raises ImageError for unsupported kinds, and any exception of the parsers.
    """
    if raw.is_raw(io.BytesIO(data)):
        samples, found = raw.samples(data)
        return Decoded("RAW", samples, 3, None, notes=found)
    if tiff.is_tiff(data):
        return _decode_tiff(data)
    if isobmff.format_of(data) == "HEIF":
        return _decode_heif(data)
    if jxl.is_jxl(data):
        samples, found, count = jxl.samples(data)
        return Decoded("JXL", samples, _colours(samples), None, count, found)
    if bmp.has_own_masks(data):
        return Decoded("BMP", bmp.samples(data), 3, None)
    found = {}
    if data.startswith(png.SIGNATURE):
        found = png.notes(io.BytesIO(data))
        data = png.without_texts(data)
    image = _open(data)
    kind = str(image.format)
    if kind == "PNG":
        image.verify()  # decoding alone does not look at the checksums
        image = _open(data)
    elif kind in ("JPEG", "MPO") and data.find(_END, _first_scan(data)) < 0:
        data = _completed(data, image)
        image = _open(data)
    count = 1 if kind == "MPO" else getattr(image, "n_frames", 1)
    # Cameras put previews behind a JPEG, which is then of the kind MPO.
    kind = "JPEG" if kind == "MPO" else kind
    orientation = _orientation(image, found)
    raw_modes = {_raw_mode(tile) for tile in image.tile}
    if kind == "PNG" and image.mode.startswith("I;16"):
        image.load()
        samples = np.asarray(image)[..., None].astype(np.uint16)
    elif kind == "PNG" and any(";16" in mode for mode in raw_modes):
        samples = _sixteen_bit_samples(data, raw_modes)
    elif kind == "AVIF":
        samples = _avif_samples(data, image)
    elif image.mode in _MODES:
        image.load()
        samples = eight_bit_samples(image, _raw_depth(raw_modes))
    else:
        raise ImageError(
            f"pixels of kind {image.mode} are not supported; convert it to PNG"
        )
    if samples.dtype == np.uint16:
        samples = _with_key_as_alpha(samples, image.info.get("transparency"))
    colours = _colours(samples, image.mode)
    samples = upright(samples, orientation)
    return Decoded(kind, samples, colours, image, count, found, orientation)


def size(file: BinaryIO) -> tuple[int, int]:
    """The (height, width) of the picture that `decode` returns, from the header."""
    start = file.read(_HEADER)
    file.seek(0)
    if raw.is_raw(file):
        return raw.size(file)
    if isobmff.format_of(start) == "HEIF":
        return heif.size(file)
    if jxl.is_jxl(start):
        return jxl.size(file)
    if tiff.is_tiff(start):
        found = tiff.first_picture(file)
        (height, width), orientation = found.size, found.orientation
    elif bmp.has_own_masks(start):
        return bmp.size(start)
    else:
        image = Image.open(file, formats=BY_PILLOW)
        width, height = image.size
        stated = png.notes(file) if image.format == "PNG" else {}
        orientation = _orientation(image, stated)
    return (width, height) if orientation in SIDEWAYS else (height, width)


def format_of(file: BinaryIO) -> str:
    """The format of a file, as in `Decoded.format`, from its header."""
    start = file.read(_HEADER)
    file.seek(0)
    if raw.is_raw(file):
        return "RAW"
    if tiff.is_tiff(start):
        return "TIFF"
    if jxl.is_jxl(start):
        return "JXL"
    if (kind := isobmff.format_of(start)) is not None:
        return kind
    if bmp.has_own_masks(start):
        return "BMP"
    kind = Image.open(file, formats=BY_PILLOW).format
    return "JPEG" if kind == "MPO" else str(kind)


def upright(samples: np.ndarray, orientation: int) -> np.ndarray:
    """Turns the samples [H, W, C] of a file as an EXIF orientation requires."""
    turns, mirrored = TURNS[orientation]
    turned = np.rot90(samples, turns)
    return turned[:, ::-1] if mirrored else turned


def eight_bit_samples(image: Image.Image, depth: int = 8) -> np.ndarray:
    """The uint8 samples of a loaded image; grey files may have fewer bits (`depth`)."""
    key = image.info.get("transparency")
    if image.mode == "L" and isinstance(key, int) and depth < 8:
        image.info["transparency"] = key % 2**depth * 255 // (2**depth - 1)
    grey = image.mode in ("1", "L", "LA", "La")
    if image.has_transparency_data:
        # Pillow converts a grey colour key only to RGBA.
        rgba = np.asarray(image.convert("RGBA"))
        return rgba[..., 2:] if grey else rgba
    if image.mode == "CMYK":
        return np.asarray(image)
    samples = np.asarray(image.convert("L" if grey else "RGB"))
    return samples[..., None] if grey else samples


def _colours(samples: np.ndarray, mode: str = "RGB") -> int:
    """Number of colours of samples [H, W, C] that had one of Pillow's modes."""
    if mode == "CMYK":
        return 4
    return 1 if samples.shape[-1] < 3 else 3


def _decode_tiff(data: bytes) -> Decoded:
    found = tiff.first_picture(io.BytesIO(data))
    image = _open_tiff(data, found.index)
    read = None
    if image is not None and image.mode in _MODES and _has_eight_bits(image):
        with contextlib.suppress(OSError):  # tifffile may decode what Pillow cannot
            image.load()  # which also turns it upright, for TIFF only
            samples = eight_bit_samples(image)
            read = samples, _colours(samples, image.mode)
    if read is None:
        samples, colours = tiff.samples(data, found.index)
        read = upright(samples, found.orientation), colours
    return Decoded(
        "TIFF",
        *read,
        image,
        found.pictures,
        orientation=found.orientation,
        directory=found.offset,
    )


def _decode_heif(data: bytes) -> Decoded:
    samples, found, count = heif.samples(data)
    _state_colours(found, data)
    return Decoded("HEIF", samples, _colours(samples), None, count, found)


def _avif_samples(data: bytes, image: Image.Image) -> np.ndarray:
    """The samples of an AVIF; Pillow reduces 10 and 12 bits to 8."""
    _state_colours(image.info, data)
    bits = 8
    with contextlib.suppress(ValueError):  # an animation has no primary picture
        bits = isobmff.depth(isobmff.properties(data))
    if bits == 8:
        image.load()
        return eight_bit_samples(image)
    samples = imagecodecs.avif_decode(data, index=0)
    samples = samples[..., None] if samples.ndim == 2 else samples
    return depths.scaled(samples, bits)


def _state_colours(info: dict[Any, Any], data: bytes) -> None:
    """Adds to metadata the colour space that a file states by codes ("cicp")."""
    with contextlib.suppress(ValueError):
        stated = isobmff.cicp(isobmff.properties(data))
        if stated is not None and not info.get("icc_profile"):
            info["cicp"] = stated


def _open(data: bytes) -> ImageFile.ImageFile:
    return Image.open(io.BytesIO(data), formats=BY_PILLOW)


def _open_tiff(data: bytes, index: int) -> Image.Image | None:
    try:
        image = _open(data)
        image.seek(index)
    except (Image.UnidentifiedImageError, EOFError):
        return None
    if not isinstance(image.info.get("xmp"), bytes):  # Pillow expects bytes
        image.info.pop("xmp", None)
    return image


def _has_eight_bits(image: Image.Image) -> bool:
    tags = image.tag_v2 if isinstance(image, TiffImageFile) else {}
    planar = tags.get(ExifTags.Base.PlanarConfiguration) == 2
    if planar or image.mode == "La":  # Pillow misreads or lacks their alpha
        return False
    bits = tags.get(ExifTags.Base.BitsPerSample, (1,))
    formats = tags.get(ExifTags.Base.SampleFormat, (1,))
    return max(bits) <= 8 and set(formats) <= {1, 4}


def _orientation(image: Image.Image, found: Mapping[str, Any]) -> int:
    """The orientation, 1 to 8, of an image's pixels, from EXIF or XMP.

    `found` are a PNG's notes: Pillow would decode all of it to find those at its end.
    """
    image.info.update(**found)
    try:
        # The PNG class's getexif decodes the whole image first.
        orientation = Image.Image.getexif(image).get(ExifTags.Base.Orientation)
    except Exception:  # broken metadata must not make the picture unreadable
        return 1
    return orientation if orientation in TURNS else 1


def _first_scan(data: bytes) -> int:
    """Place of the first pixels of a JPEG: a preview in EXIF ends before it."""
    place = 2
    while data[place : place + 1] == b"\xff":
        if data.startswith(_SCAN, place):
            return place
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return 0


def _completed(data: bytes, image: Image.Image) -> bytes:
    """Appends the missing end marker to a JPEG whose pixels are complete.

    They are complete if bytes appended after them change nothing; blank bytes at the
    end of the file do not count as pixels. Otherwise raises ValueError.
    """
    if image.info.get("progressive"):
        raise ValueError("its end is missing")
    if data.endswith(_BLANKS):
        data = data.rstrip(data[-1:])
    whole = data + _END
    pixels, others = (np.asarray(_open(x)) for x in (whole, data + _NOISE + _END))
    if not np.array_equal(pixels, others):
        raise ValueError("its end is missing")
    return whole


def _raw_mode(tile: ImageFile._Tile) -> str:
    arguments: Any = tile[3]
    return arguments if isinstance(arguments, str) else arguments[0]


def _raw_depth(raw_modes: set[str]) -> int:
    """Bits of a grey sample in the file, from Pillow's raw modes such as "L;4"."""
    depths = {"L;2": 2, "L;4": 4}
    return min((depths.get(mode, 8) for mode in raw_modes), default=8)


def _sixteen_bit_samples(data: bytes, raw_modes: set[str]) -> np.ndarray:
    """The samples of a 16-bit colour PNG: uint16 [H, W, C].

    Pillow keeps only the high byte of each 16-bit colour sample. Decoding the file a
    second time with the opposite byte order yields the low byte.
    """
    (raw_mode,) = raw_modes
    if raw_mode == "LA;16B":  # four bytes per pixel, which RGBA returns unchanged
        bytes_ = _load_as(data, "RGBA").astype(np.uint16)
        return bytes_[..., 0::2] * 256 + bytes_[..., 1::2]
    layout = raw_mode.split(";16")[0]
    high, low = _load_as(data, f"{layout};16B"), _load_as(data, f"{layout};16L")
    return high.astype(np.uint16) * 256 + low


def _load_as(data: bytes, raw_mode: str) -> np.ndarray:
    """The image's bytes, unpacked as `raw_mode` instead of the file's raw mode."""
    image = _open(data)
    for index, tile in enumerate(image.tile):
        own: Any = tile[3]
        arguments = raw_mode if isinstance(own, str) else (raw_mode, *own[1:])
        image.tile[index] = tile._replace(args=arguments)
    image.load()
    return np.asarray(image)


def _with_key_as_alpha(
    samples: np.ndarray, key: int | tuple[int, ...] | None
) -> np.ndarray:
    if key is None or samples.shape[-1] not in (1, 3):
        return samples
    opaque = (samples != np.array(key)).any(-1, keepdims=True)
    alpha = np.where(opaque, np.uint16(65535), np.uint16(0))
    return np.concatenate([samples, alpha], -1)
