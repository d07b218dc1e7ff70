"""Prepared data: what is written, by whatever detours, and that it reads as folders."""

import fcntl
import os
import resource
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from helpers.crops import batches_of, take, truncate, within_seconds

from lightbsr_jax.data import df2k, sources
from lightbsr_jax.data.sources import ImageFolders, PreparedImages, open_source
from lightbsr_jax.errors import UserError
from lightbsr_jax.imaging import files

COUNT, TILE = 9, 16
VERSION = "df2k/1.0.0"


@pytest.fixture
def folder(tmp_path) -> Path:
    """Pictures of several sizes, some smaller than a tile, named 0 to 8."""
    folder = tmp_path / "images"
    (folder / "sub").mkdir(parents=True)
    for number in range(COUNT):
        rng = np.random.default_rng(number)
        height, width = rng.integers(12, 50, size=2)
        image = rng.integers(256, size=(height, width, 3), dtype=np.uint8)
        place = folder / "sub" if number % 4 == 3 else folder
        files.write_png(place / f"{number}.png", image)
    return folder


@pytest.fixture(autouse=True)
def small_shards(monkeypatch) -> None:
    monkeypatch.setattr(df2k, "IMAGES_A_SHARD", 2)


def prepare(folder: Path, output: Path, **changes) -> df2k.Df2k:
    options = dict(inputs=[folder], tile=TILE, hold_out=3, workers=2)
    builder = df2k.Df2k(data_dir=output, **(options | changes))
    builder.download_and_prepare()
    return builder


def contents(output: Path) -> dict[str, bytes]:
    """All that there is, byte for byte."""
    paths = sorted(path for path in output.rglob("*") if path.is_file())
    return {path.relative_to(output).as_posix(): path.read_bytes() for path in paths}


def assert_same_images(prepared: PreparedImages, folder: Path) -> None:
    for index, name in enumerate(prepared.names):
        np.testing.assert_array_equal(prepared[index], files.read_rgb(folder / name))


# What is written


def test_tfds_reads_it(folder, tmp_path) -> None:
    """Without TensorFlow."""
    options = dict(inputs=[folder], tile=TILE, stride=10, hold_out=3)
    builder = tfds.builder("df2k", data_dir=tmp_path / "out", **options)
    builder.download_and_prepare()
    builder.download_and_prepare()  # there already
    assert sorted(path.name for path in (tmp_path / "out" / VERSION).iterdir()) == [
        "dataset_info.json",
        *(f"df2k-train.array_record-0000{n}-of-00003" for n in range(3)),
        *(f"df2k-validation.array_record-0000{n}-of-00002" for n in range(2)),
        "features.json",
        "metadata.json",
    ]

    read = tfds.builder_from_directory(tmp_path / "out" / VERSION)
    assert read.info.features["image"].shape == (None, None, 3)
    shown = {}
    for split, names in {
        "train": ["1.png", "2.png", "5.png", "6.png", "sub/3.png", "sub/7.png"],
        "validation": ["0.png", "4.png", "8.png"],
    }.items():
        examples = list(read.as_data_source(split))
        assert read.info.splits[split].num_examples == len(examples)
        assert list(dict.fromkeys(e["name"].decode() for e in examples)) == names
        for example in examples:
            name, top, left = example["name"].decode(), example["top"], example["left"]
            image = shown.setdefault(name, files.read_rgb(folder / name))
            expected = image[top : top + TILE, left : left + TILE]
            np.testing.assert_array_equal(example["image"], expected)
            assert expected.shape[:2] == tuple(np.minimum(image.shape[:2], TILE))
    assert "tensorflow" not in sys.modules
    assert tfds.builder("df2k", data_dir=tmp_path / "out").info.splits.keys() == {
        "train",
        "validation",
    }


def test_validation_folder_and_none(folder, tmp_path) -> None:
    few = tmp_path / "few"
    few.mkdir()
    shutil.copy(folder / "1.png", few / "valid.png")
    out = tmp_path / "out"
    builder = prepare(folder, out, validation=[few], inputs=[folder, folder / "1.png"])
    images = builder.info.metadata["images"]
    assert [name for name, _, _ in images["validation"]] == ["valid.png"]
    assert len(images["train"]) == COUNT
    assert list(prepare(folder, tmp_path / "all", hold_out=0).info.splits) == ["train"]


def test_same_bytes_whatever_the_workers_and_the_listing(
    folder, tmp_path, monkeypatch
) -> None:
    prepare(folder, tmp_path / "1", workers=1)
    walk = os.walk

    def backwards(*arguments, **options):
        for parent, children, names in walk(*arguments, **options):
            yield parent, children, names[::-1]

    monkeypatch.setattr(os, "walk", backwards)
    moved = shutil.copytree(folder, tmp_path / "elsewhere")
    prepare(moved, tmp_path / "5", workers=5)
    assert len(contents(tmp_path / "1")) == 8
    assert contents(tmp_path / "1") == contents(tmp_path / "5")


def test_unreadable_images_are_left_out_and_named(folder, tmp_path) -> None:
    truncate(folder / "1.png")
    (folder / "5.png").write_text("not an image")
    truncate(folder / "4.png")
    builder = prepare(folder, tmp_path / "out")
    assert builder.info.metadata["skipped"] == {
        "train": ["1.png", "5.png"],
        "validation": ["4.png"],
    }
    for number, reason in zip("154", builder.skipped, strict=True):
        assert reason.startswith(str(folder / f"{number}.png: "))
    train = open_source(str(tmp_path / "out"), minimum=1)
    assert train.names == ["2.png", "6.png", "sub/3.png", "sub/7.png"]
    assert_same_images(train, folder)

    for path in folder.rglob("*.png"):
        truncate(path)
    with pytest.raises(UserError, match="no image of the split train .*png: corrupt"):
        prepare(folder, tmp_path / "none")
    assert not (tmp_path / "none" / VERSION).exists()


def test_links_to_nowhere_and_names_that_are_not_utf_8(folder, tmp_path) -> None:
    (folder / "1.png").unlink()
    (folder / "1.png").symlink_to("nowhere.png")
    (folder / "2.png").rename(folder / os.fsdecode(b"2\xe9.png"))
    builder = prepare(folder, tmp_path / "out")
    assert builder.info.metadata["skipped"]["train"] == ["1.png"]
    (reason,) = builder.skipped
    assert "No such file" in reason and str(folder / "1.png") in reason
    train = open_source(str(tmp_path / "out"), minimum=12)
    assert r"2\xe9.png" in train.names
    prepare(folder, tmp_path / "all", hold_out=0)
    prepared = open_source(str(tmp_path / "all"), minimum=12)
    assert prepared.fingerprint == ImageFolders([folder], minimum=12).fingerprint


def test_an_image_that_vanishes_ends_the_preparation(
    folder, tmp_path, monkeypatch
) -> None:
    def lost(path: Path) -> np.ndarray:
        raise FileNotFoundError(2, "No such file", str(path))

    monkeypatch.setattr(files, "read_rgb", lost)
    with pytest.raises(FileNotFoundError, match="No such file"):
        prepare(folder, tmp_path / "out")


def test_shard_without_a_readable_image(folder, tmp_path) -> None:
    for number in (5, 6):  # the second shard
        truncate(folder / f"{number}.png")
    builder = prepare(folder, tmp_path / "out")
    assert len(builder.info.splits["train"].shard_lengths) == 2
    train = open_source(str(tmp_path / "out"), minimum=1)
    assert train.names == ["1.png", "2.png", "sub/3.png", "sub/7.png"]
    assert_same_images(train, folder)


# Interruptions

IN_THE_SECOND_SHARD = """
    options["on_progress"] = lambda done, total: done == 3 and die()
"""
BEFORE_THE_SHARDS_MOVE = """
    df2k.Df2k._collect = die
"""
BETWEEN_TWO_MOVES = """
    moved = []

    def replace(source, target, replace=os.replace):
        if "array_record" in str(target):
            moved.append(target)
        if len(moved) == 2:
            die()
        replace(source, target)

    os.replace = replace
"""


def prepare_and_die(folder: Path, output: Path, when: str) -> None:
    """In a process of its own, which must not load TensorFlow."""
    program = f"""
    import os, signal, sys
    from lightbsr_jax.data import df2k

    def die(*_):
        assert "tensorflow" not in sys.modules
        os.kill(os.getpid(), signal.SIGKILL)

    df2k.IMAGES_A_SHARD = 2
    options = dict(tile={TILE}, hold_out=3, workers=1)
    {when}
    builder = df2k.Df2k(data_dir={str(output)!r}, inputs=[{str(folder)!r}], **options)
    builder.download_and_prepare()
    """
    root = Path(__file__).resolve().parents[1]
    command = [sys.executable, "-c", textwrap.dedent(program)]
    assert subprocess.run(command, cwd=root, timeout=60).returncode == -9


@pytest.mark.parametrize(
    ("when", "done"),
    [(IN_THE_SECOND_SHARD, 2), (BEFORE_THE_SHARDS_MOVE, COUNT), (BETWEEN_TWO_MOVES, 7)],
    ids=["shard", "before moving", "moving"],
)
def test_killed_and_started_again(folder, tmp_path, when, done) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    prepare(folder, whole)
    prepare_and_die(folder, broken, when)
    assert not (broken / VERSION).exists()
    with pytest.raises(UserError, match="broken is not finished: repeat"):
        open_source(str(broken), minimum=1)
    printed = []
    prepare(folder, broken, on_progress=lambda *state: printed.append(state))
    assert printed[0] == (done, COUNT)
    assert printed[-1] == (COUNT, COUNT)
    assert contents(broken) == contents(whole)
    assert os.listdir(broken / "df2k") == ["1.0.0"]


class Interruption(Exception):
    pass


def interrupt(folder: Path, output: Path, after: int) -> None:
    def on_progress(done: int, total: int) -> None:
        if done == after:
            raise Interruption

    with pytest.raises(Interruption):
        prepare(folder, output, workers=1, on_progress=on_progress)


def test_started_again_with_other_images_or_tiles(folder, tmp_path) -> None:
    """Nothing of the first attempt stays."""
    for changes in ({"tile": 20}, {"stride": 5}, {"hold_out": 2}, {}):
        broken, whole = tmp_path / f"broken{changes}", tmp_path / f"whole{changes}"
        interrupt(folder, broken, 5)
        if not changes:
            (folder / "1.png").rename(folder / "10.png")
        prepare(folder, broken, **changes)
        prepare(folder, whole, **changes)
        assert contents(broken) == contents(whole)


def test_mended_image_is_taken_up(folder, tmp_path) -> None:
    whole = (folder / "1.png").read_bytes()
    (folder / "1.png").write_bytes(whole[:-30] + bytes(30))  # of the same size
    interrupt(folder, tmp_path / "broken", 5)
    (folder / "1.png").write_bytes(whole)
    prepare(folder, tmp_path / "broken")
    prepare(folder, tmp_path / "whole")
    assert contents(tmp_path / "broken") == contents(tmp_path / "whole")


def test_another_dataset_is_not_overwritten(folder, tmp_path) -> None:
    out = tmp_path / "out"
    prepare(folder, out)
    before = contents(out)
    prepare(folder, out)
    with pytest.raises(UserError, match="1.0.0 was prepared from other images or with"):
        prepare(folder, out, tile=TILE + 1)
    (folder / "2.png").unlink()
    with pytest.raises(UserError, match="remove it, or name another folder"):
        prepare(folder, out)
    assert contents(out) == before


def test_shards_are_on_the_disk_before_they_count(
    folder, tmp_path, monkeypatch
) -> None:
    """So that a power cut leaves no shard that seems finished."""
    synced = set()
    monkeypatch.setattr(df2k.atomic, "sync", lambda path: synced.add(Path(path).name))
    prepare(folder, tmp_path / "out")
    shards = {f"train-0000{n}.half" for n in range(3)}
    assert shards | {f"validation-0000{n}.half" for n in range(2)} <= synced


def test_two_at_once(folder, tmp_path) -> None:
    unfinished = tmp_path / "df2k" / ".unfinished"
    unfinished.mkdir(parents=True)
    with open(unfinished / "lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="df2k is in use by another process"):
            prepare(folder, tmp_path)
    prepare(folder, tmp_path)


def test_full_disk(folder, tmp_path) -> None:
    """No file may grow beyond some bytes; afterwards the same command goes on."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (9000, limits[1]))
    try:
        with pytest.raises(
            UserError, match="half cannot be written .*the same command"
        ):
            prepare(folder, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not (tmp_path / "out" / VERSION).exists()
    prepare(folder, tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inputs": []}, "no folder to prepare"),
        ({"stride": 0}, "stride 0 and tile 16: the stride must be between 1 and"),
        ({"stride": 17}, "stride 17 and tile 16"),
        ({"hold_out": 9}, "9 of 9 images cannot be held out for validation"),
        ({"hold_out": -1}, "-1 of 9 images cannot be held out"),
    ],
)
def test_mistakes(folder, tmp_path, changes, message) -> None:
    with pytest.raises(UserError, match=message):
        prepare(folder, tmp_path / "out", **changes)
    assert not (tmp_path / "out" / VERSION).exists()


def test_folders_are_listed_once(folder, tmp_path, monkeypatch) -> None:
    listed = []

    def find_all(folders):
        listed.append(folders)
        return sources.find_all(folders)

    monkeypatch.setattr(df2k, "find_all", find_all)
    prepare(folder, tmp_path / "out")
    assert listed == [[folder]]


# Reading


@pytest.fixture
def prepared(folder, tmp_path) -> Path:
    prepare(folder, tmp_path / "prepared", hold_out=0)
    return tmp_path / "prepared"


def test_same_batches_as_from_the_folders(folder, prepared) -> None:
    folders = ImageFolders([folder], minimum=20)
    assert 0 < len(folders) < COUNT
    for name in (prepared, prepared / VERSION, f"{prepared}:train"):
        source = open_source(str(name), minimum=20)
        assert source.names == folders.names
        assert source.fingerprint == folders.fingerprint
        assert len(source.skipped) == COUNT - len(source)
        options = dict(size=20, batch_size=8)
        np.testing.assert_array_equal(
            take(batches_of(source, **options), 9),
            take(batches_of(folders, **options), 9),
        )


def test_images_below_a_crop_are_told(prepared, caplog) -> None:
    source = open_source(str(prepared), minimum=20)
    (message,) = caplog.messages
    left_out = COUNT - len(source)
    assert message.startswith(f"left out {left_out} of {COUNT} images: ")
    assert "pixels, a side is below 20" in message
    caplog.clear()
    open_source(str(prepared), minimum=1)
    assert not caplog.messages


def test_validation_images(folder, tmp_path) -> None:
    prepare(folder, tmp_path / "out")
    name = f"{tmp_path / 'out'}:validation"
    assert open_source(name, minimum=1).names == ["0.png", "4.png", "8.png"]
    images = sources.first_images(f"{name},{folder / 'sub'},{folder}", 6)
    names = ["0.png", "4.png", "8.png", "3.png", "7.png", "0.png"]
    assert [name for name, _ in images] == names
    paths = [folder / n for n in (*names[:3], "sub/3.png", "sub/7.png", "0.png")]
    for (_, image), path in zip(images, paths, strict=True):
        np.testing.assert_array_equal(image, files.read_rgb(path))
    assert len(sources.first_images(name, 2)) == 2


def test_names_that_cannot_be_trained_on(folder, prepared, tmp_path) -> None:
    with pytest.raises(UserError, match="cannot be combined with others"):
        open_source(f"{prepared},{folder}", minimum=1)
    with pytest.raises(UserError, match=r"has no split test: use one of \['train'\]"):
        open_source(f"{prepared}:test", minimum=1)
    with pytest.raises(UserError, match="no image in .* has 64 x 64 pixels. Name"):
        open_source(str(prepared), minimum=64)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        open_source(str(tmp_path / "nowhere"), minimum=1)
    next((prepared / VERSION).glob("*00001-of*")).unlink()
    with pytest.raises(UserError, match="00001-of-00005 is missing: restore it"):
        open_source(str(prepared), minimum=1)


def test_dataset_that_vanishes_or_is_damaged_is_an_error(prepared) -> None:
    source = open_source(str(prepared), minimum=12)
    batches = batches_of(source, size=12)
    shard = next((prepared / VERSION).glob("*00004-of*"))
    whole = shard.read_bytes()
    shard.write_bytes(whole[:1000] + b"damage" + whole[1006:])
    message = "1.0.0, split train: tile . of .*png cannot be read .*restore the dataset"
    with pytest.raises(UserError, match=message):
        within_seconds(60, lambda: take(batches, 50))
    batches.close()

    shard.write_bytes(whole)
    batches = batches_of(open_source(str(prepared), minimum=12), size=12)
    take(batches, 20)  # opens all files
    shutil.rmtree(prepared)
    with pytest.raises(UserError, match=message):
        within_seconds(60, lambda: take(batches, 50))
    batches.close()
