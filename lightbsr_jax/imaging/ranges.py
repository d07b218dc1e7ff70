"""Pictures that fill little of what their samples could hold, shown to a network.

A network errs by a level or two of 256, whatever a picture's range: 16-bit and float
pictures of microscopes, telescopes or 12-bit cameras would drown in that. They are
stretched before, and back after.
"""

from typing import NamedTuple

import numpy as np

# Of the range of 16 bits: pictures that fill less are stretched, as are those half of
# whose samples, but for the least, lie below the second.
_NARROW = 0.25
_DARK = 0.02
_MEDIAN = 0.2  # where half of a dark picture's pixels come to lie
_LEAST_POWER = 0.25
_BOTTOM, _TOP = 0.1, 0.9  # where the network is most exact, with room for overshoot


class Stretch(NamedTuple):
    """What was `low` to `high` is shown as 0.1 to 0.9, along a power."""

    low: float
    high: float
    power: float
    floor: float  # below which nothing comes back

    def shown(self, values: np.ndarray) -> np.ndarray:
        """Float32 values as a network is to see them."""
        part = (values - np.float32(self.low)) / np.float32(self.high - self.low)
        part = np.sign(part) * np.abs(part) ** np.float32(self.power)
        return (_BOTTOM + (_TOP - _BOTTOM) * part).astype(np.float32)

    def back(self, shown: np.ndarray) -> np.ndarray:
        """What is shown as such values."""
        part = (shown.clip(0, 1) - np.float32(_BOTTOM)) / np.float32(_TOP - _BOTTOM)
        part = np.sign(part) * np.abs(part) ** np.float32(1 / self.power)
        values = part * np.float32(self.high - self.low) + np.float32(self.low)
        return np.maximum(values, np.float32(self.floor))


def stretch(values: np.ndarray, *, bounded: bool) -> Stretch | None:
    """How values [h, w, C] are to be stretched; None for those that need it not.

    They are finite. Bounded ones are in 0..1, as 16 bits are, others are always
    stretched and may be negative.
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
    # Overshoot may go beyond the range but for a bound of the samples themselves.
    margin = width * (_BOTTOM / (_TOP - _BOTTOM)) ** (1 / power)
    floor = low if low - margin < 0 <= low else low - margin
    return Stretch(low, low + width, float(power), floor)
