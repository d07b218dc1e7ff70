"""The teacher: contrastive learning (stage 1), then super-resolution (stage 2).

    python train.py --config=configs/teacher.py:setting1 --workdir=runs/teacher1 \\
        --config.data.hr=DIV2K_train_HR,Flickr2K_HR

Presets: setting1, setting2 (the paper's); setting1-short, setting2-short (the same
network and stages in 1,600 steps, see below); real, photo, real-short, photo-short (the
same with real-world degradations: ours, no paper has them); demo (setting 1, minutes on
a CPU); and the paper's ablations in setting 1: t1 to t4 (Table 1: prior and contrastive
loss), m1 to m5 (Table 2: modulation and IDR-CBs), d2 to d8 (Figure 4: crops an image);
t4, m4 and d4 are setting1. Expected of the paper's presets: 679,000 steps; not yet run.
Of the ablations PSNR on Set5, averaged over sigma 1.2, 2.4, 3.6: t1 31.60, t2 31.96, t3
31.75, t4 32.00; m1 29.25, m2 31.86, m3 31.92, m5 31.94; not yet run.

The short presets are for hours of two CPU cores. They leave the paper at: 1,600 steps
for 679,000, 400 of them in stage 1; batches of 8 for 64 and LR crops of 24 pixels for
64; rates of 5e-4 and 1e-3 for 2e-4, the second warmed up over 2 of 60 epochs for 5 of
600; a queue of 1,024 keys for 8,192 and a momentum of 0.99 for 0.999, so that the keys
keep up; and what is evaluated is an average of the weights. On an accelerator:

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

# Without contrastive loss there is no stage 1, and one crop an image is enough.
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
        raise ValueError(f"no preset {preset!r}: take one of {', '.join(presets)}")
    config = common.base("teacher", common.PRESETS.get(preset, 1))

    config.prior = True  # whether the estimator sees the degradation
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
        # Of few keys, not of those of fresh weights: the momentum branch keeps up.
        config.contrast.queue_size = 1024
        config.contrast.momentum = 0.99
    config.update_from_flattened_dict(ABLATIONS.get(preset, {}))
    return config.lock()
