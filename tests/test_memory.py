"""The memory that a container leaves, from files as Linux writes them."""

from pathlib import Path

import psutil

from lightbsr_jax.inference import memory


def group(folder: Path, names: tuple[str, str], limit: str, used: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in zip(names, (limit, used), strict=True):
        (folder / name).write_text(f"{value}\n")
    (folder / "memory.stat").write_text("anon 5\ninactive_file 1000\n")


def test_version_2(tmp_path: Path) -> None:
    proc = tmp_path / "cgroup"
    proc.write_text("0::/system.slice/job\n")
    names = memory._V2
    group(tmp_path / "system.slice/job", names, "max", 10)
    assert memory.available(proc, tmp_path) <= psutil.virtual_memory().total
    assert memory.available(proc, tmp_path) > 10**8
    group(tmp_path / "system.slice", names, "90000", 30000)  # one above counts as well
    assert memory.available(proc, tmp_path) == 61000
    group(tmp_path / "system.slice/job", names, "40000", 30000)
    assert memory.available(proc, tmp_path) == 11000
    group(tmp_path / "system.slice/job", names, "40000", 50000)
    assert memory.available(proc, tmp_path) == 0


def test_version_1_in_a_container(tmp_path: Path) -> None:
    """In a container the path is that of the host, and the root is the group."""
    proc = tmp_path / "cgroup"
    proc.write_text("3:cpu,cpuacct:/docker/abc\n7:memory:/docker/abc\n0::/\n")
    group(tmp_path / "memory", memory._V1, "900000", 100000)
    assert memory.available(proc, tmp_path) == 801000


def test_without_control_groups(tmp_path: Path) -> None:
    assert memory.available(tmp_path / "none", tmp_path) > 10**8
