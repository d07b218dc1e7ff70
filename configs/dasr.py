"""DASR: contrastive learning (stage 1), then super-resolution with it (stage 2).

    python train.py --config=configs/dasr.py:setting1 --workdir=runs/dasr1 \\
        --config.data.hr=DIV2K_train_HR,Flickr2K_HR

Presets:
    setting1, setting2      as published
    real, photo             the same with real-world degradations, which no paper has
    real-short, photo-short these in 2,400 steps of few and small crops, for hours of a
                            CPU
    demo                    setting 1, minutes on a CPU

Expected (PSNR on Set5 at sigma 1.2, 2.4, 3.6): 31.92 31.75 30.59 in setting 1, after
582,000 steps; not yet run.
"""

from dataclasses import asdict

from ml_collections import ConfigDict

from configs import common
from lightbsr_jax.methods.dasr.recipe import RECIPE

PRESETS = {
    "setting1": 1,
    "setting2": 2,
    "real": "real",
    "photo": "photo",
    "real-short": "real",
    "photo-short": "photo",
    "demo": 1,
}


def get_config(preset: str = "setting1") -> ConfigDict:
    """The locked config of a preset."""
    if preset not in PRESETS:
        raise ValueError(f"no preset {preset!r}: use one of {', '.join(PRESETS)}")
    config = common.base("network", PRESETS[preset], RECIPE)
    config.method = "dasr"

    config.network = ConfigDict()
    config.network.groups = 5
    config.network.blocks = 5  # per group

    config.contrast = ConfigDict()
    config.contrast.crops = 2  # of one image: a query and its key
    config.contrast.queue_size = 8192  # negatives, a multiple of the batch
    config.contrast.update(asdict(RECIPE.contrast))  # momentum and temperature

    config.data.batch_size = 32
    config.data.lr_crop = 48
    config.schedule = common.stepped_schedule(RECIPE)
    config.schedule.stage1_epochs = 100
    config.schedule.stage1_learning_rate = RECIPE.learning_rates[0]

    if preset == "demo":
        config.network.groups = 2
        config.network.blocks = 2
        config.contrast.queue_size = 1024
        common.shrink_stepped(config)
        config.schedule.stage1_epochs = 2
    if preset.endswith("-short"):
        common.shorten(config)
        config.schedule.steps_per_epoch = 30
        # Of few keys, not of those of fresh weights: the momentum branch keeps up.
        config.contrast.queue_size = 1024
        config.contrast.momentum = 0.99
    return config.lock()
