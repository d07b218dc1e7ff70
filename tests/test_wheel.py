"""Installation by pip: every file, and the commands that read the configs."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.slow
SOURCES = ("pyproject.toml", "setup.py", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the contents of the wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    clone = folder / "clone"
    for name in ("lightbsr_jax", "configs"):
        unwanted = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, clone / name, ignore=unwanted)
    for name in SOURCES:
        shutil.copy(ROOT / name, clone)
    options = ["--no-deps", "--no-build-isolation", "--quiet"]
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", str(clone), *options, "-w", folder],
        check=True,
    )
    (wheel,) = folder.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "site")
    return folder / "site"


def lightbsr(site: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "lightbsr_jax", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(site), "JAX_PLATFORMS": "cpu"},
        timeout=120,
    )


def test_every_file_is_installed(site: Path) -> None:
    """Those of the package, and the configs inside it; nothing at the top level."""
    files = {"lightbsr_jax": ROOT / "lightbsr_jax", "configs": ROOT / "configs"}
    expected = {
        Path(*(["lightbsr_jax"] if name == "configs" else []), name)
        / path.relative_to(folder)
        for name, folder in files.items()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    installed = {p.relative_to(site) for p in site.rglob("*") if p.is_file()}
    assert expected <= installed
    assert {path.parts[0] for path in installed - expected} == {
        next(site.glob("*.dist-info")).name
    }


def test_config_by_name(site: Path, tmp_path: Path) -> None:
    """`configs` are ours, although the folder that it runs in has such a package."""
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "__init__.py").write_text("raise ImportError")
    options = ("--config=teacher:demo", "--workdir=run")
    done = lightbsr(site, "train", *options, "--config.data.lr_crop=0", cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ") and "lr_crop" in done.stderr

    own = tmp_path / "own.py"
    own.write_text(
        "from configs import student\n"
        "def get_config():\n"
        "    config = student.get_config('demo')\n"
        "    config.data.lr_crop = -1\n"
        "    return config\n"
    )
    done = lightbsr(site, "train", "--config", "own.py", "--workdir=run", cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "lr_crop" in done.stderr


def test_evaluating(site: Path, tmp_path: Path) -> None:
    arguments = ("--method=bicubic", "--benchmarks=scikit-image:test", "--report=out")
    sigmas = "--config.sigmas=(2.4,)"
    done = lightbsr(site, "eval", *arguments, sigmas, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "sigma 2.4" in done.stdout
    page = (tmp_path / "out" / "report.html").read_text()
    assert "color-scheme" in page and "$" not in page
