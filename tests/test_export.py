"""Exported networks against the network itself."""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.export
import numpy as np
import pytest
from helpers.goldens import initialise, random_like

from lightbsr_jax import cli
from lightbsr_jax.errors import Extra, UserError
from lightbsr_jax.interop import export, half, ncnn
from lightbsr_jax.methods.dasr.network import DASR
from lightbsr_jax.methods.kdsr.network import KDSR
from lightbsr_jax.methods.lightbsr.network import LightBSR
from lightbsr_jax.methods.network import BlindNetwork
from lightbsr_jax.models import load
from lightbsr_jax.models.model import Model
from lightbsr_jax.spec import ModelSpec


@pytest.fixture(scope="module")
def model() -> Model:
    """A random network in which every block, the IDR and the BatchNorms matter."""
    network = LightBSR(3, groups=2, blocks=2)
    rng = np.random.default_rng(0)

    def lively(path: tuple, leaf: jax.Array) -> np.ndarray:
        if path[-1].key in ("layer_scale", "var", "mean", "scale"):
            return rng.uniform(0.5, 1, leaf.shape).astype(np.float32)
        return np.array(leaf)

    variables = random_like(initialise(network, jax.random.key(0)), 0)
    variables = jax.tree_util.tree_map_with_path(lively, variables)
    return Model(
        ModelSpec.of_network(network, "student", 1), variables, np.zeros((441, 15))
    )


def weights_of(model: Model, about: dict | None) -> load.Weights:
    """The weights of the model as they are read; `about` is None in a state dict."""
    return load.Weights(model.spec, model.variables, model.basis, 0, about)


@pytest.mark.parametrize("suffix", [".onnx", ".stablehlo"])
def test_exported_network_is_the_network(
    model: Model, suffix: str, tmp_path: Path
) -> None:
    needed = {".onnx": ("onnx", "onnxruntime"), ".stablehlo": ("flatbuffers",)}
    for package in needed[suffix]:
        pytest.importorskip(package)
    path = tmp_path / f"network{suffix}"
    form = export.Form(batch=True, clipped=False)
    export.write(model, path, None, overwrite=False, form=form)
    # Any size, also one that 4 does not divide, and any batch. Values reach 3, so the
    # tolerance is some ten float32 roundings.
    lr = np.random.default_rng(1).uniform(size=(2, 11, 18, 3)).astype(np.float32)
    expected = np.asarray(model.restore(lr)) / 255
    np.testing.assert_allclose(export.run(path, lr), expected, atol=2e-5)
    assert export.run(path, lr[:1, :5, :7]).shape == (1, 15, 21, 3)

    with pytest.raises(UserError, match="exists: give another name"):
        export.write(model, path, None, overwrite=False)
    export.write(model, path, (11, 18), overwrite=True, form=form)
    np.testing.assert_allclose(export.run(path, lr), expected, atol=2e-5)
    with pytest.raises(Exception, match=r"7|18"):  # the runtime's own refusal
        export.run(path, lr[:1, :5, :7])


def peer(network: BlindNetwork, lr: np.ndarray) -> Model:
    """A random network of another method."""

    def visit_all(module: BlindNetwork, lr: jax.Array) -> jax.Array:
        module.project(module.encode(lr))
        return module(lr).sr

    fresh = partial(network.init, method=visit_all)
    variables = random_like(jax.eval_shape(fresh, jax.random.key(0), lr), 0)
    statistics = jax.tree.map(
        lambda x: np.abs(x) + 0.5, variables.get("batch_stats", {})
    )
    variables = {**variables, "batch_stats": statistics}
    role = "student" if isinstance(network, KDSR) else "network"
    spec = ModelSpec.of_network(network, role, 1)
    return Model(spec, variables, np.zeros((441, 15)))


@pytest.mark.parametrize("network", [KDSR(2, 8, 2, 2), KDSR(4, 8, 1, 1), DASR(3, 2, 1)])
def test_dynamic_kernels(network: BlindNetwork, tmp_path: Path) -> None:
    """Each image of a batch has its own."""
    pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    lr = np.random.default_rng(1).uniform(size=(2, 11, 18, 3)).astype(np.float32)
    lr[1] /= 4
    model = peer(network, lr)
    path = tmp_path / "network.onnx"
    form = export.Form(batch=True, clipped=False)
    export.write(model, path, None, overwrite=False, form=form)
    expected = np.asarray(model.restore(lr)) / 255
    found = export.run(path, lr)
    assert abs(found - expected).max() < 1e-5 * max(1, abs(expected).max())
    # The tolerance tells: with the other image's kernels the image is another.
    swapped = np.asarray(
        model.network.apply(
            model.variables, lr, model.encode(lr[::-1]), method="restore"
        ).sr
    )
    assert abs(swapped - expected).max() > 1e-2
    assert export.run(path, lr[:1, :5, :7]).shape[1:3] == (
        5 * network.scale,
        7 * network.scale,
    )
    check_split(model, tmp_path / "parts.onnx", lr)


@pytest.mark.parametrize("network", [None, KDSR(2, 8, 2, 2), DASR(3, 2, 1)])
@pytest.mark.parametrize("shape", [(2, 8, 12, 3), (2, 11, 18, 3)])
def test_ncnn_computes_the_network(
    network: BlindNetwork | None, shape: tuple[int, ...], model: Model, tmp_path: Path
) -> None:
    """Also at sizes that the estimator rounds up."""
    pytest.importorskip("ncnn")
    lr = np.random.default_rng(1).uniform(size=shape).astype(np.float32)
    lr[1] /= 4
    if network is not None:
        model = peer(network, lr)
    path = tmp_path / "network.param"
    export.write(model, path, None, overwrite=False)
    expected = np.asarray(model.restore(lr)) / 255
    assert expected.min() < 0.3 and expected.max() > 0.7
    found = export.run(path, lr)
    within = 1e-5 * max(1, abs(expected).max())
    np.testing.assert_allclose(found, expected.clip(0, 1), atol=within)
    (tmp_path / "network.param").unlink()
    with pytest.raises(UserError, match="network.bin exists"):
        export.write(model, path, None, overwrite=False)
    form = export.Form(half=True)
    export.write(model, path, None, overwrite=True, form=form)
    rounded = export.run(path, lr)
    assert 0 < abs(rounded - found).max() < 0.05


def test_every_blob_of_ncnn_has_one_reader(model: Model) -> None:
    layers, weights = ncnn.to_ncnn(model)
    number, counts, *lines = layers.splitlines()
    assert number == "7767517" and lines[0] == "Input data 0 1 data"
    made, taken, names = [], [], []
    for line in lines:
        _, name, inputs, outputs, *blobs = line.split()
        names.append(name)
        inputs, outputs = int(inputs), int(outputs)
        taken += blobs[:inputs]
        made += blobs[inputs : inputs + outputs]
    assert counts == f"{len(lines)} {len(made)}"
    assert len(set(made)) == len(made) and len(set(names)) == len(names)
    assert sorted([*taken, "output"]) == sorted(made)
    _, halved = ncnn.to_ncnn(model, half=True)
    assert 0.5 < len(halved) / len(weights) < 0.6


def test_numbers_of_ncnn_have_no_more_than_15_characters() -> None:
    """Older ncnn reads no more of a number, and takes the rest for another one."""
    graph = ncnn.NcnnGraph()
    graph.op("Mul", "input", graph.constant(np.float32(1 / 255)))
    _, text = graph.layers[-1].parameters.rsplit("=", 1)
    assert len(text) <= 15 and np.float32(text) == np.float32(1 / 255)


def check_split(model: Model, path: Path, lr: np.ndarray) -> None:
    """Checks both parts: the estimator's mean IDR, and what is restored by it."""
    form = export.Form(batch=True, clipped=False)
    parts = export.write_split(model, path, None, overwrite=False, form=form)
    images = np.moveaxis(lr, -1, 1)
    idr = export.run_onnx(parts[0], {"input": images})
    map_ = np.asarray(model.encode(lr))
    mean = map_.mean((1, 2), keepdims=True)
    assert idr.shape == (len(lr), map_.shape[-1], 1, 1)
    np.testing.assert_allclose(np.moveaxis(idr, 1, -1), mean, atol=1e-5, rtol=1e-5)
    found = export.run_onnx(parts[1], {"input": images, "idr": idr})
    everywhere = np.broadcast_to(mean, map_.shape)
    expected: Any = model.network.apply(
        model.variables, lr, everywhere, method="restore"
    )
    expected = np.asarray(expected.sr)
    found = np.moveaxis(found, 1, -1)
    assert abs(found - expected).max() < 1e-5 * max(1, abs(expected).max())
    other = export.run_onnx(parts[1], {"input": images, "idr": -20 * idr[::-1]})
    difference = abs(np.moveaxis(other, 1, -1) - expected).max()
    assert difference > 1e-3 * max(1, abs(expected).max())


def test_split_of_a_network_with_a_map(model: Model, tmp_path: Path) -> None:
    pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    lr = np.random.default_rng(1).uniform(size=(2, 11, 18, 3)).astype(np.float32)
    lr[1] /= 4
    check_split(model, tmp_path / "parts.onnx", lr)
    with pytest.raises(UserError, match="only ONNX can be split"):
        export.write_split(model, tmp_path / "x.stablehlo", None, overwrite=False)
    (tmp_path / "y-restorer.onnx").touch()
    with pytest.raises(UserError, match="y-restorer.onnx exists"):
        export.write_split(model, tmp_path / "y.onnx", None, overwrite=False)
    assert not (tmp_path / "y-estimator.onnx").exists()  # both or none


def test_file_for_any_program(model: Model) -> None:
    """Names, a batch of one, operators of OPSET, clipped values, metadata."""
    onnx = pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    content = export.to_onnx(model, None)
    file = onnx.load_from_string(content)
    shapes = {
        value.name: [
            d.dim_value or d.dim_param for d in value.type.tensor_type.shape.dim
        ]
        for value in (*file.graph.input, *file.graph.output)
    }
    assert shapes == {"input": [1, 3, "h", "w"], "output": [1, 3, "3 h", "3 w"]}
    assert [(x.domain, x.version) for x in file.opset_import] == [("", 11)]
    facts = {x.key: x.value for x in file.metadata_props}
    assert facts["scale"] == "3" and facts["color_order"] == "RGB"
    assert "license" not in facts
    session = runtime.InferenceSession(content)
    images = np.random.default_rng(0).uniform(-2, 3, size=(1, 3, 8, 9))
    (sr,) = session.run(None, {"input": images.astype(np.float32)})
    assert sr.min() == 0 and sr.max() == 1


def test_nodes_are_named_after_modules(model: Model) -> None:
    onnx = pytest.importorskip("onnx")
    graph = onnx.load_from_string(export.to_onnx(model, None)).graph
    names = [node.name for node in graph.node]
    assert len(set(names)) == len(names)
    block = [n for n in names if n.startswith("restorer/body/group_1/block_0/")]
    assert {n.rsplit("_", 1)[0].rsplit("/", 1)[1] for n in block} >= {"Conv", "Erf"}
    weights = [x.name for x in graph.initializer]
    assert any(n.startswith("restorer/body/group_0/convnext/kernel") for n in weights)


def test_what_cannot_be_exported_is_refused(model: Model, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="must end in one of .onnx, .param"):
        export.write(model, tmp_path / "x.pb", None, overwrite=False)
    teacher = Model(
        ModelSpec.of_network(model.network, "teacher", 1), model.variables, model.basis
    )
    with pytest.raises(UserError, match="export its student"):
        export.write(teacher, tmp_path / "x.onnx", None, overwrite=False)
    ablation = model.network.clone(converter_blocks=False)
    without = Model(
        ModelSpec.of_network(ablation, "student", 1), model.variables, model.basis
    )
    with pytest.raises(
        UserError, match="ablations can be exported to .stablehlo alone"
    ):
        export.write(without, tmp_path / "x.onnx", None, overwrite=False)


def test_command(
    model: Model,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("flatbuffers")
    monkeypatch.setattr(load, "read", lambda path: weights_of(model, {}))
    difference = export.difference
    monkeypatch.setattr(export, "difference", lambda *_: 1e-6)
    out = tmp_path / "x.stablehlo"
    cli.main(["export", "runs/student", str(out), "--size=18x11"])
    assert "differs from the network by at most 1.0e-06" in capsys.readouterr().out
    (lr,) = jax.export.deserialize(out.read_bytes()).in_avals
    assert lr.shape[1:] == (11, 18, 3)
    monkeypatch.setattr(export, "difference", difference)
    monkeypatch.setattr(ncnn, "EXTRA", Extra("of_nobody", "ncnn"))
    cli.main(["export", "runs/student", str(tmp_path / "x.param"), "--half"])
    printed = capsys.readouterr().out
    assert "not compared with the network: ncnn's files need the extra ncnn" in printed
    assert (tmp_path / "x.bin").stat().st_size > 1000
    with pytest.raises(SystemExit):
        cli.main(["export", "runs/student", str(tmp_path / "y.stablehlo"), "--split"])
    assert "--batch and --split are for ONNX" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["export", "runs/student", str(tmp_path / "y.stablehlo"), "--half"])
    assert "--half is for ONNX and ncnn" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["export", "runs/student", "y.param", "--size=18x11"])
    assert "leave out --size" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["export", "runs/student", str(out), "--size=18"])
    assert "--size=18: expected WIDTHxHEIGHT" in capsys.readouterr().err


def test_metadata_name_no_setting_that_is_not_known(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A student's state dict does not store its own."""
    onnx = pytest.importorskip("onnx")
    monkeypatch.setattr(export, "difference", lambda *_: 1e-6)
    for about, expected in ((None, None), ({}, "1")):
        weights = weights_of(model, about)
        monkeypatch.setattr(load, "read", lambda path, found=weights: found)
        out = str(tmp_path / "x.onnx")
        cli.main(["export", "x.pth", out, "--overwrite"])
        facts = {x.key: x.value for x in onnx.load(out).metadata_props}
        assert facts.get("setting") == expected


def test_half_is_half_the_size_and_close(tmp_path: Path) -> None:
    """Of a convolution by hand: float32 outside, float16 weights and maps inside."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(3, 3, 3, 3)).astype(np.float32) / 9
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("Conv", ["input", "w"], ["output"], pads=[1] * 4)],
            "one",
            [helper.make_tensor_value_info("input", kind, [1, 3, 8, 9])],
            [helper.make_tensor_value_info("output", kind, [1, 3, 8, 9])],
            [onnx.numpy_helper.from_array(weights, "w")],
        ),
        opset_imports=[helper.make_opsetid("", 11)],
        ir_version=6,
    )
    image = rng.uniform(size=(1, 3, 8, 9)).astype(np.float32)
    found = []
    for name in ("whole", "half"):
        if name == "half":
            half.convert(onnx, model)
        onnx.checker.check_model(model, full_check=True)
        (tmp_path / name).write_bytes(model.SerializeToString())
        found.append(export.run_onnx(tmp_path / name, {"input": image}))
    whole, rounded = found
    assert rounded.dtype == np.float32
    assert 0 < np.abs(rounded - whole).max() < 4e-3
    (stored,) = model.graph.initializer
    assert stored.data_type == onnx.TensorProto.FLOAT16
    kept = onnx.numpy_helper.to_array(stored)
    np.testing.assert_array_equal(kept, weights.astype(np.float16))
