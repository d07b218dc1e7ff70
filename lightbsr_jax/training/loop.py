"""The training loop: from HR images to checkpoints of a trained network."""

import json
import math
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, median
from typing import Any

import jax
import numpy as np
import optax
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from lightbsr_jax import methods
from lightbsr_jax.checkpoint import Checkpoints, plain
from lightbsr_jax.data.pipeline import CropBatches, Sampler
from lightbsr_jax.data.resident import ResidentBatches
from lightbsr_jax.data.sources import first_images, open_source
from lightbsr_jax.errors import Interrupted, UserError
from lightbsr_jax.evaluation import benchmark, cases, pictures
from lightbsr_jax.evaluation.restorers import Bicubic, Restorer
from lightbsr_jax.imaging import degradation
from lightbsr_jax.model import Model
from lightbsr_jax.networks.blind import UPSCALER_STEPS, BlindNetwork
from lightbsr_jax.training import parallel, roles, schedules
from lightbsr_jax.training.interruption import Interruption
from lightbsr_jax.training.log import Log
from lightbsr_jax.training.state import Run, fresh_run
from lightbsr_jax.training.steps import (
    AXIS,
    Fixed,
    Step,
    cropping_step,
    degrading_step,
    guarded,
)

# Fields and groups with which a run may go on changed. Of the data and the teacher it
# is the content that counts, not the path.
FREE = (
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
TIMED_STEPS = 8  # of each stage, for config.minutes
DTYPES = ("float32", "bfloat16")

Batches = CropBatches | ResidentBatches
Steps = dict[int, Step]  # by stage


def train(config: ConfigDict, workdir: str | Path) -> None:
    """Train the teacher or student of `config`, or go on where `workdir` left off.

    Raises UserError or OSError for a config that cannot be trained or is not the
    workdir's, for a workdir that cannot be written to, and where a run cannot go on;
    Interrupted where it was told to stop. Checkpoints stay in every case.
    """
    check(config)
    workdir = Path(workdir)
    hr_crop = config.data.lr_crop * config.scale
    source = open_source(config.data.hr, minimum=hr_crop)
    sampler = Sampler(
        source.sizes,
        batch_size=config.data.batch_size,
        crops=config.contrast.crops if "contrast" in config else 1,
        size=hr_crop,
        seed=config.seed,
        shard_index=jax.process_index(),
        shard_count=jax.process_count(),
    )
    if config.data.resident:
        batches = ResidentBatches(
            source,
            sampler,
            threads=config.data.threads,
            transfer=parallel.split,
            share=parallel.share,
        )
    else:
        batches = CropBatches(
            source, sampler, threads=config.data.threads, transfer=parallel.split
        )
    network = methods.make_network(
        config,
        axis_name=AXIS,
        remat=config.compute.rematerialise,
        dtype=config.compute.dtype,
    )
    if config.minutes:
        config = config.copy_and_resolve_references()
        config.schedule.steps_per_epoch = fitting_steps_per_epoch(
            config, workdir, network, batches
        )
    role, steps = prepare(config, network)
    run = fresh_run(role.state, averaged=config.ema_decay > 0)
    identity = {
        "config": plain(config),
        "images": source.fingerprint,
        "teacher": role.teacher_checksum,
    }
    parallel.check_same(counting(identity))

    check_workdir(workdir, size=sum(leaf.nbytes for leaf in jax.tree.leaves(run)))
    checkpoints = Checkpoints(workdir, keep=config.checkpoint.keep)
    start, unlogged = 0, []
    if checkpoints.latest_step() is not None:
        run, about = resume(checkpoints, run, role.basis, identity)
        start, unlogged = int(run.state.step), about["unlogged"]
        batches.set_state(about["batches"])
    elif parallel.leads():
        text = json.dumps(identity["config"], indent=1)
        (workdir / "config.json").write_text(text + "\n")
    parallel.check_same({f"the newest checkpoint's step in {workdir}": start})

    run = parallel.replicate(run)
    fixed = fixed_inputs(config, role, batches)
    boundary = config.schedule.stage1_epochs * config.schedule.steps_per_epoch
    total = boundary + config.schedule.stage2_epochs * config.schedule.steps_per_epoch

    validate = validation(config, role.basis)
    log = Log(workdir, start=start, total=total, quiet=not parallel.leads())
    log.say(
        f"{methods.called(config)}, setting {config.setting}, x{config.scale}: steps "
        f"{start} to {total} (stage 2 from {boundary}) on {jax.device_count()} "
        f"{jax.devices()[0].device_kind} device(s) of {jax.process_count()} "
        f"process(es), {len(source)} images from {config.data.hr}, into {workdir}"
    )
    learning_rate = schedules.of(config.schedule)
    under_way = deque()
    try:
        with Interruption() as interruption:
            for step in range(start + 1, total + 1):
                stage = 1 if step <= boundary else 2
                run, metrics = steps[stage](run, next(batches), fixed)
                unlogged.append(metrics)
                log.advance(step)
                # Steps are only queued up here: wait for the one before the last, so
                # that they, with their batches, do not pile up in memory.
                under_way.append(metrics["skipped_in_a_row"])
                if len(under_way) > 2:
                    stop_if_lost(int(under_way.popleft()), step - 2, config, workdir)

                ends = step == total
                interrupted = interruption.noted(step) and not ends
                if step % config.log.every_steps == 0 or step in (boundary, total):
                    values = averages(unlogged)
                    values["learning_rate"] = float(learning_rate(step - 1))
                    log.metrics(step, values, stage=stage)
                    unlogged = []
                if step % config.validation.every_steps == 0 or ends:
                    began = time.monotonic()
                    validate(step, run, log)
                    log.pause(time.monotonic() - began)
                due = step % config.checkpoint.every_steps == 0
                if (due and not int(under_way[-1])) or ends or interrupted:
                    unlogged = numbers(unlogged)
                    about = {
                        **identity,
                        "batches": batches.get_state(),
                        "unlogged": unlogged,
                    }
                    checkpoints.save(run, role.basis, about)
                if interrupted:
                    checkpoints.wait()
                    raise Interrupted(
                        f"stopped after step {step} of {total}, with a checkpoint in "
                        f"{workdir}: the same command goes on from there"
                    )
        checkpoints.wait()
        log.say(f"finished at step {total}: {workdir}")
    finally:
        batches.close()
        checkpoints.close()
        log.close()
        if source.skipped:
            log.say(f"{len(source.skipped)} not used of the images in {config.data.hr}")
        for reason in source.skipped.values():
            log.say(f"not used: {reason}")


def prepare(config: ConfigDict, network: BlindNetwork) -> tuple[roles.Role, Steps]:
    """The config's role, and its steps on all devices by stage."""
    learning_rate = schedules.of(config.schedule)
    role = roles.prepare(
        config, network, optax.scale_by_adam(**config.adam), learning_rate
    )
    steps = {}
    for stage, update in role.updates.items():
        step = degrading_step(
            update,
            setting=config.setting,
            scale=config.scale,
            width_max=config.degradation.width_max,
        )
        step = guarded(step, ema_decay=config.ema_decay)
        if config.data.resident:
            step = cropping_step(step, size=config.data.lr_crop * config.scale)
        steps[stage] = parallel.over_devices(step)
    return role, steps


def fixed_inputs(config: ConfigDict, role: roles.Role, batches: Batches) -> Any:
    """What the steps take beside run and batch, on all devices."""
    fixed = parallel.replicate(Fixed(config.seed, role.basis, role.teacher))
    return (fixed, batches.pixels) if config.data.resident else fixed


def fitting_steps_per_epoch(
    config: ConfigDict, workdir: Path, network: BlindNetwork, batches: Batches
) -> int:
    """The length of an epoch with which a run takes config.minutes.

    Timed at a run's start and kept in its config.json: a run that goes on has the
    schedule that it began with. Of the steps that are timed nothing stays.
    """
    begun = workdir / "config.json"
    if any(workdir.glob("checkpoints/[0-9]*")) and begun.exists():
        return json.loads(begun.read_text())["schedule"]["steps_per_epoch"]
    role, steps = prepare(config, network)
    fixed = fixed_inputs(config, role, batches)
    start = batches.get_state()
    seconds = 0.0  # that all epochs take with one step each
    for stage, step in steps.items():
        run = fresh_run(role.state, averaged=config.ema_decay > 0)
        taken = seconds_per_step(step, parallel.replicate(run), batches, fixed)
        seconds += config.schedule[f"stage{stage}_epochs"] * taken
    batches.set_state(start)
    return parallel.of_first(max(1, int(60 * config.minutes / seconds)))


def seconds_per_step(step: Step, run: Run, batches: Batches, fixed: Any) -> float:
    """The median of some steps from `run` on, compiled before."""
    times = []
    for _ in range(1 + TIMED_STEPS):
        began = time.monotonic()
        run, metrics = step(run, next(batches), fixed)
        jax.block_until_ready(metrics)
        times.append(time.monotonic() - began)
    return median(times[1:])


def numbers(metrics: list[dict[str, Any]]) -> list[dict[str, float]]:
    """The metrics of steps as plain numbers; waits until they are computed."""
    return [{name: float(value) for name, value in row.items()} for row in metrics]


def averages(metrics: list[dict[str, Any]]) -> dict[str, float]:
    """Means over steps, without what was not finite; of counts, the last."""
    rows = numbers(metrics)
    values = {}
    for name in rows[-1]:
        finite = [row[name] for row in rows if math.isfinite(row[name])]
        values[name] = fmean(finite) if finite else math.nan
    del values["skipped_in_a_row"]
    return values | {"skipped": rows[-1]["skipped"]}


def stop_if_lost(
    skipped_in_a_row: int, step: int, config: ConfigDict, workdir: Path
) -> None:
    """Raises UserError where too many updates in a row were not finite."""
    if skipped_in_a_row >= config.skipped_in_a_row:
        raise UserError(
            f"loss or gradient were not finite in the last {skipped_in_a_row} updates, "
            f"up to step {step}; none of them was made. {workdir} holds checkpoints "
            "from before: look at the images, or start again with a lower "
            "config.schedule.learning_rate, or in float32 (config.compute.dtype)"
        )


def counting(identity: dict[str, Any]) -> dict[str, Any]:
    """What of a run's identity must stay the same, by names that users know."""
    fields = flatten_dict(identity["config"], sep=".")
    return {
        **{f"config.{k}": v for k, v in fields.items() if not k.startswith(FREE)},
        "the images of config.data.hr": identity["images"],
        "the weights of config.distillation.teacher": identity["teacher"],
    }


def check_workdir(workdir: Path, *, size: int) -> None:
    """Raises UserError unless `workdir` can be written to and `size` bytes fit."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=workdir):
            pass
    except OSError as error:
        raise UserError(
            f"--workdir={workdir} cannot be written to: {error.strerror}"
        ) from error
    free = shutil.disk_usage(workdir).free
    if free < size:
        raise UserError(
            f"--workdir={workdir} has room for {free / 1e6:.0f} MB, and a checkpoint "
            f"takes up to {size / 1e6:.0f} MB: make room, or name another folder"
        )


def resume(
    checkpoints: Checkpoints, run: Run, basis: np.ndarray, identity: dict[str, Any]
) -> tuple[Run, dict[str, Any]]:
    """The newest checkpoint that is whole, and its `about`; `run` is one of its kind.

    Damaged ones after it are moved out of the way.
    """

    def template(about: dict[str, Any]) -> tuple[Run, np.ndarray]:
        check_resumable(about, identity, checkpoints.workdir)
        return run, basis

    run, _, about = checkpoints.run(template)
    checkpoints.set_aside_after(int(run.state.step))
    return run, about


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
    if config.minutes < 0:
        problems.append(f"minutes {config.minutes}: at least 0")
    if not 0 <= config.ema_decay < 1:
        problems.append(f"ema_decay {config.ema_decay} is not in [0, 1)")
    if config.skipped_in_a_row < 1:
        problems.append(f"skipped_in_a_row {config.skipped_in_a_row}: at least 1")
    if "contrast" in config:
        queue = config.contrast.queue_size
        if batch > 0 and queue % batch:
            problems.append(
                f"contrast.queue_size {queue} is not a multiple of the global batch "
                f"size {batch}: take {max(queue // batch, 1) * batch}"
            )
        enabled = config.contrast.get("enabled", True)
        if enabled and config.contrast.crops < 2:
            problems.append(
                f"contrast.crops {config.contrast.crops}: a contrast takes at least 2"
            )
        if not enabled and config.schedule.stage1_epochs:
            problems.append(
                f"schedule.stage1_epochs {config.schedule.stage1_epochs}: stage 1 is "
                "contrastive learning; without it take 0"
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
    positive = {
        "network": [n for n, x in config.network.items() if not isinstance(x, bool)],
        "data": ("batch_size",),
        "compute": ("parts",),
        "schedule": ("steps_per_epoch",),
        "validation": ("every_steps",),
        "log": ("every_steps",),
        "checkpoint": ("every_steps", "keep"),
    }
    schedule = config.schedule
    if "decay_epochs" in schedule:
        positive["schedule"] += ("stage1_decay_epochs", "decay_epochs")
    elif not 0 <= schedule.warmup_epochs < schedule.stage2_epochs:
        problems.append(
            f"schedule.warmup_epochs {schedule.warmup_epochs} is not below "
            f"schedule.stage2_epochs {schedule.stage2_epochs}"
        )
    for group, fields in positive.items():
        for field in fields:
            if config[group][field] < 1:
                problems.append(f"{group}.{field} {config[group][field]}: at least 1")
    if problems:
        raise UserError("; ".join(f"config.{problem}" for problem in problems))


def check_resumable(saved: dict[str, Any], now: dict[str, Any], workdir: Path) -> None:
    """Raises UserError where a run cannot go on from another one's checkpoint."""
    if "images" not in saved:
        raise UserError(
            f"{workdir} holds converted weights, which a run would replace: give it "
            "another --workdir"
        )
    saved, now = counting(saved), counting(now)
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


def validation(
    config: ConfigDict, basis: np.ndarray
) -> Callable[[int, Run, Log], None]:
    """validate(step, run, log): PSNR and SSIM of a run's network, and pictures.

    The first process measures.
    """
    if not config.validation.hr or not parallel.leads():
        return lambda step, run, log: None
    images = first_images(config.validation.hr, config.validation.images)
    tested = cases.make(config.setting)
    pictured = tested[len(tested) // 2].label
    bicubic = Bicubic(config.scale)

    def measure(
        restorers: dict[str, Restorer],
        on_restored: Callable[[benchmark.Restored], None] | None = None,
    ) -> list[benchmark.Score]:
        return benchmark.evaluate(
            restorers, images, tested, scale=config.scale, on_restored=on_restored
        )

    # Before training: images that cannot be scored are an error now, not later.
    measure({"bicubic": bicubic})

    network = methods.make_network(config)

    def validate(step: int, run: Run, log: Log) -> None:
        state = run.state
        params = run.average or state.params
        variables = {"params": params, "batch_stats": state.batch_stats}
        variables = parallel.on_first_device(variables)
        model = Model(
            config.role,
            config.setting,
            network,
            variables,
            basis,
            step,
            prior=config.get("prior", True),
        )

        def picture(restored: benchmark.Restored) -> None:
            if (
                restored.case == pictured
                and restored.position < config.validation.pictures
            ):
                panel = pictures.panel(restored.images, restored.scores)
                log.picture(step, Path(restored.image).stem, panel)

        scores = measure({"bicubic": bicubic, config.role: model}, picture)
        ours = [score for score in scores if score.method == config.role]
        theirs = [score for score in scores if score.method == "bicubic"]
        log.validation(
            step,
            {
                "validation_psnr": fmean(score.psnr for score in ours),
                "validation_psnr_bicubic": fmean(score.psnr for score in theirs),
                "validation_ssim": fmean(score.ssim for score in ours),
            },
        )

    return validate
