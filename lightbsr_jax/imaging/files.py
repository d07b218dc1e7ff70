"""Image files: finding them, and reading and writing them as arrays.

Images are uint8 [H, W, 3] in RGB, 0..255. Colour profiles are ignored. Of a file with
several pictures (an animation, a TIFF of many pages) the first is read.
"""

import contextlib
import importlib.util
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, TiffImagePlugin

from lightbsr_jax import atomic
from lightbsr_jax.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")

# A name in place of a folder: sharp, textured photographs without download. The two
# splits share no scene.
BUNDLED = "scikit-image"
_BUNDLED_PHOTOGRAPHS = {
    "train": (
        "brick.png",
        "camera.png",
        "coins.png",
        "grass.png",
        "gravel.png",
        "hubble_deep_field.jpg",
        "ihc.png",
        "motorcycle_left.png",
        "rocket.jpg",
    ),
    "test": ("astronaut.png", "chelsea.png", "coffee.png"),
}

_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
_EIGHT_BIT_MODES = frozenset(
    ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBX", "RGBA", "RGBa", "CMYK", "YCbCr")
)
# What brings a picture upright, by its EXIF orientation: quarter turns
# counterclockwise, and then whether to mirror it.
_TURNS = {
    1: (0, False),
    2: (0, True),
    3: (2, False),
    4: (2, True),
    5: (3, True),
    6: (3, False),
    7: (1, True),
    8: (1, False),
}


class ImageError(UserError):
    """An image file that cannot be used; the message names it and the remedy."""


def find_images(folder: str | Path) -> list[tuple[str, Path]]:
    """The image files in `folder` and below: names relative to it and paths, by name.

    Hidden files and folders are passed over, links are followed. In place of a folder
    may stand an image file, or BUNDLED (with ":test" for the other photographs): the
    photographs that scikit-image brings along. Raises FileNotFoundError for a folder
    that does not exist, UserError for one that holds no image.
    """
    name, _, split = str(folder).partition(":")
    folder = Path(folder)
    if name == BUNDLED and not folder.exists():
        return _bundled_photographs(split or "train")
    if not folder.exists():
        raise FileNotFoundError(
            f"no such folder or image: {folder} (working folder {Path.cwd()})"
        )
    if folder.is_file():
        found = [(folder.name, folder)]
    else:
        found = [(path.relative_to(folder).as_posix(), path) for path in walk(folder)]
    found = [(name, path) for name, path in found if path.suffix.lower() in SUFFIXES]
    if not found:
        raise UserError(
            f"{folder} holds no image: expected files ending in "
            f"{' '.join(SUFFIXES)} (in either case)"
        )
    return sorted(found)


def split_folders(text: str) -> list[str]:
    """ "A,B" as ["A", "B"]; an existing path that has a comma in it stays whole."""
    parts = text.split(",")
    folders = []
    while parts:
        joined = (",".join(parts[:count]) for count in range(len(parts), 1, -1))
        folder = next(filter(os.path.exists, joined), parts[0])
        parts = parts[folder.count(",") + 1 :]
        if folder.strip():
            folders.append(folder.strip())
    if not folders:
        raise UserError(f"no folder named in {text!r}: expected A or A,B")
    return folders


def image_size(path: str | Path) -> tuple[int, int]:
    """The (height, width) that `read_rgb` would give, read from the header alone.

    Raises ImageError for a file whose header cannot be read.
    """
    with open(path, "rb") as file, errors_named(path):
        image = Image.open(file, formats=_FORMATS)
        width, height = image.size
        return (width, height) if _orientation(image) >= 5 else (height, width)


def read_rgb(path: str | Path) -> np.ndarray:
    """The picture in a file as uint8 [H, W, 3], upright.

    Grey is repeated, transparency is composited on white, and 16 bits become
    round(v / 257). The EXIF orientation is applied (a PNG's only where it precedes the
    pixels). Raises ImageError for a file that is corrupt, truncated, too large or of a
    kind that is not supported; half an image is never returned.
    """
    with open(path, "rb") as file:
        data = file.read()
    with errors_named(path):
        encoded, samples = decode(data)
        image = encoded if samples is None else _to_eight_bits(encoded, samples)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image)
        rgb = upright(encoded, np.asarray(image.convert("RGB")))
        return np.array(rgb, order="C")


def write_png(path: str | Path, image: np.ndarray) -> None:
    """Writes uint8 [H, W, 3] or [H, W], so that no reader ever sees half a file."""
    if image.dtype != np.uint8:
        raise ValueError(f"{path}: expected a uint8 image, got {image.dtype}")
    atomic.replace(path, lambda new: Image.fromarray(image).save(new, "PNG"))


def _bundled_photographs(split: str) -> list[tuple[str, Path]]:
    if split not in _BUNDLED_PHOTOGRAPHS:
        raise UserError(
            f"{BUNDLED} has no split {split!r}: expected "
            f"{' or '.join(_BUNDLED_PHOTOGRAPHS)}"
        )
    package = importlib.util.find_spec("skimage")
    if package is None:
        raise UserError(
            f"the photographs of {BUNDLED} need it installed: pip install {BUNDLED}"
        )
    folder = Path(package.origin).parent / "data"
    return [(name, folder / name) for name in _BUNDLED_PHOTOGRAPHS[split]]


def walk(folder: Path) -> Iterator[Path]:
    """The files in a folder and below, but for hidden ones."""
    visited = set()  # a link to a folder further up would go round for ever
    for parent, children, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in visited:
            children.clear()
            continue
        visited.add(real)
        children[:] = sorted(name for name in children if not name.startswith("."))
        yield from (Path(parent, name) for name in names if not name.startswith("."))


@contextlib.contextmanager
def errors_named(path: str | Path) -> Iterator[None]:
    """Turns whatever Pillow raises about the bytes of a file into an ImageError."""
    try:
        yield
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from error
    except Image.DecompressionBombError as error:
        most = 2 * Image.MAX_IMAGE_PIXELS // 1_000_000  # it only warns of half of that
        raise ImageError(
            f"{path}: too large, cut it into parts of at most {most} megapixels"
        ) from error
    except Image.UnidentifiedImageError as error:
        raise ImageError(
            f"{path}: not a readable {', '.join(_FORMATS)} file; replace it by an "
            "intact copy, or convert it to an 8-bit PNG"
        ) from error
    except MemoryError:  # the machine's fault, not the file's
        raise
    except Exception as error:  # the parsers raise anything, down to struct.error
        raise ImageError(
            f"{path}: corrupt or truncated ({error}); replace it by an intact copy"
        ) from error


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8, that is still to be applied after decoding."""
    if image.format == "TIFF":
        return 1  # Pillow applies it by itself, to the size too
    try:
        # The PNG class's own getexif decodes all of the image first.
        orientation = Image.Image.getexif(image).get(ExifTags.Base.Orientation)
    except Exception:  # a broken note about a picture does not spoil the picture
        return 1
    return orientation if orientation in _TURNS else 1


def upright(image: Image.Image, samples: np.ndarray) -> np.ndarray:
    """Samples [H, W, C] as they lie in a file, turned as its EXIF notes say."""
    turns, mirrored = _TURNS[_orientation(image)]
    turned = np.rot90(samples, turns)
    return turned[:, ::-1] if mirrored else turned


def decode(data: bytes) -> tuple[Image.Image, np.ndarray | None]:
    """The picture as it lies in a file; its samples uint16 [H, W, C] if it has 16 bits.

    The image is loaded if it has 8 bits, and then in one of _EIGHT_BIT_MODES. Raises
    ImageError for kinds that are not supported, and whatever Pillow raises.
    """
    image = Image.open(io.BytesIO(data), formats=_FORMATS)
    if image.format == "PNG":
        image.verify()  # decoding alone does not look at the checksums
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
    raw_modes = {_raw_mode(tile) for tile in image.tile}
    tags = image.tag_v2 if image.format == "TIFF" else {}
    bits = max(tags.get(TiffImagePlugin.BITSPERSAMPLE, (8,)))
    planar = tags.get(TiffImagePlugin.PLANAR_CONFIGURATION) == 2
    sixteen = image.format != "BMP" and any(";16" in mode for mode in raw_modes)

    if image.mode.startswith("I;16") and raw_modes != {"I;12"}:
        image.load()
        samples = np.asarray(image)[..., None]
        if tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0:  # white is zero
            samples = 65535 - samples
        return image, samples
    if sixteen and not planar:
        return image, _sixteen_bit_samples(data, raw_modes)
    if image.mode in _EIGHT_BIT_MODES and bits <= 8:
        image.load()
        return image, None
    raise ImageError(
        f"pixels of kind {image.mode}{' in planes' * planar} with {bits} bits are "
        "not supported; convert it to an 8-bit PNG"
    )


def _raw_mode(tile: tuple) -> str:
    arguments = tile[3]
    return arguments if isinstance(arguments, str) else arguments[0]


def _sixteen_bit_samples(data: bytes, raw_modes: set[str]) -> np.ndarray:
    """The samples of a 16-bit colour image: uint16 [H, W, C].

    Pillow keeps one byte of each 16-bit colour sample, the high one. Decoding again as
    if the bytes were in the other order gives the low one.
    """
    (raw_mode,) = raw_modes
    if raw_mode == "LA;16B":  # four bytes a pixel, which RGBA hands over as they are
        bytes_ = _load_as(data, "RGBA").astype(np.uint16)
        return bytes_[..., 0::2] * 256 + bytes_[..., 1::2]
    layout, order = raw_mode.split(";16")
    if layout not in ("RGB", "RGBA", "RGBX", "CMYK"):
        raise ImageError(
            f"16-bit pixels of kind {raw_mode} are not supported; convert it to an "
            "8-bit PNG"
        )
    if order == "N":
        order = "L" if sys.byteorder == "little" else "B"
    other = "L" if order == "B" else "B"
    high, low = _load_as(data, raw_mode), _load_as(data, f"{layout};16{other}")
    return high.astype(np.uint16) * 256 + low


def _load_as(data: bytes, raw_mode: str) -> np.ndarray:
    """The image's bytes, unpacked as `raw_mode` in place of the file's own."""
    image = Image.open(io.BytesIO(data), formats=_FORMATS)
    for index, tile in enumerate(image.tile):
        is_text = isinstance(tile[3], str)
        arguments = raw_mode if is_text else (raw_mode, *tile[3][1:])
        image.tile[index] = tile._replace(args=arguments)
    image.load()
    return np.asarray(image)


def _to_eight_bits(image: Image.Image, samples: np.ndarray) -> Image.Image:
    """16-bit samples [H, W, C] as round(v / 257), with the alpha of a colour key."""
    rounded = ((samples.astype(np.uint32) + 128) // 257).astype(np.uint8)
    key = image.info.get("transparency")
    if key is not None and samples.shape[-1] in (1, 3):
        alpha = 255 * (samples != np.array(key)).any(-1, keepdims=True)
        rounded = np.concatenate([rounded, alpha.astype(np.uint8)], -1)
    mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[rounded.shape[-1]]
    if image.mode == "CMYK":
        mode = "CMYK"
    size = rounded.shape[1], rounded.shape[0]
    return Image.frombytes(mode, size, rounded.tobytes())
