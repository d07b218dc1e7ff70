"""The student: distillation of IDRs (stage 1), then super-resolution (stage 2).

    python train.py --config=configs/student.py:setting1 --workdir=runs/student1 \\
        --config.distillation.teacher=runs/teacher1 \\
        --config.data.hr=DIV2K_train_HR,Flickr2K_HR

Presets:
    setting1, setting2              the paper's
    setting1-short, setting2-short  the same network and stages in 3,200 steps
    setting1-plain, setting2-plain, the same network by L1 alone in 2,400 steps, without
    real-plain, photo-plain         a teacher: to continue from weights (--config.init)
    real, photo (and -short)        as setting2 with real-world degradations, which are
                                    not in the paper
    real-gan, photo-gan             a third stage for the student of real or photo
                                    (--config.init), with KDSR's losses: 400,000 steps
    photo-detail                    the weights photo by L1 and a small GAN loss in 400
                                    steps, without a teacher
    demo                            setting 1, minutes on a CPU
    m1 to m5                        setting 1, distilled from the teacher of that preset

Expected PSNR of the paper's presets on Set5 (sigma 1.2, 2.4, 3.6), after 679,000 steps:
32.47 32.17 31.06 in setting 1; not yet run.

Measured on two CPU cores: setting2-short has 24.94 dB on B100 at noise 5, averaged over
nine kernels (bicubic 24.29), and setting2-plain, continued from setting1 and shipped as
setting2, 25.45 dB. setting1-short with steps_per_epoch 7 and 20 has 29.22 27.91
26.07 on Set5 (bicubic 27.69 25.99 24.45). After 1,521 steps of few crops from the
weights of setting2-short it is 29.71 28.94 28.14, and after 5,850 steps of
setting1-plain, most with two blocks per group, shipped as setting1, 30.82 30.45 29.24.

The short presets are for hours of two CPU cores, after a teacher's of that name. They
differ from the paper's:

    steps            3,200, 800 of them in stage 1, instead of 679,000
    batch, LR crop   8 images, 24 pixels, instead of 64, 64
    learning rate    5e-4 instead of 2e-4, warmed up over 2 of 60 epochs instead of 5 of
                     600
    evaluated        averaged weights

On an accelerator: the flags of configs/teacher.py, with --config.minutes=16.
"""

from dataclasses import asdict

from ml_collections import ConfigDict

from configs import common
from lightbsr_jax.methods.lightbsr.recipe import RECIPE
from lightbsr_jax.methods.recipe import Adversarial

PLAIN = {  # presets without a teacher
    "setting1-plain": 1,
    "setting2-plain": 2,
    "real-plain": "real",
    "photo-plain": "photo",
}


# A last stage is ours: the weight of the GAN loss is that of Real-ESRGAN.
GAN = {"real-gan": "real", "photo-gan": "photo"}
DETAIL = "photo-detail"


def gan(config: ConfigDict) -> ConfigDict:
    """Sets a last stage of 400,000 steps at KDSR's rate."""
    config.adversarial = common.adversarial(
        Adversarial(weight=0.1, perceptual_weight=1.0)
    )
    config.schedule.steps_per_epoch = 1000
    config.schedule.stage1_epochs = 0
    config.schedule.stage2_epochs = 400
    config.schedule.learning_rate = 1e-4
    config.ema_decay = 0.999
    return config


def detail(config: ConfigDict) -> ConfigDict:
    """Sets fine-tuning of the shipped weights by a GAN loss, with few steps."""
    plain(config)
    config.init = "photo"
    config.start = "random"
    config.optimizer = "adam"
    config.data.lr_crop = 24
    config.adversarial = common.adversarial(
        Adversarial(weight=0.02, perceptual_weight=0.2), features=32
    )
    config.schedule.stage2_epochs = 10
    config.schedule.cooldown_epochs = 5
    config.schedule.learning_rate = 1e-4
    return config


def plain(config: ConfigDict) -> ConfigDict:
    """Sets training by L1 alone, with few steps (docs/training-recipes.md)."""
    common.shorten(config)
    config.start = "bicubic"
    config.optimizer = "muon"
    config.data.lr_crop = 32
    config.schedule.stage1_epochs = 0
    config.schedule.steps_per_epoch = 40
    config.schedule.warmup_epochs = 1
    config.schedule.learning_rate = 1e-3
    config.schedule.cooldown_epochs = 59
    return config


def get_config(preset: str = "setting1") -> ConfigDict:
    """The locked config of a preset."""
    settings = common.PRESETS | PLAIN | GAN | {DETAIL: "photo"}
    presets = [*settings, *common.NETWORKS]
    if preset not in presets:
        raise ValueError(f"no preset {preset!r}: use one of {', '.join(presets)}")
    config = common.base("student", settings.get(preset, 1))
    config.network.update(common.NETWORKS.get(preset, {}))

    if preset in PLAIN:
        return plain(config).lock()
    if preset == DETAIL:
        return detail(config).lock()

    config.distillation = ConfigDict()
    config.distillation.teacher = ""  # the teacher's workdir
    # The temperature of the softmax inside KL, the weight of |R_Tc - R_Sc| beside KL.
    config.distillation.update(asdict(RECIPE.distillation))

    if preset in GAN:
        gan(config)
    if preset == "demo":
        common.shrink(config)
        # It starts from the teacher's network, so the rate is lower.
        config.schedule.learning_rate = 1e-3
        config.schedule.warmup_epochs = 2
        config.schedule.stage2_epochs = 6
    if preset.endswith("-short"):
        common.shorten(config)
        config.schedule.steps_per_epoch = 40
        config.schedule.learning_rate = 5e-4  # it starts from the teacher's network
    return config.lock()
