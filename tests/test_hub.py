"""Weights from the Hugging Face Hub, against a folder laid out as the Hub's cache."""

import shutil
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers.reference_weights import reference_tensors, save

from lightbsr_jax.errors import UserError
from lightbsr_jax.inference.upscaler import Upscaler
from lightbsr_jax.models import hub

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OTHER = "fedcba9876543210fedcba9876543210fedcba98"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny student's state dict."""
    path = tmp_path_factory.mktemp("weights") / "x.safetensors"
    return save(path, reference_tensors(scale=2))


@pytest.fixture
def cache(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with one file at `main`, two at another commit; nothing is fetched."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    folder = tmp_path / "models--owner--name"
    for commit, names in ((COMMIT, ["model"]), (OTHER, ["a", "b"])):
        for name in names:
            file = folder / "snapshots" / commit / f"{name}.safetensors"
            file.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(weights, file)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(COMMIT)
    return folder


def test_the_newest_commit_is_loaded(cache: Path, weights: Path) -> None:
    found = hub.fetch("owner/name")
    assert found == cache / "snapshots" / COMMIT / "model.safetensors"
    ours, expected = (
        jax.tree.leaves(made._variables)
        for made in (Upscaler.from_pretrained("owner/name"), Upscaler.load(weights))
    )
    for mine, theirs in zip(ours, expected, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_options_reach_the_upscaler(cache: Path) -> None:
    made = Upscaler.from_pretrained(
        "owner/name", filename="b.safetensors", revision=OTHER, border=3
    )
    assert made._border == 3 and made.scale == 2


def test_a_local_copy_is_a_repository(cache: Path) -> None:
    folder = cache / "snapshots" / OTHER
    assert hub.fetch(folder, filename="a.safetensors") == folder / "a.safetensors"


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("owner/name", {"revision": OTHER}, "there are a.safetensors, b.safetensors"),
        (
            "owner/name",
            {"filename": "c.safetensors"},
            "owner/name(.*cannot be fetched| has no file c.safetensors)",
        ),
        ("owner/name", {"filename": "c.pt"}, "c.pt: only .safetensors"),
        ("owner/nothing", {}, "owner/nothing cannot be fetched from the Hub: .*"),
        ("photo", {}, "'photo': neither a folder nor of the form owner/name"),
    ],
)
def test_mistakes_name_the_repository(
    cache: Path, name: str, options: dict[str, str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        hub.fetch(name, **options)


def test_a_lost_connection_is_no_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    """The errors of the package's HTTP client are neither OSError nor ValueError."""
    package = pytest.importorskip("huggingface_hub")

    class ReadTimeout(Exception):
        pass

    def lost(*_: object, **__: object) -> None:
        raise ReadTimeout

    monkeypatch.setattr(package, "snapshot_download", lost)
    with pytest.raises(UserError, match="owner/name cannot be fetched .* ReadTimeout"):
        hub.fetch("owner/name")


def test_the_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"pip install 'lightbsr-jax\[hub\]'"):
        Upscaler.from_pretrained("owner/name")
