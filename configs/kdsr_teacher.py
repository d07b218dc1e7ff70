"""KDSR's teacher: super-resolution with an estimator that sees the HR image.

    python train.py --config=configs/kdsr_teacher.py:setting1 \\
        --workdir=runs/kdsr_teacher1 --config.data.hr=DIV2K_train_HR,Flickr2K_HR

Presets: setting1, setting2 (the published KDSR-M), large1 (KDSR-L), demo (setting 1,
minutes on a CPU). Expected: 485,000 steps; not yet run.
"""

from ml_collections import ConfigDict

from configs import common
from lightbsr_jax.methods.kdsr.recipe import RECIPE

PRESETS = {"setting1": 1, "setting2": 2, "large1": 1, "demo": 1}


def get_config(preset: str = "setting1") -> ConfigDict:
    """The locked config of a preset."""
    config = base("teacher", preset)
    if preset == "demo":
        shrink(config)
    return config.lock()


def base(role: str, preset: str) -> ConfigDict:
    """What teacher and student share: a preset's published values, unlocked."""
    if preset not in PRESETS:
        raise ValueError(f"no preset {preset!r}: take one of {', '.join(PRESETS)}")
    config = common.base(role, PRESETS[preset], RECIPE)
    config.method = "kdsr"

    large = preset.startswith("large")
    config.network = ConfigDict()
    config.network.features = 128 if large else 64
    config.network.blocks = 28 if large else 53
    config.network.residual_blocks = 5 if large else 9  # of the estimator

    config.schedule = common.stepped_schedule(RECIPE)
    config.schedule.stage1_epochs = 0
    return config


def shrink(config: ConfigDict) -> None:
    """As common.shrink."""
    config.network.blocks = 8
    config.network.residual_blocks = 2
    common.shrink_stepped(config)
