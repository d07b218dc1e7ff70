"""Interpolation to sizes that are known only at run time.

The rules are those of torch.nn.functional.interpolate with align_corners=False and
antialias=False, which published pipelines of real-world degradations use: shrinking
with the bilinear and bicubic rule therefore aliases. The compiled program computes a
matrix for each axis, so that one program serves all rules and sizes
(`resize.by_matrices` multiplies by them). Canvases have a static size, and their valid
part comes first.
"""

import jax.numpy as jnp
from jax import Array

RULES = ("area", "bilinear", "bicubic")  # a rule is given as its index in here

_A = -0.75  # parameter of the cubic


def matrix(
    rule: Array,
    size_in: Array,
    size_out: Array,
    step: Array,
    *,
    canvas: tuple[int, int],
    border: int = 0,
) -> Array:
    """The float32 matrix [rows, columns] = `canvas` that interpolates one axis.

    Args:
      rule: index in RULES; a scalar, like the next three arguments.
      size_in: number of valid pixels among `columns`; the others get weight 0.
      size_out: number of pixels to compute among `rows`; later rows are undefined.
      step: distance between neighbouring outputs in input pixels. torch uses
        size_in / size_out if it is given a size, and 1 / factor if it is given a
        factor. The area rule uses only the sizes.
      canvas: rows and columns, static.
      border: number of rows before the first pixel, which mirror the pixels after it;
        rows from border + size_out on mirror the pixels before them (reflect-101).
    """
    rows, columns = canvas
    output = reflected(jnp.arange(rows) - border, size_out)[:, None]
    column = jnp.arange(columns)
    first = output * size_in // size_out
    end = -(-(output + 1) * size_in // size_out)  # rounded up
    area = jnp.where((first <= column) & (column < end), 1 / (end - first), 0.0)
    taps = _taps(rule, output, size_in, step, column)
    return jnp.where(rule == RULES.index("area"), area, taps).astype(jnp.float32)


def _taps(
    rule: Array, output: Array, size_in: Array, step: Array, column: Array
) -> Array:
    """The matrix of the bilinear or the bicubic rule, with four taps per row."""
    cubic = rule == RULES.index("bicubic")
    centre = (output.astype(jnp.float32) + 0.5) * step - 0.5
    floor = jnp.floor(centre)
    t = centre - floor
    linear_weights = (0.0, 1 - t, t, 0.0)
    cubic_weights = (_outer(1 + t), _inner(t), _inner(1 - t), _outer(2 - t))
    total = jnp.zeros((len(output), len(column)))
    for place, both in enumerate(zip(linear_weights, cubic_weights, strict=True)):
        index = jnp.clip(floor.astype(jnp.int32) + place - 1, 0, size_in - 1)
        total += jnp.where(index == column, jnp.where(cubic, both[1], both[0]), 0.0)
    return total


def reflected(index: Array, size: Array) -> Array:
    """Maps `index` into 0..size-1 by mirroring (reflect-101)."""
    period = jnp.maximum(2 * (size - 1), 1)
    index = index % period
    return jnp.where(size == 1, 0, jnp.minimum(index, period - index))


def _inner(x: Array) -> Array:
    """The cubic at distances 0 to 1."""
    return ((_A + 2) * x - (_A + 3)) * x * x + 1


def _outer(x: Array) -> Array:
    """The cubic at distances 1 to 2."""
    return ((_A * x - 5 * _A) * x + 8 * _A) * x - 4 * _A
