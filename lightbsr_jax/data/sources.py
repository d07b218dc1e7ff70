"""Where training images come from.

A source has a length, hands out uint8 RGB images [H, W, 3] by index, and None for one
that turned out to be unreadable. Sizes are in pixels.
"""

import hashlib
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import logging

from lightbsr_jax.errors import UserError
from lightbsr_jax.imaging import files

_NAMED = 3  # messages about many images name so many of them


class ImageFolders:
    """The images in some folders, in the order of their names below the folders.

    `minimum` is the smallest side that an image may have (the crop's). An image that
    is smaller, or cannot be read, is left out: from the start where its header says so,
    else from the first attempt to decode it. `skipped` maps its path to the reason,
    which names the path too.

    The order and `fingerprint` do not depend on where the folders lie.
    """

    names: list[str]
    fingerprint: str
    skipped: dict[str, str]

    def __init__(self, folders: Sequence[str | Path], *, minimum: int) -> None:
        self._minimum = minimum
        self._folders = ", ".join(map(str, folders))
        self._lock = threading.Lock()
        self.skipped = {}
        found = {
            path: name for folder in folders for name, path in files.find_images(folder)
        }

        self.names, self._paths, digest = [], [], hashlib.sha256()
        for path, name in sorted(found.items(), key=lambda item: item[1]):
            try:
                height, width = files.image_size(path)
                self._check_size(path, height, width)
            except (files.ImageError, OSError) as error:
                self.skipped[str(path)] = str(error)
                continue
            self.names.append(name)
            self._paths.append(path)
            digest.update(f"{name} {height} {width}\n".encode())
        self.fingerprint = digest.hexdigest()[:16]
        self._readable = len(self._paths)

        if not self._readable:
            raise UserError(self._nothing_left())
        if self.skipped:
            logging.warning(
                "left out %d of %d images: %s",
                len(self.skipped),
                len(found),
                self._some_reasons(),
            )

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> np.ndarray | None:
        """The image uint8 [H, W, 3], None if it cannot be decoded.

        Raises UserError once no image of the source can be decoded.
        """
        path = self._paths[index]
        if str(path) not in self.skipped:
            try:
                image = files.read_rgb(path)
                self._check_size(path, *image.shape[:2])
                return image
            except (files.ImageError, OSError) as error:
                self._skip(path, str(error))
        if not self._readable:
            raise UserError(self._nothing_left())
        return None

    def _check_size(self, path: Path, height: int, width: int) -> None:
        if min(height, width) < self._minimum:
            raise files.ImageError(
                f"{path}: {height} x {width} pixels, a side is below {self._minimum}"
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
            f"read in {self._folders}: {self._some_reasons()}"
        )

    def _some_reasons(self) -> str:
        reasons = list(self.skipped.values())
        more = len(reasons) - _NAMED
        return "; ".join(reasons[:_NAMED]) + (f"; and {more} more" if more > 0 else "")
