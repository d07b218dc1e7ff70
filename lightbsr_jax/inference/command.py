"""`lightbsr upscale`: from the command line's arguments to pictures and a summary."""

import math
import sys
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Callable

import jax
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

from lightbsr_jax.errors import UserError
from lightbsr_jax.imaging import files, photographs
from lightbsr_jax.inference import explain, folder
from lightbsr_jax.inference.folder import Job, Target
from lightbsr_jax.inference.upscaler import Upscaler
from lightbsr_jax.models.model import Model


def run(arguments: Namespace, load: Callable[[], Model]) -> bool:
    """Upscales what the command line names; whether all of it came out.

    `load` reads the model that it names. Raises UserError, FileNotFoundError.
    """
    if not 1 <= arguments.quality <= 100:
        raise UserError(f"--quality={arguments.quality}: expected 1 to 100")
    target = folder.parse_target(arguments.scale, arguments.size)
    jobs = folder.jobs(
        arguments.input,
        arguments.output,
        suffix=arguments.suffix,
        format=arguments.format,
        skip_existing=arguments.existing == "skip",
    )
    _tell_what_is_left(arguments.input)
    if arguments.device == "cpu":
        jax.config.update("jax_platforms", "cpu")  # before anything else is woken
    model = load()
    upscaler = _upscaler(arguments, model)
    idr = None
    if arguments.idr_from is not None:
        other = photographs.to_network(photographs.read(arguments.idr_from))[0]
        idr = upscaler.estimate(other).mean
    if arguments.dry_run:
        return _run(
            jobs,
            arguments.existing,
            lambda job: _plan(upscaler, job, target),
            done="to make",
        )
    bank = None
    if arguments.explain:
        bank = explain.make_bank(upscaler, explain.known_degradations(model.setting))

    console = Console(stderr=True)
    pixels = [_pixels(job) for job in jobs]  # what the time goes by
    with Progress(
        TextColumn("{task.fields[number]}/{task.fields[of]}"),
        BarColumn(bar_width=10),
        TextColumn("{task.fields[part]:4.0%}"),
        TimeRemainingColumn(),
        TextColumn("{task.description}", table_column=Column(ratio=1, no_wrap=True)),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    ) as bar:
        task = bar.add_task("", total=sum(pixels), number=0, of=len(jobs), part=0.0)

        def act(job: Job) -> str:
            index = jobs.index(job)
            before = sum(pixels[:index])

            def show(done: int, total: int) -> None:
                bar.update(
                    task,
                    completed=before + pixels[index] * done / total,
                    description=job.name,
                    number=index + 1,
                    part=done / total,
                )

            begin = time.monotonic()
            told = folder.upscale(
                upscaler,
                job,
                target,
                quality=arguments.quality,
                idr=idr,
                self_ensemble=arguments.self_ensemble,
                bank=bank,
                on_progress=show,
            )
            seconds = time.monotonic() - begin
            return f"{told} {job.target} ({seconds:.1f} s)"

        return _run(jobs, arguments.existing, act)


def _upscaler(arguments: Namespace, model: Model) -> Upscaler:
    memory = None
    if arguments.memory is not None:
        if arguments.memory <= 0:
            raise UserError(f"--memory={arguments.memory}: expected GB above 0")
        memory = int(arguments.memory * 1e9)
    try:
        devices = jax.local_devices(backend=arguments.device)
    except RuntimeError as error:
        raise UserError(
            f"--device={arguments.device}: JAX finds none, only "
            f"{jax.default_backend()} (another build of jax may be needed)"
        ) from error
    return Upscaler(
        model, memory=memory, precision=arguments.precision, devices=devices
    )


def _tell_what_is_left(inputs: list[str]) -> None:
    kinds = folder.other_kinds(inputs)
    if kinds:
        ends = ", ".join(f"{n} {end or 'without'}" for end, n in sorted(kinds.items()))
        print(f"passed over, by the ends of their names: {ends}")


def _pixels(job: Job) -> int:
    try:
        return math.prod(files.image_size(job.source))
    except (UserError, OSError):  # to be told when it is this picture's turn
        return 0


def _plan(upscaler: Upscaler, job: Job, target: Target) -> str:
    size = files.image_size(job.source)
    return f"{folder.sizes(size, target.of(size, upscaler.scale))} {job.target}"


def _run(
    jobs: list[Job], existing: str, act: Callable[[Job], str], *, done: str = "done"
) -> bool:
    begin = time.monotonic()
    counts = Counter()
    try:
        for _, outcome, text in folder.attempts(jobs, act, existing=existing):
            outcome = done if outcome == "done" else outcome
            counts[outcome] += 1
            file = sys.stderr if outcome == "failed" else sys.stdout
            print(f"{outcome}: {text}", file=file, flush=True)
    finally:  # Ctrl-C too
        outcomes = (done, "skipped", "failed")
        told = [f"{counts[o]} {o}" for o in outcomes if counts[o]] or ["nothing done"]
        print(f"{', '.join(told)} in {time.monotonic() - begin:.0f} s", flush=True)
    return not counts["failed"]
