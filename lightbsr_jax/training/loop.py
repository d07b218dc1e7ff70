"""The training loop: from HR images to checkpoints of a trained network."""

import contextlib
import json
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean, median
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from lightbsr_jax import atomic, locks, target
from lightbsr_jax.data.pairs import PairedBatches, Pairs
from lightbsr_jax.data.pipeline import CropBatches, Sampler
from lightbsr_jax.data.resident import ResidentBatches
from lightbsr_jax.data.sources import Source, open_source
from lightbsr_jax.errors import Interrupted, UserError
from lightbsr_jax.methods.network import BlindNetwork
from lightbsr_jax.models.checkpoint import Checkpoints, checksum
from lightbsr_jax.training import adversary, initial, pack, parallel, schedules
from lightbsr_jax.training.checks import (
    AUTO,
    IMAGES,
    check,
    check_pictures,
    check_resumable,
    check_room,
    check_workdir,
    common_fields,
    fixed_fields,
)
from lightbsr_jax.training.config import TrainingConfig, init_of, schedule_of
from lightbsr_jax.training.interruption import Interruption
from lightbsr_jax.training.log import Log, psnr_at, say_first
from lightbsr_jax.training.setup import Setup, keep_teacher, prepare
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
from lightbsr_jax.typed import Device

TIMED_STEPS = 8  # of each stage, for config.minutes

Batches = CropBatches | ResidentBatches
Steps = dict[int, Step]  # by stage
Unlogged = list[Any]  # metrics of each step, as arrays or numbers


class Start(NamedTuple):
    """The state from which a run starts or resumes."""

    run: Run
    unlogged: Unlogged
    basis: np.ndarray  # of the prior
    init: str  # name of the initial weights
    extended: str = ""  # a line about the learning rate of an extended run

    @property
    def step(self) -> int:
        """The number of finished updates."""
        return int(self.run.state.step)


class Job(NamedTuple):
    """Everything that a run needs and does not change."""

    config: TrainingConfig
    workdir: Path
    source: Source
    pairs: Pairs | None
    batches: Batches
    setup: Setup
    identity: dict[str, Any]  # must be the same when a run is resumed
    steps: Steps
    constants: Constants
    checkpoints: Checkpoints
    validate: Callable[[int, Run, np.ndarray, Log], float | None]  # to PSNR in dB
    log: Log


def train(flags: ConfigDict, workdir: str | Path) -> None:
    """Trains the network of a config, or resumes the run in `workdir`.

    Raises UserError or OSError if the config is invalid or differs from the workdir's,
    if the workdir cannot be written to, and if the run cannot continue; Interrupted if
    it got a signal to stop. Checkpoints are kept in every case.
    """
    config, workdir = TrainingConfig.from_flags(flags), Path(workdir)
    check(config)
    check_pictures(config, workdir)
    with contextlib.ExitStack() as stack:
        _train(config, workdir, stack)


def _train(config: TrainingConfig, workdir: Path, stack: contextlib.ExitStack) -> None:
    source = open_source(config.data.hr, minimum=config.hr_crop)
    pairs = open_pairs(config, source)
    batches = open_batches(config, source, pairs)
    check_workdir(workdir)
    if parallel.is_main_process():
        stack.enter_context(locks.held(workdir / ".lock", workdir))
    checkpoints = Checkpoints(
        workdir,
        keep=config.checkpoint.keep,
        keep_every=config.checkpoint.keep_every_steps,
    )
    newest = checkpoints.latest_step()
    begun = workdir if newest is not None else None
    if config.compute.dtype == AUTO:
        config = config.with_value("compute", "dtype", chosen_dtype(begun, config))
    identity = {
        "config": config.as_given,
        "images": source.fingerprint + (f"+{pairs.fingerprint}" if pairs else ""),
        "names": list(source.names),  # to name those that changed
    }
    # Before processes wait for each other in a step or a restoration.
    parallel.check_same(
        {
            **common_fields(identity),
            f"the number of {IMAGES}": len(source),
            f"the newest checkpoint's step in {workdir}": newest,
        }
    )
    validate = validation(config)
    network = make_network(config)
    # A resumed run already contains them.
    given = initial.load(config.init) if config.init and not begun else None
    if config.minutes:
        fitting = fitting_steps_per_epoch(config, begun, network, batches)
        config = config.with_value("schedule", "steps_per_epoch", fitting)

    # On the host: the devices hold the state only once, that of the steps.
    setup = jax.device_get(prepare(config, network, given, begun=begun))
    identity |= {
        "config": config.as_given,
        "teacher": None if setup.teacher is None else setup.teacher.checksum,
        "vgg": None if setup.vgg is None else checksum(setup.vgg),
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
        pairs=pairs,
        batches=batches,
        setup=setup,
        identity=identity,
        steps=make_steps(config, setup),
        constants=constants_on_devices(config, setup, batches),
        checkpoints=checkpoints,
        validate=validate,
        log=Log(workdir, start=start.step, total=total, quiet=quiet),
    )
    announce(job, start.step)
    if given is not None and setup.start is not None:
        job.log.say(initial.describe(setup.start, config.init))
    if start.extended:
        job.log.say(start.extended)
    try:
        run_steps(job, start)
    finally:
        close(job)


def open_pairs(config: TrainingConfig, source: Source) -> Pairs | None:
    """Opens the real pairs, if there are any. Raises UserError if they do not fit."""
    data = config.data
    if not data.lr:
        return None
    return Pairs(
        source,
        data.lr,
        scale=config.model.scale,
        minimum=data.lr_crop,
        every=data.paired_share == 1,
    )


def open_batches(
    config: TrainingConfig, source: Source, pairs: Pairs | None = None
) -> Batches:
    """Opens this process's share of all batches, cut on the host or on its devices."""
    sampled = partial(
        Sampler,
        batch_size=config.data.batch_size,
        crops=config.crops,
        seed=config.seed,
        shard_index=jax.process_index(),
        shard_count=jax.process_count(),
    )
    sampler = sampled(source.sizes, size=config.hr_crop)
    threads, transfer = config.data.threads, parallel.split
    if pairs is not None:
        return PairedBatches(
            source,
            sampler,
            pairs,
            sampled(pairs.sizes, size=config.data.lr_crop),
            share=config.data.paired_share,
            threads=threads,
            transfer=transfer,
        )
    if not config.data.resident:
        return CropBatches(source, sampler, threads=threads, transfer=transfer)
    return ResidentBatches(
        source, sampler, threads=threads, transfer=transfer, share=parallel.share
    )


def make_network(config: TrainingConfig) -> BlindNetwork:
    """Makes the network for training over all devices."""
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
    """Starts a new run and writes its config, or resumes the workdir's newest state.

    Moves the batches to the position of that state. Raises UserError if a checkpoint
    does not fit the config, or if there is no space for one.
    """
    workdir = checkpoints.workdir
    run = fresh_run(setup.state, averaged=config.ema_decay > 0)
    start = Start(run, [], setup.basis, config.init)
    check_room(workdir, sum(leaf.nbytes for leaf in jax.tree.leaves(start.run)))
    if checkpoints.latest_step() is not None:
        run, basis, about = resume(checkpoints, start.run, setup.basis, identity)
        init = init_of(about["config"])
        told = extension(config, about["config"], int(run.state.step))
        start = Start(run, about["unlogged"], basis, init, told)
        batches.set_state(about["batches"])
    if parallel.is_main_process():
        begins = checkpoints.latest_step() is None
        if begins or start.extended:
            values = {**identity["config"], "init": start.init}
            text = json.dumps(values, indent=1)
            atomic.write_text(workdir / "config.json", text + "\n")
        if setup.teacher is not None:
            keep_teacher(setup.teacher, workdir, begins=begins)
    parallel.check_same({f"the newest checkpoint's step in {workdir}": start.step})
    return start


def extension(config: TrainingConfig, before: dict[str, Any], step: int) -> str:
    """Describes the learning rate of a run with more epochs; empty for other runs.

    `before` is the config in the checkpoint, `step` the number of updates so far.
    """
    then, now = schedule_of(before["schedule"]), config.schedule
    if now.total <= then.total:
        return ""
    was: Any = schedules.of(then)(max(step - 1, 0))
    rate: Any = schedules.of(now)(step)
    last: Any = schedules.of(now)(now.total - 1)
    return (
        f"extended from {then.total} to {now.total} updates: the learning rate was "
        f"{float(was):.3g}, continues at {float(rate):.3g} and ends at "
        f"{float(last):.3g}"
    )


def announce(job: Job, start: int) -> None:
    """Prints the network, the devices, the data and the first step."""
    config, schedule, teacher = job.config, job.config.schedule, job.setup.teacher
    job.log.say(
        f"{config.model.kind}, setting {config.model.setting}, x{config.model.scale}: "
        f"steps {start} to {schedule.total} (stage 2 from {schedule.boundary}) on "
        f"{jax.device_count()} {jax.devices()[0].device_kind} device(s) of "
        f"{jax.process_count()} process(es), in {config.compute.dtype}, "
        f"{len(job.source)} images from {config.data.hr}, into {job.workdir}"
    )
    if job.pairs is not None:
        job.log.say(
            f"{len(job.pairs)} of them have LR images in {config.data.lr}: "
            f"{config.data.paired_share:.0%} of the training examples are pairs"
        )
    if config.adversarial is not None:
        job.log.say(adversary.describe(config.adversarial))
    if teacher is not None:
        of = "" if teacher.planned is None else f" of {teacher.planned}"
        job.log.say(f"distilled from {teacher.name} after {teacher.step}{of} updates")
        if teacher.planned is not None and teacher.step < teacher.planned:
            job.log.say(
                f"warning: the training of the teacher {teacher.name} is not finished, "
                f"{teacher.step} of {teacher.planned} updates are made"
            )


def run_steps(job: Job, start: Start) -> None:
    """Runs all steps from `start` to the end of the schedule.

    Raises UserError if too many updates in a row are not finite, Interrupted if it got
    a signal to stop.
    """
    config, total = job.config, job.config.schedule.total
    unlogged: Unlogged = list(start.unlogged)
    under_way: deque[Any] = deque()
    run = parallel.replicate(start.run)
    if start.step and not job.log.validated(start.step):
        validate_where_due(job, run, start.step)  # the run stopped before validating
    with Interruption() as interruption:
        for step in range(start.step + 1, total + 1):
            stage = 1 if step <= config.schedule.boundary else 2
            run, metrics = job.steps[stage](run, next(job.batches), job.constants)
            unlogged.append(metrics)
            job.log.advance(step)
            # This only queues a step. Wait for the second last one, so that steps and
            # their batches do not accumulate in memory.
            under_way.append(metrics["skipped_in_a_row"])
            if len(under_way) > 2:
                with within_memory(config):
                    skipped = int(under_way.popleft())
                stop_if_lost(skipped, step - 2, config, job.workdir)

            ends = step == total
            if ends:
                stop_if_lost(int(under_way[-1]), step, config, job.workdir)
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
                    f"{job.workdir}: the same command resumes from there"
                )
            # Validate last: if it fails or takes long, nothing is lost.
            validate_where_due(job, run, step)
    job.checkpoints.wait()
    # Others would end while the first one validates, and JAX waits only five minutes.
    parallel.meet()
    job.log.say(f"finished at step {total}: {job.workdir}")


def milestones(config: TrainingConfig) -> tuple[int, int]:
    """The last steps of the stages."""
    return config.schedule.boundary, config.schedule.total


def log_metrics(job: Job, unlogged: Unlogged, step: int, stage: int) -> None:
    """Logs the means over the steps since the last log."""
    values = averages(unlogged)
    rate: Any = schedules.of(job.config.schedule)(step - 1)
    job.log.metrics(step, {**values, "learning_rate": float(rate)}, stage=stage)


def save(job: Job, run: Run, unlogged: Unlogged) -> None:
    """Writes a checkpoint in the background."""
    state = {"batches": job.batches.get_state(), "unlogged": unlogged}
    job.checkpoints.save(run, job.setup.basis, {**job.identity, **state})


def validate_where_due(job: Job, run: Run, step: int) -> None:
    """Validates at the intervals of the config, and at the end."""
    ends = step == job.config.schedule.total
    if step % job.config.validation.every_steps == 0 or ends:
        began = time.monotonic()
        psnr = job.validate(step, run, job.setup.basis, job.log)
        if job.config.checkpoint.best and psnr is not None:
            keep_best(job, run, step, psnr)
        job.log.pause(time.monotonic() - began)


def keep_best(job: Job, run: Run, step: int, psnr: float) -> None:
    """Writes WORKDIR/best.safetensors unless the weights in it are as good."""
    kept = pack.best_step(job.workdir)
    best = None
    if kept is not None and kept != step:
        best = psnr_at(job.workdir, kept)
    if math.isnan(psnr) or (best is not None and psnr <= best):
        return
    evaluated = {"params": run.evaluated, "batch_stats": run.state.batch_stats}
    model = jax.device_get(parallel.on_first_device(evaluated))
    pack.keep_best(
        job.workdir, job.identity["config"], step, {**model, "basis": job.setup.basis}
    )


def close(job: Job) -> None:
    """Stops background work, and prints the images that were not used."""
    job.batches.close()
    job.checkpoints.close()
    job.log.close()
    skipped = {**job.source.skipped, **(job.pairs.skipped if job.pairs else {})}
    if skipped:
        job.log.say(f"{len(skipped)} images in {job.config.data.hr} were not used")
    for reason in skipped.values():
        job.log.say(f"not used: {reason}")


def make_steps(
    config: TrainingConfig, setup: Setup, devices: Sequence[Device] | None = None
) -> Steps:
    """Makes the run's steps on all devices or the given ones, by stage."""
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
        mapped = parallel.over_devices(step, devices)
        steps[stage] = within_memory(config, devices)(mapped)
    return steps


@contextlib.contextmanager
def within_memory(
    config: TrainingConfig, devices: Sequence[Device] | None = None
) -> Iterator[None]:
    """Raises UserError if a device lacks the memory for a step.

    Devices say so when a step is compiled or queued, or when its results are awaited.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        message = remedy(config, jax.devices() if devices is None else devices)
        raise UserError(message) from error


def remedy(config: TrainingConfig, devices: Sequence[Device]) -> str:
    """Says what to change in a config whose steps do not fit into devices' memory."""
    count, parts = len(devices), config.compute.parts
    images = config.data.batch_size // count
    remedies = [
        f"--config.compute.parts={more} (the same numbers, of fewer images at a time)"
        for more in range(parts + 1, images + 1)
        if images % more == 0
    ][:1]
    if config.compute.dtype == "float32":
        remedies.append("--config.compute.dtype=bfloat16")
    remedies.append(f"a config.data.batch_size below {config.data.batch_size}")
    return (
        f"config.compute.parts={parts}: a step of {images} images on each of {count} "
        f"{devices[0].device_kind} device(s) does not fit into their memory. "
        f"Take {', or '.join(remedies)}"
    )


def constants_on_devices(
    config: TrainingConfig, setup: Setup, batches: Batches
) -> Constants:
    """The constant arguments of the steps, on all devices."""
    constants = parallel.replicate(setup.constants(config.seed))
    if isinstance(batches, ResidentBatches):
        constants = constants._replace(pixels=batches.pixels)
    return constants


def fitting_steps_per_epoch(
    config: TrainingConfig, begun: Path | None, network: BlindNetwork, batches: Batches
) -> int:
    """The number of steps per epoch with which a run takes config.minutes.

    It is measured when a run starts and stored in config.json. A run that is resumed in
    the workdir `begun` keeps its schedule. The timed steps are discarded.
    """
    kept = _kept(begun, config, "schedule", "steps_per_epoch")
    if kept is not None:
        return kept
    if parallel.is_main_process():  # compiling takes minutes on a busy machine
        say_first("compiling and timing steps, for config.minutes")
    setup = prepare(config, network)
    steps = make_steps(config, setup)
    constants = constants_on_devices(config, setup, batches)
    start = batches.get_state()
    seconds = 0.0  # of all epochs with one step each
    for stage, step in steps.items():
        if not config.schedule.epochs(stage):
            continue
        run = fresh_run(setup.state, averaged=config.ema_decay > 0)
        with within_memory(config):
            taken = seconds_per_step(step, parallel.replicate(run), batches, constants)
        seconds += config.schedule.epochs(stage) * taken
    batches.set_state(start)
    return parallel.broadcast_from_main(max(1, int(60 * config.minutes / seconds)))


def chosen_dtype(begun: Path | None, config: TrainingConfig) -> str:
    """The type for `compute.dtype=auto`: the faster one on this process's devices.

    It is stored in config.json, and a run that is resumed in the workdir `begun` keeps
    it.
    """
    kept = _kept(begun, config, "compute", "dtype")
    if kept not in (None, AUTO):  # AUTO: of converted weights
        return kept
    fast = target.trains_faster_in_bfloat16(jax.local_devices()[0])
    return "bfloat16" if fast else "float32"


def _kept(begun: Path | None, config: TrainingConfig, group: str, field: str) -> Any:
    """A value in the config.json of the workdir `begun`; None without this file.

    Raises UserError if it is damaged.
    """
    if begun is None or not (begun / "config.json").exists():
        return None
    file = begun / "config.json"
    try:
        # Converted weights have no such groups; a later check refuses to resume them.
        return json.loads(file.read_bytes()).get(group, config.as_given[group])[field]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{file} is damaged ({error}): restore it from a copy, because it stores "
            f"the {group}.{field} of this run"
        ) from error


def seconds_per_step(
    step: Step, run: Run, batches: Batches, constants: Constants
) -> float:
    """The median time of some steps from `run` on, without compilation."""
    times = []
    for _ in range(1 + TIMED_STEPS):
        began = time.monotonic()
        run, metrics = step(run, next(batches), constants)
        jax.block_until_ready(metrics)
        times.append(time.monotonic() - began)
    return median(times[1:])


def numbers(metrics: Unlogged) -> Unlogged:
    """Converts the metrics of steps to numbers; waits until they are computed."""
    rows = jax.device_get(metrics)  # in one transfer
    return [{name: float(value) for name, value in row.items()} for row in rows]


def averages(metrics: Unlogged) -> dict[str, float]:
    """Means over steps of all finite values; for counts, the last value."""
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
    """Raises UserError if too many updates in a row, or all, were not finite."""
    if skipped_in_a_row >= min(config.skipped_in_a_row, config.schedule.total):
        narrow = config.compute.dtype != "float32"
        wider = ", or in float32 (config.compute.dtype)" if narrow else ""
        raise UserError(
            f"the loss or gradients of the last {skipped_in_a_row} updates, up to step "
            f"{step}, were not finite; these updates were skipped. Earlier "
            f"checkpoints, if any, are in {workdir}: check the images, or start again "
            f"with a lower config.schedule.learning_rate{wider}"
        )


def resume(
    checkpoints: Checkpoints, run: Run, basis: np.ndarray, identity: dict[str, Any]
) -> tuple[Run, np.ndarray, dict[str, Any]]:
    """Reads the newest undamaged checkpoint, its basis and `about`, as a `run`.

    Damaged checkpoints after it are moved to another folder.
    """

    def template(about: dict[str, Any]) -> tuple[Run, np.ndarray]:
        check_resumable(about, identity, checkpoints.workdir)
        return run, basis

    run, basis, about = checkpoints.run(template)
    checkpoints.set_aside_after(int(run.state.step))
    return run, basis, about
