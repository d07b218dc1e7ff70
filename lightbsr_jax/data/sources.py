"""Sources of training images: folders, or a prepared dataset.

A source returns uint8 RGB images [H, W, 3], or crops of them, by index, and None for an
image that proves unreadable. `names`, `sizes` (int [N, 2], heights and widths in
pixels) and `fingerprint` describe its images; `skipped` maps each image left out to a
message with the image and the reason.
"""

import functools
import hashlib
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from lightbsr_jax.data import tiles
from lightbsr_jax.errors import UserError
from lightbsr_jax.imaging import files, layouts

_NAMED = 3  # images named in a message about many
_REMEDY = "Name other images in config.data.hr, or set a smaller config.data.lr_crop"


class ImageFolders:
    """The images in folders, sorted by their names relative to the folders.

    `minimum` is the smallest side allowed for an image (the size of a crop). An image
    that is smaller or unreadable is left out: from the start if its header shows it,
    otherwise after the first attempt to decode it. A file that vanishes during the run
    is an error.

    The order and `fingerprint` do not depend on the location of the folders.
    """

    names: list[str]
    sizes: np.ndarray
    fingerprint: str
    skipped: dict[str, str]
    left_out: list[str]  # names of images that are skipped from the start

    def __init__(self, folders: Sequence[str | Path], *, minimum: int) -> None:
        self._minimum = minimum
        self._folders = ", ".join(map(str, folders))
        self._lock = threading.Lock()
        self.skipped, self.left_out = {}, []
        found = find_all(folders)

        self.names, self._paths, sizes = [], [], []
        for name, path in found:
            try:
                height, width = files.image_size(path)
                if min(height, width) < minimum:
                    raise files.ImageError(
                        f"{path}: {height} x {width} pixels, a side is below {minimum}"
                    )
            except (files.ImageError, OSError) as error:
                self.skipped[str(path)] = str(error)
                self.left_out.append(name)
                continue
            self.names.append(name)
            self._paths.append(path)
            sizes.append((height, width))
        self.sizes = np.array(sizes).reshape(-1, 2)
        self.fingerprint = _fingerprint(self.names, self.sizes)
        self._readable = len(self._paths)

        if not self._readable:
            raise UserError(self._nothing_left())
        _warn_of(self.skipped, len(found))

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> np.ndarray | None:
        """The image, uint8 [H, W, 3], or None if it cannot be decoded.

        Raises UserError for a file that has vanished, or if no image of the source can
        be decoded.
        """
        path = self._paths[index]
        if str(path) not in self.skipped:
            try:
                image = files.read_rgb(path)
                if image.shape[:2] != tuple(self.sizes[index]):
                    raise files.ImageError(
                        "{}: {} x {} pixels, {} x {} when the run began".format(
                            path, *image.shape[:2], *self.sizes[index]
                        )
                    )
                return image
            except files.ImageError as error:
                self._skip(path, str(error))
            except OSError as error:
                raise vanished(path, error) from error
        if not self._readable:
            raise UserError(self._nothing_left())
        return None

    def crops(
        self, index: int, tops: np.ndarray, lefts: np.ndarray, size: int
    ) -> np.ndarray | None:
        """Crops of one image: uint8 [D, size, size, 3] for D tops and lefts, or None.

        Raises UserError as indexing does.
        """
        image = self[index]
        if image is None:
            return None
        return np.stack(
            [
                image[top : top + size, left : left + size]
                for top, left in zip(tops, lefts, strict=True)
            ]
        )

    def _skip(self, path: Path, reason: str) -> None:
        with self._lock:  # images are read by several threads
            if str(path) in self.skipped:
                return
            self.skipped[str(path)] = reason
            self._readable -= 1
        logging.warning("left out from now on: %s", reason)

    def _nothing_left(self) -> str:
        return (
            f"no image of at least {self._minimum} x {self._minimum} pixels can be "
            f"read in {self._folders}: {_some_reasons(self.skipped)}. {_REMEDY}"
        )


class PreparedImages:
    """The images of a split of a dataset that `lightbsr prepare` wrote.

    They are the images of its folders, with the same fingerprint. Cropping is faster,
    because only the few tiles under a crop are read and decoded.
    """

    names: list[str]
    sizes: np.ndarray
    fingerprint: str
    skipped: dict[str, str]
    left_out: list[str]  # names of images that are skipped from the start

    def __init__(self, folder: Path, split: str, *, minimum: int) -> None:
        import tensorflow_datasets as tfds  # slow to import

        builder: Any = tfds.builder_from_directory(folder)
        about = builder.info.metadata
        if builder.name != "df2k" or not about:
            raise UserError(
                f"{folder} holds the dataset {builder.name}, not one of lightbsr "
                "prepare: prepare one, or name folders of images"
            )
        splits = builder.info.splits
        if split not in splits:
            raise UserError(f"{folder} has no split {split}: use one of {list(splits)}")
        for path in splits[split].filepaths:
            if not path.exists():
                raise UserError(f"{path} is missing: restore it or prepare again")
        self._folder, self._where = folder, f"{folder}, split {split}"
        self._examples = builder.as_data_source(
            split, decoders={"image": tfds.decode.SkipDecoding()}
        )

        self.names, sizes, self._first, self._grids = [], [], [], []
        self.skipped = {}
        self.left_out = list(about["skipped"][split])
        first = 0
        for name, height, width in about["images"][split]:
            grid = tiles.Grid(height, width, tile=about["tile"], stride=about["stride"])
            if min(height, width) < minimum:
                self.skipped[name] = (
                    f"{name}: {height} x {width} pixels, a side is below {minimum}"
                )
                self.left_out.append(name)
            else:
                self.names.append(name)
                sizes.append((height, width))
                self._first.append(first)
                self._grids.append(grid)
            first += len(grid)
        if first != len(self._examples):
            raise UserError(
                f"{self._where} holds {len(self._examples)} tiles, not {first}: "
                "prepare it again"
            )
        if not self.names:
            raise UserError(
                f"no image in {self._where} has {minimum} x {minimum} pixels. {_REMEDY}"
            )
        self.sizes = np.array(sizes)
        self.fingerprint = _fingerprint(self.names, self.sizes)
        _warn_of(self.skipped, len(about["images"][split]))

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> np.ndarray:
        """The image uint8 [H, W, 3].

        Raises UserError if the dataset is damaged or has vanished.
        """
        height, width = self.sizes[index]
        read = functools.partial(self._tile, index)
        return self._grids[index].window(read, 0, 0, height, width)

    def crops(
        self, index: int, tops: np.ndarray, lefts: np.ndarray, size: int
    ) -> np.ndarray:
        """Crops of one image: uint8 [D, size, size, 3] for D tops and lefts.

        Raises UserError as indexing does.
        """
        grid = self._grids[index]
        read = functools.cache(functools.partial(self._tile, index))  # crops share some
        return np.stack(
            [
                grid.window(read, top, left, size, size)
                for top, left in zip(tops, lefts, strict=True)
            ]
        )

    def _tile(self, index: int, number: int) -> np.ndarray:
        try:
            self._folder.stat()  # open files can still be read after it is deleted
            example = self._examples[self._first[index] + number]
            return tiles.decode(example["image"])
        except Exception as error:  # of the reader or of the parsers
            raise UserError(
                f"{self._where}: tile {number} of {self.names[index]} cannot be read "
                f"({error}): restore the dataset or prepare it again, then repeat the "
                "same command"
            ) from error


Source = ImageFolders | PreparedImages


def open_source(text: str, *, minimum: int) -> Source:
    """Opens the images that config.data.hr names: folders, or one prepared dataset.

    `minimum` is the smallest usable side of an image. Raises UserError or
    FileNotFoundError if the text names nothing to train on.
    """
    names = files.split_folders(text)
    found = [place for name in names if (place := _find_prepared(name)) is not None]
    if not found:
        return ImageFolders(names, minimum=minimum)
    if len(names) > 1:
        raise UserError(
            f"{text}: a prepared dataset cannot be combined with others: prepare all "
            "folders together"
        )
    return PreparedImages(*found[0], minimum=minimum)


def vanished(path: Path, error: OSError) -> UserError:
    """The error about an image file that can no longer be read during a run."""
    return UserError(
        f"{path} existed when the run began but can no longer be read "
        f"({error.strerror}): restore it and repeat the same command"
    )


def first_images(text: str, count: int) -> list[tuple[str, np.ndarray]]:
    """Name and pixels of the first `count` images that config.validation.hr names."""
    images = []
    for name in files.split_folders(text):
        if prepared := _find_prepared(name):
            source = PreparedImages(*prepared, minimum=1)
            indices = range(min(count - len(images), len(source)))
            images += [(source.names[index], source[index]) for index in indices]
        else:
            found = layouts.used_images(name)[: count - len(images)]
            images += [(name, files.read_rgb(path)) for name, path in found]
    return images


def searched_folder(place: Path, text: str) -> str | None:
    """The folder of images named in `text` that `place` lies in, if there is one."""
    for name in files.split_folders(text):
        inside = place.resolve().is_relative_to(Path(name).resolve())
        if inside and not _find_prepared(name):
            return name
    return None


def find_all(folders: Sequence[str | Path]) -> list[tuple[str, Path]]:
    """Names and paths of the HR images in all the folders, each file once.

    Within a folder they are those of `layouts.used_images`, which warns of the others.
    Names are `files.escaped`. If a folder lies in another one, that one names its
    images.
    """
    found: dict[Path, str] = {}
    for folder in folders:
        for name, path in layouts.used_images(folder):
            found[path] = max(files.escaped(name), found.get(path, ""), key=len)
    # Sorted, so that neither the order of the folders nor their place matters: images
    # of one name by the names of their folders, the innermost first.
    paths = sorted(found, key=lambda path: (found[path], path.parts[::-1]))
    return [(found[path], path) for path in paths]


def _find_prepared(name: str) -> tuple[Path, str] | None:
    """Folder and split of the prepared dataset that DIR or DIR:SPLIT names, if any."""
    folder, _, split = name.rpartition(":")
    if not folder or Path(name).exists():
        folder, split = name, "train"
    for candidate in (Path(folder), *sorted(Path(folder).glob("df2k/[0-9]*"))):
        if (candidate / "dataset_info.json").exists():
            return candidate, split
    if Path(folder, "df2k", ".unfinished").exists():
        raise UserError(
            f"{folder} is not finished: repeat the lightbsr prepare command to finish "
            "it"
        )
    return None


def _warn_of(skipped: dict[str, str], count: int) -> None:
    """Warns of the images left out of `count` from the start, if there are any."""
    if skipped:
        logging.warning(
            "left out %d of %d images: %s",
            *(len(skipped), count, _some_reasons(skipped)),
        )


def _some_reasons(skipped: dict[str, str]) -> str:
    reasons = list(skipped.values())
    more = len(reasons) - _NAMED
    return "; ".join(reasons[:_NAMED]) + (f"; and {more} more" if more > 0 else "")


def _fingerprint(names: Sequence[str], sizes: np.ndarray) -> str:
    digest = hashlib.sha256()
    for name, (height, width) in zip(names, sizes, strict=True):
        digest.update(f"{name} {height} {width}\n".encode())
    return digest.hexdigest()[:16]
