"""The training loop: from HR images to checkpoints of a trained network."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import jax
import numpy as np
import optax
from ml_collections import ConfigDict

from lightbsr_jax.checkpoint import Checkpoints, differences, plain
from lightbsr_jax.data.pipeline import CropBatches
from lightbsr_jax.data.sources import ImageFolders
from lightbsr_jax.errors import UserError
from lightbsr_jax.evaluation import benchmark, pictures
from lightbsr_jax.imaging import degradation, files
from lightbsr_jax.model import Model
from lightbsr_jax.networks.lightbsr import UPSCALER_STEPS, LightBSR
from lightbsr_jax.training import parallel, roles, schedules
from lightbsr_jax.training.log import Log
from lightbsr_jax.training.steps import AXIS, Fixed, degrading_step

# Fields and groups with which a run may go on changed. Of the data and the teacher it
# is the content that counts, not the path.
FREE = (
    "data.hr",
    "data.threads",
    "distillation.teacher",
    "validation.",
    "log.",
    "checkpoint.",
)


SMALLEST_CROP = 8  # in LR pixels


def train(config: ConfigDict, workdir: str | Path) -> None:
    """Train the teacher or student of `config`, or go on where `workdir` left off.

    Raises UserError or FileNotFoundError for a config that cannot be trained or is not
    the workdir's.
    """
    check(config)
    workdir = Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    hr_crop = config.data.lr_crop * config.scale
    source = ImageFolders(files.split_folders(config.data.hr), minimum=hr_crop)
    batches = CropBatches(
        source,
        batch_size=config.data.batch_size,
        crops=config.contrast.crops if config.role == "teacher" else 1,
        size=hr_crop,
        seed=config.seed,
        threads=config.data.threads,
    )
    network = LightBSR(config.scale, **config.network, axis_name=AXIS)
    optimizer = optax.scale_by_adam(**config.adam)
    learning_rate = schedules.learning_rate(**config.schedule)
    role = roles.prepare(config, network, optimizer, learning_rate)
    identity = {
        "config": plain(config),
        "images": source.fingerprint,
        "teacher": role.teacher_checksum,
    }

    checkpoints = Checkpoints(workdir, keep=config.checkpoint.keep)
    state = parallel.replicate(role.state)
    start = checkpoints.latest_step() or 0
    if checkpoints.latest_step() == 0:
        raise UserError(
            f"{workdir} holds converted weights, which a run would replace: give it "
            "another --workdir"
        )
    if start:
        about = checkpoints.about()
        check_resumable(about, identity, workdir)
        state = checkpoints.state(state, role.basis)
        batches.set_state(about["batches"])
    else:
        text = json.dumps(identity["config"], indent=1)
        (workdir / "config.json").write_text(text + "\n")

    steps = {
        stage: parallel.over_devices(
            degrading_step(
                update,
                setting=config.setting,
                scale=config.scale,
                width_max=config.degradation.width_max,
            )
        )
        for stage, update in role.updates.items()
    }
    fixed = parallel.replicate(Fixed(config.seed, role.basis, role.teacher))
    boundary = config.schedule.stage1_epochs * config.schedule.steps_per_epoch
    total = boundary + config.schedule.stage2_epochs * config.schedule.steps_per_epoch

    validate = validation(config, network, role.basis)
    log = Log(workdir, start=start, total=total)
    log.say(
        f"{config.role}, setting {config.setting}, x{config.scale}: steps {start} to "
        f"{total} (stage 2 from {boundary}) on {jax.device_count()} "
        f"{jax.devices()[0].device_kind} device(s), {len(source)} images from "
        f"{config.data.hr}, into {workdir}"
    )
    collected = []
    try:
        for step in range(start + 1, total + 1):
            stage = 1 if step <= boundary else 2
            state, metrics = steps[stage](state, parallel.split(next(batches)), fixed)
            collected.append(metrics)
            log.advance(step)
            if step % config.log.every_steps == 0 or step in (boundary, total):
                values = {
                    name: fmean(float(metrics[name]) for metrics in collected)
                    for name in metrics
                }
                collected.clear()
                values["learning_rate"] = float(learning_rate(step - 1))
                log.metrics(step, values, stage=stage)
            if step % config.validation.every_steps == 0 or step == total:
                began = time.monotonic()
                validate(step, state, log)
                log.pause(time.monotonic() - began)
            if step % config.checkpoint.every_steps == 0 or step == total:
                about = {**identity, "batches": batches.get_state()}
                checkpoints.save(state, role.basis, about)
        log.say(f"finished at step {total}: {workdir}")
    finally:
        batches.close()
        checkpoints.close()
        log.close()
        if source.skipped:
            log.say(f"{len(source.skipped)} not used of the images in {config.data.hr}")
        for reason in source.skipped.values():
            log.say(f"not used: {reason}")


def check(config: ConfigDict) -> None:
    """Raises UserError, with the remedy, for a config that cannot be trained."""
    problems = []
    if config.setting not in degradation.SETTINGS:
        problems.append(f"setting {config.setting} is not 1 or 2")
    if config.scale not in UPSCALER_STEPS:
        problems.append(f"scale {config.scale} is not 2, 3 or 4")
    if not config.data.hr:
        problems.append("data.hr names no HR images: --config.data.hr=FOLDER[,FOLDER]")
    batch, devices = config.data.batch_size, jax.device_count()
    if batch > 0 and batch % devices:
        problems.append(
            f"data.batch_size {batch} is not a multiple of the {devices} devices"
        )
    if config.role == "teacher":
        queue = config.contrast.queue_size
        if batch > 0 and queue % batch:
            problems.append(
                f"contrast.queue_size {queue} is not a multiple of the global batch "
                f"size {batch}: take {max(queue // batch, 1) * batch}"
            )
        if config.contrast.crops < 2:
            problems.append(
                f"contrast.crops {config.contrast.crops}: a contrast takes at least 2"
            )
    elif not config.distillation.teacher:
        problems.append(
            "distillation.teacher names no teacher: "
            "--config.distillation.teacher=WORKDIR of a trained one"
        )
    if config.data.lr_crop < SMALLEST_CROP:
        problems.append(
            f"data.lr_crop {config.data.lr_crop}: at least {SMALLEST_CROP}, so that "
            "blur kernels fit into the HR crop"
        )
    positive = {
        "network": ("groups", "blocks"),
        "data": ("batch_size",),
        "schedule": ("steps_per_epoch",),
        "validation": ("every_steps",),
        "log": ("every_steps",),
        "checkpoint": ("every_steps", "keep"),
    }
    for group, fields in positive.items():
        for field in fields:
            if config[group][field] < 1:
                problems.append(f"{group}.{field} {config[group][field]}: at least 1")
    schedule = config.schedule
    if not 0 <= schedule.warmup_epochs < schedule.stage2_epochs:
        problems.append(
            f"schedule.warmup_epochs {schedule.warmup_epochs} is not below "
            f"schedule.stage2_epochs {schedule.stage2_epochs}"
        )
    if problems:
        raise UserError("; ".join(f"config.{problem}" for problem in problems))


def check_resumable(saved: dict[str, Any], now: dict[str, Any], workdir: Path) -> None:
    """Raises UserError where a run cannot go on from another one's checkpoint."""
    problems = [
        f"config.{line}"
        for line in differences(saved["config"], now["config"], free=FREE)
    ]
    if saved["images"] != now["images"]:
        problems.append("config.data.hr holds other images")
    if saved["teacher"] != now["teacher"]:
        problems.append("config.distillation.teacher has other weights")
    if problems:
        raise UserError(
            f"{workdir} holds a run of another kind: {'; '.join(problems)}. Start with "
            "its values to go on, or with another --workdir to begin anew"
        )


def validation(
    config: ConfigDict, network: LightBSR, basis: np.ndarray
) -> Callable[[int, Any, Log], None]:
    """validate(step, state, log): PSNR and SSIM of a state's network, and pictures."""
    if not config.validation.hr:
        return lambda step, state, log: None
    folders = files.split_folders(config.validation.hr)
    found = [image for folder in folders for image in files.find_images(folder)]
    found = found[: config.validation.images]
    images = [(name, files.read_rgb(path)) for name, path in found]
    cases = benchmark.cases(config.setting)
    pictured = cases[len(cases) // 2].label

    def measure(
        restore: benchmark.Restore,
        on_restored: Callable[[benchmark.Restored], None] | None = None,
    ) -> tuple[float, float]:
        scores = benchmark.evaluate(
            restore, images, cases, scale=config.scale, on_restored=on_restored
        )
        psnr = fmean(score.psnr for score in scores)
        return psnr, fmean(score.ssim for score in scores)

    # Before training: images that cannot be scored are an error now, not later.
    bicubic_psnr, _ = measure(benchmark.bicubic(config.scale))

    def validate(step: int, state: Any, log: Log) -> None:
        variables = {"params": state.params, "batch_stats": state.batch_stats}
        variables = parallel.on_first_device(variables)
        model = Model(config.role, config.setting, network, variables, basis, step)

        def picture(restored: benchmark.Restored) -> None:
            score = restored.score
            if (
                score.case == pictured
                and restored.position < config.validation.pictures
            ):
                panel = pictures.panel(restored, config.role)
                log.picture(step, Path(score.image).stem, panel)

        psnr, ssim = measure(model.restore, picture)
        log.validation(
            step,
            {
                "validation_psnr": psnr,
                "validation_psnr_bicubic": bicubic_psnr,
                "validation_ssim": ssim,
            },
        )

    return validate
