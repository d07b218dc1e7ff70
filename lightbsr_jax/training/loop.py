"""The training loop: from HR images to checkpoints of a trained network."""

import contextlib
import json
import math
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, median
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from lightbsr_jax import atomic, locks
from lightbsr_jax.data.pipeline import CropBatches, Sampler
from lightbsr_jax.data.resident import ResidentBatches
from lightbsr_jax.data.sources import ImageFolders, PreparedImages, open_source
from lightbsr_jax.errors import Interrupted, UserError
from lightbsr_jax.methods.network import BlindNetwork
from lightbsr_jax.models.checkpoint import Checkpoints, checksum
from lightbsr_jax.training import initial, parallel, schedules
from lightbsr_jax.training.checks import (
    check,
    check_resumable,
    check_room,
    check_workdir,
    fixed_fields,
)
from lightbsr_jax.training.config import TrainingConfig, init_of
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

Source = ImageFolders | PreparedImages
Batches = CropBatches | ResidentBatches
Steps = dict[int, Step]  # by stage
Unlogged = list[Any]  # a step's metrics each, as arrays or numbers


class Start(NamedTuple):
    """Where a run begins, or goes on."""

    run: Run
    unlogged: Unlogged
    basis: np.ndarray  # of the prior
    init: str  # the weights that it began with

    @property
    def step(self) -> int:
        """The updates that are done."""
        return int(self.run.state.step)


class Job(NamedTuple):
    """All that a run needs and does not change."""

    config: TrainingConfig
    workdir: Path
    source: Source
    batches: Batches
    setup: Setup
    identity: dict[str, Any]  # that a run which goes on must share
    steps: Steps
    constants: Constants
    checkpoints: Checkpoints
    validate: Callable[[int, Run, Log], None]
    log: Log


def train(flags: ConfigDict, workdir: str | Path) -> None:
    """Train what a config asks for, or go on where `workdir` left off.

    Raises UserError or OSError for a config that cannot be trained or is not the
    workdir's, for a workdir that cannot be written to, and where a run cannot go on;
    Interrupted where it was told to stop. Checkpoints stay in every case.
    """
    config, workdir = TrainingConfig.from_flags(flags), Path(workdir)
    check(config)
    with contextlib.ExitStack() as stack:
        _train(config, workdir, stack)


def _train(config: TrainingConfig, workdir: Path, stack: contextlib.ExitStack) -> None:
    source = open_source(config.data.hr, minimum=config.hr_crop)
    batches = open_batches(config, source)
    network = make_network(config)
    check_workdir(workdir)
    if parallel.is_main_process():
        stack.enter_context(locks.held(workdir / ".lock", workdir))
    checkpoints = Checkpoints(workdir, keep=config.checkpoint.keep)
    begun = checkpoints.latest_step() is not None
    # A run that goes on has had them.
    given = initial.load(config.init) if config.init and not begun else None
    if config.minutes:
        timed = workdir if begun else None
        config = config.with_steps_per_epoch(
            fitting_steps_per_epoch(config, timed, network, batches)
        )

    setup = prepare(config, network, given)
    identity = {
        "config": config.as_given,
        "images": source.fingerprint,
        "names": list(source.names),  # to say which have changed
        "teacher": None if setup.teacher is None else setup.teacher.checksum,
    }
    of_init = {"the weights of config.init": checksum(given)}
    parallel.check_same(fixed_fields(identity) | of_init)
    start = find_start(config, setup, identity, checkpoints, batches)
    setup = setup._replace(basis=start.basis)
    identity["config"] = {**identity["config"], "init": start.init}
    total, quiet = config.schedule.total, not parallel.is_main_process()
    job = Job(
        config=config,
        workdir=workdir,
        source=source,
        batches=batches,
        setup=setup,
        identity=identity,
        steps=make_steps(config, setup),
        constants=constants_on_devices(config, setup, batches),
        checkpoints=checkpoints,
        validate=validation(config, setup.basis),
        log=Log(workdir, start=start.step, total=total, quiet=quiet),
    )
    announce(job, start.step)
    if given is not None and setup.start is not None:
        job.log.say(initial.told(setup.start, config.init))
    try:
        run_steps(job, start)
    finally:
        close(job)


def open_batches(config: TrainingConfig, source: Source) -> Batches:
    """This process's share of all batches, cut on the host or on its devices."""
    sampler = Sampler(
        source.sizes,
        batch_size=config.data.batch_size,
        crops=config.crops,
        size=config.hr_crop,
        seed=config.seed,
        shard_index=jax.process_index(),
        shard_count=jax.process_count(),
    )
    threads, transfer = config.data.threads, parallel.split
    if not config.data.resident:
        return CropBatches(source, sampler, threads=threads, transfer=transfer)
    return ResidentBatches(
        source, sampler, threads=threads, transfer=transfer, share=parallel.share
    )


def make_network(config: TrainingConfig) -> BlindNetwork:
    """The network as it is trained, over all devices."""
    return config.model.make_network(
        axis_name=AXIS,
        remat=config.compute.rematerialise,
        dtype=config.compute.dtype,
    )


def find_start(
    config: TrainingConfig,
    setup: Setup,
    identity: dict[str, Any],
    checkpoints: Checkpoints,
    batches: Batches,
) -> Start:
    """A fresh run, whose config is written down; or the workdir's newest one.

    Sets the batches to where it goes on. Raises UserError for a checkpoint of another
    kind, and where there is no room for one.
    """
    workdir = checkpoints.workdir
    run = fresh_run(setup.state, averaged=config.ema_decay > 0)
    start = Start(run, [], setup.basis, config.init)
    check_room(workdir, sum(leaf.nbytes for leaf in jax.tree.leaves(start.run)))
    if checkpoints.latest_step() is not None:
        run, basis, about = resume(checkpoints, start.run, setup.basis, identity)
        init = init_of(about["config"])
        start = Start(run, about["unlogged"], basis, init)
        batches.set_state(about["batches"])
    elif parallel.is_main_process():
        text = json.dumps(identity["config"], indent=1)
        atomic.write_text(workdir / "config.json", text + "\n")
    parallel.check_same({f"the newest checkpoint's step in {workdir}": start.step})
    return start


def announce(job: Job, start: int) -> None:
    """Say what is trained, on what and from where."""
    config, schedule, teacher = job.config, job.config.schedule, job.setup.teacher
    job.log.say(
        f"{config.model.kind}, setting {config.model.setting}, x{config.model.scale}: "
        f"steps {start} to {schedule.total} (stage 2 from {schedule.boundary}) on "
        f"{jax.device_count()} {jax.devices()[0].device_kind} device(s) of "
        f"{jax.process_count()} process(es), {len(job.source)} images from "
        f"{config.data.hr}, into {job.workdir}"
    )
    if teacher is not None:
        job.log.say(f"distilled from {teacher.name} after {teacher.step} updates")


def run_steps(job: Job, start: Start) -> None:
    """All steps from `start` to the schedule's end.

    Raises UserError where too many updates in a row were not finite, Interrupted where
    it was told to stop.
    """
    config, total = job.config, job.config.schedule.total
    unlogged: Unlogged = list(start.unlogged)
    under_way: deque[Any] = deque()
    run = parallel.replicate(start.run)
    if start.step and not job.log.validated(start.step):
        validate_where_due(job, run, start.step)  # the run ended before it came to that
    with Interruption() as interruption:
        for step in range(start.step + 1, total + 1):
            stage = 1 if step <= config.schedule.boundary else 2
            run, metrics = job.steps[stage](run, next(job.batches), job.constants)
            unlogged.append(metrics)
            job.log.advance(step)
            # Steps are only queued up here: wait for the one before the last, so that
            # they, with their batches, do not pile up in memory.
            under_way.append(metrics["skipped_in_a_row"])
            if len(under_way) > 2:
                stop_if_lost(int(under_way.popleft()), step - 2, config, job.workdir)

            ends = step == total
            interrupted = interruption.noted(step) and not ends
            if step % config.log.every_steps == 0 or step in milestones(config):
                log_metrics(job, unlogged, step, stage)
                unlogged = []
            due = step % config.checkpoint.every_steps == 0
            if (due and not int(under_way[-1])) or ends or interrupted:
                unlogged = numbers(unlogged)
                save(job, run, unlogged)
            if interrupted:
                job.checkpoints.wait()
                raise Interrupted(
                    f"stopped after step {step} of {total}, with a checkpoint in "
                    f"{job.workdir}: the same command goes on from there"
                )
            # Last: where it fails, or takes long, nothing is lost.
            validate_where_due(job, run, step)
    job.checkpoints.wait()
    job.log.say(f"finished at step {total}: {job.workdir}")


def milestones(config: TrainingConfig) -> tuple[int, int]:
    """The last steps of the stages."""
    return config.schedule.boundary, config.schedule.total


def log_metrics(job: Job, unlogged: Unlogged, step: int, stage: int) -> None:
    """Log the means over the steps that are not logged yet."""
    values = averages(unlogged)
    rate: Any = schedules.of(job.config.schedule)(step - 1)
    job.log.metrics(step, {**values, "learning_rate": float(rate)}, stage=stage)


def save(job: Job, run: Run, unlogged: Unlogged) -> None:
    """Write a checkpoint, in the background."""
    state = {"batches": job.batches.get_state(), "unlogged": unlogged}
    job.checkpoints.save(run, job.setup.basis, {**job.identity, **state})


def validate_where_due(job: Job, run: Run, step: int) -> None:
    """Validate at the intervals that the config asks for, and at the end."""
    ends = step == job.config.schedule.total
    if step % job.config.validation.every_steps == 0 or ends:
        began = time.monotonic()
        job.validate(step, run, job.log)
        job.log.pause(time.monotonic() - began)


def close(job: Job) -> None:
    """End what runs in the background, and name the images that were not used."""
    job.batches.close()
    job.checkpoints.close()
    job.log.close()
    skipped = job.source.skipped
    if skipped:
        job.log.say(f"{len(skipped)} not used of the images in {job.config.data.hr}")
    for reason in skipped.values():
        job.log.say(f"not used: {reason}")


def make_steps(config: TrainingConfig, setup: Setup) -> Steps:
    """The run's steps on all devices, by stage."""
    steps = {}
    for stage, update in setup.updates.items():
        step = degrading_step(
            update,
            setting=config.model.setting,
            scale=config.model.scale,
            width_max=config.degradation.width_max,
        )
        step = skip_nonfinite(step, ema_decay=config.ema_decay)
        if config.data.resident:
            step = cropping_step(step, size=config.hr_crop)
        steps[stage] = parallel.over_devices(step)
    return steps


def constants_on_devices(
    config: TrainingConfig, setup: Setup, batches: Batches
) -> Constants:
    """What the steps take beside run and batch."""
    constants = parallel.replicate(setup.constants(config.seed))
    if isinstance(batches, ResidentBatches):
        constants = constants._replace(pixels=batches.pixels)
    return constants


def fitting_steps_per_epoch(
    config: TrainingConfig, begun: Path | None, network: BlindNetwork, batches: Batches
) -> int:
    """The length of an epoch with which a run takes config.minutes.

    Timed at a run's start and kept in its config.json: a run that goes on, in the
    workdir `begun`, has the schedule that it began with. Of the steps that are timed
    nothing stays.
    """
    if begun is not None and (begun / "config.json").exists():
        return _kept_steps_per_epoch(begun / "config.json", config)
    setup = prepare(config, network)
    steps = make_steps(config, setup)
    constants = constants_on_devices(config, setup, batches)
    start = batches.get_state()
    seconds = 0.0  # that all epochs take with one step each
    for stage, step in steps.items():
        run = fresh_run(setup.state, averaged=config.ema_decay > 0)
        taken = seconds_per_step(step, parallel.replicate(run), batches, constants)
        seconds += config.schedule.epochs(stage) * taken
    batches.set_state(start)
    return parallel.broadcast_from_main(max(1, int(60 * config.minutes / seconds)))


def _kept_steps_per_epoch(file: Path, config: TrainingConfig) -> int:
    """What a run's config.json says. Raises UserError where that is damaged."""
    try:
        # Converted weights have no schedule; that they cannot go on is told later.
        kept = json.loads(file.read_bytes())
        return kept.get("schedule", config.as_given["schedule"])["steps_per_epoch"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{file} is damaged ({error}): restore it from a copy; without it a run of "
            "config.minutes does not know its schedule"
        ) from error


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


def numbers(metrics: Unlogged) -> Unlogged:
    """The metrics of steps as plain numbers; waits until they are computed."""
    return [{name: float(value) for name, value in row.items()} for row in metrics]


def averages(metrics: Unlogged) -> dict[str, float]:
    """Means over steps, without what was not finite; of counts, the last."""
    rows = numbers(metrics)
    values = {}
    for name in rows[-1]:
        finite = [row[name] for row in rows if math.isfinite(row[name])]
        values[name] = fmean(finite) if finite else math.nan
    del values["skipped_in_a_row"]
    return values | {"skipped": rows[-1]["skipped"]}


def stop_if_lost(
    skipped_in_a_row: int, step: int, config: TrainingConfig, workdir: Path
) -> None:
    """Raises UserError where too many updates in a row were not finite."""
    if skipped_in_a_row >= config.skipped_in_a_row:
        narrow = config.compute.dtype != "float32"
        wider = ", or in float32 (config.compute.dtype)" if narrow else ""
        raise UserError(
            f"loss or gradient were not finite in the last {skipped_in_a_row} updates, "
            f"up to step {step}; none of them was made. Checkpoints from before, if "
            f"any, are in {workdir}: look at the images, or start again with a lower "
            f"config.schedule.learning_rate{wider}"
        )


def resume(
    checkpoints: Checkpoints, run: Run, basis: np.ndarray, identity: dict[str, Any]
) -> tuple[Run, np.ndarray, dict[str, Any]]:
    """The newest whole checkpoint, its basis and `about`; `run` is one of its kind.

    Damaged ones after it are moved out of the way.
    """

    def template(about: dict[str, Any]) -> tuple[Run, np.ndarray]:
        check_resumable(about, identity, checkpoints.workdir)
        return run, basis

    run, basis, about = checkpoints.run(template)
    checkpoints.set_aside_after(int(run.state.step))
    return run, basis, about
