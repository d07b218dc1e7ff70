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
    real-short          the same network in 1,200 steps of 4 crops of 24 pixels, for
                        hours of a CPU
    real-demo           its degradations with the network of the demo
    demo                setting 1, minutes on a CPU
Expected (PSNR on Set5 at sigma 1.2, 2.4, 3.6): 32.34 32.13 31.02 in setting 1, after
582,000 steps; not yet run.
"""

from dataclasses import asdict

from ml_collections import ConfigDict

from configs import kdsr_teacher
from lightbsr_jax.methods.kdsr.recipe import RECIPE

PRESETS = kdsr_teacher.PRESETS


def get_config(preset: str = "setting1") -> ConfigDict:
    """The locked config of a preset."""
    config = kdsr_teacher.base("student", preset)
    config.distillation = ConfigDict()
    config.distillation.teacher = ""  # the teacher's workdir
    config.distillation.update(asdict(RECIPE.distillation))

    if preset == "real-short":
        kdsr_teacher.shorten(config)
    elif preset == "real":
        config.schedule.learning_rate = 2e-4
        config.schedule.decay_epochs = 600
    elif config.setting == 1:
        config.schedule.stage2_epochs = 600
        config.schedule.decay_epochs = 150
    else:
        config.schedule.stage1_epochs = 100
        config.schedule.stage1_learning_rate = RECIPE.learning_rates[0]
    if preset.endswith("demo"):
        kdsr_teacher.shrink(config)
        config.schedule.stage1_epochs = 2
    return config.lock()
