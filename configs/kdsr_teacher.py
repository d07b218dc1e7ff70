"""KDSR's teacher, whose estimator also takes the HR image.

    python train.py --config=configs/kdsr_teacher.py:setting1 \\
        --workdir=runs/kdsr_teacher1 --config.data.hr=DIV2K_train_HR,Flickr2K_HR

Presets:
    setting1, setting2  the published KDSR-M
    large1              KDSR-L
    real                KDSR's real-world network (18,846,083 parameters) and training
                        (1,000,000 steps of 72 images)
    real-short          the same network in 1,200 steps of 4 crops of 24 pixels, for
                        hours of a CPU
    real-demo           its degradations with the network of the demo
    demo                setting 1, minutes on a CPU

Expected: 485,000 steps; not yet run.
"""

from ml_collections import ConfigDict

from configs import common
from lightbsr_jax.methods.kdsr.recipe import RECIPE

PRESETS = {
    "setting1": 1,
    "setting2": 2,
    "large1": 1,
    "real": "real",
    "real-short": "real",
    "real-demo": "real",
    "demo": 1,
}


def get_config(preset: str = "setting1") -> ConfigDict:
    """The locked config of a preset."""
    if preset not in PRESETS:
        raise ValueError(f"no preset {preset!r}: use one of {', '.join(PRESETS)}")
    config = base("teacher", preset)
    if preset == "real":
        config.schedule.learning_rate = 1e-4
        config.schedule.decay = 1.0  # constant
    if preset.endswith("demo"):
        shrink(config)
    if preset.endswith("short"):
        shorten(config)
    return config.lock()


def base(role: str, preset: str) -> ConfigDict:
    """Common fields of teacher and student: a preset's published values, unlocked."""
    config = common.base(role, PRESETS[preset], RECIPE)
    config.method = "kdsr"

    large = preset.startswith("large")
    config.network = ConfigDict()
    config.network.features = 128 if large else 64
    config.network.blocks = 28 if large else 53
    config.network.residual_blocks = 5 if large else 9  # of the estimator

    config.schedule = common.stepped_schedule(RECIPE)
    config.schedule.stage1_epochs = 0
    if preset in ("real", "real-short"):
        _as_real_world(config)
    return config


def _as_real_world(config: ConfigDict) -> None:
    """Sets the options of KDSR-GAN's stages with an L1 loss."""
    config.network.update(features=128, blocks=42, residual_blocks=6)
    config.data.batch_size = 72
    config.adam.b2 = 0.99
    config.ema_decay = 0.999
    config.schedule.steps_per_epoch = 1000
    config.schedule.stage2_epochs = 1000


def shorten(config: ConfigDict) -> None:
    """As common.shorten, in half the batches: the real-world network is large."""
    common.shorten(config)
    config.data.batch_size = 4
    config.schedule.stage1_epochs = 0
    config.schedule.steps_per_epoch = 20
    config.schedule.learning_rate = 2e-4


def shrink(config: ConfigDict) -> None:
    """Sets a small network and a short schedule, as common.shrink does."""
    config.network.blocks = 8
    config.network.residual_blocks = 2
    common.shrink_stepped(config)
