"""The folder of compiled programs: private, bounded, mended; devices that are not."""

import os
import warnings
from pathlib import Path

import jax
import pytest

from lightbsr_jax import compilation
from lightbsr_jax.errors import UserError


def test_the_oldest_programs_go(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(compilation, "_MOST_KEPT", 1000)
    of_xla = tmp_path / "xla_gpu_per_fusion_autotune_cache_dir"
    of_xla.mkdir()
    os.utime(of_xla, (0, 0))  # older than the programs
    for i in range(9):
        path = tmp_path / f"{i}-cache"
        path.write_bytes(bytes(100))
        os.utime(path, (i, i))
    compilation._prune(tmp_path)
    assert len(list(tmp_path.iterdir())) == 1 + 9
    for i in (9, 10):
        (tmp_path / f"{i}-cache").write_bytes(bytes(100))
    compilation._prune(tmp_path)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {of_xla.name, *(f"{i}-cache" for i in range(6, 11))}


def test_a_damaged_program_is_removed_and_other_warnings_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = []
    monkeypatch.setattr(warnings, "showwarning", lambda m, *_, **__: shown.append(m))
    (tmp_path / "x-cache").write_bytes(b"damaged")
    (tmp_path / "xla_gpu_per_fusion_autotune_cache_dir").mkdir()  # on GPUs
    compilation._mend_when_damaged(tmp_path)
    warnings.showwarning("another", UserWarning, "file.py", 1)
    assert shown == ["another"] and (tmp_path / "x-cache").exists()
    message = "Error reading persistent compilation cache entry for 'jit_f': zlib"
    warnings.showwarning(message, UserWarning, "compiler.py", 1)
    assert shown == ["another"] and not (tmp_path / "x-cache").exists()


def test_devices_that_are_not_there_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """JAX_PLATFORMS=cuda without CUDA ended in a bare AssertionError."""

    def missing() -> None:
        raise AssertionError

    monkeypatch.setattr(jax, "devices", missing)
    monkeypatch.setattr(compilation, "_platforms", lambda: None)
    with pytest.raises(AssertionError):  # nobody asked for any: a bug
        compilation.check_devices()
    monkeypatch.setattr(compilation, "_platforms", lambda: "cuda")
    with pytest.raises(UserError, match="JAX_PLATFORMS=cuda: JAX finds no such device"):
        compilation.check_devices()
