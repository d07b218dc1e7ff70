"""Folders as people have them: odd names, odd files, results that are there."""

import io
import os
import sys
import threading
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lightbsr_jax import cli
from lightbsr_jax.commands import upscale
from lightbsr_jax.commands.printing import printable, say
from lightbsr_jax.errors import UserError
from lightbsr_jax.imaging import files
from lightbsr_jax.imaging.files import ImageError
from lightbsr_jax.inference import folder
from lightbsr_jax.inference.explain import Bank
from lightbsr_jax.inference.folder import Failed, Job, Skipped, Target

PIXELS = np.full((2, 3, 3), 99, np.uint8)


def save(path: Path, kind: str = "PNG") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(PIXELS).save(path, kind)


def plan(*inputs: Path, out: Path, suffix: str = "", format: str | None = None):
    return folder.jobs(inputs, out, suffix=suffix, format=format)


def copy(job: Job) -> str:
    """An act that makes something of each job."""
    files.read_rgb(job.source)
    job.target.parent.mkdir(parents=True, exist_ok=True)
    save(job.target)
    return str(job.target)


def test_names_of_any_bytes_do_not_end_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    names = [b"a\xff.png", b"b\x1b[31m\n.png", b"c.png"]
    for name in names:
        (tmp_path / "in").mkdir(exist_ok=True)
        Path(os.fsdecode(os.path.join(os.fsencode(tmp_path / "in"), name))).touch()
    save(tmp_path / "in" / "z.png")
    jobs = plan(tmp_path / "in", out=tmp_path / "out")
    outcomes = folder.attempts(jobs, copy, "refuse")
    assert not upscale.report(outcomes, lambda done: done.result)
    captured = capsys.readouterr()
    assert "z.png" in captured.out and "1 done, 3 failed" in captured.out
    assert r"a\xff.png" in captured.err
    assert captured.err.count(r"b\x1b[31m\n.png") == 1
    assert "b\\x1b[31m .png" not in captured.err  # the same name once more
    assert "\x1b" not in captured.err


def test_lines_for_terminals_that_know_ascii_alone() -> None:
    buffer = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    say("süß\u202egnp.exe", buffer)
    assert buffer.buffer.getvalue() == b"s\\xfc\\xdf\\u202egnp.exe\n"
    assert printable("plain ä 山.png") == "plain ä 山.png"


def test_nobody_reads_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after `| head -1`: the rest of the batch goes on."""
    reading, writing = os.pipe()
    file = os.fdopen(writing, "w")
    os.close(reading)
    monkeypatch.setattr(sys, "stdout", file)
    jobs = [Job(x, Path(x), Path("nowhere", x), None) for x in ("a", "b")]
    done = []
    outcomes = folder.attempts(jobs, lambda job: done.append(job.name), "refuse")
    assert upscale.report(outcomes, lambda done: "made")
    assert done == ["a", "b"]
    file.close()


def test_standard_output_may_be_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    jobs = [Job("a", Path("a"), Path("nowhere", "a"), None)]
    outcomes = folder.attempts(jobs, lambda job: None, "refuse")
    assert upscale.report(outcomes, lambda done: "made")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_lines_for_a_file_are_not_shown_above_the_bar(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file, terminal = io.StringIO(), Terminal()
    monkeypatch.setattr(sys, "stdout", file)
    monkeypatch.setattr(sys, "stderr", terminal)
    with upscale._Bar([]):
        say("done: a")
    assert file.getvalue() == "done: a\n"
    assert "done: a" not in terminal.getvalue()


@pytest.mark.parametrize("existing", ["refuse", "skip", "overwrite"])
def test_a_disk_that_ignores_case(tmp_path: Path, existing: folder.Existing) -> None:
    """There the result of A.png would replace that of a.png."""
    save(tmp_path / "in" / "a.png")
    save(tmp_path / "in" / "A.png")
    jobs = plan(tmp_path / "in", out=tmp_path / "out")

    def act(job: Job) -> str:
        made = copy(job)
        (tmp_path / "out" / "a.png").hardlink_to(made)  # as such a disk shows it
        return made

    made, failed = folder.attempts(jobs, act, existing)
    assert made.job.name == "A.png" and isinstance(failed, Failed)
    assert "a.png is the same file as" in str(failed.error)


@pytest.mark.parametrize("existing", ["refuse", "skip", "overwrite"])
def test_a_folder_with_the_name_of_a_result_is_named_before_the_work(
    tmp_path: Path, existing: folder.Existing
) -> None:
    save(tmp_path / "in" / "a.png")
    (tmp_path / "out" / "a.png").mkdir(parents=True)
    jobs = plan(tmp_path / "in", out=tmp_path / "out")
    acted = []
    (failed,) = folder.attempts(jobs, acted.append, existing)
    assert isinstance(failed, Failed) and not acted
    assert "a.png is a folder: rename it" in str(failed.error)


def test_unreadable_folders_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    save(tmp_path / "in" / "a.png")
    save(tmp_path / "in" / "closed" / "b.png")
    scandir = os.scandir

    def closed(path):  # the tests may run as root, who reads everything
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    jobs = plan(tmp_path / "in", out=tmp_path / "out")
    failed, made = folder.attempts(jobs, copy, "refuse")
    assert isinstance(failed, Failed)
    printed = upscale.describe_failure(failed.job, failed.error)
    assert printed == f"{tmp_path / 'in' / 'closed'}: Permission denied"
    assert made.job.name == "a.png"
    with pytest.raises(PermissionError, match="closed"):  # nothing else leaves it out
        files.find_images(tmp_path / "in")


def test_pipes_and_devices_are_passed_over(tmp_path: Path) -> None:
    save(tmp_path / "in" / "a.png")
    os.mkfifo(tmp_path / "in" / "cam.png")
    (tmp_path / "in" / "zero.jpg").symlink_to("/dev/zero")
    jobs = plan(tmp_path / "in", out=tmp_path / "out")
    outcomes = []
    run = threading.Thread(
        target=lambda: outcomes.extend(folder.attempts(jobs, copy, "refuse")),
        daemon=True,
    )
    run.start()
    run.join(20)
    assert not run.is_alive()
    skipped = [o for o in outcomes if isinstance(o, Skipped)]
    assert [o.job.name for o in skipped] == ["cam.png", "zero.jpg"]
    assert skipped[0].reason.endswith("cam.png is not a regular file")
    for name in ("cam.png", "zero.jpg"):
        for function in (files.read_rgb, files.image_size):
            with pytest.raises(ImageError, match="is not a regular file"):
                function(tmp_path / "in" / name)
        with pytest.raises(UserError, match="not a regular file"):
            plan(tmp_path / "in" / name, out=tmp_path / "out")


def test_ends_that_collide_go_into_the_names(tmp_path: Path) -> None:
    save(tmp_path / "in" / "a.jpg", "JPEG")
    save(tmp_path / "in" / "a.png")
    save(tmp_path / "in" / "b.png")
    jobs = plan(tmp_path / "in", out=tmp_path / "out", format="png", suffix="-x4")
    names = [job.target.name for job in jobs]
    assert names == ["a-jpg-x4.png", "a-png-x4.png", "b-x4.png"]


def test_a_picture_that_is_given_twice_is_upscaled_once(tmp_path: Path) -> None:
    save(tmp_path / "in" / "a.png")
    save(tmp_path / "in" / "b.png")
    twice = tmp_path / "in" / "a.png"
    other = Path(os.path.relpath(twice))
    jobs = plan(tmp_path / "in", twice, other, out=tmp_path / "out")
    assert [job.target.name for job in jobs] == ["a.png", "b.png"]


@pytest.mark.parametrize(("given", "out"), [("", "out"), (".", "")])
def test_an_empty_name_is_not_the_working_folder(given: str, out: str) -> None:
    with pytest.raises(UserError, match="an empty name"):
        folder.jobs([given], out, suffix="", format=None)


def test_a_result_beside_its_picture_is_no_picture(tmp_path: Path) -> None:
    """In place, a second run goes on: a.png came of a.jpg."""
    save(tmp_path / "a.jpg", "JPEG")
    save(tmp_path / "a.png")
    options = {"suffix": "", "format": "png", "skip_existing": True}
    (job,) = folder.jobs([tmp_path], tmp_path, **options)
    assert (job.source.name, job.target.name) == ("a.jpg", "a.png")


def test_content_counts_where_a_file_is_named(tmp_path: Path) -> None:
    save(tmp_path / "photo", "JPEG")
    (job,) = plan(tmp_path / "photo", out=tmp_path / "out", suffix="-x4")
    assert job.target == tmp_path / "out" / "photo-x4.jpg"
    save(tmp_path / "photo.v2", "TIFF")
    (job,) = plan(tmp_path / "photo.v2", out=tmp_path / "out")
    assert job.target == tmp_path / "out" / "photo.v2.tif"
    save(tmp_path / "x.jfif", "JPEG")
    (job,) = plan(tmp_path / "x.jfif", out=tmp_path / "out")
    assert job.target == tmp_path / "out" / "x.jfif"
    save(tmp_path / "y.gif", "GIF")
    with pytest.raises(ImageError, match="y.gif: is a GIF"):
        plan(tmp_path / "y.gif", out=tmp_path / "out")


def test_a_new_folder_does_not_end_like_a_file(tmp_path: Path) -> None:
    """A typing error of a format would make a folder."""
    save(tmp_path / "a.png")
    for name in ("large.jpgg", "large.gif"):
        with pytest.raises(UserError, match="large.*: expected a name ending in"):
            plan(tmp_path / "a.png", out=tmp_path / name)
    for name in ("v1.2", "made.dir"):
        if name == "made.dir":
            (tmp_path / name).mkdir()
        (job,) = plan(tmp_path / "a.png", out=tmp_path / name)
        assert job.target == tmp_path / name / "a.png"
    (job,) = plan(tmp_path, out=tmp_path / "of.folder")
    assert job.target == tmp_path / "of.folder" / "a.png"


class Doubler:
    """Stands for an upscaler."""

    scale = 2

    def __call__(self, image: np.ndarray, **options: Any) -> np.ndarray:
        assert options["strength"] == 0.5
        return image.repeat(2, 0).repeat(2, 1)


def test_a_file_is_upscaled_from_python(tmp_path: Path) -> None:
    """Like the command: with EXIF, at a size, and never over an existing file."""
    source, target = tmp_path / "a.jpg", tmp_path / "b" / "a.png"
    exif = Image.Exif()
    exif[0x010F] = "maker"
    Image.fromarray(PIXELS).save(source, exif=exif)
    upscaler: Any = Doubler()
    act = partial(folder.upscale_file, upscaler, strength=0.5)
    done = act(source, target)
    assert (done.path, done.format) == (target, "PNG")
    assert done.sizes == ((2, 3), (4, 6))
    with Image.open(target) as written:
        assert written.size == (6, 4) and written.getexif()[0x010F] == "maker"
    with pytest.raises(folder.ResultExists, match="a.png exists: overwrite=True"):
        act(source, str(target))
    assert act(source, target, size="9x", overwrite=True).sizes.after == (6, 9)
    assert act(str(source), tmp_path / "b").path == tmp_path / "b" / "a.jpg"
    with pytest.raises(UserError, match="quality=0: expected 1 to 100"):
        act(source, target, quality=0)
    with pytest.raises(UserError, match="is a folder: name a picture"):
        act(tmp_path, target)


def test_what_is_no_picture_does_not_stop_the_others(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    save(tmp_path / "y.gif", "GIF")
    failed, job = folder.jobs(
        [tmp_path / "a.png", tmp_path / "y.gif"],
        tmp_path / "out",
        suffix="",
        format=None,
    )
    assert job.name == "a.png" and job.error is None
    assert failed.name == "y.gif" and "is a GIF" in str(failed.error)


def test_mistaken_outputs_are_named_at_once(tmp_path: Path) -> None:
    save(tmp_path / "in" / "a.png")
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UserError, match="notes.txt is no folder: name a folder"):
        plan(tmp_path / "in", out=tmp_path / "notes.txt")
    (tmp_path / "gone").symlink_to("nowhere")
    with pytest.raises(UserError, match="gone is no folder: name a folder"):
        plan(tmp_path / "in", out=tmp_path / "gone")
    with pytest.raises(UserError, match="expected a part of a name"):
        plan(tmp_path / "in", out=tmp_path / "out", suffix="/../../x")
    with pytest.raises(UserError, match="--suffix=-x4: .*x.png names the result alone"):
        plan(tmp_path / "in" / "a.png", out=tmp_path / "x.png", suffix="-x4")


@pytest.mark.parametrize(("length", "bank"), [(300, None), (250, Bank([], PIXELS))])
def test_a_name_that_is_too_long_fails_before_the_work(
    tmp_path: Path, length: int, bank: Bank | None
) -> None:
    """The names of the files that explain a result are longer than its own."""
    save(tmp_path / "a.png")
    (job,) = plan(tmp_path / "a.png", out=tmp_path / "out", suffix="x" * (length - 5))
    upscaler: Any = SimpleNamespace(scale=4)  # without more, the work cannot be done
    with pytest.raises(OSError, match="File name too long"):
        folder.upscale(upscaler, job, Target(), bank=bank)


def test_explanations_are_not_counted_as_unsupported(tmp_path: Path) -> None:
    for name in ("a.png", "a.png-idr.png", "a.png-idr.json", "b.json"):
        (tmp_path / name).touch()
    assert folder.unsupported([tmp_path]) == {".json": 1}


def test_failures_name_the_picture(tmp_path: Path) -> None:
    job = Job("a.png", Path("in/a.png"), Path("out/a.png"), None)
    full = OSError(28, "No space left on device")
    printed = upscale.describe_failure(job, full)
    assert printed == "in/a.png: out/a.png: No space left on device"
    name = "out/.new-01234567-12-89abcdef.png"
    printed = upscale.describe_failure(job, OSError(30, "Read-only file system", name))
    assert printed == "in/a.png: out/a.png: Read-only file system"
    missing = FileNotFoundError(2, "No such file or directory", "in/a.png")
    assert upscale.describe_failure(job, missing) == (
        "in/a.png: No such file or directory"
    )


def test_empty_results_are_made_again(tmp_path: Path) -> None:
    """An empty file, left by a power cut, does not count as a result."""
    save(tmp_path / "in" / "a.png")
    save(tmp_path / "in" / "b.png")
    save(tmp_path / "out" / "b.png")
    (tmp_path / "out" / "a.png").touch()
    jobs = plan(tmp_path / "in", out=tmp_path / "out")
    made, skipped = folder.attempts(jobs, copy, "skip")
    assert made.job.name == "a.png" and skipped == Skipped(
        jobs[1], f"{tmp_path / 'out' / 'b.png'} exists"
    )
    assert folder.is_done(jobs[1])
    assert not folder.is_done(jobs[1], explained=True)
    for end in (".png", ".json"):
        (tmp_path / "out" / f"b.png-idr{end}").touch()
    assert folder.is_done(jobs[1], explained=True)


@pytest.mark.parametrize("command", ["upscale", "video"])
@pytest.mark.parametrize("memory", ["nan", "inf", "0", "-1", "much"])
def test_senseless_memory_is_refused_before_anything_is_read(
    command: str, memory: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing, out = str(tmp_path / "missing"), str(tmp_path / "out.mp4")
    with pytest.raises(SystemExit):
        cli.main([command, missing, "-o", out, f"--memory={memory}"])
    message = f"argument --memory: {memory!r} is not a number of GB above 0"
    assert message in capsys.readouterr().err


def test_the_bar_takes_any_name() -> None:
    jobs = [Job("x[/a].png", Path("nowhere"), Path("out"), None)]
    with upscale._Bar(jobs) as bar:
        bar.of(jobs[0])(1, 2)
        bar._bar.get_renderable()
        console = bar._bar.console
        console.print(bar._bar.get_renderable())
