"""Side-by-side pictures of a restoration. Images are uint8 [H, W, 3]."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from lightbsr_jax.evaluation.benchmark import Restored
from lightbsr_jax.imaging import metrics, resize

_GAP = 4  # pixels between columns
_COLUMN_WIDTH = 160  # at least, so that a caption can be read


def panel(restored: Restored, method: str, *, crop: int | None = None) -> np.ndarray:
    """`comparison` of a restored image with bicubic, the PSNRs in the captions."""
    score, lr, sr, hr = restored.score, restored.lr, restored.sr, restored.hr
    label = f"{method} {score.psnr:.2f} dB"
    if method == "bicubic":
        return comparison(lr, sr, None, hr, labels=("LR", label, "HR"), crop=crop)
    enlarged = 255 * resize.bicubic(lr[None] / np.float32(255), hr.shape[:2])
    enlarged = np.asarray(metrics.quantise(enlarged)).astype(np.uint8)
    psnr = metrics.psnr_y(enlarged, hr[None], border=hr.shape[0] // lr.shape[0])[0]
    labels = ("LR", f"bicubic {psnr:.2f} dB", label, "HR")
    return comparison(lr, enlarged[0], sr, hr, labels=labels, crop=crop)


def comparison(
    lr: np.ndarray,
    bicubic: np.ndarray,
    sr: np.ndarray | None,
    hr: np.ndarray,
    *,
    labels: tuple[str, ...],
    crop: int | None = None,
) -> np.ndarray:
    """One panel LR | bicubic | SR | HR with a caption above each column.

    LR is enlarged by nearest neighbour. sr is None where bicubic is the method; that
    column is then left out. One label a column. With crop, only the central crop x crop
    pixels of HR are shown, and the same region of the others.
    """
    columns = [image for image in (lr, bicubic, sr, hr) if image is not None]
    if len(labels) != len(columns):
        raise ValueError(f"{len(labels)} labels for {len(columns)} columns: {labels}")
    scale = hr.shape[0] // lr.shape[0]
    columns[0] = _enlarge(lr, scale)
    for label, image in zip(labels, columns, strict=True):
        if image.shape != hr.shape:
            raise ValueError(f"{label!r} is {image.shape}, but HR is {hr.shape}")
    if crop is not None:
        columns = [_centre(image, crop) for image in columns]
    factor = -(-_COLUMN_WIDTH // columns[0].shape[1])
    columns = [_enlarge(image, factor) for image in columns]

    height, width = columns[0].shape[:2]
    font = _font(labels, width)
    caption = 2 * font.getbbox("Ag")[3]
    total = len(columns) * (width + _GAP) - _GAP
    panel = Image.new("RGB", (total, caption + height), "white")
    draw = ImageDraw.Draw(panel)
    for index, (label, image) in enumerate(zip(labels, columns, strict=True)):
        left = index * (width + _GAP)
        panel.paste(Image.fromarray(image), (left, caption))
        draw.text((left + width // 2, caption // 2), label, "black", font, anchor="mm")
    return np.asarray(panel)


def _enlarge(image: np.ndarray, factor: int) -> np.ndarray:
    return image.repeat(factor, axis=0).repeat(factor, axis=1)


def _centre(image: np.ndarray, crop: int) -> np.ndarray:
    top, left = (max(0, (side - crop) // 2) for side in image.shape[:2])
    return image[top : top + crop, left : left + crop]


def _font(labels: tuple[str, ...], width: int) -> ImageFont.FreeTypeFont:
    """Pillow's own font, as large as the longest label allows, 8 to 24 pixels."""
    for size in range(24, 8, -1):
        font = ImageFont.load_default(size)
        if max(font.getlength(label) for label in labels) <= width - 4:
            return font
    return ImageFont.load_default(8)
