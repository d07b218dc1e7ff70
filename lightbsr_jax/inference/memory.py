"""Available memory of the machine, or of the container that the process runs in."""

import contextlib
import ctypes
from pathlib import Path

import psutil

# Parameters of glibc's mallopt.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
_LARGEST_KEPT = 1 << 30  # bytes of a block

_PROC = Path("/proc/self/cgroup")
_ROOT = Path("/sys/fs/cgroup")
# Files of limit and usage, by version of control groups.
_V2 = "memory.max", "memory.current"
_V1 = "memory.limit_in_bytes", "memory.usage_in_bytes"


def available(proc: Path = _PROC, root: Path = _ROOT) -> int:
    """Bytes of main memory that this process may still allocate.

    This is the minimum of the machine's free memory and of the limits of the process's
    control groups (versions 1 and 2) and their parents. `proc` and `root` are the paths
    at which Linux lists them.
    """
    return min([psutil.virtual_memory().available, *_allowed(proc, root)])


def keep_freed() -> None:
    """Keeps large blocks of memory in the process when they are freed.

    Otherwise glibc returns them to the system, which clears them page by page when they
    are allocated anew for the next program: that takes half of a tile's time. With
    other C libraries this does nothing. It is for processes that belong to this program
    alone, because it concerns all of their memory.
    """
    with contextlib.suppress(OSError, TypeError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_ARENA_MAX, 1)  # the other arenas hold no large blocks
        mallopt(_MMAP_THRESHOLD, _LARGEST_KEPT)
        mallopt(_TRIM_THRESHOLD, 2 * _LARGEST_KEPT - 1)


def _allowed(proc: Path, root: Path) -> list[int]:
    try:
        lines = proc.read_text().splitlines()
    except OSError:  # not Linux
        return []
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            found += _of_group(root, path, _V2)
        elif "memory" in controllers.split(","):
            found += _of_group(root / "memory", path, _V1)
    return found


def _of_group(root: Path, path: str, names: tuple[str, str]) -> list[int]:
    """Bytes left in a group and its parents. In a container the group is the root."""
    group = root / path.lstrip("/")
    if ".." in group.parts or not group.is_dir():
        group = root
    groups = [group, *(p for p in group.parents if p.is_relative_to(root))]
    return [left for g in groups if (left := _left(g, names)) is not None]


def _left(group: Path, names: tuple[str, str]) -> int | None:
    try:
        limit, used = (int((group / name).read_text()) for name in names)
        cached = _number(group / "memory.stat", "inactive_file")
    except (OSError, ValueError):  # "max" is not a number
        return None
    return max(limit - used + cached, 0)  # the kernel reclaims cached files


def _number(file: Path, name: str) -> int:
    fields = dict(line.split() for line in file.read_text().splitlines())
    return int(fields.get(name, 0))
