"""Files that are there whole or not at all."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from lightbsr_jax import atomic
from lightbsr_jax.commands import mistakes


def test_contents_are_on_the_disk_before_the_name_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rename that outlives its contents leaves files of 0 bytes after a power cut."""
    done = []
    sync, rename = os.fsync, os.replace

    def fsync(descriptor: int) -> None:
        name = os.readlink(f"/proc/self/fd/{descriptor}")
        done.append(("sync", "folder" if name == str(tmp_path) else "file"))
        sync(descriptor)

    def replace(old: Path, new: Path) -> None:
        done.append(("rename", "file"))
        rename(old, new)

    if not Path("/proc/self/fd").exists():
        pytest.skip("needs /proc")
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    atomic.write_text(tmp_path / "a.txt", "text\n")
    assert done == [("sync", "file"), ("rename", "file"), ("sync", "folder")]
    assert (tmp_path / "a.txt").read_text() == "text\n"

    def folder(path: Path) -> None:
        path.mkdir()
        (path / "one").write_text("1")

    done.clear()
    atomic.replace(tmp_path / "b", folder)
    assert done.index(("rename", "file")) == 2  # after the file and its folder


def test_what_killed_runs_left_is_removed(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys\n"
        "from lightbsr_jax import atomic\n"
        "def save(path):\n"
        "    path.write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "atomic.replace(sys.argv[1], save)\n"
    )
    target = tmp_path / "a.txt"
    subprocess.run([sys.executable, "-c", script, str(target)], check=False)
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".new-")
    host = atomic._host()
    (tmp_path / f".new-{host}-{os.getpid()}-01234567.png").touch()  # one at work
    (tmp_path / f".new-0{host[1:]}-1-01234567.png").touch()
    (tmp_path / f".new-ffffffff-{2**22 + 1}-01234567.png").touch()  # another machine's
    before = len(list(tmp_path.iterdir()))
    atomic.write_text(target, "whole")
    assert not left.exists()
    assert len(list(tmp_path.iterdir())) == before  # one went, one came


def test_what_another_container_writes_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Containers may share a host name, but each numbers its processes anew."""
    with monkeypatch.context() as patched:
        patched.setattr(os, "readlink", lambda path: "pid:[1]")
        other = tmp_path / f".new-{atomic._host()}-{2**22 + 1}-01234567.png"
    other.touch()
    atomic.write_text(tmp_path / "a.txt", "a")
    assert other.exists()


def test_permissions_are_kept_from_the_beginning(tmp_path: Path) -> None:
    seen = []

    def save(path: Path) -> None:
        seen.append(path.stat().st_mode & 0o777)
        path.write_text("secret")

    atomic.replace(tmp_path / "a", save, mode=0o640)
    assert seen == [0o600]
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def test_what_may_not_be_listed_or_removed_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another user's in a shared folder, and a folder that may only be written to."""

    def forbidden(path: str | Path) -> None:
        raise PermissionError(1, "Operation not permitted", str(path))

    host = atomic._host()
    left = tmp_path / f".new-{host}-{2**22 + 1}-01234567.png"  # of a dead process
    left.touch()
    with monkeypatch.context() as patched:
        patched.setattr(os, "unlink", forbidden)
        atomic.write_text(tmp_path / "a.txt", "a")
    assert left.exists() and (tmp_path / "a.txt").read_text() == "a"
    (tmp_path / "unreadable").mkdir()
    with monkeypatch.context() as patched:
        patched.setattr(os, "scandir", forbidden)
        atomic.write_text(tmp_path / "unreadable" / "b.txt", "b")
    assert (tmp_path / "unreadable" / "b.txt").read_text() == "b"


def test_names_that_are_not_utf_8_are_escaped(tmp_path: Path) -> None:
    """A report names its images; a name in Latin-1 ended a measurement at its end."""
    atomic.write_text(tmp_path / "a.csv", os.fsdecode(b"caf\xe9.png,1\n"))
    assert (tmp_path / "a.csv").read_bytes() == b"caf\\udce9.png,1\n"


def test_a_full_disk_is_told_with_the_file_and_the_remedy(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError) as caught:
            atomic.write_text(file, 2000 * "a")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert mistakes.one_line(caught.value) == (
        f"{file} cannot be written (File too large): free space, or name another folder"
    )
    assert not list(tmp_path.iterdir())
    other = FileNotFoundError(2, "No such file or directory", "x")
    assert mistakes.one_line(other) == str(other)
