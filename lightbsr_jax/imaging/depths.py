"""Scaling samples to the full range, and undoing a multiplication by alpha."""

import numpy as np


def scaled(samples: np.ndarray, bits: int) -> np.ndarray:
    """Scales unsigned samples of a depth to the full range of uint8 or uint16."""
    kind = np.uint8 if bits <= 8 else np.uint16
    top = np.iinfo(kind).max
    if bits in (8, 16):
        return samples.astype(kind)
    most = 2**bits - 1
    return ((samples.astype(np.uint32) * top + most // 2) // most).astype(kind)


def divided(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Undoes a multiplication of colour by alpha."""
    if colour.dtype == np.float32:
        return np.divide(colour, alpha, out=np.zeros_like(colour), where=alpha > 0)
    top = np.iinfo(colour.dtype).max
    wide, below = colour.astype(np.uint64), np.maximum(alpha.astype(np.uint64), 1)
    return np.minimum((wide * top + below // 2) // below, top).astype(colour.dtype)
