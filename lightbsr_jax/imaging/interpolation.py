"""Interpolation to sizes that are known only when the program runs.

The rules are those of torch.nn.functional.interpolate with align_corners=False and
antialias=False, by which published pipelines of real-world degradations resize:
shrinking with the bilinear and bicubic rule therefore aliases. An axis is interpolated
by a matrix that is made inside the compiled program, so that one program serves all
rules and sizes (`resize.by_matrices` multiplies). Canvases are static, and what is
valid of them lies at the beginning.
"""

import jax.numpy as jnp
from jax import Array

RULES = ("area", "bilinear", "bicubic")  # a rule is given as its place in here

_A = -0.75  # of the cubic


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
      rule: place in RULES, a scalar like the next three.
      size_in: pixels that are valid, of `columns`; others get weight 0.
      size_out: pixels to compute, of `rows`; later rows mean nothing.
      step: distance of neighbouring outputs in input pixels. torch takes
        size_in / size_out for a size that is given, 1 / factor for a factor. The area
        rule goes by the sizes alone.
      canvas: rows and columns, static.
      border: so many of the rows stand before the first pixel, and mirror what follows
        it, as rows from border + size_out on mirror what precedes them (reflect-101).
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
    """The matrix of the bilinear or the bicubic rule, of four taps a row."""
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
    """Indices of 0..size-1 that stand in for `index`, mirrored (reflect-101)."""
    period = jnp.maximum(2 * (size - 1), 1)
    index = index % period
    return jnp.where(size == 1, 0, jnp.minimum(index, period - index))


def _inner(x: Array) -> Array:
    """The cubic at distances 0 to 1."""
    return ((_A + 2) * x - (_A + 3)) * x * x + 1


def _outer(x: Array) -> Array:
    """The cubic at distances 1 to 2."""
    return ((_A * x - 5 * _A) * x + 8 * _A) * x - 4 * _A
