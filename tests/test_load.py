"""Every kind of source through every door: one meaning of `--weights`."""

import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from helpers.commands import call
from helpers.reference_weights import reference_tensors, save
from PIL import Image

import lightbsr_jax.evaluation.run as evaluation
from configs import benchmark
from lightbsr_jax import cli
from lightbsr_jax.errors import UserError
from lightbsr_jax.imaging import files
from lightbsr_jax.inference.upscaler import Upscaler
from lightbsr_jax.interop import convert
from lightbsr_jax.models import load, packed, torch_files
from lightbsr_jax.models.model import Model

BASIS = np.random.default_rng(0).standard_normal((441, 15)).astype(np.float32)
KINDS = ("name", "packed", "workdir", "safetensors", "pt", "pth")
IMAGE = np.random.default_rng(1).integers(256, size=(6, 7, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny student of setting 2 in all forms, and a teacher's state dict."""
    folder = tmp_path_factory.mktemp("sources")
    tensors = reference_tensors(scale=2)
    save(folder / "x.safetensors", tensors)
    save(folder / "teacher.safetensors", reference_tensors(channels=18))
    torch_files.write_basis(folder / "PCA_matrix.mat", BASIS)
    convert.to_workdir(folder / "x.safetensors", folder / "run", setting=2)
    (folder / "weights").mkdir()
    for name in ("weights/small", "packed"):
        cli.main(["pack", str(folder / "run"), str(folder / f"{name}.safetensors")])
    try:
        for suffix in (".pt", ".pth"):
            torch_files.write(folder / f"x{suffix}", tensors)
    except UserError:  # where PyTorch is not installed
        pass
    return folder


@pytest.fixture
def source(
    request: pytest.FixtureRequest, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> str:
    """A source as a user names it."""
    monkeypatch.setattr(packed, "FOLDER", folder / "weights")
    if request.param in ("pt", "pth"):
        pytest.importorskip("torch")
    named = {"name": "small", "workdir": folder / "run"}
    named["packed"] = folder / "packed.safetensors"
    return str(named.get(request.param, folder / f"x.{request.param}"))


every_kind = pytest.mark.parametrize("source", KINDS, indirect=True)


@pytest.fixture(scope="module")
def trained(folder: Path) -> Model:
    return Model.load(folder / "run")


def assert_same(model: Model, trained: Model) -> None:
    assert model.spec == trained.spec
    ours, theirs = jax.tree.leaves(model), jax.tree.leaves(trained)
    for x, y in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(x, y)


@every_kind
def test_in_python(source: str, trained: Model) -> None:
    for given in (source, Path(source)):
        assert_same(Model.load(given), trained)
        assert Upscaler.load(given).scale == 2


@every_kind
def test_on_the_command_line(source: str, trained: Model, tmp_path: Path) -> None:
    files.write_png(tmp_path / "in.png", IMAGE)
    option = "--workdir" if Path(source).is_dir() else "--weights"
    arguments = ["upscale", str(tmp_path / "in.png"), "-o", str(tmp_path / "out.png")]
    # Else a processor that multiplies in bfloat16 would do so.
    cli.main([*arguments, f"{option}={source}", "--precision=float32"])
    expected = Upscaler(trained)(IMAGE)
    assert len(np.unique(expected)) > 20  # other weights would show
    np.testing.assert_array_equal(Image.open(tmp_path / "out.png"), expected)


@pytest.mark.parametrize("source", ["name", "safetensors"], indirect=True)
def test_in_evaluation(source: str, tmp_path: Path) -> None:
    """A state dict's setting is what the config measures; others tell their own."""
    hr = np.random.default_rng(2).integers(256, size=(16, 16, 3), dtype=np.uint8)
    (tmp_path / "Set1").mkdir()
    files.write_png(tmp_path / "Set1" / "a.png", hr)
    config = benchmark.get_config("setting2")
    with config.unlocked():
        config.kernels, config.noise_levels = ((2.0, 1.0, 10.0),), (5.0,)
    said: list[str] = []
    evaluation.run(
        config, sources=[source], folders=[str(tmp_path / "Set1")], say=said.append
    )
    assert "**LightBSR**" in said[0]


def test_evaluation_takes_a_state_dict_in_any_setting(folder: Path) -> None:
    for setting in (1, 2):
        model = load.load(folder / "x.safetensors", setting=setting)
        assert model.setting == setting
    assert load.load(folder / "run", setting=1).setting == 2  # which tells its own


@pytest.mark.parametrize(
    ("wrapped", "prefix"),
    [("params_ema", ""), ("params", "module.")],
)
def test_wrappers(
    wrapped: str, prefix: str, folder: Path, trained: Model, tmp_path
) -> None:
    torch = pytest.importorskip("torch")
    tensors = torch_files.read(folder / "x.safetensors")
    named = {prefix + n: torch.from_numpy(x.copy()) for n, x in tensors.items()}
    content: Any = {wrapped: named}
    if wrapped == "params_ema":  # which goes before the parameters of the last step
        zeros = {name: torch.zeros_like(x) for name, x in content[wrapped].items()}
        content = {"params": zeros, **content}
    torch.save(content, tmp_path / "wrapped.pth")
    assert_same(Model.load(tmp_path / "wrapped.pth"), trained)


def test_the_average_goes_first_in_safetensors_too(
    folder: Path, trained: Model, tmp_path: Path
) -> None:
    tensors = torch_files.read(folder / "x.safetensors")
    both = {f"params.{name}": np.zeros_like(x) for name, x in tensors.items()}
    both |= {f"params_ema.{name}": x for name, x in tensors.items()}
    save(tmp_path / "both.safetensors", both)
    assert_same(Model.load(tmp_path / "both.safetensors"), trained)


def test_a_teacher_is_refused_for_pictures_by_name(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    file = folder / "teacher.safetensors"
    message = "teacher.safetensors is a teacher, which needs .* give its student"
    with pytest.raises(UserError, match=message):
        Upscaler.load(file)
    with pytest.raises(UserError, match="works only with the basis .*--pca"):
        Model.load(file)
    weights = load.read(file)  # to start from, it is good enough
    assert (weights.spec.role, weights.spec.setting, weights.basis) == (
        *("teacher", 2),
        None,
    )
    convert.to_workdir(file, tmp_path / "run", basis_file=folder / "PCA_matrix.mat")
    model = Model.load(tmp_path / "run")
    assert model.role == "teacher"
    np.testing.assert_array_equal(model.basis, BASIS)
    with pytest.raises(UserError, match="run is a teacher, which needs"):
        Upscaler.load(tmp_path / "run")
    run = str(tmp_path / "run")
    for arguments in (
        ["upscale", "scikit-image:test", "-o", str(tmp_path / "out"), "--workdir", run],
        ["export", run, str(tmp_path / "x.onnx")],
    ):
        with pytest.raises(SystemExit) as caught:
            cli.main(arguments)
        assert caught.value.code == 2
        assert "run is a teacher, which needs" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["state dict", "packed"])
def test_weights_that_are_not_finite_are_refused(
    kind: str, folder: Path, tmp_path: Path
) -> None:
    """They would turn every picture into garbage. (Workdirs: test_weights.py.)"""
    source = tmp_path / "spoilt.safetensors"
    if kind == "packed":
        about, tree = packed.read(folder / "packed.safetensors")
        tree["params"]["restorer"]["head"]["bias"][1] = np.inf
        packed.write(source, about, tree, half=False)
    else:
        tensors = torch_files.read(folder / "x.safetensors")
        spoilt = np.full_like(tensors["G.head.0.bias"], np.nan)
        save(source, {**tensors, "G.head.0.bias": spoilt})
    message = (
        f"{source}: values that are not finite in 1 of the tensors, such as "
        "params/restorer/head/bias: name another checkpoint or file"
    )
    for door in (Model.load, Upscaler.load):
        with pytest.raises(UserError, match=re.escape(message)):
            door(source)


WRONG = [
    ({"config": None}, "its config is None"),
    ({"config": [1]}, r"its config is \[1\]"),
    ({"step": "10"}, "its step is '10'"),
    ({"step": None}, "its step is None"),
    ({"step": 1.5}, "its step is 1.5"),
    ({"step": -1}, "its step is -1"),
    ({"method": ["dasr"]}, r"method \['dasr'\] is unknown"),
    ({"role": {}}, "role {} is unknown"),
    ({"setting": [2]}, r"setting \[2\] is unknown"),
    ({"scale": "2"}, "scale '2' is unknown"),
    ({"scale": 2.0}, "scale 2.0 is unknown"),
    ({"prior": "yes"}, "prior 'yes' is neither true nor false"),
    ({"network": None}, "network None is not a group of sizes"),
    ({"network": [1]}, r"network \[1\] is not a group of sizes"),
    ({"network": {"groups": "1"}}, "network.groups '1' is not a whole number"),
    ({"network": {"groups": True}}, "network.groups True is not a whole number"),
    ({"network": {"groups": -1}}, "network.groups -1 is too small: at least 1"),
    ({"network": {"converter_blocks": 1}}, "converter_blocks 1 is neither true nor"),
]


@pytest.mark.parametrize(("wrong", "message"), WRONG)
def test_facts_of_a_wrong_type_are_named(
    wrong: dict[str, Any], message: str, folder: Path, tmp_path: Path
) -> None:
    """In files of lightbsr pack that were changed by hand."""
    about, tree = packed.read(folder / "packed.safetensors")
    if wrong.keys() <= {"config", "step"}:
        about |= wrong
    else:
        about["config"] |= wrong
    packed.write(tmp_path / "x.safetensors", about, tree, half=False)
    with pytest.raises(UserError, match=f"x.safetensors.*{message}"):
        Model.load(tmp_path / "x.safetensors")


def test_a_name_goes_before_a_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed, "FOLDER", folder / "weights")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small").mkdir()
    for named in ("small", Path("small")):
        assert Model.load(named).scale == 2
    for meant in (packed.folder("small"), tmp_path / "small"):
        with pytest.raises(FileNotFoundError, match="holds no checkpoints"):
            Model.load(meant)


def test_what_is_nowhere(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no weights 'setting9' come with this version"):
        Model.load("setting9")
    with pytest.raises(FileNotFoundError, match="nowhere holds no checkpoints"):
        Model.load(tmp_path / "nowhere")
    for suffix in (".pth", ".safetensors"):  # of a file, not of a run's folder
        with pytest.raises(UserError, match="nowhere.* and no file has that name"):
            Model.load(tmp_path / f"nowhere{suffix}")
    (tmp_path / "x.zip").touch()
    with pytest.raises(UserError, match="x.zip: the name must end in one of .pt, .pth"):
        Model.load(tmp_path / "x.zip")


@pytest.mark.slow
def test_eval_takes_a_state_dict(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`lightbsr eval --weights=x.safetensors`."""
    (tmp_path / "Set1").mkdir()
    files.write_png(
        tmp_path / "Set1" / "a.png", IMAGE[:4, :4].repeat(4, 0).repeat(4, 1)
    )
    monkeypatch.chdir(tmp_path)
    weights = f"--weights={folder / 'x.safetensors'}"
    call("eval", weights, "--benchmarks=Set1", "--config.sigmas=(2.4,)")
    printed = capsys.readouterr().out
    assert "**LightBSR**" in printed and "sigma 2.4" in printed


@pytest.mark.parametrize("verb", ["restore", "encode"])
def test_other_lr_images_are_refused(verb: str, trained: Model) -> None:
    pixels = np.full((1, 8, 8, 3), 200, np.uint8)
    with pytest.raises(UserError, match=r"type uint8: give floats in \[0, 1\]"):
        getattr(trained, verb)(pixels)
    for shape in ((8, 8, 3), (1, 8, 8, 4)):
        with pytest.raises(UserError, match=r"are \[.*8, .\]: give RGB \[B, h, w, 3\]"):
            getattr(trained, verb)(np.zeros(shape, np.float32))


def test_networks_are_told_apart(folder: Path, trained: Model) -> None:
    """By identity: arrays have no single truth value."""
    assert trained != Model.load(folder / "run") and trained in {trained}
