"""The dataset `df2k`: photographs cut into tiles, written once and read at random.

It is a TFDS dataset in ArrayRecord files; neither writing nor reading needs TensorFlow.
`lightbsr prepare` writes it, and so does TFDS:

    import tensorflow_datasets as tfds
    from lightbsr_jax.data import df2k  # from then on TFDS knows the name

    folders = ["DIV2K_train_HR", "Flickr2K_HR"]
    builder = tfds.builder("df2k", data_dir="data", inputs=folders)
    builder.download_and_prepare()
    builder.as_data_source("train")[0]["image"]  # uint8 [480, 480, 3]

An example is a tile: `image` (PNG), the `name` of the image that it comes from, and its
`top` and `left` in that image in pixels. Images are sorted by name, and the tiles of an
image are stored row by row; the metadata holds the images' names and sizes. A reader
can therefore compute where each part of each image is stored.
"""

import contextlib
import functools
import hashlib
import json
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from tensorflow_datasets.core.dataset_builder import FileReaderBuilder
from tensorflow_datasets.core.example_serializer import ExampleSerializer
from tensorflow_datasets.core.splits import SplitDict

from lightbsr_jax import atomic, locks
from lightbsr_jax.data import tiles
from lightbsr_jax.data.sources import find_all
from lightbsr_jax.errors import UserError
from lightbsr_jax.imaging import files

IMAGES_A_SHARD = 16  # some 80 MB of 2K photographs


class Split(NamedTuple):
    """Size of a split of a prepared dataset."""

    name: str
    images: int
    tiles: int
    bytes: int
    left_out: int  # images that could not be read


class Df2k(FileReaderBuilder):
    """Tiles of the images in some folders, in the splits train and validation."""

    VERSION = tfds.core.Version("1.0.0")

    skipped: list[str]  # why images were left out; each reason names the file

    def __init__(
        self,
        *,
        inputs: Sequence[str | Path] = (),
        validation: Sequence[str | Path] = (),
        hold_out: int = 10,
        tile: int = 480,
        stride: int | None = None,
        workers: int | None = None,
        on_progress: Callable[[int, int], None] | None = None,
        **tfds_arguments: Any,
    ) -> None:
        """Describes the dataset to write. Reading one needs only `data_dir`.

        inputs: folders of images, searched recursively.
        validation: folders for that split. Without any, `hold_out` of the input's
            images, evenly spaced by name, go there instead of into training.
        tile, stride: side and distance of the tiles, in pixels. By default the stride
            is the side: only the last row and column of tiles overlap others.
        workers: number of threads (default: one per core); the result is the same.
        on_progress: called with the numbers of finished images and of all images.
        tfds_arguments: data_dir and other arguments of every TFDS builder.
        """
        self._inputs, self._validation = list(inputs), list(validation)
        self._hold_out = hold_out
        self._tile, self._stride = tile, tile if stride is None else stride
        self._workers = workers or os.cpu_count() or 1
        self._on_progress = on_progress or (lambda done, total: None)
        self.skipped = []
        super().__init__(file_format="array_record", **tfds_arguments)

    def download_and_prepare(self, **tfds_arguments: Any) -> None:
        """Writes the dataset; does nothing if it exists, as in any TFDS builder.

        Raises UserError if the existing one has other images or other tiles.
        """
        exists = self.data_path.exists()
        if self._inputs or not exists:
            made_of = self._made_of()
            if exists and made_of != self._metadata["made_of"]:
                raise UserError(
                    f"{self.data_dir} was prepared from other images or with other "
                    "tiles: remove it, or name another folder for this one"
                )
        with tempfile.TemporaryDirectory() as unused:
            arguments: dict[str, Any] = {"download_dir": unused} | tfds_arguments
            super().download_and_prepare(**arguments)

    @property
    def _metadata(self) -> Any:
        """The metadata dict of the builder."""
        return self.info.metadata

    def prepared_splits(self) -> list[Split]:
        """The splits of the prepared dataset."""
        about: dict[str, Any] = self._metadata or {}
        return [
            Split(
                name,
                images=len(about["images"][name]),
                tiles=info.num_examples,
                bytes=info.num_bytes,
                left_out=len(about["skipped"][name]),
            )
            for name, info in self.info.splits.items()
        ]

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Photographs of high resolution, cut into tiles without loss.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(
                        shape=(None, None, 3), encoding_format="png"
                    ),
                    "name": tfds.features.Text(),
                    "top": np.int32,
                    "left": np.int32,
                }
            ),
            metadata=tfds.core.MetadataDict(),
        )

    def _download_and_prepare(self, dl_manager: Any, download_config: Any) -> None:
        """Writes the missing shards into a persistent folder, then moves all of them.

        TFDS calls this with `data_path` at a temporary folder, which it discards after
        an interruption and renames after success: only complete datasets are visible.
        """
        made_of = self._made_of()
        shards = [
            _Shard(split, number, own[first : first + IMAGES_A_SHARD])
            for split, own in self.images.items()
            for number, first in enumerate(range(0, len(own), IMAGES_A_SHARD))
        ]
        folder = Path(self.data_path.parent, ".unfinished")
        with _locked(folder):
            for remains in folder.parent.glob(f"incomplete.*_{self.version}"):
                if remains != Path(self.data_path):
                    shutil.rmtree(remains)
            self._keep_finished(folder, made_of)
            self._write_missing(folder, shards)
            self._collect(folder, shards)
            self._metadata.update(tile=self._tile, stride=self._stride, made_of=made_of)
            shutil.rmtree(folder)

    @functools.cached_property
    def images(self) -> dict[str, list[tuple[str, Path]]]:
        """Name and path of every image by split; finding them warns of unused ones.

        Raises UserError if the arguments do not go together, and as `find_all` does.
        """
        if not self._inputs:
            raise UserError("no folder to prepare: inputs names none")
        if not 0 < self._stride <= self._tile:
            raise UserError(
                f"stride {self._stride} and tile {self._tile}: the stride must be "
                "between 1 and the tile's side"
            )
        images = find_all(self._inputs)
        if self._validation:
            return {"train": images, "validation": find_all(self._validation)}
        if not 0 <= self._hold_out < len(images):
            raise UserError(
                f"{self._hold_out} of {len(images)} images cannot be held out for "
                "validation: hold out fewer, or name a folder of validation images"
            )
        held_out = {i * len(images) // self._hold_out for i in range(self._hold_out)}
        train = [image for i, image in enumerate(images) if i not in held_out]
        if not held_out:
            return {"train": train}
        return {"train": train, "validation": [images[i] for i in sorted(held_out)]}

    def _made_of(self) -> str:
        """A digest of everything that determines the dataset."""
        digest = hashlib.sha256()
        digest.update(f"{self._tile} {self._stride} {IMAGES_A_SHARD}\n".encode())
        for split, own in self.images.items():
            for name, path in own:
                size = path.stat().st_size if path.exists() else None  # a broken link
                digest.update(f"{split} {name} {size}\n".encode())
        return digest.hexdigest()[:16]

    def _keep_finished(self, folder: Path, made_of: str) -> None:
        """Removes all shards from `folder` but the finished ones of this dataset."""
        for half in folder.glob("*.half"):
            half.unlink()
        marker = folder / "made_of"
        if marker.exists() and marker.read_text() == made_of:
            return
        for shard in folder.glob("*-*"):
            shard.unlink()
        atomic.write_text(marker, made_of)

    def _write_missing(self, folder: Path, shards: list["_Shard"]) -> None:
        # Shards that left out an image are rewritten: its file may be repaired by now.
        missing = [
            shard
            for shard in shards
            if (about := shard.about(folder)) is None or about["skipped"]
        ]
        total = sum(len(shard.images) for shard in shards)
        done = total - sum(len(shard.images) for shard in missing)
        lock, stop = threading.Lock(), threading.Event()

        def advance() -> None:
            nonlocal done
            if stop.is_set():
                raise CancelledError
            with lock:
                done += 1
                self._on_progress(done, total)

        self._on_progress(done, total)
        with ThreadPoolExecutor(self._workers) as pool:
            futures = [pool.submit(self._write, s, folder, advance) for s in missing]
            try:
                for future in as_completed(futures):
                    future.result()
            except BaseException:
                stop.set()
                pool.shutdown(cancel_futures=True)
                raise

    def _write(
        self, shard: "_Shard", folder: Path, advance: Callable[[], None]
    ) -> None:
        images, skipped, lengths = [], [], []
        half = folder / f"{shard.name}.half"
        try:
            writer = ArrayRecordWriter(str(half), "group_size:1")
            for name, path in shard.images:
                try:
                    image = files.read_rgb(path)
                except (files.ImageError, OSError) as error:
                    if not _is_of_one_file(error, path):
                        raise
                    skipped.append([name, str(error)])
                else:
                    images.append([name, *image.shape[:2]])
                    for example in self._examples(name, image):
                        writer.write(example)
                        lengths.append(len(example))
                advance()
            writer.close()
        except RuntimeError as error:  # the writer's only error, of a full disk too
            raise UserError(
                f"{half} cannot be written ({error}): make it writable or free space, "
                "and the same command resumes"
            ) from error
        atomic.sync(half)
        os.replace(half, folder / shard.name)
        about = {
            "images": images,
            "skipped": skipped,
            "examples": len(lengths),
            "bytes": sum(lengths),
        }
        atomic.write_text(folder / f"{shard.name}.json", json.dumps(about))

    def _examples(self, name: str, image: np.ndarray) -> Iterator[bytes]:
        features: Any = self.info.features
        serializer = ExampleSerializer(features.get_serialized_info())
        for top, left, tile in tiles.cut(image, tile=self._tile, stride=self._stride):
            png = tiles.encode(tile)
            example = {"image": png, "name": name, "top": top, "left": left}
            proto = serializer.get_tf_example(features.encode_example(example))
            # The library's own serialisation has the fields in any order.
            yield proto.SerializeToString(deterministic=True)

    def _collect(self, folder: Path, shards: list["_Shard"]) -> None:
        """Moves the written shards into the dataset and registers its splits."""
        infos: list[tfds.core.SplitInfo] = []
        images: dict[str, list[Any]] = {}
        skipped: dict[str, list[str]] = {}
        for split in dict.fromkeys(shard.split for shard in shards):
            written = [(s, s.about(folder) or {}) for s in shards if s.split == split]
            abouts = [about for _, about in written]
            images[split] = [image for about in abouts for image in about["images"]]
            skipped[split] = [name for about in abouts for name, _ in about["skipped"]]
            self.skipped += [why for about in abouts for _, why in about["skipped"]]
            if not images[split]:
                raise UserError(
                    f"no image of the split {split} can be read: {self.skipped[-1]}"
                )
            filled = [(s, about) for s, about in written if about["examples"]]
            template = tfds.core.ShardedFileTemplate(
                data_dir=self.data_path,
                dataset_name=self.name,
                split=split,
                filetype_suffix="array_record",
            )
            infos.append(
                tfds.core.SplitInfo(
                    name=split,
                    shard_lengths=[about["examples"] for _, about in filled],
                    num_bytes=sum(about["bytes"] for _, about in filled),
                    filename_template=template,
                )
            )
            for (shard, _), path in zip(filled, infos[-1].filepaths, strict=True):
                os.replace(folder / shard.name, path)
        self.info.set_splits(SplitDict(infos))
        self._metadata.update(images=images, skipped=skipped)


class _Shard(NamedTuple):
    """A file of examples, written as a whole."""

    split: str
    number: int
    images: list[tuple[str, Path]]

    @property
    def name(self) -> str:
        return f"{self.split}-{self.number:05d}"

    def about(self, folder: Path) -> dict[str, Any] | None:
        """The shard's images, skipped, examples, bytes; None if it is not finished."""
        path = folder / f"{self.name}.json"
        done = path.exists() and (folder / self.name).exists()
        return json.loads(path.read_text()) if done else None


def _is_of_one_file(error: Exception, path: Path) -> bool:
    """Returns False for an error that may be that of a lost disk or folder."""
    broken_link = isinstance(error, FileNotFoundError) and path.is_symlink()
    return broken_link or isinstance(error, files.ImageError | PermissionError)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Makes the folder; raises UserError if another process is writing to it."""
    folder.mkdir(parents=True, exist_ok=True)
    with locks.held(folder / "lock", folder.parent):
        yield
