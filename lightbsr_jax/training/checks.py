"""Checks before a run: its config, its workdir, and the run that it resumes."""

import math
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
from flax.traverse_util import flatten_dict

from lightbsr_jax import atomic
from lightbsr_jax.data import sources
from lightbsr_jax.errors import UserError
from lightbsr_jax.imaging import degradation
from lightbsr_jax.networks.discriminator import REDUCTION
from lightbsr_jax.spec import Sees, method_of
from lightbsr_jax.training.config import SteppedSchedule, TrainingConfig
from lightbsr_jax.training.initial import STARTS
from lightbsr_jax.training.losses import PIXEL_LOSSES
from lightbsr_jax.training.optimizers import OPTIMIZERS

# Fields and groups that may change when a run is resumed. The content of data and
# teacher must not change, but their paths may.
RESUMABLE = (
    "data.hr",
    "data.lr",
    "data.resident",
    "data.threads",
    "distillation.teacher",
    "adversarial.perceptual",
    "compute.rematerialise",
    "compute.parts",
    "skipped_in_a_row",
    "init",  # a resumed run already contains these weights
    "minutes",  # it only determines schedule.steps_per_epoch
    "validation.",
    "log.",
    "checkpoint.",
)

# Fields that may differ between the processes of a run: places of files, and what only
# one process uses.
OWN = (
    "data.hr",
    "data.lr",
    "data.threads",
    "distillation.teacher",
    "adversarial.perceptual",
    "init",
    "validation.",
)

# Fields added later, and their values in earlier runs.
SINCE = {
    "start": "random",
    "optimizer": "adam",
    "pixel_loss": "l1",
    "data.paired_share": 1.0,
    "gradient_clip": 0.0,
    "adversarial.focal_frequency_weight": 0.0,
    "adversarial.ms_ssim_weight": 0.0,
}

# Fields that no longer may have other values, which had no effect.
UNPAIRED = {"data.paired_share": 1.0}  # without data.lr
DISTILLED = {"start": "random"}  # if a student begins with its teacher's restorer

# A resumed run may have more of them.
EPOCHS = "config.schedule.stage2_epochs"

SMALLEST_CROP = 8  # in LR pixels
AUTO = "auto"  # a start of training replaces it
DTYPES = ("float32", "bfloat16", AUTO)
_LARGEST_SEED = 2**31 - 1  # devices get it as int32
# The smallest values of fields; a ModelSpec checks those of the network.
LEAST = {
    "seed": 0,
    "minutes": 0,
    "skipped_in_a_row": 1,
    "gradient_clip": 0,
    "adversarial.weight": 0,
    "adversarial.perceptual_weight": 0,
    "adversarial.focal_frequency_weight": 0,
    "adversarial.ms_ssim_weight": 0,
    "adversarial.features": 1,
    "data.batch_size": 1,
    "data.threads": 0,
    "compute.parts": 1,
    "schedule.steps_per_epoch": 1,
    "schedule.stage1_epochs": 0,
    "schedule.stage1_learning_rate": 0,
    "schedule.stage2_epochs": 1,
    "schedule.learning_rate": 0,
    "schedule.final_learning_rate": 0,
    "schedule.stage1_decay_epochs": 1,
    "schedule.decay_epochs": 1,
    "schedule.stage1_decay": 0,
    "schedule.decay": 0,
    "distillation.l1_weight": 0,
    "validation.every_steps": 1,
    "validation.images": 1,
    "validation.pictures": 0,
    "log.every_steps": 1,
    "checkpoint.every_steps": 1,
    "checkpoint.keep": 1,
    "checkpoint.keep_every_steps": 0,
}

FRACTIONS = ("ema_decay", "adam.b1", "adam.b2", "contrast.momentum")  # in [0, 1)
POSITIVE = ("adam.eps", "contrast.temperature", "distillation.temperature")

IMAGES = "the images of config.data.hr"  # in messages


def check(config: TrainingConfig) -> None:
    """Raises UserError, with the remedies, for a config that cannot be trained."""
    rules = (_too_small, _numbers, _data, _pairs, _contrast, _adversarial, _stages)
    problems = [problem for rule in rules for problem in rule(config)]
    if problems:
        raise UserError("; ".join(f"config.{problem}" for problem in problems))


def _too_small(config: TrainingConfig) -> Iterator[str]:
    values = _flat(config)
    for name, least in LEAST.items():
        if name in values and not values[name] >= least:  # NaN is not
            yield f"{name} {values[name]} is too small: at least {least}"
        elif values.get(name) == math.inf:
            yield f"{name} {values[name]} is not finite"


def _flat(config: TrainingConfig) -> dict[str, Any]:
    """All fields by their names, such as "adam.eps"."""
    return flatten_dict(dict(config.as_given), sep=".")


def _numbers(config: TrainingConfig) -> Iterator[str]:
    dtype, width = config.compute.dtype, config.degradation.width_max
    if dtype not in DTYPES:
        yield f"compute.dtype {dtype!r} is not one of {', '.join(DTYPES)}"
    choices = {
        "start": STARTS,
        "optimizer": OPTIMIZERS,
        "pixel_loss": PIXEL_LOSSES,
    }
    for field, known in choices.items():
        value = getattr(config, field)
        if value not in known:
            yield f"{field} {value!r} is not {' or '.join(known)}"
    if config.start == "bicubic" and _inherits_restorer(config.as_given):
        yield (
            "start 'bicubic' has no effect, because a student begins with its "
            "teacher's restorer: leave this field out"
        )
    if config.seed > _LARGEST_SEED:
        yield f"seed {config.seed} is too large: at most {_LARGEST_SEED}"
    values = _flat(config)
    for name in FRACTIONS:
        if name in values and not 0 <= values[name] < 1:
            yield f"{name} {values[name]} is not in [0, 1)"
    for name in POSITIVE:
        if name in values and not 0 < values[name] < math.inf:
            yield f"{name} {values[name]} must be above 0 and finite"
    if width == math.inf:
        yield f"degradation.width_max {width} is not finite"
    elif not width > degradation.WIDTH_MIN:
        yield (
            f"degradation.width_max {width} must be above {degradation.WIDTH_MIN}, the "
            "smallest width"
        )


def _data(config: TrainingConfig) -> Iterator[str]:
    batch, crop, devices = (
        config.data.batch_size,
        config.data.lr_crop,
        jax.device_count(),
    )
    parts = config.compute.parts
    if not config.data.hr:
        yield "data.hr names no HR images: --config.data.hr=FOLDER[,FOLDER]"
    if batch > 0 and batch % devices:
        yield f"data.batch_size {batch} is not a multiple of the {devices} devices"
    elif parts > 0 and batch // devices % parts:
        yield (
            f"compute.parts {parts} does not divide a device's share of the batch, "
            f"{batch // devices} images"
        )
    if crop < SMALLEST_CROP:
        yield (
            f"data.lr_crop {crop} is too small: at least {SMALLEST_CROP}, so that blur "
            "kernels fit into the HR crop"
        )


def _pairs(config: TrainingConfig) -> Iterator[str]:
    data, share = config.data, config.data.paired_share
    if not 0 <= share <= 1:
        yield f"data.paired_share {share} is not in [0, 1]"
    elif share != UNPAIRED["data.paired_share"] and not data.lr:
        yield (
            f"data.paired_share {share} has no pairs: --config.data.lr=FOLDER of LR "
            "images, or leave this field out"
        )
    if config.validation.lr and not config.validation.hr:
        yield "validation.lr has no HR images: --config.validation.hr=FOLDER"
    if data.lr and data.resident:
        yield "data.resident does not work with data.lr: set it to False"
    sees_prior = config.model.entry.privileged == Sees.PRIOR.value and (
        config.distillation is not None or config.model.sees is Sees.PRIOR
    )
    for field, given in {"data": data.lr, "validation": config.validation.lr}.items():
        if not given:
            continue
        if field == "data" and sees_prior:
            yield (
                "data.lr: the degradation of real pairs is unknown, but the teacher "
                "needs it: train without one (a preset such as photo-plain)"
            )
        elif field == "validation" and config.model.sees is Sees.PRIOR:
            yield (
                "validation.lr: the degradation of real pairs is unknown, but the "
                "teacher needs it: remove this field"
            )


def _contrast(config: TrainingConfig) -> Iterator[str]:
    if config.contrast is None:
        return
    batch, queue = config.data.batch_size, config.contrast.queue_size
    crops = config.contrast.crops
    if batch > 0 and (queue < 1 or queue % batch):
        yield (
            f"contrast.queue_size {queue} is not a multiple of the global batch size "
            f"{batch}: use {max(queue // batch, 1) * batch}"
        )
    if config.contrast.enabled and crops < 2:
        yield f"contrast.crops {crops}: a contrast needs at least 2"
    if config.model.entry.contrasts == "pair" and crops != 2:
        yield f"contrast.crops {crops}: the method contrasts pairs: use 2"


def _adversarial(config: TrainingConfig) -> Iterator[str]:
    if config.adversarial is None:
        return
    if config.contrast is not None:
        yield (
            "adversarial does not work with contrast: train the network's stages "
            "first, then start from it with a preset such as photo-gan"
        )
    crop, scale = config.data.lr_crop, config.model.scale
    step = REDUCTION // math.gcd(REDUCTION, scale)
    if crop % step:
        yield (
            f"data.lr_crop {crop}: the discriminator needs a multiple of {step} at "
            f"scale {scale}: use {max(crop // step, 1) * step}"
        )


def _stages(config: TrainingConfig) -> Iterator[str]:
    schedule = config.schedule
    has_first = config.contrasts or config.distillation is not None
    if schedule.stage1_epochs and config.adversarial is not None:
        yield (
            f"schedule.stage1_epochs {schedule.stage1_epochs}: with a GAN loss there "
            "is no stage 1: use 0"
        )
    elif schedule.stage1_epochs and not has_first:
        yield (
            f"schedule.stage1_epochs {schedule.stage1_epochs}: without contrastive "
            "learning or distillation there is no stage 1: use 0"
        )
    if config.distillation is not None and not config.distillation.teacher:
        yield (
            "distillation.teacher names no teacher: "
            "--config.distillation.teacher=WORKDIR of a trained one"
        )
    if isinstance(schedule, SteppedSchedule):
        return
    if not 0 <= schedule.warmup_epochs < schedule.stage2_epochs:
        yield (
            f"schedule.warmup_epochs {schedule.warmup_epochs} is not below "
            f"schedule.stage2_epochs {schedule.stage2_epochs}"
        )
    elif schedule.cooldown_epochs is not None:
        most = schedule.stage2_epochs - schedule.warmup_epochs
        if not 1 <= schedule.cooldown_epochs <= most:
            yield (
                f"schedule.cooldown_epochs {schedule.cooldown_epochs} must be from 1 "
                f"to {most}, the epochs of stage 2 after its warm-up"
            )


def _inherits_restorer(values: Mapping[str, Any]) -> bool:
    """Returns whether a config.json is of a student with its teacher's restorer."""
    return "distillation" in values and "restorer" in method_of(values).inherited


def check_pictures(config: TrainingConfig, workdir: Path) -> None:
    """Raises UserError if a later start would take the run's pictures for images."""
    wanted = config.validation
    if not wanted.hr or not (wanted.pictures or wanted.sr):
        return
    for field, text in {"data": config.data.hr, "validation": wanted.hr}.items():
        if folder := sources.searched_folder(workdir, text):
            raise UserError(
                f"--workdir={workdir} lies in config.{field}.hr={folder}, where the "
                "pictures of its validation would be found as images: name (or move "
                "it to) a folder outside, or set config.validation.pictures to 0 and "
                "config.validation.sr to False"
            )


def check_workdir(workdir: Path) -> None:
    """Makes `workdir`; raises UserError if it cannot be written to."""
    try:
        atomic.make_writable(workdir)
    except OSError as error:
        raise UserError(
            f"--workdir={workdir} cannot be written to ({error.strerror}): name "
            "another folder"
        ) from error


def check_room(workdir: Path, size: int) -> None:
    """Raises UserError unless `size` bytes fit into `workdir`."""
    free = shutil.disk_usage(workdir).free
    if free < size:
        raise UserError(
            f"--workdir={workdir} has {free / 1e6:.0f} MB free, and a checkpoint needs "
            f"up to {size / 1e6:.0f} MB: free space, or name another folder"
        )


def _image_changes(saved: dict[str, Any], now: dict[str, Any]) -> str:
    """Describes the numbers of images, and the added and removed ones."""
    before_hr, now_hr = (x["images"].split("+")[0] for x in (saved, now))
    if before_hr == now_hr:
        return "are the same, but not their pairs, the LR images of config.data.lr"
    before, after = saved.get("names"), now.get("names", [])
    if before is None:  # a checkpoint of an earlier version
        return f"are {len(after)}, different from before"
    text = f"were {len(before)}, are {len(after)}"
    for word, names in {
        "without": sorted(set(before) - set(after)),
        "and new": sorted(set(after) - set(before)),
    }.items():
        if names:
            text += f", {word} {', '.join(names[:3])}{', ...' * (len(names) > 3)}"
    same = sorted(before) == sorted(after)
    return text + ", with the same names but other sizes or another order" * same


def _among(field: str, names: tuple[str, ...]) -> bool:
    """Returns whether a field or its group is one of the names."""
    groups = tuple(name for name in names if name.endswith("."))
    return field in names or field.startswith(groups)


def common_fields(identity: dict[str, Any]) -> dict[str, Any]:
    """The config's fields and the images that all processes of a run must share."""
    fields = flatten_dict(identity["config"], sep=".")
    return {
        **{f"config.{k}": v for k, v in fields.items() if not _among(k, OWN)},
        IMAGES: identity["images"],
    }


def fixed_fields(identity: dict[str, Any]) -> dict[str, Any]:
    """The parts of a run's identity that must not change, by names known to users."""
    values = identity["config"]
    fields = {**SINCE, **flatten_dict(values, sep=".")}
    if not fields.get("data.lr"):
        fields |= UNPAIRED
    if _inherits_restorer(values):
        fields |= DISTILLED
    return {
        **{f"config.{k}": v for k, v in fields.items() if not _among(k, RESUMABLE)},
        IMAGES: identity["images"],
        "the weights of config.distillation.teacher": identity["teacher"],
        "the weights of config.adversarial.perceptual": identity.get("vgg"),
    }


def check_resumable(saved: dict[str, Any], now: dict[str, Any], workdir: Path) -> None:
    """Raises UserError if a run cannot resume from a checkpoint."""
    if "images" not in saved:
        raise UserError(
            f"{workdir} holds converted weights, which a run would replace: give "
            "another --workdir"
        )
    fixed, asked = fixed_fields(saved), fixed_fields(now)
    problems = [
        f"{field}: {_image_changes(saved, now)}"
        if field == IMAGES
        else f"{field}: was {fixed.get(field)!r}, is {asked.get(field)!r}"
        for field in sorted(fixed | asked)
        if fixed.get(field) != asked.get(field)
        and not (field == EPOCHS and _more(fixed.get(field), asked.get(field)))
    ]
    if problems:
        raise UserError(
            f"{workdir} holds a run with other values: {'; '.join(problems)}. Use "
            "these to resume it, or another --workdir to start a new run (from its "
            f"weights with --config.init={workdir})"
        )


def _more(before: Any, now: Any) -> bool:
    """True if a run is extended."""
    return isinstance(before, int) and isinstance(now, int) and now > before
