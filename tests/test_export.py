"""Exported networks against the network itself."""

from pathlib import Path

import jax
import jax.export
import numpy as np
import pytest
from helpers.goldens import initialise

from lightbsr_jax import cli
from lightbsr_jax.errors import UserError
from lightbsr_jax.interop import export
from lightbsr_jax.methods.lightbsr.network import LightBSR
from lightbsr_jax.models.model import Model


@pytest.fixture(scope="module")
def model() -> Model:
    """A random network in which every block and the BatchNorms matter."""
    network = LightBSR(3, groups=2, blocks=2)
    rng = np.random.default_rng(0)

    def lively(path: tuple, leaf: jax.Array) -> np.ndarray:
        if path[-1].key in ("layer_scale", "var", "mean", "scale"):
            return rng.uniform(0.5, 1, leaf.shape).astype(np.float32)
        return np.array(leaf)

    variables = initialise(network, jax.random.key(0))
    variables = jax.tree_util.tree_map_with_path(lively, variables)
    return Model("student", 1, network, variables, np.zeros((441, 15)))


@pytest.mark.parametrize("suffix", export.SUFFIXES)
def test_exported_network_is_the_network(
    model: Model, suffix: str, tmp_path: Path
) -> None:
    needed = {".onnx": ("onnx", "onnxruntime"), ".stablehlo": ("flatbuffers",)}
    for package in needed[suffix]:
        pytest.importorskip(package)
    path = tmp_path / f"network{suffix}"
    export.write(model, path, None, overwrite=False)
    # Any size, also one that 4 does not divide, and any batch.
    lr = np.random.default_rng(1).uniform(size=(2, 11, 18, 3)).astype(np.float32)
    expected = np.asarray(model.restore(lr)) / 255
    np.testing.assert_allclose(export.run(path, lr), expected, atol=1e-5)
    assert export.run(path, lr[:1, :5, :7]).shape == (1, 15, 21, 3)

    with pytest.raises(UserError, match="exists: give another name"):
        export.write(model, path, None, overwrite=False)
    export.write(model, path, (11, 18), overwrite=True)
    np.testing.assert_allclose(export.run(path, lr), expected, atol=1e-5)
    with pytest.raises(Exception, match=r"7|18"):  # the runtime's own refusal
        export.run(path, lr[:1, :5, :7])


def test_what_cannot_be_exported_is_refused(model: Model, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="must end in one of .onnx, .stablehlo"):
        export.write(model, tmp_path / "x.pb", None, overwrite=False)
    teacher = Model("teacher", 1, model.network, model.variables, model.basis)
    with pytest.raises(UserError, match="export a student"):
        export.write(teacher, tmp_path / "x.onnx", None, overwrite=False)
    ablation = model.network.clone(converter_blocks=False)
    without = Model("student", 1, ablation, model.variables, model.basis)
    with pytest.raises(UserError, match="ablations have no ONNX form"):
        export.write(without, tmp_path / "x.onnx", None, overwrite=False)


def test_command(
    model: Model,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("flatbuffers")
    monkeypatch.setattr(cli, "_model", lambda path: model)
    monkeypatch.setattr(export, "difference", lambda *_: 1e-6)
    out = tmp_path / "x.stablehlo"
    cli.main(["export", "runs/student", str(out), "--size=18x11"])
    assert "differs from the network by at most 1.0e-06" in capsys.readouterr().out
    (lr,) = jax.export.deserialize(out.read_bytes()).in_avals
    assert lr.shape[1:] == (11, 18, 3)
    with pytest.raises(SystemExit):
        cli.main(["export", "runs/student", str(out), "--size=18"])
    assert "--size=18: expected WIDTHxHEIGHT" in capsys.readouterr().err
