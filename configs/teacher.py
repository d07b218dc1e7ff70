"""The teacher: contrastive learning (stage 1), then super-resolution (stage 2).

    python train.py --config=configs/teacher.py:setting1 --workdir=runs/teacher1 \\
        --config.data.hr=DIV2K_train_HR,Flickr2K_HR

Presets: setting1, setting2 (the paper's), demo (setting 1, minutes on a CPU).
Expected of the paper's presets: 679,000 steps; not yet run.
"""

from ml_collections import ConfigDict

from configs import common

PRESETS = {"setting1": 1, "setting2": 2, "demo": 1}


def get_config(preset: str = "setting1") -> ConfigDict:
    """The locked config of a preset."""
    if preset not in PRESETS:
        raise ValueError(f"no preset {preset!r}: take one of {', '.join(PRESETS)}")
    config = common.base("teacher", PRESETS[preset])

    config.contrast = ConfigDict()
    config.contrast.crops = 4  # D, of one image: positives of each other
    config.contrast.queue_size = 8192  # negatives, a multiple of the batch
    config.contrast.momentum = 0.999
    config.contrast.temperature = 0.07

    if preset == "demo":
        common.shrink(config)
        config.contrast.crops = 2
        config.contrast.queue_size = 1024
    return config.lock()
