"""Upscaling needs nothing that only POSIX systems have."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import lightbsr_jax
from lightbsr_jax import locks

PACKAGE = Path(lightbsr_jax.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))
POSIX_MODULES = {"fcntl", "grp", "posix", "pwd", "resource", "termios", "tty"}
POSIX_FUNCTIONS = {"fork", "getuid", "nice", "statvfs", "sysconf", "uname"}


def posix_only(source: str) -> list[str]:
    """The POSIX modules imported outside of a `try`, and functions of `os`."""
    tree = ast.parse(source)
    tried = {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.Try)
        for part in ast.walk(node)
    }
    found = []
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [str(node.module)]
        if id(node) not in tried:
            found += [name for name in names if name in POSIX_MODULES]
        match node:
            case ast.Attribute(value=ast.Name(id="os"), attr=attribute):
                found += [attribute] if attribute in POSIX_FUNCTIONS else []
    return sorted(found)


def test_posix_only_is_found() -> None:
    source = (
        "import fcntl\ntry:\n    import pwd\nexcept ImportError: ...\nos.sysconf(1)"
    )
    assert posix_only(source) == ["fcntl", "sysconf"]


def test_nothing_needs_posix() -> None:
    found = {path.name: posix_only(path.read_text("utf-8")) for path in SOURCES}
    assert not {name: what for name, what in found.items() if what}


def test_a_system_without_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "fcntl", None)
    with (
        locks.held(tmp_path / "lock", tmp_path),
        locks.held(tmp_path / "lock", tmp_path),
    ):
        assert (tmp_path / "lock").exists()


def test_upscaling_is_imported_without_fcntl() -> None:
    code = """
import sys
sys.modules["fcntl"] = None
from lightbsr_jax import atomic, locks
from lightbsr_jax.data import resident
from lightbsr_jax.inference import folder, server, studio
print(locks.fcntl)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent
    )
    assert done.stdout == "None\n", done.stderr
