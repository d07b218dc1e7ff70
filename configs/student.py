"""The student: distilled IDRs (stage 1), then super-resolution with them (stage 2).

    python train.py --config=configs/student.py:setting1 --workdir=runs/student1 \\
        --config.distillation.teacher=runs/teacher1 \\
        --config.data.hr=DIV2K_train_HR,Flickr2K_HR

Presets: setting1, setting2 (the paper's); setting1-short, setting2-short (the same
network and stages in 3,200 steps, see below); setting1-plain, setting2-plain (the same
network by L1 alone, 2,400 steps, no teacher: to go on from weights by --config.init);
real, photo, real-short, photo-short (the same as setting2 with real-world degradations:
ours, no paper has them); demo (setting 1, minutes on a CPU); m1 to m5 (setting 1,
distilled from a teacher of the same preset).
Expected of the paper's presets (PSNR on Set5 at sigma 1.2, 2.4, 3.6): 32.47 32.17
31.06 in setting 1, after 679,000 steps; not yet run.
Measured of the short ones on two CPU cores: setting2-short, which comes with the
program, B100 at noise 5, nine kernels, 24.94 in the mean (bicubic 24.29);
setting1-short with steps_per_epoch 7 and 20 Set5 29.22 27.91 26.07 (27.69 25.99 24.45).
531 steps of setting1-plain from setting2's weights, which come as setting1: Set5 29.46
28.58 26.72.

The short presets are for hours of two CPU cores, after a teacher's of that name. They
leave the paper at: 3,200 steps for 679,000, 800 of them in stage 1; batches of 8 for
64 and LR crops of 24 pixels for 64; rates of 5e-4 for 2e-4, warmed up over 2 of 60
epochs for 5 of 600; and what is evaluated is an average of the weights. On an
accelerator: the flags that configs/teacher.py names, with --config.minutes=16.
"""

from dataclasses import asdict

from ml_collections import ConfigDict

from configs import common
from lightbsr_jax.methods.lightbsr.recipe import RECIPE

PLAIN = {  # presets without a teacher
    "setting1-plain": 1,
    "setting2-plain": 2,
    "real-plain": "real",
    "photo-plain": "photo",
}


def plain(config: ConfigDict) -> ConfigDict:
    """L1 alone, in few steps of few and small crops (docs/training-recipes.md)."""
    common.shorten(config)
    config.start = "bicubic"
    config.optimizer = "muon"
    config.schedule.stage1_epochs = 0
    config.schedule.steps_per_epoch = 40
    config.schedule.learning_rate = 5e-4
    config.schedule.cooldown_epochs = 20
    return config


def get_config(preset: str = "setting1") -> ConfigDict:
    """The locked config of a preset."""
    presets = [*common.PRESETS, *PLAIN, *common.NETWORKS]
    if preset not in presets:
        raise ValueError(f"no preset {preset!r}: take one of {', '.join(presets)}")
    config = common.base("student", (common.PRESETS | PLAIN).get(preset, 1))
    config.network.update(common.NETWORKS.get(preset, {}))

    if preset in PLAIN:
        return plain(config).lock()

    config.distillation = ConfigDict()
    config.distillation.teacher = ""  # the teacher's workdir
    # The temperature of the softmax inside KL, the weight of |R_Tc - R_Sc| beside KL.
    config.distillation.update(asdict(RECIPE.distillation))

    if preset == "demo":
        common.shrink(config)
        # The teacher's network is its start: gently from there.
        config.schedule.learning_rate = 1e-3
        config.schedule.warmup_epochs = 2
        config.schedule.stage2_epochs = 6
    if preset.endswith("-short"):
        common.shorten(config)
        config.schedule.steps_per_epoch = 40
        config.schedule.learning_rate = 5e-4  # the teacher's network is its start
    return config.lock()
