"""Small images that look like photographs, and their files."""

from pathlib import Path

import numpy as np
from PIL import Image


def picture(seed: int, height: int = 24, width: int = 28) -> np.ndarray:
    """A smooth random image, so that PSNR is that of a photograph."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height)))


def save(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
