"""Sources of training images, and the batches of crops made of them."""

import collections
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from absl import logging
from helpers.crops import (
    COUNT,
    CROPS,
    HEIGHT,
    SIZE,
    WIDTH,
    batches_of,
    folder,
    numbered,
    numbers,
    opened,
    sampler_of,
    take,
    truncate,
    within_seconds,
)
from PIL import Image

from lightbsr_jax.data.pipeline import CropBatches
from lightbsr_jax.data.sources import ImageFolders
from lightbsr_jax.errors import UserError
from lightbsr_jax.imaging import files

__all__ = ["folder"]  # the fixture


@pytest.fixture
def warnings(monkeypatch) -> list[str]:
    messages = []
    monkeypatch.setattr(
        logging, "warning", lambda text, *values: messages.append(text % values)
    )
    return messages


@pytest.fixture(autouse=True)
def threads_ended() -> Iterator[None]:
    yield
    while opened:
        opened.pop().close()


def open_batches(folder: Path, **changes) -> CropBatches:
    return batches_of(ImageFolders([folder], minimum=SIZE), **changes)


# Sources


def test_folders(folder, tmp_path):
    more = tmp_path / "more"
    (more / "sub").mkdir(parents=True)
    files.write_png(more / "3.5.png", numbered(100))
    Image.fromarray(numbered(101)).save(more / "sub" / "a.bmp")
    source = ImageFolders([folder, more], minimum=SIZE)
    expected = [*(f"{n}.png" for n in range(4)), "3.5.png", "4.png", "5.png", "6.png"]
    expected = [*sorted(expected), "sub/a.bmp"]
    assert source.names == expected
    assert len(source) == COUNT + 2
    shown = [source[index][0, 0, 0] for index in range(len(source))]
    assert shown == [0, 1, 2, 100, 3, 4, 5, 6, 101]
    assert source.skipped == {}
    np.testing.assert_array_equal(source[1], numbered(1))


def test_order_and_fingerprint_do_not_depend_on_the_place(folder, tmp_path):
    moved = tmp_path / "z" / "elsewhere"
    shutil.copytree(folder, moved)
    more = tmp_path / "more"
    more.mkdir()
    files.write_png(more / "3.5.png", numbered(100))
    here = ImageFolders([folder, more], minimum=SIZE)
    there = ImageFolders([more, moved], minimum=SIZE)
    assert here.names == there.names
    assert here.fingerprint == there.fingerprint

    seen = {here.fingerprint, ImageFolders([folder], minimum=SIZE).fingerprint}
    (moved / "6.png").rename(moved / "7.png")
    seen.add(ImageFolders([moved], minimum=SIZE).fingerprint)
    files.write_png(moved / "5.png", numbered(5, height=13))
    seen.add(ImageFolders([moved], minimum=SIZE).fingerprint)
    assert len(seen) == 4


def test_folders_within_folders_and_images_of_one_name(folder, tmp_path):
    (folder / "sub").mkdir()
    files.write_png(folder / "sub" / "7.png", numbered(7))
    inner = ImageFolders([folder, folder / "sub"], minimum=SIZE)
    outer = ImageFolders([folder / "sub", folder], minimum=SIZE)
    assert inner.names == outer.names == ImageFolders([folder], minimum=SIZE).names
    shown = []
    for a, b in (("x", "y"), ("y", "x")):  # the parents' order changes
        files.write_png(tmp_path / a / "A" / "0.png", numbered(10))
        files.write_png(tmp_path / b / "B" / "0.png", numbered(11))
        both = ImageFolders([tmp_path / b / "B", tmp_path / a / "A"], minimum=SIZE)
        shown.append([both[0][0, 0, 0], both[1][0, 0, 0]])
    assert shown == [[10, 11], [10, 11]]


def test_names_that_are_not_utf_8_are_escaped(folder):
    (folder / "3.png").rename(folder / os.fsdecode(b"3\xe9.png"))
    source = ImageFolders([folder], minimum=SIZE)
    assert source.names[3] == r"3\xe9.png"
    np.testing.assert_array_equal(source[3], numbered(3))
    assert source.fingerprint != ImageFolders([folder / "0.png"], minimum=1).fingerprint


def test_images_beside_those_called_hr_are_not_left_out_silently(folder, warnings):
    (folder / "6.png").rename(folder / "sunset_HR.png")
    assert ImageFolders([folder], minimum=SIZE).names == ["sunset_HR.png"]
    (message,) = warnings
    assert message.startswith(f"{folder}: only 1 of 7 images")


def test_useless_images_are_left_out_and_named(folder, warnings):
    (folder / "2.png").write_bytes(b"not an image")
    files.write_png(folder / "4.png", numbered(4, height=SIZE - 1))
    files.write_png(folder / "5.png", numbered(5, height=SIZE, width=SIZE))
    source = ImageFolders([folder], minimum=SIZE)
    assert source.names == ["0.png", "1.png", "3.png", "5.png", "6.png"]
    assert set(source.skipped) == {str(folder / "2.png"), str(folder / "4.png")}
    assert "not a readable" in source.skipped[str(folder / "2.png")]
    assert "7 x 17 pixels" in source.skipped[str(folder / "4.png")]
    (message,) = warnings
    assert message.startswith("left out 2 of 7 images: ")
    assert str(folder / "2.png") in message

    with pytest.raises(ValueError, match="at least 18 x 18 pixels .*and 4 more"):
        ImageFolders([folder], minimum=18)


def test_unreadable_image_is_counted_once(folder, warnings):
    source = ImageFolders([folder], minimum=SIZE)
    truncate(folder / "1.png")
    files.write_png(folder / "4.png", numbered(4, height=HEIGHT + 1))
    for _ in range(3):
        read = [source[index] for index in range(COUNT)]
        assert [image is None for image in read] == [0, 1, 0, 0, 1, 0, 0]
    assert list(source.skipped) == [str(folder / f"{n}.png") for n in (1, 4)]
    assert len(warnings) == 2
    assert "1.png: corrupt or truncated" in warnings[0]
    assert "4.png: 13 x 17 pixels, 12 x 17 when the run began" in warnings[1]
    files.write_png(folder / "1.png", numbered(1))
    assert source[1] is None  # once left out, left out for the whole run


def test_source_that_becomes_unreadable_is_an_error(folder):
    source = ImageFolders([folder, folder / "3.png"], minimum=SIZE)
    for path in folder.iterdir():
        truncate(path)
    with pytest.raises(UserError, match="no image .*0.png: .*and 4 more"):
        for index in range(len(source)):
            assert source[index] is None
    with pytest.raises(UserError, match="no image"):
        source[0]


# Batches


def test_crops_show_their_image_turned_alike(folder):
    files.write_png(folder / "0.png", numbered(0, height=SIZE, width=SIZE))
    batches = take(open_batches(folder, threads=0), 150)
    assert batches.shape == (150, 4, CROPS, SIZE, SIZE, 3)
    assert batches.dtype == np.uint8

    turns, places = collections.Counter(), collections.Counter()
    for crops in batches.reshape(-1, CROPS, SIZE, SIZE, 3):
        number, row, column = crops[0, 0, 0]
        transposed = bool(crops[0, 0, 1, 1] != row)  # along a line the row changes
        upright = crops.swapaxes(1, 2) if transposed else crops
        down = 1 if upright[0, 1, 0, 1] > row else -1
        right = 1 if upright[0, 0, 1, 2] > column else -1
        turns[transposed, down, right] += 1
        shape = (SIZE, SIZE) if number == 0 else (HEIGHT, WIDTH)
        for crop in upright:  # all of the same image, turned the same way
            top, left = crop[..., 1].min(), crop[..., 2].min()
            patch = numbered(number, *shape)[top : top + SIZE, left : left + SIZE]
            np.testing.assert_array_equal(crop[::down, ::right], patch)
            if number:
                places[int(top), int(left)] += 1
    assert len(turns) == 8
    assert min(turns.values()) > 40  # 75 expected
    assert len(places) == (HEIGHT - SIZE + 1) * (WIDTH - SIZE + 1)
    assert max(places.values()) < 3 * min(places.values())


def test_every_epoch_shows_every_image_in_another_order(folder):
    shown = numbers(take(open_batches(folder), 7 * COUNT))
    epochs = [shown[start : start + COUNT] for start in range(0, len(shown), COUNT)]
    assert len(epochs) == 28
    assert all(sorted(epoch) == list(range(COUNT)) for epoch in epochs)
    assert len(set(map(tuple, epochs))) > 24


def test_crops_differ_from_epoch_to_epoch(tmp_path):
    files.write_png(tmp_path / "only.png", numbered(9, height=60, width=70))
    crops = take(open_batches(tmp_path, batch_size=1), 20)
    assert len({batch.tobytes() for batch in crops}) == 20


def test_batch_larger_than_the_source(folder):
    batches = take(open_batches(folder, batch_size=3 * COUNT + 1), 2)
    counts = np.bincount(numbers(batches[0]))
    assert sorted(counts) == [3] * (COUNT - 1) + [4]


def test_same_seed_same_batches_whatever_the_threads(folder):
    expected = take(open_batches(folder, threads=0), 6)
    for threads in (1, 2, 5):
        actual = take(open_batches(folder, threads=threads), 6)
        np.testing.assert_array_equal(actual, expected)
    other = take(open_batches(folder, seed=6), 6)
    assert numbers(other) != numbers(expected)


@pytest.mark.parametrize("threads", [0, 3])
def test_resuming_gives_the_very_same_batches(folder, threads, warnings):
    source = ImageFolders([folder], minimum=SIZE)
    truncate(folder / "2.png")
    truncate(folder / "5.png")
    running = batches_of(source, threads=threads)
    states, expected = [], []
    for _ in range(9):  # over several borders of epochs
        states.append(json.dumps(running.get_state()))
        expected.append(next(running))
    assert not {2, 5} & set(numbers(np.stack(expected)))
    assert len(source.skipped) == len(warnings) == 2

    for start in (0, 1, 4, 7):
        fresh = batches_of(source, threads=threads)
        for batches in (fresh, running):
            batches.set_state(json.loads(states[start]))
            assert json.dumps(batches.get_state()) == states[start]
            np.testing.assert_array_equal(take(batches, 9 - start), expected[start:])


def test_processes_share_each_batch(folder):
    source = ImageFolders([folder], minimum=SIZE)
    truncate(folder / "2.png")
    whole = batches_of(source, batch_size=6)
    expected = take(whole, 8)
    for count in (2, 3, 6):
        shards = [
            batches_of(source, batch_size=6, shard_index=index, shard_count=count)
            for index in range(count)
        ]
        actual = np.concatenate([take(shard, 8) for shard in shards], axis=1)
        np.testing.assert_array_equal(actual, expected)
        assert all(shard.get_state() == whole.get_state() for shard in shards)

    with pytest.raises(ValueError, match="batch_size 6 is not a multiple of the 4"):
        batches_of(source, batch_size=6, shard_count=4)


def test_unreadable_images_are_replaced(folder, warnings):
    source = ImageFolders([folder], minimum=SIZE)
    for number in (0, 3, 6):
        truncate(folder / f"{number}.png")
    batches = batches_of(source)
    counts = np.bincount(numbers(take(batches, 50)), minlength=COUNT)
    assert counts[[0, 3, 6]].tolist() == [0, 0, 0]
    assert counts[[1, 2, 4, 5]].min() > 25  # 50 expected
    assert len(warnings) == len(source.skipped) == 3

    truncate(folder / "1.png")  # in mid-run
    assert 1 not in numbers(take(batches, 20)[9:])
    assert len(warnings) == len(source.skipped) == 4


@pytest.mark.parametrize("threads", [0, 3])
@pytest.mark.parametrize("everything", [False, True])
def test_file_that_vanishes_is_an_error(folder, threads, everything):
    batches = open_batches(folder, threads=threads)
    next(batches)
    if everything:
        shutil.rmtree(folder)
    else:
        (folder / "3.png").unlink()
    with pytest.raises(UserError, match=r"\d.png existed when .*No such file"):
        within_seconds(60, lambda: take(batches, 20))
    batches.close()


@pytest.mark.parametrize("end", [SystemExit, MemoryError, GeneratorExit])
def test_thread_that_dies_is_an_error(folder, monkeypatch, end):
    """Whatever ends it: a thread that only stopped would have us wait for ever."""
    batches = open_batches(folder)
    next(batches)

    def read_rgb(path: Path) -> np.ndarray:
        raise end("it")

    monkeypatch.setattr(files, "read_rgb", read_rgb)
    with pytest.raises(RuntimeError, match=r"reading \d.png failed: .*it"):
        within_seconds(60, lambda: take(batches, 20))
    batches.close()


def test_transferred_ahead_and_in_order(folder):
    """The next batch is on its way while this one is used, and no more."""
    source, transferred = ImageFolders([folder], minimum=SIZE), []

    def transfer(crops: np.ndarray) -> int:
        transferred.append(crops)
        return len(transferred)

    batches = CropBatches(source, sampler_of(source), threads=2, transfer=transfer)
    assert [next(batches) for _ in range(5)] == [1, 2, 3, 4, 5]
    deadline = time.monotonic() + 60
    while len(transferred) < 6:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert batches.get_state() == {"batches": 5}
    time.sleep(0.1)
    assert len(transferred) <= 7
    batches.close()
    expected = take(batches_of(source), 5)
    np.testing.assert_array_equal(np.stack(transferred[:5]), expected)


@pytest.mark.parametrize("threads", [0, 2])
@pytest.mark.parametrize("shards", [1, 4])
def test_no_endless_search_for_a_readable_image(folder, threads, shards):
    batches = open_batches(folder, threads=threads, shard_count=shards)
    next(batches)
    for path in folder.iterdir():
        truncate(path)
    with pytest.raises(ValueError, match="at least 8 x 8 .*corrupt.*data.lr_crop"):
        take(batches, 50)


def test_close_ends_the_stream(folder):
    batches = open_batches(folder)
    next(batches)
    batches.close()
    batches.close()
    with pytest.raises(ValueError):
        next(batches)
