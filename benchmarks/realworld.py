"""Statistics of real-world LR images, compared with those of the published program.

    python -m benchmarks.realworld FOLDER --images 200 --reference KDSR

Crops of 400 x 400 pixels of the images in FOLDER are degraded by --setting; if there
are fewer crops than --images, they are used again with other draws. With a checkout of
KDSR they are also degraded by its program, which needs torch and basicsr.
Each LR image is described by four numbers: mean and deviation of luma; the root mean
square of the part that a Gaussian filter of 1 pixel removes (high frequencies); and the
ratio of steps between pixels on the grid of JPEG's blocks to steps elsewhere
(blockiness). The table has their 10th, 50th and 90th percentiles. For two programs it
also has the largest distance between the distributions with its p-value (Kolmogorov and
Smirnov). The programs draw different random numbers, so only distributions can be
compared.
"""

import argparse
import itertools
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.stats import ks_2samp

SIDE = 400  # of crops, as in the published program
_BLOCK = 8
_LUMA = np.array([0.299, 0.587, 0.114])
_NAMES = ("mean", "deviation", "high frequencies", "blockiness")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--setting", default="real")
    parser.add_argument("--reference", metavar="DIR", help="a checkout of KDSR")
    arguments = parser.parse_args()
    crops = take_crops(arguments.folder, arguments.images)
    found = {"ours": statistics(degraded(crops, arguments.setting))}
    if arguments.reference:
        theirs = published(crops, Path(arguments.reference, "KDSR-GAN"))
        found["published"] = statistics(theirs)
    print(table(found))


def take_crops(folder: str, count: int) -> list[np.ndarray]:
    """The first `count` crops, uint8 [SIDE, SIDE, 3], in a grid over each image.

    If there are fewer, they repeat.
    """
    from lightbsr_jax.imaging import files

    crops: list[np.ndarray] = []
    for _, path in files.find_images(folder):
        image = files.read_rgb(path)
        rows, columns = (length // SIDE for length in image.shape[:2])
        top, left = (length % SIDE // 2 for length in image.shape[:2])
        for row in range(rows):
            for column in range(columns):
                y, x = top + row * SIDE, left + column * SIDE
                # A view would keep the whole image in memory.
                crops.append(image[y : y + SIDE, x : x + SIDE].copy())
        if len(crops) >= count:
            return crops[:count]
    if not crops:
        sys.exit(f"{folder} has no image of {SIDE} x {SIDE} pixels")
    return list(itertools.islice(itertools.cycle(crops), count))


def degraded(crops: Sequence[np.ndarray], setting: str) -> list[np.ndarray]:
    """LR images of our program, uint8 [h, w, 3]."""
    from lightbsr_jax.commands.degrade import degrade
    from lightbsr_jax.imaging import settings

    name = settings.parse(setting)
    return [
        degrade(crop, name, scale=4, seed=0, place=place)[0]
        for place, crop in enumerate(crops)
    ]


def published(crops: Sequence[np.ndarray], checkout: Path) -> list[np.ndarray]:
    """LR images of the published program, each with its own random draws."""
    program = Published(checkout, SIDE)
    lr = (program.degrade([program.load(crop)])[0] for crop in crops)
    return [np.rint(255 * image).astype(np.uint8) for image in lr]


class Published:
    """Degradations by the published program, in the folder KDSR-GAN of a checkout."""

    def __init__(self, checkout: Path, side: int) -> None:
        """Prepares it for HR images of `side` pixels, up to SIDE."""
        import torch
        import yaml

        sys.path.insert(0, str(checkout))
        from basicsr.utils import DiffJPEG
        from kdsrgan.data.kdsrgan_dataset import KDSRGANDataset
        from kdsrgan.models.kdsrnet_TA_model import KDSRNetTAModel

        text = (checkout / "options" / "train_kdsrnet_x4TA.yml").read_text()
        options = yaml.safe_load(text)
        options |= {"gt_size": side, "is_train": True}  # the whole LR image
        data = options["datasets"]["train"]
        data |= {"meta_info": "/dev/null", "use_hflip": False}
        self._dataset = KDSRGANDataset(data)
        jpeg = DiffJPEG(differentiable=False)
        self._model: Any = SimpleNamespace(
            opt=options,
            is_train=True,
            device="cpu",
            # Its filters need this layout with recent versions of torch.
            jpeger=lambda x, quality: jpeg(x, quality=quality).contiguous(),
            _dequeue_and_enqueue=lambda: None,
        )
        self._feed, self._side = KDSRNetTAModel.feed_data, side
        random.seed(0)
        np.random.seed(0)
        torch.manual_seed(0)

    def load(self, crop: np.ndarray) -> dict[str, Any]:
        """An example of its dataset: the crop as a tensor, and random kernels."""
        # The dataset reads BGR files, here from memory.
        encoded = _png(crop)
        self._dataset.file_client = SimpleNamespace(get=lambda *_: encoded)
        self._dataset.paths = [""]
        example = self._dataset[0]
        hr = example["gt"][:, : self._side, : self._side]  # without what fills it up
        return example | {"gt": hr.contiguous()}

    def degrade(self, examples: Sequence[dict[str, Any]]) -> np.ndarray:
        """LR images [B, h, w, 3] in [0, 1] of a batch, which shares most draws."""
        import torch

        names = ("gt", "kernel1", "kernel2", "sinc_kernel")
        batch = {name: torch.stack([one[name] for one in examples]) for name in names}
        self._feed(self._model, batch)
        return self._model.lq.permute(0, 2, 3, 1).numpy()


def _png(image: np.ndarray) -> bytes:
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def statistics(images: Sequence[np.ndarray]) -> np.ndarray:
    """The four numbers of each image: [N, 4]."""
    rows = []
    for image in images:
        luma = image @ _LUMA
        fine = luma - gaussian_filter(luma, 1)
        blocks = (_blockiness(luma) + _blockiness(luma.T)) / 2
        rows.append([luma.mean(), luma.std(), np.sqrt((fine**2).mean()), blocks])
    return np.array(rows)


def _blockiness(luma: np.ndarray) -> float:
    """Steps between columns at the strongest of 8 places, over those at the others."""
    steps = abs(np.diff(luma, axis=1)).mean(0)
    by_place = np.array([steps[place::_BLOCK].mean() for place in range(_BLOCK)])
    others = (by_place.sum() - by_place.max()) / (_BLOCK - 1)
    return by_place.max() / max(others, 1e-6)


def table(found: dict[str, np.ndarray]) -> str:
    """A table in Markdown with a row for each of the four numbers."""
    programs = list(found)
    lines = [["", *programs], ["---"] * (1 + len(programs))]
    if len(found) == 2:
        lines[0] += ["distance", "p"]
        lines[1] += ["---"] * 2
    for column, name in enumerate(_NAMES):
        cells = [name]
        for values in found.values():
            low, middle, high = np.percentile(values[:, column], (10, 50, 90))
            cells.append(f"{low:.2f} {middle:.2f} {high:.2f}")
        if len(found) == 2:
            test: Any = ks_2samp(*(values[:, column] for values in found.values()))
            cells += [f"{test.statistic:.3f}", f"{test.pvalue:.2f}"]
        lines.append(cells)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


if __name__ == "__main__":
    main()
