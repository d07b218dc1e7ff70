"""Files that are there whole or not at all, whenever a program or the power ends."""

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

_UNFINISHED = re.compile(r"\.new-([0-9a-f]{8})-(\d+)-[0-9a-f]{8}(\..*)?")
_cleaned: set[str] = set()  # folders


def make_writable(folder: Path) -> None:
    """Makes the folder and tries writing to it. Raises OSError where that fails."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


def replace(
    path: str | Path, save: Callable[[Path], Any], *, mode: int | None = None
) -> None:
    """Let `save` write a file or folder beside `path`, then move it there.

    What `save` is given has `path`'s suffix and a short name of its own. The folder is
    made where there is none. Contents are on the disk before the name is, so that after
    a power cut there is the old file or the new one. `mode` is the file's permissions.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _clean(path.parent)
    name = f".new-{_host()}-{os.getpid()}-{secrets.token_hex(4)}{path.suffix}"
    new = path.with_name(name)
    try:
        if mode is not None:
            new.touch(mode=0o600)  # nobody else sees it, not even half of it
        save(new)
        if mode is not None:
            new.chmod(mode)
        _sync_all(new)
        os.replace(new, path)
        _sync(path.parent)
    except BaseException:
        if new.is_dir():
            shutil.rmtree(new)
        else:
            new.unlink(missing_ok=True)
        raise


def write_text(path: str | Path, text: str) -> None:
    """A text file in UTF-8, with the line ends that it has."""
    replace(path, lambda new: new.write_text(text, encoding="utf-8", newline=""))


def is_unfinished(path: str | Path) -> bool:
    """Whether a path is one that `replace` gives to `save`."""
    return _UNFINISHED.fullmatch(Path(path).name) is not None


def _host() -> str:
    return f"{zlib.crc32(platform.node().encode()):08x}"


def _clean(folder: Path) -> None:
    """Removes what a killed process of this machine left half-written in a folder."""
    if (name := os.path.realpath(folder)) in _cleaned:
        return
    _cleaned.add(name)
    for entry in os.scandir(folder):
        match = _UNFINISHED.fullmatch(entry.name)
        if not match or match[1] != _host() or psutil.pid_exists(int(match[2])):
            continue
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path, ignore_errors=True)
        else:
            Path(entry.path).unlink(missing_ok=True)


def _sync_all(path: Path) -> None:
    if path.is_dir():
        for parent, _, names in os.walk(path):
            for name in names:
                _sync(Path(parent, name))
            _sync(Path(parent))
    else:
        _sync(path)


def _sync(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:  # a folder that may be written to but not read
        return
    try:
        os.fsync(descriptor)
    except OSError:
        if not path.is_dir():  # some file systems cannot do it for folders
            raise
    finally:
        os.close(descriptor)
