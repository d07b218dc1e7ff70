"""What is checked before a run: its config, its workdir, what it would go on from."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import jax
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from lightbsr_jax.errors import UserError
from lightbsr_jax.imaging import degradation, settings
from lightbsr_jax.methods import registry
from lightbsr_jax.methods.network import UPSCALER_STEPS

# Fields and groups with which a run may go on changed. Of the data and the teacher it
# is the content that counts, not the path.
RESUMABLE = (
    "data.hr",
    "data.resident",
    "data.threads",
    "distillation.teacher",
    "compute.rematerialise",
    "compute.parts",
    "skipped_in_a_row",
    "minutes",  # what counts is schedule.steps_per_epoch, made of it
    "validation.",
    "log.",
    "checkpoint.",
)

SMALLEST_CROP = 8  # in LR pixels
DTYPES = ("float32", "bfloat16")


def check(config: ConfigDict) -> None:
    """Raises UserError, with the remedy, for a config that cannot be trained."""
    problems = []
    if config.setting not in settings.SETTINGS:
        problems.append(f"setting {config.setting}: there are {settings.listed()}")
    if config.scale not in UPSCALER_STEPS:
        problems.append(f"scale {config.scale} is not 2, 3 or 4")
    if not config.data.hr:
        problems.append("data.hr names no HR images: --config.data.hr=FOLDER[,FOLDER]")
    batch, devices = config.data.batch_size, jax.device_count()
    parts = config.compute.parts
    if batch > 0 and batch % devices:
        problems.append(
            f"data.batch_size {batch} is not a multiple of the {devices} devices"
        )
    elif parts > 0 and batch // devices % parts:
        problems.append(
            f"compute.parts {parts} does not divide a device's share of the batch, "
            f"{batch // devices} images"
        )
    if config.compute.dtype not in DTYPES:
        problems.append(
            f"compute.dtype {config.compute.dtype!r} is not {' or '.join(DTYPES)}"
        )
    if config.seed < 0:
        problems.append(f"seed {config.seed}: at least 0")
    if config.minutes < 0:
        problems.append(f"minutes {config.minutes}: at least 0")
    if not 0 <= config.ema_decay < 1:
        problems.append(f"ema_decay {config.ema_decay} is not in [0, 1)")
    if config.skipped_in_a_row < 1:
        problems.append(f"skipped_in_a_row {config.skipped_in_a_row}: at least 1")
    contrasts = "contrast" in config and config.contrast.get("enabled", True)
    if "contrast" in config:
        queue = config.contrast.queue_size
        if batch > 0 and (queue < 1 or queue % batch):
            problems.append(
                f"contrast.queue_size {queue} is not a multiple of the global batch "
                f"size {batch}: take {max(queue // batch, 1) * batch}"
            )
        if contrasts and config.contrast.crops < 2:
            problems.append(
                f"contrast.crops {config.contrast.crops}: a contrast takes at least 2"
            )
        if registry.of(config).contrasts == "pair" and config.contrast.crops != 2:
            problems.append(
                f"contrast.crops {config.contrast.crops}: the method contrasts pairs, 2"
            )
    if config.degradation.width_max <= degradation.WIDTH_MIN:
        problems.append(
            f"degradation.width_max {config.degradation.width_max}: above "
            f"{degradation.WIDTH_MIN}, the least"
        )
    if config.schedule.stage1_epochs and not (contrasts or "distillation" in config):
        problems.append(
            f"schedule.stage1_epochs {config.schedule.stage1_epochs}: without "
            "contrastive learning or distillation there is no stage 1: take 0"
        )
    if "distillation" in config and not config.distillation.teacher:
        problems.append(
            "distillation.teacher names no teacher: "
            "--config.distillation.teacher=WORKDIR of a trained one"
        )
    if config.data.lr_crop < SMALLEST_CROP:
        problems.append(
            f"data.lr_crop {config.data.lr_crop}: at least {SMALLEST_CROP}, so that "
            "blur kernels fit into the HR crop"
        )
    schedule = config.schedule
    least = {
        "network": {n: 1 for n, x in config.network.items() if not isinstance(x, bool)},
        "data": {"batch_size": 1, "threads": 0},
        "compute": {"parts": 1},
        "schedule": {"steps_per_epoch": 1, "stage1_epochs": 0, "stage2_epochs": 1},
        "validation": {"every_steps": 1, "images": 1, "pictures": 0},
        "log": {"every_steps": 1},
        "checkpoint": {"every_steps": 1, "keep": 1},
    }
    if "decay_epochs" in schedule:
        least["schedule"] |= {"stage1_decay_epochs": 1, "decay_epochs": 1}
    elif not 0 <= schedule.warmup_epochs < schedule.stage2_epochs:
        problems.append(
            f"schedule.warmup_epochs {schedule.warmup_epochs} is not below "
            f"schedule.stage2_epochs {schedule.stage2_epochs}"
        )
    problems += [
        f"{group}.{field} {config[group][field]}: at least {minimum}"
        for group, fields in least.items()
        for field, minimum in fields.items()
        if config[group][field] < minimum
    ]
    if problems:
        raise UserError("; ".join(f"config.{problem}" for problem in problems))


def check_workdir(workdir: Path) -> None:
    """Makes `workdir`; raises UserError where it cannot be written to."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=workdir):
            pass
    except OSError as error:
        raise UserError(
            f"--workdir={workdir} cannot be written to: {error.strerror}"
        ) from error


def check_room(workdir: Path, size: int) -> None:
    """Raises UserError unless `size` bytes fit into `workdir`."""
    free = shutil.disk_usage(workdir).free
    if free < size:
        raise UserError(
            f"--workdir={workdir} has room for {free / 1e6:.0f} MB, and a checkpoint "
            f"takes up to {size / 1e6:.0f} MB: make room, or name another folder"
        )


def fixed_fields(identity: dict[str, Any]) -> dict[str, Any]:
    """What of a run's identity must stay the same, by names that users know."""
    fields = flatten_dict(identity["config"], sep=".")
    return {
        **{f"config.{k}": v for k, v in fields.items() if not k.startswith(RESUMABLE)},
        "the images of config.data.hr": identity["images"],
        "the weights of config.distillation.teacher": identity["teacher"],
    }


def check_resumable(saved: dict[str, Any], now: dict[str, Any], workdir: Path) -> None:
    """Raises UserError where a run cannot go on from another one's checkpoint."""
    if "images" not in saved:
        raise UserError(
            f"{workdir} holds converted weights, which a run would replace: give it "
            "another --workdir"
        )
    saved, now = fixed_fields(saved), fixed_fields(now)
    problems = [
        f"{field}: was {saved.get(field)!r}, is {now.get(field)!r}"
        for field in sorted(saved | now)
        if saved.get(field) != now.get(field)
    ]
    if problems:
        raise UserError(
            f"{workdir} holds a run of another kind: {'; '.join(problems)}. Start with "
            "its values to go on, or with another --workdir to begin anew"
        )
