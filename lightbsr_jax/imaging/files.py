"""Finding image files, and reading and writing them as arrays.

Images are uint8 [H, W, 3] in RGB, 0..255. Colour profiles are ignored. If a file holds
several pictures (an animation, a TIFF of many pages), the first is read.
"""

import importlib.util
import io
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from lightbsr_jax import atomic
from lightbsr_jax.errors import UserError
from lightbsr_jax.imaging import decoding, formats
from lightbsr_jax.imaging.errors import ImageError, errors_named

SUFFIXES = formats.suffixes()  # of the files that can be read here

LIST = ".txt"  # suffix of a file with the paths of images, one a line

# A name used like a folder: sharp, textured photographs that need no download. The two
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


OnError = Callable[[OSError], Any]


def is_list(path: str | Path) -> bool:
    """Returns whether a path is a file with the paths of images."""
    return Path(path).suffix.lower() == LIST and Path(path).is_file()


def find_images(
    folder: str | Path, on_error: OnError | None = None
) -> list[tuple[str, Path]]:
    """Finds the image files below `folder`: relative names and paths, sorted by name.

    Hidden files and folders are skipped, and links are followed. An unreadable
    sub-folder raises OSError, or is passed to `on_error`. `folder` may also be an image
    file, a LIST (paths relative to its folder, or absolute; a size in brackets after a
    path, as in BasicSR's lists, is ignored), or BUNDLED (BUNDLED + ":test" for the
    other split): the photographs installed with scikit-image. Raises FileNotFoundError
    if it does not exist, and UserError if it holds no image.
    """
    name, _, split = str(folder).partition(":")
    folder = Path(folder)
    if name == BUNDLED and not folder.exists():
        return _bundled_photographs(split or "train")
    if not folder.exists():
        raise FileNotFoundError(
            f"no such folder or image: {folder} (working folder {Path.cwd()})"
        )
    if is_list(folder):
        found = _listed(folder)
    elif folder.is_file():
        found = [(folder.name, folder)]
    else:
        found = [
            (path.relative_to(folder).as_posix(), path)
            for path in walk(folder, on_error)
        ]
    found = [(name, path) for name, path in found if path.suffix.lower() in SUFFIXES]
    if not found:
        if folder.is_file() and (extra := formats.missing(folder.suffix)) is not None:
            raise UserError(f"{folder} needs the extra {extra.name}: {extra.remedy}")
        raise UserError(
            f"{folder} holds no image: expected files ending in "
            f"{' '.join(SUFFIXES)} (in either case)"
        )
    return sorted(found)


def _listed(file: Path) -> list[tuple[str, Path]]:
    """The images of a list. Raises UserError, FileNotFoundError with the line."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is no list of images: it is not UTF-8") from error
    found = []
    for number, line in enumerate(lines, 1):
        name = re.sub(r"\s+\([\d\s,]*\)$", "", line.strip())
        if not name or name.startswith("#"):
            continue
        path = file.parent / name
        if not path.is_file():
            raise FileNotFoundError(f"{file}, line {number}: no such image: {path}")
        if path.suffix.lower() not in SUFFIXES:
            extra = formats.missing(path.suffix)
            reason = "is no image by its name"
            if extra is not None:
                reason = f"needs the extra {extra.name}: {extra.remedy}"
            raise UserError(f"{file}, line {number}: {path} {reason}")
        inside = os.path.normpath(name)
        outside = os.path.isabs(inside) or inside.startswith("..")
        found.append((path.name if outside else Path(inside).as_posix(), path))
    return _told_apart(found)


def _told_apart(found: list[tuple[str, Path]]) -> list[tuple[str, Path]]:
    """Gives different images of one name the names of their folders, too."""
    files: dict[str, set[str]] = {}
    for name, path in found:
        files.setdefault(name, set()).add(os.path.realpath(path))
    return [
        (name if len(files[name]) == 1 else _whole_name(path), path)
        for name, path in found
    ]


def _whole_name(path: Path) -> str:
    return "/".join(Path(os.path.abspath(path)).parts[1:])


def escaped(text: str) -> str:
    r"""A text with names of files as valid UTF-8: other bytes become \xff."""
    return os.fsencode(text).decode("utf-8", "backslashreplace")


def split_folders(text: str) -> list[str]:
    """Splits "A,B" into ["A", "B"]; an existing path with a comma stays whole."""
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
    """The (height, width) of the result of `read_rgb`, read from the header alone.

    Raises ImageError if the header cannot be read.
    """
    with opened(path) as file, errors_named(path):
        return decoding.size(file)


def size_of_bytes(data: bytes, name: str | Path) -> tuple[int, int]:
    """`image_size` of the bytes of a file; errors call it by `name`."""
    with errors_named(name, data):
        return decoding.size(io.BytesIO(data))


def read_rgb(path: str | Path) -> np.ndarray:
    """Reads the picture in a file as uint8 [H, W, 3], upright.

    Grey becomes three equal channels, transparency is composited on white, and 16-bit
    samples become round(v / 257). The EXIF orientation is applied. Raises ImageError if
    the file is corrupt, truncated, too large or of an unsupported kind; it never
    returns a partial image.
    """
    with opened(path) as file:
        data = file.read()
    with errors_named(path):
        decoded = decoding.decode(data)
        samples = _to_eight_bits(decoded.samples)
        layout = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[samples.shape[-1]]
        layout = "CMYK" if decoded.colours == 4 else layout
        size = samples.shape[1], samples.shape[0]
        image = Image.frombytes(layout, size, samples.tobytes())
        if samples.shape[-1] > decoded.colours:
            image = image.convert("RGBA")
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image)
        return np.array(image.convert("RGB"), order="C")


def write_png(path: str | Path, image: np.ndarray) -> None:
    """Writes uint8 [H, W, 3] or [H, W] atomically."""
    if image.dtype != np.uint8:
        raise ValueError(f"{path}: expected a uint8 image, got {image.dtype}")
    atomic.replace(path, lambda new: Image.fromarray(image).save(new, "PNG"))


def has_bundled() -> bool:
    """Returns whether the photographs of BUNDLED are installed."""
    return importlib.util.find_spec("skimage") is not None


def _bundled_photographs(split: str) -> list[tuple[str, Path]]:
    if split not in _BUNDLED_PHOTOGRAPHS:
        raise UserError(
            f"{BUNDLED} has no split {split!r}: expected "
            f"{' or '.join(_BUNDLED_PHOTOGRAPHS)}"
        )
    package = importlib.util.find_spec("skimage")
    if package is None or package.origin is None:
        raise UserError(
            f"{BUNDLED}, which brings its photographs, is not installed: pip install "
            f"{BUNDLED}"
        )
    folder = Path(package.origin).parent / "data"
    return [(name, folder / name) for name in _BUNDLED_PHOTOGRAPHS[split]]


def walk(folder: Path, on_error: OnError | None = None) -> Iterator[Path]:
    """Yields the files in a folder and below, except hidden ones.

    Raises OSError for an unreadable sub-folder, or passes it to `on_error`.
    """
    visited = set()  # a link to a parent folder would loop for ever
    for parent, children, names in os.walk(
        folder, onerror=on_error or _raise, followlinks=True
    ):
        real = os.path.realpath(parent)
        if real in visited:
            children.clear()
            continue
        visited.add(real)
        children[:] = sorted(name for name in children if not name.startswith("."))
        yield from (Path(parent, name) for name in names if not name.startswith("."))


def opened(path: str | Path) -> BinaryIO:
    """Opens a file to read. Raises ImageError for pipes and devices, and OSError."""
    if not is_regular(Path(path)):
        raise ImageError(
            f"{path}: is not a regular file but a pipe, device or folder: name a file"
        )
    return open(path, "rb")


def is_regular(path: Path) -> bool:
    """Returns False for pipes and devices, which may never end or block for ever."""
    return not path.exists() or path.is_file()


def format_of(path: str | Path) -> str:
    """Name of a file's format, from its content. Raises ImageError, OSError."""
    with opened(path) as file, errors_named(path):
        kind = decoding.format_of(file)
    return kind


def _raise(error: OSError) -> None:
    raise error


def _to_eight_bits(samples: np.ndarray) -> np.ndarray:
    """Converts 16-bit samples to round(v / 257). Raises ImageError for float32."""
    if samples.dtype == np.float32:
        raise ImageError(
            "float32 samples have no fixed range and are not supported here; convert "
            "the file to 16-bit TIFF or PNG"
        )
    if samples.dtype == np.uint16:
        return ((samples.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return samples
