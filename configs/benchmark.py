"""Measurements of eval.py: the paper's tables, or any degradations of any folder.

    python eval.py --config=configs/benchmark.py:table3 --config.root=data \\
        --workdir=runs/student
    python eval.py --config=configs/benchmark.py:setting1 --method=bicubic \\
        --benchmarks=data/Set5 --config.sigmas="(0.5, 1, 2, 4)"

Presets:
    setting1, setting2   degradations of Table 3 and of Table 4, for your own folders
    jpeg, real, photo    blur and JPEG; real-world degradations, drawn for each image
                         and each of config.draws; for networks of all settings
    table3, table4       the benchmarks of these tables below config.root
    table1, table2       the same for a teacher, with the paper's ablations
    spoilt               table3 with IDRs replaced by U(0, 1) (M4- and M5-)
    given                LR images that you have (--lr-dir)
    unpaired             LR images without HR images (--benchmarks): NIQE and a page

Expected PSNR of bicubic x4 (sigma 1.2, 2.4, 3.6): Set5 27.69 25.99 24.45, Set14 25.60
24.39 23.25, B100 25.58 24.67 23.80, Urban100 22.73 21.76 20.84.
"""

from ml_collections import ConfigDict, config_dict

from lightbsr_jax.evaluation.published import BENCHMARKS
from lightbsr_jax.imaging.settings import (
    COMPRESSED_SIGMAS,
    DRAWS,
    KERNELS,
    NOISE_LEVELS,
    QUALITIES,
    SIGMAS,
)

PRESETS = {
    "setting1": {"setting": 1},
    "setting2": {"setting": 2},
    "table1": {"setting": 1, "benchmarks": BENCHMARKS},
    "table2": {"setting": 1, "benchmarks": BENCHMARKS},
    "table3": {"setting": 1, "benchmarks": BENCHMARKS},
    "table4": {"setting": 2, "benchmarks": ("B100",)},
    "spoilt": {"setting": 1, "benchmarks": BENCHMARKS, "spoilt": True},
    "given": {"setting": None},
    "unpaired": {"setting": None, "unpaired": True, "crop": 256, "pictures": 100},
    "jpeg": {"setting": "jpeg", "sigmas": COMPRESSED_SIGMAS},
    "real": {"setting": "real"},
    "photo": {"setting": "photo"},
}


def get_config(preset: str = "setting1") -> ConfigDict:
    """The locked config of a preset."""
    if preset not in PRESETS:
        raise ValueError(f"no preset {preset!r}: use one of {', '.join(PRESETS)}")
    config = ConfigDict()

    # 1: isotropic blur; 2: anisotropic blur and noise; jpeg, real, photo: see
    # lightbsr_jax/imaging/settings.py; None: unknown.
    config.setting = config_dict.placeholder(object)  # a number or a name
    config.scale = config_dict.placeholder(int)  # unset: the model's; 4 for bicubic

    # Folders of HR images: `root`/name for each name; --benchmarks replaces them.
    config.root = "data"
    config.benchmarks = ()

    # The degradations of setting 1.
    config.sigmas = SIGMAS
    # The degradations of setting 2: each kernel with each noise level (standard
    # deviation on the 0..255 scale).
    config.kernels = KERNELS
    if preset == "table4":
        # The first kernel as printed in DSAT's paper. Means do not include it.
        config.kernels += ((2.0, 0.2, 0.0),)
    config.noise_levels = NOISE_LEVELS
    # For jpeg, in addition to the sigmas; and for real and photo.
    config.qualities = QUALITIES
    config.draws = DRAWS
    config.seed = 0  # of noise and of drawn degradations

    config.spoilt = False  # replace the IDR by U(0, 1)
    # Real-world presets and given LR images have more measures and comparisons.
    plain = PRESETS[preset]["setting"] in (1, 2)
    config.niqe = not plain  # in addition to PSNR and SSIM
    config.lanczos = not plain  # a row in addition to that of bicubic
    config.unpaired = False  # the folders hold LR images without HR images
    # Average the results of the 8 flips and transpositions of each LR image.
    config.self_ensemble = False
    # PSNR and SSIM on luma ("y"), as in the paper, or on all channels ("rgb"), and the
    # border to cut in pixels (default: the scale). With other values the figures of the
    # paper are left out.
    config.channels = "y"
    config.border = config_dict.placeholder(int)
    config.batch_size = 8  # images at once on a device; lower it if memory runs out

    config.pictures = 3  # images of each benchmark to show in the report
    config.crop = 96  # side of the region that they show, in HR pixels

    # Figure 5: the degradations whose IDRs are compared, in setting 1 and 2.
    config.idr = ConfigDict()
    config.idr.sigmas = (0.8, 1.6, 2.4, 3.2)
    config.idr.kernels = (KERNELS[0], KERNELS[2], KERNELS[6], KERNELS[8])
    config.idr.noise_levels = (4.0,)

    config.update(PRESETS[preset])
    return config.lock()
