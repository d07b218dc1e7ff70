"""The training loop: from HR images to checkpoints of a trained network."""

import json
import math
import time
from collections import deque
from pathlib import Path
from statistics import fmean, median
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from lightbsr_jax import atomic
from lightbsr_jax.data.pipeline import CropBatches, Sampler
from lightbsr_jax.data.resident import ResidentBatches
from lightbsr_jax.data.sources import open_source
from lightbsr_jax.errors import Interrupted, UserError
from lightbsr_jax.methods import registry
from lightbsr_jax.methods.network import BlindNetwork
from lightbsr_jax.models.checkpoint import Checkpoints, plain
from lightbsr_jax.training import parallel, schedules
from lightbsr_jax.training.checks import (
    check,
    check_resumable,
    check_room,
    check_workdir,
    fixed_fields,
)
from lightbsr_jax.training.interruption import Interruption
from lightbsr_jax.training.log import Log
from lightbsr_jax.training.setup import Setup, prepare
from lightbsr_jax.training.state import Run, fresh_run
from lightbsr_jax.training.steps import (
    Constants,
    Step,
    cropping_step,
    degrading_step,
    skip_nonfinite,
)
from lightbsr_jax.training.updates import AXIS
from lightbsr_jax.training.validation import validation

TIMED_STEPS = 8  # of each stage, for config.minutes

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
    network = registry.make_network(
        config,
        axis_name=AXIS,
        remat=config.compute.rematerialise,
        dtype=config.compute.dtype,
    )
    check_workdir(workdir)
    checkpoints = Checkpoints(workdir, keep=config.checkpoint.keep)
    begun = checkpoints.latest_step() is not None
    if config.minutes:
        config = config.copy_and_resolve_references()
        config.schedule.steps_per_epoch = fitting_steps_per_epoch(
            config, workdir if begun else None, network, batches
        )
    setup = prepare(config, network)
    steps = make_steps(config, setup)
    run = fresh_run(setup.state, averaged=config.ema_decay > 0)
    identity = {
        "config": plain(config),
        "images": source.fingerprint,
        "teacher": setup.teacher and setup.teacher.checksum,
    }
    parallel.check_same(fixed_fields(identity))

    check_room(workdir, sum(leaf.nbytes for leaf in jax.tree.leaves(run)))
    start, unlogged = 0, []
    if begun:
        run, about = resume(checkpoints, run, setup.basis, identity)
        start, unlogged = int(run.state.step), about["unlogged"]
        batches.set_state(about["batches"])
    elif parallel.is_main_process():
        text = json.dumps(identity["config"], indent=1)
        atomic.write_text(workdir / "config.json", text + "\n")
    parallel.check_same({f"the newest checkpoint's step in {workdir}": start})

    run = parallel.replicate(run)
    constants = constants_on_devices(config, setup, batches)
    boundary = config.schedule.stage1_epochs * config.schedule.steps_per_epoch
    total = boundary + config.schedule.stage2_epochs * config.schedule.steps_per_epoch

    validate = validation(config, setup.basis)
    log = Log(workdir, start=start, total=total, quiet=not parallel.is_main_process())
    log.say(
        f"{registry.called(config)}, setting {config.setting}, x{config.scale}: steps "
        f"{start} to {total} (stage 2 from {boundary}) on {jax.device_count()} "
        f"{jax.devices()[0].device_kind} device(s) of {jax.process_count()} "
        f"process(es), {len(source)} images from {config.data.hr}, into {workdir}"
    )
    if setup.teacher is not None:
        log.say(
            f"distilled from {config.distillation.teacher} after {setup.teacher.step} "
            "updates"
        )
    learning_rate = schedules.of(config.schedule)
    under_way = deque()

    def validate_where_due(step: int) -> None:
        if step % config.validation.every_steps == 0 or step == total:
            began = time.monotonic()
            validate(step, run, log)
            log.pause(time.monotonic() - began)

    try:
        if start and not log.validated(start):
            validate_where_due(start)  # the run ended before it came to that
        with Interruption() as interruption:
            for step in range(start + 1, total + 1):
                stage = 1 if step <= boundary else 2
                run, metrics = steps[stage](run, next(batches), constants)
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
                due = step % config.checkpoint.every_steps == 0
                if (due and not int(under_way[-1])) or ends or interrupted:
                    unlogged = numbers(unlogged)
                    about = {
                        **identity,
                        "batches": batches.get_state(),
                        "unlogged": unlogged,
                    }
                    checkpoints.save(run, setup.basis, about)
                if interrupted:
                    checkpoints.wait()
                    raise Interrupted(
                        f"stopped after step {step} of {total}, with a checkpoint in "
                        f"{workdir}: the same command goes on from there"
                    )
                # Last: where it fails, or takes long, nothing is lost.
                validate_where_due(step)
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


def make_steps(config: ConfigDict, setup: Setup) -> Steps:
    """The run's steps on all devices, by stage."""
    steps = {}
    for stage, update in setup.updates.items():
        step = degrading_step(
            update,
            setting=config.setting,
            scale=config.scale,
            width_max=config.degradation.width_max,
        )
        step = skip_nonfinite(step, ema_decay=config.ema_decay)
        if config.data.resident:
            step = cropping_step(step, size=config.data.lr_crop * config.scale)
        steps[stage] = parallel.over_devices(step)
    return steps


def constants_on_devices(
    config: ConfigDict, setup: Setup, batches: Batches
) -> Constants:
    """What the steps take beside run and batch."""
    constants = parallel.replicate(setup.constants(config.seed))
    if isinstance(batches, ResidentBatches):
        constants = constants._replace(pixels=batches.pixels)
    return constants


def fitting_steps_per_epoch(
    config: ConfigDict, begun: Path | None, network: BlindNetwork, batches: Batches
) -> int:
    """The length of an epoch with which a run takes config.minutes.

    Timed at a run's start and kept in its config.json: a run that goes on, in the
    workdir `begun`, has the schedule that it began with. Of the steps that are timed
    nothing stays.
    """
    if begun is not None and (begun / "config.json").exists():
        text = (begun / "config.json").read_text()
        # Converted weights have no schedule; that they cannot go on is told later.
        begun_with = json.loads(text).get("schedule", config.schedule)
        return begun_with["steps_per_epoch"]
    setup = prepare(config, network)
    steps = make_steps(config, setup)
    constants = constants_on_devices(config, setup, batches)
    start = batches.get_state()
    seconds = 0.0  # that all epochs take with one step each
    for stage, step in steps.items():
        run = fresh_run(setup.state, averaged=config.ema_decay > 0)
        taken = seconds_per_step(step, parallel.replicate(run), batches, constants)
        seconds += config.schedule[f"stage{stage}_epochs"] * taken
    batches.set_state(start)
    return parallel.broadcast_from_main(max(1, int(60 * config.minutes / seconds)))


def seconds_per_step(
    step: Step, run: Run, batches: Batches, constants: Constants
) -> float:
    """The median of some steps from `run` on, compiled before."""
    times = []
    for _ in range(1 + TIMED_STEPS):
        began = time.monotonic()
        run, metrics = step(run, next(batches), constants)
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
            f"up to step {step}; none of them was made. Checkpoints from before, if "
            f"any, are in {workdir}: look at the images, or start again with a lower "
            "config.schedule.learning_rate"
            + ", or in float32 (config.compute.dtype)"
            * (config.compute.dtype != "float32")
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
