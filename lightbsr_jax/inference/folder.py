"""Upscaling files and folders of them: what goes where, and one after another."""

import os
import re
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import NamedTuple

import numpy as np
from PIL import Image

from lightbsr_jax.errors import UserError
from lightbsr_jax.imaging import files, photographs
from lightbsr_jax.inference import explain
from lightbsr_jax.inference.explain import Bank
from lightbsr_jax.inference.upscaler import Progress, Upscaler

Size = tuple[int, int]  # height, width


class Job(NamedTuple):
    """A picture to be upscaled."""

    name: str  # relative to the folder that was given
    source: Path
    target: Path
    format: str | None  # None: that of the source


class Target(NamedTuple):
    """How large the result is to be: a multiple, or pixels.

    A side that is None is in proportion. By default it is the network's scale.
    """

    scale: float | None = None
    height: int | None = None
    width: int | None = None

    def of(self, size: Size, network_scale: int) -> Size:
        """The result's size for a picture of that size."""
        height, width = size
        if self.height is None and self.width is None:
            scale = self.scale or network_scale
            return max(round(height * scale), 1), max(round(width * scale), 1)
        if self.height is None:
            return max(round(height * self.width / width), 1), self.width
        if self.width is None:
            return self.height, max(round(width * self.height / height), 1)
        return self.height, self.width


def parse_target(scale: float | None, size: str | None) -> Target:
    """What --scale or --size (WIDTHxHEIGHT, WIDTHx or xHEIGHT) say. UserError."""
    if scale is not None and not 0 < scale <= 64:
        raise UserError(f"--scale={scale}: expected a number above 0, up to 64")
    if size is None:
        return Target(scale)
    match = re.fullmatch(r"(\d*)x(\d*)", size)
    sides = [int(text) if text else None for text in match.groups()] if match else []
    if not any(sides) or 0 in sides:
        raise UserError(
            f"--size={size}: expected WIDTHxHEIGHT, or in proportion WIDTHx or xHEIGHT"
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
    """What is to be made of files and folders, in order.

    `out` is a folder, or a file where one file is given and it ends like an image.
    What lies in `out` within a folder that is given are results, and left out; so is,
    with `skip_existing`, what would be the result of another picture that is given.
    `format` is an end such as "png". Raises UserError where two results would have one
    name, or a result that of a picture that is given, or an end that tells of another
    format; FileNotFoundError, UserError where there is nothing.
    """
    out = Path(out)
    kind = None if format is None else photographs.FORMATS[format]
    to_file = not out.is_dir() and out.suffix.lower() in Image.registered_extensions()
    if to_file:
        if len(inputs) > 1 or Path(inputs[0]).is_dir():
            raise UserError(f"{out}: one file for several pictures: name a folder")
        named = photographs.FORMATS.get(out.suffix.lower().lstrip("."))
        if named is None or kind not in (None, named):
            ends = [format] if format else photographs.FORMATS
            raise UserError(f"{out}: expected a name ending in .{' .'.join(ends)}")
        kind = named
    planned = []
    for given in inputs:
        for name, source in _found(given, out):
            target = out / name
            target = target.with_name(f"{target.stem}{suffix}{target.suffix}")
            if format is not None:
                target = target.with_suffix(f".{format}")
            planned.append(Job(name, source, out if to_file else target, kind))
    if skip_existing:
        made = [job.target for job in planned if job.target != job.source]
        made += [Path(f"{_explained(target)}.png") for target in made]
        results = set(map(os.path.realpath, made))
        planned = [j for j in planned if os.path.realpath(j.source) not in results]
    sources = {os.path.realpath(job.source): job.source for job in planned}
    targets: dict[str, Job] = {}
    for job in planned:
        target = os.path.realpath(job.target)
        if target in targets:
            raise UserError(
                f"{targets[target].source} and {job.source} would both become "
                f"{job.target}: give them one at a time, with other --output"
            )
        if target in sources:
            raise UserError(
                f"{job.target} is one of the pictures to be upscaled: give another "
                "--output, or a --suffix such as -x4, or --skip-existing where it is "
                "the result of an earlier run"
            )
        targets[target] = job
    return planned


def upscale(
    upscaler: Upscaler,
    job: Job,
    target: Target,
    *,
    quality: int = 95,
    idr: np.ndarray | None = None,
    self_ensemble: bool = False,
    bank: Bank | None = None,
    on_progress: Progress | None = None,
) -> str:
    """Upscales one picture and says what came of it.

    With a bank its degradation is explained, in two more files beside the result.
    Raises UserError, OSError.
    """
    photograph = photographs.read(job.source)
    kind = job.format or photograph.format
    size = photograph.colour.shape[:2]
    wanted = target.of(size, upscaler.scale)
    photographs.check_format(kind, wanted, job.target)
    job.target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryFile(dir=job.target.parent):
        pass  # it can be written to: better known before the work than after it
    pixels, _ = photographs.to_network(photograph)
    sr = upscaler(pixels, idr=idr, self_ensemble=self_ensemble, on_progress=on_progress)
    result = photographs.from_network(photograph, sr, wanted)
    del sr
    photographs.write(job.target, result, kind=kind, quality=quality)
    told = sizes(size, wanted)
    for note in photographs.too_long(result.metadata, kind):
        told += f" [without {note.upper()}: too long for {kind}]"
    if bank is not None:
        estimated = upscaler.estimate(pixels)
        nearest = bank.nearest(estimated.mean)
        explain.write(_explained(job.target), estimated, nearest)
        told += f" [nearest: {nearest[0][0].label}]"
    return told


def sizes(size: Size, result: Size) -> str:
    """Such as "60x40 -> 240x160": width before height, as people say it."""
    return f"{size[1]}x{size[0]} -> {result[1]}x{result[0]}"


def attempts(
    planned: Sequence[Job],
    act: Callable[[Job], str],
    *,
    existing: str,
) -> Iterator[tuple[Job, str, str]]:
    """Each job, how it ended ("done", "skipped" or "failed"), and what there is to say.

    `existing` says what to do about results that are there: "refuse", "skip" or
    "overwrite". A picture that fails does not keep the others from being made.
    """
    for job in planned:
        if existing != "overwrite" and os.path.lexists(job.target):
            if existing == "skip":
                yield job, "skipped", f"{job.target} exists"
            else:
                reason = f"{job.target} exists: --overwrite it, or --skip-existing"
                yield job, "failed", reason
            continue
        try:
            yield job, "done", act(job)
        except MemoryError:
            yield job, "failed", f"{job.source}: not enough memory for its pixels"
        except OSError as error:
            told = f"{error.filename}: {error.strerror}" if error.filename else error
            yield job, "failed", str(told)
        except UserError as error:
            told = " ".join(str(error).split())
            named = any(str(path) in told for path in (job.source, job.target))
            yield job, "failed", told if named else f"{job.source}: {told}"
        except Exception as error:
            traceback.print_exc()
            yield job, "failed", f"{job.source}: a bug: {error!r}, see above"


def other_kinds(inputs: Sequence[str | Path]) -> Counter[str]:
    """The ends of the files in the folders given that are not upscaled: how often."""
    names = (path for given in inputs for path in files.walk(Path(given)))
    ends = Counter(path.suffix.lower() for path in names)
    return Counter({end: n for end, n in ends.items() if end not in files.SUFFIXES})


def _explained(target: Path) -> Path:
    """Where the degradation of a result is told, but for the ends .png and .json."""
    return target.with_name(f"{target.name}-idr")


def _found(given: str | Path, out: Path) -> list[tuple[str, Path]]:
    path = Path(given)
    if path.is_file():
        if path.suffix.lower() not in files.SUFFIXES:
            raise UserError(
                f"{path}: expected a file ending in {' '.join(files.SUFFIXES)}"
            )
        return [(path.name, path)]
    found = files.find_images(given)
    if path.resolve() not in out.resolve().parents:
        return found
    results = out.resolve().relative_to(path.resolve()).as_posix() + "/"
    found = [job for job in found if not job[0].startswith(results)]
    if not found:
        raise UserError(f"{path} holds no image but those in {out}")
    return found
