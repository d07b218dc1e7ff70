"""The log of a run: a progress bar or lines, metrics.jsonl, TensorBoard, pictures."""

import contextlib
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column

from lightbsr_jax import atomic
from lightbsr_jax.errors import UserError
from lightbsr_jax.imaging import files

RECORDS = "metrics.jsonl"


def say_first(text: str) -> None:
    """Prints a line of the first process before it has a Log."""
    _print(Console(soft_wrap=True), text)


def _print(console: Console, text: str) -> None:
    console.print(files.escaped(text), highlight=False, markup=False)


class Log:
    """Metrics of one run, from step `start` to `total`.

    Records of steps after `start`, from an interrupted run, are dropped, because these
    steps will be repeated. A `quiet` log does not print or record anything.
    """

    def __init__(
        self, workdir: Path, *, start: int, total: int, quiet: bool = False
    ) -> None:
        self._workdir = workdir
        self._quiet = quiet
        self._total = total
        self._last = (start, time.monotonic())
        self._console = Console(soft_wrap=True, quiet=quiet)
        # Rich assumes a terminal if FORCE_COLOR is set, as some batch systems do.
        self._on_terminal = self._console.file.isatty()
        self._bar = Progress(
            BarColumn(bar_width=10),
            MofNCompleteColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            # Last and flexible: a narrow terminal truncates the losses first.
            TextColumn(
                "{task.description}", table_column=Column(ratio=1, no_wrap=True)
            ),
            console=self._console,
            expand=True,
            speed_estimate_period=600,
            disable=quiet or not self._on_terminal,
        )
        self._task = self._bar.add_task("", total=total, completed=start)
        self._bar.start()
        self._records = workdir / RECORDS
        if self._records.exists() and not quiet:
            self._keep_until(start)
        if not quiet:
            self._events = _Events(workdir / "tensorboard", start=start)

    def _keep_until(self, start: int) -> None:
        """Drops later records, and moves damaged lines to a separate file."""
        found, others = _parsed(self._records)
        if others:
            with open(f"{self._records}.damaged", "ab") as file:
                file.writelines(line + b"\n" for line in others)
            logging.warning(
                "%s: moved %d damaged lines to %s.damaged",
                *(self._records, len(others), RECORDS),
            )
        kept = [record for record in found if record["step"] <= start]
        lines = (json.dumps(record) + "\n" for record in kept)
        atomic.write_text(self._records, "".join(lines))

    def validated(self, step: int) -> bool:
        """Returns whether a validation at `step` is recorded."""
        if not self._records.exists():
            return False
        found = (r["step"] for r in records(self._workdir) if "validation_psnr" in r)
        return step in found

    def advance(self, step: int) -> None:
        """Moves the progress bar to `step`."""
        self._bar.update(self._task, completed=step)

    def metrics(self, step: int, values: dict[str, float], *, stage: int) -> None:
        """Records training metrics, averaged over the steps since the last call."""
        then, since = self._last
        now = time.monotonic()
        self._last = (step, now)
        rate = (step - then) / (now - since)
        self._record(step, {"stage": stage, **values, "steps_per_second": rate})
        hidden = {"learning_rate", "gradient_norm", "discriminator_gradient_norm"}
        if not values["skipped"]:
            hidden.add("skipped")
        shown = "  ".join(
            f"{name} {value:.4g}"
            for name, value in values.items()
            if name not in hidden
        )
        self._bar.update(self._task, description=f"stage {stage}  {shown}")
        if not self._on_terminal:
            left = (self._total - step) / rate
            eta = time.strftime("%H:%M:%S", time.gmtime(left % 86400))
            days = f"{int(left // 86400)}d " if left >= 86400 else ""
            self.say(
                f"step {step}/{self._total}  stage {stage}  {shown}  "
                f"{rate:.2f} steps/s  ETA {days}{eta}"
            )

    def validation(self, step: int, values: dict[str, float]) -> None:
        """Records and prints validation metrics."""
        self._record(step, values)
        self.say(
            f"step {step}  "
            + "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        )

    def picture(self, step: int, name: str, image: np.ndarray) -> None:
        """Saves a uint8 [H, W, 3] picture to validation/ and to TensorBoard."""
        folder = self._workdir / "validation"
        folder.mkdir(exist_ok=True)
        files.write_png(folder / f"{name}_{step:07d}.png", image)
        with self._writing():
            self._events.picture(step, name, image)

    def sr(self, step: int, name: str, image: np.ndarray) -> None:
        """Saves a uint8 [H, W, 3] SR image to validation/sr/."""
        files.write_png(
            self._workdir / "validation" / "sr" / f"{name}_{step:07d}.png", image
        )

    def pause(self, seconds: float) -> None:
        """Excludes `seconds` from the reported step rate."""
        step, since = self._last
        self._last = (step, since + seconds)

    def say(self, text: str) -> None:
        """Prints a line above the progress bar.

        Bytes of file names that are not UTF-8 are escaped.
        """
        _print(self._console, text)

    def close(self) -> None:
        self._bar.stop()
        if not self._quiet:
            self._events.close()

    def _record(self, step: int, values: dict[str, float]) -> None:
        if self._quiet:
            return
        finite = {k: v if math.isfinite(v) else None for k, v in values.items()}
        with self._writing():
            with self._records.open("a") as file:
                file.write(json.dumps({"step": step, **finite}) + "\n")
            self._events.numbers(step, values)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"{self._workdir}: the log cannot be written ({error.strerror}): free "
                "space, and repeat the same command"
            ) from error


class _Events:
    """TensorBoard's file of events in `folder`, for a run that goes on at `start`.

    tensorboardX's SummaryWriter writes in a thread, which a full disk ends, and then
    waits for it without end. This class raises OSError instead.
    """

    def __init__(self, folder: Path, *, start: int) -> None:
        # The imports take seconds, and only one process needs them.
        from tensorboardX import summary
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto import event_pb2

        kinds: Any = event_pb2
        self._summary, self._event = summary, kinds.Event
        folder.mkdir(exist_ok=True)
        self._writer = EventsWriter(str(folder / "events"))
        # TensorBoard hides what an interrupted run wrote of later steps.
        started = kinds.SessionLog(status=kinds.SessionLog.START)
        self._writer.write_event(kinds.Event(step=start + 1, session_log=started))

    def numbers(self, step: int, values: dict[str, float]) -> None:
        """Writes numbers by name."""
        self._write(step, *map(self._summary.scalar, values, values.values()))

    def picture(self, step: int, name: str, image: np.ndarray) -> None:
        """Writes a uint8 [H, W, 3] picture."""
        self._write(step, self._summary.image(name, image, dataformats="HWC"))

    def close(self) -> None:
        # All is written, unless that failed and has been raised.
        with contextlib.suppress(OSError):
            self._writer.close()

    def _write(self, step: int, *summaries: Any) -> None:
        for summary in summaries:
            event = self._event(wall_time=time.time(), step=step, summary=summary)
            self._writer.write_event(event)
        self._writer.flush()


def records(workdir: str | Path) -> list[dict[str, Any]]:
    """Reads the records of a run, in order: each holds a step and its figures.

    Damaged or incomplete lines are skipped.
    """
    return _parsed(Path(workdir, RECORDS))[0]


def psnr_at(workdir: str | Path, step: int) -> float | None:
    """The PSNR (dB) of a run's validation at a step; None if there is none.

    None too if it was on other images than the newest validation, as the PSNR of
    bicubic interpolation shows: a resumed run may have changed them.
    """
    if not Path(workdir, RECORDS).exists():
        return None
    found = [record for record in records(workdir) if "validation_psnr" in record]
    psnrs = [
        record["validation_psnr"]
        for record in found
        if record["step"] == step and _are_of_the_same_images(record, found[-1])
    ]
    return psnrs[-1] if psnrs and isinstance(psnrs[-1], float) else None


def _are_of_the_same_images(*validations: dict[str, Any]) -> bool:
    bicubic = [record.get("validation_psnr_bicubic") for record in validations]
    known = [psnr for psnr in bicubic if isinstance(psnr, float)]
    # Processors differ by far less than 0.001 dB, sets of images by far more.
    return len(known) < len(bicubic) or max(known) - min(known) < 1e-3


def _parsed(file: Path) -> tuple[list[dict[str, Any]], list[bytes]]:
    """The records of a file, and its other lines."""
    found, others = [], []
    for line in file.read_bytes().splitlines():
        try:
            record = json.loads(line)
        except ValueError:  # invalid JSON or invalid UTF-8
            record = None
        step = record.get("step") if isinstance(record, dict) else None
        if isinstance(step, int):
            found.append(record)
        else:
            others.append(line)
    return found, others
