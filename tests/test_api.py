"""The public names of the package, and what importing them costs."""

import subprocess
import sys
from pathlib import Path

import pytest

import lightbsr_jax
from lightbsr_jax.imaging import degradation
from lightbsr_jax.inference import folder
from lightbsr_jax.inference.upscaler import Upscaler
from lightbsr_jax.models.model import Model

ROOT = Path(__file__).resolve().parents[1]


def test_importing_the_package_imports_nothing_else() -> None:
    code = """
import sys
before = set(sys.modules)
import lightbsr_jax
dir(lightbsr_jax)
print(*(set(sys.modules) - before))
lightbsr_jax.Upscaler
assert "jax" in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    names = done.stdout.split()
    assert {n.split(".")[0] for n in names} - sys.stdlib_module_names == {
        "lightbsr_jax"
    }
    assert [n for n in names if n.startswith("lightbsr_jax")] == ["lightbsr_jax"]


def test_public_names() -> None:
    assert set(lightbsr_jax.__all__) <= set(dir(lightbsr_jax))
    assert lightbsr_jax.Upscaler is Upscaler
    assert lightbsr_jax.Model is Model
    assert lightbsr_jax.degradation is degradation
    assert lightbsr_jax.load("setting2").scale == 4
    assert lightbsr_jax.upscale_file is folder.upscale_file
    assert repr(Upscaler.load()).startswith("<Upscaler: LightBSR, x4, float32 on ")
    with pytest.raises(AttributeError, match="has no attribute 'Upscaller'"):
        lightbsr_jax.Upscaller  # noqa: B018
