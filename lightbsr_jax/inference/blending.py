"""Blending of restored pictures with their bicubic interpolation.

A network may enhance the artefacts of a camera or of JPEG; blending weakens this. The
pictures are blended before the only rounding, a few rows at a time. A pixel is computed
by the same arithmetic wherever its row lies in a strip.
"""

import numpy as np

from lightbsr_jax.errors import UserError
from lightbsr_jax.imaging import resize

_TAPS = 4  # of the cubic along an axis, when it enlarges
_ROWS = 256  # blended at once


class Blend:
    """strength x the restored picture + (1 - strength) x the bicubic one."""

    def __init__(
        self, image: np.ndarray, *, scale: int, strength: float, border: int
    ) -> None:
        """`image` [h, w, 3], float32 in [0, 1], is the picture without its `border`.

        `border` counts pixels of the input; the restored picture includes it on all
        sides.
        """
        self._image = image
        self._strength = np.float32(strength)
        beyond = border * scale
        height, width = image.shape[:2]
        self._rows = _taps(height, scale, beyond)
        self._columns = _taps(width, scale, beyond)

    def __call__(self, restored: np.ndarray, first: int, dtype: np.dtype) -> np.ndarray:
        """Rows of the result [n, W, 3] of `dtype`, from row `first` on.

        `restored` are those rows of the network's result, float32. uint8 and uint16
        are rounded and clipped.
        """
        out = np.empty(restored.shape, dtype)
        for begin in range(0, len(restored), _ROWS):
            part = restored[begin : begin + _ROWS]
            bicubic = self.bicubic(first + begin, len(part))
            blended = self._strength * part + (1 - self._strength) * bicubic
            if dtype != np.float32:
                levels = np.float32(np.iinfo(dtype).max)
                blended = np.rint(blended.clip(0, 1) * levels)
            out[begin : begin + _ROWS] = blended
        return out

    def bicubic(self, first: int, count: int) -> np.ndarray:
        """Rows of the interpolated picture, clamped beyond its edges."""
        indices, weights = (x[first : first + count] for x in self._rows)
        rows = _sum(self._image, indices, weights[..., None, None])
        indices, weights = self._columns
        return _sum(rows.swapaxes(0, 1), indices, weights[..., None, None]).swapaxes(
            0, 1
        )


def check(strength: float) -> float:
    """The strength. Raises UserError if it is not in 0..1."""
    if not 0 <= strength <= 1:  # nan, too
        raise UserError(f"strength {strength}: expected a number from 0 to 1")
    return strength


def _taps(size: int, scale: int, beyond: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices [N, 4] and float32 weights [N, 4] of an axis, enlarged by `scale`.

    `beyond` outputs are added at each end; they repeat the outermost pixels.
    """
    centre = (np.arange(size * scale) + 0.5) / scale - 0.5
    index = np.floor(centre).astype(int)[:, None] + np.arange(_TAPS) - 1
    weights = resize.cubic(centre[:, None] - index)
    weights = (weights / weights.sum(1, keepdims=True)).astype(np.float32)
    ends = ((beyond, beyond), (0, 0))
    indices = np.pad(index.clip(0, size - 1), ends, mode="edge")
    return indices, np.pad(weights, ends, mode="edge")


def _sum(image: np.ndarray, indices: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The rows `indices` [n, 4] of an image, weighted and summed: [n, ...]."""
    total = weights[:, 0] * image[indices[:, 0]]
    for tap in range(1, _TAPS):
        total += weights[:, tap] * image[indices[:, tap]]
    return total
