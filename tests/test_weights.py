"""Weights of the PyTorch reference, into working directories and back.

The state dicts are made here from a literal list of the reference's names and shapes,
of networks far smaller than its own.
"""

import json
import re
import struct
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
import safetensors.numpy
import scipy.io
from helpers.goldens import initialise, random_like, variable_shapes
from helpers.reference_weights import (
    QUEUE_SIZE,
    Tensors,
    left_behind,
    reference_shapes,
    reference_tensors,
    save,
)

import lightbsr_jax
from lightbsr_jax import cli
from lightbsr_jax.errors import UserError
from lightbsr_jax.imaging.settings import SETTINGS
from lightbsr_jax.interop import convert
from lightbsr_jax.methods.lightbsr.network import LightBSR
from lightbsr_jax.models import state_dict, torch_files
from lightbsr_jax.models.checkpoint import Checkpoints
from lightbsr_jax.models.load import load, load_for_pictures, newest
from lightbsr_jax.models.model import Model
from lightbsr_jax.spec import ModelSpec
from lightbsr_jax.training.state import (
    TrainState,
    fresh_contrastive_state,
    fresh_optimizer,
    fresh_run,
)

BASIS = np.random.default_rng(0).standard_normal((441, 15)).astype(np.float32)


@pytest.fixture
def basis_file(tmp_path: Path) -> Path:
    scipy.io.savemat(tmp_path / "PCA_matrix.mat", {"p": BASIS})
    return tmp_path / "PCA_matrix.mat"


def assert_same_bytes(actual: Tensors, expected: Tensors) -> None:
    assert sorted(actual) == sorted(expected)
    for name, tensor in expected.items():
        assert actual[name].dtype == tensor.dtype, name
        assert actual[name].shape == tensor.shape, name
        assert actual[name].tobytes() == tensor.tobytes(), name


@pytest.mark.parametrize(
    ("groups", "blocks", "scale", "channels", "setting"),
    [(2, 1, 2, None, 2), (1, 2, 3, 15, 1), (1, 1, 4, 18, 2)],
)
def test_round_trip_is_exact(
    groups, blocks, scale, channels, setting, tmp_path, basis_file, caplog
) -> None:
    tensors = reference_tensors(groups, blocks, scale, channels)
    head = tensors["G.head.0.bias"]
    head[:4] = 1e-42, -0.0, np.inf, np.nan
    head.view(np.uint32)[4] = 0x7FC12345  # a NaN with a payload
    file = save(tmp_path / "model_700.safetensors", tensors)
    student = channels is None
    workdir = tmp_path / "new" / "workdir"
    what = convert.to_workdir(
        file,
        workdir,
        basis_file=basis_file,
        setting=None if channels == 15 else setting,
    )
    role = "student" if student else "teacher"
    words = "1 groups of 2 blocks" if blocks == 2 else f"{groups} groups of 1 blocks"
    assert str(what) == f"{role} of setting {setting}, x{scale}, {words}"
    assert "not finite in 1 of the tensors (G.head.0.bias)" in caplog.text

    with pytest.raises(UserError, match="such as params/.*/head/bias: name another"):
        load(workdir)
    step, about, restored = newest(workdir)
    spec = ModelSpec.from_config(about["config"])
    assert (spec.role, spec.setting, spec.scale) == (role, setting, scale)
    network = spec.make_network()
    assert (network.groups, network.blocks) == (groups, blocks)
    assert step == 0
    np.testing.assert_array_equal(restored["basis"], BASIS)
    assert json.loads((workdir / "config.json").read_text())["role"] == role

    back = tmp_path / "back.safetensors"
    assert convert.to_file(workdir, back, basis_file=tmp_path / "p.mat") == what
    assert_same_bytes(safetensors.numpy.load_file(back), tensors)
    written = scipy.io.loadmat(tmp_path / "p.mat")["p"]
    assert (written.dtype, written.tolist()) == (np.float32, BASIS.tolist())


def test_loaded_network_has_the_weights(tmp_path) -> None:
    tensors = reference_tensors(blocks=2)
    file = save(tmp_path / "s.safetensors", tensors)
    convert.to_workdir(file, tmp_path / "workdir", setting=1)
    model = Model.load(tmp_path / "workdir")
    params = model.variables["params"]
    np.testing.assert_array_equal(
        params["estimator"]["conv_3"]["kernel"],
        tensors["E.E.9.weight"].transpose(2, 3, 1, 0),
    )
    blocks = params["restorer"]["body"]["groups"]["blocks"]
    np.testing.assert_array_equal(
        blocks["channel"]["weight"]["kernel"][0, 1],
        tensors["G.body.0.body.1.spatial_mixing.loc.avgafter.2.weight"].T,
    )
    np.testing.assert_array_equal(model.basis, np.zeros((441, 15)))
    assert model.restore(jnp.zeros((1, 5, 6, 3))).shape == (1, 20, 24, 3)
    without = load(file, setting=1)
    jax.tree.map(np.testing.assert_array_equal, without.variables, model.variables)
    assert without.spec == model.spec


@pytest.mark.parametrize("channels", [15, 18])  # of settings 1 and 2
def test_a_teacher_is_not_loaded_for_pictures(channels: int, tmp_path) -> None:
    teacher = reference_tensors(channels=channels)
    with pytest.raises(UserError, match="is a teacher, .* give its student"):
        load_for_pictures(save(tmp_path / "model.safetensors", teacher))


def test_student_without_a_basis_exports_none(tmp_path) -> None:
    file = save(tmp_path / "s.safetensors", reference_tensors())
    convert.to_workdir(file, tmp_path / "workdir", setting=1)
    with pytest.raises(UserError, match="without a basis: leave --pca out"):
        convert.to_file(
            tmp_path / "workdir",
            tmp_path / "b.safetensors",
            basis_file=tmp_path / "p.mat",
        )
    assert left_behind(tmp_path) == ["s.safetensors", "workdir"]


def test_source_is_on_record(tmp_path) -> None:
    file = save(tmp_path / "s.safetensors", reference_tensors())
    convert.to_workdir(file, tmp_path / "workdir", setting=1)
    about = tmp_path / "workdir" / "checkpoints" / "0" / "about" / "metadata"
    source = json.loads(about.read_text())["source"]
    assert list(source) == [str(file)]
    assert re.fullmatch("[0-9a-f]{64}", source[str(file)])


@pytest.mark.parametrize(
    "prefix", ["module.", "model.", "model.module.", "_orig_mod.", "module._orig_mod."]
)
def test_prefixes_of_wrappers_are_cut(prefix: str, tmp_path) -> None:
    tensors = reference_tensors()
    file = {prefix + name: tensor for name, tensor in tensors.items()}
    read = torch_files.read(save(tmp_path / "wrapped.safetensors", file))
    assert_same_bytes(read, tensors)


@pytest.mark.parametrize("kind", [np.float16, np.float64, ml_dtypes.bfloat16])
def test_numbers_of_other_widths_are_read(kind: type, tmp_path: Path) -> None:
    tensors = reference_tensors()
    stored = {
        name: tensor.astype(kind) if tensor.dtype == np.float32 else tensor
        for name, tensor in tensors.items()
    }
    # By hand: NumPy has no bfloat16, and safetensors.numpy does not write it.
    kinds = {"float16": "F16", "float64": "F64", "bfloat16": "BF16", "int64": "I64"}
    header, data = {}, b""
    for name, t in stored.items():
        offsets = [len(data), len(data) + t.nbytes]
        kind_name = kinds[str(t.dtype)]
        header[name] = {"dtype": kind_name, "shape": t.shape, "data_offsets": offsets}
        data += t.tobytes()
    text = json.dumps(header).encode()
    file = tmp_path / "x.safetensors"
    file.write_bytes(struct.pack("<Q", len(text)) + text + data)
    read = torch_files.read(file)
    assert {str(t.dtype) for t in read.values()} <= {"float32", "int64"}
    expected = {
        name: t.astype(np.float32) if t.dtype == kind else t
        for name, t in stored.items()
    }
    assert_same_bytes(read, expected)


@pytest.mark.parametrize("wrapper", ["params", "params_ema", "net", "state_dict"])
def test_what_programs_wrap_a_state_dict_in(wrapper: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    tensors = reference_tensors()
    inner = {name: torch.from_numpy(t.copy()) for name, t in tensors.items()}
    whole = {wrapper: inner, "iter": 5}
    if wrapper == "params_ema":  # beside the weights that it is the mean of
        whole = {"params": {n: 0 * t for n, t in inner.items()}} | whole
    torch.save(whole, tmp_path / "x.pth")
    assert_same_bytes(torch_files.read(tmp_path / "x.pth"), tensors)
    half = {n: t.bfloat16() if t.is_floating_point() else t for n, t in inner.items()}
    torch.save({wrapper: half}, tmp_path / "half.pth")
    read = torch_files.read(tmp_path / "half.pth")
    for name, tensor in tensors.items():
        np.testing.assert_allclose(read[name], tensor, rtol=0.01)


def test_counts_of_batches_may_be_missing(tmp_path: Path) -> None:
    tensors = reference_tensors()
    counts = [name for name in tensors if name.endswith("num_batches_tracked")]
    assert counts
    for name in counts:
        del tensors[name]
    run = state_dict.infer("file", tensors, 1)
    assert state_dict.from_tensors("file", tensors, run).counts == dict.fromkeys(
        counts, 0
    )


def test_a_name_alone_makes_no_large_network(tmp_path: Path) -> None:
    """177 bytes asked for 8.6 GB."""
    tensors = {"G.body.1000000.body.0.spatial_mixing.x": np.zeros(1, np.float32)}
    tensors["E.x"] = np.zeros(1, np.float32)
    file = save(tmp_path / "x.safetensors", tensors)
    with pytest.raises(UserError, match="is not a network of the published"):
        load(file)
    tensors = reference_tensors() | tensors
    tensors["G.body." + "9" * 5000 + ".body.0.spatial_mixing.x"] = tensors["E.x"]
    run = state_dict.infer("file", tensors, 1)
    assert run.model.network["groups"] <= len(tensors)


def test_damaged_file_is_refused_with_its_names(tmp_path) -> None:
    tensors = reference_tensors(groups=2)
    del tensors["G.body.0.body.2.bias"]
    for name in [name for name in tensors if name.startswith("G.body.1.body.0.")]:
        if "spatial_mixing" not in name:
            del tensors[name]
    tensors["E.more"] = np.zeros(1, np.float32)
    tensors["E.E.0.weight"] = np.zeros((32, 4, 3, 3), np.float32)
    tensors["G.tail.1.bias"] = tensors["G.tail.1.bias"].astype(np.int32)
    file = save(tmp_path / "damaged.safetensors", tensors)
    with pytest.raises(UserError) as caught:
        convert.to_workdir(file, tmp_path / "workdir", setting=1)
    message = str(caught.value)
    assert message.startswith(
        f"{file} looks like a student of setting 1, x4, 2 groups of 1 blocks, but "
        "does not match one: "
    )
    # The convolution of group 0, and of block 0 in group 1: depthwise, norm, both
    # pointwise layers and the layer scale.
    assert (
        "10 missing (G.body.0.body.2.bias, G.body.1.body.0.dwconv.bias, "
        "G.body.1.body.0.dwconv.weight, ...); 1 unexpected (E.more); 2 misshapen "
        "(E.E.0.weight float32 (32, 4, 3, 3), expected float32 (32, 3, 3, 3), "
        "G.tail.1.bias int32 (3,), expected float32 (3,))" in message
    )
    assert left_behind(tmp_path) == ["damaged.safetensors"]


@pytest.mark.parametrize(
    ("gone", "listed"),
    [
        ("E.encoder_k", "E.encoder_k.E.0.bias"),
        ("E.queue", "2 missing (E.queue, E.queue_ptr)"),
        ("E.encoder_q.E.0.weight", "1 missing (E.encoder_q.E.0.weight)"),
        ("G.tail.0.0", "2 missing (G.tail.0.0.bias, G.tail.0.0.weight)"),
    ],
)
def test_what_the_kind_is_read_from_may_be_missing(gone, listed) -> None:
    tensors = {
        name: tensor
        for name, tensor in reference_tensors(channels=15).items()
        if not name.startswith(gone)
    }
    run = state_dict.infer("file", tensors)
    with pytest.raises(UserError, match=re.escape(listed)):
        state_dict.from_tensors("file", tensors, run)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("E.queue_ptr", [24], "E.queue_ptr is 24, not in 0..23"),
        ("E.queue_ptr", [-1], "E.queue_ptr is -1, not in 0..23"),
        ("G.add_mean.bias", [0, 0, 0], "G.add_mean.bias is not the fixed [0.4"),
        ("E.queue", [[0.0]], "E.queue float32 (1, 1), expected float32 (128, 1)"),
    ],
)
def test_values_that_no_such_network_has(name, value, message) -> None:
    tensors = reference_tensors(channels=15)
    tensors[name] = np.array(value, tensors[name].dtype)
    with pytest.raises(UserError, match=re.escape(message)):
        state_dict.from_tensors("file", tensors, state_dict.infer("file", tensors))


def test_weights_that_went_through_float16_are_accepted() -> None:
    """With all tensors, also BatchNorm's counts, which are beyond its range here."""
    with np.errstate(over="ignore"):
        tensors = {
            name: tensor.astype(np.float16).astype(np.float32)
            for name, tensor in reference_tensors().items()
        }
    found = state_dict.from_tensors(
        "file", tensors, state_dict.infer("file", tensors, 1)
    )
    assert set(found.counts.values()) == {0}


def test_setting_is_given_where_it_is_not_told() -> None:
    student, teacher = reference_tensors(), reference_tensors(channels=15)
    with pytest.raises(UserError, match="file is a student.* give --setting=1"):
        state_dict.infer("file", student)
    with pytest.raises(UserError, match="teacher of setting 1, not 2: correct --set"):
        state_dict.infer("file", teacher, 2)
    assert state_dict.infer("file", teacher, 1) == state_dict.infer("file", teacher)


def test_a_prior_that_fits_two_settings_needs_the_setting() -> None:
    """Real-world settings have the same prior: no teacher is silently of the first."""
    channels = SETTINGS["real"].prior_channels
    assert channels == SETTINGS["photo"].prior_channels
    teacher = reference_tensors(channels=channels)
    for given in ("real", "photo"):
        assert state_dict.infer("file", teacher, given).model.setting == given
    with pytest.raises(UserError, match="give --setting=real .* or --setting=photo"):
        state_dict.infer("file", teacher)
    with pytest.raises(UserError, match="teacher of setting real or photo, not 1"):
        state_dict.infer("file", teacher, 1)
    run = state_dict.infer("file", teacher, otherwise=2)
    assert run.model.setting == "real"  # as the tensors' shapes require


def test_teacher_needs_its_basis(tmp_path) -> None:
    file = save(tmp_path / "t.safetensors", reference_tensors(channels=15))
    with pytest.raises(UserError, match="only with the basis.* as --pca"):
        convert.to_workdir(file, tmp_path / "workdir")
    assert left_behind(tmp_path) == ["t.safetensors"]


def test_another_networks_file_is_refused(tmp_path) -> None:
    file = save(tmp_path / "o.safetensors", {"conv.weight": np.zeros(3, np.float32)})
    with pytest.raises(UserError, match="is not a network of the.*, but conv.weight"):
        convert.to_workdir(file, tmp_path / "workdir", setting=1)


def test_nothing_is_written_over(tmp_path) -> None:
    file = save(tmp_path / "s.safetensors", reference_tensors())
    workdir = tmp_path / "workdir"
    workdir.mkdir()
    (workdir / "notes").touch()
    for taken in (workdir, file):
        with pytest.raises(UserError, match="is not an empty folder: give a new one"):
            convert.to_workdir(file, taken, setting=1)
    (workdir / "notes").unlink()
    convert.to_workdir(file, workdir, setting=1)  # an empty folder will do

    before = file.read_bytes()
    with pytest.raises(UserError, match="s.safetensors exists: .* or --overwrite"):
        convert.to_file(workdir, file)
    assert file.read_bytes() == before
    file.write_bytes(b"old")
    convert.to_file(workdir, file, overwrite=True)
    assert_same_bytes(torch_files.read(file), reference_tensors())
    assert left_behind(tmp_path) == ["s.safetensors", "workdir"]


def test_failure_while_writing_leaves_nothing(tmp_path, monkeypatch) -> None:
    file = save(tmp_path / "s.safetensors", reference_tensors())

    def full(*_: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(Checkpoints, "save", full)
    with pytest.raises(OSError, match="No space left"):
        convert.to_workdir(file, tmp_path / "workdir", setting=1)
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        torch_files.write(tmp_path / "out.safetensors", reference_tensors())
    assert left_behind(tmp_path) == ["s.safetensors"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model.bin", b"", "the name must end in one of .pt, .pth, .safetensors"),
        ("empty.safetensors", b"", "cannot be read: SafetensorError"),
        ("text.safetensors", b"not tensors, but text", "cannot be read"),
        ("none.safetensors", safetensors.numpy.save({}), "holds no state dict"),
    ],
)
def test_unreadable_weights(name, content, message, tmp_path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name}:? .*{message}|{message}"):
        torch_files.read(tmp_path / name)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"q": BASIS}, "holds no variable p \\(it holds: q\\)"),
        ({"p": BASIS.T}, "p is float32 \\(15, 441\\), but"),
        ({"p": BASIS.astype(np.int32)}, "p is int32 \\(441, 15\\), but"),
        ({"p": BASIS * np.inf}, "p holds values that are not finite"),
    ],
)
def test_wrong_basis(variables, message, tmp_path) -> None:
    scipy.io.savemat(tmp_path / "p.mat", variables)
    with pytest.raises(UserError, match=message):
        torch_files.read_basis(tmp_path / "p.mat")


def test_damaged_basis(basis_file) -> None:
    basis_file.write_bytes(basis_file.read_bytes()[:2000])
    with pytest.raises(UserError, match="PCA_matrix.mat cannot be read"):
        torch_files.read_basis(basis_file)


def test_our_own_teacher_in_the_references_names(tmp_path, caplog) -> None:
    """Momentum branch, queue and counters out of a training state."""
    network = LightBSR(2, groups=1, blocks=1)
    optimizer = optax.scale_by_adam()

    def fresh(key: jax.Array) -> Any:
        variables = initialise(network, key, prior_channels=18)
        return fresh_contrastive_state(variables, optimizer, key, queue_size=QUEUE_SIZE)

    state = random_like(jax.eval_shape(fresh, jax.random.key(0)), seed=3)
    state = state.replace(step=jnp.int32(7), queue_pointer=jnp.int32(8))
    checkpoints = Checkpoints(tmp_path / "run")
    config = {
        "role": "teacher",
        "setting": 2,
        "scale": 2,
        "network": {"groups": 1, "blocks": 1},
        "contrast": {"queue_size": QUEUE_SIZE, "crops": 4},
    }
    run = fresh_run(state, averaged=False).replace(skipped=jnp.int32(1))
    checkpoints.save(run, BASIS, {"config": config})
    checkpoints.close()
    convert.to_file(tmp_path / "run", tmp_path / "t.safetensors")
    assert "without --pca=FILE.mat" in caplog.text
    assert "cannot load these" in caplog.text
    assert "groups 1 for 8, blocks 1 for 8, queue_size 24 for 8192" in caplog.text

    tensors = torch_files.read(tmp_path / "t.safetensors")
    assert {name: tensor.shape for name, tensor in tensors.items()} == reference_shapes(
        groups=1, blocks=1, scale=2, channels=18
    )
    np.testing.assert_array_equal(tensors["E.queue"], np.asarray(state.queue).T)
    assert (tensors["E.queue_ptr"].tolist(), tensors["E.queue_ptr"].dtype) == ([8], int)
    for branch, params in (("q", state.params), ("k", state.momentum_params)):
        np.testing.assert_array_equal(
            tensors[f"E.encoder_{branch}.mlp.2.weight"],
            params["projector"]["output"]["kernel"].T,
        )
    # Six updates of seven were made, of four crops each; the principal branch sees
    # the first crop twice.
    assert tensors["E.encoder_q.E.16.num_batches_tracked"] == 6 * 5
    assert tensors["E.encoder_k.E.16.num_batches_tracked"] == 6 * 4


def test_our_own_student_counts_its_steps(tmp_path) -> None:
    network = LightBSR(3, groups=1, blocks=1)
    variables = random_like(variable_shapes(network), seed=4)
    state = TrainState(
        step=jnp.int32(7),
        opt_state=fresh_optimizer(optax.scale_by_adam(), variables["params"]),
        **variables,
    )
    config = {
        "role": "student",
        "setting": 1,
        "scale": 3,
        "network": {"groups": 1, "blocks": 1},
    }
    checkpoints = Checkpoints(tmp_path / "run")
    run = fresh_run(state, averaged=False).replace(skipped=jnp.int32(1))
    checkpoints.save(run, BASIS, {"config": config})
    checkpoints.close()
    convert.to_file(tmp_path / "run", tmp_path / "s.safetensors")
    tensors = torch_files.read(tmp_path / "s.safetensors")
    assert tensors.keys() == reference_shapes(1, 1, 3, None).keys()
    assert tensors["E.E.1.num_batches_tracked"] == 6
    out = str(tmp_path / "step.safetensors")
    cli.main(["convert", f"{tmp_path / 'run'}@7", out])
    assert_same_bytes(torch_files.read(out), tensors)
    with pytest.raises(UserError, match="no checkpoint of step 8, but of 7"):
        convert.to_file(f"{tmp_path / 'run'}@8", tmp_path / "x.safetensors")
    with pytest.raises(UserError, match=r"run has no best\.safetensors"):
        convert.to_file(f"{tmp_path / 'run'}@best", tmp_path / "x.safetensors")


def test_torch_is_asked_for_where_it_is_missing(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "model.pt").touch()
    with pytest.raises(UserError, match="require PyTorch, which is not installed: pip"):
        torch_files.read(tmp_path / "model.pt")
    with pytest.raises(UserError, match="or use a .safetensors file"):
        torch_files.write(tmp_path / "out.pth", {})


def test_torch_stays_optional() -> None:
    """Only the comparison with it imports it, and reading files when asked."""
    package = Path(lightbsr_jax.__file__).parent
    torch = re.compile(r"^(\s*)(?:import|from) torch\b", re.MULTILINE)
    importing = {
        path.relative_to(package).as_posix(): torch.findall(path.read_text())
        for path in package.rglob("*.py")
        if torch.search(path.read_text())
    }
    assert all(path.startswith(("parity/", "models/")) for path in importing)
    assert importing["models/torch_files.py"] == ["        "]  # inside a function


class TestTorchFiles:
    """Skipped where PyTorch is not installed."""

    @pytest.mark.parametrize("wrapper", [None, "model", "state_dict"])
    def test_round_trip_is_exact(self, wrapper, torch, tmp_path, basis_file) -> None:
        tensors = reference_tensors(channels=15)
        content: Any = {name: torch.tensor(t) for name, t in tensors.items()}
        if wrapper:
            content = {"epoch": 700, wrapper: content}
        torch.save(content, tmp_path / "model_700.pt")
        workdir = tmp_path / "workdir"
        convert.to_workdir(tmp_path / "model_700.pt", workdir, basis_file=basis_file)
        convert.to_file(workdir, tmp_path / "back.pth")
        back = torch.load(tmp_path / "back.pth", weights_only=True)
        assert_same_bytes({name: t.numpy() for name, t in back.items()}, tensors)

    def test_code_is_not_run(self, torch, tmp_path) -> None:
        class Harm:
            def __reduce__(self) -> Any:
                return Path.touch, (tmp_path / "harm",)

        torch.save({"G.head.0.weight": Harm()}, tmp_path / "model.pt")
        with pytest.raises(UserError, match="the safe loader refuses"):
            torch_files.read(tmp_path / "model.pt")
        assert left_behind(tmp_path) == ["model.pt"]

    def test_other_files(self, torch, tmp_path) -> None:
        file = tmp_path / "other.pt"
        optimizer = torch.optim.Adam([torch.zeros(3, requires_grad=True)])
        torch.save(optimizer.state_dict(), file)
        with pytest.raises(UserError, match="2 of 2 are not named .* the optimiser's"):
            torch_files.read(file)
        torch.save([1, 2], file)
        with pytest.raises(UserError, match="holds a list, not a state dict"):
            torch_files.read(file)
        torch.save({"a": torch.zeros(1000)}, file)
        file.write_bytes(file.read_bytes()[:2000])
        with pytest.raises(UserError, match="other.pt cannot be read: RuntimeError"):
            torch_files.read(file)
