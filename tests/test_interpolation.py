from typing import Any

import jax
import numpy as np
import pytest
from helpers import literal

from lightbsr_jax.imaging import interpolation, resize

CANVAS = (60, 41)  # of outputs and inputs
RULES = [0, 1, 2]
# Inputs, outputs and the factor that torch was given, if it was.
CASES = [
    *[(41, 60, None), (41, 6, None), (30, 30, None), (17, 29, None), (5, 44, None)],
    *[(40, 50, 1.27), (41, 6, 0.15), (33, 33, 1.0), (40, 27, 0.68), (39, 58, 1.4999)],
    *[(1, 3, None), (2, 1, None), (9, 1, None)],
]

traced = jax.jit(interpolation.matrix, static_argnames=("canvas", "border"))


def step(size_in: int, size_out: int, factor: float | None) -> float:
    return size_in / size_out if factor is None else 1 / factor


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("case", CASES)
def test_matrix_is_the_literal_rule(
    rule: int, case: tuple[int, int, float | None]
) -> None:
    size_in, size_out, factor = case
    line = np.random.default_rng(0).uniform(size=(size_in, 2))
    name = interpolation.RULES[rule]
    expected = literal.torch_line(line, size_out, step(*case), name)
    ours = traced(rule, size_in, size_out, step(*case), canvas=CANVAS)
    assert ours.shape == CANVAS and ours.dtype == np.float32
    assert not np.any(ours[:, size_in:])
    np.testing.assert_allclose(ours[:size_out, :size_in] @ line, expected, atol=2e-5)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("case", CASES)
def test_matrix_is_torchs(
    rule: int, case: tuple[int, int, float | None], torch: Any
) -> None:
    size_in, size_out, factor = case
    line = np.random.default_rng(1).uniform(size=(size_in, 1)).astype(np.float32)
    options = {"mode": interpolation.RULES[rule]}
    if rule:
        options["align_corners"] = False
    if factor is None:
        options["size"] = (size_out, 1)
    else:
        options["scale_factor"] = (factor, 1.0)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(line)[None, None], **options
    )[0, 0].numpy()
    assert expected.shape == (size_out, 1)
    ours = traced(rule, size_in, size_out, step(*case), canvas=CANVAS)
    np.testing.assert_allclose(ours[:size_out, :size_in] @ line, expected, atol=2e-5)


def test_all_rules_and_sizes_take_one_program() -> None:
    one = jax.jit(interpolation.matrix, static_argnames=("canvas", "border"))
    for rule in RULES:
        one(rule, 40 - rule, 50 + rule, 0.8 + rule / 50, canvas=CANVAS)
    assert one._cache_size() == 1


@pytest.mark.parametrize("rule", RULES)
def test_keeping_the_size_changes_nothing(rule: int) -> None:
    ours = traced(rule, 33, 33, 1.0, canvas=(33, 33))
    np.testing.assert_array_equal(ours, np.eye(33))


@pytest.mark.parametrize(("size", "border"), [(7, 3), (5, 12), (1, 2), (2, 5)])
def test_border_mirrors_the_rows_themselves(size: int, border: int) -> None:
    plain = np.asarray(traced(2, 9, size, 9 / size, canvas=(size, 9)))
    rows = size + 2 * border
    ours = traced(2, 9, size, 9 / size, canvas=(rows, 9), border=border)
    expected = np.pad(plain, ((border, border), (0, 0)), mode="reflect")
    np.testing.assert_array_equal(ours, expected)


def test_image_by_matrices_of_rows_and_columns() -> None:
    image = np.random.default_rng(2).uniform(size=(2, 13, 17, 3)).astype(np.float32)
    rows = traced(1, 13, 20, 13 / 20, canvas=(20, 13))
    columns = traced(1, 17, 6, 17 / 6, canvas=(6, 17))
    ours = resize.by_matrices(image, rows, columns)
    one = literal.torch_line(image[1], 20, 13 / 20, "bilinear").swapaxes(0, 1)
    one = literal.torch_line(one, 6, 17 / 6, "bilinear").swapaxes(0, 1)
    assert ours.shape == (2, 20, 6, 3) and ours.dtype == np.float32
    np.testing.assert_allclose(ours[1], one, atol=2e-5)
