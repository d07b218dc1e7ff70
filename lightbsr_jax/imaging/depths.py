"""Samples of 9 to 15 bits as uint16 in the full range."""

import numpy as np


def scaled(samples: np.ndarray, bits: int) -> np.ndarray:
    """Scales unsigned samples of a depth to the full range of uint8 or uint16."""
    kind = np.uint8 if bits <= 8 else np.uint16
    top = np.iinfo(kind).max
    if bits in (8, 16):
        return samples.astype(kind)
    most = 2**bits - 1
    return ((samples.astype(np.uint32) * top + most // 2) // most).astype(kind)
