import numpy as np
import pytest

from lightbsr_jax.data import tiles


def image_of(height: int, width: int) -> np.ndarray:
    rng = np.random.default_rng([height, width])
    return rng.integers(256, size=(height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("length", "tile", "stride", "expected"),
    [
        (2040, 480, 480, [0, 480, 960, 1440, 1560]),
        (2040, 480, 240, [0, 240, 480, 720, 960, 1200, 1440, 1560]),
        (960, 480, 480, [0, 480]),
        (480, 480, 480, [0]),
        (321, 480, 480, [0]),
        (5, 2, 1, [0, 1, 2, 3]),
    ],
)
def test_starts(length, tile, stride, expected) -> None:
    assert tiles.starts(length, tile=tile, stride=stride) == expected


def test_tiles_are_parts_of_the_image() -> None:
    image = image_of(23, 40)
    found = list(tiles.cut(image, tile=10, stride=7))
    assert [(top, left) for top, left, _ in found] == [
        (top, left) for top in (0, 7, 13) for left in (0, 7, 14, 21, 28, 30)
    ]
    for top, left, tile in found:
        assert tile.shape == (10, 10, 3)
        np.testing.assert_array_equal(tile, image[top : top + 10, left : left + 10])


@pytest.mark.parametrize(
    ("height", "width", "tile", "stride"),
    [(23, 40, 10, 10), (23, 40, 10, 7), (30, 30, 10, 1), (7, 35, 16, 16), (9, 9, 9, 4)],
)
def test_windows_are_parts_of_the_image(height, width, tile, stride) -> None:
    """Every window of some sizes, put together of the tiles alone."""
    image = image_of(height, width)
    parts = [part for _, _, part in tiles.cut(image, tile=tile, stride=stride)]
    grid = tiles.Grid(height, width, tile=tile, stride=stride)
    assert len(grid) == len(parts)
    for size in (1, 6, min(height, width)):
        for top in range(height - size + 1):
            for left in range(width - size + 1):
                window = grid.window(parts.__getitem__, top, left, size, size)
                expected = image[top : top + size, left : left + size]
                np.testing.assert_array_equal(window, expected)
    whole = grid.window(parts.__getitem__, 0, 0, height, width)
    np.testing.assert_array_equal(whole, image)


def test_no_more_tiles_are_read_than_it_takes() -> None:
    image = image_of(40, 40)
    for stride, width, expected in [
        (10, 8, [5, 6, 9, 10]),
        (5, 8, [24]),
        (5, 20, [24, 26, 27]),  # columns from 15, 25, 30
    ]:
        parts = [part for _, _, part in tiles.cut(image, tile=10, stride=stride)]
        read = []
        grid = tiles.Grid(40, 40, tile=10, stride=stride)
        grid.window(lambda n: read.append(n) or parts[n], 16, 17, 8, width)  # noqa: B023
        assert read == expected


def test_png_and_back() -> None:
    tile = image_of(11, 7)
    np.testing.assert_array_equal(tiles.decode(tiles.encode(tile)), tile)
