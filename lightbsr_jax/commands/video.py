"""`lightbsr video`: upscale a video, with one IDR for each shot."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from lightbsr_jax.commands import source, upscale
from lightbsr_jax.commands.printing import say
from lightbsr_jax.errors import UserError

CODECS = ("h264", "hevc")


def add(subparsers: argparse._SubParsersAction) -> None:
    """Adds the command and its options."""
    parser = subparsers.add_parser(
        "video",
        help="upscale a video",
        description="Upscale a video frame by frame, with one estimated degradation "
        "for each shot. Time stamps, sound and subtitles are kept. A command that was "
        "interrupted goes on where it stopped.",
    )
    parser.add_argument("input", help="video to read")
    parser.add_argument(
        "-o", "--output", required=True, help="video to write: .mp4, .m4v, .mov or .mkv"
    )
    source.add_options(parser)
    parser.add_argument(
        "--scale", type=float, help="scale of the result (default: the network's)"
    )
    parser.add_argument(
        "--codec",
        choices=CODECS,
        default="h264",
        help="codec of the result (default: h264)",
    )
    parser.add_argument(
        "--crf",
        type=int,
        default=17,
        help="constant quality of the codec, 0 to 51, less is better (default: 17)",
    )
    upscale.add_strength(parser)
    parser.add_argument(
        "--each-frame",
        action="store_true",
        help="estimate the degradation of each frame by itself, instead of once for a "
        "shot",
    )
    parser.add_argument(
        "--part",
        type=int,
        default=120,
        metavar="FRAMES",
        help="frames after which the work so far is kept (default: 120)",
    )
    upscale.add_device_options(parser)
    parser.add_argument(
        "--overwrite", action="store_true", help="replace an existing result"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Upscales the video and prints a line. Raises UserError, OSError."""
    weights = source.named(arguments)
    target = Path(arguments.output)
    _check(arguments, target)
    from lightbsr_jax import compilation
    from lightbsr_jax.inference import video

    video.EXTRA.imported("videos")
    video.check_target(target)
    compilation.keep_compiled_programs()
    upscale.open_devices(arguments.device)
    upscaler = upscale.make_upscaler(
        source.load(weights), arguments.memory, arguments.precision, arguments.device
    )
    settings = video.Settings(
        scale=arguments.scale,
        codec=arguments.codec,
        crf=arguments.crf,
        strength=arguments.strength,
        part=arguments.part,
        each_frame=arguments.each_frame,
    )
    begin = time.monotonic()
    try:
        with _progress() as show:
            done = video.upscale(
                upscaler, arguments.input, target, settings, on_progress=show
            )
    except KeyboardInterrupt:
        raise KeyboardInterrupt("the same command goes on from here") from None
    height, width = done.size
    text = f"{target}: {done.frames} frames of {width}x{height}, {done.shots} shots"
    if done.resumed:
        text += f", {done.resumed} frames from an earlier run"
    if done.dropped:
        text += f" [without {', '.join(done.dropped)}]"
    say(f"{text} ({time.monotonic() - begin:.0f} s)")


def _check(arguments: argparse.Namespace, target: Path) -> None:
    """Raises UserError for values out of range, and FileNotFoundError."""
    if not Path(arguments.input).is_file():
        raise FileNotFoundError(f"no such video: {arguments.input}")
    if arguments.scale is not None and not 0 < arguments.scale <= 64:
        raise UserError(f"--scale={arguments.scale}: expected above 0, up to 64")
    if not 0 <= arguments.crf <= 51:
        raise UserError(f"--crf={arguments.crf}: expected 0 to 51")
    upscale.check_strength(arguments)
    if arguments.part < 1:
        raise UserError(f"--part={arguments.part}: expected 1 or more")
    if target.exists() and target.samefile(arguments.input):
        raise UserError(f"{target} is the source: give another --output")
    if target.is_dir():
        raise UserError(f"{target} is a folder: name a file for the result")
    if target.exists() and not arguments.overwrite:
        raise UserError(f"{target} exists: --overwrite replaces it")


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """Shows the frames done in a line on the terminal, if there is one."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield lambda done, total: None
        return

    def show(done: int, total: int) -> None:
        of = f"/{total}" if total else ""
        print(f"\rframe {done}{of} ", end="", file=sys.stderr, flush=True)

    try:
        yield show
    finally:
        print(file=sys.stderr)  # what follows is in the next line
