"""The memory that a container leaves, from files as Linux writes them."""

import platform
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

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


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator")
def test_freed_memory_stays_in_the_process() -> None:
    """Of another thread, too, as XLA's threads are."""
    code = """
import concurrent.futures, ctypes, sys
import psutil
from lightbsr_jax.inference import memory

if sys.argv[1] == "kept":
    memory.keep_freed()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]

def work():
    block = libc.malloc(ctypes.c_size_t(200_000_000))
    ctypes.memset(block, 1, 200_000_000)
    libc.free(block)

with concurrent.futures.ThreadPoolExecutor(1) as threads:
    threads.submit(work).result()
print(psutil.Process().memory_info().rss > 200_000_000)
"""

    def stays(how: str) -> str:
        command = [sys.executable, "-c", code, how]
        return subprocess.run(
            command, check=True, capture_output=True, text=True
        ).stdout.strip()

    assert (stays("kept"), stays("returned")) == ("True", "False")
