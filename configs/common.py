"""What the teacher's and the student's configs share: the paper's values.

Those that `lightbsr compare` steps with as well, Adam's numbers, rates, momentum,
temperatures and weights of losses, are in the methods' recipes
(lightbsr_jax/methods/NAME/recipe.py): what is compared is what is trained.
"""

from dataclasses import asdict

from ml_collections import ConfigDict

from lightbsr_jax.methods.lightbsr.recipe import RECIPE
from lightbsr_jax.methods.recipe import Recipe

PRESETS = {  # beside ablations, to the setting
    "setting1": 1,
    "setting2": 2,
    "setting1-short": 1,
    "setting2-short": 2,
    "real": "real",
    "photo": "photo",
    "real-short": "real",
    "photo-short": "photo",
    "demo": 1,
}
# Table 2 of the paper, in setting 1. M4- and M5- are these, measured with spoilt IDRs
# (configs/benchmark.py:spoilt).
NETWORKS = {
    "m1": {"spatial_modulation": False, "channel_modulation": False},
    "m2": {"channel_modulation": False},
    "m3": {"spatial_modulation": False},
    "m4": {},
    "m5": {"converter_blocks": False},
}


def base(role: str, setting: int | str, recipe: Recipe = RECIPE) -> ConfigDict:
    """The paper's training of section 4.1, setting 1 or 2, unlocked.

    Adam's numbers and the rates are those of a method's `recipe`.
    """
    config = ConfigDict()
    config.role = role
    # 1: isotropic blur, no noise. 2: anisotropic blur and noise up to 25. jpeg, real,
    # photo: see lightbsr_jax/imaging/settings.py. The prior's length follows.
    config.setting = setting
    config.scale = 4  # 2, 3 or 4
    config.seed = 1  # of initial weights, crops, degradations, prior basis
    # Weights to start from, as far as they fit: the name of those that come with the
    # program, a file (packed, or of the reference), or a workdir. The rest is fresh.
    config.init = ""
    # A fresh network is random, or bicubic interpolation.
    config.start = "random"

    config.network = ConfigDict()
    config.network.groups = 8
    config.network.blocks = 8  # a group
    # What the blocks modulate their features with, and whether every group converts
    # the IDR first (its IDR-CBs): parts that Table 2 takes away.
    config.network.spatial_modulation = True
    config.network.channel_modulation = True
    config.network.converter_blocks = True

    config.degradation = ConfigDict()
    # Largest width of a blur kernel, in HR pixels: 4, 3, 2 at scale 4, 3, 2. The
    # settings real and photo have widths of their own.
    config.degradation.width_max = config.get_ref("scale").to_float()

    config.data = ConfigDict()
    # HR images: folders, searched recursively and separated by commas; or what
    # `lightbsr prepare` made of them; or scikit-image for the photographs inside that
    # package.
    config.data.hr = ""
    # Keep all of them in the device's memory and cut crops there: the same crops.
    config.data.resident = False
    config.data.batch_size = 64  # images a step, over all devices
    config.data.lr_crop = 64  # side of a crop in LR pixels
    config.data.threads = 8  # that read images

    config.schedule = ConfigDict()
    config.schedule.steps_per_epoch = 970
    config.schedule.stage1_epochs = 100
    config.schedule.stage1_learning_rate, rate = recipe.learning_rates  # 2e-4, 2e-4
    config.schedule.stage2_epochs = 600
    config.schedule.warmup_epochs = 5
    config.schedule.learning_rate = rate
    config.schedule.final_learning_rate = 1e-6
    # Above 0: the first steps are timed, and steps_per_epoch becomes what fits into so
    # many minutes of training (compiling, validation and checkpoints come on top).
    config.minutes = 0.0

    config.optimizer = "adam"  # or muon: of matrices, and Adam of all else
    config.adam = ConfigDict(asdict(recipe.adam))  # b1, b2 and eps

    config.ema_decay = (
        0.0  # of the weights that are evaluated; 0: those of the last step
    )
    # Updates that were not finite, and so not made, after which a run stops.
    config.skipped_in_a_row = 10

    config.compute = ConfigDict()
    config.compute.dtype = "float32"  # or bfloat16, with float32 parameters

    # The fields below do not change what is learnt; a run may go on with others.
    # For want of memory: compute the insides of blocks anew for the gradients, and
    # restore a device's share of the batch in so many parts.
    config.compute.rematerialise = True
    config.compute.parts = 1

    config.validation = ConfigDict()
    # Folders or DIR:validation of prepared data, as data.hr; empty for no validation.
    config.validation.hr = ""
    config.validation.every_steps = 9700
    config.validation.images = 10  # the first so many
    config.validation.pictures = 2  # of them, saved as pictures

    config.log = ConfigDict()
    config.log.every_steps = 100

    config.checkpoint = ConfigDict()
    config.checkpoint.every_steps = 970
    config.checkpoint.keep = 3  # the newest so many
    return config


def shrink(config: ConfigDict) -> None:
    """A small network and a schedule of minutes on two CPU cores (`make demo`).

    Few steps ask for a higher learning rate than the paper's.
    """
    config.network.groups = 2
    config.network.blocks = 2
    config.schedule.stage1_epochs = 2
    config.schedule.warmup_epochs = 1
    config.schedule.final_learning_rate = 1e-5
    _shrink_training(config)


def stepped_schedule(recipe: Recipe) -> ConfigDict:
    """KDSR's and DASR's: the rate falls by steps, and stage 2 takes 500 epochs."""
    schedule = ConfigDict()
    schedule.steps_per_epoch = 970
    schedule.stage1_epochs = 0
    schedule.stage1_learning_rate = 1e-3
    schedule.stage1_decay_epochs = 60
    schedule.stage1_decay = 0.1
    schedule.stage2_epochs = 500
    schedule.learning_rate = recipe.learning_rates[1]
    schedule.decay_epochs = 125
    schedule.decay = 0.5
    return schedule


def shrink_stepped(config: ConfigDict) -> None:
    """As `shrink`, with a `stepped_schedule` and but for the network."""
    config.schedule.decay_epochs = 2
    _shrink_training(config)


def _shrink_training(config: ConfigDict) -> None:
    config.data.hr = "scikit-image"
    config.data.batch_size = 8
    config.data.lr_crop = 24
    config.data.threads = 2
    config.schedule.steps_per_epoch = 50
    config.schedule.stage1_learning_rate = 1e-3
    config.schedule.stage2_epochs = 8
    config.schedule.learning_rate = 2e-3
    config.validation.hr = "scikit-image:test"
    config.validation.every_steps = 1000
    config.log.every_steps = 25
    config.checkpoint.every_steps = 200


def shorten(config: ConfigDict) -> None:
    """The whole network and the paper's stages, in few steps of few and small crops.

    They ask for a higher learning rate and a longer warm-up, and the weights that are
    evaluated are averaged. Stage 1, whose steps cost little, gets more of them.
    """
    config.data.resident = True
    config.data.batch_size = 8
    config.data.lr_crop = 24
    config.data.threads = 2
    config.schedule.stage1_epochs = 20
    config.schedule.stage1_learning_rate = 5e-4
    config.schedule.stage2_epochs = 60
    config.schedule.warmup_epochs = 2
    config.ema_decay = 0.995
    config.validation.hr = "scikit-image:test"
    config.validation.every_steps = 700
    config.validation.images = 1
    config.validation.pictures = 1
    config.log.every_steps = 20
    config.checkpoint.every_steps = 100
