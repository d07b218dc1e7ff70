"""Upscaling files and folders: planning the results, and making them one by one."""

import contextlib
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Generic, Literal, NamedTuple, TypeVar

import numpy as np
from PIL import Image

from lightbsr_jax import atomic
from lightbsr_jax.errors import UserError
from lightbsr_jax.imaging import conversion, files, formats, photographs
from lightbsr_jax.inference import explain
from lightbsr_jax.inference.explain import Bank, Known
from lightbsr_jax.inference.upscaler import Progress, Upscaler

Size = tuple[int, int]  # height, width
_DIGITS = 7  # of a side in pixels
_EXPLAINED = "-idr"  # at the end of the names of files that explain a result
Result = TypeVar("Result")


class Job(NamedTuple):
    """A picture to upscale."""

    name: str  # relative to the given folder
    source: Path
    target: Path
    format: str | None  # None: the format of the source
    error: Exception | None = None  # set if the picture cannot be read


class Target(NamedTuple):
    """Size of the result, as a multiple or in pixels (default: the network's scale).

    If one side is None, it follows from the proportions.
    """

    scale: float | None = None
    height: int | None = None
    width: int | None = None

    def of(self, size: Size, network_scale: int) -> Size:
        """The size of the result for a picture of that size."""
        height, width = size
        if self.height is not None and self.width is not None:
            return self.height, self.width
        if self.height is not None:
            return self.height, max(round(width * self.height / height), 1)
        if self.width is not None:
            return max(round(height * self.width / width), 1), self.width
        scale = self.scale or network_scale
        return max(round(height * scale), 1), max(round(width * scale), 1)


def parse_target(scale: float | None, size: str | None) -> Target:
    """Parses a scale or size (WIDTHxHEIGHT, WIDTHx or xHEIGHT). Raises UserError."""
    if scale is not None and not 0 < scale <= 64:
        raise UserError(f"scale={scale}: expected a number above 0, up to 64")
    if size is None:
        return Target(scale)
    match = re.fullmatch(rf"(\d{{0,{_DIGITS}}})x(\d{{0,{_DIGITS}}})", size)
    sides = [int(text) if text else None for text in match.groups()] if match else []
    if not any(sides) or 0 in sides:
        raise UserError(
            f"size={size[:40]}: expected WIDTHxHEIGHT, or WIDTHx or xHEIGHT to keep "
            f"the proportions, each of up to {_DIGITS} digits"
        )
    return Target(None, sides[1], sides[0])


def jobs(
    inputs: Sequence[str | Path],
    out: str | Path,
    *,
    suffix: str,
    format: str | None,
    skip_existing: bool = False,
) -> list[Job]:
    """Plans the results for files and folders, in order.

    `out` is a folder, or a file if one file is given and `out` ends like an image. If
    `out` lies in a given folder, its pictures are results of an earlier run and are
    left out; with `skip_existing`, so are pictures that are the result of another given
    picture. `format` is a suffix such as "png". An unreadable sub-folder, and one of
    several given files that is no picture, become jobs with an error. If names differ
    only in their suffix (a.jpg, a.png), results get it in their names.

    Raises UserError for an empty name, if two results would have the same name, if a
    result would replace a given picture, if a file `out` comes with a `suffix`, or if
    its ending contradicts the format; FileNotFoundError or UserError if there is no
    picture.
    """
    if any(x in suffix for x in (os.sep, os.altsep or os.sep, "\0")):
        raise UserError(f"--suffix={suffix}: expected a part of a name, such as -x4")
    if "" in (*inputs, out):
        raise UserError("an empty name of a file or folder: is a variable unset?")
    out = Path(out)
    named = out.suffix.lower()
    is_image = named in Image.registered_extensions() or formats.is_known(named)
    to_file = is_image and not out.is_dir()
    if to_file and suffix:
        raise UserError(
            f"--suffix={suffix}: {out} names the result alone: leave --suffix out, or "
            "name a folder"
        )
    kind = _kind(inputs, out, format, to_file=to_file)
    planned, errors = [], []
    for given in inputs:
        found, unreadable = _found(given, out)
        errors += [
            Job(str(e.filename), Path(e.filename), out, kind, e) for e in unreadable
        ]
        for name, source in found:
            try:
                target = out if to_file else _target(out / name, source, suffix, format)
            except (UserError, OSError) as error:  # no picture
                if len(inputs) == 1:
                    raise
                errors.append(Job(name, source, out, kind, error))
            else:
                planned.append(Job(name, source, target, kind))
    # A picture may be given twice, by other paths too.
    once = {(job.target, os.path.realpath(job.source)): job for job in planned}
    planned = list(once.values())
    if skip_existing:
        planned = _without_results(planned)
    planned = _told_apart(planned, suffix)
    _check_collisions(planned)
    return errors + planned


def _kind(
    inputs: Sequence[str | Path], out: Path, format: str | None, *, to_file: bool
) -> str | None:
    """The format of the results, None for that of each source. Raises UserError."""
    kind = None if format is None else photographs.FORMATS[format]
    if not to_file:
        check_folder(out)
        if len(inputs) == 1 and Path(inputs[0]).is_file() and _may_be_a_format(out):
            raise UserError(
                f"{out}: expected a name ending in .{' .'.join(photographs.FORMATS)}; "
                "if it is to be a folder, make it first"
            )
        return kind
    if len(inputs) > 1 or Path(inputs[0]).is_dir():
        raise UserError(f"{out}: a file cannot hold several pictures: name a folder")
    named = photographs.FORMATS.get(out.suffix.lower().lstrip("."))
    if named is None or kind not in (None, named):
        ends = [format] if format else photographs.FORMATS
        raise UserError(f"{out}: expected a name ending in .{' .'.join(ends)}")
    return named


def check_folder(out: Path) -> None:
    """Raises UserError if something else than a folder has this name."""
    if os.path.lexists(out) and not out.is_dir():  # a link to nowhere, too
        raise UserError(f"{out} is no folder: name a folder for the results")


def _may_be_a_format(out: Path) -> bool:
    """Returns whether a new name ends as names of files do, such as large.jpgg."""
    return not out.exists() and re.fullmatch(r"\.[A-Za-z]{2,5}", out.suffix) is not None


def _without_results(planned: Sequence[Job]) -> list[Job]:
    """Removes jobs whose source is the result, or the explanation, of another job."""
    made = [job.target for job in planned if job.target != job.source]
    made += [Path(f"{_explained(target)}.png") for target in made]
    results = set(map(os.path.realpath, made))
    return [job for job in planned if os.path.realpath(job.source) not in results]


def _check_collisions(planned: Sequence[Job]) -> None:
    """Raises UserError if a result would replace another result or a source."""
    sources = {_identity(job.source) for job in planned}
    targets: dict[str, Job] = {}
    for job in planned:
        target = os.path.realpath(job.target)
        if target in targets:
            raise UserError(
                f"{targets[target].source} and {job.source} would both become "
                f"{job.target}: upscale them separately, with different --output"
            )
        if _identity(job.target) in sources:
            raise UserError(
                f"{job.target} is one of the pictures to upscale: give another "
                "--output, or a --suffix such as -x4, or --skip-existing if it is the "
                "result of an earlier run"
            )
        targets[target] = job


def _identity(path: Path) -> tuple[int, int] | str:
    """A value that all names of a file share, also on a disk that ignores case."""
    with contextlib.suppress(OSError):  # it does not exist
        status = path.stat()
        if status.st_ino:  # some systems do not number files
            return status.st_dev, status.st_ino
    return os.path.realpath(path)


class Sizes(NamedTuple):
    """Sizes of a picture and of its result, each (height, width)."""

    before: Size
    after: Size


class Upscaled(NamedTuple):
    """A written result."""

    path: Path
    sizes: Sizes
    format: str  # one of photographs.FORMATS' values
    dropped: list[str]  # names of everything in the file that the result lacks
    nearest: Known | None  # the nearest degradation of the bank


def plan(job: Job, target: Target, network_scale: int) -> Sizes:
    """The sizes of a job, from the header of its file. Raises UserError, OSError."""
    size = files.image_size(job.source)
    return Sizes(size, target.of(size, network_scale))


def upscale(
    upscaler: Upscaler,
    job: Job,
    target: Target,
    *,
    quality: int = 95,
    idr: np.ndarray | None = None,
    self_ensemble: bool = False,
    strength: float = 1.0,
    bank: Bank | None = None,
    on_progress: Progress | None = None,
    keep_result: bool = False,
) -> Upscaled:
    """Upscales one picture into its file, which gets the picture's permissions.

    With a bank, two more files next to the result explain the degradation. With
    `keep_result`, an existing result is kept and only explained. Raises UserError,
    OSError.
    """
    photograph = photographs.read(job.source)
    kind = job.format or photograph.format
    size = photograph.colour.shape[:2]
    wanted = target.of(size, upscaler.scale)
    photographs.check_format(kind, wanted, job.target)
    photographs.check_range(photograph, kind, job.target)
    atomic.make_writable(job.target.parent)  # fails before the work, not after
    longest = job.target if bank is None else Path(f"{_explained(job.target)}.json")
    with contextlib.suppress(FileNotFoundError):
        longest.lstat()  # fails if the name is too long
    mode = job.source.stat().st_mode & 0o666
    pixels = conversion.to_network(photograph)
    dropped = photographs.left_out(photograph, kind)
    if not (keep_result and is_done(job)):
        sr = upscaler(
            pixels,
            idr=idr,
            self_ensemble=self_ensemble,
            strength=strength,
            on_progress=on_progress,
        )
        result = conversion.from_network(photograph, sr, wanted)
        del sr
        photographs.write(job.target, result, kind=kind, quality=quality, mode=mode)
    nearest = None
    if bank is not None:
        estimated = upscaler.estimate(pixels)
        found = bank.nearest(estimated.mean)
        explain.write(_explained(job.target), estimated, found)
        nearest = found[0][0]
    return Upscaled(job.target, Sizes(size, wanted), kind, dropped, nearest)


class ResultExists(UserError):
    """The result exists and must not be replaced."""


def upscale_file(
    upscaler: Upscaler,
    source: str | Path,
    target: str | Path,
    *,
    scale: float | None = None,
    size: str | None = None,
    quality: int = 95,
    idr: np.ndarray | None = None,
    self_ensemble: bool = False,
    strength: float = 1.0,
    overwrite: bool = False,
    on_progress: Progress | None = None,
) -> Upscaled:
    """Upscales one picture file as `lightbsr upscale` does, into the file `target`.

    The result keeps the depth, the colour profile, transparency, EXIF and XMP as far as
    its format can hold them; the returned `dropped` names everything else that the
    source has. The ending of `target` selects the format; if `target` is a folder, the
    result gets the source's name and format.

    scale: the result's size as a multiple of the source's, above 0 and up to 64
        (default: the network's, 4).
    size: or in pixels: "WIDTHxHEIGHT", "WIDTHx" or "xHEIGHT".
    quality: 1 to 100, of lossy formats.
    idr, self_ensemble, strength, on_progress: those of `Upscaler.__call__`.

    Raises UserError, or OSError of the files, which names the file or argument;
    `target` is complete or untouched. An existing `target` is only replaced with
    `overwrite`.
    """
    if not 1 <= quality <= 100:
        raise UserError(f"quality={quality}: expected 1 to 100")
    if Path(source).is_dir():
        raise UserError(f"{source} is a folder: name a picture")
    wanted = parse_target(scale, size)
    (job,) = jobs([source], target, suffix="", format=None)
    if not overwrite and os.path.lexists(job.target):
        raise ResultExists(f"{job.target} exists: overwrite=True replaces it")
    return upscale(
        upscaler,
        job,
        wanted,
        quality=quality,
        idr=idr,
        self_ensemble=self_ensemble,
        strength=strength,
        on_progress=on_progress,
    )


class Done(NamedTuple, Generic[Result]):
    """A finished job with its result and its time."""

    job: Job
    result: Result
    seconds: float


class Skipped(NamedTuple):
    """A skipped job with the reason."""

    job: Job
    reason: str


class Failed(NamedTuple):
    """A job that raised an error."""

    job: Job
    error: Exception


Outcome = Done[Result] | Skipped | Failed
Existing = Literal["refuse", "skip", "overwrite"]


def is_done(job: Job, *, explained: bool = False) -> bool:
    """Returns whether a job's result exists and opens; `explained`: its files exist.

    After a power cut, a file may exist but be empty.
    """
    try:
        files.image_size(job.target)
    except (UserError, OSError):
        return False
    ends = (".png", ".json") if explained else ()
    return all(Path(f"{_explained(job.target)}{end}").exists() for end in ends)


def attempts(
    planned: Sequence[Job],
    act: Callable[[Job], Result],
    existing: Existing,
    is_done: Callable[[Job], bool] = is_done,
) -> Iterator[Outcome[Result]]:
    """Runs one job after another and yields the outcome of each.

    `existing` selects what happens to existing results; one is skipped only if
    `is_done` returns True for it. A failed job does not stop the others. No job
    replaces the result of an earlier one: on a disk that ignores case, a.png is A.png.
    """
    made: dict[str, Job] = {}
    for job in planned:
        if job.error is not None:
            yield Failed(job, job.error)
            continue
        if os.path.lexists(job.source) and not files.is_regular(job.source):
            yield Skipped(job, f"{job.source} is not a regular file")
            continue
        name = str(job.target).casefold()
        if name in made and _identity(made[name].target) == _identity(job.target):
            yield Failed(job, UserError(_same_file(made[name], job)))
            continue
        if os.path.isdir(job.target):
            error = f"{job.target} is a folder: rename it, or give another --output"
            yield Failed(job, UserError(error))
            continue
        if existing != "overwrite" and os.path.lexists(job.target):
            if existing == "refuse":
                yield Failed(job, ResultExists(f"{job.target} exists"))
                continue
            if is_done(job):
                made[name] = job
                yield Skipped(job, f"{job.target} exists")
                continue
        begin = time.monotonic()
        try:
            result = act(job)
        except Exception as error:
            yield Failed(job, error)
        else:
            made[name] = job
            yield Done(job, result, time.monotonic() - begin)


def _same_file(first: Job, second: Job) -> str:
    return (
        f"{second.target} is the same file as {first.target} here, the result of "
        f"{first.source}: upscale {second.source} by itself, with another --output"
    )


def unsupported(inputs: Sequence[str | Path]) -> Counter[str]:
    """Counts the unsupported files in the given folders by their suffixes.

    Explanations of earlier results do not count.
    """
    paths = (path for given in inputs for path in files.walk(Path(given), _ignore))
    others = (path for path in paths if not path.name.endswith(f"{_EXPLAINED}.json"))
    ends = Counter(path.suffix.lower() for path in others)
    return Counter({end: n for end, n in ends.items() if end not in files.SUFFIXES})


def _explained(target: Path) -> Path:
    """Path of the files that explain a result, without their suffix .png or .json."""
    return target.with_name(f"{target.name}{_EXPLAINED}")


def _target(named: Path, source: Path, suffix: str, format: str | None) -> Path:
    """Path of a source's result; a name without a suffix gets that of its format."""
    end = f".{format}" if format is not None else named.suffix
    result = formats.result_suffix(named.suffix)
    if format is None and result is not None:
        end = result  # the source's format is only read
    if named.suffix.lower() not in files.SUFFIXES:
        named = named.with_name(
            named.name + ".png"
        )  # the next line replaces the suffix
        end = end if format is not None else f".{_format_of(source)}"
    return named.with_name(f"{named.stem}{suffix}{end}")


def _format_of(source: Path) -> str:
    """The suffix for the format of a file. Raises UserError, OSError."""
    return formats.of_result(files.format_of(source)).suffixes[0]


def _told_apart(planned: list[Job], suffix: str) -> list[Job]:
    """Renames results with equal names: a.jpg, a.png become a-jpg.webp, a-png.webp."""
    sources: dict[Path, set[Path]] = {}
    for job in planned:
        sources.setdefault(job.target, set()).add(job.source.with_suffix(""))
    counts = Counter(job.target for job in planned)

    def renamed(job: Job) -> Job:
        end = job.source.suffix.lower().lstrip(".")
        if counts[job.target] < 2 or len(sources[job.target]) > 1 or not end:
            return job
        stem = job.target.stem.removesuffix(suffix)
        name = f"{stem}-{end}{suffix}{job.target.suffix}"
        return job._replace(target=job.target.with_name(name))

    return [renamed(job) for job in planned]


def _ignore(error: OSError) -> None:
    """Ignores an unreadable folder: `jobs` reports it."""


def _found(
    given: str | Path, out: Path
) -> tuple[list[tuple[str, Path]], list[OSError]]:
    """The pictures in a folder, or the given file, and errors of unreadable folders."""
    path = Path(given)
    if path.is_file():
        return [(path.name, path)], []
    if path.exists() and not path.is_dir():
        raise UserError(f"{path} is not a regular file: name a picture or a folder")
    errors: list[OSError] = []
    try:
        found = files.find_images(given, errors.append)
    except UserError:
        if not errors:
            raise
        return [], errors
    if path.resolve() not in out.resolve().parents:
        return found, errors
    results = out.resolve().relative_to(path.resolve()).as_posix() + "/"
    found = [job for job in found if not job[0].startswith(results)]
    if not found:
        raise UserError(
            f"{path} holds no image except those in {out}: name a folder of pictures"
        )
    return found, errors
