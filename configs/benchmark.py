"""What to measure: the paper's setting 1 (Table 3) and setting 2 (Table 4).

    python eval.py --config=configs/benchmark.py:setting1 \\
        --workdir=runs/student --benchmarks=data/Set5,data/Set14
    python eval.py --config=configs/benchmark.py:table3 --config.root=data \\
        --method=bicubic

Expected of bicubic x4 (PSNR at sigma 1.2, 2.4, 3.6): Set5 27.69 25.99 24.45, Set14
25.60 24.39 23.25, B100 25.58 24.67 23.80, Urban100 22.73 21.76 20.84.
"""

from ml_collections import config_dict

PRESETS = {
    "setting1": (1, ()),
    "setting2": (2, ()),
    "table3": (1, ("Set5", "Set14", "B100", "Urban100")),
    "table4": (2, ("B100",)),
}


def get_config(preset: str = "setting1") -> config_dict.ConfigDict:
    if preset not in PRESETS:
        raise ValueError(f"no preset {preset!r}: take one of {', '.join(PRESETS)}")
    setting, benchmarks = PRESETS[preset]
    config = config_dict.ConfigDict()

    config.setting = setting
    config.scale = config_dict.placeholder(int)  # unset: the model's; 4 for bicubic

    # Folders of HR images: `root`/name for each name, unless --benchmarks names others.
    config.root = "data"
    config.benchmarks = benchmarks

    # The degradations of setting 1.
    config.sigmas = (1.2, 2.4, 3.6)
    # Those of setting 2: each kernel (l1, l2, theta in degrees) with each noise level
    # (standard deviation, 0..255 scale).
    config.kernels = (
        (2.0, 0.5, 0.0),
        (2.0, 1.0, 10.0),
        (3.5, 1.5, 30.0),
        (3.5, 2.0, 45.0),
        (3.5, 2.0, 90.0),
        (4.0, 1.5, 120.0),
        (4.0, 2.0, 135.0),
        (4.0, 3.0, 165.0),
        (4.0, 4.0, 180.0),
    )
    config.noise_levels = (5.0, 10.0)
    config.seed = 0  # of the noise

    config.batch_size = 8  # images at once; lower it if memory runs out
    config.panels = 1  # pictures to save: the first images of each benchmark
    config.panel_crop = 256  # pixels of HR in a panel

    return config.lock()
