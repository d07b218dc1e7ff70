"""People's pictures: all that a file says of one, read and written again.

`files.read_rgb` makes uint8 RGB of anything, for training and measuring. Here grey
stays grey, 16 bits stay 16, and transparency, colour profile and metadata are kept.
Pixels are uint8 in 0..255 or uint16 in 0..65535.
"""

import io
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import imagecodecs
import numpy as np
import scipy.ndimage
import tifffile
from PIL import ExifTags, Image, ImageCms, PngImagePlugin

from lightbsr_jax import atomic
from lightbsr_jax.errors import UserError
from lightbsr_jax.imaging import files
from lightbsr_jax.imaging.files import ImageError

# Ends of names and formats; the first end of each is the one that is given.
FORMATS = {
    "png": "PNG",
    "jpg": "JPEG",
    "jpeg": "JPEG",
    "webp": "WEBP",
    "tif": "TIFF",
    "tiff": "TIFF",
    "bmp": "BMP",
}
_LONGEST_SIDE = {"JPEG": 65500, "WEBP": 16383}
_LONGEST_NOTES = {"JPEG": {"exif": 65533, "xmp": 65504}}  # bytes
_DEEP = ("PNG", "TIFF")  # hold 16 bits
_TRANSPARENT = ("PNG", "TIFF", "WEBP")

# What TIFF says of how its pixels are stored, which is no longer true of the new ones;
# orientation (274), colour profile and XMP are written apart.
_XMP = 700
_LAYOUT_TAGS = (
    *(254, 255, 256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 284, 317, 320),
    *(322, 323, 324, 325, 330, 338, 339, 347, 512, 513, 514, 529, 530, 531, 532, _XMP),
    *(34675,),
)


class Metadata(NamedTuple):
    """What a file says beside its pixels."""

    exif: bytes | None  # without orientation, which is applied
    xmp: bytes | None
    dpi: tuple[float, float] | None
    texts: dict[str, str]  # of a PNG


class Photograph(NamedTuple):
    """A picture upright; `colour` and `alpha` are both uint8 or both uint16."""

    colour: np.ndarray  # [h, w, 3], or [h, w, 1] of a grey one
    alpha: np.ndarray | None  # [h, w, 1]
    profile: bytes | None  # ICC
    format: str  # one of FORMATS' values
    metadata: Metadata


def read(path: str | Path) -> Photograph:
    """The picture in a file.

    Raises ImageError for a file that is corrupt, truncated, too large, animated, of
    several pages, in CMYK or of another kind that is not supported.
    """
    data = Path(path).read_bytes()
    with files.errors_named(path):
        if not data:
            raise ImageError("the file is empty")
        image, samples = files.decode(data)
        # Cameras put previews behind a JPEG, which is then of the kind MPO.
        kind = "JPEG" if image.format == "MPO" else image.format
        count = getattr(image, "n_frames", 1)
        if count > 1 and image.format != "MPO":
            raise ImageError(
                f"holds {count} pictures (an animation, or pages); save one by itself"
            )
        if image.mode == "CMYK":
            raise ImageError("is in CMYK, a printer's colours; convert it to RGB")
        if samples is None:
            samples = _eight_bit_samples(image)
        elif (key := image.info.get("transparency")) is not None:
            opaque = (samples != np.array(key)).any(-1, keepdims=True)
            alpha = np.where(opaque, np.uint16(65535), np.uint16(0))
            samples = np.concatenate([samples, alpha], -1)
        samples = files.upright(image, samples)
        colours = 1 if samples.shape[-1] < 3 else 3
        alpha = samples[..., colours:] if samples.shape[-1] > colours else None
        colour = samples[..., :colours]
        profile = image.info.get("icc_profile") or None
        return Photograph(colour, alpha, profile, kind, _metadata(image))


def check_format(kind: str, size: tuple[int, int], path: str | Path) -> None:
    """Raises UserError where a format cannot hold a picture of that (height, width)."""
    longest = _LONGEST_SIDE.get(kind, 2**31 - 1)
    if max(size) > longest:
        raise UserError(
            f"{path}: {size[1]} x {size[0]} pixels are more than {kind} holds, "
            f"{longest} a side: write PNG or TIFF, or take a smaller --scale"
        )


def too_long(metadata: Metadata, kind: str) -> list[str]:
    """The fields of the notes that are longer than the format `kind` holds."""
    return [
        name
        for name, most in _LONGEST_NOTES.get(kind, {}).items()
        if len(getattr(metadata, name) or b"") > most
    ]


def write(
    path: str | Path, photograph: Photograph, *, kind: str, quality: int = 95
) -> None:
    """Writes the picture whole or not at all; folders are made.

    What the format `kind` does not hold is converted, 16 bits to 8, transparency to
    white, or left out: see `too_long`. `quality`, of 1 to 100, is for JPEG and WebP.
    """
    content = encode(photograph, kind=kind, quality=quality)
    atomic.replace(path, lambda new: new.write_bytes(content))


def encode(photograph: Photograph, *, kind: str, quality: int = 95) -> bytes:
    """The bytes of a file of the format `kind`; see `write`."""
    colour, alpha, profile, _, metadata = photograph
    metadata = metadata._replace(**dict.fromkeys(too_long(metadata, kind)))
    if alpha is not None and kind not in _TRANSPARENT:
        top = np.iinfo(colour.dtype).max
        opacity = alpha / np.float32(top)
        colour = np.rint(colour * opacity + top * (1 - opacity)).astype(colour.dtype)
        alpha = None
    samples = colour if alpha is None else np.concatenate([colour, alpha], -1)
    if samples.dtype == np.uint16 and kind in _DEEP:
        deep = {"PNG": _deep_png, "TIFF": _deep_tiff}[kind]
        return deep(samples, profile, metadata)
    if samples.dtype == np.uint16:
        samples = ((samples.astype(np.uint32) + 128) // 257).astype(np.uint8)
    image = Image.fromarray(samples[..., 0] if samples.shape[-1] == 1 else samples)
    options: dict[str, Any] = {
        "icc_profile": profile,
        "exif": metadata.exif,
        "xmp": metadata.xmp,
        "dpi": metadata.dpi,
    }
    if kind == "PNG":
        options["pnginfo"] = _png_info(metadata)
        options.pop("xmp")
    if kind == "TIFF":
        options["exif"] = notes = _loaded(metadata.exif)
        if options.pop("xmp") is not None:
            notes[_XMP] = metadata.xmp
        if metadata.exif is None:  # Pillow cannot compress and write a camera's notes
            options["compression"] = "tiff_adobe_deflate"
    if kind == "JPEG":
        options |= {"quality": quality, "subsampling": 0 if quality >= 90 else 2}
    if kind == "WEBP":
        options["quality"] = quality
    given = {name: value for name, value in options.items() if value is not None}
    buffer = io.BytesIO()
    image.save(buffer, kind, **given)
    return buffer.getvalue()


def to_network(photograph: Photograph) -> tuple[np.ndarray, np.ndarray | None]:
    """Pixels [h, w, 3] in sRGB for a network, and what sRGB cannot show.

    Grey is repeated. Colour under full transparency, which may be anything, is that of
    the nearest pixel that shows. A picture with a colour profile is converted, to
    float32 in [0, 1]; what lies beyond comes apart, None if there was no conversion.
    """
    colour = photograph.colour
    if photograph.alpha is not None:
        colour = _extended(colour, photograph.alpha[..., 0])
    if colour.shape[-1] == 1:
        return colour.repeat(3, -1), None
    if not _converts(photograph):
        return np.ascontiguousarray(colour), None
    scaled = colour.astype(np.float32) / np.iinfo(colour.dtype).max
    colour = _transformed(scaled, photograph.profile, imagecodecs.cms_profile("srgb"))
    shown = colour.clip(0, 1)
    return shown, colour - shown


def from_network(
    photograph: Photograph, pixels: np.ndarray, size: tuple[int, int]
) -> Photograph:
    """The photograph with the network's pixels in place of its own, at (height, width).

    `pixels` [H, W, 3] are what came of those of `to_network`. They, and what the
    network does not see (colours beyond sRGB, transparency) are interpolated.
    Where the photograph has no colours, the network adds none.
    """
    kind = photograph.colour.dtype
    pixels = resized(pixels, size)
    if _is_grey(photograph.colour):
        pixels = _averaged(pixels)
    if _converts(photograph):
        beyond = resized(to_network(photograph)[1], size)
        srgb = imagecodecs.cms_profile("srgb")
        converted = np.empty(pixels.shape, kind)
        parts = map(_in_parts, (converted, pixels, beyond))
        for out, shown, hidden in zip(*parts, strict=True):
            colour = _transformed(shown + hidden, srgb, photograph.profile)
            out[:] = np.rint(colour.clip(0, 1) * np.iinfo(kind).max)
        pixels = converted
    pixels = pixels[..., : photograph.colour.shape[-1]]
    alpha = photograph.alpha
    if alpha is not None:
        # Lanczos would leave faint waves around what is cut out.
        alpha = resized(alpha, size, resampling=Image.Resampling.BICUBIC)
    return photograph._replace(colour=pixels, alpha=alpha)


def resized(
    pixels: np.ndarray,
    size: tuple[int, int],
    *,
    resampling: Image.Resampling = Image.Resampling.LANCZOS,
) -> np.ndarray:
    """`pixels` [h, w, C] of any type, interpolated at (height, width)."""
    if pixels.shape[:2] == size:
        return pixels
    out = np.empty((*size, pixels.shape[-1]), pixels.dtype)
    for channel in range(pixels.shape[-1]):
        image = Image.fromarray(pixels[..., channel].astype(np.float32))
        image = image.resize(size[::-1], resampling)
        plane = np.asarray(image)
        if pixels.dtype != np.float32:
            plane = np.rint(plane).clip(0, np.iinfo(pixels.dtype).max)
        out[..., channel] = plane
    return out


def _eight_bit_samples(image: Image.Image) -> np.ndarray:
    grey = image.mode in ("1", "L", "LA", "La")
    mode = "L" if grey else "RGB"
    if image.has_transparency_data:
        # By way of RGBA: Pillow converts a grey colour key to nothing else.
        rgba = np.asarray(image.convert("RGBA"))
        return rgba[..., 2:] if grey else rgba
    samples = np.asarray(image.convert(mode))
    return samples[..., None] if grey else samples


def _extended(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    hidden = alpha == 0
    if not hidden.any() or hidden.all():
        return colour
    nearest = scipy.ndimage.distance_transform_edt(
        hidden, return_distances=False, return_indices=True
    )
    return colour[tuple(nearest)]


def _is_grey(colour: np.ndarray) -> bool:
    """Whether all channels are the same; WebP, which has no grey, is off by a level."""
    return all(np.ptp(rows, -1).max() <= 1 for rows in _in_parts(colour))


def _averaged(pixels: np.ndarray) -> np.ndarray:
    """Pixels [h, w, 3] with each channel the mean of all."""
    grey = np.empty_like(pixels)
    for rows, out in zip(_in_parts(pixels), _in_parts(grey), strict=True):
        mean = rows.mean(-1, dtype=np.float64, keepdims=True)
        out[:] = mean if pixels.dtype == np.float32 else np.rint(mean)
    return grey


def _in_parts(image: np.ndarray) -> Iterator[np.ndarray]:
    """The rows of an image, a few at a time: what is made of them takes more space."""
    return (image[row : row + 256] for row in range(0, len(image), 256))


def _converts(photograph: Photograph) -> bool:
    """Whether the profile says something else than sRGB, for colours.

    A broken one, or one that goes one way only (a scanner's may), does not spoil a
    picture: it is taken for sRGB.
    """
    if photograph.profile is None or photograph.colour.shape[-1] == 1:
        return False
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(photograph.profile))
        name = ImageCms.getProfileDescription(profile)
        if profile.profile.xcolor_space != "RGB " or "sRGB" in name:
            return False
        pixel, srgb = np.zeros((1, 1, 3), np.float32), imagecodecs.cms_profile("srgb")
        _transformed(pixel, photograph.profile, srgb)
        _transformed(pixel, srgb, photograph.profile)
    except (ImageCms.PyCMSError, imagecodecs.CmsError, OSError):
        return False
    return True


def _transformed(pixels: np.ndarray, profile: bytes, other: bytes) -> np.ndarray:
    """Float32 pixels from one profile to another, not clipped where matrices serve."""
    return imagecodecs.cms_transform(
        np.ascontiguousarray(pixels),
        profile,
        other,
        colorspace="rgb",
        outcolorspace="rgb",
        outdtype="float32",
    )


def _metadata(image: Image.Image) -> Metadata:
    texts = {}
    if image.format == "PNG":
        texts = {k: str(v) for k, v in image.text.items() if not k.startswith("XML:")}
    xmp = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp")
    if isinstance(xmp, str):
        xmp = xmp.encode()
    if xmp is not None:  # it may repeat the orientation
        xmp = re.sub(rb"(tiff:Orientation\s*(?:=\s*[\"']|>)\s*)[2-8]", rb"\g<1>1", xmp)
    dpi = image.info.get("dpi")
    if dpi is not None:
        dpi = tuple(map(float, dpi))
        dpi = dpi if all(0 < n < 2**16 for n in dpi) else None  # of TIFF, 0/0 as well
    return Metadata(_exif(image), xmp, dpi, texts)


def _exif(image: Image.Image) -> bytes | None:
    try:
        exif = image.getexif()
        for tag in _LAYOUT_TAGS:
            exif.pop(tag, None)
        if ExifTags.IFD.Exif in exif:
            details = exif.get_ifd(ExifTags.IFD.Exif)
            for tag in (ExifTags.Base.ExifImageWidth, ExifTags.Base.ExifImageHeight):
                details.pop(tag, None)  # of the old pixels
        return exif.tobytes() if len(exif) else None
    except Exception:  # a broken note about a picture does not spoil the picture
        return None


def _loaded(exif: bytes | None) -> Image.Exif:
    loaded = Image.Exif()
    if exif is not None:
        loaded.load(exif)
    return loaded


def _png_info(metadata: Metadata) -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    for name, text in metadata.texts.items():
        info.add_itxt(name, text)
    if metadata.xmp is not None:
        info.add_itxt("XML:com.adobe.xmp", metadata.xmp.decode(errors="replace"))
    return info


def _deep_png(samples: np.ndarray, profile: bytes | None, metadata: Metadata) -> bytes:
    """16-bit PNG, which Pillow cannot write: the notes of an 8-bit one, our pixels."""
    tiny = io.BytesIO()
    options = {"icc_profile": profile, "exif": metadata.exif, "dpi": metadata.dpi}
    Image.new("RGB", (1, 1)).save(
        tiny,
        "PNG",
        pnginfo=_png_info(metadata),
        **{name: value for name, value in options.items() if value is not None},
    )
    notes = [
        (kind, body)
        for kind, body in _png_chunks(tiny.getvalue())
        if kind not in (b"IHDR", b"IDAT", b"IEND")
    ]
    pixels = _png_chunks(imagecodecs.png_encode(np.ascontiguousarray(samples)))
    (header, *others) = pixels
    chunks = [header, *notes, *others]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body))
        + kind
        + body
        + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


def _png_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    chunks, position = [], 8
    while position < len(data):
        (length,) = struct.unpack_from(">I", data, position)
        kind = data[position + 4 : position + 8]
        chunks.append((kind, data[position + 8 : position + 8 + length]))
        position += length + 12
    return chunks


def _deep_tiff(samples: np.ndarray, profile: bytes | None, metadata: Metadata) -> bytes:
    """16-bit TIFF, which Pillow cannot write. Camera settings (the EXIF
    subdirectory) are not written; maker, model, dates, author and the like are."""
    buffer = io.BytesIO()
    tags = []
    if metadata.xmp is not None:
        tags.append((_XMP, "B", len(metadata.xmp), metadata.xmp, True))
    if metadata.exif is not None:
        for tag, text in _loaded(metadata.exif).items():
            if isinstance(text, str) and text.isascii():
                tags.append((tag, "s", 0, text, True))
    alpha = {} if samples.shape[-1] % 2 else {"extrasamples": ["unassalpha"]}
    tifffile.imwrite(
        buffer,
        samples if samples.shape[-1] > 1 else samples[..., 0],
        photometric="rgb" if samples.shape[-1] > 2 else "minisblack",
        planarconfig="contig" if samples.shape[-1] > 1 else None,
        compression="zlib",
        predictor=True,
        iccprofile=profile,
        resolution=metadata.dpi,
        resolutionunit="inch" if metadata.dpi else None,
        software=False,
        metadata=None,
        extratags=tags,
        **alpha,
    )
    return buffer.getvalue()
