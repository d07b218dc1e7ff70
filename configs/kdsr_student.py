"""KDSR's student, which learns its teacher's feature from the LR image alone.

    python train.py --config=configs/kdsr_student.py:setting1 \\
        --workdir=runs/kdsr_student1 \\
        --config.distillation.teacher=runs/kdsr_teacher1 \\
        --config.data.hr=DIV2K_train_HR,Flickr2K_HR

Presets:
    setting1, setting2  the published KDSR-M; setting 2 has a first stage, which trains
                        only the estimator
    large1              KDSR-L
    real                KDSR's real-world network, trained by L1 and distillation for
                        1,000,000 steps
    real-gan            its third stage: from that student (--config.init), with the
                        GAN and perceptual losses beside L1 and distillation, for
                        400,000 steps
    real-short          the same network in 1,200 steps of 4 crops of 24 pixels, for
                        hours of a CPU
    real-demo           its degradations with the network of the demo
    real-gan-demo       a third stage of real-demo
    demo                setting 1, minutes on a CPU

    python train.py --config=configs/kdsr_student.py:real-gan --workdir=runs/kdsr_gan \\
        --config.init=runs/kdsr_real \\
        --config.distillation.teacher=runs/kdsr_teacher_real \\
        --config.adversarial.perceptual=vgg19-dcbb9e9d.pth \\
        --config.data.hr=DIV2K_train_HR,Flickr2K_HR,OST

Expected (PSNR on Set5 at sigma 1.2, 2.4, 3.6): 32.34 32.13 31.02 in setting 1, after
582,000 steps; not yet run.
"""

from dataclasses import asdict

from ml_collections import ConfigDict

from configs import common, kdsr_teacher
from lightbsr_jax.methods.kdsr.recipe import RECIPE

GAN = {"real-gan": "real", "real-gan-demo": "real-demo"}  # continue these presets
PRESETS = kdsr_teacher.PRESETS | dict.fromkeys(GAN, "real")


def get_config(preset: str = "setting1") -> ConfigDict:
    """The locked config of a preset."""
    if preset not in PRESETS:
        raise ValueError(f"no preset {preset!r}: use one of {', '.join(PRESETS)}")
    config = kdsr_teacher.base("student", GAN.get(preset, preset))
    config.distillation = ConfigDict()
    config.distillation.teacher = ""  # the teacher's workdir
    config.distillation.update(asdict(RECIPE.distillation))

    if preset == "real-short":
        kdsr_teacher.shorten(config)
    elif preset == "real":
        config.schedule.learning_rate = 2e-4
        config.schedule.decay_epochs = 600
    elif preset == "real-gan":
        config.schedule.stage2_epochs = 400
        config.schedule.learning_rate = 1e-4
        config.schedule.decay = 1.0  # constant
    elif config.setting == 1:
        config.schedule.stage2_epochs = 600
        config.schedule.decay_epochs = 150
    else:
        config.schedule.stage1_epochs = 100
        config.schedule.stage1_learning_rate = RECIPE.learning_rates[0]
    if preset.endswith("demo"):
        kdsr_teacher.shrink(config)
        config.schedule.stage1_epochs = 2
    if preset in GAN:
        demo = preset.endswith("demo")
        config.schedule.stage1_epochs = 0
        config.adversarial = common.adversarial(
            RECIPE.adversarial, features=16 if demo else 64
        )
    return config.lock()
