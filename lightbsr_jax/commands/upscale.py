"""`lightbsr upscale`: upscale pictures and folders, and print a line about each."""

from __future__ import annotations

import argparse
import itertools
import math
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar

from lightbsr_jax import atomic
from lightbsr_jax.commands import paths, source
from lightbsr_jax.commands.printing import printable, say
from lightbsr_jax.errors import UserError
from lightbsr_jax.imaging import formats

if TYPE_CHECKING:
    import numpy as np

    from lightbsr_jax.inference.explain import Bank
    from lightbsr_jax.inference.folder import (
        Done,
        Job,
        Outcome,
        Sizes,
        Target,
        Upscaled,
    )
    from lightbsr_jax.inference.upscaler import Precision, Upscaler
    from lightbsr_jax.models.model import Model

Result = TypeVar("Result")


def add(subparsers: argparse._SubParsersAction) -> None:
    """Adds the command and its options."""
    parser = subparsers.add_parser(
        "upscale",
        help="upscale your own pictures",
        description="Upscale pictures of up to 178 megapixels: PNG, JPEG, WebP, TIFF, "
        "BMP, AVIF and JPEG XL files (with extras: HEIC and raw photographs), and "
        "folders of them. Depth, transparency, colour profile and metadata are kept. "
        "Exit status 1 if a picture could not be upscaled.",
    )
    parser.add_argument("input", nargs="+", help="picture, or folder of pictures")
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        help="folder for the results, with the structure of the input folders; or a "
        "file name for the result of a single picture",
    )
    source.add_options(parser)
    _add_result_options(parser)
    _add_network_options(parser)
    parser.add_argument(
        "--explain",
        action="store_true",
        help="also write the estimated degradation: as maps (.png) and as the nearest "
        "known degradations (.json)",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="only list the results and their sizes"
    )
    parser.set_defaults(run=run)


def _add_result_options(parser: argparse.ArgumentParser) -> None:
    size = parser.add_mutually_exclusive_group()
    size.add_argument(
        "--scale",
        type=float,
        help="scale of the result (default: the network's, usually 4); the network's "
        "result is resized to any other scale (Lanczos)",
    )
    size.add_argument(
        "--size",
        metavar="WxH",
        help="size of the result in pixels; Wx or xH keeps the proportions",
    )
    parser.add_argument(
        "--format",
        choices=formats.known(),
        help="format of the result (default: that of the picture; TIFF for a raw "
        "photograph)",
    )
    parser.add_argument(
        "--quality",
        type=int,
        default=95,
        help="quality of results in lossy formats, 1 to 100 (default: 95)",
    )
    parser.add_argument(
        "--suffix", default="", help="suffix of the results' names, such as -x4"
    )
    existing = parser.add_mutually_exclusive_group()
    existing.add_argument(
        "--overwrite",
        dest="existing",
        action="store_const",
        const="overwrite",
        default="refuse",
        help="replace existing results",
    )
    existing.add_argument(
        "--skip-existing",
        dest="existing",
        action="store_const",
        const="skip",
        help="keep existing results and make the others",
    )


def add_device_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that `make_upscaler` takes."""
    parser.add_argument(
        "--memory",
        metavar="GB",
        type=_gigabytes,
        help="memory for feature maps on each device (default: most of the free "
        "memory). The result does not depend on it",
    )
    parser.add_argument(
        "--device",
        choices=("cpu", "gpu", "tpu"),
        help="kind of device (default: the best available)",
    )
    parser.add_argument(
        "--precision",
        choices=("auto", "float32", "bfloat16"),
        default="auto",
        help="precision of the network's arithmetic (default: products in "
        "bfloat16 if the processor is made for them, else float32)",
    )


def _gigabytes(text: str) -> float:
    """Parses an amount of memory. Raises argparse.ArgumentTypeError."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < 1e9:  # nan, too
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of GB above 0")
    return value


def add_strength(parser: argparse.ArgumentParser) -> None:
    """Adds the option that `check_strength` checks."""
    parser.add_argument(
        "--strength",
        type=float,
        default=1.0,
        help="0 to 1: blend the network's result with bicubic interpolation; a lower "
        "strength enhances JPEG blocks and grain less (default: 1)",
    )


def _add_network_options(parser: argparse.ArgumentParser) -> None:
    add_device_options(parser)
    parser.add_argument(
        "--self-ensemble",
        action="store_true",
        help="average over flips and transpositions: takes 8 times as long and is "
        "slightly better",
    )
    add_strength(parser)
    parser.add_argument(
        "--idr-from",
        metavar="PICTURE",
        type=paths.named,
        help="use the degradation estimated from another picture",
    )


def run(arguments: argparse.Namespace) -> None:
    """Upscales the pictures; exits with 1 if one failed. Raises UserError, OSError.

    Mistakes in the arguments are found before the network is loaded.
    """
    from lightbsr_jax import compilation

    compilation.keep_compiled_programs()
    weights = source.named(arguments)
    try:
        complete = _run(arguments, lambda: source.load(weights))
    except KeyboardInterrupt:
        raise KeyboardInterrupt("--skip-existing resumes") from None
    if not complete:
        sys.exit(1)


def _run(arguments: argparse.Namespace, load: Callable[[], Model]) -> bool:
    """Returns whether no picture failed."""
    from lightbsr_jax.inference import folder

    target, jobs = _plan(arguments)
    pixels = _pixels_of(arguments.idr_from)
    open_devices(arguments.device)
    model = load()
    upscaler = make_upscaler(
        model, arguments.memory, arguments.precision, arguments.device
    )
    existing = arguments.existing

    def is_done(job: Job) -> bool:
        return folder.is_done(job, explained=arguments.explain)

    if arguments.dry_run:
        plans = folder.attempts(
            jobs,
            lambda job: folder.plan(job, target, upscaler.scale),
            existing,
            is_done,
        )
        return report(plans, describe_plan, done="to make")
    idr = None if pixels is None else upscaler.estimate(pixels).mean
    bank = _bank(upscaler, model) if arguments.explain else None
    with _Bar(jobs) as bar:
        outcomes = folder.attempts(
            jobs,
            lambda job: folder.upscale(
                upscaler,
                job,
                target,
                quality=arguments.quality,
                idr=idr,
                self_ensemble=arguments.self_ensemble,
                strength=arguments.strength,
                bank=bank,
                on_progress=bar.of(job),
                keep_result=existing == "skip",
            ),
            existing,
            is_done,
        )
        return report(outcomes, describe)


def _plan(arguments: argparse.Namespace) -> tuple[Target, list[Job]]:
    """The results' size and the pictures; prints the number of unsupported files."""
    from lightbsr_jax.inference import folder

    if not 1 <= arguments.quality <= 100:
        raise UserError(f"--quality={arguments.quality}: expected 1 to 100")
    check_strength(arguments)
    target = folder.parse_target(arguments.scale, arguments.size)
    jobs = folder.jobs(
        arguments.input,
        arguments.output,
        suffix=arguments.suffix,
        format=arguments.format,
        skip_existing=arguments.existing == "skip",
    )
    unsupported = folder.unsupported(arguments.input)
    if unsupported:
        say(describe_unsupported(unsupported))
    return target, jobs


def check_strength(arguments: argparse.Namespace) -> None:
    """Raises UserError for a strength out of range."""
    if not 0 <= arguments.strength <= 1:  # nan, too
        raise UserError(f"--strength={arguments.strength}: expected 0 to 1")


def open_devices(device: str | None) -> None:
    """Opens the devices of an option of `add_device_options`, to upscale pictures.

    Raises UserError. The process keeps memory that is freed.
    """
    import jax

    from lightbsr_jax import compilation
    from lightbsr_jax.inference import memory

    memory.keep_freed()
    if device == "cpu":
        jax.config.update("jax_platforms", "cpu")  # before JAX opens other devices
    compilation.check_devices()


def make_upscaler(
    model: Model,
    gigabytes: float | None,
    precision: Precision,
    device: str | None,
) -> Upscaler:
    import jax

    from lightbsr_jax import target
    from lightbsr_jax.inference.upscaler import Upscaler

    memory = None if gigabytes is None else int(gigabytes * 1e9)
    try:
        devices = jax.local_devices(backend=device)
    except RuntimeError as error:
        raise UserError(
            f"--device={device}: JAX finds only {target.platform()}: install JAX for "
            "your device as README.md shows, or leave --device out"
        ) from error
    upscaler = Upscaler(model, memory=memory, precision=precision, devices=devices)
    if precision == "auto" and upscaler.precision == "bfloat16":
        say("computing in bfloat16, faster here (--precision=float32 turns it off)")
    if (precision, upscaler.precision) == ("bfloat16", "float32"):
        say("--precision=bfloat16: this processor is not made for it; using float32")
    return upscaler


def _pixels_of(picture: str | None) -> np.ndarray | None:
    """The pixels [h, w, 3] of a picture for the network. Raises UserError."""
    from lightbsr_jax.imaging import conversion, photographs

    if picture is None:
        return None
    try:
        return conversion.to_network(photographs.read(picture))
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"--idr-from={picture}: {reason}: name a picture") from error


def _bank(upscaler: Upscaler, model: Model) -> Bank:
    from lightbsr_jax.inference import explain

    return explain.make_bank(upscaler, explain.known_degradations(model.setting))


def report(
    outcomes: Iterable[Outcome[Result]],
    describe: Callable[[Done[Result]], str],
    *,
    done: str = "done",
) -> bool:
    """Prints a line for each outcome and a summary; returns whether none failed."""
    from lightbsr_jax.inference import folder

    begin = time.monotonic()
    counts = Counter()
    try:
        for outcome in outcomes:
            if isinstance(outcome, folder.Done):
                status, text = done, describe(outcome)
            elif isinstance(outcome, folder.Skipped):
                status, text = "skipped", outcome.reason
            else:
                status, text = "failed", describe_failure(outcome.job, outcome.error)
            counts[status] += 1
            say(f"{status}: {text}", sys.stderr if status == "failed" else sys.stdout)
    finally:  # Ctrl-C too
        statuses = (done, "skipped", "failed")
        parts = [f"{counts[s]} {s}" for s in statuses if counts[s]] or ["nothing done"]
        say(f"{', '.join(parts)} in {time.monotonic() - begin:.0f} s")
    return not counts["failed"]


def describe(done: Done[Upscaled]) -> str:
    """A line such as "60x40 -> 240x160 [without XMP] out/a.jpg (1.2 s)"."""
    result = done.result
    text = describe_sizes(result.sizes)
    if result.dropped:
        text += f" [without {', '.join(result.dropped)}]"
    if result.nearest is not None:
        text += f" [nearest: {result.nearest.label}]"
    return f"{text} {done.job.target} ({done.seconds:.1f} s)"


def describe_plan(done: Done[Sizes]) -> str:
    """A line such as "60x40 -> 240x160 out/a.jpg"."""
    return f"{describe_sizes(done.result)} {done.job.target}"


def describe_failure(job: Job, error: Exception) -> str:
    """The reason that a picture failed, in one line; prints a bug's traceback."""
    from lightbsr_jax.inference import folder

    if isinstance(error, folder.ResultExists):
        return f"{error}: --overwrite replaces it, --skip-existing keeps it"
    if isinstance(error, MemoryError):
        return f"{job.source}: not enough memory for its pixels"
    if isinstance(error, OSError):
        reason = error.strerror or str(error)
        place = str(error.filename or job.target)
        if atomic.is_unfinished(place):
            place = str(job.target)
        named = reason if place == str(job.source) else f"{place}: {reason}"
        return f"{job.source}: {named}"
    if isinstance(error, UserError):
        text, names = str(error), [str(job.source), str(job.target)]
        named = any(name in text for name in names)
        for name in names:
            text = text.replace(name, printable(name))  # lines in it stay
        text = " ".join(text.split())
        return text if named else f"{job.source}: {text}"
    traceback.print_exception(error)
    return f"{job.source}: a bug: {error!r}, see above"


def describe_unsupported(kinds: Counter[str]) -> str:
    """A line such as "skipped 3 unsupported files (2 .heic, 1 .cr2)"."""
    count = sum(kinds.values())
    names = [suffix or "no suffix" for suffix, _ in kinds.most_common()]
    if len(kinds) > 1:
        names = [
            f"{n} {suffix or 'without suffix'}" for suffix, n in kinds.most_common()
        ]
    files = "file" if count == 1 else "files"
    text = f"skipped {count} unsupported {files} ({', '.join(names)})"
    extras = [e for e in map(formats.missing, kinds) if e is not None]
    remedies = dict.fromkeys(extra.remedy for extra in extras)
    return "; ".join([text, *(f"{remedy} reads more" for remedy in remedies)])


def describe_sizes(sizes: Sizes) -> str:
    """Text such as "60x40 -> 240x160": width before height, as is usual."""
    (height, width), (new_height, new_width) = sizes
    return f"{width}x{height} -> {new_width}x{new_height}"


class _Bar:
    """A progress bar on the terminal, over the pixels of all jobs."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        from rich.console import Console
        from rich.markup import escape
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
        from rich.table import Column

        console = Console(stderr=True)
        name = Column(ratio=1, no_wrap=True)
        self._bar = Progress(
            TextColumn("{task.fields[number]}/{task.fields[of]}"),
            BarColumn(bar_width=10),
            TextColumn("{task.fields[part]:4.0%}"),
            TimeRemainingColumn(),
            TextColumn("{task.description}", table_column=name),
            console=console,
            # Rich would print lines for a file to the terminal of the bar.
            redirect_stdout=sys.stdout is not None and sys.stdout.isatty(),
            disable=not console.file.isatty(),
            transient=True,
        )
        self._names = [escape(printable(job.name)) for job in jobs]
        self._places = {job.target: place for place, job in enumerate(jobs)}
        # Time is proportional to pixels.
        pixels = [0 if self._bar.disable else _pixels(job) for job in jobs]
        self._ends = list(itertools.accumulate(pixels, initial=0))
        self._task = self._bar.add_task(
            "", total=self._ends[-1], number=0, of=len(jobs), part=0.0
        )

    def __enter__(self) -> _Bar:
        self._bar.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.__exit__(None, None, None)

    def of(self, job: Job) -> Callable[[int, int], None]:
        """Returns a callback (done, total) that shows the progress of a job."""
        index = self._places[job.target]
        before, after = self._ends[index : index + 2]

        def show(done: int, total: int) -> None:
            self._bar.update(
                self._task,
                completed=before + (after - before) * done / total,
                description=self._names[index],
                number=index + 1,
                part=done / total,
            )

        return show


def _pixels(job: Job) -> int:
    from lightbsr_jax.imaging import files

    try:
        return math.prod(files.image_size(job.source))
    except (UserError, OSError):  # reported when this picture is upscaled
        return 0
