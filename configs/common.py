"""Common fields of the teacher's and the student's configs: the paper's values.

Values that `lightbsr compare` needs as well (Adam's parameters, rates, momentum,
temperatures and weights of losses) are in the methods' recipes
(lightbsr_jax/methods/NAME/recipe.py), so that training and comparison agree.
"""

from dataclasses import asdict

from ml_collections import ConfigDict, FieldReference

from lightbsr_jax.methods.lightbsr.recipe import RECIPE
from lightbsr_jax.methods.recipe import Adversarial, Recipe

PRESETS = {  # presets except ablations, and their settings
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
    """The training of section 4.1 of the paper, unlocked.

    Adam's parameters and the rates come from a method's `recipe`.
    """
    config = ConfigDict()
    config.role = role
    # 1: isotropic blur, no noise. 2: anisotropic blur and noise up to 25. jpeg, real,
    # photo: see lightbsr_jax/imaging/settings.py. It determines the prior's length.
    config.setting = FieldReference(setting, field_type=object)  # a number or a name
    config.scale = 4  # 2, 3 or 4
    config.seed = 1  # of initial weights, crops, degradations, prior basis
    # Weights to start from, as far as they fit: the name of weights that come with the
    # program, a file (packed, or of the reference), or a workdir. `start` initialises
    # the rest.
    config.init = ""
    # Initial weights: random, or bicubic (the network interpolates bicubically), which
    # is not for students with a teacher: they begin with its restorer.
    config.start = "random"

    config.network = ConfigDict()
    config.network.groups = 8
    config.network.blocks = 8  # per group
    # Modulations of the blocks, and the IDR-CBs with which each group converts the IDR:
    # the ablations of Table 2 remove them.
    config.network.spatial_modulation = True
    config.network.channel_modulation = True
    config.network.converter_blocks = True

    config.degradation = ConfigDict()
    # Largest width of a blur kernel, in HR pixels: 4, 3, 2 at scale 4, 3, 2. The
    # settings real and photo define their own widths.
    config.degradation.width_max = config.get_ref("scale").to_float()

    config.data = ConfigDict()
    # HR images: folders, searched recursively and separated by commas; or a dataset of
    # `lightbsr prepare`; or scikit-image for the photographs inside that package.
    config.data.hr = ""
    # Folders of LR images with the names of HR images (real pairs), and the share of
    # pairs among training examples; the setting degrades the others.
    config.data.lr = ""
    config.data.paired_share = 1.0
    # Keep all images in the device's memory and cut the same crops there.
    config.data.resident = False
    config.data.batch_size = 64  # images per step, over all devices
    config.data.lr_crop = 64  # side of a crop in LR pixels
    config.data.threads = 8  # threads that read images

    config.schedule = ConfigDict()
    config.schedule.steps_per_epoch = 970
    config.schedule.stage1_epochs = 100
    config.schedule.stage1_learning_rate, rate = recipe.learning_rates  # 2e-4, 2e-4
    config.schedule.stage2_epochs = 600
    config.schedule.warmup_epochs = 5
    config.schedule.learning_rate = rate
    config.schedule.final_learning_rate = 1e-6
    # Above 0: the first steps are timed, and steps_per_epoch is set so that training
    # takes that many minutes (plus compilation, validation and checkpoints).
    config.minutes = 0.0

    config.optimizer = "adam"  # or muon: Muon for matrices, Adam for the rest
    config.adam = ConfigDict(asdict(recipe.adam))  # b1, b2 and eps
    # L_SR: l1, the mean absolute error, or rmse, the root mean squared error of each
    # image (higher PSNR, softer where an image is ambiguous).
    config.pixel_loss = "l1"
    config.gradient_clip = 0.0  # largest norm of all gradients; 0: no limit

    # Of the averaged weights to evaluate; 0: evaluate the last weights.
    config.ema_decay = 0.0
    # Number of consecutive updates that are not finite after which a run stops.
    config.skipped_in_a_row = 10

    config.compute = ConfigDict()
    config.compute.dtype = "float32"  # or bfloat16, with float32 parameters, or auto

    # The fields below do not change the result; a resumed run may have other values.
    # To save memory: recompute the insides of blocks for gradients, and restore a
    # device's share of the batch in that many parts (64 images on one device: 11.1 GB
    # in one part, 6.4 GB in two).
    config.compute.rematerialise = True
    config.compute.parts = 1

    config.validation = ConfigDict()
    # Folders as in data.hr, or DIR:validation of prepared data; empty: no validation.
    config.validation.hr = ""
    config.validation.lr = ""  # their LR images: a folder; empty to make them
    config.validation.every_steps = 9700
    config.validation.images = 10  # number of images, the first ones
    config.validation.pictures = 2  # number of these to save as pictures
    config.validation.sr = False  # save the SR images of all, in WORKDIR/validation/sr

    config.log = ConfigDict()
    config.log.every_steps = 100

    config.checkpoint = ConfigDict()
    config.checkpoint.every_steps = 970
    config.checkpoint.keep = 3  # number of the newest to keep
    config.checkpoint.keep_every_steps = 0  # keep those of every N-th step too; 0: none
    # Keep the weights with the highest validation PSNR as WORKDIR/best.safetensors.
    config.checkpoint.best = True
    return config


def adversarial(weights: Adversarial, features: int = 64) -> ConfigDict:
    """The fields of a last stage with a GAN loss, of a network that is trained.

    The `weights` of losses are relative to L1 on images in [0, 1]; `features` is the
    width of the discriminator.
    """
    config = ConfigDict(asdict(weights))  # weight, perceptual_weight
    config.features = features
    # torchvision's state dict of VGG19 (.pth, or .safetensors without torch), which
    # does not come with the program; empty: no perceptual loss.
    config.perceptual = ""
    # Losses that need no such file: of the Fourier transform, which weighs frequencies
    # by their errors, and 1 - MS-SSIM. 0: none.
    config.focal_frequency_weight = 0.0
    config.ms_ssim_weight = 0.0
    return config


def shrink(config: ConfigDict) -> None:
    """Sets a small network and a schedule of minutes on two CPU cores (`make demo`).

    The few steps need a higher learning rate than the paper's.
    """
    config.network.groups = 2
    config.network.blocks = 2
    config.schedule.stage1_epochs = 2
    config.schedule.warmup_epochs = 1
    config.schedule.final_learning_rate = 1e-5
    _shrink_training(config)


def stepped_schedule(recipe: Recipe) -> ConfigDict:
    """The schedule of KDSR and DASR: rates fall by steps; stage 2 has 500 epochs."""
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
    """Shortens a `stepped_schedule` as `shrink` does; the network does not change."""
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
    """Sets few steps of few and small crops, with the whole network and both stages.

    They need a higher learning rate and a longer warm-up, and averaged weights are
    evaluated. Stage 1, whose steps are cheap, gets a larger share of steps.
    """
    config.data.resident = True
    config.data.batch_size = 8
    config.data.lr_crop = 24
    config.data.threads = 2
    config.schedule.stage1_epochs = 20
    config.schedule.stage1_learning_rate = 5e-4
    config.schedule.stage2_epochs = 60
    if "warmup_epochs" in config.schedule:
        config.schedule.warmup_epochs = 2
    else:
        config.schedule.decay_epochs = 30
    config.ema_decay = 0.995
    config.validation.hr = "scikit-image:test"
    config.validation.every_steps = 700
    config.validation.images = 1
    config.validation.pictures = 1
    config.log.every_steps = 20
    config.checkpoint.every_steps = 100
