"""Atomic writes: a file is complete or absent, even after a crash or a power cut."""

import contextlib
import os
import platform
import re
import secrets
import shutil
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from lightbsr_jax.errors import FULL, UserError

_UNFINISHED = re.compile(r"\.new-([0-9a-f]{8})-(\d+)-[0-9a-f]{8}(\..*)?")
_cleaned: set[str] = set()  # folders
# Windows syncs only what is opened for writing, and no folders.
_SYNCED = os.O_RDONLY if os.name == "posix" else os.O_RDWR


def make_writable(folder: Path) -> None:
    """Makes the folder and tries writing to it. Raises OSError where that fails."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


def check_free(*paths: str | Path, overwrite: bool) -> None:
    """Raises UserError for a folder, and for a file that exists, unless `overwrite`."""
    for path in paths:
        if Path(path).is_dir():
            raise UserError(f"{path} is a folder: give the name of a file")
        if Path(path).exists() and not overwrite:
            raise UserError(f"{path} exists: give another name, or --overwrite")


def replace(
    path: str | Path, save: Callable[[Path], Any], *, mode: int | None = None
) -> None:
    """Lets `save` write a temporary file or folder next to `path`, then renames it.

    The temporary path has `path`'s suffix and a short name. The parent folder
    is created if it is missing. The contents are synced to disk before the rename, so
    that a power cut leaves the old file or the new one. `mode`: the file's permissions.
    The OSError of a full disk gets the name of `path`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _clean(path.parent)
    name = f".new-{_host()}-{os.getpid()}-{secrets.token_hex(4)}{path.suffix}"
    new = path.with_name(name)
    try:
        if mode is not None:
            new.touch(mode=0o600)  # nobody else can read it while it is written
        save(new)
        if mode is not None:
            new.chmod(mode)
        sync_all(new)
        os.replace(new, path)
        sync(path.parent)
    except BaseException as error:
        if new.is_dir():
            shutil.rmtree(new)
        else:
            new.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in FULL:
            error.filename = str(path)
        raise


def write_text(path: str | Path, text: str) -> None:
    """Writes a text file in UTF-8 and keeps the line ends of `text`.

    Bytes of file names that are not UTF-8 are escaped.
    """

    def save(new: Path) -> None:
        new.write_text(text, "utf-8", "backslashreplace", newline="")

    replace(path, save)


def is_unfinished(path: str | Path) -> bool:
    """Returns whether a path is a temporary one that `replace` gives to `save`."""
    return _UNFINISHED.fullmatch(Path(path).name) is not None


def _host() -> str:
    """Identifies the machine, or the container on it, that numbers the processes."""
    namespace = ""
    with contextlib.suppress(OSError):  # not Linux
        namespace = os.readlink("/proc/self/ns/pid")
    return f"{zlib.crc32((platform.node() + namespace).encode()):08x}"


def _clean(folder: Path) -> None:
    """Removes the temporary files that killed processes of this machine left behind.

    Those of other containers stay, and those that may not be removed, such as other
    users' in a shared folder.
    """
    if (name := os.path.realpath(folder)) in _cleaned:
        return
    _cleaned.add(name)
    try:
        entries = list(os.scandir(folder))
    except OSError:  # a folder that may be written to but not read
        return
    for entry in entries:
        match = _UNFINISHED.fullmatch(entry.name)
        if not match or match[1] != _host() or psutil.pid_exists(int(match[2])):
            continue
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                os.unlink(entry.path)


def sync_all(path: Path) -> None:
    if path.is_dir():
        for parent, _, names in os.walk(path):
            for name in names:
                sync(Path(parent, name))
            sync(Path(parent))
    else:
        sync(path)


def sync(path: Path) -> None:
    """Waits until a file, or the entries of a folder, are on the disk."""
    try:
        descriptor = os.open(path, _SYNCED)
    except OSError:  # a folder that may be written to but not read
        return
    try:
        os.fsync(descriptor)
    except OSError:
        if not path.is_dir():  # some file systems cannot do it for folders
            raise
    finally:
        os.close(descriptor)
