"""Upscaling of videos: frames, time stamps, other streams, interruption, shots.

A stand-in repeats pixels; what a result holds is then known. One test takes a network.
"""

import io
import json
import re
import sys
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from helpers.goldens import initialise

from benchmarks import flicker
from lightbsr_jax import cli
from lightbsr_jax.commands import source, upscale
from lightbsr_jax.commands import video as command
from lightbsr_jax.errors import UserError
from lightbsr_jax.inference import shots, video
from lightbsr_jax.inference.upscaler import Upscaler
from lightbsr_jax.inference.video import Settings
from lightbsr_jax.methods.lightbsr.network import LightBSR
from lightbsr_jax.models.model import Model
from lightbsr_jax.spec import ModelSpec

av = pytest.importorskip("av")
HEIGHT, WIDTH, FRAMES = 36, 48, 50
CUT = 20  # the first frame of the second shot
TEXT = b"Hello"
EXACT = 0x4 | 0x40000 | 0x2000 | 0x4000  # conversions of swscale that round


class Estimate(NamedTuple):
    mean: np.ndarray


class StandIn:
    """Doubles pixels; the IDR is the mean colour, and is remembered."""

    scale = 2

    def __init__(self) -> None:
        self.idrs: list[float] = []
        self.calls = 0
        self.fails_at = -1

    def checksum(self) -> int:
        return 7

    def estimate(self, pixels: np.ndarray) -> Estimate:
        return Estimate(pixels.reshape(-1, 3).mean(0).astype(np.float32))

    def __call__(
        self, pixels: np.ndarray, *, idr: np.ndarray, strength: float
    ) -> np.ndarray:
        if self.calls == self.fails_at:
            raise KeyboardInterrupt
        self.calls += 1
        self.idrs.append(float(idr[0]))
        return pixels.repeat(2, 0).repeat(2, 1)


def scene(index: int) -> np.ndarray:
    """A frame of two shots: a slow ramp, then other colours."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    if index < CUT:
        return np.stack([60 + x + index, 80 + y, 100 + x // 2], -1).astype(np.uint8)
    return np.stack([200 - x, 190 - y - index // 4, 40 + y], -1).astype(np.uint8)


def write_clip(
    path: Path,
    times: list[int],
    *,
    time_base: Fraction,
    subtitles: bool = False,
    tags: Mapping[str, str] = MappingProxyType({}),
) -> Path:
    """A clip of `scene` with a tone, at these time stamps; both streams have `tags`."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25, options={"crf": "5"})
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        stream.time_base = stream.codec_context.time_base = time_base
        sound = out.add_stream("aac", rate=48000, layout="mono")
        stream.metadata.update(tags)
        sound.metadata.update(tags)
        text: Any = None
        if subtitles:
            text = out.add_mux_stream("subrip")
            text.time_base = Fraction(1, 1000)
        for index, pts in enumerate(times):
            frame = av.VideoFrame.from_ndarray(scene(index), format="rgb24")
            frame = frame.reformat(
                format="yuv420p", dst_colorspace=5, interpolation=EXACT
            )
            frame.pts, frame.time_base = pts, time_base
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
        seconds = float(times[-1] * time_base)
        for index in range(int(seconds * 48000 / 1024)):
            wave = np.sin((np.arange(1024) + 1024 * index) * 0.05) * 0.3
            tone = av.AudioFrame.from_ndarray(
                wave[None].astype(np.float32), format="fltp", layout="mono"
            )
            tone.sample_rate, tone.pts = 48000, 1024 * index
            out.mux(sound.encode(tone))
        out.mux(sound.encode(None))
        if text is not None:
            packet = av.Packet(TEXT)
            packet.stream, packet.time_base = text, Fraction(1, 1000)
            packet.pts = packet.dts = 400
            packet.duration = 700
            out.mux(packet)
    return path


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds at 25 frames per second."""
    path = tmp_path_factory.mktemp("clips") / "a.mp4"
    times = [512 * i for i in range(FRAMES)]
    return write_clip(path, times, time_base=Fraction(1, 12800))


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A variable frame rate, a late start, and subtitles."""
    path = tmp_path_factory.mktemp("clips") / "b.mkv"
    steps = np.random.default_rng(0).integers(10, 90, FRAMES)
    times = (80 + np.cumsum(steps)).tolist()
    return write_clip(path, times, time_base=Fraction(1, 1000), subtitles=True)


def packets(path: Path, kind: str) -> list[tuple[Fraction, int | None, bytes]]:
    """Time in seconds, duration and bytes of each packet of a stream."""
    with av.open(str(path)) as opened:
        (stream,) = [s for s in opened.streams if s.type == kind]
        return [
            (p.pts * p.time_base, p.duration, bytes(p))
            for p in opened.demux(stream)
            if p.dts is not None
        ]


def frames(path: Path) -> Iterator[tuple[Fraction, np.ndarray]]:
    """Time in seconds and pixels of each frame."""
    with av.open(str(path)) as opened:
        for frame in opened.decode(video=0):
            pixels = frame.reformat(
                format="rgb24", src_colorspace=5, interpolation=EXACT
            ).to_ndarray()
            yield frame.pts * frame.time_base, pixels


@pytest.mark.parametrize("name", ["clip", "uneven"])
def test_frames_and_other_streams_are_those_of_the_source(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    source: Path = request.getfixturevalue(name)
    target = tmp_path / f"out{source.suffix}"
    stand_in = StandIn()
    done = video.upscale(stand_in, source, target, Settings(part=16, crf=5))
    assert (done.frames, done.shots, done.resumed) == (FRAMES, 2, 0)
    assert done.size == (2 * HEIGHT, 2 * WIDTH) and not done.dropped
    assert list(tmp_path.iterdir()) == [target]
    ours, theirs = list(frames(target)), list(frames(source))
    assert [time for time, _ in ours] == [time for time, _ in theirs]
    for (_, large), (_, small) in zip(ours, theirs, strict=True):
        expected = small.repeat(2, 0).repeat(2, 1).astype(int)
        assert np.abs(large - expected).mean() < 2
    for kind in ("audio", *(["subtitle"] if name == "uneven" else [])):
        assert packets(target, kind) == packets(source, kind)
    with av.open(str(target)) as out, av.open(str(source)) as opened:
        assert abs(out.duration - opened.duration) <= 1000  # microseconds


def test_tags_of_packets_stay_with_packets_that_are_copied(tmp_path: Path) -> None:
    source, target = tmp_path / "a.mkv", tmp_path / "b.mkv"
    wrong = {"BPS-eng": "800", "_STATISTICS_TAGS": "BPS", "ENCODER": "another"}
    tags = {"title": "A walk", **wrong}
    times = [40 * i for i in range(FRAMES)]
    write_clip(source, times, time_base=Fraction(1, 1000), tags=tags)
    video.upscale(StandIn(), source, target)
    with av.open(str(target)) as opened:
        shown = opened.streams.video[0].metadata
        assert shown["title"] == "A walk"
        assert not wrong.items() & shown.items()
        assert tags.items() <= opened.streams.audio[0].metadata.items()


def tagged(path: Path, codec: str, form: str, curve: int) -> Path:
    """One frame in BT.709 with that tone curve, of 10 bits if `form` has them."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=25, options={"crf": "1"})
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, form
        context = stream.codec_context
        context.colorspace, context.color_trc, context.color_range = 1, curve, 1
        frame = av.VideoFrame.from_ndarray(scene(0), format="rgb24")
        frame = frame.reformat(format=form, dst_colorspace=1, interpolation=EXACT)
        frame.pts = 0
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    "codec, form", [("libx264", "yuv420p"), ("libx265", "yuv420p10le")]
)
def test_colours_and_depth_are_kept(tmp_path: Path, codec: str, form: str) -> None:
    source = tagged(tmp_path / "a.mkv", codec, form, 1)
    stand_in = StandIn()
    video.upscale(stand_in, source, tmp_path / "b.mkv", Settings(crf=1))
    with av.open(str(tmp_path / "b.mkv")) as opened:
        frame = next(opened.decode(video=0))
    assert frame.format.name == form
    assert (int(frame.colorspace), int(frame.color_trc)) == (1, 1)
    pixels = frame.reformat(
        format="rgb24", src_colorspace=1, interpolation=EXACT
    ).to_ndarray()
    expected = scene(0).repeat(2, 0).repeat(2, 1).astype(int)
    assert np.abs(pixels - expected).mean() < 1.2
    assert abs((pixels - expected).mean()) < 0.5  # neither darker nor lighter


def test_high_dynamic_range_is_refused(tmp_path: Path) -> None:
    source = tagged(tmp_path / "a.mkv", "libx265", "yuv420p10le", 16)
    with pytest.raises(UserError, match=r"a\.mkv: is in high dynamic range .PQ"):
        video.upscale(StandIn(), source, tmp_path / "b.mkv")


def test_flicker_is_the_change_beyond_the_references() -> None:
    references = [np.full((2, 3, 3), level, np.uint8) for level in (10, 20, 90, 91)]
    frames = [np.full((2, 3, 3), level, np.uint8) for level in (10, 25, 0, 4)]
    found = flicker.flicker(frames, references, [True, False, True, False])
    assert found == pytest.approx((5 + 3) / 2)


def test_one_idr_for_a_shot(clip: Path, tmp_path: Path) -> None:
    one, each = StandIn(), StandIn()
    video.upscale(one, clip, tmp_path / "a.mp4", Settings(part=16))
    assert len(set(one.idrs)) == 2
    assert len(set(one.idrs[:CUT])) == 1 and len(set(one.idrs[CUT:])) == 1
    video.upscale(each, clip, tmp_path / "b.mp4", Settings(part=16, each_frame=True))
    assert len(set(each.idrs)) > 20


@pytest.mark.parametrize("part", [1, 2, 7, 120])
def test_parts_of_any_length(clip: Path, tmp_path: Path, part: int) -> None:
    done = video.upscale(StandIn(), clip, tmp_path / "a.mp4", Settings(part=part))
    assert done.frames == FRAMES
    times = [time for time, _ in frames(tmp_path / "a.mp4")]
    assert times == [time for time, _ in frames(clip)]


@pytest.mark.parametrize("fails_at", [5, 33])
def test_an_interrupted_video_goes_on(
    clip: Path, tmp_path: Path, fails_at: int
) -> None:
    settings = Settings(part=16, crf=5)
    whole = tmp_path / "whole.mp4"
    uninterrupted = StandIn()
    video.upscale(uninterrupted, clip, whole, settings)
    target = tmp_path / "out.mp4"
    stopped = StandIn()
    stopped.fails_at = fails_at
    with pytest.raises(KeyboardInterrupt):
        video.upscale(stopped, clip, target, settings)
    assert not target.exists()
    kept = fails_at // 16 * 16
    goes_on = StandIn()
    done = video.upscale(goes_on, clip, target, settings)
    assert (done.resumed, done.frames, done.shots) == (kept, FRAMES, 2)
    assert goes_on.calls == FRAMES - kept
    assert goes_on.idrs == uninterrupted.idrs[kept:]
    for (time, ours), (expected_time, theirs) in zip(
        frames(target), frames(whole), strict=True
    ):
        assert time == expected_time
        np.testing.assert_array_equal(ours, theirs)
    assert packets(target, "audio") == packets(whole, "audio")


def test_a_shot_that_fades_in_takes_the_idr_of_clear_frames(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From black over 16 frames; without a fade, one estimate would do."""

    def fading(index: int) -> np.ndarray:
        y, x = np.mgrid[:HEIGHT, :WIDTH]
        picture = np.stack([5 * x, 4 * x + y, 200 - 3 * x], -1).clip(0, 255)
        return (picture * min(index / 16, 1)).astype(np.uint8)

    monkeypatch.setitem(globals(), "scene", fading)
    times = [512 * i for i in range(30)]
    source = write_clip(tmp_path / "a.mp4", times, time_base=Fraction(1, 12800))
    stand_in = StandIn()
    done = video.upscale(stand_in, source, tmp_path / "b.mp4", Settings(part=5))
    assert done.shots == 1
    assert 3 <= len(set(stand_in.idrs)) <= 8
    assert len(set(stand_in.idrs[16:])) == 1
    assert stand_in.idrs[16] > 0.4 * fading(16)[..., 0].mean()


def test_parts_may_differ_in_length(clip: Path, tmp_path: Path) -> None:
    stopped = StandIn()
    stopped.fails_at = 20
    with pytest.raises(KeyboardInterrupt):
        video.upscale(stopped, clip, tmp_path / "a.mp4", Settings(part=16))
    done = video.upscale(StandIn(), clip, tmp_path / "a.mp4", Settings(part=7))
    assert (done.resumed, done.frames) == (16, FRAMES)
    times = [time for time, _ in frames(tmp_path / "a.mp4")]
    assert times == [time for time, _ in frames(clip)]


def test_parts_of_other_settings_are_refused(clip: Path, tmp_path: Path) -> None:
    stopped = StandIn()
    stopped.fails_at = 20
    with pytest.raises(KeyboardInterrupt):
        video.upscale(stopped, clip, tmp_path / "a.mp4", Settings(part=16))
    with pytest.raises(UserError, match=r"a\.mp4\.parts is of another source"):
        video.upscale(StandIn(), clip, tmp_path / "a.mp4", Settings(part=16, crf=30))


def test_one_process_at_a_time_writes_parts(clip: Path, tmp_path: Path) -> None:
    folder = tmp_path / "a.mp4.parts"
    with (
        video._held(folder),
        pytest.raises(UserError, match="in use by process"),
    ):
        video.upscale(StandIn(), clip, tmp_path / "a.mp4", Settings())
    video.upscale(StandIn(), clip, tmp_path / "a.mp4", Settings())
    assert not folder.exists()


def test_other_folders_are_left_alone(clip: Path, tmp_path: Path) -> None:
    folder = tmp_path / "a.mp4.parts"
    folder.mkdir()
    (folder / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="is not a folder of this program"):
        video.upscale(StandIn(), clip, tmp_path / "a.mp4", Settings())
    assert (folder / "mine.txt").read_text() == "mine"


def test_a_damaged_part_is_made_again(clip: Path, tmp_path: Path) -> None:
    """A part counts once its JSON, which is written last, is there."""
    stopped = StandIn()
    stopped.fails_at = 40
    settings = Settings(part=16)
    with pytest.raises(KeyboardInterrupt):
        video.upscale(stopped, clip, tmp_path / "a.mp4", settings)
    part = tmp_path / "a.mp4.parts" / "000001.json"
    times = json.loads(part.read_text())
    part.write_text(json.dumps(times | {"times": times["times"][:-1]}))
    with pytest.raises(UserError, match=r"000001\.nut is damaged: remove it"):
        video.upscale(StandIn(), clip, tmp_path / "a.mp4", settings)
    part.unlink()
    done = video.upscale(StandIn(), clip, tmp_path / "a.mp4", settings)
    assert (done.resumed, done.frames) == (16, FRAMES)


def test_other_sizes_are_even(clip: Path, tmp_path: Path) -> None:
    done = video.upscale(StandIn(), clip, tmp_path / "a.mp4", Settings(scale=1.3))
    assert done.size == (46, 62)
    _, first = next(frames(tmp_path / "a.mp4"))
    assert first.shape == (46, 62, 3)


def test_a_format_that_cannot_hold_a_stream(uneven: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"mp4 cannot hold stream 2 .*write \.mkv"):
        video.upscale(StandIn(), uneven, tmp_path / "a.mp4")
    with pytest.raises(UserError, match=r"a\.avi: expected a name ending in \.mp4"):
        video.upscale(StandIn(), uneven, tmp_path / "a.avi")
    source = with_text(tmp_path / "b.mp4", "mov_text")
    with pytest.raises(UserError, match=r"matroska cannot hold stream 1 .*write \.mp4"):
        video.upscale(StandIn(), source, tmp_path / "c.mkv")


def with_text(path: Path, codec: str) -> Path:
    """Some frames, and a subtitle in that codec."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        text = out.add_mux_stream(codec)
        text.time_base = Fraction(1, 1000)
        for index in range(5):
            frame = av.VideoFrame.from_ndarray(scene(index), format="rgb24")
            frame.pts = index
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
        packet = av.Packet(bytes([0, len(TEXT), *TEXT]))
        packet.stream, packet.time_base = text, Fraction(1, 1000)
        packet.pts = packet.dts = packet.duration = 20
        out.mux(packet)
    return path


def test_a_stream_that_no_format_holds_is_left_out_and_named(tmp_path: Path) -> None:
    """As the teletext of recordings of television."""
    source = with_text(tmp_path / "a.ts", "dvb_teletext")
    done = video.upscale(StandIn(), source, tmp_path / "a.mkv")
    assert (done.frames, done.dropped) == (5, ["stream 1 (subtitle)"])


def test_a_codec_that_cannot_be_decoded_is_named(uneven: Path, tmp_path: Path) -> None:
    content = uneven.read_bytes().replace(b"V_MPEG4/ISO/AVC", b"V_MPEG4/ISO/XYZ")
    (tmp_path / "a.mkv").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.mkv: the codec of its video is unknown"):
        video.upscale(StandIn(), tmp_path / "a.mkv", tmp_path / "b.mkv")


def test_what_is_no_video(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"no video")
    with pytest.raises(UserError, match=r"a\.mp4: FFmpeg: "):
        video.upscale(StandIn(), tmp_path / "a.mp4", tmp_path / "b.mp4")


def test_a_damaged_frame_is_named(clip: Path, tmp_path: Path) -> None:
    content = bytearray(clip.read_bytes())
    with av.open(str(clip)) as opened:
        packet = list(opened.demux(video=0))[30]
        content[packet.pos : packet.pos + packet.size] = b"\xff" * packet.size
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.mp4: is damaged at frame \d+ .*ffmpeg"):
        video.upscale(StandIn(), tmp_path / "a.mp4", tmp_path / "b.mp4")


def test_a_source_that_is_cut_off_is_named(tmp_path: Path) -> None:
    """Its header states 8 s, but the file ends in the middle, as after a full disk."""
    times = [320 * i for i in range(25)]
    source = write_clip(tmp_path / "a.mkv", times, time_base=Fraction(1, 1000))
    content = source.read_bytes()
    source.write_bytes(content[: len(content) // 2])
    done = video.upscale(StandIn(), source, tmp_path / "b.mkv", Settings(part=5))
    end = max(float(time) for time, _ in frames(source))
    (named,) = done.dropped
    match = re.fullmatch(r"the last (\d\.\d) s, which the source lacks", named)
    assert match and float(match[1]) == pytest.approx(8 - end, abs=0.4)


def plain(path: Path, first: int, width: int = WIDTH) -> bytes:
    """A transport stream of five frames from that time on."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, width, "yuv420p"
        for index in range(5):
            flat = np.full((HEIGHT, width, 3), 90, np.uint8)
            frame = av.VideoFrame.from_ndarray(flat, format="rgb24")
            frame.pts, frame.time_base = first + index, Fraction(1, 25)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path.read_bytes()


@pytest.mark.parametrize(
    "first, width, message",
    [
        (0, WIDTH, "frame 6 is not later than the one before it: cut the video there"),
        (30, 80, "changes from 48x36 to 80x36 pixels at frame 6: cut the video there"),
    ],
)
def test_what_parts_cannot_hold_is_refused(
    tmp_path: Path, first: int, width: int, message: str
) -> None:
    """As in recordings of television: the parts share one header and one clock."""
    begin, end = plain(tmp_path / "a.ts", 0), plain(tmp_path / "b.ts", first, width)
    (tmp_path / "c.ts").write_bytes(begin + end)
    with pytest.raises(UserError, match=f"c.ts: {message}"):
        video.upscale(StandIn(), tmp_path / "c.ts", tmp_path / "c.mp4")


def test_an_alpha_channel_is_left_out_and_named(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mov"), "w") as out:
        stream = out.add_stream("png", rate=25)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "rgba"
        pixels = np.full((HEIGHT, WIDTH, 4), 90, np.uint8)
        out.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgba")))
        out.mux(stream.encode(None))
    done = video.upscale(StandIn(), tmp_path / "a.mov", tmp_path / "b.mp4")
    assert (done.frames, done.dropped) == (1, ["the alpha channel"])


def test_a_name_like_a_url_is_a_file(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("12:30.mp4").write_bytes(clip.read_bytes())
    done = video.upscale(StandIn(), Path("12:30.mp4"), Path("12:31.mp4"))
    assert done.frames == FRAMES and Path("12:31.mp4").is_file()


def turned(clip: Path, path: Path, degrees: int) -> Path:
    """The clip with an orientation, as phones write it."""
    with av.open(str(clip)) as opened, av.open(str(path), "w") as out:
        stream = out.add_stream_from_template(opened.streams.video[0])
        stream.set_display_rotation(degrees)
        for packet in opened.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                out.mux(packet)
    return path


@pytest.mark.parametrize("degrees", [90, 180, -90])
def test_turned_videos_become_upright(clip: Path, tmp_path: Path, degrees: int) -> None:
    source = turned(clip, tmp_path / "turned.mp4", degrees)
    with av.open(str(source)) as opened:
        stated = next(opened.decode(video=0)).rotation
    assert stated % 360 == degrees % 360
    video.upscale(StandIn(), source, tmp_path / "a.mp4", Settings(crf=5))
    _, small = next(frames(clip))
    _, large = next(frames(tmp_path / "a.mp4"))
    expected = np.rot90(small, degrees // 90 % 4).repeat(2, 0).repeat(2, 1)
    assert np.abs(large.astype(int) - expected).mean() < 2


def gray(level: float, noise: int = 0, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    values = level + rng.integers(-noise, noise + 1, shots.SIZE)
    return values.clip(0, 255).astype(np.uint8)


def test_noise_motion_and_slow_fades_are_no_cuts() -> None:
    cuts = shots.Cuts()
    assert cuts.begins_shot(gray(100))
    noisy = [cuts.begins_shot(gray(100, 20, seed)) for seed in range(10)]
    faded = [cuts.begins_shot(gray(100 + 8 * i)) for i in range(10)]
    moving = [
        cuts.begins_shot(np.roll(gray(120, 60, 1), 3 * i, 1)) for i in range(1, 12)
    ]
    assert not any(noisy + faded)
    assert sum(moving[:2]) == 2 and not any(moving[2:])  # until it is usual


def test_a_cut_is_found_and_the_state_goes_on() -> None:
    cuts = shots.Cuts()
    for seed in range(6):
        cuts.begins_shot(gray(100, 10, seed))
    assert shots.Cuts(cuts.state).begins_shot(gray(150, 10))
    assert not shots.Cuts(cuts.state).begins_shot(gray(105, 10))


@pytest.mark.parametrize(
    "options, message",
    [
        (["--crf=52"], "--crf=52: expected 0 to 51"),
        (["--part=0"], "--part=0: expected 1 or more"),
        (["--strength=nan"], "--strength=nan: expected 0 to 1"),
        ([], "exists: --overwrite replaces it"),
    ],
)
def test_mistakes_are_one_line(
    clip: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    (tmp_path / "a.mp4").touch()
    with pytest.raises(SystemExit):
        cli.main(["video", str(clip), "-o", str(tmp_path / "a.mp4"), *options])
    assert message in capsys.readouterr().err


def test_a_folder_is_no_result(clip: Path, tmp_path: Path, capsys) -> None:
    target = tmp_path / "a.mp4"
    target.mkdir()
    with pytest.raises(SystemExit):
        cli.main(["video", str(clip), "-o", str(target), "--overwrite"])
    assert f"{target} is a folder: name a file" in capsys.readouterr().err


def test_the_progress_ends_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with command._progress() as show:
        show(1, 2)
    assert terminal.getvalue() == "\rframe 1/2 \n"
    monkeypatch.setattr(sys, "stderr", None)
    with command._progress() as show:
        show(1, 2)


def test_the_missing_package_is_named(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match=r"pip install 'lightbsr-jax\[video\]'"):
        video.upscale(StandIn(), clip, tmp_path / "a.mp4")


def test_the_command_offers_all_codecs() -> None:
    assert set(command.CODECS) == set(video.CODECS)


@pytest.mark.parametrize("end, tag", [(".mkv", ""), (".mp4", "hvc1")])
def test_the_command_prints_a_line(
    end: str,
    tag: str,
    clip: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(upscale, "make_upscaler", lambda *given: StandIn())
    monkeypatch.setattr(source, "load", lambda weights: None)
    target = tmp_path / f"a{end}"
    cli.main(["video", str(clip), "-o", str(target), "--codec=hevc", "--part=30"])
    line = f"{target}: {FRAMES} frames of {2 * WIDTH}x{2 * HEIGHT}, 2 shots ("
    assert capsys.readouterr().out.startswith(line)
    with av.open(str(target)) as opened:
        made = opened.streams.video[0].codec_context
        assert (made.name, made.codec_tag.strip("\0")) == ("hevc", tag)


@pytest.mark.slow
def test_a_network_upscales_a_video(clip: Path, tmp_path: Path) -> None:
    network = LightBSR(2, groups=1, blocks=1)
    variables = jax.tree.map(np.array, initialise(network, jax.random.key(0)))
    spec = ModelSpec.of_network(network, "student", 1)
    upscaler = Upscaler(Model(spec, variables, np.zeros((441, 15), np.float32)))
    done = video.upscale(upscaler, clip, tmp_path / "a.mp4", Settings(crf=1))
    assert done.frames == FRAMES and done.size == (2 * HEIGHT, 2 * WIDTH)
    (_, first), (_, second) = list(frames(clip))[CUT : CUT + 2]
    expected = upscaler(second, idr=upscaler.estimate(first).mean)
    _, ours = list(frames(tmp_path / "a.mp4"))[CUT + 1]
    assert np.abs(ours.astype(int) - expected).mean() < 4
