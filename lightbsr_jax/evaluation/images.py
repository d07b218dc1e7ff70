"""Finding, reading and cropping the images to measure on.

Images are uint8 [H, W, 3].
"""

import functools
import math
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from absl import logging

from lightbsr_jax.errors import UserError
from lightbsr_jax.evaluation.cases import GIVEN, Case
from lightbsr_jax.imaging import files, layouts, metrics

# HR pixels: published pairs are cropped to multiples of up to 12.
_MOST_CROPPED = 12
_SINGLES = "images"  # the benchmark of single images
_LONGEST = 200  # bytes of a slug: a file's name, with more around it, has up to 255


class TestImage(NamedTuple):
    """A high-resolution image to measure on."""

    benchmark: str
    name: str  # relative to the benchmark's folder
    position: int  # in its benchmark, from 0
    source: Path | np.ndarray  # uint8 [H, W, 3]

    def read(self) -> np.ndarray:
        """The pixels, uint8 [H, W, 3]."""
        if isinstance(self.source, np.ndarray):
            return self.source
        return files.read_rgb(self.source)


def find(
    folders_or_images: Sequence[str | Path | tuple[str, np.ndarray] | TestImage],
    *,
    scale: int | None = None,
) -> list[TestImage]:
    """The images of folders, files and (name, uint8 [H, W, 3]) pairs, in this order.

    A folder is one benchmark with the folder's name, or the parent's name if the folder
    is called HR. If a folder has a folder HR inside, that one is used. If it holds HR
    and LR images in a published layout (`layouts`), the HR images are used, those for
    `scale` if each scale has its own, and a warning counts the others. A list of files
    (.txt) is one benchmark with its name. Other files and pairs belong to the benchmark
    "images". TestImages are those of an earlier call. Files are not read yet.

    Raises FileNotFoundError or UserError if a folder is missing, holds no image or
    mixes HR and LR images in an unknown layout, if two folders or single images have
    the same name, or if a list names an image twice.
    """
    images: list[TestImage] = []
    folders: dict[str, Path] = {}
    singles: set[str] = set()
    for item in folders_or_images:
        if isinstance(item, TestImage):
            images.append(item)
            continue
        if (
            not isinstance(item, tuple)
            and Path(item).is_file()
            and not files.is_list(item)
        ):
            item = (Path(item).name, Path(item))
        if isinstance(item, tuple):
            name, source = item
            if isinstance(source, np.ndarray) and (
                source.dtype != np.uint8 or source.ndim != 3 or source.shape[2] != 3
            ):
                raise ValueError(
                    f"{name} is {source.dtype} {source.shape}: expected uint8 [H, W, 3]"
                )
            if name in singles:
                raise UserError(f"two images are called {name}: rename one")
            images.append(TestImage(_SINGLES, name, len(singles), source))
            singles.add(name)
            continue
        folder = Path(item, "HR") if Path(item, "HR").is_dir() else Path(item)
        benchmark = name_folder(folder, folders)
        found = layouts.used_images(folder, scale)
        check_once(folder, found)
        for position, (name, path) in enumerate(found):
            images.append(TestImage(benchmark, name, position, path))
    if singles and _SINGLES in folders:
        raise UserError(
            f"{folders[_SINGLES]} and single images are both called {_SINGLES}: rename "
            "the folder, or measure them one after the other"
        )
    if not images:
        raise UserError("nothing to measure: name a benchmark folder")
    return images


def name_folder(folder: Path, named: dict[str, Path]) -> str:
    """The benchmark's name of a folder or list, which is added to those in `named`.

    Raises UserError if another folder has this name.
    """
    absolute = Path(os.path.abspath(folder))
    name = (absolute.parent if absolute.name == "HR" else absolute).name
    name = Path(name).stem if files.is_list(folder) else name
    if name in named:
        raise UserError(
            f"{named[name]} and {folder} are both called {name}: "
            "rename one, or measure them one after the other"
        )
    named[name] = folder
    return name


def check_once(folder: Path, found: Sequence[tuple[str, Path]]) -> None:
    """Raises UserError if a list, `folder`, names one of the images `found` twice."""
    names = Counter(name for name, _ in found)
    if len(names) < len(found):
        twice = next(name for name, count in names.items() if count > 1)
        raise UserError(f"{folder} names {twice} twice: remove one of its lines")


def read_hr(
    image: TestImage, *, scale: int, border: int | None = None, least: int = 0
) -> np.ndarray:
    """The pixels, cropped on the right and bottom to a multiple of the scale.

    Raises ImageError or UserError if they are unreadable or too few to score.
    """
    hr = image.read()
    check_size(image, hr.shape, scale=scale, border=border, least=least)
    height, width = (side // scale * scale for side in hr.shape[:2])
    return hr[:height, :width]


def check_size(
    image: TestImage,
    shape: Sequence[int],
    *,
    scale: int,
    border: int | None = None,
    least: int = 0,
) -> None:
    """Raises UserError if an image of that shape is too small to score.

    SSIM needs its window inside the border, and other measures `least` pixels a side.
    """
    cut = scale if border is None else border
    needed = max(len(metrics.GAUSSIAN) + 2 * cut, least)
    needed = math.ceil(needed / scale) * scale
    if min(shape[:2]) < needed:
        raise UserError(
            f"{image.name} of {image.benchmark} is {shape[1]}x"
            f"{shape[0]} pixels (width x height), too small to be scored at "
            f"scale {scale}: leave it out, each side needs at least {needed} pixels"
        )


def read_lr(
    folder: str | Path, image: TestImage, case: Case, *, hr: np.ndarray, scale: int
) -> np.ndarray:
    """The low-resolution image that `lr_path` names, for the cropped `hr`.

    For the case GIVEN, published layouts of pairs are searched too, and the image may
    be a few pixels smaller than that of `hr`; the caller then crops `hr`. Raises
    FileNotFoundError, ImageError or UserError if it is missing, unreadable or has
    another size.
    """
    path = lr_path(folder, image.benchmark, image.name, case)
    if case is GIVEN and not path.exists():
        path = layouts.lr_image(folder, image.benchmark, image.name, scale) or path
    if not path.exists():
        raise FileNotFoundError(
            f"no low-resolution image {path} for {image.name} of {image.benchmark}"
        )
    lr = files.read_rgb(path)
    height, width = (side // scale for side in hr.shape[:2])
    missing = height - lr.shape[0], width - lr.shape[1]
    most = _MOST_CROPPED // scale if case is GIVEN else 0
    if not 0 <= min(missing) <= max(missing) <= most:
        raise UserError(
            f"{path} is {lr.shape[1]}x{lr.shape[0]} pixels (width x height), but "
            f"{image.name} of {image.benchmark}, cropped to {hr.shape[1]}x"
            f"{hr.shape[0]}, needs {width}x{height} at scale {scale}"
        )
    if max(missing):
        size = lr.shape[1] * scale, lr.shape[0] * scale
        _warn_of_crop(image.name, image.benchmark, *size, scale, path)
    return lr


@functools.cache
def _warn_of_crop(
    name: str, benchmark: str, width: int, height: int, scale: int, path: Path
) -> None:
    """Warns once of each pair, which is read several times."""
    logging.warning(
        "%s of %s is cropped to %dx%d pixels, %d times those of %s",
        *(name, benchmark, width, height, scale, path),
    )


def lr_path(folder: str | Path, benchmark: str, image: str, case: Case) -> Path:
    """Path of the low-resolution image of `image` in `case` below `folder`.

    It is FOLDER/BENCHMARK/sigma-1.2/IMAGE.png; GIVEN has no folder for the case.
    """
    parts = [benchmark] if case is GIVEN else [benchmark, slug(case.label)]
    return Path(folder, *parts, image).with_suffix(".png")


def sr_path(
    folder: str | Path, benchmark: str, image: str, case: Case, method: str
) -> Path:
    """The path below `folder` of the SR image of `image` in `case` by a method.

    FOLDER/BENCHMARK/sigma-1.2/LightBSR/IMAGE.png, without the third part for GIVEN.
    """
    lr = lr_path(folder, benchmark, image, case)
    parts = [benchmark] if case is GIVEN else [benchmark, slug(case.label)]
    parent = Path(folder, *parts)
    return Path(parent, slug(method), lr.relative_to(parent))


def check_outside(target: Path, image: TestImage) -> None:
    """Raises UserError if `target` is in the benchmark's folder that has the image.

    Images that are written there would be measured the next time.
    """
    if not isinstance(image.source, Path):
        return
    path = Path(os.path.abspath(image.source))
    root = path.parents[len(Path(image.name).parts) - 1]
    # Single images and lists have other names than the folders of their images.
    named = root.parent if root.name == "HR" else root
    inside = target.resolve().is_relative_to(root.resolve())
    if inside and named.name == image.benchmark:
        raise UserError(
            f"{target}: images would be written into {root}, which is measured: name "
            "another folder"
        )


def slug(text: str) -> str:
    """Makes a file name of a text: letters, digits, dots and dashes only.

    Of a long text it keeps the end, in which the workdirs of networks differ.
    """
    kept = "".join(c if c.isalnum() or c == "." else " " for c in text)
    return "-".join(kept.split()).encode()[-_LONGEST:].decode(errors="ignore")


def slugs(texts: Sequence[str]) -> list[str]:
    """The slugs of texts, numbered if a file system may take two for one."""
    made = [slug(text) for text in texts]
    if len({name.casefold() for name in made}) == len(made):
        return made
    return [f"{number}-{name}" for number, name in enumerate(made)]
