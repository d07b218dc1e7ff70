"""Stretching pictures that use a small part of their samples' range for a network.

A network errs by a level or two of 256 at any range of a picture. For 16-bit and float
pictures of microscopes, telescopes or 12-bit cameras that error would be large. They
are stretched before the network and restored after it.
"""

from typing import NamedTuple

import numpy as np

# Shares of the range of 16 bits. Pictures whose range is below _NARROW are stretched,
# and so are pictures whose median, without the smallest value, is below _DARK.
_NARROW = 0.25
_DARK = 0.02
_MEDIAN = 0.2  # median of a dark picture after the stretch
_LEAST_POWER = 0.25
_BOTTOM, _TOP = 0.1, 0.9  # range after the stretch, with room for overshoot


class Stretch(NamedTuple):
    """A mapping of `low`..`high` to 0.1..0.9 by a power."""

    low: float
    high: float
    power: float
    floor: float  # the smallest restored value
    ceiling: float  # the largest

    def shown(self, values: np.ndarray) -> np.ndarray:
        """Stretches float32 values for a network."""
        part = (values - np.float32(self.low)) / np.float32(self.high - self.low)
        part = np.sign(part) * np.abs(part) ** np.float32(self.power)
        return (_BOTTOM + (_TOP - _BOTTOM) * part).astype(np.float32)

    def back(self, shown: np.ndarray) -> np.ndarray:
        """Inverts `shown`."""
        part = (shown.clip(0, 1) - np.float32(_BOTTOM)) / np.float32(_TOP - _BOTTOM)
        part = np.sign(part) * np.abs(part) ** np.float32(1 / self.power)
        values = part * np.float32(self.high - self.low) + np.float32(self.low)
        return values.clip(np.float32(self.floor), np.float32(self.ceiling))


def stretch(values: np.ndarray, *, bounded: bool) -> Stretch | None:
    """Chooses the stretch of finite values [h, w, C]; None if they need none.

    `bounded` values, those of integer samples, are in 0..1. Others may be negative and
    are always stretched.
    """
    low, high = float(values.min()), float(values.max())
    inside = values[values > np.float32(low)]
    median = (float(np.median(inside)) - low) / (high - low) if inside.size else 1.0
    if bounded and high - low >= _NARROW and median >= _DARK:
        return None
    least = 1e-3 if bounded else 1e-6 * max(abs(low), abs(high), 1e-30)
    width = max(high - low, least)
    power = 1.0
    if median < _DARK:
        power = max(np.log(_MEDIAN) / np.log(median), _LEAST_POWER)
    # Overshoot may exceed the range of the values, but not that of their samples, which
    # is 0..1 for values inside.
    margin = width * (_BOTTOM / (_TOP - _BOTTOM)) ** (1 / power)
    high = low + width
    floor = low if low - margin < 0 <= low else low - margin
    ceiling = 1.0 if high <= 1 < high + margin else high + margin
    return Stretch(low, high, float(power), floor, ceiling)
