"""Upscaling videos, by the optional package PyAV (FFmpeg).

Each frame is decoded, upscaled and encoded, one at a time; frames are never on the
disk. All frames of a shot are restored with the IDR of its first frame, so that the
restoration does not change from frame to frame. (A shot that fades in takes another IDR
each time that the contrast has doubled: nothing is to be seen in black.)

The encoded video grows in parts of some hundred frames next to the result, and a video
that was interrupted goes on after its last whole part. In the end the parts and the
other streams of the source, packet by packet, become the result. Every frame keeps its
time stamp and its duration.

Parts are encoded without B-frames: their packets are in the order of the frames, and
can be put one after another whatever the time stamps are.
"""

import contextlib
import heapq
import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lightbsr_jax import atomic, locks
from lightbsr_jax.errors import Extra, UserError
from lightbsr_jax.imaging import conversion
from lightbsr_jax.inference import shots
from lightbsr_jax.inference.upscaler import Upscaler

EXTRA = Extra("av", "video")
FORMATS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}
CODECS = {"h264": "libx264", "hevc": "libx265"}
_ABOUT, _LOCK = "about.json", ".lock"  # in the folder of parts
_PART = "nut"  # a container that keeps any time base
_COPIED = ("audio", "subtitle")
_HIGH_DYNAMIC_RANGE = {16: "PQ", 18: "HLG"}  # tone curves (H.273)
_UNSPECIFIED, _BT709, _BT601, _SMPTE170, _BT2020 = 2, 1, 5, 6, 9  # matrices (H.273)
# Flags of swscale: bicubic, exact rounding, and chroma computed for each pixel. Without
# them a frame gets darker by one level.
_EXACT = 0x4 | 0x40000 | 0x2000 | 0x4000
# Tags with the encoder and, by mkvmerge, the statistics of a stream's packets.
_OF_PACKETS = ("ENCODER", "BPS", "NUMBER_OF_", "DURATION", "_STATISTICS_")
_SHORT = 1  # seconds without packets before the stated end: the source is cut off
_CLEARER = 2  # times the contrast of the IDR's frame, from which another is better
_HD = 720  # rows from which players take BT.709 for an unspecified matrix


class Settings(NamedTuple):
    """The settings of a result; parts made with others are not used."""

    scale: float | None = None  # of the result (default: the network's)
    codec: str = "h264"  # one of CODECS
    crf: int = 17  # constant quality of the codec, less is better
    strength: float = 1.0  # of the restoration, 0 to 1
    part: int = 120  # frames of a part
    each_frame: bool = False  # an IDR for each frame instead of one for a shot


class Done(NamedTuple):
    """A written video."""

    frames: int
    shots: int
    resumed: int  # frames that were there from an earlier run
    size: tuple[int, int]  # height and width of the result
    dropped: list[str]  # names of what it lacks: streams, the alpha channel, the end


class _Part(NamedTuple):
    """A file with frames of the result, and the state after them."""

    path: Path
    times: list[tuple[int, int]]  # time stamp and duration of each frame
    state: dict[str, Any]


OnProgress = Callable[[int, int], None]  # frames done, and of how many (0: unknown)


def upscale(
    upscaler: Upscaler,
    source: str | Path,
    target: str | Path,
    settings: Settings = Settings(),  # noqa: B008 (immutable)
    *,
    on_progress: OnProgress = lambda done, total: None,
) -> Done:
    """Upscales a video into the file `target`, which it replaces.

    An interrupted call leaves the folder `TARGET.parts`; the same call goes on from
    there. Raises UserError, which names the file and the remedy, for videos that
    cannot be read, are interlaced or in high dynamic range, or change their size or go
    back in time, and for a target that cannot hold the streams.
    """
    av = EXTRA.imported("videos")
    source, target = Path(source), Path(target)
    check_target(target)
    try:
        with av.open(_local(source)) as opened:
            video, _, dropped = _streams(av, opened, source, target)
            with _held(parts_folder(target)):
                parts = _Parts(target, _fingerprint(upscaler, source, settings))
                work = _Work(av, upscaler, settings, video, source)
                resumed = parts.frames
                work.run(opened, parts, on_progress)
                if (missing := _missing(opened, work.end)) > _SHORT:
                    dropped.append(f"the last {missing:.1f} s, which the source lacks")
                _join(av, source, target, parts)
    except av.error.FFmpegError as error:
        raise UserError(f"{source}: FFmpeg: {error}") from error
    parts.remove()
    return Done(parts.frames, work.shots, resumed, work.size, dropped)


def check_target(target: Path) -> None:
    """Raises UserError unless the name ends as one of FORMATS."""
    if target.suffix.lower() not in FORMATS:
        raise UserError(f"{target}: expected a name ending in {' '.join(FORMATS)}")


def parts_folder(target: Path) -> Path:
    """The folder with the parts of an unfinished result."""
    return target.with_name(f"{target.name}.parts")


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Makes a folder of parts, and keeps other processes from writing to it.

    Raises UserError if another process does, and if the folder is not one of parts.
    """
    if folder.exists() and not _is_ours(folder):
        raise UserError(
            f"{folder} is not a folder of this program: rename it, or give another "
            "--output"
        )
    atomic.make_writable(folder)
    with locks.held(folder / _LOCK, folder):
        yield


def _is_ours(folder: Path) -> bool:
    """True if a folder is one of parts, or empty but for what a run begins with."""
    if not folder.is_dir():
        return False
    names = [path.name for path in folder.iterdir()]
    begun = all(name == _LOCK or atomic.is_unfinished(name) for name in names)
    return begun or _ABOUT in names


def _streams(
    av: Any, opened: Any, source: Path, target: Path
) -> tuple[Any, list[Any], list[str]]:
    """The video, the streams that are copied, and names of all that is left out.

    Raises UserError for a video that cannot be decoded, and for a stream that another
    format than the target's could hold.
    """
    video = opened.streams.best("video")
    if video is None:
        raise UserError(f"{source}: holds no video")
    if video.codec_context is None:
        raise UserError(
            f"{source}: the codec of its video is unknown here: encode it anew, for "
            "example in H.264 by ffmpeg"
        )
    others = [s for s in opened.streams if s.index != video.index]
    copied = [s for s in others if s.type in _COPIED and _is_held(av, s, target)]
    dropped = [f"stream {s.index} ({s.type})" for s in others if s not in copied]
    if video.format and any(part.is_alpha for part in video.format.components):
        dropped.append("the alpha channel")
    return video, copied, dropped


def _is_held(av: Any, stream: Any, target: Path) -> bool:
    """Returns whether the target's format can hold a stream.

    Raises UserError if it cannot, but another one can.
    """
    form = FORMATS[target.suffix.lower()]
    if _holds(av, form, stream):
        return True
    for end, other in FORMATS.items():
        if _holds(av, other, stream):
            raise UserError(
                f"{target}: {form} cannot hold stream {stream.index} "
                f"({stream.type}, {stream.codec_context.name}): write {end}"
            )
    return False


def _holds(av: Any, form: str, stream: Any) -> bool:
    try:
        with av.open(_Nowhere(), "w", format=form) as out:
            out.add_stream_from_template(stream)
            out.start_encoding()
    except (av.error.FFmpegError, ValueError):
        return False
    return True


class _Nowhere:
    """A file that forgets what is written."""

    def __init__(self) -> None:
        self._place = self._end = 0

    def write(self, data: bytes) -> int:
        self._place += len(data)
        self._end = max(self._end, self._place)
        return len(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        self._place = offset + (0, self._place, self._end)[whence]
        return self._place

    def tell(self) -> int:
        return self._place


def _fingerprint(upscaler: Upscaler, source: Path, settings: Settings) -> dict:
    """All that the frames of a result depend on, in plain values."""
    stat = source.stat()
    return {
        "source": [source.name, stat.st_size, stat.st_mtime_ns],
        "settings": list(settings._replace(part=0)),  # parts may differ in length
        "weights": upscaler.checksum(),
    }


class _Parts:
    """The parts of a result, in the order of their frames."""

    def __init__(self, target: Path, fingerprint: dict[str, Any]) -> None:
        """Reads what an earlier run left. Raises UserError if it was another one."""
        self._folder = parts_folder(target)
        about = self._folder / _ABOUT
        self.all: list[_Part] = []
        if about.is_file():
            if json.loads(about.read_text("utf-8")) != fingerprint:
                raise UserError(
                    f"{self._folder} is of another source, other weights or other "
                    "settings: repeat that command, or remove the folder"
                )
            while (part := self._read(len(self.all))) is not None:
                self.all.append(part)
        else:
            atomic.write_text(about, json.dumps(fingerprint))

    @property
    def frames(self) -> int:
        """Number of frames in the parts."""
        return sum(len(part.times) for part in self.all)

    @property
    def state(self) -> dict[str, Any] | None:
        """The state after the last part."""
        return self.all[-1].state if self.all else None

    def add(
        self,
        save: Callable[[Path], Any],
        times: list[tuple[int, int]],
        state: Callable[[], dict[str, Any]],
    ) -> None:
        """Writes a part: `save` writes its file and fills `times`."""
        path = self._path(len(self.all))
        atomic.replace(path, save)
        if times:
            part = _Part(path, times, state())
            found = {"times": part.times, "state": part.state}
            atomic.write_text(path.with_suffix(".json"), json.dumps(found))
            self.all.append(part)

    def remove(self) -> None:
        """Removes the folder."""
        shutil.rmtree(self._folder)

    def _path(self, index: int) -> Path:
        return self._folder / f"{index:06}.{_PART}"

    def _read(self, index: int) -> _Part | None:
        path = self._path(index)
        about = path.with_suffix(".json")
        if not (path.is_file() and about.is_file()):
            return None
        found = json.loads(about.read_text("utf-8"))
        times = [(pts, duration) for pts, duration in found["times"]]
        return _Part(path, times, found["state"])


class _Frame(NamedTuple):
    """Values by which successive frames are compared."""

    pts: int
    width: int
    height: int


class _Work:
    """Decoding, upscaling and encoding."""

    def __init__(
        self, av: Any, upscaler: Upscaler, settings: Settings, video: Any, source: Path
    ) -> None:
        self._av = av
        self._upscaler = upscaler
        self._settings = settings
        self._video = video
        self._source = source
        self._idr: np.ndarray | None = None
        self._contrast = 0.0  # of the frame that the IDR is from
        self._cuts = shots.Cuts()
        self.shots = 0
        self.size = (0, 0)
        self.end = Fraction(0)  # seconds at which the last packet of any stream ends

    def run(self, opened: Any, parts: _Parts, on_progress: OnProgress) -> None:
        """Makes the parts that are missing."""
        if parts.state is not None:
            self._go_on(parts.state)
        self._video.thread_type = "AUTO"
        frames = self._decoded(opened)
        for _ in range(parts.frames):
            next(frames)
        total = self._video.frames
        while (first := next(frames, None)) is not None:
            following = itertools.islice(frames, self._settings.part - 1)
            times: list[tuple[int, int]] = []
            encode = partial(
                self._encode,
                frames=itertools.chain([first], following),
                times=times,
                show=partial(_show, on_progress, parts.frames, total),
            )
            parts.add(encode, times, self._state)
        if not parts.frames:
            raise UserError(f"{self._source}: holds no frame that can be decoded")

    def _decoded(self, opened: Any) -> Iterator[Any]:
        """Yields the frames. Raises UserError for one that a result cannot hold."""
        frames, before = self._all_frames(opened), None
        for number in itertools.count(1):
            try:
                frame = next(frames, None)
            except self._av.error.InvalidDataError as error:
                raise UserError(
                    f"{self._source}: is damaged at frame {number} ({error}): encode "
                    "it anew with a program that passes over damage, such as ffmpeg"
                ) from error
            if frame is None:
                return
            self._check(frame)
            here = _Frame(frame.pts, frame.width, frame.height)
            if before is not None:
                self._check_step(before, here, number)
            before = here
            yield frame

    def _all_frames(self, opened: Any) -> Iterator[Any]:
        for packet in opened.demux():
            if packet.pts is not None:
                end = (packet.pts + (packet.duration or 0)) * packet.time_base
                self.end = max(self.end, end)
            if packet.stream.index == self._video.index:
                yield from packet.decode()

    def _check_step(self, before: _Frame, here: _Frame, number: int) -> None:
        """Raises UserError if a frame cannot follow the one before it in a result."""
        advice = "cut the video there, and upscale its parts one by one"
        if here.pts <= before.pts:
            raise UserError(
                f"{self._source}: frame {number} is not later than the one before it: "
                f"{advice}"
            )
        if here[1:] != before[1:]:
            raise UserError(
                f"{self._source}: changes from {before.width}x{before.height} to "
                f"{here.width}x{here.height} pixels at frame {number}: {advice}"
            )

    def _go_on(self, state: dict[str, Any]) -> None:
        self._cuts = shots.Cuts(state["cuts"])
        self._idr = np.array(state["idr"], np.float32)
        self._contrast = state["contrast"]
        self.shots = state["shots"]
        self.size = tuple(state["size"])

    def _state(self) -> dict[str, Any]:
        assert self._idr is not None
        return {
            "cuts": self._cuts.state,
            "idr": self._idr.tolist(),
            "contrast": self._contrast,
            "shots": self.shots,
            "size": self.size,
        }

    def _encode(
        self,
        path: Path,
        frames: Iterator[Any],
        times: list[tuple[int, int]],
        show: Callable[[int], None],
    ) -> None:
        stream = None
        with self._av.open(_local(path), "w", format=_PART) as out:
            for frame in frames:
                matrix = _matrix(frame)
                pixels = self._upscaled(frame, matrix)
                if stream is None:
                    stream = self._add_stream(out, frame, pixels, matrix)
                made = self._av.VideoFrame.from_ndarray(
                    pixels, format="rgb24" if pixels.dtype == np.uint8 else "rgb48le"
                )
                made = made.reformat(
                    format=stream.pix_fmt,
                    dst_colorspace=matrix,
                    interpolation=_EXACT,
                )
                made.pts, made.time_base = frame.pts, self._video.time_base
                times.append((frame.pts, frame.duration or 0))
                out.mux(stream.encode(made))
                show(len(times))
            if stream is not None:
                out.mux(stream.encode(None))

    def _add_stream(self, out: Any, frame: Any, pixels: np.ndarray, matrix: int) -> Any:
        settings, video = self._settings, self._video
        options = {"crf": str(settings.crf), "bf": "0"}
        if settings.codec == "hevc":
            options = {
                "crf": str(settings.crf),
                "x265-params": "bframes=0:log-level=error",
            }
        stream = out.add_stream(
            CODECS[settings.codec], rate=video.average_rate or 25, options=options
        )
        stream.height, stream.width = pixels.shape[:2]
        context = stream.codec_context
        context.time_base = stream.time_base = video.time_base
        context.pix_fmt = _pixel_format(frame)
        context.flags |= self._av.codec.context.Flags.global_header
        if video.sample_aspect_ratio:
            context.sample_aspect_ratio = _aspect(frame, video.sample_aspect_ratio)
        context.colorspace, context.color_range = matrix, 1
        context.color_primaries = frame.color_primaries
        context.color_trc = frame.color_trc
        return stream

    def _upscaled(self, frame: Any, matrix: int) -> np.ndarray:
        """The restored frame: uint8 or uint16 [H, W, 3], with even sides."""
        form = "rgb24" if _depth(frame) <= 8 else "rgb48le"
        pixels = frame.reformat(
            format=form, src_colorspace=matrix, interpolation=_EXACT
        ).to_ndarray()
        pixels = np.rot90(pixels, round(frame.rotation / 90) % 4)
        pixels = np.ascontiguousarray(pixels)
        small = frame.reformat(
            width=shots.SIZE[1],
            height=shots.SIZE[0],
            format="gray",
            interpolation="AREA",
        )
        luma = small.to_ndarray()
        begins = self._cuts.begins_shot(luma)
        self.shots += begins
        clearer = luma.std() > _CLEARER * max(self._contrast, 1)  # after a fade-in
        if begins or clearer or self._settings.each_frame:
            self._idr = self._upscaler.estimate(pixels).mean
            self._contrast = float(luma.std())
        sr = self._upscaler(pixels, idr=self._idr, strength=self._settings.strength)
        self.size = self._target(pixels.shape[:2])
        return conversion.resized(sr, self.size)

    def _target(self, size: tuple[int, ...]) -> tuple[int, int]:
        """The result's (height, width), which are even, as 4:2:0 needs."""
        scale = self._settings.scale or self._upscaler.scale
        height, width = (max(round(side * scale / 2), 1) * 2 for side in size)
        return height, width

    def _check(self, frame: Any) -> None:
        if frame.pts is None:
            raise UserError(f"{self._source}: a frame has no time stamp: remux it")
        if frame.interlaced_frame:
            raise UserError(
                f"{self._source}: is interlaced, which is not supported: deinterlace "
                "it first"
            )
        if (name := _HIGH_DYNAMIC_RANGE.get(int(frame.color_trc))) is not None:
            raise UserError(
                f"{self._source}: is in high dynamic range ({name}): convert it to "
                "standard range"
            )


def _show(on_progress: OnProgress, before: int, total: int, count: int) -> None:
    on_progress(before + count, total)


def _missing(opened: Any, end: Fraction) -> float:
    """Seconds from the end of all packets to the end that the container states."""
    stated = Fraction(opened.duration or 0, 1_000_000)  # microseconds
    return float(stated - end)


def _matrix(frame: Any) -> int:
    """The matrix between RGB and YUV of a frame."""
    found = int(frame.colorspace)
    if found == _SMPTE170:
        return _BT601
    if found in (_BT709, _BT601, _BT2020):
        return found
    return _BT709 if min(frame.height, frame.width) >= _HD else _BT601


def _depth(frame: Any) -> int:
    return max(part.bits for part in frame.format.components)


def _pixel_format(frame: Any) -> str:
    """The result's format: 4:2:0, or 4:4:4 for a source without chroma subsampling."""
    chroma = frame.format.components[-1 if len(frame.format.components) < 3 else 1]
    full = frame.format.is_rgb or (
        len(frame.format.components) > 2 and chroma.width == frame.width
    )
    name = "yuv444p" if full else "yuv420p"
    return name if _depth(frame) <= 8 else f"{name}10le"


def _aspect(frame: Any, aspect: Fraction) -> Fraction:
    """The shape of an upright pixel."""
    return 1 / aspect if round(frame.rotation / 90) % 2 else aspect


def _join(av: Any, source: Path, target: Path, parts: _Parts) -> None:
    """Writes the result from the parts and the other streams of the source."""

    def save(path: Path) -> None:
        form = FORMATS[target.suffix.lower()]
        with (
            av.open(_local(source)) as opened,
            av.open(_local(parts.all[0].path)) as first,
            av.open(_local(path), "w", format=form) as out,
        ):
            video, copied, _ = _streams(av, opened, source, target)
            made = out.add_stream_from_template(first.streams.video[0])
            made.time_base = video.time_base
            if made.codec_context.name == CODECS["hevc"]:
                made.codec_context.codec_tag = "hvc1"  # Apple's players ask for it
            _describe(made, video)
            for tag in list(made.metadata):
                if tag.upper().startswith(_OF_PACKETS):
                    del made.metadata[tag]
            streams = {s.index: out.add_stream_from_template(s) for s in copied}
            for stream in copied:
                _describe(streams[stream.index], stream)
            out.metadata.update(opened.metadata)
            if opened.chapters():
                out.set_chapters(opened.chapters())
            packets = heapq.merge(
                _video_packets(av, parts, made, video.time_base),
                _copied_packets(opened, streams),
                key=lambda packet: packet.dts * packet.time_base,
            )
            for packet in packets:
                out.mux(packet)

    atomic.replace(target, save)


def _local(path: Path) -> str:
    """A name that FFmpeg does not take for a URL, as it would take "12:30.mp4"."""
    return str(path.absolute())


def _describe(made: Any, stream: Any) -> None:
    made.metadata.update(stream.metadata)
    made.disposition = stream.disposition


def _video_packets(
    av: Any, parts: _Parts, stream: Any, time_base: Fraction
) -> Iterator[Any]:
    for part in parts.all:
        with av.open(_local(part.path)) as opened:
            packets = [p for p in opened.demux(video=0) if p.size]  # without the end
            if len(packets) != len(part.times):
                raise UserError(
                    f"{part.path} is damaged: remove it and repeat the command"
                )
            for packet, (pts, duration) in zip(packets, part.times, strict=True):
                packet.pts = packet.dts = pts
                packet.time_base = time_base
                packet.duration = duration
                packet.stream = stream
                yield packet


def _copied_packets(opened: Any, streams: dict[int, Any]) -> Iterator[Any]:
    if not streams:
        return
    for packet in opened.demux(*[opened.streams[index] for index in streams]):
        if packet.dts is not None:
            packet.stream = streams[packet.stream_index]
            yield packet
