"""How much memory there is, also where a container is given a part of the machine's."""

from pathlib import Path

import psutil

_PROC = Path("/proc/self/cgroup")
_ROOT = Path("/sys/fs/cgroup")
# By version of control groups: the files of limit and use.
_V2 = "memory.max", "memory.current"
_V1 = "memory.limit_in_bytes", "memory.usage_in_bytes"


def available(proc: Path = _PROC, root: Path = _ROOT) -> int:
    """Bytes of main memory that this process may still take.

    The least of what the machine has and what the control groups (versions 1 and 2)
    allow that the process is in, and those above them. `proc` and `root` are where
    Linux tells of them.
    """
    return min([psutil.virtual_memory().available, *_allowed(proc, root)])


def _allowed(proc: Path, root: Path) -> list[int]:
    try:
        lines = proc.read_text().splitlines()
    except OSError:  # no Linux
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
    """What a group and those above it have left. In a container it is the root."""
    group = root / path.lstrip("/")
    if ".." in group.parts or not group.is_dir():
        group = root
    groups = [group, *(p for p in group.parents if p.is_relative_to(root))]
    return [left for g in groups if (left := _left(g, names)) is not None]


def _left(group: Path, names: tuple[str, str]) -> int | None:
    try:
        limit, used = (int((group / name).read_text()) for name in names)
        cached = _number(group / "memory.stat", "inactive_file")
    except (OSError, ValueError):  # "max" is no number
        return None
    return max(limit - used + cached, 0)  # files' pages are given up at need


def _number(file: Path, name: str) -> int:
    fields = dict(line.split() for line in file.read_text().splitlines())
    return int(fields.get(name, 0))
