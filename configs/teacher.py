"""The teacher: contrastive learning (stage 1), then super-resolution (stage 2).

    python train.py --config=configs/teacher.py:setting1 --workdir=runs/teacher1 \\
        --config.data.hr=DIV2K_train_HR,Flickr2K_HR

Presets:
    setting1, setting2              the paper's
    setting1-short, setting2-short  the same network and stages in 1,600 steps
    real, photo (and -short)        the same with real-world degradations, which are not
                                    in the paper
    demo                            setting 1, minutes on a CPU
    t1 to t4                        Table 1: prior and contrastive loss (t4: setting1)
    m1 to m5                        Table 2: modulation and IDR-CBs (m4: setting1)
    d2 to d8                        Figure 4: crops per image (d4: setting1)

The paper's presets take 679,000 steps and were not yet run. Expected PSNR of the
ablations on Set5, averaged over sigma 1.2, 2.4, 3.6: t1 31.60, t2 31.96, t3 31.75, t4
32.00; m1 29.25, m2 31.86, m3 31.92, m5 31.94; not yet run.

The short presets are for hours of two CPU cores. They differ from the paper's:

    steps            1,600, 400 of them in stage 1, instead of 679,000
    batch, LR crop   8 images, 24 pixels, instead of 64, 64
    learning rate    5e-4 (stage 1) and 1e-3 instead of 2e-4; warmed up over 2 of 60
                     epochs instead of 5 of 600
    contrast         1,024 keys instead of 8,192, and momentum 0.99 instead of 0.999, so
                     that keys keep up in few steps
    evaluated        averaged weights

On an accelerator:

    python train.py --config=configs/teacher.py:setting2-short \\
        --workdir=runs/teacher2 --config.data.hr=FOLDER --config.minutes=9 \\
        --config.compute.dtype=bfloat16 --config.data.batch_size=64 \\
        --config.data.lr_crop=48 --config.ema_decay=0.999 \\
        --config.log.every_steps=200 --config.checkpoint.every_steps=2000 \\
        --config.validation.every_steps=4000
"""

from dataclasses import asdict

from ml_collections import ConfigDict

from configs import common
from lightbsr_jax.methods.lightbsr.recipe import RECIPE

# Without contrastive loss there is no stage 1, and one crop per image is enough.
NO_CONTRAST = {
    "contrast.enabled": False,
    "contrast.crops": 1,
    "schedule.stage1_epochs": 0,
}
ABLATIONS = {
    "t1": {"prior": False, **NO_CONTRAST},
    "t2": NO_CONTRAST,
    "t3": {"prior": False},
    "t4": {},
    **{
        name: {f"network.{field}": value for field, value in fields.items()}
        for name, fields in common.NETWORKS.items()
    },
    **{f"d{crops}": {"contrast.crops": crops} for crops in range(2, 9)},
}


def get_config(preset: str = "setting1") -> ConfigDict:
    """The locked config of a preset."""
    presets = [*common.PRESETS, *ABLATIONS]
    if preset not in presets:
        raise ValueError(f"no preset {preset!r}: use one of {', '.join(presets)}")
    config = common.base("teacher", common.PRESETS.get(preset, 1))

    config.prior = True  # False hides the degradation from the estimator
    config.contrast = ConfigDict()
    config.contrast.enabled = True
    config.contrast.crops = 4  # D, of one image: positives of each other
    config.contrast.queue_size = 8192  # negatives, a multiple of the batch
    config.contrast.update(asdict(RECIPE.contrast))  # momentum and temperature

    if preset == "demo":
        common.shrink(config)
        config.contrast.crops = 2
        config.contrast.queue_size = 1024
    if preset.endswith("-short"):
        common.shorten(config)
        config.schedule.steps_per_epoch = 20
        config.schedule.learning_rate = 1e-3
        # A short queue and a faster momentum branch, so that keys keep up in few steps.
        config.contrast.queue_size = 1024
        config.contrast.momentum = 0.99
    config.update_from_flattened_dict(ABLATIONS.get(preset, {}))
    return config.lock()
